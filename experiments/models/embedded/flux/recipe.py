"""What the card of ``emoji-flux`` needs to know besides its files."""

from pathlib import Path

from .. import bars
from ..card import Recipe
from ..vae import BATCH as OF_VAE
from .transformer import BATCH, name

RECIPE = Recipe(
    template=Path(__file__).with_name("card.md"),
    stages={
        "vae": ("autoencoder, from that of `emoji`", OF_VAE),
        name(256): ("transformer and text encoders, 64x64", BATCH[256]),
        name(1024): ("the same, 128x128, from the mean weights of 64x64", BATCH[1024]),
    },
    bars=(
        bars.named("images named right from a list of 100 concepts", 32, 24),
        *bars.quality("500"),
        bars.decibels("autoencoder, PSNR at 128x128 on held-out images", lambda measures: measures["vae psnr"]["128x128"]),
        *bars.instrument(),
        bars.seconds("image", 10),
    ),
)
