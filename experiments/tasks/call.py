"""How a pipeline is called where it differs from most: a record in the model's own folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..reading import read_json

FILE = "call.json"
PASSED = ("prompt", "num_inference_steps", "generator", "output_type", "callback_on_step_end")
"""What a task passes itself, so that no record may."""


@dataclass(frozen=True)
class Call:
    """What a model's pipeline takes besides what its task passes to every pipeline.

    Args:
        guidance: the argument that takes the scale of classifier-free guidance. A FluxPipeline has two: ``guidance_scale`` is an
            input of distilled models, ``true_cfg_scale`` is the scale itself.
        arguments: further arguments with their values, the same for every output.

    Raises:
        ValueError: an argument that the task passes itself.

    >>> Call("true_cfg_scale", {"negative_prompt": ""}).keywords(2.5)
    {'true_cfg_scale': 2.5, 'negative_prompt': ''}
    """

    guidance: str = "guidance_scale"
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in (self.guidance, *self.arguments):
            if name in PASSED:
                raise ValueError(f"expected arguments other than {', '.join(PASSED)} in {FILE}, got {name}")

    def keywords(self, guidance: float) -> dict[str, Any]:
        """The keyword arguments of one call with this scale of guidance."""
        return {self.guidance: guidance, **self.arguments}

    @classmethod
    def read(cls, folder: Path) -> "Call":
        """The record of a pipeline folder; where there is none, the model is called like most.

        Raises:
            ValueError: the file is not such a record; the message is one line.
        """
        path = folder / FILE
        if not path.is_file():
            return cls()
        try:
            record = read_json(path)
            return cls(str(record.pop("guidance", cls.guidance)), dict(record.pop("arguments", {})), **record)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"expected guidance and arguments of a call in {path}, got {' '.join(str(error).split())}") from None

    def write(self, folder: Path) -> None:
        """Write the record into a pipeline folder."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
