"""What the card of ``emoji-video`` needs to know besides its files."""

from pathlib import Path

from .. import bars
from ..card import Recipe
from .latents import COPIES
from .motions import FRAMES, MOTIONS
from .transformer import BATCH, name
from .vae import BATCH as OF_VAE

RECIPE = Recipe(
    template=Path(__file__).with_name("card.md"),
    stages={
        "vae": ("autoencoder", OF_VAE),
        name(1): ("transformer and text encoder, first frames as images", BATCH[1]),
        name(FRAMES): ("the same, videos, from the mean weights of the images", BATCH[FRAMES]),
    },
    bars=(
        bars.named("videos whose motion is named right from a list of 8", 16, 12),
        *bars.quality("500 frames of 100 videos"),
        bars.decibels("autoencoder, PSNR on held-out videos", lambda measures: measures["vae psnr"]),
        *bars.instrument(),
        bars.seconds("video", 30),
    ),
    facts={"motions": ", ".join(MOTIONS), "copies": str(COPIES)},
)
