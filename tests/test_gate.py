"""The gate: what it predicts is what is saved, what it skips is the base model, and what it decided can be taken again."""

import dataclasses
import json

import pytest
import torch
from tiny import tiny_unet
from torch.utils.flop_counter import FlopCounterMode

from mergekit_diff import gate, merging, speed
from mergekit_diff.experiments.bench.instruments import Operations
from mergekit_diff.experiments.study.rehearsal import planning_for
from mergekit_diff.speed import Speed
from mergekit_diff.strategies.retom import ReToM

PAYS, NEVER_PAYS = Speed(linear=1.0, attention=1.0, move=0.0, call=0.0), Speed(linear=0.0, attention=0.0, move=1.0, call=1.0)
ALL_ROLES = ("self_attention", "key_value", "cross_attention", "feed_forward")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(speed, "_memory", {})
    speed._memory.clear()
    return tmp_path / "mergekit_diff" / "speed.json"


@pytest.fixture
def unet():
    return tiny_unet()


@torch.no_grad()
def predict(unet, side=16, steps=3):
    draw = torch.Generator().manual_seed(0)
    sample, text = torch.randn(2, 4, side, side, generator=draw), torch.randn(2, 6, 32, generator=draw)
    return torch.stack([unet(sample, t, text).sample for t in torch.linspace(900, 1, steps).long()])


def use(monkeypatch, rates):
    monkeypatch.setattr(gate, "speed", lambda device, dtype: rates)


def test_the_time_of_a_plan_is_measured_anew_when_the_code_changes(unet, own_home, monkeypatch):
    def plans_timed():
        with merging(unet, "retom-paper", gate="auto"):
            predict(unet, steps=1)
        return sum("plan of" in key for key in json.loads(own_home.read_text()))

    first = plans_timed()
    assert plans_timed() == first
    monkeypatch.setattr(gate, "sources", lambda part: ["another"])
    assert plans_timed() == 2 * first


@pytest.mark.parametrize("name", planning_for(2))
def test_open_gates_change_nothing_but_the_report(name, unet, monkeypatch):
    use(monkeypatch, PAYS)
    with merging(unet, name, refresh=2):
        expected = predict(unet)
    with merging(unet, name, refresh=2, gate="auto") as session:
        found = predict(unet)
    assert torch.equal(found, expected)
    rows = [row for row in session.report().to_dicts() if row["calls"]]
    assert all(row["gain_ms"] > 0 and row["plans"] >= 2 for row in rows) and rows


@pytest.mark.parametrize("name", planning_for(2))
def test_closed_gates_are_the_base_model_and_say_why(name, unet, monkeypatch):
    use(monkeypatch, NEVER_PAYS)
    base = predict(unet)
    with pytest.warns(UserWarning, match="no token was merged.*skipped: would save"):
        with merging(unet, name, gate="auto") as session:
            assert torch.equal(predict(unet), base)
    for row in session.report().to_dicts():
        if row["calls"]:
            assert row["gain_ms"] < 0 and row["plans"] == 0 and row["kept"] == row["tokens"]
            assert "and cost" in row["note"]


def test_one_session_may_skip_some_sites(unet, monkeypatch):
    use(monkeypatch, PAYS)
    with merging(unet, "retom-paper", gate="auto") as session:
        predict(unet)
    gates = session.gates()
    for key in gates:
        gates[key]["merges"] = "mid_block" not in key
    with merging(unet, "retom-paper", gate=gates) as session:
        predict(unet)
    rows = session.report().to_dicts()
    assert {row["plans"] > 0 for row in rows if row["stage"] == "mid"} == {False}
    assert {row["plans"] > 0 for row in rows if row["stage"] != "mid"} == {True}


def test_decisions_are_taken_again_whatever_the_clock_says(unet, monkeypatch):
    use(monkeypatch, PAYS)
    with merging(unet, "retom-paper", gate="auto") as session:
        expected = predict(unet)
    kept = json.loads(json.dumps(session.gates()))
    assert kept == session.gates() and len(kept) == 7
    use(monkeypatch, NEVER_PAYS)
    with merging(unet, "retom-paper", gate=kept) as again:
        assert torch.equal(predict(unet), expected)
    assert again.gates() == kept
    with merging(unet, "retom-paper", gate=kept) as other_shape, pytest.warns(UserWarning, match="skipped"):
        predict(unet, side=8)
        other_shape.detach()
    assert len(other_shape.gates()) == 2 * len(kept)


def test_a_closed_gate_plans_once_to_know_and_never_again(unet, monkeypatch):
    use(monkeypatch, NEVER_PAYS)
    made = []
    plan = ReToM.plan
    monkeypatch.setattr(ReToM, "plan", lambda self, x, ctx: made.append(ctx.step) or plan(self, x, ctx))
    with merging(unet, "retom-paper", gate="auto", refresh=1) as session, pytest.warns(UserWarning):
        predict(unet, steps=4)
        session.detach()
    assert set(made) == {0}


@pytest.mark.parametrize("roles", [(role,) for role in ALL_ROLES])
def test_predicted_savings_are_those_that_are_counted(roles, unet, monkeypatch):
    """At a nanosecond an operation, the milliseconds saved are the operations that merging removes."""
    use(monkeypatch, Speed(linear=1e-9, attention=1e-9, move=0.0, call=0.0))
    base, merged = Operations(unet), Operations(unet)
    with base.counting():
        predict(unet, steps=1)
    with merging(unet, "retom-paper", gate="auto", roles=roles) as session:
        predict(unet, steps=1)
        gates = session.gates()
        with merged.counting():
            predict(unet, steps=1)
    predicted = sum(each["saves_ms"] for each in gates.values()) * 1e6
    planning = session_planning(unet, roles, gates)
    text = 4 * 2 * 6 * sum(removed_pixels(unet, gates)) if roles == ("cross_attention",) else 0
    assert predicted + text == pytest.approx(base.total - merged.total + planning, rel=2e-3)


def session_planning(unet, roles, gates):
    """Operations of the plans themselves, which are in the count of a merged call."""
    planned = []
    with merging(unet, "retom-paper", roles=roles, gate=gates) as session:
        planner = session._chooser._planner
        planner.plan, plan = (lambda x, turn: planned.append((x.clone(), turn)) or plan(x, turn)), planner.plan
        predict(unet, steps=1)
    with FlopCounterMode(display=False) as counter:
        for x, turn in planned:
            plan(x, dataclasses.replace(turn, due=True))
    return counter.get_total_flops()


def removed_pixels(unet, gates):
    """Tokens times width that merging removes, of each site: attention to the text, which the prediction leaves out."""
    for key in gates:
        n = int(key.split("x")[-1])
        yield n // 2 * {256: 16, 64: 32, 16: 32}[n]


def test_speed_is_measured_once_and_kept(own_home):
    first = speed.speed(torch.device("cpu"), torch.float32)
    assert all(value > 0 for value in (first.linear, first.attention, first.call))
    speed._memory.clear()
    assert speed.speed(torch.device("cpu"), torch.float32) == first
    assert len(json.loads(own_home.read_text())) == 1
    assert speed.seconds_of_plan("mine", torch.zeros(1, 4, 2), lambda: None) > 0
    assert speed.seconds_of_plan("mine", torch.zeros(1, 4, 2), lambda: pytest.fail("measured again")) > 0


@pytest.mark.parametrize("content", ["not JSON", "[]", None])
def test_a_broken_or_missing_file_is_measured_anew(content, own_home):
    if content is not None:
        own_home.parent.mkdir()
        own_home.write_text(content)
    assert speed.speed(torch.device("cpu"), torch.float32).linear > 0
    assert len(json.loads(own_home.read_text())) == 1


def test_a_home_that_cannot_be_written_costs_only_the_memory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first = speed.speed(torch.device("cpu"), torch.float32)
    assert speed.speed(torch.device("cpu"), torch.float32) == first


def test_compiled_sessions_keep_to_the_decisions(unet, monkeypatch):
    torch._dynamo.reset()
    use(monkeypatch, PAYS)
    with merging(unet, "retom-paper", refresh=2, gate="auto") as session:
        expected, gates = predict(unet), session.gates()
    for key in gates:
        gates[key]["merges"] = "up_blocks" in key
    with merging(unet, "retom-paper", refresh=2, gate=gates):
        expected = predict(unet)
    with merging(unet, "retom-paper", refresh=2, gate=gates) as session:
        session.compile(backend="eager")
        torch.testing.assert_close(predict(unet), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("wrong", ["sometimes", {"a": 1}, {"a": {"opens": True}}])
def test_a_wrong_gate_is_refused(wrong, unet):
    with pytest.raises(ValueError, match="auto"), merging(unet, "retom-paper", gate=wrong):
        pass


@pytest.mark.parametrize("role", ("self_attention", "key_value"))
def test_the_gate_knows_the_price_of_log_sizes(role, unet, monkeypatch):
    use(monkeypatch, Speed(linear=0.0, attention=1e-9, move=0.0, call=0.0, sized=5e-10))

    def saved(proportional):
        with merging(unet, "retom-paper", gate="auto", roles=role, proportional=proportional) as session:
            predict(unet, steps=1)
        return sum(each["saves_ms"] for each in session.gates().values())

    price = 1 / 6 if role == "self_attention" else 1 / 2  # of the saving, at half of the tokens
    assert saved(True) == pytest.approx((1 - price) * saved(False), abs=1e-3)
