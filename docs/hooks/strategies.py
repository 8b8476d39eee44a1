"""The page of strategies, made from what is registered: one sentence, one image and the defaults of each."""

import inspect
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from mergekit_diff import MergeStrategy, make, names

MARKER = "<!-- strategies -->"
DOCS = Path(__file__).parents[1]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the strategies in the place of their marker."""
    return markdown.replace(MARKER, _strategies()) if MARKER in markdown else markdown


def _strategies() -> str:
    return "\n\n".join(_strategy(name, type(make("strategy", name))) for name in names("strategy"))


def _strategy(name: str, cls: type[MergeStrategy]) -> str:
    sentence = (inspect.getdoc(cls) or "").split("\n")[0]
    image = f"![which tokens {name} merges]({name}.png){{ width=256 }}"
    return f"## {name}\n\n{sentence}\n\n{image}\n\nSettings: [`{cls.__name__}`][{cls.__module__}.{cls.__qualname__}]."
