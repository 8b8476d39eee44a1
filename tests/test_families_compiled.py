"""Compiled sessions in transformers: one graph, the eager result, and plans of the grid that a call has."""

import pytest
import torch
from tiny_families import H, W, build, predict

from mergekit_diff import merging


@pytest.fixture(autouse=True)
def forget_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def series(model, inputs, count=4):
    """Outputs of some steps of one image."""
    times = torch.linspace(1, 0.4, count)
    return [predict(model, inputs | {"timestep": inputs["timestep"] * t}) for t in times]


@pytest.mark.parametrize("role", ("self_attention", "key_value", "block"))
@pytest.mark.parametrize("name", ("flux", "wan", "sd3"))
def test_compiled_and_eager_sessions_agree_without_a_graph_break(name, role):
    model, inputs = build(name)
    with merging(model, "retom", window=2, roles=role, refresh=5) as session:
        expected = series(model, inputs)
        session.new_image()
        session.compile(backend="aot_eager")  # fullgraph: a break raises
        compiled = series(model, inputs)
    for a, b in zip(compiled, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_grids_of_as_many_tokens_have_plans_of_their_own(recorder):
    strategy, seen = recorder
    model, inputs = build("flux")
    turned = inputs["img_ids"][:, [0, 2, 1]].reshape(H, W, 3).transpose(0, 1).reshape(-1, 3)
    with merging(model, strategy(), refresh=5) as session:
        session.compile(backend="aot_eager")
        for t, ids in ((1.0, inputs["img_ids"]), (0.8, inputs["img_ids"]), (0.6, turned), (0.4, turned)):
            predict(model, inputs | {"img_ids": ids, "timestep": torch.full((2,), t)})
        grids = {grid for _, grid in session.plans().values()}
    assert [ctx.grid for ctx in seen if ctx.depth == 0] == [(H, W), (W, H)] and grids == {(W, H)}


@pytest.mark.nightly
@pytest.mark.parametrize("role", ("self_attention", "key_value", "block"))
def test_a_strategy_of_frames_compiles_to_the_bit(role):
    model, inputs = build("wan")
    with merging(model, "vidtome", roles=role, refresh=2) as session:
        expected = series(model, inputs)
        session.new_image()
        session.compile(backend="aot_eager")
        compiled = series(model, inputs)
        assert session.report().merged
    assert all(map(torch.equal, compiled, expected))
