"""The command ``mergekit-diff``. Everything heavy is imported inside the commands, so that help is instant."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mergekit_diff import __version__

from .extra import check_extra
from .files import with_remedy
from .openmp import limit_spinning
from .terminal import complain, one_line, say

KINDS = ("strategy", "metric", "ratio", "window", "reduction", "family", "study")
"""What ``list`` takes, but for a plug-in's own kinds: the registry knows them only once torch is imported, too late for help."""
NAMES = (errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of a name that no file can have, so of the input."""
INTERRUPTED = 130
BROKEN_PIPE = 141
"""What shells report of a program that ends because nobody reads its output any more: 128 + SIGPIPE."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit with 2."""
        self.exit(2, f"mergekit-diff: error: {one_line(message)}; see {self.prog} --help\n")


def parser() -> Parser:
    """Every command and its arguments."""
    top = Parser(prog="mergekit-diff", description="Training-free token merging in diffusion models: run, look, compare.")
    top.add_argument("--version", action="version", version=f"mergekit-diff {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a study, by name or path; the same command again resumes it")
    run.add_argument("study", metavar="STUDY", help="a name (see: mergekit-diff list study) or a .yaml file")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="change the study, such as steps=10 out=runs/mine")
    run.add_argument("--fresh", action="store_true", help="delete the results of an earlier run in the folder and start over")
    run.add_argument("--wandb-sweep", action="store_true", help="run nothing; print the file for `wandb sweep`")
    generate = commands.add_parser("generate", help="one image or video: base and merged side by side, with the merge map")
    generate.add_argument("prompt", metavar="PROMPT", help='such as "a noto apple"')
    generate.add_argument("overrides", nargs="*", metavar="key=value", help="such as strategy=tomesd strategy.ratio=0.6")
    bench = commands.add_parser("bench", help="time, FLOPs and memory, compared with the base, the floor and installed peers")
    bench.add_argument("overrides", nargs="*", metavar="key=value", help="such as size=sdxl at=step what=flops")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write rows and all rounds, with versions and threads")
    bench.add_argument("--plot", type=Path, metavar="FILE", help="plot the table, as .png, .svg or .pdf")
    report = commands.add_parser("report", help="rebuild the HTML report of a run folder; for kept rows, print the tables")
    report.add_argument("folder", type=Path, metavar="RUN_DIR")
    report.add_argument("--rows-into", type=Path, metavar="DIR", help="then copy its rows there, without the images")
    report.add_argument("--tables-into", type=Path, metavar="FILE", help="then paste its tables between their markers there")
    board = commands.add_parser("leaderboard", help="strategies at equal cost, from kept runs of one study, a run a strategy")
    board.add_argument("folder", type=Path, metavar="DIR", help="with a kept run for every strategy")
    board.add_argument("--into", type=Path, metavar="FILE", help="paste the table between its markers there")
    models = commands.add_parser(
        "models", help="models by name: task, size, licence, whether they are here; fetch NAME brings one"
    )
    models.add_argument("action", nargs="?", choices=["fetch"], metavar="fetch", help="bring a pretrained model or data")
    models.add_argument("name", nargs="?", metavar="NAME", help="of the model or data set to fetch")
    listed = commands.add_parser("list", help="everything that is registered, with its settings")
    listed.add_argument("kind", nargs="?", metavar="KIND", help=f"{', '.join(KINDS)}; default: all")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0: done. 1: the run failed or is incomplete. 2: the input is wrong, explained in one line on stderr. 130: interrupted.
        141: the reader of the output has gone.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _command(_parse(words), words)
        sys.stdout.flush()  # here, where a reader that has gone is handled
        return code
    except ValueError as error:
        complain(f"error: {error}")
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return BROKEN_PIPE
    except OSError as error:
        complain(f"error: {with_remedy(error)}")
        return 2 if error.errno in NAMES else 1
    except KeyboardInterrupt:
        complain("interrupted; the same command again resumes")
        return INTERRUPTED


def _parse(words: list[str]) -> argparse.Namespace:
    """Also accepts key=value words after an option, where argparse does not look for them."""
    top = parser()
    args, rest = top.parse_known_args(words)
    if rest and (args.command not in ("run", "generate", "bench") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    return args


def _command(args: argparse.Namespace, words: list[str]) -> int:
    if args.command != "bench":  # which measures the machine as it is
        limit_spinning()
    if args.command == "list":
        return _list(args.kind)
    check_extra(args.command)
    if args.command == "models":
        return _models(args.action, args.name)
    if args.command == "run":
        return _run(args, words)
    if args.command == "generate":
        from .run.single import generate, single_study

        return generate(single_study(args.prompt, args.overrides))
    if args.command == "bench":
        from .bench import load_bench

        bench = load_bench(args.overrides)
        from .bench.command import run_bench

        return run_bench(bench, args.json, args.plot)
    if args.command == "leaderboard":
        from .results.leaderboard import board, table
        from .results.losses import losses
        from .results.pasting import paste

        entries = board(args.folder)
        found = f"{table(entries)}\n\n{losses(entries)}".strip()
        say(found if args.into is None else paste(f"board {args.folder.absolute().name}", found, args.into))
        return 0
    return _report(args)


def _list(kind: str | None) -> int:
    from .listing import STUDY, listing

    if kind in (None, STUDY):
        check_extra("list" if kind is None else f"list {STUDY}")
    say(listing(kind))
    return 0


def _models(action: str | None, name: str | None) -> int:
    from .models.listing import table_of_models

    if action is None:
        say(table_of_models())
        return 0
    from mergekit_diff.registry import one_of

    from .models.fetched import DATA_SETS, FETCHED, fetch

    pins = {key: (model.pin,) for key, model in FETCHED.items()} | {key: data.pins for key, data in DATA_SETS.items()}
    if name is None:
        raise ValueError(f"expected the name of a model or data set to fetch, got none; possible: {', '.join(pins)}")
    for path in fetch(*pins[one_of(name, pins, "model or data set to fetch")]):
        say(path)
    return 0


def _run(args: argparse.Namespace, words: list[str]) -> int:
    from .study.loading import load_study

    study = load_study(args.study, args.overrides)
    if args.wandb_sweep:
        from .study.sweep import cells
        from .tracking.sweep_config import sweep_config

        cells(study)  # every cell is checked before a server hands it out
        print(sweep_config(study, [args.study, *args.overrides]), end="")
        return 0
    from .run.runner import run

    return run(study, [word for word in words if word != "--fresh"], args.fresh)


def _report(args: argparse.Namespace) -> int:
    from .results import kept
    from .results.run import Run

    run = Run.read(args.folder)
    if kept.is_kept(args.folder):
        from .results.markdown import finding

        if args.rows_into or args.tables_into:
            raise ValueError(f"expected a run folder for --rows-into and --tables-into, got kept rows in {args.folder}")
        say(finding(run))
        return 0
    from .report import write_report
    from .results.folder import RunFolder
    from .results.pasting import paste_tables

    say(write_report(run))
    if deleted := RunFolder(run.folder).without_image():
        files = f"{run.folder / deleted[0].image}" + (f" and {len(deleted) - 1} more" if deleted[1:] else "")
        complain(f"error: rows without their image are left out: {files}; the command of the run generates it again")
    if args.rows_into is not None:
        say(kept.keep(run.folder, run.rows, args.rows_into))
    if args.tables_into is not None:
        say(paste_tables(run.folder, args.tables_into))
    return int(bool(deleted))


if __name__ == "__main__":
    sys.exit(main())
