"""A compiled session: the same output from few graphs, none broken, and no waiting for a device inside a block's hook."""

import pytest
import torch
from tiny import tiny_unet
from torch.utils._python_dispatch import TorchDispatchMode

from mergekit_diff import MergeStrategy, make, merging, names
from mergekit_diff.experiments.study.rehearsal import planning_for
from mergekit_diff.schedules import Step

STEPS = 20
SYNCS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique2", "aten::_unique2", "aten::equal"}


@pytest.fixture(scope="module")
def unet():
    return tiny_unet(
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
    )


@pytest.fixture(autouse=True)
def no_old_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Graphs:
    """A backend that counts the graphs and runs them as they are, or as another backend makes them."""

    def __init__(self, backend="eager"):
        self.count, self.backend = 0, torch._dynamo.lookup_backend(backend)

    def __call__(self, graph, inputs):
        self.count += 1
        return self.backend(graph, inputs)


@torch.no_grad()
def trajectory(unet, side=16, steps=STEPS):
    """What a U-Net says at every timestep of an image."""
    draw = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 4, side, side, generator=draw)
    text = torch.randn(2, 6, 32, generator=draw)
    return torch.stack([unet(sample, t, text).sample for t in torch.linspace(999, 1, steps).long()])


def settings(name):
    return {"ratio": 0.5, "refresh": 5, "seed": 1} if name != "downsample" else {"ratio": 0.75, "refresh": 5}


# One of each kind: tokens chosen in windows and pairs, a soft plan, signals, a count that the last plan tells, one that follows a
# schedule; every other strategy in the nightly profile.
KINDS = ("retom-paper", "local-match", "toma", "sdtm", "ca-tome", "dynamic-ratio")
STRATEGIES = [pytest.param(name, marks=() if name in KINDS else pytest.mark.nightly) for name in planning_for(2)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_compiled_output_is_the_eager_one_from_two_graphs(unet, name):
    with merging(unet, name, **settings(name)) as eager:
        expected = trajectory(unet)
    graphs = Graphs("aot_eager")  # operators are traced, as in front of a generator of code
    with merging(unet, name, **settings(name)) as session:
        session.compile(backend=graphs)
        found = trajectory(unet)
    kind = type(session.strategy)
    if kind.at is not MergeStrategy.at and name != "dynamic-ratio":
        assert 2 <= graphs.count <= 8  # at most those of every phase, with and without what is recorded
    elif kind.after is MergeStrategy.after:
        assert graphs.count == 2  # one that plans, one that keeps; fullgraph, so none is broken
    else:
        assert 2 <= graphs.count <= 2 * STEPS // 5  # the same for every number of tokens
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert session.report().to_dicts() == eager.report().to_dicts()
    assert session.report().merged


@pytest.mark.parametrize("reduction", names("reduction"))
def test_every_reduction_compiles(unet, reduction):
    options = {"reduction": reduction, "ratio": 0.5, "refresh": 2, "proportional": True}
    with merging(unet, "local-match", **options):
        expected = trajectory(unet, 8, steps=3)
    graphs = Graphs()
    with merging(unet, "local-match", **options) as session:
        session.compile(backend=graphs)
        found = trajectory(unet, 8, steps=3)
    assert graphs.count == 2
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_further_ratio_takes_one_graph_more(unet):
    ratio, graphs = Step(values=(0.75, 0.5), at=(0.5,)), Graphs()
    with merging(unet, "retom-paper", ratio=ratio, refresh=2):
        expected = trajectory(unet, 8, steps=8)
    with merging(unet, "retom-paper", ratio=ratio, refresh=2) as session:
        session.compile(backend=graphs)
        found = trajectory(unet, 8, steps=8)
    assert graphs.count == 4  # each M is planned and kept
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_every_shape_has_its_graphs(unet):
    graphs = Graphs()
    with merging(unet, "retom-paper", refresh=2) as session:
        session.compile(backend=graphs)
        for side in (16, 8):
            trajectory(unet, side, steps=4)
        assert graphs.count == 4
        trajectory(unet, 16, steps=4)
        assert graphs.count == 4


def test_the_model_is_restored(unet):
    before = trajectory(unet, 8, steps=2)
    with merging(unet, "retom-paper") as session:
        session.compile(backend=Graphs())
        with pytest.raises(RuntimeError, match="compiled already"):
            session.compile()
        trajectory(unet, 8, steps=2)
    assert "forward" not in vars(unet)
    own = unet.forward = unet.forward  # as packages do that wrap a model
    with merging(unet, "retom-paper") as session:
        session.compile(backend=Graphs())
        trajectory(unet, 8, steps=1)
    assert vars(unet).pop("forward") is own
    assert torch.equal(trajectory(unet, 8, steps=2), before)


def test_an_observer_sees_every_plan(unet):
    seen, graphs = [], Graphs()
    with merging(unet, "retom-paper", refresh=2) as session:
        session.compile(backend=graphs)
        session.observe(lambda x, ctx, plan, made: seen.append((ctx.step, made)))
        trajectory(unet, 8, steps=4)
    assert graphs.count == 0
    assert {step: made for step, made in seen} == {0: True, 1: False, 2: True, 3: False}


class NoSync(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in SYNCS:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


SETTINGS = (
    {"representative": "upper-half", "rank": "grid", "alpha": 0.5},
    {"representative": "random", "draw": "still", "tokens": "normalized", "keep_representatives": 9, "refresh": 1},
)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {"refresh": 1}) for name in planning_for(2)),
        *(("retom-paper", s) for s in SETTINGS),
        ("dynamic-ratio", {"threshold": -0.9, "quantum": 16}),
    ],
)
def test_no_hook_waits_for_the_device(unet, name, options):
    sample, text = torch.randn(2, 4, 16, 16), torch.randn(2, 6, 32)
    options = options | {"roles": ("self_attention", "key_value", "feed_forward"), "share": ("cfg",)}
    with torch.no_grad(), merging(unet, name, **options) as session:
        unet(sample, 999.0, text)  # the windows are made once, on the CPU
        if session.strategy.waits:
            with pytest.raises(AssertionError, match="waits"), NoSync():
                unet(sample, 500.0, text)
        else:
            with NoSync():
                unet(sample, 500.0, text)
    assert session.report().merged


def test_a_strategy_that_waits_says_so_and_is_not_compiled(unet):
    by_content = {"name": "dynamic-ratio", "threshold": 0.5}
    for spec in (by_content, {"name": "dynamic-ratio", "inner": by_content}):
        assert make("strategy", spec).waits
    with merging(unet, by_content) as session:
        with pytest.raises(RuntimeError, match=r"dynamic-ratio.* reads a value"):
            session.compile(backend=Graphs())
        trajectory(unet, 8, steps=1)


def test_no_sync_notices_a_sync():
    with pytest.raises(AssertionError, match="waits"), NoSync():
        torch.ones(1).item()
