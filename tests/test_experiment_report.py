"""The page shows what the run folder holds, escaped and in one file; figures and maps show their numbers."""

import base64
import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from synthetic_run import CELLS, a_row, a_study, synthetic_run

from mergekit_diff.experiments.metrics import as_json, metrics
from mergekit_diff.experiments.report import images, labels, pareto, write_report
from mergekit_diff.experiments.report.columns import columns
from mergekit_diff.experiments.report.figures import INK, figure, svg
from mergekit_diff.experiments.report.merge_map import draw_map
from mergekit_diff.experiments.report.pareto import Point, front
from mergekit_diff.experiments.report.signatures import not_measured, signatures
from mergekit_diff.experiments.report.steps import shares
from mergekit_diff.experiments.report.verdict import verdict
from mergekit_diff.experiments.results import summary
from mergekit_diff.experiments.results.curves import curve, jump
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.results.images import open_frames
from mergekit_diff.experiments.results.numbers import between, decimals, show
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.tasks import VIDEO

PROMPT = "<script>alert(1)</script>"


@pytest.fixture
def folder(tmp_path):
    """A run of two cells without control, sets, costs or maps."""
    folder = RunFolder(tmp_path)
    folder.write_config(a_study(question="Is it <b>safe</b>?", prompts=[PROMPT]), ["run", "x"])
    (tmp_path / "images").mkdir()
    for job, cell in (("a", "base"), ("b", "retom")):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"images/{job}.png")
        role, metrics = ("base", {}) if cell == "base" else ("cell", {"psnr": math.inf})
        folder.append(a_row(job=job, base="a", cell=cell, role=role, prompt=PROMPT, strategy=cell, metrics=metrics))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with all its parts."""
    return synthetic_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run):
    return reported(run)


def reported(folder):
    return write_report(Run.read(folder.path)).read_text()


def test_the_page_is_one_file_and_prompts_are_escaped(folder):
    page = reported(folder)
    assert PROMPT not in page
    assert "&lt;script&gt;" in page
    assert "Is it &lt;b&gt;safe" in page
    assert page.count("data:image/png;base64,") == 2
    assert "://" not in page
    assert "∞" in page


def test_names_questions_and_figures_are_escaped_too(page):
    assert not re.search(r"<b>tomesd|<i>thing|Is it <b>", page)
    assert "&lt;b&gt;tomesd&lt;/b&gt; $x$" in page


def test_every_image_is_embedded_once(page):
    found = re.findall(r'src="data:image/png;base64,[^"]+', page)
    assert len(found) == len(set(found)) == 6 * (1 + len(CELLS))


def test_figures_of_one_page_share_no_id(page):
    found = re.findall(r'\bid="([^"]+)"', page)
    assert len(found) == len(set(found)) > 50
    assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page)) <= {(one, "") for one in found} | {
        ("", one) for one in found
    }


def test_the_same_folder_gives_the_same_page(run, page):
    assert reported(run) == page


def test_sheet_and_tables_lie_beside_the_page(folder):
    reported(folder)
    sheet = np.array(Image.open(folder.path / "sheet.png"))
    side, gap, label = 128, 4, 22
    for column in (0, 1):
        assert (sheet[label + 10, column * (side + gap) + 10] == (255, 0, 0)).all()
    text = (folder.path / "tables.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert [row.split("|")[1].strip() for row in rows] == ["cell", "---", "base", "retom"]


def test_a_report_without_images_is_refused(folder):
    folder.results.unlink()
    with pytest.raises(ValueError, match="no finished image"):
        reported(folder)


def test_parts_that_a_run_left_out_are_left_out(folder, page):
    bare = reported(folder)
    for part in ("maps", "steps", "speed"):
        assert f'<section id="{part}">' not in bare
    for part in ("trade", "cells", "images", "maps", "steps", "signs", "again"):
        assert f'<section id="{part}">' in page


@pytest.mark.parametrize(
    ("metric", "by", "reading"), [("feature", "ratio", "geometric mean"), ("ssim", "difference", "cell minus")]
)
def test_the_verdict_says_whether_it_compares_by_ratio_or_by_difference(tmp_path, metric, by, reading):
    better = {"feature": "lower", "ssim": "higher"}[metric]
    run = synthetic_run(tmp_path / "run", primary={"metric": metric, "better": better})
    found = verdict(Run.read(run.path))
    assert by in found.table[0] and reading in found.reading
    effects = [line[found.table[0].index(by)] for line in found.table[1:]]
    assert all(float(effect) > 1 if by == "ratio" else effect.startswith("-") for effect in effects)


@pytest.mark.parametrize(
    ("metric", "least", "scale"), [("feature", 0.01, "log"), ("feature", 0.0, "linear"), ("ssim", 0.5, "linear")]
)
def test_what_is_compared_by_ratio_is_drawn_by_ratio_unless_something_is_zero(metric, least, scale):
    axes = Figure().add_subplot()
    pareto.scale(axes, metrics()[metric], [Point("a", 1, least, least, least), Point("b", 2, 1, 0.9, 1.1)])
    assert axes.get_yscale() == scale


def test_the_distances_of_a_page_are_drawn_by_ratio(run):
    drawn, other = (str(plot) for plot in pareto.pareto(Run.read(run.path))[0]["plots"][:2])
    assert "feature distance" in drawn and "emoji text score" in other
    assert {"0.02", "0.05"} <= set(re.findall(r">([\d.]+)<", drawn)) and "0.04" not in re.findall(r">([\d.]+)<", drawn)


def test_without_a_primary_metric_or_a_control_no_verdict_is_given(run, folder, tmp_path):
    assert verdict(Run.read(run.path)).table
    for other in (folder, synthetic_run(tmp_path / "one", CELLS[:1], 2, parts=())):
        found = verdict(Run.read(other.path))
        assert "no verdict" in found.answer and not found.table


def test_a_cell_has_one_mark_all_over_the_page(run):
    run = Run.read(run.path)
    assert run.marks == {"base": "B"} | {cell: str(i) for i, cell in enumerate(CELLS, 1)}
    for cell, mark in run.marks.items():
        assert {"mark": mark, "cell": cell}.items() <= pareto.key(run)[list(run.marks).index(cell)].items()


def test_a_column_names_the_network_that_made_it_and_has_a_value_for_every_cell(run):
    found = {column.head: column for column in columns(Run.read(run.path))}
    assert all(len(column.entries) == 1 + len(CELLS) for column in found.values())
    assert found["feature distance ↓ (primary)"].dim == "Net (net 1.0)"
    assert found["PSNR dB ↑"].dim == ""
    assert "floor" in found["KID ↓"].dim and "6 against 400" in found["KID ↓"].dim
    assert found["PSNR dB ↑"].entries[0] == ("–", "", math.inf)  # noqa: RUF001
    assert {"compute", "plan", "merge", "unmerge", "attention", "memory"} <= set(found)


def test_what_nobody_measured_is_no_column(folder):
    assert [column.head for column in columns(Run.read(folder.path))] == ["#", "cell", "n", "PSNR dB ↑", "time"]


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_the_front_is_what_no_other_point_equals_for_less(better):
    draw = np.random.default_rng(0).integers(0, 12, (40, 2))
    points = [Point(str(i), float(x), float(y), 0, 0) for i, (x, y) in enumerate(draw)]
    sign = 1 if better == "higher" else -1
    found = front(points, better)
    for point in points:
        beaten = any(q.x <= point.x and sign * q.y >= sign * point.y and (q.x, q.y) != (point.x, point.y) for q in points)
        assert ((point.x, point.y) in [(q.x, q.y) for q in found]) == (not beaten)


def test_the_share_kept_counts_layers_that_only_others_merge(tmp_path):
    run = synthetic_run(tmp_path, CELLS[:2], 1, parts=())
    *_, last = run.rows().values()
    run.append(replace(last, tokens_before=1024, tokens_after=512.0))
    found = Run.read(run.path)
    assert [pareto.kept_share(found, cell) for cell in found.cells] == [1, 0.5, 1 - 512 / 4096]


def test_labels_lie_neither_on_each_other_nor_on_points():
    at = np.random.default_rng(0).random((24, 2)).tolist()
    drawn = Figure(figsize=(4.4, 3.3))
    axes = drawn.add_subplot()
    axes.scatter(*zip(*at, strict=True))
    drawn.draw_without_rendering()
    labels.place(axes, [(x, y) for x, y in at], [str(i) for i in range(24)], [])
    middles = axes.transData.transform([text.xy for text in axes.texts]) * 72 / drawn.dpi
    texts = labels.boxes(middles + [text.get_position() for text in axes.texts], 9, 9)
    covered = labels.overlap(texts, texts)
    assert covered[~np.eye(24, dtype=bool)].sum() < 0.02 * covered.trace()
    assert labels.overlap(texts, labels.boxes(middles, 4, 4)).sum() < 0.02 * covered.trace()


def test_no_point_hides_another_and_only_those_that_would_are_moved():
    axes = Figure(figsize=(4, 3)).add_subplot(xlim=(0, 1), ylim=(0, 1))
    points = [(0.5, 0.5), (0.5, 0.5), (0.5, 0.51), (0.5, 0.9)]
    moved = np.array(labels.apart(axes, points))
    np.testing.assert_allclose(moved[[0, 3]], [points[0], points[3]])
    np.testing.assert_allclose(moved[:, 1], [y for _, y in points])
    assert len(set(moved[:3, 0].round(6))) == 3


def test_a_figure_takes_the_colour_of_the_page_and_escapes_its_texts():
    with figure(2, 2) as drawn:
        drawn.add_subplot().set_title("<i>$x_1$</i>")
        text = svg(drawn, 'a "title"')
    assert "currentColor" in text and INK not in text
    assert "&lt;i&gt;$x_1$&lt;/i&gt;" in text and 'aria-label="a &#34;title&#34;"' in text
    assert "xmlns" not in text and "<style" not in text and not re.search(r'<svg[^>]* width="', text)


def test_a_curve_is_the_mean_over_prompts_and_lies_in_its_band():
    rows = [a_row(prompt=prompt, drift=[0.1 * i, 0.2 * i, None]) for i, prompt in enumerate(("a", "b", "b", "c"))]
    found = curve(rows, "drift")
    assert found is not None
    np.testing.assert_allclose(found.mean, [(0 + 0.15 + 0.3) / 3, (0 + 0.3 + 0.6) / 3, np.nan])
    assert (found.low[:2] < found.mean[:2]).all() and (found.mean[:2] < found.high[:2]).all()
    assert curve(rows, "stale") is None


def test_a_jump_is_the_largest_rise_not_the_largest_value():
    assert jump(np.array([0.1, 0.2, 0.6, 0.7, 0.75])) == (2, pytest.approx(0.4), pytest.approx(0.1))
    assert jump(np.array([0.5, 0.6]))[0] == 0


def test_shares_are_not_a_number_where_a_layer_was_not_called():
    sites = [{"by_step": {"0": [4, 2]}}, {"by_step": {"1": [4, 4]}}]
    np.testing.assert_array_equal(shares(sites, 2), [[0.5, np.nan], [np.nan, 1]])


def test_every_sign_of_failure_is_found_where_it_was_put(run):
    found = {sign.name: sign for sign in signatures(Run.read(run.path))}
    assert list(found) == ["over-merged detail", "incoherent background", "a jump at one timestep",
                           "worse than the base: emoji text score", "worse than the base: KID"]  # fmt: skip
    assert all("at step 5" in shown for shown, _, _ in found["a jump at one timestep"].cells.values())
    assert [off for _, _, off in found["worse than the base: KID"].cells.values()] == [False, True, True, True]
    assert all(off for _, _, off in found["worse than the base: emoji text score"].cells.values())
    assert [shown for shown, _, _ in found["over-merged detail"].cells.values()] == ["0.9025", "0.7990", "0.7073", "0.5966"]
    assert found["worse than the base: emoji text score"].cells[CELLS[3]][0].startswith("-0.2")


def test_heavy_images_are_shrunk_and_few_enough(tmp_path, monkeypatch):
    run = Run.read(synthetic_run(tmp_path, CELLS[:1], 3, side=300, parts=()).path)
    monkeypatch.setattr(images, "IMAGES", 4)
    assert not images.grid(run).shrunk
    monkeypatch.setattr(images, "WEIGHT", 1000)
    shown = images.grid(run)
    assert shown.shrunk and len(shown.lines) == 2
    assert all(one["data"].startswith("data:image/webp") for line in shown.lines for one in line["images"])


# videos


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A run of videos of three frames with all its parts."""
    return synthetic_run(tmp_path_factory.mktemp("videos"), frames=3)


def test_a_film_has_every_frame_of_its_video_exactly(videos):
    run = Run.read(videos.path)
    shown = images.grid(run)
    assert (shown.frames, shown.total, shown.shrunk, len(shown.lines)) == (3, 3, False, 6)
    for line in shown.lines:
        for one in line["images"]:
            film = VIDEO.read(run.folder / next(row.image for row in run.cells[one["cell"]] if row.prompt == line["prompt"]))
            data = base64.b64decode(one["data"].removeprefix("data:image/png;base64,"))
            pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)
            assert torch.equal(pixels, film.transpose(0, 1).reshape(3, 48, 16)) and one["shape"] == "16 / 16"


def test_the_page_of_videos_has_a_player_and_each_film_once(videos, page):
    text = reported(videos)
    found = re.findall(r'src="data:image/png;base64,[^"]+', text)
    assert len(found) == len(set(found)) == 6 * (1 + len(CELLS))
    assert text.count('class="film" style="--frames: 3; aspect-ratio: 16 / 16"') == len(found)
    assert '<div class="player" hidden>' in text and 'max="2"' in text and "<h2>Videos</h2>" in text
    assert "://" not in text and "s/video" in text
    assert '<div class="player"' not in page and 'class="film"' not in page


def test_the_sheet_of_videos_has_strips_of_frames(videos):
    reported(videos)
    sheet = np.array(Image.open(videos.path / "sheet.png"))
    run, side, gap, label = Run.read(videos.path), 128, 4, 22
    width = 3 * side + gap
    assert sheet.shape[1] == width * (1 + len(CELLS))
    second = open_frames(videos.path / run.cells[CELLS[1]][0].image)
    for i, frame in enumerate(second):
        left = 2 * width + i * side
        expected = np.array(frame.resize((side, side), Image.Resampling.LANCZOS))
        assert (sheet[label : label + side, left : left + side] == expected).all()


def test_maps_of_videos_show_the_planes_of_the_grid_in_a_row(videos):
    first, *_ = images.maps(Run.read(videos.path))
    (one,) = first["maps"]
    assert (one["grid"], one["tokens"], one["long"]) == ("3 x 4 x 4", 48, True)
    strip = Image.open(io.BytesIO(base64.b64decode(one["data"].partition(",")[2])))
    assert strip.size == (3 * images.SIDE + 2 * 8, images.SIDE)


def test_long_videos_are_shown_with_fewer_frames_and_fewer_prompts(tmp_path, monkeypatch):
    run = Run.read(synthetic_run(tmp_path, CELLS[:1], 3, parts=(), frames=5).path)
    monkeypatch.setattr(images, "FRAMES", 3)
    monkeypatch.setattr(images, "IMAGES", 12)
    monkeypatch.setattr(images, "WEIGHT", 100)
    shown = images.grid(run)
    assert (shown.frames, shown.total, shown.shrunk, len(shown.lines)) == (3, 5, True, 2)
    assert all(one["frames"] == 3 and one["data"].startswith("data:image/webp") for line in shown.lines for one in line["images"])
    assert "Of 5 frames, 3 at equal distances." in write_report(run).read_text()


def test_flicker_is_a_sign_of_failure_of_videos_alone(videos, run):
    of_videos, of_images = Run.read(videos.path), Run.read(run.path)
    assert "flicker" in not_measured(of_videos) and "flicker" not in not_measured(of_images)
    measured = [replace(row, metrics=row.metrics | {"flicker": 2.0}) for row in of_videos.rows]
    study = of_videos.study | {"metrics": [*of_videos.study["metrics"], "flicker"]}
    found = signatures(Run(videos.path, of_videos.config | {"study": study}, measured))
    assert {cell: sign[0] for cell, sign in next(one for one in found if one.name == "flicker").cells.items()} == dict.fromkeys(
        CELLS, "2.000"
    )


def test_a_column_shows_four_figures_of_its_largest_number():
    assert decimals([27.071, 3.0, math.inf, None]) == 2
    assert [show(value, 2) for value in (27.071, None, math.nan, math.inf)] == ["27.07", "–", "–", "∞"]  # noqa: RUF001
    assert (between(0.1, 0.2, 1), between(math.nan, math.nan, 1)) == ("0.1 to 0.2", "")


def test_a_map_colours_merged_tokens_and_leaves_the_others_bare():
    one_map = {"grid": [2, 2], "assign": [0, 0, 1, 2], "rep": [0, 2, 3]}
    drawn = np.array(draw_map(Image.new("RGB", (16, 16), "white"), one_map, side=64))
    assert drawn.shape == (64, 64, 3)
    assert (drawn[40:, 8:24] == 255).all()
    assert (drawn[4:8, 4:60] != 255).any(axis=-1).all()


def test_an_infinite_value_survives_json_and_the_mean():
    assert float(json.loads(json.dumps(as_json(math.inf)))) == math.inf
    assert summary.mean([1.0, math.inf]) == math.inf
    assert summary.mean([None]) is None
