"""The page shows what the run folder holds, escaped and in one file; a merge map shows the plan."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from mergekit_diff.experiments import summary
from mergekit_diff.experiments.folder import RunFolder
from mergekit_diff.experiments.metrics import as_json, metrics
from mergekit_diff.experiments.report import write_report
from mergekit_diff.experiments.report.merge_map import draw_map

PROMPT = "<script>alert(1)</script>"


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path)
    study = {"question": "Is it <b>safe</b>?", "hypothesis": "", "model": "m", "steps": 1, "guidance": 1.0, "seeds": 1}
    folder.write_config(study | {"metrics": ["psnr"], "primary": None}, ["run", "x"])
    (tmp_path / "images").mkdir()
    for job, cell in (("a", "base"), ("b", "retom")):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"images/{job}.png")
        row = {"job": job, "cell": cell, "role": "cell", "prompt": PROMPT, "seed": 0, "strategy": cell}
        folder.append(row | {"image": f"images/{job}.png"} | ({"psnr": "inf"} if cell != "base" else {}))
    return folder


def test_the_page_is_one_file_and_prompts_are_escaped(folder):
    page = write_report(folder).read_text()
    assert PROMPT not in page
    assert "&lt;script&gt;" in page
    assert "Is it &lt;b&gt;safe" in page
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page
    assert "∞" in page


def test_sheet_and_tables_lie_beside_the_page(folder):
    write_report(folder)
    sheet = np.array(Image.open(folder.path / "sheet.png"))
    side, gap, label = 128, 4, 22
    for column in (0, 1):
        assert (sheet[label + 10, column * (side + gap) + 10] == (255, 0, 0)).all()
    text = (folder.path / "tables.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert [row.split("|")[1].strip() for row in rows] == ["strategy", "---", "base", "retom"]


def test_a_report_without_pictures_is_refused(folder):
    folder.results.unlink()
    with pytest.raises(ValueError, match="no finished picture"):
        write_report(folder)


def test_a_map_colours_merged_tokens_and_leaves_the_others_bare():
    one_map = {"grid": [2, 2], "assign": [0, 0, 1, 2], "rep": [0, 2, 3]}
    drawn = np.array(draw_map(Image.new("RGB", (16, 16), "white"), one_map, side=64))
    assert drawn.shape == (64, 64, 3)
    assert (drawn[40:, 8:24] == 255).all()
    assert (drawn[4:8, 4:60] != 255).any(axis=-1).all()


@pytest.mark.parametrize("name", list(metrics()))
def test_a_metric_is_best_for_the_same_picture(name):
    draw = torch.Generator().manual_seed(0)
    base = torch.randint(0, 256, (3, 32, 32), generator=draw, dtype=torch.uint8)
    noise = [torch.randint(-a, a + 1, base.shape, generator=draw) for a in (4, 64)]
    near, far = ((base.int() + n).clamp(0, 255).to(torch.uint8) for n in noise)
    metric = metrics()[name]
    values = [metric.measure(picture, base) for picture in (base, near, far)]
    assert values == sorted(values, reverse=metric.better == "higher")
    assert values[1] != values[2]


def test_an_infinite_value_survives_json_and_the_mean():
    assert float(json.loads(json.dumps(as_json(math.inf)))) == math.inf
    assert summary.mean([1.0, "inf"]) == math.inf
    assert summary.mean([None]) is None
