"""Everything that is registered: each part with its one-line description and its settings."""

import dataclasses
import inspect

from mergekit_diff import MergeStrategy, names
from mergekit_diff.plugins import load_plugins
from mergekit_diff.registry import KINDS, one_of, part_class

STUDY = "study"


def kinds() -> list[str]:
    """What can be listed: every kind of part, plug-ins' own too, and studies."""
    load_plugins()
    return [*KINDS, STUDY]


def listing(kind: str | None = None) -> str:
    """A paragraph per kind: names, first lines of the docstrings, settings with their defaults.

    Raises:
        ValueError: no such kind.
    """
    chosen = kinds() if kind is None else [one_of(kind, kinds(), "kind")]
    return "\n\n".join("\n".join([each.upper(), *(_studies() if each == STUDY else _parts(each))]) for each in chosen)


def _parts(kind: str) -> list[str]:
    lines = []
    for name in names(kind):
        cls = part_class(kind, name)
        lines.append(f"  {name:<15} {(inspect.getdoc(cls) or '').splitlines()[0]}")
        lines += [f"  {'':<15} {_defaults(cls)}"] if issubclass(cls, MergeStrategy) else []
        lines += [f"  {'':<15}   {setting}" for setting in map(_setting, dataclasses.fields(cls))]
    return lines


def _defaults(cls: type[MergeStrategy]) -> str:
    """The options of ``merging`` that a strategy brings along."""
    if cls.defaults is not MergeStrategy.defaults:
        return "defaults inherited from inner"
    return f"roles: {', '.join(cls.roles)}; levels: {cls.levels or 'all'}; refresh: {cls.refresh}"


def _setting(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"{field.name} = {field.default_factory()!r}"
    if field.default is dataclasses.MISSING:
        return f"{field.name} (required)"
    return f"{field.name} = {field.default!r}"


def _studies() -> list[str]:
    import yaml  # with the loader of studies from the extra; parts are listed without it

    from .study.loading import STUDIES

    files = sorted(STUDIES.glob("*.yaml"))
    return [f"  {file.stem:<15} {yaml.safe_load(file.read_text(encoding='utf-8')).get('question', '')}" for file in files]
