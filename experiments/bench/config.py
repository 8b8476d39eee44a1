"""What to measure: the schema of ``mergekit-diff bench`` and its valid ranges, checked before a model is built."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergekit_diff.options import GATES, Options
from mergekit_diff.registry import one_of
from mergekit_diff.sites import ROLES

from ..study.config import DTYPES
from ..study.loading import override
from ..study.schema import structured
from .sizes import find_size
from .transformer_sizes import Transformer

WHAT = ("time", "flops", "scaling", "startup", "log-sizes")
AT = ("layer", "block", "step", "call")
DEVICES = ("auto", "cpu", "cuda")
CALL_STEPS = 4  # of a whole call, as a distilled model makes
ENOUGH_ROUNDS = 6  # the fewest whose extremes hold their median with 95% probability
LISTS = {"refresh", "roles", "spans", "strategies"}
PLOTS = (".png", ".svg", ".pdf")


@dataclass
class Bench:
    """One measurement. The default takes less than two minutes on two cores.

    Args:
        what: "time"; "flops", which computes nothing and takes seconds for any size; "scaling", plans for 1,024 to
            131,072 tokens; "startup", imports, entering and leaving, and the hooks of a step that merges next to nothing;
            "log-sizes", one attention with the log sizes of merged keys, by the way in which they reach its scores.
        size: "sd15", "sd21", "sdxl"; "sd3", "flux", "qwen-image", "wan-1.3b", "wan-14b", "ltx", "cogvideox"; "emoji" or a
            pipeline folder with a U-Net. Only the shape is read; weights are random.
        pixels: a side of the image, or [height, width]; None is the size that the model was trained for.
        frames: of a video; None is 81.
        batch: rows per call; 2 is one image with guidance.
        ratio: of the floor, and of every strategy whose default ratio is a constant.
        strategies: names, or mappings with ``name``; None is every registered one.
        refresh: how many steps share a plan; each strategy has a row for each.
        at: one attention "layer" or one "block", both of the finest level of a U-Net, or a whole "step". The "block" of a
            transformer is one of each kind, with all that is around the blocks. A "call" is a whole one of the pipeline of
            "sd15": text encoder, four steps without guidance, autoencoder; a plan serves one step of it or all.
        kind: the only kind of block of a transformer that has several, such as "single" of Flux.
        blocks: how many of a kind of a transformer's, one after the other.
        spans: how many consecutive blocks run on the same merged tokens in the role "block"; each strategy has a row for each.
        levels: merge on this many of the finest levels of a step.
        roles: what merges in a block, or several such lists, which take turns; None is every strategy's default.
        proportional: whether keys have log sizes; None is every strategy's default.
        gate: "auto" adds a row per strategy in which sites where merging does not pay are skipped, with the predicted gain.
        rounds: measurements of each variant.
        threads: of torch; None is torch's default.
        device: "auto", which takes CUDA if there is one, "cpu" or "cuda".
        dtype: "float32", "float16" or "bfloat16".
        axes: of the grids in "scaling": 1, as of texts, 2 or 3; None is 3 for the sizes of videos, else 2.
        limit: GiB that a plan may take in "scaling"; where one would take more, its curve ends.
        patience: the same in seconds.
    """

    what: str = "time"
    size: str = "sd15"
    pixels: Any = None
    frames: int | None = None
    batch: int = 2
    ratio: float = 0.5
    strategies: Any = None
    refresh: list[int] = field(default_factory=lambda: [1, 20])
    at: str = "block"
    kind: str | None = None
    blocks: int = 1
    spans: list[int] = field(default_factory=lambda: [1])
    levels: int = 1
    roles: Any = None
    proportional: bool | None = None
    gate: str = "none"
    rounds: int = 7
    threads: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    axes: int | None = None
    limit: float = 1.0
    patience: float = 60.0

    def height_and_width(self) -> tuple[int, int]:
        """``pixels`` of both sides."""
        pixels = find_size(self.size).pixels if self.pixels is None else self.pixels
        height, width = (pixels, pixels) if isinstance(pixels, int) else pixels
        return height, width

    def num_frames(self) -> int | None:
        """``frames``, or how many the size has; None for images."""
        return self.frames or find_size(self.size).frames

    def grid_axes(self) -> int:
        """How many axes the grids of tokens have: 3 for videos."""
        return self.axes or (2 if self.num_frames() is None else 3)

    def role_sets(self) -> list[tuple[str, ...]]:
        """What merges together, set by set; none if every strategy's default does."""
        roles = self.roles or []
        return [tuple(each) for each in roles] if roles and not isinstance(roles[0], str) else [tuple(roles)] * bool(roles)


def load_bench(words: Iterable[str] = ()) -> Bench:
    """The default measurement, changed by ``key=value`` words.

    Raises:
        ValueError: an unknown key, a value of the wrong type or out of range; the message is one line.
    """
    raw = override({}, words)
    for key in LISTS & set(raw):
        raw[key] = [raw[key]] if isinstance(raw[key], str | int | dict) else raw[key]
    return check(structured(Bench, raw, "bench"))


def check(bench: Bench) -> Bench:
    """Return the measurement if every value is in range.

    Raises:
        ValueError: a value is out of range or names something unknown; the message is one line.
    """
    for what, value, possible in (("what", bench.what, WHAT), ("at", bench.at, AT), ("device", bench.device, DEVICES)):
        one_of(value, possible, what)
    one_of(bench.dtype, DTYPES, "dtype")
    for name in ("batch", "rounds", "blocks", "levels", "threads"):
        value = getattr(bench, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if bench.rounds < ENOUGH_ROUNDS and bench.what in ("time", "startup", "log-sizes"):
        raise ValueError(f"rounds: expected at least {ENOUGH_ROUNDS}, since fewer have no 95% interval, got {bench.rounds}")
    if not 0 < bench.ratio < 1:
        raise ValueError(f"ratio: expected a number between 0 and 1, got {bench.ratio}")
    for name, unit in (("limit", "GiB"), ("patience", "seconds")):
        if not getattr(bench, name) > 0:
            raise ValueError(f"{name}: expected more than 0 {unit}, got {getattr(bench, name)}")
    if bench.axes is not None and (bench.axes not in (1, 2, 3) or bench.what != "scaling"):
        raise ValueError(f"axes: expected 1, 2 or 3 with what=scaling, got {bench.axes} with what={bench.what}")
    if not bench.refresh:
        raise ValueError("refresh: expected at least one number of steps, such as refresh=[1,20], got []")
    for steps in bench.refresh:
        Options(refresh=steps)
    one_of(bench.gate, GATES, "gate")
    if bench.gate != "none" and (len(bench.refresh) > 1 or bench.what != "time"):
        raise ValueError(
            f"gate={bench.gate}: expected what=time and one refresh, got what={bench.what} and refresh={bench.refresh}"
        )
    _check_call(bench)
    _check_roles(bench)
    _check_pixels(bench)
    _check_transformer(bench)
    return bench


def check_outputs(table: Path | None, plot: Path | None) -> None:
    """Refuse output files that cannot be written, before anything is measured.

    Raises:
        ValueError: a folder is missing, or a plot's format is unknown.
    """
    for path in (table, plot):
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"{path} cannot be written: the folder {path.absolute().parent} does not exist")
    if plot is not None:
        one_of(plot.suffix, PLOTS, f"suffix of {plot.name}")


def _check_roles(bench: Bench) -> None:
    inside = {"layer": ROLES[:2]}.get(bench.at, ROLES)
    if bench.roles is not None and not (isinstance(bench.roles, list) and bench.roles):
        raise ValueError(f"roles: expected at least one role, or lists of them, got {bench.roles!r}")
    if len({isinstance(role, list) for role in bench.roles or ()}) > 1:
        raise ValueError(f"roles: expected roles, or lists of roles, got {bench.roles}")
    for roles in bench.role_sets():
        for role in roles:
            one_of(role, inside, f"role at={bench.at}")
        Options(roles=roles)
    if bench.at not in ("step", "call") and bench.levels != 1:
        raise ValueError(
            f"levels: expected 1 for at={bench.at}, which is of the finest level, got {bench.levels}; more need at=step"
        )


def _check_call(bench: Bench) -> None:
    if bench.at != "call":
        return
    if (bench.size, bench.what) != ("sd15", "time"):
        raise ValueError(f"at=call: expected size=sd15 and what=time, got size={bench.size} and what={bench.what}")
    if bench.refresh not in ([1], [CALL_STEPS]):  # packages keep a plan for good, or not at all
        raise ValueError(f"at=call: expected refresh=1 or refresh={CALL_STEPS}, got {bench.refresh}")


def _check_pixels(bench: Bench) -> None:
    size, pixels = find_size(bench.size), bench.pixels
    sides = pixels if isinstance(pixels, list) and len(pixels) == 2 else [pixels]
    if pixels is not None and not all(type(side) is int and side > 0 and side % size.factor == 0 for side in sides):
        raise ValueError(
            f"pixels: expected a multiple of {size.factor} for {bench.size}, or [height, width] of them, got {pixels!r}"
        )


def _check_transformer(bench: Bench) -> None:
    size = find_size(bench.size)
    kinds, frames = tuple(size.kinds) if isinstance(size, Transformer) else (), size.frames
    if bench.at == "layer" and kinds:
        raise ValueError(f"at: expected block or step for {bench.size}, got layer")
    if bench.kind is not None and (bench.at != "block" or bench.kind not in kinds):
        raise ValueError(f"kind: expected {' or '.join(['None', *kinds])} for {bench.size} at={bench.at}, got {bench.kind}")
    if bench.blocks > 1 and not (kinds and bench.at == "block"):
        raise ValueError(f"blocks: expected 1 but for transformers at=block, got {bench.blocks} for {bench.size} at={bench.at}")
    most = bench.blocks if bench.role_sets() == [("block",)] else 1
    if not bench.spans or not all(1 <= span <= most for span in bench.spans):
        raise ValueError(f"spans: expected numbers from 1 to {most}, got {bench.spans}; more need roles=block and as many blocks")
    if bench.frames is not None and frames is None:
        raise ValueError(f"frames: expected none for {bench.size}, which makes images, got {bench.frames}")
    if bench.frames is not None and isinstance(size, Transformer) and (bench.frames < 1 or (bench.frames - 1) % size.per_frame):
        raise ValueError(f"frames: expected 1 more than a multiple of {size.per_frame} for {bench.size}, got {bench.frames}")
