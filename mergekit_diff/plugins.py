"""Import plug-ins by their entry points and strategies by their files; one that fails hides no other."""

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
import traceback
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

GROUP = "mergekit_diff.plugins"
FAULTS = (Exception, SystemExit)
"""What a module may raise: one that calls ``sys.exit`` is left out like any other. An interrupt is the user's own."""


@cache
def load_plugins() -> None:
    """Import every module of the entry-point group ``mergekit_diff.plugins``; warn of each one that does not import."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            entry.load()
        except FAULTS as error:
            _warn(f"plug-in '{entry.name}' ({entry.value}) is left out", error, _homes(entry.value))


def import_all(package: str, folders: Sequence[str]) -> None:
    """Import every module of a package; warn once of each file that does not import, and of what is left out with it.

    Args:
        package: dotted name, as in ``__name__``.
        folders: where its modules are, as in ``__path__``.
    """
    failures: dict[tuple[str, int], tuple[BaseException, list[str]]] = {}
    for module in pkgutil.iter_modules(folders):
        try:
            importlib.import_module(f"{package}.{module.name}")
        except FAULTS as error:
            failures.setdefault(_place(error, folders), (error, []))[1].append(module.name)
    for error, modules in failures.values():  # last, so that warnings turned into errors hide nothing either
        _warn(f"{package}: {', '.join(modules)} left out", error, folders)


def _warn(what: str, error: BaseException, homes: Iterable[str]) -> None:
    """Warn in one line that points at the failing line of the plug-in itself, not at the importer."""
    file, line = _place(error, homes)
    reason = error.msg if isinstance(error, SyntaxError) else _text(error)
    where = f"{file}, line {line}: " if file else ""
    warnings.warn_explicit(f"{what}: {where}{type(error).__name__}: {reason}", UserWarning, file or __file__, line)


def _text(error: BaseException) -> str:
    """The message in one line; a class of the plug-in's own may fail to say it."""
    try:
        return " ".join(str(error).split())
    except Exception:
        return "no message"


def _place(error: BaseException, homes: Iterable[str]) -> tuple[str, int]:
    """File and line at which an import failed: the innermost ones inside ``homes``; ("", 0) if nothing of it ran."""
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno or 0))
    inside = [(file, line) for file, line in frames if any(Path(file).is_relative_to(home) for home in homes)]
    return inside[-1] if inside else ("", 0)


def _homes(value: str) -> list[str]:
    """The folders of the package that an entry point's module belongs to, or the file of a module without a package."""
    top = re.match(r"\w*", value)[0]  # type: ignore[index]  # it matches the empty text
    spec = importlib.util.find_spec(top) if top else None
    if spec is None:
        return []
    return list(spec.submodule_search_locations or [spec.origin or ""])
