"""A page a study that was run: its question, its answer and its tables, computed from the kept rows, and what the log says."""

import contextlib
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from generated import add, extend_nav
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from texts import ROOT, section

from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.study.loading import PROMPTS, STUDIES, load_study, read_prompts

FINDINGS = ROOT / "experiments" / "findings"
LISTS = ("<!-- findings -->", "<!-- studies -->")
AGAIN = "-b"
ASKED = ("strategy", "merging", "sweep", "control", "steps", "seeds", "guidance")
CORRECTIONS = "log.md#2026-11-24-corrections"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Generate the pages."""
    pages = [add(files, config, f"findings/{folder.name}.md", _page(folder)) for folder in _folders()]
    extend_nav(config, "Findings", [{"Studies": pages}])
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the tables of all findings and of all studies in the place of their markers."""
    for marker, table in zip(LISTS, (_overview, _studies), strict=True):
        markdown = markdown.replace(marker, table()) if marker in markdown else markdown
    return markdown


def _folders() -> list[Path]:
    return sorted(path.parent for path in FINDINGS.glob("*/rows.jsonl.gz"))


@cache
def _report(folder: Path) -> str:
    """What ``mergekit-diff report`` prints of kept rows."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if main(["report", str(folder)]):
            raise ValueError(f"{folder} gives no report")
    return printed.getvalue()


def _config(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def _page(folder: Path) -> str:
    """Question, hypothesis, what all cells have in common, answer, the log's reading of it, the tables, and the command."""
    question, common, answer, *tables = _report(folder).strip().split("\n\n")
    name, second = folder.name.removesuffix(AGAIN), folder.name.endswith(AGAIN)
    parts = [
        f"---\nhide: [toc]\n---\n\n# {folder.name}",
        f"**{question}**",
        f"*Hypothesis, written down before:* {_config(folder)['study']['hypothesis'].strip()}",
        common,
        f"*Answer by the rule:* {answer}",
        _reading(name, second),
        *tables,
        f"Computed from the rows by `mergekit-diff report experiments/findings/{folder.name}`. {_again(folder)}",
    ]
    return "\n\n".join(parts)


def _again(folder: Path) -> str:
    """The command that repeats the study, or in what the study has changed since its rows were made."""
    config = _config(folder)
    name, then = config["command"].split()[2], config["study"]
    now = load_study(name).record()
    listed = next((path.stem for path in sorted(PROMPTS.glob("*.txt")) if read_prompts(path.stem) == then["prompts"]), "LIST")
    prompts = "" if now["prompts"] == then["prompts"] else f" prompts={listed}"
    changed = ", ".join(f"`{key}`" for key in ASKED if now[key] != then[key])
    if changed:
        asks = f"`mergekit-diff run {name}` asks it as it is now"
        return f"Its prompts were `{listed}`. The study has since been changed ({changed}): {asks}."
    model = "" if now["model"] == then["model"] else " model=FOLDER"
    return f"`mergekit-diff run {name}{prompts}{model}` asks again."


def _reading(name: str, second: bool) -> str:
    """The bullets of the log, which also say what was corrected later."""
    text = section((ROOT / "experiments" / "LOG.md").read_text(encoding="utf-8"), f"{name}, repeated" if second else name)
    return re.sub(r"\bthe(\s+)corrections", rf"the\1[corrections]({CORRECTIONS})", text[text.index("\n* ") :].strip())


def _overview() -> str:
    rows = []
    for folder in _folders():
        _, _, answer, *_ = _report(folder).strip().split("\n\n")
        rows.append(f"| [{folder.name}]({folder.name}.md) | {_config(folder)['study']['question']} | {answer} |")
    return "\n".join(["| study | question | answer by the rule |", "|---|---|---|", *rows])


def _studies() -> str:
    files = sorted(STUDIES.glob("*.yaml"))
    questions = [(path.stem, yaml.safe_load(path.read_text(encoding="utf-8"))["question"]) for path in files]
    return "\n".join(["| study | question |", "|---|---|", *[f"| `{name}` | {question} |" for name, question in questions]])
