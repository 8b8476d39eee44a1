"""Import plug-ins by their entry points and strategies by their files; one that fails hides no other."""

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import traceback
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

GROUP = "mergekit_diff.plugins"


@cache
def load_plugins() -> None:
    """Import every module of the entry-point group ``mergekit_diff.plugins``; warn of each one that does not import."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            _warn(f"plug-in '{entry.name}' ({entry.value}) is left out", error, _homes(entry.module))


def import_all(package: str, folders: Sequence[str]) -> None:
    """Import every module of a package; warn once of each file that does not import, and of what is left out with it.

    Args:
        package: dotted name, as in ``__name__``.
        folders: where its modules are, as in ``__path__``.
    """
    failures: dict[tuple[str, int], tuple[Exception, list[str]]] = {}
    for module in pkgutil.iter_modules(folders):
        try:
            importlib.import_module(f"{package}.{module.name}")
        except Exception as error:
            failures.setdefault(_place(error, folders), (error, []))[1].append(module.name)
    for error, modules in failures.values():  # last, so that warnings turned into errors hide nothing either
        _warn(f"{package}: {', '.join(modules)} left out", error, folders)


def _warn(what: str, error: Exception, homes: Iterable[str]) -> None:
    """Warn in one line that points at the failing line of the plug-in itself, not at the importer."""
    file, line = _place(error, homes)
    reason = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    where = f"{file}, line {line}: " if file else ""
    warnings.warn_explicit(f"{what}: {where}{type(error).__name__}: {reason}", UserWarning, file or __file__, line)


def _place(error: Exception, homes: Iterable[str]) -> tuple[str, int]:
    """File and line at which an import failed: the innermost ones inside ``homes``; ("", 0) if nothing of it ran."""
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno or 0))
    inside = [(file, line) for file, line in frames if any(Path(file).is_relative_to(home) for home in homes)]
    return inside[-1] if inside else ("", 0)


def _homes(module: str) -> list[str]:
    """The folders of the package that a module belongs to, or the file of a module without a package."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec is None:
        return []
    return list(spec.submodule_search_locations or [spec.origin or ""])
