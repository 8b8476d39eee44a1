"""Probe a vision transformer on CIFAR-10: ``python -m mergekit_diff.experiments.probe --strategies tome --ratios 0.25 0.5``."""

import argparse
import sys
from collections.abc import Sequence

from ..openmp import limit_spinning
from ..terminal import complain, progress_bar, say, show_table


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    top = argparse.ArgumentParser(prog="python -m mergekit_diff.experiments.probe", description=__doc__)
    top.add_argument("--model", default="vit-focus", help="a fetched vision transformer (default: %(default)s)")
    top.add_argument("--strategies", nargs="+", default=["tome"], metavar="NAME", help="default: tome")
    top.add_argument("--ratios", nargs="*", type=float, default=[0.25, 0.5], metavar="R", help="default: 0.25 0.5")
    top.add_argument("--refit", action="store_true", help="also fit a probe to merged features of the training images")
    top.add_argument("--train", type=int, default=1000, metavar="N", help="training images (default: %(default)s)")
    top.add_argument("--test", type=int, default=400, metavar="N", help="test images (default: %(default)s)")
    top.add_argument("--seed", type=int, default=0, help="draws the images (default: %(default)s)")
    top.add_argument("--batch", type=int, default=8, metavar="N", help="images of a call (default: %(default)s)")
    top.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s")
    top.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Probe and print the table; 0, 1 if it failed, or 2 if the input is wrong."""
    args = parser().parse_args(argv)
    limit_spinning()
    try:
        _run(args)
    except (ValueError, RuntimeError) as error:  # a session that merged nothing raises the latter
        complain(f"error: {error}")
        return 2 if isinstance(error, ValueError) else 1
    return 0


def _run(args: argparse.Namespace) -> None:
    from mergekit_diff import make

    from ..models import check_device, load_pipeline, task_of, use_threads
    from ..models.fetched import FETCHED
    from ..study.rehearsal import rehearse
    from .class_token import MERGING
    from .comparison import compare, passes
    from .labelled import cifar10
    from .table import table

    possible = [name for name in FETCHED if task_of(name).name == "features"]
    if args.model not in possible:
        raise ValueError(f"expected a model with the task features, one of {', '.join(possible)}; got {args.model!r}")
    if args.batch < 1:
        raise ValueError(f"expected a batch of at least 1 image, got {args.batch}")
    strategies = {
        f"{name}, ratio={ratio:g}": make("strategy", {"name": name, "ratio": ratio})
        for name in args.strategies
        for ratio in args.ratios
        if ratio  # 0 is the unmerged model
    }
    for strategy in strategies.values():
        rehearse(strategy, list(MERGING["roles"]))
    check_device(args.device)
    use_threads(args.threads)
    train, test = cifar10(args.train, args.test, args.seed)
    model = load_pipeline(args.model, args.device)
    with progress_bar("images", passes(args.train, args.test, len(strategies), args.refit)) as advance:
        probed = compare(model, train, test, strategies, refit=args.refit, batch=args.batch, advance=advance)
    images = f"{args.train} training and {args.test} test images, seed {args.seed}"
    show_table(f"Linear probe of {args.model} on CIFAR-10, {images}", table(probed))
    say("Ridge regression, its penalty chosen on training images. Chance is 10%. Intervals: Wilson; points: Agresti and Min.")


if __name__ == "__main__":
    sys.exit(main())
