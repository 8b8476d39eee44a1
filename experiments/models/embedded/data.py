"""Stage ``data``: captioned emoji images from three npm packages, rasterised to 64x64.

Noto (Google, Apache-2.0), Fluent flat and Fluent 3D (Microsoft, MIT), fetched with ``npm pack`` at pinned versions.
"""

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "3d": "@lobehub/fluent-emoji-3d@1.1.0",
}
STYLES = tuple(PACKAGES)
SIZE = 64
HERE = Path(__file__).parent
W3 = "http://www.w3.org"


@dataclass(frozen=True)
class Emoji:
    """Images with their names.

    Args:
        images: (n, 3, 64, 64) uint8, on white.
        names: emoji name and style of every image, such as ``("red-apple", "noto")``.
    """

    images: torch.Tensor
    names: list[tuple[str, str]]


def concepts(trained: bool = False) -> dict[str, str]:
    """Emoji name to caption word: all that the tokenizer knows, or only those that the denoiser was trained on."""
    lines = _lines("concepts.txt")
    chosen = [line.removesuffix(" *") for line in lines if line.endswith(" *") or not trained]
    return dict(line.split(": ") for line in chosen)


def held_out() -> set[tuple[str, str]]:
    """(concept, style) pairs that training never sees: one style of each emoji in ``held_out.txt``."""
    return {(name, style) for name, style in (line.split(": ") for line in _lines("held_out.txt"))}


def _lines(file: str) -> list[str]:
    return [line for line in (HERE / file).read_text().splitlines() if not line.startswith("#")]


def fetch(folder: Path) -> dict[str, Path]:
    """The npm tarball of every style, downloaded into ``folder`` unless it is there already.

    Raises:
        RuntimeError: npm is missing or could not fetch a package.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tarballs = {}
    for style, package in PACKAGES.items():
        path = folder / (package.removeprefix("@").replace("/", "-").replace("@", "-") + ".tgz")
        if not path.exists():
            try:
                subprocess.run(["npm", "pack", package], cwd=folder, check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise RuntimeError(f"npm pack {package} failed: {error}; npm and a package registry are needed") from error
        tarballs[style] = path
    return tarballs


def build(folder: Path) -> Path:
    """Rasterise every emoji that exists in all three styles and write ``folder/emoji.pt``; returns its path."""
    target = folder / "emoji.pt"
    if target.exists():
        return target
    drawn = drawings(folder)
    images = torch.stack([_to_tensor(drawing) for drawing in drawn.values()])
    torch.save({"images": images, "names": list(drawn)}, target)
    return target


def drawings(folder: Path) -> dict[tuple[str, str], Image.Image]:
    """Every emoji that exists in all three styles, by (name, style): 256 pixels wide, with transparency."""
    tarballs = fetch(folder)
    drawn = {"noto": _svgs(tarballs["noto"]), "flat": _svgs(tarballs["flat"]), "3d": _webps(tarballs["3d"], tarballs["noto"])}
    by_style = {style: dict(pairs) for style, pairs in drawn.items()}
    names = sorted(set.intersection(*(set(p) for p in by_style.values())))
    return {(name, style): by_style[style][name] for name in names for style in STYLES}


def load(folder: Path) -> Emoji:
    """The data that :func:`build` wrote."""
    return Emoji(**torch.load(build(folder), weights_only=True))


def _read(tarball: Path, member: str) -> bytes:
    with tarfile.open(tarball) as tar:
        file = tar.extractfile(f"package/{member}")
        if file is None:
            raise RuntimeError(f"{tarball.name} has no {member}")
        return file.read()


def _svgs(tarball: Path) -> Iterator[tuple[str, Image.Image]]:
    import resvg_py

    icons = json.loads(_read(tarball, "icons.json"))
    side = icons["width"] if "width" in icons else icons["height"]
    for name, icon in icons["icons"].items():
        if "skin-tone" in name:
            continue
        svg = f'<svg xmlns="{W3}/2000/svg" xmlns:xlink="{W3}/1999/xlink" viewBox="0 0 {side} {side}">{icon["body"]}</svg>'
        yield name, Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=4 * SIZE))))


def _webps(tarball: Path, names_from: Path) -> Iterator[tuple[str, Image.Image]]:
    names = json.loads(_read(names_from, "chars.json"))
    with tarfile.open(tarball) as tar:
        for member in tar:
            path = Path(member.name)
            name = names.get(path.stem) or names.get(path.stem.removesuffix("-fe0f"))
            if path.suffix == ".webp" and name and "skin-tone" not in name:
                file = tar.extractfile(member)
                if file is not None:
                    yield name, Image.open(io.BytesIO(file.read()))


def _to_tensor(image: Image.Image) -> torch.Tensor:
    image = image.convert("RGBA")
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    small = canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(SIZE, SIZE, 3).permute(2, 0, 1).clone()
