"""The tables of a run are put where their markers are, and nowhere else."""

import pytest

from mergekit_diff.experiments.results.pasting import paste_tables


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tables.md").write_text("| a |\n|---|\n| \\1 |\n")
    return tmp_path / "mine"


def test_tables_replace_the_old_ones_again_and_again(folder, tmp_path):
    text = tmp_path / "README.md"
    text.write_text("x\n<!-- tables of other -->\nold\n<!-- end -->\n<!-- tables of mine -->\nold\n<!-- end -->\ny\n")
    for _ in range(2):
        paste_tables(folder, text)
        whole = text.read_text()
        other, mine = whole.split("<!-- tables of mine -->")
        assert other == "x\n<!-- tables of other -->\nold\n<!-- end -->\n"
        assert mine == "\n\n| a |\n|---|\n| \\1 |\n\n<!-- end -->\ny\n"


def test_tables_come_into_an_empty_place_and_what_is_behind_it_stays(folder, tmp_path):
    text = tmp_path / "README.md"
    text.write_text("<!-- tables of mine -->\n<!-- end -->\n<!-- tables of other -->\nold\n<!-- end -->\n")
    paste_tables(folder, text)
    assert text.read_text().endswith("|\n\n<!-- end -->\n<!-- tables of other -->\nold\n<!-- end -->\n")


@pytest.mark.parametrize(("content", "hint"), [("no markers", "tables of mine"), (None, "expected a text file")])
def test_a_text_without_markers_is_refused_and_left_alone(content, hint, folder, tmp_path):
    text = tmp_path / "README.md"
    if content is not None:
        text.write_text(content)
    with pytest.raises(ValueError, match=hint):
        paste_tables(folder, text)
    assert (text.read_text() if content is not None else None) == content
