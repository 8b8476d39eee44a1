"""Loads a study: from its name and the words of the command line to a checked ``Study``."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergekit_diff.registry import one_of

from ..models import task_of
from ..reading import MOST_YAML, Data, parse_yaml, read_text
from .config import Study, check
from .schema import check_unicode, structured

STUDIES = Path(__file__).parent.parent / "studies"
PROMPTS = Path(__file__).parent.parent / "prompts"
PLAIN = ("prompts", "sweep", "control")
"""Fields that are never interpolated, and that a word of the command line replaces as a whole."""


class _Loader(Data):
    """YAML in which 1e-3 is a number, as in YAML 1.2; PyYAML reads 1.1."""


_FLOAT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*([eE][-+]?\d+)|\d[\d_]*\.[\d_]*|\.\d[\d_]*([eE][-+]?\d+)?|\.(inf|nan))$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def load_study(name_or_path: str, overrides: Iterable[str] = ()) -> Study:
    """A study by name or path, changed by ``key=value`` words.

    Raises:
        ValueError: an unknown study, key or value; the message is one line.
    """
    path = find_study(name_or_path)
    data = parse_yaml(read_text(path, MOST_YAML), path.name, _Loader)
    if not isinstance(data, dict):
        raise ValueError(f"{path.name}: expected a mapping of keys to values, got {type(data).__name__}")
    raw: dict[str, Any] = {"out": f"runs/{path.stem}"}
    for key, value in data.items():
        raw = put(raw, str(key), value)
    return build(override(raw, overrides))


def find_study(name_or_path: str) -> Path:
    """The file of one of this package's studies, or the user's own file."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"expected a study file, got {name_or_path!r}, which does not exist")
        return path
    names = {file.stem: file for file in STUDIES.glob("*.yaml")}
    return names[one_of(name_or_path, names, "study")]


def override(raw: dict[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """``raw`` changed by every ``key=value`` word, in order."""
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"expected key=value, got {word!r}")
        value = parse_yaml(text, key, _Loader)
        raw = put(raw, key, value)
        sweep = raw.get("sweep")
        swept = set(flatten(sweep)) if isinstance(sweep, dict) else set()
        idle = next((name for name in sorted(swept) for leaf in _leaves(key, value) if f"{leaf}.".startswith(f"{name}.")), None)
        if idle is not None:
            raise ValueError(f"{word} has no effect: the study sweeps {idle}; give 'sweep={{}}' first to drop its sweep")
    return raw


def put(raw: dict[str, Any], key: str, value: Any) -> dict[str, Any]:  # noqa: ANN401
    """``raw`` with ``value`` at the dotted ``key``; another ``name`` drops the settings of the part before."""
    if key == "strategy" and isinstance(value, str):
        value = {"name": value}
    if key in PLAIN:
        return {**raw, key: value}
    for part in reversed(key.split(".")):
        value = {part: value}
    return _merge(raw, value)


def _leaves(key: str, value: Any) -> list[str]:  # noqa: ANN401
    """The dotted keys that a word sets: its own, and those inside a mapping."""
    inner = value.items() if isinstance(value, dict) and key not in PLAIN else ()
    return [key, *(leaf for name, part in inner for leaf in _leaves(f"{key}.{name}", part))]


def flatten(specs: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A sweep's parameter specs under dotted names, with nested mappings opened."""
    flat: dict[str, Any] = {}
    for key, spec in specs.items():
        opened = isinstance(spec, dict) and not {"values", "value", "min", "max"} & set(spec)
        flat |= flatten(spec, f"{prefix}{key}.") if opened else {f"{prefix}{key}": spec}
    return flat


def build(raw: dict[str, Any]) -> Study:
    """A checked study from plain data; prompts become the list itself.

    Raises:
        ValueError: an unknown key, a value of the wrong type or out of range.
    """
    typed = _task_defaults({key: value for key, value in raw.items() if key not in PLAIN})
    study = structured(Study, typed, "study")
    study = replace(study, **{key: raw[key] for key in PLAIN if key in raw})
    return check(replace(study, prompts=read_prompts(study.prompts)))


def read_prompts(source: object) -> list[str]:
    """The prompts of a named list, of a text file (one per line), or of a literal list."""
    if isinstance(source, str):
        prompts = [line.strip() for line in read_text(_prompt_file(source)).splitlines()]
        prompts = [line for line in prompts if line]
        if not prompts:
            raise ValueError(f"prompts: expected at least one line of text in {source!r}, got none")
        return _distinct(prompts)
    if not isinstance(source, list) or not source or not all(isinstance(prompt, str) for prompt in source):
        raise ValueError(f"prompts: expected a named list, a text file or a list of at least one text, got {source!r}")
    return _distinct(source)


def _task_defaults(raw: dict[str, Any]) -> dict[str, Any]:
    """What a study does not name and the model's task has a value for: metrics, the metric that decides, and others."""
    task = task_of(str(raw.get("model", Study.model)))
    primary = raw.get("primary")
    filled = {"primary": {"metric": task.primary, **primary}} if isinstance(primary, dict) else {}
    return _merge({"metrics": list(task.metrics), **task.defaults, **task.fixed}, {**raw, **filled})


def _distinct(prompts: list[str]) -> list[str]:
    for prompt in prompts:
        check_unicode(prompt, "prompts")
    repeated = next((prompt for prompt, count in Counter(prompts).items() if count > 1), None)
    if repeated is not None:
        raise ValueError(f"prompts: {repeated!r} is listed twice; for more images of a prompt use seeds")
    return prompts


def _prompt_file(source: str) -> Path:
    if (PROMPTS / f"{source}.txt").is_file():
        return PROMPTS / f"{source}.txt"
    if not Path(source).is_file():
        one_of(source, (file.stem for file in PROMPTS.glob("*.txt")), "prompt list or file")
    return Path(source)


def _merge(old: Any, new: Any) -> Any:  # noqa: ANN401
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    if "name" in new and new["name"] != old.get("name"):
        return new
    return {**old, **{key: _merge(old.get(key), value) for key, value in new.items()}}
