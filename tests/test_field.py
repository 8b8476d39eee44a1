"""Height maps: the network is read out of its file, its tokens merge, and a study of it runs to its report."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_file import field, onnx_file, terrain_file
from tiny_fetched import SHAPE, put_terrain, tiny_terrain

from mergekit_diff import merging
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.metrics import metrics
from mergekit_diff.experiments.models import load_pipeline
from mergekit_diff.experiments.models.fetched import FETCHED, checked
from mergekit_diff.experiments.models.fetched.onnx import read_graph
from mergekit_diff.experiments.models.fetched.terrain import read_terrain
from mergekit_diff.experiments.results.images import is_whole, open_frames
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.study.loading import build
from mergekit_diff.experiments.tasks import FIELD


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A random model, registered like the real one."""
    put_terrain(monkeypatch, tmp_path / "cache")
    return load_pipeline("tiny-terrain", "cpu")


def made(pipe, seed=0, steps=1):
    """A height map."""
    return FIELD.generate(pipe, "difficulty 0.5", seed, steps=steps, on_step_end=lambda pipe, step, t, tensors: tensors)


def test_a_network_is_read_back_from_its_file(tmp_path):
    net = tiny_terrain()
    (tmp_path / "a.onnx").write_bytes(terrain_file(net))
    again = read_terrain(tmp_path / "a.onnx", SHAPE).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in net.state_dict().items())


def test_what_is_no_such_file_is_refused_in_one_line(tmp_path):
    path, whole = tmp_path / "a.onnx", terrain_file(tiny_terrain())
    cut = [whole[:n] for n in (0, 1, 20, len(whole) // 2, len(whole) - 1)]
    huge = onnx_file({}, []) + field(7, field(5, field(1, 1 << 40) + field(2, 1) + field(8, "a") + field(9, b"1234")))
    wrong = field(7, field(5, field(1, 1 << 40) + field(2, 1) + field(8, "a") + field(9, b"1234")))
    for content in (*cut, b"\xff" * 100, onnx_file({}, []), huge, wrong):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^expected") as error:
            read_terrain(path, SHAPE)
        assert "\n" not in str(error.value)


def test_weights_and_operations_are_read_in_order(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    (tmp_path / "a.onnx").write_bytes(onnx_file({"w": weight}, [("Mul", "first", ("x", "w")), ("Add", "second", ())]))
    graph = read_graph(tmp_path / "a.onnx")
    assert torch.equal(graph.weights["w"], weight)
    assert [(node.kind, node.name, node.inputs) for node in graph.nodes] == [("Mul", "first", ("x", "w")), ("Add", "second", ())]


def test_the_same_seed_gives_the_same_height_map(tiny):
    assert torch.equal(made(tiny), made(tiny)) and not torch.equal(made(tiny), made(tiny, seed=1))
    assert made(tiny).shape == (16, 16) and not torch.equal(made(tiny), made(tiny, steps=2))


@pytest.mark.parametrize("role", ["self_attention", "key_value"])
def test_tokens_merge_and_the_network_is_restored(tiny, role):
    base = made(tiny, steps=2)
    with merging(tiny, "tomesd", ratio=0.5, roles=[role], levels=2, strict=True) as session:
        merged = made(tiny, steps=2)
    rows = [row for row in session.report().to_dicts() if row["calls"]]
    assert {row["level"] for row in rows} == {0, 1} and {row["granted"] for row in rows} == {0.5}
    assert {len(row["by_step"]) for row in rows} == {2} and {row["stage"] for row in rows} == {"down", "mid", "up"}
    assert not torch.equal(merged, base) and torch.equal(made(tiny, steps=2), base)


def test_signals_of_the_network_are_those_of_its_attention(tiny):
    block = next(module for module in tiny.unet.modules() if type(module).__name__ == "AttentionBlock")
    x, seen = torch.randn(2, 32, 4, 4, generator=torch.Generator().manual_seed(0)), []
    handle = block.attention.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    block(x)
    handle.remove()
    assert torch.equal(block.normalized(x.flatten(2).transpose(1, 2)), seen[0])


def test_heights_that_are_not_numbers_are_refused():
    def pipe(difficulty, generator, **_):
        return torch.tensor([[0.0, float("nan")]])

    with pytest.raises(RuntimeError, match="the height map has heights that are not numbers"):
        made(pipe)


def test_a_file_holds_a_height_map_to_16_bits(tmp_path):
    heights = torch.rand(8, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    path = tmp_path / f"a{FIELD.suffix}"
    path.write_bytes(FIELD.encode(heights))
    assert is_whole(path) and torch.equal(FIELD.read(path), FIELD.as_tensor(heights))
    assert torch.allclose(FIELD.read(path)[0] / 127.5 - 1, heights.double(), atol=1 / 65535)
    assert np.array_equal(np.asarray(open_frames(path)[0]), np.asarray(FIELD.frames(heights)[0]))


def test_metrics_see_differences_below_8_bits():
    heights = torch.zeros(16, 16)
    near, far = (metrics()["psnr"].value(FIELD.as_tensor(heights + step), FIELD.as_tensor(heights)) for step in (2e-4, 2e-3))
    assert near == pytest.approx(80, abs=1.5) and far == pytest.approx(60, abs=0.5)
    assert all(metrics()[name].value(FIELD.as_tensor(heights), FIELD.as_tensor(heights)) > 0 for name in ("ssim", "detail"))


def test_a_shift_of_the_whole_map_is_no_error_of_its_relief():
    heights = torch.linspace(-0.5, 0.5, 256).view(16, 16)
    shifted, tilted = (FIELD.as_tensor(heights + change) for change in (0.1, torch.linspace(-0.1, 0.1, 16)))
    psnr, relief = (metrics()[name] for name in ("psnr", "relief"))
    assert psnr.value(shifted, FIELD.as_tensor(heights)) < 30 and relief.value(shifted, FIELD.as_tensor(heights)) > 90
    assert relief.value(tilted, FIELD.as_tensor(heights)) == pytest.approx(psnr.value(tilted, FIELD.as_tensor(heights)))


@pytest.mark.parametrize(
    "words, message",
    [
        ({"guidance": 2.0}, "guidance: expected 1.0, since tiny-terrain makes a field, got 2.0"),
        ({"costs": True}, "costs: expected false, since tiny-terrain makes a field, got true"),
        ({"size": 64}, "size: expected none, since tiny-terrain makes a field, got 64"),
        ({"prompts": ["a cat"]}, "prompts: expected 'difficulty X' .*, got 'a cat'"),
        ({"prompts": ["difficulty 1.5"]}, "prompts: expected 'difficulty X' .*, got 'difficulty 1.5'"),
        ({"metrics": ["feature"]}, "metrics: expected a metric for field, got 'feature'; possible: .*"),
    ],
)
def test_a_study_of_a_field_is_checked(tiny, words, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        build({"model": "tiny-terrain", **words})


def test_a_study_takes_the_values_of_its_task(tiny):
    study = build({"model": "tiny-terrain", "primary": {"better": "higher"}})
    assert (study.steps, study.guidance, study.costs, len(study.prompts)) == (1, 1.0, False, 16)
    assert study.primary is not None and study.primary.metric == "relief"
    assert study.metrics == ["relief", "psnr", "ssim", "detail"]


def test_a_study_of_height_maps_runs_to_its_report(tiny, tmp_path, capsys):
    words = ["model=tiny-terrain", "prompts=[difficulty 0, difficulty 1]", "steps=2", "control={strategy.name: tomesd}",
             "sweep={strategy.name: {values: [tomesd, retom]}, strategy.ratio: {value: 0.5}}", "wandb.mode=disabled",
             "primary.better=higher", f"out={tmp_path / 'run'}", "device=cpu"]  # fmt: skip
    study = tmp_path / "a.yaml"
    study.write_text("question: Which terrain?\nstrategy: tomesd\n")
    assert main(["run", str(study), *words]) == 0, capsys.readouterr().err
    run = Run.read(tmp_path / "run")
    assert run.noun == "height map" and len(run.rows) == 2 * 4
    assert all(0 < row.metrics["psnr"] < 120 and len(row.drift) == 2 for row in run.rows if row.role != "base")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Height maps" in page and "height map" in page and "Merge maps" in page


def test_one_height_map_is_made_side_by_side(tiny, tmp_path):
    words = ["model=tiny-terrain", "strategy=tomesd", f"out={tmp_path / 'one'}", "device=cpu"]
    assert main(["generate", "difficulty 0.3", *words]) == 0
    (file,) = (tmp_path / "one").glob("*.png")
    assert open_frames(file)[0].size == (3 * 384 + 2 * 8, 384)


@pytest.mark.skipif("MERGEKIT_DIFF_MODELS" not in os.environ, reason="needs MERGEKIT_DIFF_MODELS, a folder with terrain in it")
def test_the_fetched_network_is_that_of_onnxruntime():
    runtime = pytest.importorskip("onnxruntime")
    path = checked(FETCHED["terrain"].pin)
    session, net = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]), read_terrain(Path(path))
    for sigma in (80.0, 5.0, 0.5):
        x, d = torch.randn(2, 1, 128, 128, generator=torch.Generator().manual_seed(0)) * sigma, torch.tensor([0.2, 0.9])
        inputs = {"noisy": x.numpy(), "sigma": np.full(2, sigma, np.float32), "difficulty": d.numpy()}
        with torch.no_grad():
            assert np.abs(session.run(None, inputs)[0] - net.denoise(x, sigma, d).numpy()).max() < 1e-4
