"""Which halves of guidance share a plan, however a denoiser gets them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Guidance:
    """Whether both halves of classifier-free guidance use the conditional one's plan.

    Args:
        pipe: a pipeline that may say, as ``do_classifier_free_guidance``, whether it guides.
        form: how the denoiser gets the halves, one of ``mergekit_diff.sites.GUIDANCE``.
        shares: whether ``share`` has "cfg".
        asked: whether the user said so. If it is only the strategy's default, it holds where the pipeline says that it guides.

    Raises:
        ValueError: the user asked for it, and the model knows no guidance.
    """

    pipe: Any
    form: str
    shares: bool
    asked: bool

    def __post_init__(self) -> None:
        if self.form == "none" and self.shares and self.asked:
            raise ValueError("share='cfg': expected a model that is guided, got one whose rows are images of their own")

    @property
    def by_step(self) -> bool:
        """Whether all calls of a step share the first one's plan."""
        return self.form == "calls" and self._is_shared

    def rows(self, batch: int) -> tuple[int, int]:
        """The number of parts of a batch that share a plan, and the index of the one that decides.

        They are the two halves, or three where perturbed attention guidance appends the conditional rows once more.

        Raises:
            ValueError: the user asked for it, and the number of rows is odd.
        """
        if self.form in ("calls", "none") or not self._is_shared:
            return 1, 0
        if getattr(self.pipe, "do_perturbed_attention_guidance", False):
            return (3, 1) if self.pipe.do_classifier_free_guidance else (2, 0)
        if batch % 2 and self.asked:
            raise ValueError(f"share='cfg': expected rows [uncond, cond], so an even batch; got {batch}")
        return (1, 0) if batch % 2 else (2, int(self.form == "uncond-cond"))

    def halves(self, batch: int) -> bool:
        """Whether this many rows are the two halves of guidance, shared or not."""
        guides = getattr(self.pipe, "do_classifier_free_guidance", self.asked and self.shares)
        return self.form != "calls" and bool(guides) and batch % 2 == 0

    @property
    def _is_shared(self) -> bool:
        return self.shares and bool(getattr(self.pipe, "do_classifier_free_guidance", self.asked))
