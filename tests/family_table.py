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

from mergekit_diff.arguments import Signature
from mergekit_diff.sites import ROLES, Site, family_of, find_sites

ROOT = Path(__file__).parent.parent
RECORD, PAGE = ROOT / "experiments" / "families.json", ROOT / "docs" / "models.md"
UNET = "Stable Diffusion 1, 2, XL"
HEADS = ("class", "text", "positions", "timestep", "guidance")


def record() -> list[dict[str, Any]]:
    """Title, roles and classes of every family, in the order of the tiny models."""
    unet = tiny_unet()
    models = [
        (UNET, unet),
        (UNET, ControlNetModel.from_unet(unet)),
        *((tiny.title, build(name)[0]) for name, tiny in FAMILIES.items()),
    ]
    return [
        {"title": title, "roles": _roles(own), "classes": _classes(own)}
        for title in dict.fromkeys(title for title, _ in models)
        if (own := [model for each, model in models if each == title])
    ]


def page(families: Iterable[Mapping[str, Any]]) -> str:
    """The text of ``docs/models.md`` with its tables made anew."""
    roles = [["model", *ROLES], *([family["title"], *family["roles"].values()] for family in families)]
    classes = [list(HEADS), *([f"`{name}`", *facts.values()] for family in families for name, facts in family["classes"].items())]
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
        family, sites = family_of(model), _used(model)
        time = family.time if family.timestep == "timestep" else f"{family.time}, named `{family.timestep}`"
        told = {"text": _text(sites), "positions": _positions(sites), "timestep": time, "guidance": family.guidance}
        if family.timestep not in Signature(model).names:
            told |= {"text": "none", "timestep": "none"}
        before = found.setdefault(type(model).__name__, told)
        found[type(model).__name__] = {
            key: value if value == before[key] else f"{before[key]}; {value}" for key, value in told.items()
        }
    return found


def _used(model: Any) -> list[Site]:
    return [site for site in find_sites(model) if any(site.offers(role) for role in ROLES)]


def _text(sites: Iterable[Site]) -> str:
    if any(site.joint for site in sites):
        return "in one self-attention"
    return "in cross-attention" if any(site.parts("cross_attention") for site in sites) else "none"


def _positions(sites: Iterable[Site]) -> str:
    sites = list(sites)
    if not any(site.rotary for site in sites):
        return "in the tokens"
    of_batch = any(site.shares("self_attention") for site in sites)
    return "rotated, one table a batch" if of_batch else "rotated, a table for every row"


if __name__ == "__main__":
    families = record()
    RECORD.write_text(json.dumps(families, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(families), encoding="utf-8")
