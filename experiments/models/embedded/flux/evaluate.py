"""Stage ``evaluate`` of ``emoji-flux``: the measures of ``emoji``, on images with backgrounds.

No training image is ever seen twice on the same background. So every caption has a real image of its own, with the same emoji on
another background of the same kind and colour, and generated images are compared with those.
"""

from pathlib import Path
from typing import Any

from ....metrics import feature
from ... import identity, load_pipeline, task_of
from .. import measures
from ..generated import Generated
from ..instrument import instrument, refusal
from ..vae import split
from . import data, vae
from .scenes import Scene, real, scenes
from .transformer import GUIDANCE, STEPS_OF_AN_IMAGE

IMAGES, HELD_OUT = 500, 64
STUDY = ("prompts=emoji-flux-64", "merging.roles=null", "merging.proportional=true",
         f"steps={STEPS_OF_AN_IMAGE}", f"guidance={GUIDANCE}")  # fmt: skip


def evaluate(folder: Path, weights: Path) -> Path:
    """Measure everything, print it and write ``folder/evaluate/IDENTITY/measures.json``; returns its path.

    Args:
        folder: work folder of all stages, with the ``cutouts.pt`` of the stage ``data``.
        weights: the pipeline folder that is measured.
    """
    pipe, cutouts = load_pipeline(str(weights)), data.load(folder)
    out = folder / "evaluate" / identity(str(weights))
    generated = generated_by(pipe, weights, out)
    seen, unseen = scenes(data.pairs(), IMAGES, seed=0), scenes(data.pairs(held_out=True), HELD_OUT, seed=1)
    x, real_x = generated.features(samples(seen)), feature.features(real(cutouts, seen, seed=2))
    y, real_y = generated.features(samples(unseen)), feature.features(real(cutouts, unseen, seed=3))
    captions, held_out_captions = ([scene.foreground() for scene in each] for each in (seen, unseen))
    rows = measures.to_be_named(captions)
    shown = generated.images([samples(seen)[row] for row in rows])
    measures.name_sheet(out, shown, [str(seen[row]) for row in rows], measures.hundred(), columns=8)
    reason = refusal(pipe)
    found = {
        "model": identity(str(weights)),
        "seconds per image": generated.seconds("a noto apple on blue"),
        "vae psnr": vae.psnr_by_size(pipe.vae, vae.placed(cutouts.images[split(len(cutouts.names))[1]])),
        "seen": measures.quality(x, real_x) | measures.retrieval(x, captions, real_x, captions),
        "held out": measures.retrieval(y, held_out_captions, real_y, held_out_captions),
        "instrument": {"skipped": reason} if reason else instrument(out / "instrument", [f"model={weights}", *STUDY]),
    }
    return measures.write(out, found)


def samples(drawn: list[Scene]) -> list[tuple[str, int]]:
    """Caption and seed of every scene's image; the seeds differ, so that equal scenes have different images."""
    return [(str(scene), row) for row, scene in enumerate(drawn)]


def generated_by(pipe: Any, weights: Path, folder: Path) -> Generated:  # noqa: ANN401
    """The images of a pipeline in a folder, made as the model's own record says."""
    call = {"num_inference_steps": STEPS_OF_AN_IMAGE} | task_of(str(weights)).call.keywords(GUIDANCE)
    return Generated(
        folder, lambda prompts, random: pipe(prompts, generator=random, **call).images, (STEPS_OF_AN_IMAGE, GUIDANCE)
    )
