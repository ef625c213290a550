"""The page that a person reads: drawn by Evidently from what is stored, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drift.envelope import iso
from jobs import drift_report
from tests.jobs.conftest import DAY, START, Home, Table

CURRENT = [iso(START + 10 * DAY), iso(START + 20 * DAY)]


def spec(home: Home, **more: Any) -> Path:
    asked = {"name": "pumps-now", "reference": [iso(START), CURRENT[0]], "current": CURRENT, "sites": ["north"]}
    places = {"loop": str(home.folder / "loop.yaml"), "blobs": str(home.blobs)}
    path = home.folder / "report.json"
    path.write_text(json.dumps({**asked, **places, **more}))
    return path


def test_where_nothing_is_kept_of_a_time_it_says_so_and_of_what(
    home: Home, rows: Callable[..., Table], capsys: pytest.CaptureFixture[str]
) -> None:
    home.told(rows(300))
    assert drift_report.main([str(spec(home, current=[iso(START + 400 * DAY), iso(START + 500 * DAY)]))]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "error": "current: no rows of north are kept from 2025-02-04 to 2025-05-15"
    }


@pytest.mark.nightly
def test_the_page_shows_what_moved_at_the_site_that_was_asked_for(home: Home, rows: Callable[..., Table]) -> None:
    table = rows(1200)
    moved = table.columns["heat"] + 25 * ((table.at >= START + 10 * DAY) & (table.site == "north"))
    table.columns["heat"][:] = moved
    home.told(table)
    command = [sys.executable, "-W", "ignore", "-m", "jobs.drift_report", str(spec(home))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["report"] == "evidently/pumps/pumps-now.html"
    assert said["multivariate"]["drifted"] is True
    page = (home.blobs / said["report"]).read_text("utf-8")
    assert "<body><p>north, 2024-01-11 to 2024-01-21, against 2024-01-01 to 2024-01-11." in page
    assert all(name in page for name in ("pressure", "heat", "maker"))
    assert f"of {np.count_nonzero((table.site == 'north') & (table.at >= START + 10 * DAY))} rows" in page
    assert not list((home.blobs / "evidently").rglob("*.partial"))
