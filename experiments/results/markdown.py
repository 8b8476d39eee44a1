"""The tables of a run as Markdown: for its own tables.md, and for LOG.md."""

from . import equal_cost, tables
from .answer import answer, caveats
from .in_common import in_common
from .run import Run


def fidelity_and_speed(run: Run) -> str:
    """The contents of tables.md."""
    speed = [tables.markdown(tables.SPEED, tables.speed_table(run.speed))] if run.speed else []
    return "\n".join([_fidelity(run), *speed])


def finding(run: Run) -> str:
    """The question, what all cells have in common, the answer and all tables."""
    texts = [f"{run.study['question']}\n", f"{in_common(run)}\n"]
    if run.primary is not None:
        texts.append(answer(run.comparisons) + "\n")
        texts += [f"* {line}\n" for line in caveats(run.comparisons, run.beside, run.differing)]
    texts.append(_fidelity(run))
    if run.comparisons:
        texts.append(tables.markdown(tables.VERDICTS, tables.verdict_table(run.comparisons, run.beside)))
    if run.at_equal_cost:
        texts.append(tables.markdown(equal_cost.TITLE, equal_cost.table(run.at_equal_cost)))
    texts += [tables.markdown(tables.quality_title(one), tables.verdict_table(one, {})) for one in run.qualities]
    if any(row.stale for row in run.rows):
        texts += [tables.markdown(title, tables.steps_table(run.rows, column)) for column, title in tables.OVER_STEPS.items()]
    if any(row.layers for row in run.rows):
        texts.append(tables.markdown(tables.LAYERS, tables.layers_table(run.rows)))
    return "\n".join(texts)


def _fidelity(run: Run) -> str:
    table = tables.fidelity_table(run.lines.values(), run.study["metrics"], run.primary, run.noun)
    return tables.markdown(tables.fidelity_title(run.noun), table)
