"""The project's findings in one text: sentences, and beside each what the kept rows say, with the models that they are of.

``python -m mergekit_diff.experiments.results.claims FOLDER TEXT`` writes it, from ``claims.yaml`` and the rows kept in FOLDER;
into README, which has the marker of the strongest findings, it writes those. The sentences name no numbers, so that none can
differ from the rows.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..metrics import metrics
from ..reading import parse_yaml, read_text
from .comparison import Comparison
from .pairing import RATIO
from .pasting import paste
from .run import Run
from .tables import DASH, markdown

HEAD = ["model", "study", "cell", "control", "effect [95%]", "PSNR dB", "KID", "prompts", "look", "by the rule"]
STRONGEST = "strongest findings"
"""The key of the file and the name of the marker."""
KEYS = {"question", "answer", "evidence", "confounds", "unknown"}
NUMBER = re.compile(r"\d+\.\d|\d+ ?%|\d+x\b")


@dataclass(frozen=True)
class Claim:
    """An answer and what it rests on.

    Args:
        question: what was asked.
        answer: in a sentence or two, without numbers.
        evidence: by study, the cells whose comparison with their control speaks to it, for or against.
        confounds: what else could explain it; "none known" is an answer.
        unknown: what has not been asked.

    Raises:
        ValueError: an answer has a number, or no evidence.
    """

    question: str
    answer: str
    evidence: Mapping[str, list[str]]
    confounds: str
    unknown: str

    def __post_init__(self) -> None:
        _check_words(self.answer, self.question)
        if not any(self.evidence.values()):
            raise ValueError(f"claim {self.question!r}: expected evidence, got none")


def load(path: Path) -> dict[str, list[Claim]]:
    """Claims by the title of their section.

    Raises:
        ValueError: a claim with other keys than it should have, or not as :class:`Claim` says.
    """
    sections = _parsed(path)
    for one in (one for claims in sections.values() for one in claims):
        if set(one) != KEYS:
            raise ValueError(f"{path}: expected claims of {', '.join(sorted(KEYS))}, got {', '.join(sorted(one))}")
    return {title: [Claim(**one) for one in claims] for title, claims in sections.items()}


def strongest(folder: Path) -> str:
    """A Markdown list of single findings, each with its effect, its prompts, its model and the command that shows its rows.

    Raises:
        ValueError: a sentence has a number, or no such cell was compared.
    """
    lines = []
    for one in _parsed(folder / "claims.yaml", strongest=True):
        _check_words(one["finding"], one["study"])
        model, study, _, _, effect, psnr, _, prompts, look, _ = _line(folder, one["study"], one["cell"])
        beside = f", PSNR {psnr} dB" if psnr != DASH else ""
        command = f"`mergekit-diff report experiments/findings/{study}`"
        lines.append(f"* {one['finding'].strip()}: {effect}{beside}; {prompts} prompts, {look} look, `{model}`; {command}")
    return "\n".join(lines)


def text(folder: Path) -> str:
    """The whole text, from the claims and the rows in a folder of findings.

    Raises:
        ValueError: no rows are kept of a study that a claim names, or no such cell was compared.
    """
    parts = []
    for title, claims in load(folder / "claims.yaml").items():
        parts.append(f"## {title}\n")
        parts += [_section(folder, claim) for claim in claims]
    return "\n".join(parts)


def _parsed(path: Path, strongest: bool = False) -> Any:  # noqa: ANN401
    found: dict[str, Any] = parse_yaml(read_text(path), str(path))
    listed = found.pop(STRONGEST, [])
    return listed if strongest else found


def _check_words(sentence: str, of: str) -> None:
    if (found := NUMBER.search(sentence)) is not None:
        raise ValueError(f"claim {of!r}: expected a sentence without numbers, got {found[0]!r}")


def _section(folder: Path, claim: Claim) -> str:
    lines = [(study, cell) for study, cells in claim.evidence.items() for cell in cells]
    table = markdown("", [HEAD, *[_line(folder, *line) for line in lines]]).strip()
    models = dict.fromkeys(_read(folder / study).study["model"] for study in claim.evidence)
    commands = "; ".join(f"`mergekit-diff report experiments/findings/{study}`" for study in claim.evidence)
    return "\n\n".join([
        f"### {claim.question.strip()}",
        f"**{claim.answer.strip()}** Measured on {', '.join(f'`{model}`' for model in models)}.",
        table,
        f"*May be confounded by:* {claim.confounds.strip()} *Not known:* {claim.unknown.strip()}",
        f"From the rows: {commands}.\n",
    ])  # fmt: skip


def _line(folder: Path, study: str, cell: str) -> list[str]:
    run = _read(folder / study)
    one = next((one for one in run.comparisons if one.cell == cell), None)
    if one is None:
        raise ValueError(
            f"claims: expected a cell of {study} that is compared, got {cell!r}; possible: {[c.cell for c in run.comparisons]}"
        )
    kid = run.quality_of("kid", cell, one.against)
    look = "second" if study.endswith("-b") or f"{study}-first" in {path.name for path in folder.iterdir()} else "first"
    beside = [_effect(other) if other is not None else DASH for other in (run.beside.get(cell), kid)]
    effect = f"{metrics()[one.metric].label} {_effect(one)}"
    return [run.study["model"], study, cell, one.against, effect, *beside, str(one.prompts), look, one.verdict]


def _effect(one: Comparison) -> str:
    if one.by == RATIO:
        return f"{one.effect:.2f}x [{one.low:.2f}, {one.high:.2f}]"
    digits = "+.1f" if metrics()[one.metric].unit == "dB" else "+.4f"
    return f"{one.effect:{digits}} [{one.low:{digits}}, {one.high:{digits}}]"


@cache
def _read(folder: Path) -> Run:
    if not folder.is_dir():
        raise ValueError(f"claims: expected kept rows in {folder}, got none")
    return Run.read(folder)


if __name__ == "__main__":
    findings, target = Path(sys.argv[1]), Path(sys.argv[2])
    if f"<!-- {STRONGEST} -->" in read_text(target):
        print(paste(STRONGEST, strongest(findings), target))
    else:
        print(paste("claims", text(findings), target))
