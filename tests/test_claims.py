"""FINDINGS.md says what the kept rows say, and its sentences name no numbers."""

from pathlib import Path

import pytest
import yaml

import mergekit_diff.experiments
from mergekit_diff.experiments.results import claims

FINDINGS = Path(mergekit_diff.experiments.__path__[0]) / "findings"
GOOD = {
    "question": "Is it so?",
    "answer": "It is.",
    "evidence": {"share": ["share=['cfg']"]},
    "confounds": "None known.",
    "unknown": "Why.",
}


def write(folder, **changes):
    (folder / "claims.yaml").write_text(yaml.safe_dump({"What": [GOOD | changes]}))
    for name in ("share", "terrain", "terrain-first"):
        (folder / name).symlink_to(FINDINGS / name)
    return folder


def test_the_text_is_of_the_rows_that_are_kept():
    path = FINDINGS.parent.parent / "FINDINGS.md"
    assert f"<!-- claims -->\n\n{claims.text(FINDINGS).strip()}\n\n<!-- end -->\n" in path.read_text(encoding="utf-8")


def test_the_strongest_stand_in_the_readme_as_the_rows_have_them():
    listed = claims.strongest(FINDINGS)
    assert listed.count("\n* ") == 4 and listed.count("`mergekit-diff report experiments/findings/") == 5
    readme = (FINDINGS.parent.parent / "README.md").read_text(encoding="utf-8")
    assert f"<!-- strongest findings -->\n\n{listed}\n\n<!-- end -->\n" in readme


def test_a_strong_sentence_has_no_numbers_either(tmp_path):
    one = {"finding": "Half, 0.5x, as far", "study": "share", "cell": "share=['cfg']"}
    (write(tmp_path) / "claims.yaml").write_text(yaml.safe_dump({"strongest findings": [one]}))
    with pytest.raises(ValueError, match=r"expected a sentence without numbers, got '0\.5'"):
        claims.strongest(tmp_path)


def test_a_claim_stands_with_its_model_its_effect_and_its_look(tmp_path):
    evidence = {"share": ["share=['cfg']"], "terrain": ["retom, proportional=True, steps=1"]}
    text = claims.text(write(tmp_path, evidence=evidence))
    assert "## What" in text and "### Is it so?" in text and "Measured on `emoji`, `terrain`." in text
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(("| emoji", "| terrain"))]
    assert lines[0][4:] == [
        "feature distance 0.73x [0.68, 0.78]", "+1.0 [+0.9, +1.2]", "-0.0043 [-0.0068, -0.0018]", "64", "first", "better"
    ]  # fmt: skip
    assert lines[1][4].startswith("PSNR of the relief +0.8 [") and lines[1][-2:] == ["second", "can't tell at this n"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "It is 0.73x as far."}, "claim 'Is it so.': expected a sentence without numbers, got '0.7'"),
        ({"answer": "A third, 33%, less."}, "expected a sentence without numbers, got '33%'"),
        ({"evidence": {}}, "expected evidence, got none"),
        ({"evidence": {"share": ["share=['all']"]}}, r"expected a cell of share that is compared, got .*; possible: .*cfg"),
        ({"evidence": {"never-run": ["x"]}}, "expected kept rows in .*never-run, got none"),
        ({"because": "x"}, "expected claims of answer, confounds, evidence, question, unknown, got answer, because"),
    ],
)
def test_a_claim_without_its_rows_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        claims.text(write(tmp_path, **changes))
