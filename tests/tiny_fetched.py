"""Models of a task that stand in for fetched ones: small, random, loaded by the same path from a file in the cache."""

import hashlib

import torch
import transformers
from onnx_file import seer_file, terrain_file
from tiny_language import build

from mergekit_diff.experiments.models.fetched import FETCHED, Fetched, Pin
from mergekit_diff.experiments.models.fetched.smollm2 import Reader
from mergekit_diff.experiments.models.fetched.terrain import TerrainPipeline, read_terrain
from mergekit_diff.experiments.models.fetched.terrain_unet import Shape, TerrainUNet
from mergekit_diff.experiments.models.fetched.vit_focus import NAMES, Decoder, Seer, read_seer
from mergekit_diff.experiments.tasks import FEATURES, FIELD, TEXT

SHAPE = Shape(channels=32, factors=(1, 1), blocks=1, attention=(0, 1), embedding=16)


def tiny_terrain():
    """A random network whose every parameter matters."""
    torch.manual_seed(0)
    net = TerrainUNet(SHAPE).eval()
    for value in net.parameters():
        torch.nn.init.normal_(value, std=0.2)
    return net


def put_in_cache(monkeypatch, folder, name, task, content, load):
    """Register a model whose file has some content, in a cache of its own."""
    monkeypatch.setenv("MERGEKIT_DIFF_MODELS", str(folder))
    pin = Pin(name, name, "1.0", "", f"{name}/a.bin", hashlib.sha256(content).hexdigest(), len(content))
    pin.path.parent.mkdir(parents=True)
    pin.path.write_bytes(content)
    monkeypatch.setitem(FETCHED, name, Fetched(pin, task, "MIT", load))


def put_terrain(monkeypatch, folder):
    """``tiny-terrain``."""

    def load(path, dtype):
        return TerrainPipeline(read_terrain(path, SHAPE).to(getattr(torch, dtype)), side=16)

    put_in_cache(monkeypatch, folder, "tiny-terrain", FIELD, terrain_file(tiny_terrain()), load)


class Letters:
    """A tokenizer of letters; those that are not small ones, digits or a few signs are one."""

    SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789 .,"

    def encode(self, text, add_special_tokens=False):
        return [self.SIGNS.find(sign) + 1 for sign in text.lower()]

    def decode(self, tokens):
        return "".join(("?" + self.SIGNS + 30 * "?")[token] for token in tokens)


def put_reader(monkeypatch, folder, beginning=128, rest=24):
    """``tiny-reader``."""

    def load(path, dtype):
        return Reader(build("llama", max_position_embeddings=512).to(getattr(torch, dtype)), Letters(), beginning, rest)

    put_in_cache(monkeypatch, folder, "tiny-reader", TEXT, b"of letters", load)


SIZES = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "patch_size": 14, "image_size": 28}


def tiny_seer():
    """A random vision transformer with a random head, whose every parameter matters."""
    torch.manual_seed(0)
    backbone = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES)).eval()
    decoder = Decoder(32, (4, 4, 4)).eval()
    for value in (*backbone.parameters(), *decoder.parameters(), decoder.bn1.running_mean):
        torch.nn.init.normal_(value, mean=0.1, std=0.3)
    return Seer(backbone, decoder)


def put_seer(monkeypatch, folder):
    """``tiny-seer``."""

    def load(path, dtype):
        return read_seer(path, SIZES, (4, 4, 4)).to(getattr(torch, dtype))

    old = {new: file for file, new in NAMES.items()}
    put_in_cache(monkeypatch, folder, "tiny-seer", FEATURES, seer_file(tiny_seer(), old), load)
