"""Models bring weights and nothing else: no pickle whatever its ending, no code of their own, none from a hub."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from transformers import AutoTokenizer, CLIPModel

from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.metrics import check_available, clip, lpips, networks
from mergekit_diff.experiments.models import check_model, load_pipeline
from mergekit_diff.experiments.models.embedded import cutouts, data, training
from mergekit_diff.experiments.results.row import Row

INDEX = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
EMPTY = (2).to_bytes(8, "little") + b"{}"
"""Safetensors without a tensor."""


class Attack:
    """Touches a file where it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self):
        return Path.touch, (self.ran,)


@pytest.fixture
def ran(tmp_path):
    """Exists if code ran."""
    return tmp_path / "ran"


@pytest.fixture(params=["pickle", "torch", "old torch"])
def payload(request, ran):
    """The bytes of a pickle, plain or as torch writes them."""
    path = ran.with_name("payload")
    if request.param == "pickle":
        path.write_bytes(pickle.dumps(Attack(ran)))
    else:
        torch.save({"x": Attack(ran)}, path, _use_new_zipfile_serialization=request.param == "torch")
    return path.read_bytes()


def folder_of(tmp_path, index, name="diffusion_pytorch_model.safetensors", weights=EMPTY):
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet" / name).write_bytes(weights)
    return folder


def test_the_payload_runs_where_it_is_unpickled(payload, ran):
    pickle.loads(payload) if not payload.startswith(b"PK") else torch.load(ran.with_name("payload"), weights_only=False)
    assert ran.exists() or not payload.startswith((b"PK", b"\x80\x04"))  # or the tests below say nothing


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "model.ckpt"])
def test_pickled_weights_are_refused_whatever_their_ending(name, payload, ran, tmp_path):
    folder = folder_of(tmp_path, INDEX, name, payload)
    with pytest.raises(ValueError, match="safetensors"):
        load_pipeline(str(folder))
    assert not ran.exists()


def test_pickles_beside_weights_are_not_read(payload, ran, model, tmp_path):
    folder = tmp_path / "model"
    for file in Path(model).rglob("*"):
        if file.is_file():
            (folder / file.relative_to(model)).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.relative_to(model)).write_bytes(file.read_bytes())
    for name in ("unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin", "model.ckpt"):
        (folder / name).write_bytes(payload)
    load_pipeline(str(folder))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_pipeline(str(folder))
    assert not ran.exists()


def test_pickled_weights_of_lpips_are_refused(payload, ran, tmp_path, monkeypatch):
    path = tmp_path / "lpips.safetensors"
    path.write_bytes(payload)
    monkeypatch.setenv(networks.LPIPS, str(path))
    with pytest.raises(ValueError, match="expected safetensors"):
        check_available("lpips", "emoji")
    with pytest.raises(SafetensorError):
        lpips._weights(str(path))
    assert not ran.exists()


@pytest.mark.parametrize("module", [data, cutouts, training])
def test_pickled_data_and_checkpoints_of_a_training_are_refused(module, payload, ran, tmp_path, monkeypatch):
    path = tmp_path / "payload"
    monkeypatch.setattr(module, "last_checkpoint" if module is training else "build", lambda *_: path)
    read = (lambda: training.restore(None, tmp_path, "x")) if module is training else (lambda: module.load(tmp_path))
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        read()
    assert not ran.exists()


def test_a_pickle_is_no_row_and_no_features(payload):
    with pytest.raises(ValueError, match="expected a row"):
        Row.parse(payload, "x")


HUGE = {
    "header longer than the file": (2**40).to_bytes(8, "little") + b"{}",
    "header of all that can be counted": (2**64 - 1).to_bytes(8, "little") + b"{}",
    "tensor without its bytes": b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
    "shape that overflows": b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}',
    "offsets that cross": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
    "nested": b"[" * 100_000,
}


@pytest.mark.parametrize("weights", HUGE.values(), ids=HUGE)
def test_safetensors_of_absurd_size_are_refused(weights, tmp_path):
    whole = weights if weights[8:] == b"{}" else len(weights).to_bytes(8, "little") + weights
    with pytest.raises(ValueError, match="expected safetensors"):
        check_model(str(folder_of(tmp_path, INDEX, weights=whole)))


CODE = {
    "pipeline of the folder": {"_class_name": ["pipeline", "Mine"]},
    "part of the folder": INDEX | {"unet": ["mine", "Mine"]},
    "part of the folder that takes a library's name": INDEX | {"unet": ["diffusers", "Mine"]},
    "part of any module that is installed": INDEX | {"unet": ["os", "system"]},
    "private module": INDEX | {"unet": ["__init__", "Mine"]},
    "part elsewhere": INDEX | {"../model/unet": ["diffusers", "UNet2DConditionModel"]},
    "class that looks the code up": INDEX | {"unet": ["transformers", "AutoModel"]},
}


@pytest.mark.parametrize("index", CODE.values(), ids=CODE)
def test_code_of_a_model_folder_never_runs(index, ran, tmp_path):
    folder = folder_of(tmp_path, index)
    code = f"from pathlib import Path\nPath({str(ran)!r}).touch()\nclass Mine: pass\n"
    names = ["mine.py"] if "Mine" not in index.get("unet", []) else [f"{index['unet'][0]}.py"]
    for name in ("pipeline.py", *[f"unet/{name}" for name in names], "unet/modeling.py"):
        (folder / name).write_text(code)
    (folder / "unet" / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.Mine"}, "model_type": "mine"}')
    with pytest.raises(ValueError, match="expected"):
        check_model(str(folder))
    assert not ran.exists()


def test_a_pipeline_is_named_by_a_class_of_diffusers(tmp_path):
    with pytest.raises(ValueError, match="expected the name of a class of diffusers"):
        check_model(str(folder_of(tmp_path, CODE["pipeline of the folder"])))


@pytest.mark.parametrize(
    "text", ["[", "[]", "3", "null", "[" * 99_999, '{"unet": ["diffusers"]}', '{"unet": [3, {}]}', "\0", '"' + "x" * 999]
)
def test_an_index_that_is_none_is_refused_in_one_line(text, tmp_path, monkeypatch, capsys):
    folder = folder_of(tmp_path, {}, weights=b"")
    (folder / "model_index.json").write_text(text)
    assert main(["generate", "x", f"model={folder}"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and len(said) < 500


class Asked(Exception):
    """Holds what a loader was asked for."""


def asked(*_, **options):
    raise Asked(options)


def test_a_hub_id_is_loaded_as_data_alone(monkeypatch):
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", asked)
    with pytest.raises(ValueError) as found:
        load_pipeline("somebody/something")
    options = found.value.__cause__.args[0]
    assert options["use_safetensors"] is True and options["trust_remote_code"] is False


def test_clip_is_loaded_as_data_alone(monkeypatch):
    clip._model.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(CLIPModel, "from_pretrained", asked)
        with pytest.raises(Asked) as found:
            clip._model("somebody/something")
    options = found.value.args[0]
    assert options["use_safetensors"] and options["local_files_only"] and options["trust_remote_code"] is False
    with monkeypatch.context() as patch:
        patch.setattr(CLIPModel, "from_pretrained", lambda *_, **__: torch.nn.Identity())
        patch.setattr(AutoTokenizer, "from_pretrained", asked)
        with pytest.raises(Asked) as found:
            clip._model("somebody/something")
    assert found.value.args[0]["local_files_only"] and found.value.args[0]["trust_remote_code"] is False
