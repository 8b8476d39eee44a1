"""Log sizes in one attention: every way gives the same output, on the shapes of the models. Nothing here is timed."""

import pytest
import torch
from torch.nn import functional as F

from mergekit_diff.experiments.bench import command, load_bench, log_sizes, tables
from mergekit_diff.experiments.bench.config import Bench

SIZED = [way for way in log_sizes.WAYS if way not in ("none", "flex")]
SMALL = {
    "sd15": ("size=sd15", "pixels=64", "batch=2"),
    "flux": ("size=flux", "pixels=64", "batch=1"),
    "wan": ("size=wan-1.3b", "pixels=[64,32]", "frames=5", "batch=1"),
}


def keys(beside, size=3.0):
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 8, generator=draw) for n in (11, 7, 7))
    return log_sizes.Keys(query, key, value, size, beside)


def repeated(of):
    """The attention to every token of every group, which log sizes stand for."""
    times = torch.tensor([1] * of.beside + [int(of.size)] * (of.key.shape[2] - of.beside))
    return F.scaled_dot_product_attention(of.query, *(x.repeat_interleave(times, 2) for x in (of.key, of.value)))


@pytest.mark.parametrize("beside", (0, 3))
@pytest.mark.parametrize("way", SIZED)
def test_every_way_counts_a_group_as_often_as_it_has_tokens(way, beside):
    torch.testing.assert_close(log_sizes.WAYS[way](keys(beside)), repeated(keys(beside)))


def test_without_log_sizes_other_keys_weigh_too_much():
    torch.testing.assert_close(log_sizes.none(keys(0)), repeated(keys(0)))
    assert (log_sizes.none(keys(3)) - repeated(keys(3))).abs().max() > 0.01


def test_the_kernel_is_that_of_torch():
    assert log_sizes.kernel(lambda: log_sizes.mask(keys(3))) == "flash_attention_for_cpu"
    assert log_sizes.kernel(lambda: torch.ones(2)) == "compiled"


@pytest.mark.parametrize(
    ("words", "shape", "beside"),
    [(SMALL["sd15"], (2, 8, 64, 40), 0), (SMALL["flux"], (1, 24, 528, 128), 512), (SMALL["wan"], (1, 12, 16, 128), 0)],
)
def test_the_attention_is_that_of_the_model(words, shape, beside):
    queries, others = log_sizes.attention_of(load_bench(["what=log-sizes", *words]))
    assert (tuple(queries.shape), others) == (shape, beside)


def test_rows_have_all_ways_and_a_ratio_to_none(monkeypatch):
    monkeypatch.setattr(log_sizes, "WAYS", {way: log_sizes.WAYS[way] for way in ("none", *SIZED)})
    turns = []
    rows, rounds = log_sizes.log_sizes(Bench(what="log-sizes", pixels=64, rounds=6, threads=1), lambda: turns.append(1))
    assert [(row["role"], row["way"]) for row in rows] == [(role, way) for role in log_sizes.ROLES for way in ("none", *SIZED)]
    assert all(len(each) == 6 for each in rounds.values()) and len(turns) == 6
    assert [row["ratio"] for row in rows if row["way"] == "none"] == [[1.0, 1.0, 1.0]] * 2
    assert len(tables.log_sizes_table(rows)) == 1 + len(rows)


def test_a_plot_is_refused(tmp_path):
    with pytest.raises(ValueError, match="plot: expected none with what=log-sizes"):
        command.run_bench(load_bench(["what=log-sizes"]), plot=tmp_path / "x.png")
