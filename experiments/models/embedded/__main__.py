"""Retrain an embedded model: ``python -m mergekit_diff.experiments.models.embedded STAGE --model MODEL``."""

import argparse
from pathlib import Path

STAGES = {
    "emoji": ("data", "vae", "denoiser", "export", "score", "evaluate"),
    "emoji-flux": ("data", "vae", "transformer", "sheet", "export"),
}


def main() -> None:
    """Run one stage; every stage resumes from its folder."""
    parser = argparse.ArgumentParser(prog="python -m mergekit_diff.experiments.models.embedded", description=__doc__)
    every = [stage for stages in STAGES.values() for stage in stages]
    parser.add_argument("stage", choices=list(dict.fromkeys(every)))
    parser.add_argument("--model", choices=list(STAGES), default="emoji", help="which model (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="work folder (default: runs/embedded, runs/embedded-flux)")
    parser.add_argument("--steps", type=int, help="train up to this many steps (default: depends on the stage)")
    parser.add_argument(
        "--small-steps", type=int, default=3800, help="denoiser steps at half the resolution (default: %(default)s)"
    )
    parser.add_argument("--rate", type=float, help="peak learning rate of the denoiser or transformer (default: depends on it)")
    parser.add_argument("--from-model", action="store_true", help="start from the shipped weights if there is no checkpoint")
    parser.add_argument(
        "--tokens", type=int, choices=(256, 1024), default=256, help="tokens of an image of emoji-flux (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.stage not in STAGES[args.model]:
        parser.error(f"expected a stage of {args.model}, one of {', '.join(STAGES[args.model])}; got {args.stage!r}")
    (_emoji if args.model == "emoji" else _emoji_flux)(args)


def _emoji(args: argparse.Namespace) -> None:
    folder = args.folder or Path("runs/embedded")
    if args.stage == "data":
        from . import data

        print(data.build(folder))
    elif args.stage == "vae":
        from . import vae

        print(vae.train(folder, args.steps or 1800))
    elif args.stage == "denoiser":
        from . import denoiser, export

        source = export.MODEL if args.from_model else None
        denoiser.train(folder, args.steps or 7600, args.small_steps, args.rate or denoiser.RATE, source)
    elif args.stage == "export":
        from . import export

        print(export.export(folder))
    elif args.stage == "score":
        from . import text_score

        print(text_score.fit(folder))
    else:
        from . import evaluate

        evaluate.evaluate(folder)


def _emoji_flux(args: argparse.Namespace) -> None:
    folder = args.folder or Path("runs/embedded-flux")
    if args.stage == "data":
        from .flux import data

        print(data.build(folder))
    elif args.stage == "vae":
        from .flux import vae

        print(vae.train(folder, args.steps or vae.STEPS))
    elif args.stage == "transformer":
        from .flux import transformer

        transformer.train(folder, args.tokens, args.steps, args.rate)
    elif args.stage == "sheet":
        from .flux import export

        print(export.sheet(folder, args.tokens))
    else:
        from .flux import export

        print(export.export(folder, args.tokens))


if __name__ == "__main__":
    main()
