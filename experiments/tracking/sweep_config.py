"""The sweep of a study as the configuration that ``wandb sweep`` takes: a server then hands the cells out to agents."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from ..reading import parse_yaml
from ..study.config import Primary, Study
from ..study.loading import flatten

AGENT = 'exec mergekit-diff run {words} "sweep={{}}" "control={{}}" wandb.mode=online out={out}/"$WANDB_RUN_ID" "$@"'
"""Run by a shell, since an agent passes the name of the run in the environment, and every cell needs a folder of its own."""


def sweep_config(study: Study, words: Sequence[str]) -> str:
    """The YAML text for ``wandb sweep``. Every agent then runs one cell at a time, together with its base.

    Args:
        study: what is swept, and the metric that decides.
        words: name or path of the study and the ``key=value`` words that changed it.

    Raises:
        ValueError: the study sweeps nothing.
    """
    specs = flatten(study.sweep)
    if not specs:
        raise ValueError("expected a study with a sweep, got none: a W&B sweep needs sweep={key: {values: [...]}}")
    script = AGENT.format(words=shlex.join(words), out=shlex.quote(study.out))
    config: dict[str, Any] = {
        "program": "mergekit-diff",
        "command": ["sh", "-c", script, "mergekit-diff", "${args_no_hyphens}"],
        "method": study.sweep_method,
        "parameters": {key: _parameter(value) for key, value in specs.items()},
    }
    if isinstance(study.primary, Primary):
        goal = {"lower": "minimize", "higher": "maximize"}[study.primary.better]
        config["metric"] = {"name": study.primary.metric, "goal": goal}
    if study.sweep_count is not None:
        config["run_cap"] = study.sweep_count
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=1000)


def _parameter(spec: dict[str, Any]) -> dict[str, Any]:
    if "values" in spec:
        return {"values": [_word(value) for value in spec["values"]]}
    return {key: _word(value) for key, value in spec.items()}


def _word(value: Any) -> Any:  # noqa: ANN401
    """A value that is the same YAML after an agent's ``str``: numbers and plain text as they are, the rest as JSON."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return value if plain or _is_plain_text(value) else json.dumps(value, ensure_ascii=False)


def _is_plain_text(value: Any) -> bool:  # noqa: ANN401
    try:
        return isinstance(value, str) and parse_yaml(value, "text") == value
    except ValueError:
        return False
