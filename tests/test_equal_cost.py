"""At equal cost: the right factor where it is known, nothing where a family only costs more, and never beyond its points."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic_run import a_row, a_study, synthetic_run

from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.report import pareto, write_report
from mergekit_diff.experiments.results import comparison, equal_cost, kept
from mergekit_diff.experiments.results.equal_cost import table
from mergekit_diff.experiments.results.families import Family, Point, families
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.results.run import Run

PROMPTS = 24
BETTER = {"feature": "lower", "psnr": "higher"}


def curve(cost):
    """A distance whose logarithm is linear in the cost, so that interpolation is exact."""
    return math.exp(-5 * cost)


@pytest.fixture
def study(tmp_path):
    """Writes a kept finding of families: for each its name, costs and the metric of prompt i at a cost."""

    def build(*given, metric="feature", control="c", values=None, prompts=PROMPTS, costs=True, drop=(), margin=None):
        ratios = np.linspace(0.1, 0.9, max(len(costs) for _, costs, _ in given)).round(3).tolist()
        rows = [a_row(cell="base", role="base", strategy="base", prompt=f"p{i}") for i in range(prompts)]
        shares = {"base": {"share": 1.0, "flops": 2.0}}
        controls = dict.fromkeys(ratios[: len(next(costs for name, costs, _ in given if name == control))])
        for name, own, size in given:
            for ratio, cost in zip(ratios, own, strict=False):
                cell, spec = (
                    f"{name} {ratio}",
                    values(name, ratio) if values else {"strategy.name": name, "strategy.ratio": ratio},
                )
                against = f"{control} {ratio if ratio in controls else next(iter(controls))}"
                role, against = ("control", None) if name == control else ("cell", against)
                shares[cell] = {"share": cost, "share_flops": cost, "share_overhead": 0.0, "flops": cost}
                rows += [a_row(cell=cell, role=role, against=against, values=spec, prompt=f"p{i}", granted=ratio,
                               metrics={metric: size(i, cost)}) for i in range(prompts) if (cell, i) not in drop]  # fmt: skip
        primary = {"metric": metric, "better": BETTER[metric], "margin": margin}
        folder = RunFolder(tmp_path / "run")
        folder.write_config(a_study(prompts=[], metrics=[metric], primary=primary), ["run", "x"])
        if costs:
            (folder.path / "costs.json").write_text(json.dumps(shares))
        kept.keep(folder.path, rows, tmp_path / "kept")
        return Run.read(tmp_path / "kept" / "run")

    return build


def distance(i, cost):
    """Prompts differ by a factor in how much they suffer."""
    return 2.0 ** (i % 7) * curve(cost)


def test_a_family_that_is_twice_as_far_at_equal_cost_is_twice_as_far(study):
    run = study(("c", [0.6, 0.7, 0.8], distance), ("x", [0.55, 0.72, 0.9], lambda i, cost: 2 * distance(i, cost)))
    found = run.at_equal_cost
    assert [(one.cell, one.against, one.cost) for one in found] == [("x", "c", cost) for cost in (0.6, 0.7, 0.8)]
    for one in found:
        assert (one.effect, one.low, one.high) == pytest.approx((2, 2, 2))
        assert one.verdict == comparison.WORSE and (one.n, one.prompts, one.by) == (PROMPTS, PROMPTS, "ratio")
    assert [one.cells for one in found] == [("x 0.1", "x 0.5"), ("x 0.1", "x 0.5"), ("x 0.5", "x 0.9")]
    assert [one.controls for one in found] == [("c 0.1",), ("c 0.5",), ("c 0.9",)]


def test_a_family_that_only_costs_more_is_no_better(study):
    noise = np.random.default_rng(0).normal(0, 0.05, PROMPTS // 2)
    noise = np.exp([*noise, *-noise])
    dearer = study(("c", [0.5, 0.6, 0.7], distance), ("x", [0.6, 0.7, 0.8], lambda i, cost: noise[i] * distance(i, cost)))
    assert {one.verdict for one in dearer.comparisons} == {comparison.BETTER}  # at equal ratio
    found = dearer.at_equal_cost
    assert [one.cost for one in found] == [0.6, 0.7]
    assert all(one.effect == pytest.approx(1) and one.verdict == comparison.UNSURE for one in found)


def test_a_difference_is_interpolated_as_it_is_and_a_ratio_by_its_logarithm(study):
    x, c = ("x", [0.5, 0.9], lambda i, cost: 10 * cost), ("c", [0.6], lambda i, cost: 5.0 + i % 2)
    (one,) = study(x, c, metric="psnr").at_equal_cost
    assert one.effect == pytest.approx(6 - 5.5) and one.by == "difference" and one.verdict == comparison.BETTER
    x, c = ("x", [0.5, 0.9], lambda i, cost: {0.5: 1.0, 0.9: 16.0}[cost]), ("c", [0.7], lambda i, cost: 1.0)
    (one,) = study(x, c).at_equal_cost
    assert one.effect == pytest.approx(4)


def test_the_verdict_is_corrected_for_all_comparisons(study):
    noise = np.random.default_rng(1).normal(0.35, 0.8, PROMPTS)
    x = ("x", [0.5, 0.9], lambda i, cost: distance(i, cost) * math.exp(noise[i]))
    (alone,) = study(("c", [0.6], distance), x).at_equal_cost
    among = study(("c", [0.6, 0.7, 0.8, 0.85], distance), x).at_equal_cost
    assert len(among) == 4 and all(one.p_holm == pytest.approx(min(1, 4 * alone.p)) for one in among)
    assert alone.p == alone.p_holm


def test_what_lies_within_the_margin_is_the_same(study):
    noise = np.random.default_rng(0).normal(0, 0.05, PROMPTS)
    x = ("x", [0.5, 0.9], lambda i, cost: distance(i, cost) * math.exp(noise[i]))
    for margin, verdict in ((1.1, comparison.SAME), (1.001, comparison.UNSURE), (None, comparison.UNSURE)):
        (one,) = study(("c", [0.6], distance), x, margin=margin).at_equal_cost
        assert one.verdict == verdict


def test_without_a_common_cost_a_line_says_so_and_nothing_is_extrapolated(study):
    run = study(("c", [0.8, 0.9], distance), ("x", [0.5, 0.7], distance))
    (one,) = run.at_equal_cost
    assert one.verdict == f"{comparison.NOT_COMPARABLE}: costs of 0.500 to 0.700 here and of 0.800 to 0.900 for the control"
    assert math.isnan(one.cost) and math.isnan(one.effect)
    head, line = table([one])
    assert len(head) == len(line) and line[:3] == ["x", one.verdict, "–"]  # noqa: RUF001


def test_ranges_that_overlap_between_the_controls_points_are_compared_at_the_familys(study):
    found = study(("c", [0.5, 0.9], distance), ("x", [0.6, 0.8], lambda i, cost: distance(i, cost) / 3)).at_equal_cost
    assert [(one.cost, one.cells) for one in found] == [(0.6, ("x 0.1",)), (0.8, ("x 0.9",))]
    assert all(one.controls == ("c 0.1", "c 0.9") and one.effect == pytest.approx(1 / 3) for one in found)


def test_a_prompt_that_one_of_the_cells_lacks_is_left_out_where_that_cell_counts(study):
    given = ("c", [0.6, 0.8], distance), ("x", [0.5, 0.7, 0.9], lambda i, cost: 2 * distance(i, cost))
    low, high = study(*given, drop={("x 0.9", 3)}).at_equal_cost
    assert (low.n, low.prompts, high.n, high.prompts) == (PROMPTS, PROMPTS, PROMPTS - 1, PROMPTS - 1)
    assert high.effect == pytest.approx(2)


@pytest.mark.parametrize(("metric", "value"), [("psnr", math.inf), ("feature", 0.0)])
def test_an_infinite_value_gives_no_verdict_where_it_counts(study, metric, value):
    def x(i, cost):
        return value if (i, cost) == (3, 0.9) else 2.0 + i

    low, high = study(("c", [0.6, 0.8], lambda i, cost: 3.0 + i % 5), ("x", [0.5, 0.7, 0.9], x), metric=metric).at_equal_cost
    assert math.isfinite(low.effect) and not low.verdict.startswith(comparison.NOT_COMPARABLE)
    assert high.verdict == f"{comparison.NOT_COMPARABLE}: 1 of {PROMPTS} prompts have no finite difference or ratio"
    assert math.isnan(high.p_holm) and len(table([low, high])) == 3


def test_seeds_of_one_prompt_are_one_observation(study):
    run = study(("c", [0.6], distance), ("x", [0.5, 0.9], lambda i, cost: 2 * distance(i, cost)), prompts=8)
    seeds = [replace(row, seed=seed) for row in run.rows for seed in range(3)]
    (one,), (many,) = run.at_equal_cost, Run(run.folder, run.config, seeds).at_equal_cost
    assert (many.n, many.prompts, many.p) == (24, 8, one.p)


def test_cells_are_one_family_if_only_a_constant_ratio_differs(study):
    linear = {"name": "linear", "start": 0.75, "end": 0.25}

    def values(name, ratio):
        ratio = {0.1: 0.25, 0.5: {"name": "constant", "value": 0.5}, 0.9: linear}[ratio]
        settings = {"name": "tomesd"} if name == "c" else {"name": "local-match", "reach": int(name)}
        return {"strategy": settings | {"ratio": ratio}, "merging.levels": 2}

    run = study(*((name, [0.5, 0.6, 0.7], distance) for name in ("c", "1", "2")), values=values)
    found = {family.name: [point.cell for point in family.points] for family in families(run.cells, run.shares, "feature")}
    assert list(found.values()) == [[f"{name} 0.1", f"{name} 0.5"] if i == 0 else [f"{name} 0.9"]
                                    for name in ("c", "1", "2") for i in range(2)]  # fmt: skip
    assert "local-match(reach=1), levels=2" in found and len(found) == 6


def test_where_a_step_cache_is_swept_curves_go_over_its_threshold(study):
    def values(name, threshold):
        return {"cache": threshold, "strategy.ratio": {"c": 0, "x": 0.5}[name]}

    run = study(("c", [0.5, 0.6, 0.7], distance), ("x", [0.4, 0.55], lambda i, cost: 0.8 * distance(i, cost)), values=values)
    found = {family.name: [point.cost for point in family.points] for family in families(run.cells, run.shares, "feature")}
    assert found == {"ratio=0": [0.5, 0.6, 0.7], "ratio=0.5": [0.4, 0.55]}
    (compared,) = run.at_equal_cost
    assert (compared.cell, compared.against, compared.cost) == ("ratio=0.5", "ratio=0", 0.5)
    assert compared.effect == pytest.approx(0.8)


def test_a_repetition_is_no_point_of_a_family(study):
    run = study(("c", [0.6], distance), ("x", [0.5, 0.9], distance))
    rows = [replace(row, role="repeat") if row.cell == "x 0.9" else row for row in run.rows]
    assert [len(family.points) for family in families(Run(run.folder, run.config, rows).cells, run.shares, "feature")] == [1, 1]


def test_between_two_points_of_one_cost_there_is_nothing_to_interpolate():
    points = Point(0.5, "a", {("p", 0): 1.0}), Point(0.5, "b", {("p", 0): 2.0}), Point(0.7, "c", {("p", 0): 4.0})
    assert Family("f", points).at(0.5) == (("a",), {("p", 0): 1.0})
    cells, values = Family("f", points).at(0.6)
    assert cells == ("b", "c") and values["p", 0] == pytest.approx(3)


def test_a_run_whose_costs_have_no_shares_is_reported_as_before(study, capsys):
    run = study(("c", [0.6], distance), ("x", [0.5, 0.9], distance), costs=False)
    assert run.at_equal_cost == []
    assert main(["report", str(run.folder)]) == 0
    assert equal_cost.TITLE not in capsys.readouterr().out


def test_a_control_that_differs_in_its_ratio_alone_is_nothing_to_compare(study):
    run = study(("c", [0.6, 0.8], distance))
    cells = [replace(row, role="cell", against="c 0.1") if row.cell == "c 0.9" else row for row in run.rows]
    assert Run(run.folder, run.config, cells).at_equal_cost == []


def test_a_kept_finding_shows_the_comparison(study, capsys):
    run = study(("c", [0.6, 0.8], distance), ("x", [0.5, 0.9], lambda i, cost: 2 * distance(i, cost)))
    assert main(["report", str(run.folder)]) == 0
    said = capsys.readouterr().out
    assert equal_cost.TITLE in said and f"| x | {comparison.WORSE} | 0.600 | 2.00 |" in said


def test_the_page_compares_at_equal_cost_and_draws_over_it_where_it_is_known(tmp_path):
    run = Run.read(synthetic_run(tmp_path / "unknown").path)
    assert "cost of a step" not in pareto.pareto(run)[0]["name"]
    assert "At equal cost" not in write_report(run).read_text()
    run = Run.read(synthetic_run(tmp_path / "known", parts=("costs", "shares")).path)
    first = pareto.pareto(run)[0]
    assert first["name"].startswith("cost of a step") and "0.8" in str(first["plots"][0])
    page = write_report(run).read_text()
    assert "At equal cost" in page and comparison.NOT_COMPARABLE in page
    one_family = [replace(row, values={}) for row in run.rows]
    assert "At equal cost" not in write_report(Run(run.folder, run.config, one_family)).read_text()
