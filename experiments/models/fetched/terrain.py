"""Reads the model of height maps out of its ONNX file, and calls it; says where its tokens merge."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mergekit_diff.sites import Layout, Site, register_family

from .onnx import Graph, Node, read_graph
from .terrain_unet import SHAPE, AttentionBlock, Shape, TerrainUNet

SIDE = 128
LEAST, MOST, RHO = 0.002, 80.0, 7.0
PREFIX = "model."
"""What names of weights begin with in the file."""
AFTER = 16
"""How many operations after a normalization its scale and shift are at most."""


class TerrainPipeline:
    """Makes height maps with a consistency model, Song et al. (2023), arXiv 2303.01469; called like a pipeline of diffusers.

    Args:
        unet: the network.
        side: of a height map, in pixels.
    """

    def __init__(self, unet: TerrainUNet, side: int = SIDE) -> None:
        self.unet, self.side = unet, side
        self.scheduler = SimpleNamespace(timesteps=[])

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.unet.parameters()).device

    def to(self, device: str | torch.device) -> "TerrainPipeline":
        """Move the network to a device."""
        self.unet.to(device)
        return self

    @torch.no_grad()
    def __call__(
        self,
        difficulty: float,
        *,
        num_inference_steps: int,
        generator: torch.Generator,
        callback_on_step_end: Callable[..., dict[str, Any]],
    ) -> Tensor:
        """One (side, side) height map in [-1, 1]: after every step but the last, noise of the next level is added.

        Args:
            difficulty: in [0, 1]; the terrain is the rougher the larger it is.
            num_inference_steps: at least 1.
            generator: draws all noise.
            callback_on_step_end: as in diffusers.
        """
        dtype, sigmas = next(self.unet.parameters()).dtype, noise_levels(num_inference_steps)
        self.scheduler.timesteps = [self.unet.timestep(sigma) for sigma in sigmas]
        condition, y = torch.tensor([difficulty], device=self.device), torch.zeros((), device=self.device)
        for step, sigma in enumerate(sigmas):
            noise = torch.randn(1, 1, self.side, self.side, generator=generator).to(self.device)
            y = self.unet.denoise((y + sigma * noise).to(dtype), sigma, condition).float()
            y = callback_on_step_end(self, step, self.scheduler.timesteps[step], {"latents": y})["latents"]
        return y[0, 0].cpu()


def noise_levels(steps: int) -> list[float]:
    """The first levels of noise of a schedule of Karras et al. (2022), arXiv 2206.00364, with one step more.

    >>> [round(sigma, 1) for sigma in noise_levels(4)]
    [80.0, 24.4, 5.8, 1.0]
    """
    most, least = MOST ** (1 / RHO), LEAST ** (1 / RHO)
    return [(most + i / (steps + 1) * (least - most)) ** RHO for i in range(steps)]


def load(path: Path, dtype: str) -> TerrainPipeline:
    """The model in a file, ready to be called."""
    return TerrainPipeline(read_terrain(path).to(getattr(torch, dtype)))


@register_family("TerrainUNet", guidance="none")
def sites(model: Any) -> Iterable[Site]:  # noqa: ANN401
    """Attention over images at three resolutions; a norm is over all tokens of an image."""
    first = min(level for _, level, _, part in model.parts() if any(isinstance(each, AttentionBlock) for each in part))
    for name, level, stage, part in model.parts():
        for i, block in enumerate(part):
            if isinstance(block, AttentionBlock):
                yield Site(
                    f"{name}.{i}",
                    block,
                    roles={"self_attention": block.attention},
                    frame=block, layout=_layout, tokens=_tokens, stage=stage, level=level - first,
                    key_value=None, key_value_maps=frozenset({"qkv"}), normalize=block.normalized,
                    without={"cross_attention": "there is no text", "block": "its block takes a whole image"},
                )  # fmt: skip


def _layout(arguments: Any) -> Layout:  # noqa: ANN401
    return Layout(tuple(arguments["x"].shape[2:]))


def _tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h * w, C)."""
    return x.flatten(2).transpose(1, 2)


def read_terrain(path: Path, shape: Shape = SHAPE) -> TerrainUNet:
    """The network with the weights of an ONNX file.

    Raises:
        ValueError: the file has other weights.
    """
    net, graph = TerrainUNet(shape), read_graph(path)
    weights = {_renamed(name): value for name, value in graph.weights.items() if name.startswith(PREFIX)}
    weights = {name: value.flatten(1) if "attention." in name and value.dim() > 1 else value for name, value in weights.items()}
    norms, affine = net.norms(), list(_affine(graph))
    names = {module: name for name, module in net.named_modules()}
    if len(norms) != len(affine):
        raise ValueError(f"expected {len(norms)} normalizations in {path}, got {len(affine)}")
    for norm, (scale, shift) in zip(norms, affine, strict=True):
        weights |= {f"{names[norm]}.weight": scale, f"{names[norm]}.bias": shift}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"expected the weights of a terrain U-Net in {path}, got: {' '.join(str(error).split())[:200]}"
        ) from None
    return net.eval()


def _renamed(name: str) -> str:
    """As the module calls it: here an attention is a module of its own, so that its tokens can merge."""
    name = name.removeprefix(PREFIX)
    for part in ("qkv", "proj_out"):
        name = name.replace(f".{part}.", f".attention.{part}.")
    return name


def _affine(graph: Graph) -> Iterator[tuple[Tensor, Tensor]]:
    """Scale and shift of every normalization: these weights have no names, but follow it in the order of the graph."""
    for i, node in enumerate(graph.nodes):
        if node.kind == "InstanceNormalization":
            after = graph.nodes[i : i + AFTER]
            scale, shift = (next((one for one in after if one.kind == kind), None) for kind in ("Mul", "Add"))
            yield _constant(graph, scale), _constant(graph, shift)


def _constant(graph: Graph, node: Node | None) -> Tensor:
    """The weight that an operation reads, flat."""
    found = [graph.weights[name].flatten() for name in (node.inputs if node else ()) if name in graph.weights]
    if len(found) != 1:
        raise ValueError("expected a scale and a shift after every normalization, got none")
    return found[0]
