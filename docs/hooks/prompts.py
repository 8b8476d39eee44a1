"""The tables of the prompt lists: how long they are, which studies use them, and how many concepts two of them share."""

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from mergekit_diff.experiments.metrics.text import parse, words
from mergekit_diff.experiments.study.loading import PROMPTS, STUDIES, read_prompts

LISTS, SHARED = "<!-- prompts -->", "<!-- shared concepts -->"
EMOJI = "emoji"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the tables in the place of their markers."""
    for marker, table in ((LISTS, _lists), (SHARED, _shared)):
        markdown = markdown.replace(marker, table()) if marker in markdown else markdown
    return markdown


def _names() -> list[str]:
    return sorted(path.stem for path in PROMPTS.glob("*.txt"))


def _lists() -> str:
    studies: dict[str, list[str]] = {}
    for path in sorted(STUDIES.glob("*.yaml")):
        studies.setdefault(str(yaml.safe_load(path.read_text(encoding="utf-8"))["prompts"]), []).append(f"`{path.stem}`")
    rows = []
    for name in _names():
        prompts = read_prompts(name)
        rows.append(f"| `{name}` | {len(prompts):,} | {prompts[0]} | {', '.join(studies.get(name, ['–']))} |")  # noqa: RUF001
    return "\n".join(["| list | prompts | the first | studies that use it |", "|---|---:|---|---|", *rows])


def _shared() -> str:
    """A row and a column for every list of emoji captions: the number of concepts that both have."""
    known = words()
    names = [name for name in _names() if name.startswith(EMOJI)]
    concepts = {name: {parse(prompt, known)[0] for prompt in read_prompts(name)} for name in names}
    head = [f"`{name.removeprefix(f'{EMOJI}-')}`" for name in names]
    rows = [[f"`{name}`", *[str(len(own & concepts[other])) for other in names]] for name, own in concepts.items()]
    lines = [["", *head], ["---", *["---:"] * len(names)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
