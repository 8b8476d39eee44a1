"""Whatever is typed ends with exit code 0, or with one line and exit code 2; nothing is made before the input was checked."""

import contextlib
import io
import warnings

import pytest
import typed
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mergekit_diff import make
from mergekit_diff.experiments.bench import command
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.run import runner, single
from mergekit_diff.options import Options
from mergekit_diff.registry import KINDS, Part


class Checked(Exception):
    """All that is checked before anything heavy was checked."""


def checked(*_):
    raise Checked


@pytest.fixture
def ends(tmp_path, monkeypatch):
    """Runs words up to where the work would begin, in an empty folder; says how they end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "check_writable", checked)
    monkeypatch.setattr(single, "check_writable", checked)
    monkeypatch.setattr(command, "use_threads", checked)

    def run(words):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                code = main(words)
            except SystemExit as end:
                code = end.code or 0
            except Checked:
                code = 0
        said = err.getvalue()
        assert (code, said) == (0, "") or (code == 2 and said.count("\n") == 1 and said.startswith("mergekit-diff: error: ")), (
            said
        )
        assert {path.name for path in tmp_path.iterdir()} <= {"study.yaml"}
        return code, said

    return run


def often(examples):
    """As many examples as asked: the same ones at every change, others every night."""
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=examples, derandomize=examples <= 100, deadline=None, database=None, suppress_health_check=slow)


EXAMPLES = pytest.mark.parametrize("examples", [100, pytest.param(5000, marks=pytest.mark.nightly)])


@EXAMPLES
def test_words_of_the_command_line(examples, ends):
    codes = []

    @often(examples)
    @given(typed.commands)
    @example(["run", "quickstart"])
    @example(["generate", "x"])
    @example(["bench"])
    def check(words):
        codes.append(ends(words)[0])

    check()
    assert {0, 2} == set(codes)


@EXAMPLES
def test_study_files(examples, ends, tmp_path):
    @often(examples)
    @given(typed.files)
    def check(text):
        (tmp_path / "study.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
        ends(["run", "study.yaml"])

    check()


@EXAMPLES
def test_settings_of_parts(examples):
    @often(examples)
    @given(st.sampled_from(sorted(KINDS)), st.one_of(typed.named, typed.values))
    def check(kind, spec):
        try:
            assert isinstance(make(kind, spec), Part)
        except ValueError as error:
            assert "\n" not in str(error)

    check()


@EXAMPLES
def test_options_of_merging(examples):
    names = [name for name in Options.__dataclass_fields__]

    @often(examples)
    @given(st.dictionaries(st.sampled_from(names), typed.values, max_size=3))
    def check(options):
        try:
            Options(**options)
        except ValueError as error:
            assert "\n" not in str(error)

    check()
