"""Stage ``evaluate`` of ``emoji-flux``: the measures of ``emoji``, on images with backgrounds.

No training image is ever seen twice on the same background. So every caption has a real image of its own, with the same emoji on
another background of the same kind and colour, and generated images are compared with those.
"""

from pathlib import Path

from ....metrics import feature
from ... import identity, load_pipeline
from .. import cutouts, measures
from ..autoencoder import split
from ..generated import Generated
from ..instrument import instrument, refusal
from ..scenes import numbered, scenes, seeded
from . import real, vae
from .transformer import ImageFlow

IMAGES, HELD_OUT = real.IMAGES, 64
STUDY = ("prompts=emoji-flux-64", "merging.roles=null", "merging.proportional=true",
         f"steps={ImageFlow.sampling_steps}", f"guidance={ImageFlow.guidance}")  # fmt: skip


def evaluate(folder: Path, weights: Path) -> Path:
    """Measure everything, print it and write ``folder/evaluate/IDENTITY/measures.json``; returns its path.

    Args:
        folder: work folder of all stages, with the ``cutouts.pt`` of the stage ``data``.
        weights: the pipeline folder that is measured.
    """
    pipe, emoji = load_pipeline(str(weights)), cutouts.load(folder)
    out = folder / "evaluate" / identity(str(weights))
    generated = Generated.by(pipe, str(weights), out, ImageFlow.sampling_steps, ImageFlow.guidance)
    seen = real.seen(IMAGES)
    unseen = scenes(cutouts.pairs(held_out=True), HELD_OUT, seeded(1))
    x, real_x = generated.features(numbered(seen)), feature.features(real.images(emoji, seen, seeded(2)))
    y, real_y = generated.features(numbered(unseen)), feature.features(real.images(emoji, unseen, seeded(3)))
    captions, held_out_captions = ([scene.foreground() for scene in each] for each in (seen, unseen))
    rows = measures.to_be_named(captions)
    shown = generated.images([numbered(seen)[row] for row in rows])
    measures.name_sheet(out, shown, [str(seen[row]) for row in rows], measures.hundred(), columns=8)
    reason = refusal(pipe)
    found = {
        "model": identity(str(weights)),
        "seconds per image": generated.seconds("a noto apple on blue"),
        "vae psnr": vae.psnr_by_size(pipe.vae, vae.placed(emoji.images[split(len(emoji.names))[1]])),
        "seen": measures.quality(x, real_x) | measures.retrieval(x, captions, real_x, captions),
        "held out": measures.retrieval(y, held_out_captions, real_y, held_out_captions),
        "instrument": {"skipped": reason} if reason else instrument(out / "instrument", [f"model={weights}", *STUDY]),
    }
    return measures.write(out, found)
