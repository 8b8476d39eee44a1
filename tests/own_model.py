"""Merge tokens in a model of one's own, with nothing installed but torch and einops. Run by test_core.py and .ci/run."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mergekit_diff import Site, merging, register_family


class Attention(nn.Module):
    """Self-attention with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.to_q(x), self.to_k(x), self.to_v(x))


class Block(nn.Module):
    """Attention and its residual path."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attn = Attention(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(x)


class OwnModel(nn.Module):
    """Two blocks over a line of tokens."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@register_family("OwnModel")
def sites(model):
    for i, block in enumerate(model.blocks):
        yield Site(name=f"blocks.{i}", block=block, roles={"self_attention": block.attn})


if __name__ == "__main__":
    model, x = OwnModel(), torch.randn(2, 64, 8)
    with torch.no_grad():
        base = model(x)
        with merging(model, "retom", ratio=0.5, strict=True) as session:
            merged = model(x)
        assert not torch.equal(merged, base) and torch.equal(model(x), base)
    print(session.report())
    assert session.report().granted == 0.5
