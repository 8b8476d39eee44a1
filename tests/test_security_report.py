"""A run folder from somebody else: its report shows text as text, reads nothing outside the folder and writes nothing there."""

import io
import json
import re

import pytest
from PIL import Image, PngImagePlugin
from synthetic_run import CELLS, a_row, a_study, synthetic_run

from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.report.merge_map import draw_map
from mergekit_diff.experiments.results import images
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.results.images import is_whole, open_frames
from mergekit_diff.experiments.results.row import Row
from mergekit_diff.experiments.results.tables import markdown
from mergekit_diff.experiments.tasks import VIDEO

BREAKOUTS = (
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(1)</script>",
    "' onload='alert(1)",
    "--></style><svg onload=alert(1)>",
    "{{ 7 * 7 }}",
    "<!-- end -->",
    "\x1b]0;x\x07\x00",
)


@pytest.fixture
def folder(tmp_path):
    """A run with two images beside a file that is not its own."""
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "secret.png")
    folder = RunFolder(tmp_path / "run")
    folder.write_config(a_study(), ["run", "x"])
    (folder.path / "images").mkdir()
    for job, cell, role in (("a", "base", "base"), ("b", "retom", "cell")):
        Image.new("RGB", (8, 8), "red").save(folder.path / f"images/{job}.png")
        folder.append(a_row(job=job, base="a", cell=cell, role=role, metrics={"psnr": 20.0} if role == "cell" else {}))
    return folder


def refused(folder, capsys, code=2):
    """The one line with which a report is refused."""
    assert main(["report", str(folder.path)]) == code
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1 and said.out == "" and len(said.err) < 1000
    assert not (folder.path / "report.html").exists()
    return said.err


def change(folder, **fields):
    """Give the second row other fields."""
    first, second = folder.results.read_bytes().splitlines(keepends=True)
    folder.results.write_bytes(first + json.dumps(json.loads(second) | fields).encode() + b"\n")


def test_hostile_text_stays_text_wherever_the_page_shows_it(tmp_path):
    text = " ".join(BREAKOUTS)
    cell = f"cell {text}"
    folder = synthetic_run(tmp_path / "run", cells=(*CELLS[:2], cell), prompts=2)
    config = folder.config()
    study = config["study"] | {"question": text, "hypothesis": text, "model": text}
    folder.write_config(study, ["run", text])
    lines = [json.loads(line) for line in folder.results.read_bytes().splitlines()]
    spoiled = [line | {"prompt": f"{line['prompt']} {text}", "strategy": text, "notes": [text]} for line in lines]
    folder.results.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in spoiled))
    assert main(["report", str(folder.path)]) == 0
    page = (folder.path / "report.html").read_text()
    outside = re.sub(r"<style>.*?</style>|<script type=\"module\">.*?</script>", "", page, flags=re.DOTALL)
    tags = re.findall(r"<[a-z!/][^>]*>", re.sub(r'"[^"]*"', '""', outside))
    assert not [tag for tag in tags if re.search(r"<script|<svg on|<img src|\son\w+\s*=|<!--", tag)]
    assert "{{ 7 * 7 }}" in page
    assert page.count("default-src 'none'") == 1
    assert "\x1b" not in (tables := (folder.path / "tables.md").read_text()) and "<img" not in tables and "<!-- end" not in tables


@pytest.mark.parametrize(
    "name", ["../secret.png", "images/../../secret.png", "{outside}/secret.png", "images/link.png", "dir/secret.png"]
)
def test_images_outside_the_folder_are_not_shown(name, folder, capsys):
    (folder.path / "images/link.png").symlink_to(folder.path.parent / "secret.png")
    (folder.path / "dir").symlink_to(folder.path.parent)
    change(folder, image=name.format(outside=folder.path.parent))
    assert "expected a file inside" in refused(folder, capsys)


@pytest.mark.parametrize("job", ["../../secret", "link"])
def test_maps_outside_the_folder_are_not_read(job, folder, capsys):
    secret = folder.path.parent / "secret.json"
    secret.write_text('{"image": "images/a.png", "prompt": "secret", "sites": [], "maps": []}')
    (folder.path / "maps").mkdir()
    (folder.path / "maps" / "link.json").symlink_to(secret)
    change(folder, job=job)
    assert "expected a file inside" in refused(folder, capsys)


@pytest.mark.parametrize("name", ["costs.json", "sets.json", "speed.csv", "config.yaml", "results/rank0.jsonl"])
def test_other_files_outside_the_folder_are_not_read(name, folder, capsys):
    secret = folder.path.parent / "secret"
    secret.write_bytes((folder.path / name).read_bytes() if (folder.path / name).exists() else b"{}")
    (folder.path / name).unlink(missing_ok=True)
    (folder.path / name).symlink_to(secret)
    assert "expected a file inside" in refused(folder, capsys)


@pytest.mark.parametrize(
    "name", ["report.html", "sheet.png", "tables.md", ".report.html.part", ".sheet.png.part", ".tables.md.part"]
)
def test_a_report_writes_through_no_link(name, folder):
    mine = folder.path.parent / "mine"
    mine.write_text("mine")
    (folder.path / name).symlink_to(mine)
    assert main(["report", str(folder.path)]) == 0
    assert mine.read_text() == "mine"


def test_a_lock_is_taken_through_no_link(folder):
    mine = folder.path.parent / "mine"
    mine.write_text("mine")
    (folder.path / ".lock").symlink_to(mine)
    with pytest.raises(OSError), folder.lock():
        pass
    assert mine.read_text() == "mine"


FIELDS = {
    "prompt": [None, 3, ["x"], {}],
    "cell": [None, {}, ["x"]],
    "seed": ["0", 0.5, None, True],
    "role": [3],
    "seconds": ["1", None, "NaN", [1]],
    "step_seconds": [None, ["x"], {}, [None]],
    "notes": ["x", [3]],
    "kept": [["x"], 3],
    "merging": [3, [], {}, {"refresh": 0}, {"refresh": "x"}, {"refresh": 1e99}],
    "values": [None, []],
    "image": [None, 3, "a\0b"],
    "made_by": [{"psnr": 3}],
    "features": [3],
    "psnr": [None, "x", [], {}, 10**400],
    "unknown": [1],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in FIELDS.items() for value in values])
def test_a_row_with_a_field_of_another_type_is_refused(field, value, folder, capsys):
    change(folder, **{field: value})
    said = refused(folder, capsys)
    assert "expected a row" in said or "expected a file inside" in said


@pytest.mark.parametrize("line", ["NaN", "[]", "3", "", "{}", "[" * 99_999, '{"job": NaN}', "\xff"])
def test_a_line_that_is_no_row_is_refused(line, folder, capsys):
    folder.results.write_bytes(line.encode("latin-1") + b"\n")
    assert "expected a row" in refused(folder, capsys)


SIDE_FILES = {
    "costs.json": ["[]", "3", "{", "[" * 99_999, '{"base": 3}', '{"base": {"share": "x"}, "retom": {"share": []}}'],
    "sets.json": ["[]", "null", '{"base": [3]}', '{"base": {"nothing": {}}}'],
    "speed.csv": ["variant\nx\n", "x" * 200_000 + "\n"],
    "maps/b.json": ["[]", "{}", '{"image": "../secret.png"}'],
    "config.yaml": ["study: {}", "study: {prompts: 3}", "study: {prompts: [[]], metrics: [x]}", "study: []", "- 3"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in SIDE_FILES.items() for text in texts])
def test_side_files_that_no_run_wrote_are_refused_in_one_line(name, text, folder, capsys):
    (folder.path / "maps").mkdir()
    (folder.path / name).write_text(text)
    refused(folder, capsys)


@pytest.mark.parametrize(
    "changes", [{"assign": [0, 0, 10**15, 1]}, {"assign": [-1, 0, 0, 0]}, {"rep": [4]}, {"grid": [2, 10**9]}, {"grid": [0, 4]}]
)
def test_a_map_of_absurd_size_is_not_drawn(changes):
    good = {"grid": [2, 2], "assign": [0, 0, 1, 2], "rep": [0, 2, 3]}
    assert draw_map(Image.new("RGB", (8, 8)), good)
    with pytest.raises((ValueError, ZeroDivisionError)):
        draw_map(Image.new("RGB", (8, 8)), good | changes)


def png_that_says(width, height):
    """A small PNG whose header tells another size; its checksums are right."""
    data = io.BytesIO()
    PngImagePlugin.putchunk(data, b"IHDR", width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0")
    PngImagePlugin.putchunk(data, b"IDAT", b"x")
    PngImagePlugin.putchunk(data, b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data.getvalue()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_of_absurd_size_is_not_decoded(folder, capsys, monkeypatch):
    path = folder.path / "images/b.png"
    path.write_bytes(png_that_says(2**30, 2**30))
    assert not is_whole(path)
    assert "expected a whole image" in refused(folder, capsys)
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(9)]
    path.write_bytes(VIDEO.encode(frames))
    assert len(open_frames(path)) == 9
    monkeypatch.setattr(images, "PIXELS", 8 * 8 * 8)
    with pytest.raises(ValueError, match="576 pixels, more than 512"):
        open_frames(path)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "EPS", "BMP", "PDF"])
def test_only_png_is_taken_for_an_image_of_a_run(format, folder, capsys):
    Image.new("RGB", (8, 8), "red").save(folder.path / "images/b.png", format=format)
    assert not is_whole(folder.path / "images/b.png")
    assert "expected a whole image" in refused(folder, capsys)


def test_markdown_of_tables_has_no_html_and_no_links():
    said = markdown("t", [["cell", "p"], ["<script>x</script> <!-- end --> [a](javascript:x) |\nb", "< 0.05"]])
    assert "&lt;script>" in said and "&lt;!--" in said and "](" not in said and "\\|" in said and "| < 0.05 |" in said
    assert len(said.splitlines()) == 5


def test_a_prompt_names_no_file(tmp_path):
    from mergekit_diff.experiments.run.single import single_study
    from mergekit_diff.experiments.study.jobs import jobs
    from mergekit_diff.experiments.study.sweep import cells

    for prompt in ("../../x", "/etc/passwd", "a\0b", "x" * 9999, "con", "-rf"):
        for job in jobs(cells(single_study(prompt, ["model=emoji"])), "weights"):
            assert re.fullmatch(r"images/[0-9a-f]{16}\.png", job.image) and re.fullmatch(r"[0-9a-f]{16}", job.id)


def test_a_row_that_a_run_writes_is_read_back():
    row = a_row(merging={"refresh": 2}, kept=[1, 0.5], stale=[None, 0.25], tokens_before=3, metrics={"psnr": float("inf")})
    assert Row.parse(row.line(), "x") == row
