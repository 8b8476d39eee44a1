"""A part of a model's training: what is trained, how long, and on which weights it builds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """One training with its own checkpoint and its own log.

    Args:
        name: of its checkpoint, its log and its sheets.
        what: is trained, as the model card says it.
        steps: total number of steps.
        batch: samples in a step.
        rate: peak learning rate.
        after: name of the phase whose mean weights it begins with; None begins with random or shipped ones.
    """

    name: str
    what: str
    steps: int
    batch: int
    rate: float
    after: str | None = None
