"""The schema of a study and its valid ranges. A study is one YAML file that asks one question."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from mergekit_diff.registry import one_of

from ..metrics import metrics
from ..models import SCHEDULERS, check_prompted, task_of
from ..tasks import Task

PROBES = ("staleness",)
DTYPES = ("float32", "float16", "bfloat16")
DEVICES = ("auto", "cpu", "cuda", "mps")
BASE = "base"
"""The control of a study that compares the quality of its cells with the base's."""


@dataclass
class Merging:
    """Options of ``merging`` that a study may set; None keeps the strategy's own default."""

    refresh: Any = None
    roles: list[str] | None = None
    levels: Any = None
    share: list[str] | None = None
    gate: str = "none"
    proportional: bool | None = None
    rotary: str | None = None
    span: int = 1
    seed: int = 0


@dataclass
class Primary:
    """The metric that decides, named before the run.

    Args:
        metric: one of the study's, of images or of sets.
        better: "lower" or "higher".
        margin: how much counts as no difference that matters: a factor above 1 where the metric is compared by ratio, else an
            amount above 0 in its unit. Whether two cells are equivalent can be decided only if it is stated before the run.
    """

    metric: str
    better: str = "lower"
    margin: float | None = None


@dataclass
class Wandb:
    """How Weights & Biases tracks the run."""

    mode: str = "offline"
    project: str = "mergekit-diff"


@dataclass
class Study:
    """One question and everything that decides its images. ``prompts``, ``sweep`` and ``control`` are plain data.

    ``control`` has the swept values of the cell that others are compared with. ``base`` compares them with the base, by a
    primary metric of quality, which is also what a study with such a metric and no control does. ``repeat`` adds a cell to a
    study with a control: the control, or a random cell, with another merging seed. ``build`` in :mod:`.loading` fills in the
    metrics of the model's task where none are named. ``size`` and ``frames`` of a video are the model's own where none are named.
    ``cache`` is the threshold of diffusers' first-block cache, a relative change, in all cells; no base has one.
    """

    question: str = ""
    hypothesis: str = ""
    model: str = "emoji"
    prompts: Any = "emoji-8"
    seeds: int = 1
    steps: int = 20
    guidance: float = 2.0
    strategy: dict[str, Any] = field(default_factory=lambda: {"name": "retom"})
    merging: Merging = field(default_factory=Merging)
    sweep: Any = field(default_factory=dict)
    sweep_method: str = "grid"
    sweep_count: int | None = None
    control: Any = field(default_factory=dict)
    repeat: bool = True
    metrics: list[str] = field(default_factory=list)
    primary: Primary | None = None
    probes: list[str] = field(default_factory=list)
    costs: bool = True
    speed: bool = False
    wandb: Wandb = field(default_factory=Wandb)
    devices: Any = 1
    num_nodes: int = 1
    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    scheduler: str | None = None
    cache: float | None = None
    size: Any = None
    frames: int | None = None
    reference: str | None = None
    out: str = "runs/study"

    def record(self) -> dict[str, Any]:
        """The study as plain data, as config.yaml has it."""
        return asdict(self)

    def height_and_width(self) -> tuple[int, int] | tuple[None, None]:
        """``size`` in pixels; (None, None) leaves it to the model."""
        if self.size is None:
            return None, None
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return height, width


def is_quality(metric: str) -> bool:
    """Whether a metric judges images by themselves or as a set, and so the base too; all others compare with the base."""
    return metrics()[metric].of in ("single", "set")


def check(study: Study) -> Study:
    """Return the study if every value is in range.

    Raises:
        ValueError: a value is out of range or names something unknown; the message is one line.
    """
    for name in ("seeds", "steps", "frames", "threads", "sweep_count", "num_nodes"):
        value = getattr(study, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if study.devices != "auto" and (type(study.devices) is not int or study.devices < 1):
        raise ValueError(f"devices: expected a whole number of at least 1, or auto; got {study.devices!r}")
    if not (math.isfinite(study.guidance) and study.guidance >= 0):
        raise ValueError(f"guidance: expected a number of at least 0, got {study.guidance}")
    if study.cache is not None and not (math.isfinite(study.cache) and study.cache >= 0):
        raise ValueError(f"cache: expected a threshold of at least 0, got {study.cache}")
    _check_names(study)
    task = task_of(study.model)
    _check_primary(study.primary, study.control, task)
    check_prompted(study.model)
    _check_task(study, task)
    _check_layers(study)
    _check_size(study.size)
    return study


def _check_names(study: Study) -> None:
    choices = [("sweep_method", study.sweep_method, ("grid", "random"))]
    choices += [("dtype", study.dtype, DTYPES), ("device", study.device, DEVICES)]
    choices += [("metric", name, metrics()) for name in study.metrics]
    choices += [("probe", name, PROBES) for name in study.probes]
    choices += [("scheduler", study.scheduler, SCHEDULERS)] if study.scheduler is not None else []
    choices += [("wandb.mode", study.wandb.mode, ("offline", "disabled", "online"))]
    if study.primary is not None:
        choices += [("primary.metric", study.primary.metric, study.metrics)]
        choices += [("primary.better", study.primary.better, ("lower", "higher"))]
    for what, value, possible in choices:
        one_of(value, possible, what)


def _check_primary(primary: Primary | None, control: object, task: Task) -> None:
    if control == BASE and not (primary and is_quality(primary.metric)):
        possible = ", ".join(name for name, metric in metrics().items() if is_quality(name) and task.name in metric.tasks)
        got = "none" if primary is None else f"{primary.metric}, which measures the distance to the base already"
        raise ValueError(f"control: expected a primary metric of quality with control 'base' ({possible}), got {got}")
    if primary is None or primary.margin is None:
        return
    by, margin = metrics()[primary.metric].by, primary.margin
    wanted, least = ("a factor above 1", 1) if by == "ratio" else ("a number above 0", 0)
    if not (math.isfinite(margin) and margin > least):
        raise ValueError(f"primary.margin: expected {wanted}, since {primary.metric} is compared by {by}, got {margin}")


def _check_task(study: Study, task: Task) -> None:
    for key, value in task.fixed.items():
        got = getattr(study, key)
        if got != value:
            expected = "none" if value is None else str(value).lower()
            raise ValueError(f"{key}: expected {expected}, since {study.model} makes a {task.name}, got {str(got).lower()}")
    for prompt in study.prompts:
        task.check_prompt(prompt)
    possible = [name for name, metric in metrics().items() if task.name in metric.tasks]
    for name in study.metrics:
        if name not in possible:
            raise ValueError(
                f"metrics: expected a metric for {task.name}, got {name!r}; possible: {', '.join(possible) or 'none'}"
            )


def _check_layers(study: Study) -> None:
    """Errors of layers are taken one by one, so that the images are the base's."""
    if "layer" in study.metrics and study.metrics != ["layer"]:
        others = ", ".join(name for name in study.metrics if name != "layer")
        raise ValueError(f"metrics: expected layer alone, since its images are made as without merging; got also {others}")
    if "layer" in study.metrics and study.cache is not None:
        raise ValueError(f"cache: expected none with the metric layer, which runs every block twice, got {study.cache}")


def _check_size(size: object) -> None:
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    if size is not None and not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"size: expected a number of pixels or [height, width], got {size!r}")
