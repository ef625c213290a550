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
from triggers.ports import Put

pytestmark = pytest.mark.wire

LOOK = Path(__file__).parents[1] / "servers" / "look.mjs"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=5000", "--dump-dom"),
)


@pytest.fixture
def browse(tmp_path: Path) -> Any:
    """What a page has become when its scripts have run; one profile, so that cookies stay."""
    if CHROMIUM is None:
        pytest.skip("no Chromium")

    def dump(url: str) -> str:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", url]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    return dump


def test_the_dashboard_draws_itself_for_who_is_signed_in(stage: Any, run: str, browse: Any) -> None:
    link = stage.local.people.login_link(stage.origin, "anna")
    assert "Signed in as anna" in browse(link)
    page = browse(f"{stage.origin}/api/ui/#loop=flights&run={run}")
    for shown in (
        "Signed in as anna",
        "JFK",
        "A new model waits",
        "Compared with the champion",
        "Freeze",
        "2013-04-13",
    ):
        assert shown in page, shown
    assert "[object" not in page


def test_the_dashboard_keeps_hostile_words_words(stage: Any, browse: Any) -> None:
    stage.sign_in("anna")
    stage.operate("/api/freeze", {"reason": "<img src=x onerror=boom()>", "target": "all"})
    page = browse(f"{stage.origin}/api/ui/")
    assert "&lt;img src=x onerror=boom()&gt;" in page
    assert "<img" not in page


def test_an_empty_state_says_how_to_begin(empty: Any, browse: Any) -> None:
    assert "driftloop new NAME" in browse(f"{empty.origin}/api/ui/")


@pytest.fixture
def look(tmp_path: Path) -> Any:
    """What axe-core finds wrong with pages, wide and narrow, light and dark; with pictures where DRIFTLOOP_PICTURES
    names a folder for them."""
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip("no Chromium, or no npm")
    setup.node()
    pictures = os.environ.get("DRIFTLOOP_PICTURES")

    def ask(stage: Any, **paths: str) -> None:
        pages = [
            {
                "url": f"{stage.origin}{path}",
                "width": width,
                "dark": dark,
                "picture": f"{pictures}/{name}-{width}{'-dark' * dark}.png" if pictures else "",
            }
            for name, path in paths.items()
            for width in (1440, 390)
            for dark in (False, True)
        ]
        [(name, value)] = stage.cookies.items() or [("", "")]
        spec = {"chromium": CHROMIUM, "profile": str(tmp_path / "eyes"), "node": str(setup.NODE), "pages": pages}
        (tmp_path / "spec.json").write_text(json.dumps({**spec, "cookie": {"name": name, "value": value}}))
        command = ["node", str(LOOK), str(tmp_path / "spec.json")]
        out = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert out.returncode == 0, out.stderr
        for page, said in zip(pages, json.loads(out.stdout), strict=True):
            assert (said["problems"], said["wide"]) == ([], False), page

    return ask


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
