"""What distinguishes the recipe of one embedded transformer model from that of another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .export import EMBEDDED
from .flow import Flow
from .phase import Phase

Measures = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """A requirement of a model.

    Args:
        measure: what is measured.
        n: on how many images or videos.
        read: reads the measures; returns the value as the card prints it, and whether the bar is met, None where it only reports.
        least: the requirement as the card prints it.
    """

    measure: str
    n: str
    read: Callable[[Measures], tuple[str, bool | None]]
    least: str = "reported"


@dataclass(frozen=True)
class Recipe:
    """The stages of a model, and what its card needs to know besides its files.

    Args:
        name: of the model and of its folder in the package.
        size: the command's option that chooses a phase of the transformer.
        vae: the training of the autoencoder.
        train_vae: trains it in a folder for a number of steps, at most a number of minutes.
        flow: the training of the transformer.
        evaluate: measures a pipeline folder, and writes the measures into the work folder.
        template: of the card, with ``$weights``, ``$styles``, ``$training`` and ``$measures``.
        bars: the requirements.
        facts: further placeholders of the template.
    """

    name: str
    size: str
    vae: Phase
    train_vae: Callable[[Path, int | None, float | None], Path | None]
    flow: type[Flow]
    evaluate: Callable[[Path, Path], Path]
    template: Path
    bars: tuple[Bar, ...]
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All trainings, in their order."""
        return (self.vae, *self.flow.phases.values())

    @property
    def model(self) -> Path:
        """The pipeline folder in the package."""
        return EMBEDDED / self.name
