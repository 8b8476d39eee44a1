"""The reference of the Python interface: a page for each module of the library and for each package of the experiments.

strategies/ and experiments/ are at the top of the repository but installed inside the package, which griffe cannot follow.
So build/api gets a copy of the sources as they are installed, and mkdocs.yml points there. In the copy, examples are fenced
and Sphinx roles are plain code, since docstrings are rendered as Markdown.
"""

import inspect
import re
import shutil
from pathlib import Path

from generated import add, extend_nav
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import Files

import mergekit_diff

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / "build" / "api"
HOMES = {"mergekit_diff": ".", "strategies": "strategies", "experiments": "experiments"}
PACKAGES = ("models", "study", "run", "results", "tasks", "metrics", "report", "bench", "tracking")
EXAMPLE = re.compile(r'^(( *)>>> .*\n(?:\2(?!""").+\n)*)', re.MULTILINE)
ROLE = re.compile(r":(?:func|class|meth|mod):`[.~]*([^`]+)`")
DEFINES = re.compile(r"^(class|def) [A-Za-z]", re.MULTILINE)
HEAD = "---\ntitle: {}\nsearch:\n  boost: 0.5\n---\n\n"


@event_priority(100)  # before mkdocstrings looks at its paths
def on_config(config: MkDocsConfig) -> None:
    """Copy the sources to where they are when installed."""
    shutil.rmtree(INSTALLED, ignore_errors=True)
    for folder, home in HOMES.items():
        for path in (ROOT / folder).rglob("*.py"):
            target = INSTALLED / "mergekit_diff" / home / path.relative_to(ROOT / folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = EXAMPLE.sub(r"\2```pycon\n\1\2```\n", path.read_text(encoding="utf-8"))
            target.write_text(ROLE.sub(r"`\1`", text), encoding="utf-8")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Generate the pages, so that they follow the packages."""
    front = add(files, config, "api/index.md", _front())
    library = [add(files, config, f"api/{name}.md", _page(name, [name])) for name in _modules("mergekit_diff")]
    names = _modules("strategies", "mergekit_diff.strategies")
    strategies = add(files, config, "api/mergekit_diff.strategies.md", _page("mergekit_diff.strategies", names))
    experiments = []
    for package in PACKAGES:
        name = f"mergekit_diff.experiments.{package}"
        modules = _modules(f"experiments/{package}", name)
        if modules:
            experiments.append(add(files, config, f"api/{name}.md", _page(name, modules)))
    extend_nav(config, "API", [front, {"Library": library}, strategies, {"Experiments": experiments}])
    return files


def _modules(folder: str, package: str | None = None) -> list[str]:
    """Dotted names of the public modules in a folder and below it; of a package only if it defines something itself."""
    names = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = [package or folder, *path.relative_to(ROOT / folder).with_suffix("").parts]
        if parts[-1] == "__init__" and DEFINES.search(path.read_text(encoding="utf-8")):
            parts.pop()
        if not any(part.startswith("_") for part in parts):
            names.append(".".join(parts))
    return names


def _page(title: str, modules: list[str]) -> str:
    head = HEAD.format(title.removeprefix("mergekit_diff.").removeprefix("experiments."))
    if modules == [title]:
        return f"{head}::: {title}\n    options:\n      heading_level: 1\n"
    return f"{head}# `{title}`\n\n" + "\n".join(f"::: {module}\n    options:\n      heading_level: 2\n" for module in modules)


def _front() -> str:
    """The public names of ``mergekit_diff``, each with its first line and a link."""
    rows = []
    for name in mergekit_diff.__all__:
        public = getattr(mergekit_diff, name)
        first = ROLE.sub(r"`\1`", (inspect.getdoc(public) or "").split("\n")[0]).replace("|", "\\|")
        rows.append(f"| [`{name}`][{public.__module__}.{public.__qualname__}] | {first} |")
    table = "\n".join(["| name | |", "|---|---|", *rows])
    return f"# API\n\nWhat `from mergekit_diff import ...` offers:\n\n{table}\n\nEvery module has a page of its own.\n"
