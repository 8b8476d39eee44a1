"""What merges in which model, as the sites of tiny models say: ``python tests/family_table.py`` writes it for page and command.

It writes ``experiments/families.json``, which ``mergekit-diff list family`` prints, and the tables of ``docs/models.md``.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusers import ControlNetModel
from tiny import tiny_unet
from tiny_families import FAMILIES, build
from tiny_language import LANGUAGE, TITLES
from tiny_language import build as build_language

from mergekit_diff.arguments import Signature
from mergekit_diff.sites import ROLES, Site, families, family_of, find_sites

ROOT = Path(__file__).parent.parent
RECORD, PAGE = ROOT / "experiments" / "families.json", ROOT / "docs" / "models.md"
UNET = "Stable Diffusion 1, 2, XL"
KINDS = ("image", "two_streams", "single_stream", "flux_like", "controlnets", "video", "audio", "vision")
"""Parts of the names of the files with tiny models, in the order of the tables."""
HEADS = ("class", "text", "positions", "timestep", "guidance", "preset")


def record() -> list[dict[str, Any]]:
    """Title, roles and classes of every family: images first, then videos, sound, and what is no diffusion model."""
    unet = tiny_unet()
    names = sorted(FAMILIES, key=lambda name: next(i for i, kind in enumerate(KINDS) if kind in FAMILIES[name].build.__module__))
    models = [
        (UNET, unet),
        (UNET, ControlNetModel.from_unet(unet)),
        *((FAMILIES[name].title, build(name)[0]) for name in names),
        *((TITLES[name], build_language(name)) for name in LANGUAGE),
    ]
    return [
        {"title": title, "roles": _roles(own), "classes": _classes(own)}
        for title in dict.fromkeys(title for title, _ in models)
        if (own := [model for each, model in models if each == title])
    ]


def page(told: Iterable[Mapping[str, Any]]) -> str:
    """The text of ``docs/models.md`` with its tables made anew."""
    roles = [["model", *ROLES], *([family["title"], *family["roles"].values()] for family in told)]
    classes = [list(HEADS), *([f"`{name}`", *facts.values()] for family in told for name, facts in family["classes"].items())]
    text = PAGE.read_text(encoding="utf-8")
    for name, rows in (("roles", roles), ("classes", classes)):
        head, *body = ["| " + " | ".join(row) + " |" for row in rows]
        table = "\n".join([head, "|" + "---|" * len(rows[0]), *body])
        between = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        text = between.sub(lambda _, table=table: f"\n{table}\n\n", text)
    return text


def _roles(models: Iterable[Any]) -> dict[str, str]:
    """Each role: "yes", or "no" and why; both where some blocks of a family offer it."""
    sites = [site for model in models for site in _used(model)]
    cells = {role: dict.fromkeys("yes" if site.offers(role) else f"no: {site.lacks(role)}" for site in sites) for role in ROLES}
    return {role: "; ".join(sorted(told, reverse=True)) for role, told in cells.items()}


def _classes(models: Iterable[Any]) -> dict[str, dict[str, str]]:
    found = {}
    for model in models:
        sites, name, time = _used(model), _registered(model), _time_and_guidance(model)
        told = {"text": _text(sites, time["timestep"]), "positions": _positions(sites), **time, "preset": _preset(model)}
        before = found.setdefault(name, told)
        found[name] = {key: value if value == before[key] else f"{before[key]}; {value}" for key, value in told.items()}
    return found


def _registered(model: Any) -> str:
    """The name of the class, its own or one above it, by which a model is found."""
    known = families()
    return next(each.__name__ for each in type(model).__mro__ if each.__name__ in known)


def _time_and_guidance(model: Any) -> dict[str, str]:
    family = family_of(model)
    if family.timestep not in Signature(model).names:
        return {"timestep": "none", "guidance": "none"}
    time = family.time if family.timestep == "timestep" else f"{family.time}, named `{family.timestep}`"
    return {"timestep": time, "guidance": family.guidance}


def _preset(model: Any) -> str:
    preset = family_of(model).preset
    return "none" if preset is None else f"`{preset['name']}`"


def _used(model: Any) -> list[Site]:
    return [site for site in find_sites(model) if any(site.offers(role) for role in ROLES)]


def _text(sites: Iterable[Site], timestep: str) -> str:
    if any(site.cache is not None for site in sites):
        return "is what merges"
    if timestep == "none":
        return "none"
    if any(site.joint for site in sites):
        return "in one self-attention"
    return "in cross-attention" if any(site.parts("cross_attention") for site in sites) else "none"


def _positions(sites: Iterable[Site]) -> str:
    sites = list(sites)
    if not any(site.rotary for site in sites):
        return "in the tokens"
    if any(site.cache is not None for site in sites):
        return "rotated before they merge"
    of_batch = any(site.shares("self_attention") for site in sites)
    return "rotated, one table a batch" if of_batch else "rotated, a table for every row"


if __name__ == "__main__":
    told = record()
    RECORD.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(told), encoding="utf-8")
