"""The parts that users write and swap: strategies, metrics, ratio and window schedules; how they are named and made."""

import dataclasses
import difflib
import importlib.metadata
import inspect
import types
import typing
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from .plan import MergePlan


@dataclass(frozen=True)
class LayerContext:
    """Where and when a plan is made.

    Args:
        site: name of the transformer block in its model.
        role: "self_attention", "key_value", "cross_attention" or "feed_forward"; where several share a plan, the first of them.
        stage: "down", "mid" or "up" of a U-Net, else None.
        depth: how many sites come before this one, in [0, num_sites).
        num_sites: sites of the session.
        grid: the tokens' layout; ``prod(grid) == N``.
        level: 0 for the finest grid that has attention in this model, 1 for the next.
        step: denoising steps of this image before this one.
        num_steps: denoising steps of this image, None where no scheduler tells.
        timestep: the diffusion timestep, as the denoiser was given it.
        progress: 0 at the first timestep of the image, 1 at the last.
        noise: (N,) uniform in [0, 1), from (seed, step, site); the same for every row of the batch.
    """

    site: str
    role: str
    stage: str | None
    depth: int
    num_sites: int
    grid: tuple[int, ...]
    level: int
    step: int
    num_steps: int | None
    timestep: float
    progress: float
    noise: Tensor


@dataclass(frozen=True)
class Part(ABC):
    """A setting of a study. Its fields are its settings; what is given as a name, number, mapping or list becomes a part."""

    kind: ClassVar[str]
    name: ClassVar[str]

    def __post_init__(self) -> None:
        for field, wanted in _fields(type(self)).items():
            object.__setattr__(self, field, _as_field(self, field, wanted, getattr(self, field)))


class MergeStrategy(Part):
    """Chooses, from a block's input, which tokens merge. Holds no state: the session keeps plans and draws noise."""

    kind = "strategy"
    roles: ClassVar[tuple[str, ...]] = ("self_attention",)
    refresh: ClassVar[int] = 1
    levels: ClassVar[int | None] = None
    batch_shared: ClassVar[bool] = False

    @abstractmethod
    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan | None:
        """The plan for (B, N, C) tokens, or None to leave this site alone."""


class SimilarityMetric(Part):
    """How alike tokens are: larger is more alike."""

    kind = "metric"

    @abstractmethod
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Every token of ``a`` with every token of ``b``: (..., N, C) and (..., M, C) to (..., N, M)."""


class RatioSchedule(Part):
    """The merge ratio asked for, by where and when."""

    kind = "ratio"

    @abstractmethod
    def __call__(self, ctx: LayerContext) -> float:
        """The ratio, in [0, 1)."""


class WindowSchedule(Part):
    """The windows inside which tokens may merge, by where and when."""

    kind = "window"

    @abstractmethod
    def __call__(self, ctx: LayerContext) -> tuple[int, ...]:
        """The window's size along every axis of the grid, each at least 1."""

    def offset(self, ctx: LayerContext) -> tuple[int, ...]:
        """How far the first windows are shifted out of the grid along every axis; none here."""
        return (0,) * len(ctx.grid)


KINDS: dict[str, type[Part]] = {c.kind: c for c in (MergeStrategy, SimilarityMetric, RatioSchedule, WindowSchedule)}
_REGISTRY: dict[str, dict[str, type[Part]]] = {kind: {} for kind in KINDS}
P = TypeVar("P", bound=Part)


def register(name: str) -> Callable[[type[P]], type[P]]:
    """Class decorator: make a strategy, metric, ratio or window schedule known under ``name``.

    Raises:
        TypeError: the class is none of the four kinds.
        ValueError: another class has that name. The same class again, as from a notebook cell run twice, replaces itself.
    """

    def known(cls: type[P]) -> type[P]:
        kind = next((k for k, base in KINDS.items() if issubclass(cls, base)), None)
        if kind is None:
            raise TypeError(f"{cls.__name__} is none of {', '.join(c.__name__ for c in KINDS.values())}")
        other = _REGISTRY[kind].get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{kind} '{name}' is {other.__module__}.{other.__qualname__} already")
        cls.name = name
        _REGISTRY[kind][name] = cls
        return cls

    return known


def names(kind: str) -> list[str]:
    """Everything registered of a kind: "strategy", "metric", "ratio" or "window"; plug-ins included."""
    load_plugins()
    return sorted(_REGISTRY[one_of(kind, KINDS, "kind")])


def part_class(kind: str, name: str) -> type[Part]:
    """The class registered under ``name``.

    Raises:
        ValueError: nothing has that name; the nearest one is suggested.
    """
    return _REGISTRY[kind][one_of(name, names(kind), kind)]


def make(kind: str, spec: Any) -> Any:  # noqa: ANN401
    """A part from its YAML form.

    Args:
        kind: "strategy", "metric", "ratio" or "window".
        spec: a name, a mapping with ``name`` and settings, a part (returned as it is), a number for a ratio (``constant``) or
            a whole number or list of them for a window (``fixed``).

    Raises:
        ValueError: an unknown name or setting, or a value out of range, said in one line.
    """
    one_of(kind, KINDS, "kind")
    if isinstance(spec, KINDS[kind]):
        return spec
    if isinstance(spec, str):
        spec = {"name": spec}
    elif kind == "ratio" and isinstance(spec, int | float) and not isinstance(spec, bool):
        spec = {"name": "constant", "value": spec}
    elif kind == "window" and isinstance(spec, int | list | tuple) and not isinstance(spec, bool):
        spec = {"name": "fixed", "size": spec}
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise ValueError(f"a {kind} is a name or a mapping with 'name'; given {spec!r}; possible: {', '.join(names(kind))}")
    settings = {str(k): v for k, v in spec.items() if k != "name"}
    cls = part_class(kind, str(spec["name"]))
    known, needed = inspect.signature(cls).parameters, dataclasses.MISSING
    for setting in settings:
        one_of(setting, known, f"setting of {kind} '{spec['name']}'")
    missing = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is needed and f.name not in settings]
    if missing:
        raise ValueError(f"{kind} '{spec['name']}' needs {', '.join(missing)}")
    return cls(**settings)


def one_of(given: str, possible: typing.Iterable[str], what: str) -> str:
    """``given``, if it is possible.

    Raises:
        ValueError: it is not; the message has the nearest spelling and all that is possible.
    """
    options = sorted(possible)
    if given in options:
        return given
    near = difflib.get_close_matches(str(given), options, 1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ValueError(f"unknown {what} '{given}'; {hint}possible: {', '.join(options) or 'none'}")


@cache
def load_plugins() -> None:
    """Import every module of the entry-point group ``mergekit_diff.plugins``; one that fails is said and left out."""
    for entry in importlib.metadata.entry_points(group="mergekit_diff.plugins"):
        try:
            entry.load()
        except Exception as error:
            warnings.warn(f"plug-in {entry.name} ({entry.value}) does not import: {error}", stacklevel=2)


@cache
def _fields(cls: type[Part]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _as_field(part: Part, field: str, wanted: Any, value: Any) -> Any:  # noqa: ANN401
    """``value`` as the annotation wants it: a part, a tuple, a number; refused if it is of another type."""
    options = typing.get_args(wanted) if typing.get_origin(wanted) in (types.UnionType, typing.Union) else (wanted,)
    kinds = [o.kind for o in options if isinstance(o, type) and issubclass(o, Part)]
    if kinds and value is not None:
        return make(kinds[0], value)
    if isinstance(value, list | tuple):
        value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
    if float in options and isinstance(value, int) and not isinstance(value, bool) and int not in options:
        value = float(value)
    plain = tuple(typing.get_origin(o) or o for o in options)
    if all(isinstance(o, type) for o in plain) and (not isinstance(value, plain) or (value is True and bool not in plain)):
        wants = " or ".join("null" if o is type(None) else o.__name__ for o in plain)
        raise ValueError(f"{_label(part)}: {field} is {wants}; given {value!r}")
    return value


def _label(part: Part) -> str:
    return f"{part.kind} '{getattr(part, 'name', type(part).__name__)}'"
