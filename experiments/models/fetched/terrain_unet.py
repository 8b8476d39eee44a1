"""The consistency U-Net of height maps in adaptive-terrain-diffusion, rebuilt as a plain module.

The layout is that of guided diffusion, Dhariwal and Nichol (2021), arXiv 2105.05233, preconditioned as by Karras et al. (2022),
arXiv 2206.00364; a consistency model, Song et al. (2023), arXiv 2303.01469. Names of parameters are those of the file.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS, HEAD = 32, 32
SIGMA_LEAST, SIGMA_DATA = 0.002, 0.5


@dataclass(frozen=True)
class Shape:
    """Sizes of the network.

    Args:
        channels: at the finest resolution; a multiple of 32.
        factors: of the channels, one for each resolution.
        blocks: residual blocks of a resolution.
        attention: the resolutions that have it, by number.
        embedding: channels of the embedding of noise and condition.
    """

    channels: int = 32
    factors: tuple[int, ...] = (1, 1, 2, 3, 4)
    blocks: int = 4
    attention: tuple[int, ...] = (2, 3, 4)
    embedding: int = 128


SHAPE = Shape()
"""Of the model in the package."""


class Residual(nn.Module):
    """Two convolutions whose scale and shift come from the embedding; it may halve or double the resolution.

    Args:
        before: channels of the input.
        after: channels of the output.
        embedding: channels of the embedding.
        resize: "down", "up" or "".
    """

    def __init__(self, before: int, after: int, embedding: int, resize: str = "") -> None:
        super().__init__()
        self.resize = resize
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * after))
        end = nn.Conv2d(after, after, 3, padding=1)
        self.out_layers = nn.Sequential(nn.GroupNorm(GROUPS, after), nn.SiLU(), nn.Identity(), end)
        self.skip_connection = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, C, h, w) to (B, D, h', w')."""
        h = self._resized(self.in_layers[:2](x))
        scale, shift = self.emb_layers(embedding)[..., None, None].chunk(2, 1)
        h = self.out_layers[0](self.in_layers[2](h)) * (1 + scale) + shift
        return self.skip_connection(self._resized(x)) + self.out_layers[1:](h)

    def _resized(self, x: Tensor) -> Tensor:
        if self.resize == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resize == "up" else x


class Attention(nn.Module):
    """Attention of tokens among each other, with heads of 32 channels.

    Args:
        channels: of a token.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv, self.proj_out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        return self.proj_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class AttentionBlock(nn.Module):
    """Attention over an image, beside which the image goes on.

    Args:
        channels: of the image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.GroupNorm(GROUPS, channels), Attention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attention(tokens).transpose(1, 2).unflatten(2, x.shape[2:])

    def normalized(self, tokens: Tensor) -> Tensor:
        """(B, N, C) tokens of an image to the input of the attention."""
        return self.norm(tokens.transpose(1, 2)).transpose(1, 2)


class Part(nn.Sequential):
    """Modules in a row, of which residual blocks also get the embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, C, h, w) to (B, D, h', w')."""
        for module in self:
            x = module(x, embedding) if isinstance(module, Residual) else module(x)
        return x


class TerrainUNet(nn.Module):
    """What is left of the noise of height maps.

    Args:
        shape: of the network.
    """

    def __init__(self, shape: Shape = SHAPE) -> None:
        super().__init__()
        self.shape, width = shape, shape.embedding
        self.time_embed = nn.Sequential(nn.Linear(shape.channels, width), nn.SiLU(), nn.Linear(width, width))
        self.label_emb = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        downs, passed = self._downs()
        middle = passed[-1]
        self.input_blocks = nn.ModuleList(downs)
        self.middle_block = Part(Residual(middle, middle, width), AttentionBlock(middle), Residual(middle, middle, width))
        self.output_blocks = nn.ModuleList(self._ups(passed))
        last = shape.channels * shape.factors[0]
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, last), nn.SiLU(), nn.Conv2d(last, 1, 3, padding=1))

    def forward(self, x: Tensor, timestep: Tensor, difficulty: Tensor) -> Tensor:
        """The output of the network.

        Args:
            x: (B, 1, h, w) noisy height maps, scaled to the variance of the data.
            timestep: (B) 250 times the logarithm of the noise.
            difficulty: (B) in [0, 1].
        """
        half = self.shape.channels // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=x.device) / half)
        angles = frequencies * timestep[:, None].float()
        waves = torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype)
        embedding = self.time_embed(waves) + self.label_emb(difficulty[:, None].to(x.dtype))
        passed = []
        for part in self.input_blocks:
            x = part(x, embedding)
            passed.append(x)
        x = self.middle_block(x, embedding)
        for part in self.output_blocks:
            x = part(torch.cat([x, passed.pop()], 1), embedding)
        return self.out(x)

    def denoise(self, x: Tensor, sigma: float, difficulty: Tensor) -> Tensor:
        """(B, 1, h, w) height maps in [-1, 1] from noisy ones, by the consistency function."""
        whole = SIGMA_DATA**2 / ((sigma - SIGMA_LEAST) ** 2 + SIGMA_DATA**2)
        scale = (sigma**2 + SIGMA_DATA**2) ** -0.5
        timestep = torch.full((len(x),), self.timestep(sigma), device=x.device)
        y = self(scale * x, timestep, difficulty)
        return (whole * x + (sigma - SIGMA_LEAST) * SIGMA_DATA * scale * y).clamp(-1, 1)

    @staticmethod
    def timestep(sigma: float) -> float:
        """What the network is called with at a level of noise."""
        return 250 * math.log(sigma)

    def parts(self) -> Iterator[tuple[str, int, str, Part]]:
        """Name, resolution, stage and part, in the order in which they run."""
        levels, level = len(self.shape.factors), 0
        part: Any
        for i, part in enumerate(self.input_blocks):
            level += part[0].resize == "down" if isinstance(part[0], Residual) else 0
            yield f"input_blocks.{i}", level, "down", part
        yield "middle_block", levels - 1, "mid", self.middle_block
        for i, part in enumerate(self.output_blocks):
            yield f"output_blocks.{i}", levels - 1 - i // (self.shape.blocks + 1), "up", part

    def norms(self) -> list[nn.GroupNorm]:
        """Every normalization, in the order in which they run."""
        parts = [module for *_, part in self.parts() for one in part for module in one.modules()]
        return [module for module in (*parts, *self.out) if isinstance(module, nn.GroupNorm)]

    def _downs(self) -> tuple[list[Part], list[int]]:
        """The way down, and the channels that each part of it passes on to the way up."""
        shape, channels = self.shape, self.shape.channels
        parts, passed = [Part(nn.Conv2d(1, channels, 3, padding=1))], [channels]
        for level, factor in enumerate(shape.factors):
            for _ in range(shape.blocks):
                parts.append(self._part(level, channels, channels := shape.channels * factor))
                passed.append(channels)
            if level + 1 < len(shape.factors):
                parts.append(Part(Residual(channels, channels, shape.embedding, "down")))
                passed.append(channels)
        return parts, passed

    def _ups(self, passed: list[int]) -> Iterator[Part]:
        shape, channels, passed = self.shape, passed[-1], passed.copy()
        for level, factor in reversed(list(enumerate(shape.factors))):
            for i in range(shape.blocks + 1):
                part = self._part(level, channels + passed.pop(), channels := shape.channels * factor)
                if level and i == shape.blocks:
                    part.append(Residual(channels, channels, shape.embedding, "up"))
                yield part

    def _part(self, level: int, before: int, after: int) -> Part:
        attention = [AttentionBlock(after)] if level in self.shape.attention else []
        return Part(Residual(before, after, self.shape.embedding), *attention)
