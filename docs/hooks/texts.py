"""Pages made from the repository's own texts, so that nothing is written twice.

A page says ``<!-- include PATH -->`` for a whole text, or ``<!-- include PATH # Heading -->`` for what is under one heading.
The line below it, up to ``<!-- end -->``, is for readers of the page itself, as on GitHub: it links to the text, which takes its
place on the site. Links of the text lead to the page that includes their target; what has no page is left as plain words.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DIRECTIVE = re.compile(r"<!-- include (\S+?)(?: # (.+?))? -->\n.+\n<!-- end -->")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the texts in the place of their directives."""
    return DIRECTIVE.sub(lambda found: include(found[1], found[2], page.file.src_uri), markdown)


def include(path: str, heading: str | None, page: str) -> str:
    """A text of the repository, or one section of it, with links as seen from ``page``.

    Raises:
        ValueError: the text has no such heading.
    """
    text = (ROOT / path).read_text(encoding="utf-8")
    if heading is not None:
        text = section(text, heading)
    return LINK.sub(lambda link: _relink(link, posixpath.dirname(path), page), text)


def section(text: str, heading: str) -> str:
    """What is under ``heading``, down to the next heading of its level or above.

    Raises:
        ValueError: there is no such heading.
    """
    plain = FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)  # of the same length, without the code's comments
    begin = re.search(rf"^(#+) {re.escape(heading)}$", plain, re.MULTILINE)
    if begin is None:
        raise ValueError(f"no heading {heading!r}")
    end = re.compile(rf"^#{{1,{len(begin[1])}}} ", re.MULTILINE).search(plain, begin.end())
    return text[begin.end() : end.start() if end else None].strip()


def homes() -> dict[str, str]:
    """The page of every text that a page includes whole, and of every notebook; paths in the repository and in the site."""
    pages = {"experiments/findings": "findings/index.md", "notebooks": "notebooks/01_first_merge.md"}
    for page in DOCS.rglob("*.md"):
        whole = DIRECTIVE.fullmatch(page.read_text(encoding="utf-8").strip())
        if whole is not None and whole[2] is None:
            pages[whole[1]] = page.relative_to(DOCS).as_posix()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        pages[f"notebooks/{notebook.name}"] = f"notebooks/{notebook.stem}.md"
    return pages


def _relink(link: re.Match[str], folder: str, page: str) -> str:
    image, words, target, anchor = link.groups()
    if ":" in target:
        return link[0]
    path = posixpath.normpath(posixpath.join(folder, target))
    home = path.removeprefix("docs/") if path.startswith("docs/") else homes().get(path)
    if home is None:
        return words
    return f"{image}[{words}]({posixpath.relpath(home, posixpath.dirname(page) or '.')}{anchor or ''})"
