"""The examples of the documents run as they stand, and the site has every page that it names."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from tiny import tiny_unet

from mergekit_diff import make, merging, names
from mergekit_diff.experiments.study.loading import PROMPTS, load_study
from mergekit_diff.experiments.study.rehearsal import planning_for
from mergekit_diff.experiments.study.sweep import cells

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s:]+)(?:#[^)\s]*)?\)")


def blocks(document: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.S)


def pages(nav) -> list[str]:
    """Every page of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in pages(entry)]


@pytest.fixture(scope="module")
def site():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text())


@pytest.mark.usefixtures("registry")
def test_contributing_strategy_merges_in_a_unet():
    namespace = {"__name__": "example"}
    exec(blocks("CONTRIBUTING.md")[0], namespace)
    assert "neighbours" in names("strategy")
    unet = tiny_unet()
    with merging(unet, make("strategy", {"name": "neighbours", "ratio": 0.25}), strict=True) as session, torch.no_grad():
        unet(torch.randn(1, 4, 16, 16), 1, torch.randn(1, 16, 32))
    assert session.report().granted == pytest.approx(0.25)


@pytest.mark.parametrize("document", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_python_examples_are_valid_python(document):
    for block in blocks(document):
        compile(block, document, "exec")


@pytest.mark.parametrize("document", ["README.md", "docs/guide/first-merge.md"])
def test_first_example_generates_an_image_on_merged_tokens(document, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(blocks(document)[0].replace("num_inference_steps=20", "num_inference_steps=2"), namespace)
    assert namespace["image"].size == (64, 64)
    assert namespace["session"].report().granted > 0.4
    assert "granted" in capsys.readouterr().out


@pytest.mark.usefixtures("registry")
def test_strategy_of_the_guide_that_asks_for_a_signal_merges():
    exec(blocks("docs/guide/write-a-strategy.md")[0], {"__name__": "example"})
    with merging(tiny_unet(), "tomesd-normalized", strict=True) as session, torch.no_grad():
        session.model(torch.randn(1, 4, 16, 16), 1, torch.randn(1, 16, 32))
    assert session.report().granted == pytest.approx(0.5)


def test_model_of_the_guide_is_merged(capsys):
    exec(blocks("docs/guide/add-a-model.md")[0], namespace := {"__name__": "example"})
    assert namespace["session"].report().granted == pytest.approx(0.5)


class Attention(torch.nn.Module):
    """Text and image in one sequence, rotated by a table."""

    def __init__(self):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, x, rotary):
        q, k = (part(x) * rotary for part in (self.to_q, self.to_k))
        return torch.nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], self.to_v(x)[:, None])[:, 0]


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.ff = Attention(), torch.nn.Linear(8, 8)

    def forward(self, x, text, rotary):
        both = torch.cat([text, x], 1)
        both = both + self.attn(both, rotary)
        both = both + self.ff(both)
        return both[:, : text.shape[1]], both[:, text.shape[1] :]


class MyTransformer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(2))

    def forward(self, latents, text, timestep):
        x = torch.nn.functional.avg_pool3d(latents, 2).flatten(2).mT
        rotary = torch.linspace(0.5, 1.5, text.shape[1] + x.shape[1])[:, None]
        for block in self.blocks:
            text, x = block(x, text, rotary=rotary)
        return x


@pytest.mark.usefixtures("families")
@pytest.mark.parametrize("role", ("self_attention", "key_value", "feed_forward", "block"))
def test_family_of_contributing_is_merged(role):
    (family,) = [block for block in blocks("CONTRIBUTING.md") if "register_family(" in block]
    assert len(family.split("@register_family")[1].strip().splitlines()) <= 15
    exec(family, {"__name__": "example"})
    model, latents, text = MyTransformer(), torch.randn(2, 8, 6, 8, 8), torch.randn(2, 5, 8)
    base = model(latents, text, 0.5)
    with torch.no_grad(), merging(model, "retom", window=2, roles=role, strict=True) as session:
        merged = model(latents, text=text, timestep=torch.tensor(0.5))
    assert {grid for _, grid in session.plans().values()} == {(3, 4, 4)} and session.report().granted == 0.5
    assert not torch.equal(merged, base) and torch.equal(model(latents, text, 0.5), base)


@pytest.mark.usefixtures("registry")
def test_studies_of_the_guide_load_and_have_a_control(tmp_path):
    exec(blocks("CONTRIBUTING.md")[0], {"__name__": "example"})
    for document in ("docs/guide/write-a-strategy.md", "docs/guide/run-a-study.md"):
        file = tmp_path / "study.yaml"
        file.write_text(blocks(document, "yaml")[0])
        compared = cells(load_study(str(file)))
        assert any(cell.is_control for cell in compared) and any(cell.against for cell in compared)


def test_readme_is_short_and_names_every_strategy():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert not [name for name in names("strategy") if f"| `{name}` |" not in text]


def test_every_strategy_that_plans_for_images_has_a_small_image():
    for name in planning_for(2):
        assert 0 < (DOCS / "strategies" / f"{name}.png").stat().st_size < 60_000, f"python docs/draw_strategies.py draws {name}"


def test_the_page_of_prompt_lists_says_what_every_list_is_for():
    text = (DOCS / "guide" / "prompts.md").read_text()
    said = [name for line in text.splitlines() if line.startswith("| `") for name in re.findall(r"`([^`]+)`", line.split("|")[1])]
    assert sorted(said) == sorted(path.stem for path in PROMPTS.glob("*.txt"))


def test_every_page_of_the_navigation_exists_and_every_page_is_in_it(site):
    named = pages(site["nav"])
    assert len(named) == len(set(named))
    assert set(named) == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


@pytest.mark.parametrize("document", [*TEXTS, ROOT / "experiments/LOG.md"], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(document):
    generated = {DOCS / "notebooks" / f"{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    for target in LINK.findall(re.sub(r"```.*?```", "", document.read_text(), flags=re.S)):
        path = (document.parent / target).resolve()
        assert path.exists() or path in generated, target


@pytest.mark.parametrize("path", [path for path in TEXTS if "<!-- include" in path.read_text()], ids=lambda path: path.stem)
def test_included_texts_exist_and_are_linked_for_readers_of_the_page_itself(path):
    found = re.findall(r"<!-- include (\S+?)(?: # (.+?))? -->\n.*\]\(([^)#]+)#?([^)]*)\).*\n<!-- end -->\n", path.read_text())
    assert len(found) == path.read_text().count("<!-- include")
    for text, heading, link, anchor in found:
        assert heading in ("", *re.findall(r"^#+ (.+)$", (ROOT / text).read_text(), re.M))
        assert ((path.parent / link).resolve(), anchor) == (ROOT / text, heading.lower().replace(" ", "-"))


def test_site_needs_no_network(site):
    assert site["theme"]["font"] is False
