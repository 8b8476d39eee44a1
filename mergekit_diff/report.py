"""What was actually merged, site by site: ratios asked and granted, and the reasons where nothing was."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .sites import Site


@dataclass
class Tally:
    """Counts of one role of one site over a session.

    Args:
        site: where.
        role: which part of the block.
        gate: the gate's decision.
        notes: why nothing was merged, or what was cut.
        short: why plans granted less than was asked, each reason once.
        by_step: tokens and kept tokens of every step of the latest image.
        planned: steps of an image in which a plan was made.
    """

    site: Site
    role: str
    grid: tuple[int, ...] = ()
    calls: int = 0
    before: int = 0
    after: int = 0
    plans: int = 0
    asked_sum: float = 0.0
    asked_calls: int = 0
    gate: Mapping[str, Any] | None = None
    notes: dict[str, None] = field(default_factory=dict)
    short: dict[str, None] = field(default_factory=dict)
    by_step: dict[int, tuple[int, int]] = field(default_factory=dict)
    planned: set[int] = field(default_factory=set)

    def count(self, grid: tuple[int, ...], step: int, before: int, after: int, asked: float | None) -> None:
        """Count one call in which ``before`` tokens became ``after``."""
        self.grid, self.calls = grid, self.calls + 1
        self.before, self.after = self.before + before, self.after + after
        self.by_step[step] = (before, after)
        if asked is not None:
            self.asked_sum, self.asked_calls = self.asked_sum + asked, self.asked_calls + 1

    def row(self) -> dict[str, Any]:
        """The row of the report: means over calls, in tokens of one image."""
        calls = max(self.calls, 1)
        asked = self.asked_sum / self.asked_calls if self.asked_calls else None
        granted = 1 - self.after / self.before if self.before else 0.0
        notes, gate = list(self.notes), self.gate
        if gate is not None and not gate["merges"]:
            notes.append(f"skipped: would save {gate['saves_ms']:.3g} ms a call and cost {gate['costs_ms']:.3g}")
        if self.calls == 0 and not notes:
            notes = ["never called"]
        if self.short and self.after < self.before:
            notes.append(f"less granted than asked: {', '.join(self.short)}")
        return {
            "site": self.site.name,
            "role": self.role,
            "stage": self.site.stage,
            "level": self.site.level,
            "grid": self.grid,
            "tokens": self.before // calls,
            "kept": self.after / calls,
            "asked": asked,
            "granted": granted,
            "plans": self.plans,
            "planned": len(self.planned),
            "calls": self.calls,
            "gain_ms": None if gate is None else gate["saves_ms"] - gate["costs_ms"],
            "note": "; ".join(notes),
            "by_step": dict(self.by_step),
        }


class MergeReport:
    """A table of what a session merged: ``print`` it, or read ``to_dicts()``.

    Args:
        tallies: a tally for every site and role.
        recorded: the most bytes that the session held between two steps for each signal that the strategy asks for.
    """

    def __init__(self, tallies: Sequence[Tally], recorded: Mapping[str, int] | None = None) -> None:
        self._rows = [t.row() for t in tallies]
        self.recorded = dict(recorded or {})

    def to_dicts(self) -> list[dict[str, Any]]:
        """One row per site and role.

        Keys: site, role, stage, level, grid, tokens, kept, asked, granted, plans, planned, calls, gain_ms, note, by_step.
        ``tokens`` and ``kept`` are means over the calls; ``by_step`` maps a step to (tokens, kept), and ``planned`` says in how
        many of these steps a plan was made. ``asked`` is None if the strategy has no ratio or was not asked. ``gain_ms`` is the
        estimated saving in milliseconds a call; None without a gate.
        """
        return [dict(row) for row in self._rows]

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens before and after merging, summed over all hooked submodules and calls."""
        before = sum(row["tokens"] * row["calls"] for row in self._rows)
        return before, round(sum(row["kept"] * row["calls"] for row in self._rows))

    @property
    def merged(self) -> bool:
        """Whether any token was merged anywhere."""
        return self.tokens[1] < self.tokens[0]

    @property
    def granted(self) -> float:
        """The merge ratio over all sites that were asked to merge, weighted by their tokens."""
        return self._mean("granted") or 0.0

    @property
    def asked(self) -> float | None:
        """The ratio asked for, over the same sites; None if the strategy has none."""
        return self._mean("asked")

    def __str__(self) -> str:
        """One line for all sites with the same outcome, with their number, and one for each signal that was recorded."""
        same: dict[tuple[Any, ...], int] = defaultdict(int)
        for r in self._rows:
            grid = "x".join(map(str, r["grid"])) or "-"
            asked = "-" if r["asked"] is None else f"{r['asked']:.3f}"
            numbers = (r["tokens"], f"{r['kept']:g}", asked, f"{r['granted']:.3f}", r["plans"])
            same[r["role"], r["level"], grid, *numbers, r["note"]] += 1
        head = ("sites", "role", "level", "grid", "tokens", "kept", "asked", "granted", "plans", "note")
        table = [head, *[tuple(map(str, (count, *key))) for key, count in same.items()]]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in table]
        lines += [f"recorded for '{word}': {size / 1e6:.3g} MB" for word, size in self.recorded.items()]
        return "\n".join(lines)

    def _mean(self, column: str) -> float | None:
        rows = [r for r in self._rows if r["asked"] is not None or (column == "granted" and r["kept"] < r["tokens"])]
        rows = [r for r in rows if r[column] is not None and r["calls"]]
        weight = sum(r["tokens"] * r["calls"] for r in rows)
        return sum(r[column] * r["tokens"] * r["calls"] for r in rows) / weight if weight else None
