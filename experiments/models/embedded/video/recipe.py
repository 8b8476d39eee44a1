"""The recipe of ``emoji-video``."""

from pathlib import Path

from .. import bars
from ..recipe import Recipe
from . import vae
from .evaluate import evaluate
from .motions import MOTIONS
from .transformer import VideoFlow

RECIPE = Recipe(
    name="emoji-video",
    size="frames",
    vae=vae.PHASE,
    train_vae=vae.train,
    flow=VideoFlow,
    evaluate=evaluate,
    template=Path(__file__).with_name("card.md"),
    bars=(
        bars.named("videos whose motion is named right from a list of 8", 16, 12),
        *bars.quality("500 frames of 100 videos"),
        bars.decibels("autoencoder, PSNR on held-out videos", lambda measures: measures["vae psnr"]),
        *bars.instrument(),
        bars.seconds("video", 30),
    ),
    facts={"motions": ", ".join(MOTIONS)},
)
