"""ReToM: a local representative for each window, as the paper has it and as its ideas do best."""

from dataclasses import dataclass

from torch import Tensor

from mergekit_diff.components import LayerContext
from mergekit_diff.plan import MergePlan
from mergekit_diff.registry import one_of, register

from .merging_in_windows import REPRESENTATIVES, MergingInWindows


@register("retom")
@dataclass(frozen=True)
class ReToM(MergingInWindows):
    """Merge into each window's token of highest mean similarity. ReToM (2025), arXiv 2507.12771.

    With D the representative and S the r_w tokens of the window most similar to it, the merged token is
    ``alpha * D + (1 - alpha) * mean(S)``. The paper gives neither window sizes nor alpha nor the cache period R. Where it is
    silent or has been read in two ways, there is a setting, and the default is the plainest reading.

    Args:
        representative: by mean similarity to the other tokens of the window, the "highest", the "lowest", or a random one of
            the "upper-half" (the ceil(k / 2) highest); or "random", as ``random-dest``. Each row of a batch, and so each half
            of guidance unless ``share="cfg"``, has its own, but for "random".
    """

    representative: str = "highest"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.representative, REPRESENTATIVES, "representative")

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """One representative a window, for (B, N, C) tokens."""
        return self.merge(x, ctx, self.representative)


@register("retom-paper")
@dataclass(frozen=True)
class PaperReToM(ReToM):
    """``retom`` as the paper describes it. ReToM (2025), arXiv 2507.12771.

    The token of highest mean similarity stands for a window, the same share of every window merges, each half of guidance
    chooses for itself, and a plan is kept for 20 steps. The settings are those of ``retom``.
    """

    refresh = 20
    share = ()

    rank: str = "window"
    representative: str = "highest"
