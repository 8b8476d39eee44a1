"""ReToM: a local representative for each window, as the paper has it and ranked over the grid."""

from dataclasses import dataclass

from torch import Tensor

from mergekit_diff.components import LayerContext
from mergekit_diff.plan import MergePlan
from mergekit_diff.registry import one_of, register

from .merging_in_windows import REPRESENTATIVES, MergingInWindows


@register("retom")
@dataclass(frozen=True)
class ReToM(MergingInWindows):
    """Merge into a representative of each window. After ReToM (2025), arXiv 2507.12771.

    The representative is a token of high mean similarity to its window; the tokens most similar to it merge into it. The paper
    takes the token of highest mean similarity, merges the same share of every window, and keeps a plan for 20 steps, which is
    ``retom-paper``. The defaults here stayed much closer to the base in the study ``retom-ingredients``;
    ``representative="random"`` was closer still.

    Args:
        representative: by mean similarity to the other tokens of the window, the "highest", the "lowest", or a random one of
            the "upper-half" (the ceil(k / 2) highest); or "random", as ``random-dest``. Each row of a batch has its own, but for
            "random"; with ``share="cfg"``, the default, both halves of guidance have the conditional one's.
    """

    share = ("cfg",)

    rank: str = "grid"
    representative: str = "upper-half"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.representative, REPRESENTATIVES, "representative")

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """One representative a window, for (B, N, C) tokens."""
        return self.merge(x, ctx, self.representative)


@register("retom-paper")
@dataclass(frozen=True)
class PaperReToM(ReToM):
    """Merge as ``retom``, the way the paper describes it. ReToM (2025), arXiv 2507.12771.

    The token of highest mean similarity stands for a window, the same share of every window merges, each half of guidance
    chooses for itself, and a plan is kept for 20 steps. The settings are those of ``retom``.
    """

    refresh = 20
    share = ()

    rank: str = "window"
    representative: str = "highest"
