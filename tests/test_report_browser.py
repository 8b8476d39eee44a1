"""The page in a real browser, on a desk and on a phone: nothing overflows, fails or is fetched, and its controls work.

The browser starts once: every probe runs in a frame of its own, in the width of its device, and posts what it found.
"""

import html
import json
import re
import shutil
import subprocess

import pytest
from synthetic_run import CELLS, synthetic_run

from mergekit_diff.experiments.report import write_report
from mergekit_diff.experiments.results.run import Run

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
DESK, PHONE = 1280, 390

WATCH = """<script>
const wrong = [];
addEventListener("error", event => wrong.push(event.message ?? "a part did not load"), true);
addEventListener("securitypolicyviolation", event => wrong.push(`would fetch ${event.blockedURI}`));
const find = selector => document.querySelector(selector), all = selector => [...document.querySelectorAll(selector)];
const touch = (place, value) => { place.value = value; place.dispatchEvent(new Event("input", {bubbles: true})); };
const order = () => all(".sortable tbody tr").map(row => row.cells[1].firstChild.textContent);
const images = prompt => Object.fromEntries(all(`img[data-prompt="${prompt}"]`).map(one => [one.dataset.cell, one.src]));
const reply = (probe, answer) => {
  const fetched = performance.getEntriesByType("resource").map(one => one.name).filter(name => !name.startsWith("data:"));
  parent.postMessage({[probe]: {answer, wrong, fetched}}, "*");
};
</script>"""
FRAMES = """<!doctype html><pre id="told"></pre><script>
const told = {};
addEventListener("message", event => { place.textContent = JSON.stringify(Object.assign(told, event.data)); });
const place = document.querySelector("#told");
</script>"""
SIZES = """
        all("details").forEach(one => { one.open = true; });
        return [innerWidth, find("html").scrollWidth - find("html").clientWidth];"""
LONG = [f"{strategy}(ratio=0.625), roles=['{role}'], levels={i}" for i, (strategy, role) in enumerate(
    (("tomesd", "self_attention"), ("local-match", "key_value"), ("dynamic-ratio", "self_attention")), 1)]  # fmt: skip
TABLES = """
        return all("header .wide").map(one => one.scrollWidth - one.clientWidth);"""
PROBES = {
    "desk": (DESK, SIZES),
    "phone": (PHONE, SIZES),
    "bare": (PHONE, SIZES),
    "too wide": (PHONE, SIZES),
    "long": (PHONE, SIZES),
    "tables": (DESK, TABLES),
    "fetching": (DESK, "return 0;"),
    "numbers": (DESK, """
        const column = all(".sortable th").findIndex(one => one.textContent.includes("feature"));
        const click = () => { all(".sortable th button")[column].click(); return state(); };
        const state = () => [order(), all(".sortable th")[column].getAttribute("aria-sort"), all("[aria-sort]").length];
        return [click(), click()];"""),
    "words": (DESK, 'all(".sortable th button")[1].click(); return order();'),
    "slider": (PHONE, """
        const slider = find(".stage input"), cut = () => getComputedStyle(find(".stage")).getPropertyValue("--cut");
        slider.focus();
        const before = cut();
        touch(slider, 20);
        return [before, cut(), document.activeElement === slider, slider.tabIndex];"""),
    "chosen": (DESK, f"""
        touch(find("[name=prompt]"), "2");
        touch(find("[name=right]"), {json.dumps(CELLS[2])});
        return [images(2), find(".over").src, find(".under").src];"""),
    "clicked": (DESK, f"""
        all('img[data-prompt="3"]').find(one => one.dataset.cell === {json.dumps(CELLS[3])}).click();
        return [find("[name=prompt]").value, find("[name=right]").value];"""),
    "blink": (DESK, """
        const moves = () => getComputedStyle(find(".over")).animationName, before = moves();
        find("[value=blink]").click();
        return [before, moves()];"""),
    "cost": (DESK, """
        const hidden = () => all(".cost").map(one => one.hidden), before = hidden();
        all("[name=cost]")[1].click();
        return [before, hidden()];"""),
    "films": (PHONE, f"""
        touch(find("[name=right]"), {json.dumps(CELLS[2])});
        const places = () => ["img[data-prompt]", ".under", ".over"].map(one => getComputedStyle(find(one)).objectPosition);
        const film = find("img[data-prompt]"), sides = ["naturalWidth", "naturalHeight", "clientWidth", "clientHeight"];
        const tick = find(".player input"), moved = [0, 1, 2].map(frame => {{ touch(tick, frame); return places(); }});
        const words = () => [find(".player output").textContent, find(".player button").textContent], paused = words();
        find(".player button").click();
        return [sides.map(side => film[side]), moved, paused, words()];"""),
}  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What every probe found."""
    place, bare, long, films = (tmp_path_factory.mktemp(name) for name in ("run", "bare", "long", "films"))
    page = write_report(Run.read(synthetic_run(place).path)).read_text()
    pages = dict.fromkeys(PROBES, page)
    pages["bare"] = write_report(Run.read(synthetic_run(bare, prompts=2, primary=None, parts=()).path)).read_text()
    pages["long"] = write_report(Run.read(synthetic_run(long, LONG, parts=("costs", "shares")).path)).read_text()
    pages["tables"] = pages["long"]
    pages["films"] = write_report(Run.read(synthetic_run(films, frames=3).path)).read_text()
    pages["fetching"] = page.replace("<main>", '<main><img src="https://example.org/x.png">')
    pages["too wide"] = page.replace("<main>", '<main><div style="width: 500px">')
    frames = FRAMES
    for probe, (width, body) in PROBES.items():
        script = f'<script>addEventListener("load", () => reply("{probe}", (() => {{ {body} }})()));</script></body>'
        probed = pages[probe].replace("<head>", f"<head>{WATCH}").replace("</body>", script)
        (place / f"{probe}.html").write_text(probed)
        frames += f'<iframe src="{probe}.html" style="width: {width}px; height: 900px; border: 0"></iframe>'
    (place / "frames.html").write_text(frames)
    return _browse(place)


def _browse(place):
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--window-size=1400,1000"]
    flags += [f"--user-data-dir={place / 'browser'}", "--dump-dom", (place / "frames.html").as_uri()]
    shown = subprocess.run([str(BROWSER), *flags], capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="told">(.*?)</pre>', shown, re.DOTALL)
    assert found is not None
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("probe", [probe for probe in PROBES if probe != "fetching"])
def test_nothing_fails_and_nothing_is_fetched(told, probe):
    assert (told[probe]["wrong"], told[probe]["fetched"]) == ([], [])


def test_a_page_that_would_fetch_something_is_caught_and_kept_from_it(told):
    assert "would fetch https://example.org/x.png" in told["fetching"]["wrong"]


@pytest.mark.parametrize("probe", ["desk", "phone", "bare", "long"])
def test_the_page_is_never_wider_than_the_screen(told, probe):
    assert told[probe]["answer"] == [PROBES[probe][0], 0]


def test_tables_of_verdicts_fit_a_desk_however_long_the_names(told):
    assert told["tables"]["answer"] == [0, 0, 0]  # verdicts, at equal cost, quality


def test_a_page_that_is_too_wide_is_caught(told):
    assert told["too wide"]["answer"][1] > 0


def test_a_heading_sorts_its_column_and_then_the_other_way_round(told):
    up, down = told["numbers"]["answer"]
    assert up == [[*CELLS, "base"], "ascending", 1]
    assert down == [["base", *reversed(CELLS)], "descending", 1]


def test_words_sort_as_words(told):
    assert told["words"]["answer"] == [CELLS[3], "base", "random-dest", *CELLS[:2]]


def test_the_slider_moves_the_divider_and_takes_the_keyboard(told):
    assert told["slider"]["answer"] == ["50%", "20%", True, 0]


def test_the_widget_shows_the_chosen_images_of_the_grid(told):
    images, left, right = told["chosen"]["answer"]
    assert (left, right) == (images["base"], images[CELLS[2]])
    assert left != right


def test_a_click_on_an_image_compares_it(told):
    assert told["clicked"]["answer"] == ["3", CELLS[3]]


def test_blinking_starts_when_it_is_chosen(told):
    assert told["blink"]["answer"] == ["none", "blink"]


def test_one_cost_is_shown_at_a_time(told):
    assert told["cost"]["answer"] == [[False, True, True], [True, False, True]]


def test_all_films_show_the_frame_of_the_player_and_it_pauses_and_plays(told):
    size, moved, paused, playing = told["films"]["answer"]
    assert size == [16, 48, 104, 104]
    assert moved == [[f"0px {share}%"] * 3 for share in (0, 50, 100)]
    assert paused == ["frame 3 of 3", "play"] and playing[1] == "pause"
