"""Language models that read."""

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image, ImageDraw, ImageFont

from .frames import Frames
from .reading import Reading, passage, read
from .record import record_of, with_record
from .task import ONCE, OnStepEnd, Task

WORST = 8.0
"""The loss of a token that is drawn black."""
SIDE, COLUMNS, LINE = 384, 16, 18


@dataclass(frozen=True)
class Text(Task):
    """Passages that a language model reads: the beginning in one call, whose keys and values merge, and then what follows.

    Outputs are :class:`.Reading`. A file shows every token that followed as a square, the darker the less it was expected, and
    below them the fact and how it was recalled; the numbers are in a chunk of text.
    """

    name = "text"
    noun = "reading"
    suffix = ".text.png"
    metrics = ("perplexity", "recall", "agreement", "cache")
    primary = "perplexity"
    defaults: ClassVar[Mapping[str, Any]] = {"prompts": "passages-12", "merging": {"roles": ["key_value"], "share": []}}
    fixed: ClassVar[Mapping[str, Any]] = ONCE
    about = "A language model keeps the keys and values of all tokens that it has read in a cache."

    def generate(
        self,
        pipe: Any,  # noqa: ANN401
        prompt: str,
        seed: int,
        *,
        steps: int = 1,
        guidance: float = 1.0,
        size: tuple[int, int] | tuple[None, None] = (None, None),
        frames: int | None = None,
        on_step_end: OnStepEnd | None = None,
    ) -> Reading:
        """One reading; it has no denoising steps, so that ``on_step_end`` is never called."""
        return read(pipe, prompt, seed)

    def check_prompt(self, prompt: str) -> None:
        """A prompt names a passage."""
        passage(prompt)

    def encode(self, output: Reading) -> bytes:
        """A PNG file."""
        return with_record(self.frames(output)[0], asdict(output))

    def read(self, path: Path) -> Reading:
        """What was measured."""
        return Reading(**record_of(path))

    def as_tensor(self, output: Reading) -> Reading:
        """Itself: no metric of texts takes a tensor."""
        return output

    def frames(self, output: Reading) -> Frames:
        """One image of ``SIDE`` pixels."""
        said = textwrap.wrap(output.fact, 46) + textwrap.wrap(f"recalled: {output.answer!r}", 46)
        image = Image.new("RGB", (SIDE, SIDE), "white")
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
        rows, top = -(-len(output.losses) // COLUMNS), SIDE - LINE * len(said) - 4
        width, height = SIDE / COLUMNS, top / rows
        for i, loss in enumerate(output.losses):
            grey = round(255 * (1 - min(loss, WORST) / WORST))
            y, x = divmod(i, COLUMNS)
            draw.rectangle((x * width, y * height, (x + 1) * width - 1, (y + 1) * height - 1), (grey, grey, grey), "lightgray")
        for i, line in enumerate(said):
            draw.text((4, top + LINE * i), line, "black", font)
        return [image]


TEXT = Text()
