"""Small costs, in all that is exact: what runs, what is imported. Nothing here is timed."""

import inspect
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mergekit_diff import arguments, merging
from mergekit_diff.experiments.bench import command, load_bench, startup, tables, timing
from mergekit_diff.experiments.bench.config import Bench
from mergekit_diff.experiments.bench.subject import subject
from mergekit_diff.sites import find_sites

BENCH = Bench(what="startup", size="emoji", pixels=64, rounds=15, threads=1)


def test_merging_does_not_import_the_compiler():
    code = "import sys; from mergekit_diff import merging, names; names('strategy'); print('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_one_pair_merges_at_every_site_in_every_role():
    on = subject(Bench(size="emoji", pixels=64, at="step"), "meta")
    with merging(on.model, startup.OnePair(), roles=startup.ROLES, refresh=2) as session:
        on.call(500.0)
        on.call(499.0)
    rows = session.report().to_dicts()
    assert {row["role"] for row in rows} == set(startup.ROLES)
    assert len(rows) == len(startup.ROLES) * len(find_sites(on.model))
    before, after = session.report().tokens
    assert before - after == 2 * len(rows)


def test_rows_say_how_a_limit_is_met(monkeypatch):
    monkeypatch.setattr(startup, "_import", lambda rounds: {"import": [90.0] * rounds, "strategies": [200.0] * rounds})
    monkeypatch.setattr(startup, "_enter_and_leave", lambda on, rounds: [60.0] * rounds)
    monkeypatch.setattr(startup, "_steps", lambda bench: [[1.0] * 15, [1.01] * 15, [1.02] * 14 + [1.5]])
    rows, rounds = startup.startup(BENCH)
    assert [row["cost"] for row in rows] == list(startup.COSTS)
    met = {row["cost"]: line[-1] for row, line in zip(rows, tables.startup_table(rows, BENCH)[1:], strict=True)}
    assert (met["import"], met["session"], met["pairs"]) == ("by its interval", "no", "by its interval")
    assert set(rounds) == {"import", "strategies", "session", "step", "hooks", "pairs"}


def test_the_model_of_sixty_blocks_has_them_and_is_restored(count_hooks):
    on = startup.sixty_blocks(BENCH)
    assert len(find_sites(on.model)) == 60
    before = count_hooks(on.model)
    assert len(startup._enter_and_leave(on, 2)) == 2
    assert count_hooks(on.model) == before


def test_signatures_are_read_once_for_all_blocks_of_a_class(monkeypatch):
    on, reads, signature = startup.sixty_blocks(BENCH), [], inspect.signature
    arguments._of_method.cache_clear()
    monkeypatch.setattr(inspect, "signature", lambda function: reads.append(function) or signature(function))
    startup._enter_and_leave(on, 1)
    reads = [function for function in reads if function.__name__ in ("forward", "__call__")]
    assert 0 < len(reads) == len(set(reads)) < 10


class Operations(TorchDispatchMode):
    """Counts what is computed, by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func._opname] += 1
        return func(*args, **(kwargs or {}))


def operations(on, strategy=None):
    """Of a step, with a kept plan if there is a strategy."""
    with nullcontext() if strategy is None else merging(on.model, strategy, roles=startup.ROLES, refresh=2):
        on.call(500.0)
        with Operations() as counted:
            on.call(499.0)
    return counted.counts


@pytest.mark.filterwarnings("ignore:no token was merged")
def test_hooks_with_a_kept_plan_compute_nothing_but_merging_and_unmerging():
    on = subject(Bench(size="emoji", pixels=64, at="step"), "meta")
    base, layers = operations(on), len(startup.ROLES) * len(find_sites(on.model))
    assert operations(on, startup.Nothing()) == base
    more = operations(on, startup.OnePair()) - base
    del more["view"]  # copies nothing
    assert more == {"_embedding_bag_forward_only": layers, "index_select": layers}


def test_steps_are_timed_without_the_stopwatches_of_parts(monkeypatch):
    monkeypatch.setattr(timing, "Parts", lambda *_: type("None", (), {"attach": lambda self: pytest.fail("a stopwatch")})())
    steps = startup._steps(Bench(what="startup", size="emoji", pixels=32, rounds=6, batch=1))
    assert [len(each) for each in steps] == [6, 6, 6]


def test_a_plot_of_small_costs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="what=startup"):
        command.run_bench(load_bench(["what=startup", "size=emoji"]), None, tmp_path / "a.svg")


def test_nothing_and_one_pair_plan_as_they_say():
    x = torch.zeros(2, 5, 3)
    assert startup.Nothing().plan(x, None) is None
    plan = startup.OnePair().plan(x, None)
    assert (plan.num_tokens, plan.num_groups) == (5, 4)
