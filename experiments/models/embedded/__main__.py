"""Retrain an embedded model: ``python -m mergekit_diff.experiments.models.embedded STAGE --model MODEL``."""

import argparse
from pathlib import Path

STAGES = {
    "emoji": ("data", "vae", "denoiser", "export", "score", "evaluate"),
    "emoji-flux": ("data", "vae", "transformer", "sheet", "export", "evaluate", "card"),
    "emoji-video": ("data", "vae", "latents", "transformer", "sheet", "export", "evaluate", "card"),
}
FOLDERS = {"emoji": "runs/embedded", "emoji-flux": "runs/embedded-flux", "emoji-video": "runs/embedded-video"}


def main() -> None:
    """Run one stage; every stage resumes from its folder."""
    parser = argparse.ArgumentParser(prog="python -m mergekit_diff.experiments.models.embedded", description=__doc__)
    every = [stage for stages in STAGES.values() for stage in stages]
    parser.add_argument("stage", choices=list(dict.fromkeys(every)))
    parser.add_argument("--model", choices=list(STAGES), default="emoji", help="which model (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help=f"work folder (default: {', '.join(FOLDERS.values())})")
    parser.add_argument("--steps", type=int, help="train up to this many steps (default: depends on the stage)")
    parser.add_argument(
        "--small-steps", type=int, default=3800, help="denoiser steps at half the resolution (default: %(default)s)"
    )
    parser.add_argument("--rate", type=float, help="peak learning rate of the denoiser or transformer (default: depends on it)")
    parser.add_argument("--from-model", action="store_true", help="start from the shipped weights if there is no checkpoint")
    parser.add_argument(
        "--tokens", type=int, choices=(256, 1024), default=256, help="tokens of an image of emoji-flux (default: %(default)s)"
    )
    parser.add_argument(
        "--frames", type=int, choices=(1, 9), default=9, help="frames of a video of emoji-video (default: %(default)s)"
    )
    parser.add_argument("--weights", help="pipeline folder of export, evaluate and card (default: that of the package)")
    parser.add_argument("--named", type=int, help="for card: how many a viewer named right on the sheet of evaluate")
    args = parser.parse_args()
    if args.stage not in STAGES[args.model]:
        parser.error(f"expected a stage of {args.model}, one of {', '.join(STAGES[args.model])}; got {args.stage!r}")
    folder = args.folder or Path(FOLDERS[args.model])
    run = {"emoji": _emoji, "emoji-flux": _emoji_flux, "emoji-video": _emoji_video}[args.model]
    done = run(args, folder)
    if done is not None:
        print(done)


def _emoji(args: argparse.Namespace, folder: Path) -> object:
    from . import data, denoiser, evaluate, export, text_score, vae

    match args.stage:
        case "data":
            return data.build(folder)
        case "vae":
            return vae.train(folder, args.steps or 1800)
        case "denoiser":
            source = export.MODEL if args.from_model else None
            return denoiser.train(folder, args.steps or 7600, args.small_steps, args.rate or denoiser.RATE, source)
        case "export":
            return export.export(folder)
        case "score":
            return text_score.fit(folder)
        case _:
            return evaluate.evaluate(folder, args.weights or args.model)


def _emoji_flux(args: argparse.Namespace, folder: Path) -> object:
    from . import card
    from .flux import data, evaluate, export, recipe, transformer, vae

    weights = Path(args.weights or export.MODEL)
    match args.stage:
        case "data":
            return data.build(folder)
        case "vae":
            return vae.train(folder, args.steps or vae.STEPS)
        case "transformer":
            return transformer.train(folder, args.tokens, args.steps, args.rate)
        case "sheet":
            return export.sheet(folder, args.tokens)
        case "export":
            return export.export(folder, args.tokens, weights)
        case "evaluate":
            return evaluate.evaluate(folder, weights)
        case _:
            return card.write(recipe.RECIPE, weights, folder, args.named)


def _emoji_video(args: argparse.Namespace, folder: Path) -> object:
    from . import card
    from .flux import data
    from .video import evaluate, export, latents, recipe, transformer, vae

    weights = Path(args.weights or export.MODEL)
    match args.stage:
        case "data":
            return data.build(folder)
        case "vae":
            return vae.train(folder, args.steps or vae.STEPS)
        case "latents":
            return latents.build(folder)
        case "transformer":
            return transformer.train(folder, args.frames, args.steps, args.rate)
        case "sheet":
            return export.sheet(folder, args.frames)
        case "export":
            return export.export(folder, args.frames, weights)
        case "evaluate":
            return evaluate.evaluate(folder, weights)
        case _:
            return card.write(recipe.RECIPE, weights, folder, args.named)


if __name__ == "__main__":
    main()
