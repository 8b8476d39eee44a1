"""How parts are named, registered and made from their settings."""

import dataclasses
import difflib
import inspect
import types
import typing
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

from .plugins import load_plugins

KINDS: "dict[str, type[Part]]" = {}
"""Every class that names a kind of its own, such as MergeStrategy: it enters itself when it is defined."""

_REGISTRY: "dict[str, dict[str, type[Part]]]" = {}


@dataclass(frozen=True)
class Part(ABC):
    """A setting of a study: a strategy, metric, schedule or reduction. Its fields are its own settings.

    A field that is annotated with a kind also takes a name, a number, a mapping or a list, and makes the part from it.
    """

    kind: ClassVar[str]
    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "kind" in vars(cls):
            KINDS[cls.kind] = cls
            _REGISTRY.setdefault(cls.kind, {})

    def __post_init__(self) -> None:
        for field, wanted in _fields(type(self)).items():
            object.__setattr__(self, field, _as_field(self, field, wanted, getattr(self, field)))

    @classmethod
    def from_shorthand(cls, spec: Any) -> Any:  # noqa: ANN401
        """The full form of a short spec that this kind accepts, such as a number for a ratio; all others come back unchanged."""
        return spec


P = TypeVar("P", bound=Part)


def register(name: str) -> Callable[[type[P]], type[P]]:
    """Class decorator: register a strategy, metric, schedule or reduction under ``name``.

    Raises:
        TypeError: the class belongs to no kind.
        ValueError: another class has that name. The same class again, as from a notebook cell run twice, replaces itself.

    >>> from dataclasses import dataclass
    >>> from mergekit_diff import RatioSchedule, make, register
    >>> @register("first-half")
    ... @dataclass(frozen=True)
    ... class FirstHalf(RatioSchedule):
    ...     amount: float = 0.5
    ...     def __call__(self, ctx):
    ...         return self.amount if ctx.progress < 0.5 else 0.0
    >>> make("ratio", {"name": "first-half", "amount": 0.75})
    FirstHalf(amount=0.75)
    """

    def known(cls: type[P]) -> type[P]:
        kind = next((k for k, base in KINDS.items() if issubclass(cls, base)), None)
        if kind is None:
            raise TypeError(f"expected a subclass of {', '.join(sorted(c.__name__ for c in KINDS.values()))}; got {cls.__name__}")
        other = _REGISTRY[kind].get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{kind} '{name}' is already registered by {other.__module__}.{other.__qualname__}")
        cls.name = name
        _REGISTRY[kind][name] = cls
        return cls

    return known


def names(kind: str) -> list[str]:
    """The registered names of a kind: "strategy", "metric", "ratio", "window" or "reduction"; plug-ins included.

    >>> names("reduction")
    ['mean', 'mlerp', 'pick']
    """
    load_plugins()
    return sorted(_REGISTRY[_kind(kind).kind])


def _kind(kind: str) -> type[Part]:
    if kind not in KINDS:
        load_plugins()
    return KINDS[one_of(kind, KINDS, "kind")]


def part_class(kind: str, name: str) -> type[Part]:
    """The class registered under ``name``.

    Raises:
        ValueError: nothing has that name; the nearest one is suggested.
    """
    return _REGISTRY[kind][one_of(name, names(kind), kind)]


def make(kind: str, spec: Any) -> Any:  # noqa: ANN401
    """Make a part from its YAML form.

    Args:
        kind: "strategy", "metric", "ratio", "window" or "reduction".
        spec: a name, a mapping with ``name`` and settings, a part (returned unchanged), a number for a ratio (``constant``),
            or a whole number or list of them for a window (``fixed``).

    Raises:
        ValueError: an unknown name or setting, or a value out of range; the message is one line.

    >>> make("window", [2, 4])
    Fixed(size=(2, 4))
    >>> make("strategy", {"name": "tomesd", "ratio": 0.25}).ratio
    Constant(value=0.25)
    >>> make("strategy", "retm")
    Traceback (most recent call last):
    ValueError: unknown strategy 'retm'; did you mean 'retom'? possible: ...
    """
    base = _kind(kind)
    if isinstance(spec, base):
        return spec
    spec = {"name": spec} if isinstance(spec, str) else base.from_shorthand(spec)
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise ValueError(f"expected a {kind}: a name or a mapping with 'name', got {spec!r}; possible: {', '.join(names(kind))}")
    settings = {str(k): v for k, v in spec.items() if k != "name"}
    cls = part_class(kind, str(spec["name"]))
    known, needed = inspect.signature(cls).parameters, dataclasses.MISSING
    for setting in settings:
        one_of(setting, known, f"setting of {kind} '{spec['name']}'")
    missing = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is needed and f.name not in settings]
    if missing:
        raise ValueError(f"{kind} '{spec['name']}' needs {', '.join(missing)}")
    return cls(**settings)


def one_of(word: str, possible: typing.Iterable[str], what: str) -> str:
    """Return ``word`` if it is one of the possible ones.

    Raises:
        ValueError: it is not; the message has the nearest spelling and all possible ones.
    """
    options = sorted(possible)
    if word in options:
        return word
    near = difflib.get_close_matches(str(word), options, 1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ValueError(f"unknown {what} '{word}'; {hint}possible: {', '.join(options) or 'none'}")


@cache
def _fields(cls: type[Part]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _as_field(part: Part, field: str, wanted: Any, value: Any) -> Any:  # noqa: ANN401
    """``value`` converted to what the field is annotated with: a part, a tuple, a number; refused if its type does not fit."""
    options = typing.get_args(wanted) if typing.get_origin(wanted) in (types.UnionType, typing.Union) else (wanted,)
    kinds = [o.kind for o in options if isinstance(o, type) and issubclass(o, Part)]
    if kinds and value is not None:
        return make(kinds[0], value)
    if isinstance(value, list | tuple):
        value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
    if float in options and isinstance(value, int) and not isinstance(value, bool) and int not in options:
        value = float(value)
    plain = tuple(typing.get_origin(o) or o for o in options)
    if not all(isinstance(o, type) for o in plain):
        return value
    if not isinstance(value, plain) or (isinstance(value, bool) and bool not in plain):  # isinstance(False, int) is true
        wants = " or ".join("null" if o is type(None) else o.__name__ for o in plain)
        raise ValueError(f"{_label(part)}: expected {field} to be {wants}, got {value!r}")
    return value


def _label(part: Part) -> str:
    return f"{part.kind} '{getattr(part, 'name', type(part).__name__)}'"
