"""The images of a run folder: whether a file is whole, and opening it with an error that names it."""

from pathlib import Path

from PIL import Image

BROKEN = (OSError, SyntaxError, ValueError)
"""What Pillow raises for a file that is cut off or is not an image: SyntaxError is a chunk with a wrong checksum."""


def is_whole(path: Path) -> bool:
    """Whether a PNG file is complete: the checksum of every chunk is right, up to the last chunk. Decodes no pixel."""
    try:
        with Image.open(path) as image:
            image.verify()
    except BROKEN:
        return False
    return True


def open_image(path: Path) -> Image.Image:
    """The decoded image of a run.

    Raises:
        ValueError: the file cannot be decoded; names it.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except BROKEN as error:
        raise ValueError(f"{path}: expected a whole image, got: {error}; the command of the run generates it again") from None
