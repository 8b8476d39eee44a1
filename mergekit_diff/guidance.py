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
    """

    pipe: Any
    form: str
    shares: bool
    asked: bool

    @property
    def by_step(self) -> bool:
        """Whether all calls of a step share the first one's plan."""
        return self.form == "calls" and self._is_shared

    def rows(self, batch: int) -> tuple[int, int]:
        """The number of halves in a batch, 2 if they share a plan or else 1, and the index of the one that decides.

        Raises:
            ValueError: the user asked for it, and the number of rows is odd.
        """
        if self.form == "calls" or not self._is_shared:
            return 1, 0
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
