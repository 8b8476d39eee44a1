"""Train the embedded model again: ``python -m mergekit_diff.experiments.models.embedded STAGE``."""

import argparse
from pathlib import Path


def main() -> None:
    """Run one stage; every stage resumes from its folder."""
    parser = argparse.ArgumentParser(prog="python -m mergekit_diff.experiments.models.embedded", description=__doc__)
    parser.add_argument("stage", choices=["data", "vae", "denoiser", "export", "score", "evaluate"])
    parser.add_argument("--folder", type=Path, default=Path("runs/embedded"), help="work folder (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="train up to this many steps (default: depends on the stage)")
    parser.add_argument(
        "--small-steps", type=int, default=3800, help="denoiser steps at half the resolution (default: %(default)s)"
    )
    parser.add_argument("--rate", type=float, default=4e-4, help="peak learning rate of the denoiser (default: %(default)s)")
    parser.add_argument("--from-model", action="store_true", help="start from the shipped weights if there is no checkpoint")
    args = parser.parse_args()
    if args.stage == "data":
        from . import data

        print(data.build(args.folder))
    elif args.stage == "vae":
        from . import vae

        print(vae.train(args.folder, args.steps or 1800))
    elif args.stage == "denoiser":
        from . import denoiser, export

        source = export.MODEL if args.from_model else None
        denoiser.train(args.folder, args.steps or 7600, args.small_steps, args.rate, source)
    elif args.stage == "export":
        from . import export

        print(export.export(args.folder))
    elif args.stage == "score":
        from . import text_score

        print(text_score.fit(args.folder))
    else:
        from . import evaluate

        evaluate.evaluate(args.folder)


if __name__ == "__main__":
    main()
