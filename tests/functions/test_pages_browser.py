"""The pages in a real browser, headless."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tools import setup
from triggers import codec, loop, quarantine
from triggers.ports import Put
from triggers.records import Freeze

pytestmark = pytest.mark.wire

LOOK = Path(__file__).parents[1] / "servers" / "look.mjs"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=5000", "--dump-dom"),
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def eyes(tmp_path: Path) -> Any:
    """Chromium, asked by tests/servers/look.mjs what it sees of pages."""
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip("no Chromium, or no npm")
    setup.node()

    def see(stage: Any, pages: list[dict[str, Any]], looking: bool) -> list[dict[str, Any]]:
        [(name, value)] = stage.cookies.items() or [("", "")]
        spec = {"chromium": CHROMIUM, "profile": str(tmp_path / "eyes"), "node": str(setup.NODE), "pages": pages}
        more = {"cookie": {"name": name, "value": value}, "looking": looking}
        (tmp_path / "spec.json").write_text(json.dumps({**spec, **more}))
        command = ["node", str(LOOK), str(tmp_path / "spec.json")]
        out = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert out.returncode == 0, out.stderr
        found: list[dict[str, Any]] = json.loads(out.stdout)
        return found

    return see


@pytest.fixture
def browse(eyes: Any) -> Any:
    """What pages have become when their scripts have run."""

    def dump(stage: Any, *paths: str) -> list[str]:
        pages = [{"url": f"{stage.origin}{path}", "width": 1440, "dark": False} for path in paths]
        found = eyes(stage, pages, looking=False)
        assert [page["problems"] for page in found] == [[]] * len(paths)
        return [page["html"] for page in found]

    return dump


UI = "/api/ui/"


def test_the_dashboard_draws_itself_for_who_is_signed_in(stage: Any, run: str, browse: Any) -> None:
    stage.sign_in("anna")
    pages = {
        "#/fleet": ("anna", "1 thing wants you", "A new model waits for an answer", "JFK", "Stop…", "2013-04-13"),
        f"#/runs/{run}": ("Compared with the champion", "EWR", "0.6981", "Wave 1: lab", "Answer…", "Cancel the run…"),
        f"#loop=flights&run={run}": ("Compared with the champion",),  # as links were in cards of before
        "#/runs": ("Every decision and its reason", "Held", run),
        "#/approvals": (run, "anna, ben", "Look, and answer"),
        "#/rollouts": (run, "Wave 2: coast", "planned"),
        "#/drift/flights": ("psi", "wind", "outlined: named by a finding"),
        "#/drift/flights/JFK/wind": ("wind at JFK", "missing", "Over time"),
        "#/fleet/site/JFK": ("What it serves", "Freeze this site", "at any time (UTC)"),
        "#/quarantine": ("Nothing was refused",),
        "#/audit": ("driftloop audit verify", "Compared with the champion"),
        "#/costs": ("1 of 3 used", "3 per 30 days"),
    }
    for text, (page, wanted) in zip(browse(stage, *(UI + p for p in pages)), pages.items(), strict=True):
        for words in (*wanted, "anna", "Stop…"):
            assert words in text, (page, words)
        for words in ("[object", "undefined", "NaN"):
            assert words not in text, (page, words)


def test_who_may_only_look_is_offered_nothing_to_do(stage: Any, run: str, browse: Any) -> None:
    stage.sign_in("olga", "read")
    pages = ("fleet", f"runs/{run}", "runs", "rollouts", "quarantine", "fleet/site/JFK", "approvals")
    for page, text in zip(pages, browse(stage, *(f"{UI}#/{page}" for page in pages)), strict=True):
        assert "olga" in text
        for words in ("Stop…", "Freeze this site", "Retrain now", "the run…", "Look, and answer", "Replay…"):
            assert words not in text, (page, words)


CLICK = """(async () => {{
  document.querySelector('[data-key="{key}"]').click();
  const form = document.querySelector("#ask form");
  const shown = document.getElementById("ask").open;
  document.getElementById("ask-yes").click(); // without a reason nothing happens
  const stays = document.getElementById("ask").open;
  form.reason.value = "storm";
  if ("{target}") form.target.value = "{target}";
  document.getElementById("ask-yes").click();
  while (document.getElementById("ask").open) await new Promise((done) => setTimeout(done, 50));
  document.body.dataset.shown = shown && stays;
}})()"""


@pytest.mark.parametrize(
    ("key", "target", "words"), [("freeze", "all", "Everything is frozen"), ("ice", "flights/JFK", "")]
)
def test_the_stop_button_asks_why_and_stops(stage: Any, eyes: Any, key: str, target: str, words: str) -> None:
    stage.sign_in("anna")
    url = f"{stage.origin}{UI}#/fleet{'/site/JFK' if key == 'ice' else ''}"
    pages = [{"url": url, "width": 390, "dark": False, "script": CLICK.format(key=key, target=target)}]
    (page,) = eyes(stage, pages, looking=False)
    assert page["problems"] == []
    assert 'data-shown="true"' in page["html"]
    frozen = codec.decode(stage.ports.store.get("driftloop", f"freeze/{target}").value, Freeze)
    assert (frozen.by, frozen.reason) == ("anna", "storm")
    assert (words or "Unfreeze…") in page["html"]
    assert "storm" in page["html"]


KEYS = """(async () => {
  const later = () => new Promise((done) => setTimeout(done, 50));
  const pressed = (key) => new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true });
  const cells = document.querySelectorAll("table.heat tbody [data-key]");
  const way = [];
  cells[0].focus();
  for (const key of ["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowUp"]) {
    document.activeElement.dispatchEvent(pressed(key));
    await later();
    way.push(`${document.activeElement.dataset.key}${document.activeElement.tabIndex}`);
  }
  document.body.dataset.way = way.join(" ");
  document.body.dataset.said = document.getElementById("cell").textContent;
  document.body.dataset.stops = [...cells].filter((cell) => cell.tabIndex === 0).length;
})()"""


def test_arrow_keys_walk_through_the_heat_map_which_is_one_stop_of_the_tab_key(stage: Any, run: str, eyes: Any) -> None:
    stage.sign_in("anna")
    pages = [{"url": f"{stage.origin}{UI}#/drift/flights", "width": 1440, "dark": False, "script": KEYS}]
    (page,) = eyes(stage, pages, looking=False)
    assert page["problems"] == []
    wide = 'data-way="1/00 1/10 0/10 0/00 0/00"'  # sites are columns
    narrow = 'data-way="0/10 1/10 1/00 0/00 0/00"'
    assert wide in page["html"] or narrow in page["html"]
    assert 'data-stops="1"' in page["html"]
    assert 'data-said=""' not in page["html"]


SILENT = """(async () => {
  const trouble = () => document.getElementById("trouble").textContent;
  const until = async (wanted) => {
    while (Boolean(trouble()) !== wanted) await new Promise((done) => setTimeout(done, 50));
  };
  const fetched = window.fetch;
  const before = document.querySelector("main").textContent;
  window.fetch = () => Promise.reject(new TypeError("Failed to fetch"));
  dispatchEvent(new Event("changed"));
  await until(true);
  document.body.dataset.trouble = trouble();
  document.body.dataset.kept = document.querySelector("main").textContent === before;
  window.fetch = fetched;
  dispatchEvent(new Event("changed"));
  await until(false);
  document.body.dataset.over = trouble() === "";
})()"""


def test_an_app_that_does_not_answer_is_said_and_what_was_seen_stays(stage: Any, run: str, eyes: Any) -> None:
    stage.sign_in("anna")
    pages = [{"url": f"{stage.origin}{UI}#/runs/{run}", "width": 390, "dark": False, "script": SILENT}]
    (page,) = eyes(stage, pages, looking=False)
    assert page["problems"] == []
    assert 'data-trouble="No answer since' in page["html"]
    assert "Trying again" in page["html"]
    assert 'data-kept="true"' in page["html"]
    assert 'data-over="true"' in page["html"]


def test_a_run_is_taken_back_from_its_page(stage: Any, run: str, eyes: Any) -> None:
    stage.sign_in("anna")
    assert stage.answer(run, {**stage.form(run), "answer": "approve"}).status == 303
    stage.host.pump()
    script = CLICK.format(key=f"rollback/{run}", target="")
    pages = [{"url": f"{stage.origin}{UI}#/runs/{run}", "width": 390, "dark": False, "script": script}]
    (page,) = eyes(stage, pages, looking=False)
    assert page["problems"] == []
    assert 'data-shown="true"' in page["html"]
    stage.host.pump()
    assert loop.runs(stage.ports, "flights")[0].because.startswith("taken back by anna: storm")


AWAY = """
  const fetched = window.fetch;
  let away = true;
  window.fetch = (...asked) => (away ? Promise.reject(new TypeError("Failed to fetch")) : fetched(...asked));
  window.back = () => { away = false; };
"""
BACK = """(async () => {
  const until = async (what) => { while (!what()) await new Promise((done) => setTimeout(done, 50)); };
  await until(() => document.getElementById("trouble").textContent);
  back();
  dispatchEvent(new Event("changed"));
  await until(() => document.getElementById("who").textContent);
})()"""


def test_a_page_opened_while_the_app_is_away_knows_who_looks_once_it_is_back(stage: Any, run: str, eyes: Any) -> None:
    stage.sign_in("anna")
    pages = [{"url": f"{stage.origin}{UI}#/fleet", "width": 390, "dark": False, "before": AWAY, "script": BACK}]
    (page,) = eyes(stage, pages, looking=False)
    assert page["problems"] == []
    for words in ("anna", "Stop…", "A new model waits for an answer"):
        assert words in page["html"]


def test_the_dashboard_keeps_hostile_words_words(stage: Any, browse: Any) -> None:
    stage.sign_in("anna")
    stage.operate("/api/freeze", {"reason": "<img src=x onerror=boom()>", "target": "all"})
    for text in browse(stage, f"{UI}#/fleet", f"{UI}#/audit"):
        assert "&lt;img src=x onerror=boom()&gt;" in text
        assert "<img" not in text


def test_an_empty_state_says_how_to_begin(empty: Any, browse: Any) -> None:
    (page,) = browse(empty, UI)
    assert "driftloop new NAME" in page
    empty.configure()
    first, nowhere = browse(empty, UI, f"{UI}#/fleet/site/NOWHERE")
    assert "No model yet" in first
    assert "There is no such page" in nowhere


@pytest.fixture
def look(eyes: Any) -> Any:
    """What is wrong with pages, wide and narrow, light and dark: by axe-core, by the Tab key, by what moves; with
    pictures where DRIFTLOOP_PICTURES names a folder for them."""
    pictures = os.environ.get("DRIFTLOOP_PICTURES")

    def ask(stage: Any, **paths: str) -> None:
        pages = [
            {
                "url": f"{stage.origin}{path}",
                "width": width,
                "dark": dark,
                "picture": f"{pictures}/{name}-{width}{'-dark' * dark}.png" if pictures else "",
                "tabs": width == 1440 and not dark,
            }
            for name, path in paths.items()
            for width in (1440, 390)
            for dark in (False, True)
        ]
        wrong = []
        for page, said in zip(pages, eyes(stage, pages, looking=True), strict=True):
            where = f"{page['url']} {page['width']}{' dark' * page['dark']}"
            if (said["problems"], said["wide"], said["moving"]) != ([], False, 0):
                wrong.append((where, said["problems"], said["wide"], said["moving"]))
            wrong += [(where, at) for at in said["tabs"] if not (at["name"] and at["seen"] and at["shown"])]
            if page["tabs"] and UI in page["url"]:
                into = [at["main"] for at in said["tabs"]]
                first = said["tabs"][0]["name"] == "Skip to the page"
                if not first or into != sorted(into[:-1]) + into[-1:]:  # the bar, then the page, the footer last
                    wrong.append((where, said["tabs"]))
        assert wrong == []

    return ask


def test_the_dashboard_is_read_by_everybody_on_every_screen(stage: Any, run: str, look: Any) -> None:
    stage.sign_in("anna")
    ui = "/api/ui/#/"
    look(
        stage,
        fleet=ui,
        site=f"{ui}fleet/site/JFK",
        drift=f"{ui}drift/flights",
        feature=f"{ui}drift/flights/JFK/wind",
        runs=f"{ui}runs",
        run=f"{ui}runs/{run}",
    )
    quarantine.keep(stage.ports, b"{", "not JSON")
    pages = ("approvals", "rollouts", "quarantine", "audit", "costs")
    look(stage, nothing=f"{ui}fleet/site/NOWHERE", **{page: f"{ui}{page}" for page in pages})


def test_the_approval_page_is_read_by_everybody_on_every_screen(stage: Any, run: str, look: Any) -> None:
    stage.sign_in("anna")
    look(stage, open=f"/api/approvals/{run}", nothing="/api/approvals/flights.2013-01-01.77")
    stage.sign_in("ben")
    stage.answer(run, {**stage.form(run), "answer": "changes", "reason": "without the night flights, please"})
    stage.host.pump()
    look(stage, answered=f"/api/approvals/{run}")


def test_the_page_of_a_run_without_evidence_is_read_by_everybody(stage: Any, run: str, look: Any) -> None:
    stage.sign_in("anna")
    record = stage.ports.store.get("flights", f"run/{run}")
    without = msgspec.json.decode(record.value)
    without["body"] |= {"evidence": "", "cause": "asked for by eve: " + 400 * "x"}
    stage.ports.store.commit("flights", [Put(record.key, msgspec.json.encode(without), record.version)])
    look(stage, bare=f"/api/approvals/{run}")
