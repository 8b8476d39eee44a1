"""From a study's name and the words of the command line to a checked ``Study``."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mergekit_diff.registry import one_of

from .config import Study, check

STUDIES = Path(__file__).parent.parent / "studies"
PROMPTS = Path(__file__).parent.parent / "prompts"
PLAIN = ("prompts", "sweep", "control")
"""Fields that are never interpolated and that a word of the command line replaces whole."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number, as in YAML 1.2."""


_FLOAT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*([eE][-+]?\d+)|\d[\d_]*\.[\d_]*|\.\d[\d_]*([eE][-+]?\d+)?|\.(inf|nan))$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def load_study(name_or_path: str, overrides: Iterable[str] = ()) -> Study:
    """A study by name or path, changed by ``key=value`` words.

    Raises:
        ValueError: an unknown study, key or value; the message is one line.
    """
    path = find_study(name_or_path)
    data = _parse(path.read_text(encoding="utf-8"), path.name)
    if not isinstance(data, dict):
        raise ValueError(f"{path.name}: a study is a mapping of keys to values")
    raw: dict[str, Any] = {"out": f"runs/{path.stem}"}
    for key, value in data.items():
        raw = put(raw, str(key), value)
    return build(override(raw, overrides))


def find_study(name_or_path: str) -> Path:
    """The file of a study of this package, or a file of the user's."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"no study file {name_or_path!r}")
        return path
    names = {file.stem: file for file in STUDIES.glob("*.yaml")}
    return names[one_of(name_or_path, names, "study")]


def override(raw: dict[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """``raw`` with every ``key=value`` word put in, in order."""
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{word!r} is not key=value")
        value = _parse(text, key)
        raw = put(raw, key, value)
        sweep = raw.get("sweep")
        swept = set(flatten(sweep)) if isinstance(sweep, dict) else set()
        idle = next((name for name in sorted(swept) for one in _leaves(key, value) if f"{one}.".startswith(f"{name}.")), None)
        if idle is not None:
            raise ValueError(f"{word} has no effect: the study sweeps {idle}; give 'sweep={{}}' first to drop its sweep")
    return raw


def put(raw: dict[str, Any], key: str, value: Any) -> dict[str, Any]:  # noqa: ANN401
    """``raw`` with ``value`` at the dotted ``key``; a changed ``name`` drops the old part's fields."""
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
    """A sweep's parameter specs under dotted names, nested mappings opened."""
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
    typed = {key: value for key, value in raw.items() if key not in PLAIN}
    try:
        study = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Study), typed))
    except OmegaConfBaseException as error:
        raise ValueError(_one_line(error)) from None
    assert isinstance(study, Study)
    study = replace(study, **{key: raw[key] for key in PLAIN if key in raw})
    return check(replace(study, prompts=read_prompts(study.prompts)))


def read_prompts(source: object) -> list[str]:
    """The prompts of a named list, of a text file (one a line), or of a list in place."""
    if isinstance(source, str):
        prompts = [line.strip() for line in _prompt_file(source).read_text(encoding="utf-8").splitlines()]
        prompts = [line for line in prompts if line]
        if not prompts:
            raise ValueError(f"prompts: {source!r} holds no prompt")
        return _once(prompts)
    if not isinstance(source, list) or not source or not all(isinstance(prompt, str) for prompt in source):
        raise ValueError("prompts must be a named list, a text file or a list of at least one text")
    return _once(source)


def _once(prompts: list[str]) -> list[str]:
    twice = next((prompt for prompt in prompts if prompts.count(prompt) > 1), None) if len(set(prompts)) < len(prompts) else None
    if twice is not None:
        raise ValueError(f"prompts: {twice!r} stands there twice; for more pictures of a prompt give seeds")
    return prompts


def _prompt_file(source: str) -> Path:
    if (PROMPTS / f"{source}.txt").is_file():
        return PROMPTS / f"{source}.txt"
    if not Path(source).is_file():
        one_of(source, (file.stem for file in PROMPTS.glob("*.txt")), "prompt list or file")
    return Path(source)


def _parse(text: str, where: str) -> Any:  # noqa: ANN401
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not YAML: {' '.join(str(error).split())}") from None


def _merge(old: Any, new: Any) -> Any:  # noqa: ANN401
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    if "name" in new and new["name"] != old.get("name"):
        return new
    return {**old, **{key: _merge(old.get(key), value) for key, value in new.items()}}


def _one_line(error: OmegaConfBaseException) -> str:
    text = str(error).splitlines()[0]
    key = getattr(error, "full_key", None)
    return text if not key or f"'{key}'" in text else f"{key}: {text}"
