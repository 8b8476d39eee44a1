"""The recipe of ``emoji-flux``."""

from pathlib import Path

from .. import bars
from ..recipe import Recipe
from . import vae
from .evaluate import evaluate
from .transformer import ImageFlow

RECIPE = Recipe(
    name="emoji-flux",
    size="tokens",
    vae=vae.PHASE,
    train_vae=vae.train,
    flow=ImageFlow,
    evaluate=evaluate,
    template=Path(__file__).with_name("card.md"),
    bars=(
        bars.named("images named right from a list of 100 concepts", 32, 24),
        *bars.quality("500"),
        bars.decibels("autoencoder, PSNR at 128x128 on held-out images", lambda measures: measures["vae psnr"]["128x128"]),
        *bars.instrument(),
        bars.seconds("image", 10),
    ),
)
