"""Draw which tokens each strategy merges: one image a strategy, of the embedded model halfway through an image.

Run ``python docs/draw_strategies.py`` after adding a strategy; it writes docs/strategies/NAME.png for every registered one
that plans for images.
"""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mergekit_diff import LayerContext, MergePlan, merging
from mergekit_diff.experiments.models import load_pipeline
from mergekit_diff.experiments.report.merge_map import draw_map
from mergekit_diff.experiments.study.rehearsal import planning_for

PROMPT, STEPS, DRAWN, SEED = "a flat cat", 10, 5, 1
COLOURS = 96  # of the palette, so that the files stay small


def generate(pipe: Any) -> Image.Image:  # noqa: ANN401
    """The same image each time, but for what a session merges."""
    generator = torch.Generator().manual_seed(SEED)
    return pipe(PROMPT, num_inference_steps=STEPS, guidance_scale=2.0, generator=generator).images[0]


def plan_halfway(pipe: Any, strategy: str) -> dict[str, Any]:  # noqa: ANN401
    """Grid, assign and rep of the last site on the finest grid at step ``DRAWN``, of the row that has the prompt."""
    drawn: dict[str, Any] = {}

    def keep(x: Tensor, ctx: LayerContext, plan: MergePlan | None, made: bool) -> None:
        if ctx.step == DRAWN and ctx.level == 0 and plan is not None:
            drawn.update(grid=ctx.grid, assign=plan.assign[-1].tolist(), rep=plan.rep[-1].tolist())

    with merging(pipe, strategy, refresh=1) as session:
        session.observe(keep)
        generate(pipe)
    return drawn


def main() -> None:
    """Draw every strategy that plans for images over the image without merging."""
    pipe = load_pipeline("emoji", device="cpu")
    base = generate(pipe)
    for name in planning_for(2):
        image = draw_map(base, plan_halfway(pipe, name)).quantize(COLOURS)
        image.save(Path(__file__).parent / "strategies" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
