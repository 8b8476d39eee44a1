"""How much of a vision transformer's output is left; outputs are :class:`..tasks.features.Seen`."""

import torch
from torch.nn import functional as F

from ..tasks.features import Seen

SALIENT = 0.5


def cosine(seen: Seen, base: Seen) -> float:
    """Mean cosine of the features of every token and those of the base, in [-1, 1]."""
    return float(F.cosine_similarity(seen.tokens.double(), base.tokens.double(), dim=-1).mean())


def saliency(seen: Seen, base: Seen) -> float:
    """Correlation of two saliency maps over their places, in [-1, 1]; 0 if one of them is flat."""
    both = torch.stack([seen.saliency.flatten(), base.saliency.flatten()]).double()
    centred = both - both.mean(1, keepdim=True)
    return float(F.cosine_similarity(centred[0], centred[1], dim=0))


def overlap(seen: Seen, base: Seen) -> float:
    """Intersection over union of what is more salient than one half, in [0, 1]; 1 if nothing is in either."""
    own, other = seen.saliency > SALIENT, base.saliency > SALIENT
    union = int((own | other).sum())
    return int((own & other).sum()) / union if union else 1.0
