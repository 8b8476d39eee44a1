"""Pages that no file holds, and where they stand in the navigation."""

from collections.abc import Iterable

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def add(files: Files, config: MkDocsConfig, path: str, content: str | bytes) -> str:
    """Add a page or an image to the site; returns its path."""
    files.append(File.generated(config, path, content=content))
    return path


def extend_nav(config: MkDocsConfig, section: str, pages: Iterable[object]) -> None:
    """Add pages to the end of a section of the navigation, if they are not there."""
    (entries,) = (entry[section] for entry in config.nav or () if section in entry)
    entries += [page for page in pages if page not in entries]
