"""Plain data, as YAML and the command line give it, to an instance of a dataclass; what does not fit is refused in one line."""

import types
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mergekit_diff.registry import one_of

WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", list: "a list", dict: "a mapping"}
T = TypeVar("T")


def structured(schema: type[T], raw: Mapping[str, Any], what: str) -> T:
    """An instance of a schema, its values converted to the annotated types.

    Text with ``${`` is refused: OmegaConf would put in a value from elsewhere, such as an environment variable.

    Args:
        schema: a dataclass; fields of type Any take what they get.
        raw: keys and values; missing keys keep their defaults.
        what: what messages call an instance, such as "study".

    Raises:
        ValueError: an unknown key, or a value of the wrong type, or text that cannot be kept.
    """
    _check(schema, raw, what)
    _check_text(raw, "")
    try:
        instance = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), raw))
    except OmegaConfBaseException as error:
        raise ValueError(_message(error, schema)) from None
    return typing.cast(T, instance)


def _check(schema: type, raw: Mapping[str, Any], what: str, prefix: str = "") -> None:
    """Keys, and which values are lists or mappings: OmegaConf's messages about these name no key, or are no OmegaConf errors."""
    hints = typing.get_type_hints(schema)
    for key, value in raw.items():
        one_of(str(key), hints, f"key of {what}")
        options = _options(hints[key])
        wanted = next((option for option in options if is_dataclass(option) or _container(option)), None)
        if wanted is None or (value is None and type(None) in options):
            continue
        shape = dict if is_dataclass(wanted) else _container(wanted)
        if value is None or not isinstance(value, shape):
            raise ValueError(f"{prefix}{key}: expected {WORDS[shape]}, got {value!r}")
        if is_dataclass(wanted):
            _check(typing.cast(type, wanted), value, f"{prefix}{key}", f"{prefix}{key}.")


def _check_text(value: Any, where: str) -> None:  # noqa: ANN401
    """Keys and values: no interpolation, and nothing that is not Unicode."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_text(str(key), where)
            _check_text(inner, f"{where}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for inner in value:
            _check_text(inner, where)
    elif isinstance(value, str):
        if "${" in value:
            raise ValueError(f"{where}: expected text without ${{...}}, got {value!r}")
        check_unicode(value, where)


def check_unicode(text: str, where: str) -> None:
    """Refuse text that cannot be written to a file.

    Raises:
        ValueError: it has half of a surrogate pair, as a command line has for bytes that are not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: expected Unicode, got {text!r}") from None


def _message(error: OmegaConfBaseException, schema: type) -> str:
    key, owner = str(error.full_key).split("[")[0], error.object_type or schema
    hints = typing.get_type_hints(owner) if is_dataclass(owner) else {}
    options = _options(hints.get(key.split(".")[-1], Any))
    wanted = [WORDS[option] for option in options if option in WORDS]
    if wanted and hasattr(error, "value"):
        return f"{key}: expected {' or '.join(wanted)}, got {error.value!r}"
    return f"{key}: {str(error).splitlines()[0]}"


def _options(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _container(hint: Any) -> Any:  # noqa: ANN401
    """List or dict, if the hint is one."""
    origin = typing.get_origin(hint) or hint
    return origin if origin in (list, dict) else None
