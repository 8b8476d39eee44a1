"""Retrain an embedded model: ``python -m mergekit_diff.experiments.models.embedded STAGE --model MODEL``."""

import argparse
import shutil
from importlib import import_module
from pathlib import Path

from ...openmp import limit_spinning

_TRANSFORMER = ("data", "vae", "transformer", "sheet", "export", "evaluate", "card")
STAGES = {
    "emoji": ("data", "vae", "denoiser", "export", "score", "evaluate"),
    "emoji-flux": (*_TRANSFORMER, "reference"),
    "emoji-video": _TRANSFORMER,
}
FOLDERS = {"emoji": "runs/embedded", "emoji-flux": "runs/embedded-flux", "emoji-video": "runs/embedded-video"}
RECIPES = {"emoji-flux": "flux", "emoji-video": "video"}


def main() -> None:
    """Run one stage; every stage resumes from its folder."""
    parser = argparse.ArgumentParser(prog="python -m mergekit_diff.experiments.models.embedded", description=__doc__)
    every = [stage for stages in STAGES.values() for stage in stages]
    parser.add_argument("stage", choices=list(dict.fromkeys(every)))
    parser.add_argument("--model", choices=list(STAGES), default="emoji", help="which model (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help=f"work folder (default: {', '.join(FOLDERS.values())})")
    parser.add_argument("--steps", type=int, help="train up to this many steps (default: depends on the stage)")
    parser.add_argument("--minutes", type=float, help="end a training with a checkpoint after these (default: at its last step)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: all cores)")
    parser.add_argument(
        "--small-steps", type=int, default=3800, help="denoiser steps at half the resolution (default: %(default)s)"
    )
    parser.add_argument("--rate", type=float, help="peak learning rate of the denoiser or transformer (default: depends on it)")
    parser.add_argument(
        "--from-model",
        action="store_true",
        help="start from the shipped weights, or those of --weights, if there is no checkpoint",
    )
    parser.add_argument(
        "--tokens", type=int, choices=(256, 1024), default=1024, help="tokens of an image of emoji-flux (default: %(default)s)"
    )
    parser.add_argument(
        "--frames", type=int, choices=(1, 9), default=9, help="frames of a video of emoji-video (default: %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the transformer while it trains (needs a C++ compiler)")
    parser.add_argument(
        "--weights", help="pipeline folder of export, evaluate, card and --from-model (default: that of the package)"
    )
    parser.add_argument("--named", type=int, help="for card: how many a viewer named right on the sheet of evaluate")
    args = parser.parse_args()
    if args.stage not in STAGES[args.model]:
        parser.error(f"expected a stage of {args.model}, one of {', '.join(STAGES[args.model])}; got {args.stage!r}")
    _use_threads(args.threads)
    run = _transformer if args.model in RECIPES else _emoji
    done = run(args, args.folder or Path(FOLDERS[args.model]))
    if done is not None:
        print(done)


def _use_threads(threads: int | None) -> None:
    """Limit torch's threads; a resumed training ends with the same weights to the bit only with as many."""
    limit_spinning()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _emoji(args: argparse.Namespace, folder: Path) -> object:
    from . import data, denoiser, evaluate, export, text_score, vae

    match args.stage:
        case "data":
            return data.build(folder)
        case "vae":
            return vae.train(folder, args.steps, args.minutes)
        case "denoiser":
            source = export.MODEL if args.from_model else None
            steps, rate = args.steps or denoiser.STEPS, args.rate or denoiser.RATE
            return denoiser.train(folder, steps, args.small_steps, rate, source, args.minutes)
        case "export":
            return export.export(folder)
        case "score":
            return text_score.fit(folder)
        case _:
            return evaluate.evaluate(folder, args.weights or args.model)


def _transformer(args: argparse.Namespace, folder: Path) -> object:
    from . import card, cutouts, export, flow

    recipe = import_module(f".{RECIPES[args.model]}.recipe", __package__).RECIPE
    size, weights = getattr(args, recipe.size), Path(args.weights or recipe.model)
    match args.stage:
        case "data":
            return cutouts.build(folder)
        case "vae":
            return recipe.train_vae(folder, args.steps, args.minutes)
        case "transformer":
            source = weights if args.from_model else None
            if source is not None and not (folder / "vae").exists():
                shutil.copytree(source / "vae", folder / "vae")
            return flow.train(recipe.flow(folder, size, args.steps, args.rate), args.minutes, args.compile, source)
        case "sheet":
            return export.sheet(recipe.flow, folder, size)
        case "export":
            return export.export_flow(recipe.flow, folder, size, weights)
        case "evaluate":
            return recipe.evaluate(folder, weights)
        case "reference":
            from .flux import real

            return real.write(folder)
        case _:
            return card.write(recipe, weights, folder, args.named)


if __name__ == "__main__":
    main()
