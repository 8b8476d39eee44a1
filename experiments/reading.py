"""Reads what somebody else may have written: regular files of bounded size, and JSON and YAML that are nothing but data."""

import gzip
import json
import math
import stat
import types
import typing
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import cache
from numbers import Real
from pathlib import Path
from typing import IO, Any, NoReturn

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

MOST = 64 * 2**20
"""Bytes of a file that is read at once: the maps of a large image take a few MiB."""
MOST_YAML = 4 * 2**20
LINE = 16 * 2**20
"""Bytes of a line: the features of a thousand frames take 1 MiB."""
LINES = 2**30
"""Bytes of all lines of a file together."""

LARGEST = 1e100
"""Of a number in a file: no sum, square or mean of such numbers overflows."""


class Data(yaml.SafeLoader):
    """YAML without tags, aliases and repeated keys, in which a date is text.

    An alias can stand for a billion values in a line of text; a tag can name a type that no study has.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401
        """Refuse aliases and explicit tags where they are read."""
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            what = f"the alias *{event.anchor}" if isinstance(event, yaml.AliasEvent) else f"the tag {event.tag}"
            raise ComposerError(None, None, f"{what} where values were expected", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:  # noqa: ANN401
        """Refuse a key that is given twice, of which one value would be lost."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ConstructorError(None, None, f"the key {key.value} twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


Data.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
    for letter, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_bytes(path: Path, most: int = MOST) -> bytes:
    """The contents of a regular file.

    Raises:
        ValueError: it is something else, such as a pipe, or larger than ``most`` bytes.
        OSError: it cannot be read.
    """
    with _opened(path, most) as file:
        return file.read()


def read_text(path: Path, most: int = MOST) -> str:
    """As :func:`read_bytes`, in UTF-8.

    Raises:
        ValueError: as there, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8 in {path}, got {error.reason} at byte {error.start}") from None


def read_json(path: Path) -> Any:  # noqa: ANN401
    """The data of a JSON file.

    Raises:
        ValueError: as :func:`read_bytes`, or it is not JSON; the message is one line.
    """
    try:
        return parse_json(read_bytes(path))
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, got {' '.join(str(error).split())}") from None


def parse_json(text: str | bytes, strict: bool = False) -> Any:  # noqa: ANN401
    """The data of a JSON text.

    Args:
        text: one value.
        strict: refuse NaN and Infinity, which Python writes but JSON does not have.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse if strict else None)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def parse_yaml(text: str, where: str, loader: type[Data] = Data) -> Any:  # noqa: ANN401
    """The data of a YAML text.

    Args:
        text: one document.
        where: what the message calls it, such as a file or a key.
        loader: how plain words become values.

    Raises:
        ValueError: it is not YAML, or more than data; the message is one line.

    >>> parse_yaml("{steps: 3, out: 2026-11-27}", "study")
    {'steps': 3, 'out': '2026-11-27'}
    >>> parse_yaml("[&a [1, 2], *a]", "sweep")
    Traceback (most recent call last):
    ValueError: sweep: expected YAML, got the alias *a where values were expected in "<unicode string>", line 1, column 13: ...
    """
    if len(text) > MOST_YAML:
        raise ValueError(f"{where}: expected at most {MOST_YAML} characters of YAML, got {len(text)}")
    try:
        return yaml.load(text, Loader=loader)
    except RecursionError:
        raise ValueError(f"{where}: expected YAML, got one that is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is a number that Python does not read
        raise ValueError(f"{where}: expected YAML, got {' '.join(str(error).split())}") from None


def read_lines(path: Path, most: int = LINES) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of every line of a regular file, with its newline.

    Raises:
        ValueError: it is no regular file, or a line or all of it is larger than a run writes.
    """
    with _opened(path, most) as file:
        yield from numbered(file, path)


def numbered(file: IO[bytes] | gzip.GzipFile, path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of every line of an open file, such as one that is decompressed as it is read.

    Raises:
        ValueError: a line is longer than LINE, or all are longer than LINES.
    """
    number, total = 0, 0
    while line := file.readline(LINE + 1):
        number, total = number + 1, total + len(line)
        if len(line) > LINE or total > LINES:
            raise ValueError(f"{path}: line {number}: expected at most {LINE} bytes, and {LINES} in all")
        yield number, line


def inside(folder: Path, name: str) -> Path:
    """A file of a folder by its name there.

    Raises:
        ValueError: it is elsewhere, by "..", an absolute path or a link.
    """
    path = folder / name
    if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"expected a file inside {folder}, got {name!r}")
    return path


@cache
def fits(hint: Any) -> Callable[[Any], bool]:  # noqa: ANN401
    """What tells whether JSON data is as annotated: a union of None, numbers, text, literals, lists, mappings and typed dicts.

    Numbers are smaller than LARGEST; those annotated as ``Real`` may also be infinite or NaN. Typed dicts may have further keys.

    >>> fits(list[float | None])([1, 0.5, None]), fits(list[float])([float("inf")]), fits(int)(True)
    (True, False, False)
    """
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Any:
        return lambda value: True
    if kind is typing.Literal:
        return lambda value: type(value) is str and value in inner
    if typing.is_typeddict(kind):
        checks = {name: fits(one) for name, one in typing.get_type_hints(kind).items()}
        return lambda value: (
            isinstance(value, dict)
            and kind.__required_keys__ <= value.keys()
            and all(check(value[name]) for name, check in checks.items() if name in value)
        )
    if kind in (types.UnionType, typing.Union):
        options = [fits(one) for one in inner]
        return lambda value: any(option(value) for option in options)
    if kind is int:
        return lambda value: type(value) is int and abs(value) < LARGEST
    if kind is float:
        return lambda value: type(value) in (int, float) and abs(value) < LARGEST
    if kind is Real:
        return lambda value: type(value) in (int, float) and (abs(value) < LARGEST or not math.isfinite(value))
    if kind is Mapping:
        each = fits(inner[1])
        return lambda value: isinstance(value, dict) and all(type(key) is str for key in value) and all(map(each, value.values()))
    if kind is list:
        each = fits(inner[0])
        return lambda value: isinstance(value, list) and all(map(each, value))
    return lambda value: isinstance(value, kind)


def misfit(value: Any, hint: Any, place: str = "") -> str | None:  # noqa: ANN401
    """What of some data is not as annotated, in words; None if everything is. Arguments as :func:`fits`.

    >>> misfit({"base": {"share": "x"}}, Mapping[str, Mapping[str, float]])
    "'x' at base.share"
    """
    if fits(hint)(value):
        return None
    for name, inner in _parts(hint, value).items():
        if name not in value and name in getattr(hint, "__required_keys__", ()):
            return f"nothing at {place}{name}"
        if name in value and (wrong := misfit(value[name], inner, f"{place}{name}.")) is not None:
            return wrong
    return f"{str(value)[:50]!r}{f' at {place[:-1]}' if place else ''}"


def _parts(hint: Any, value: Any) -> Mapping[str, Any]:  # noqa: ANN401
    """The annotations of the values of a mapping by their keys."""
    if not isinstance(value, dict):
        return {}
    if typing.is_typeddict(hint):
        return typing.get_type_hints(hint)
    return dict.fromkeys(value, typing.get_args(hint)[1]) if typing.get_origin(hint) is Mapping else {}


def _opened(path: Path, most: int) -> IO[bytes]:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"expected a file, got {path}, which is not a regular one")
    if found.st_size > most:
        raise ValueError(f"expected at most {most} bytes in {path}, got {found.st_size}")
    return path.open("rb")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant}, which JSON does not have")
