"""The notebooks as pages: executed when the site is built, and kept in build/notebooks until they change."""

import base64
import hashlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from generated import add, extend_nav
from jupyter_client.manager import AsyncKernelManager
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "notebooks"
SECONDS = 300
Draw = Callable[[bytes], str]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """A page for every notebook, with its outputs."""
    pages = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        figures = iter(range(1000))

        def draw(png: bytes, stem: str = path.stem, figures: Any = figures) -> str:  # noqa: ANN401
            name = f"{stem}-{next(figures)}.png"
            add(files, config, f"notebooks/{name}", png)
            return f"![figure]({name})"

        pages.append(add(files, config, f"notebooks/{path.stem}.md", _markdown(_executed(path), path.name, draw)))
    extend_nav(config, "Notebooks", pages)
    return files


def _executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with outputs, from the last build if its text is the same."""
    kept = KEPT / f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}.ipynb"
    if kept.is_file():
        return nbformat.read(kept, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as sockets:  # a kernel needs no network this way, not even the loopback
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        client = NotebookClient(notebook, kernel, timeout=SECONDS, startup_timeout=SECONDS)
        client.execute(cwd=path.parent)
    KEPT.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, kept)
    return notebook


def _markdown(notebook: nbformat.NotebookNode, name: str, draw: Draw) -> str:
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts.append(f"```python\n{cell.source}\n```")
            parts += [_output(output, draw) for output in cell.outputs]
    title, *rest = [part for part in parts if part]
    heading, _, text = title.partition("\n")
    note = f"*This page is the notebook `notebooks/{name}`, run when the site was built.*"
    return "\n\n".join([heading, note, text.strip(), *rest])


def _output(output: nbformat.NotebookNode, draw: Draw) -> str:
    """A printed text, a figure or a table; what a progress bar or a warning writes is left out."""
    if output.output_type == "stream":
        return f"```text\n{output.text.rstrip()}\n```" if output.name == "stdout" and output.text.strip() else ""
    data = output.get("data", {})
    if "image/png" in data:
        return draw(base64.b64decode(data["image/png"]))
    if "text/html" in data:
        html = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL)
        return f'<div class="output">{"".join(line.strip() for line in html.splitlines())}</div>'
    return f"```text\n{data['text/plain']}\n```" if "text/plain" in data else ""
