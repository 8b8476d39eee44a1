"""The page of strategies, made from what is registered: a table, and one sentence, one image and the defaults of each."""

import inspect
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from mergekit_diff import MergeStrategy, make, names
from mergekit_diff.experiments.listing import table_of_strategies

MARKER = "<!-- strategies -->"
IMAGES = Path(__file__).parents[1] / "strategies"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the strategies in the place of their marker."""
    return markdown.replace(MARKER, _strategies()) if MARKER in markdown else markdown


def _strategies() -> str:
    """The table that README has too, and a section for each."""
    return "\n\n".join([table_of_strategies(), *(_strategy(make("strategy", name)) for name in names("strategy"))])


def _strategy(strategy: MergeStrategy) -> str:
    cls, name = type(strategy), strategy.name
    sentence = (inspect.getdoc(cls) or "").split("\n")[0]
    image = f"![which tokens {name} merges]({name}.png){{ width=256 }}" if (IMAGES / f"{name}.png").is_file() else ""
    defaults = strategy.defaults()
    where = f"Default roles: {', '.join(f'`{role}`' for role in defaults.roles)}; levels: {defaults.levels or 'all'}; "
    where += f"refresh: {defaults.refresh}. Settings: [`{cls.__name__}`][{cls.__module__}.{cls.__qualname__}]."
    return "\n\n".join(part for part in (f"## {name}", sentence, image, where) if part)
