"""Everything that is registered: each part with its one-line description and its settings, and the families of models."""

import dataclasses
import inspect
import json
from pathlib import Path

from mergekit_diff import MergeStrategy, names
from mergekit_diff.plugins import load_plugins
from mergekit_diff.registry import KINDS, Part, one_of, part_class
from mergekit_diff.sites import families

STUDY, FAMILY = "study", "family"
TESTED = Path(__file__).parent / "families.json"
"""What each built-in family offers, as found on the models of the tests."""


def kinds() -> list[str]:
    """What can be listed: every kind of part, plug-ins' own too, families of models, and studies."""
    load_plugins()
    return [*KINDS, FAMILY, STUDY]


def listing(kind: str | None = None) -> str:
    """A paragraph per kind: names, first lines of the docstrings, settings with their defaults.

    Raises:
        ValueError: no such kind.
    """
    chosen = kinds() if kind is None else [one_of(kind, kinds(), "kind")]
    lines = {FAMILY: _families, STUDY: _studies}
    return "\n\n".join("\n".join([each.upper(), *(lines[each]() if each in lines else _parts(each))]) for each in chosen)


def table_of_strategies() -> str:
    """A Markdown table of every registered strategy: what it does and its source, from the first line of its docstring."""
    rows = [(f"`{name}`", *_sentence_and_source(part_class("strategy", name))) for name in names("strategy")]
    lines = ["| " + " | ".join(row) + " |" for row in (("name", "what it does", "source"), *rows)]
    return "\n".join([lines[0], "|---|---|---|", *lines[1:]])


def _sentence_and_source(cls: type[Part]) -> tuple[str, str]:
    """Both without their full stops."""
    sentence, _, source = (inspect.getdoc(cls) or "").partition("\n")[0].replace("``", "`").partition(". ")
    return sentence.removesuffix("."), source.removesuffix(".")


def _parts(kind: str) -> list[str]:
    lines = []
    for name in names(kind):
        cls = part_class(kind, name)
        lines.append(f"  {name:<15} {(inspect.getdoc(cls) or '').partition(chr(10))[0]}")
        lines += [f"  {'':<15} {_defaults(cls)}"] if issubclass(cls, MergeStrategy) else []
        lines += [f"  {'':<15}   {setting}" for setting in map(_setting, dataclasses.fields(cls))]
    return lines


def _defaults(cls: type[MergeStrategy]) -> str:
    """The options of ``merging`` that a strategy brings along."""
    if cls.defaults is not MergeStrategy.defaults:
        return "defaults inherited from inner"
    limits = [f"; grids of {' or '.join(map(str, cls.axes))} axes"] * (cls.axes != MergeStrategy.axes)
    limits += [f"; ratio up to {cls.max_ratio}"] * (cls.max_ratio < 1)
    return f"roles: {', '.join(cls.roles)}; levels: {cls.levels or 'all'}; refresh: {cls.refresh}" + "".join(limits)


def _setting(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"{field.name} = {field.default_factory()!r}"
    if field.default is dataclasses.MISSING:
        return f"{field.name} (required)"
    return f"{field.name} = {field.default!r}"


def _families() -> list[str]:
    """Classes, roles with the reasons of those refused, and how text, positions, time and guidance enter."""
    known, lines = families(), []
    for family in json.loads(TESTED.read_text(encoding="utf-8")):
        whole = [role for role, told in family["roles"].items() if told == "yes"]
        lines += [f"  {family['title']}", f"    {', '.join(whole)}"]
        lines += [f"    {role}: {told}" for role, told in family["roles"].items() if role not in whole]
        for name, facts in family["classes"].items():
            lines.append(f"    {name}: " + "; ".join(f"{fact} {value.replace('`', '')}" for fact, value in facts.items()))
            known.pop(name, None)
    others = [f"    {name}: {(inspect.getdoc(family.find) or '').partition(chr(10))[0]}" for name, family in known.items()]
    return [*lines, *(["  registered, without a table", *others] if others else [])]


def _studies() -> list[str]:
    from .reading import parse_yaml  # with YAML from the extra; parts are listed without it
    from .study.loading import STUDIES

    files = sorted(STUDIES.glob("*.yaml"))
    return [f"  {file.stem:<15} {parse_yaml(file.read_text(encoding='utf-8'), file.name).get('question', '')}" for file in files]
