"""The pages in a real browser, headless."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.wire

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
