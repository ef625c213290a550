"""The page that a person reads: drawn by Evidently from what is stored, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

import cli.main
from adapters.azure.profile import Azure
from adapters.azure.settings import Settings
from drift.envelope import iso
from jobs import drift_report
from tests.jobs.conftest import DAY, START, Home, Table
from tests.servers.azurite import Azurite

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


@pytest.mark.wire
def test_of_an_app_on_azure_it_is_drawn_here_and_kept_there(
    home: Home, rows: Callable[..., Table], azurite: Azurite
) -> None:
    name = f"t{uuid4().hex}"
    own = {"StateTable": name, "StateContainer": name, "ConfigContainer": f"{name}-config"}
    told = {**os.environ, **azurite.settings, **own, "KeyContainer": f"{name}-keys", "DRIFTLOOP_PROFILE": "azure"}
    azure = Azure(Settings(told))
    home.told(rows(600))
    manifest = json.dumps({"lineage": {"from": iso(START), "to": CURRENT[0]}}).encode()
    model = hashlib.sha256(manifest).hexdigest()
    azure.blobs.put(f"candidates/{model}/manifest.json", manifest)
    for path in (home.blobs / "batches").rglob("*-*"):
        azure.blobs.put(path.relative_to(home.blobs).as_posix(), path.read_bytes().replace(b"c" * 64, model.encode()))
    azure.files.put("pumps/loop.yaml", (home.folder / "loop.yaml").read_bytes())
    azure.files.put("pumps/fleet.yaml", b"sites: [{name: north}, {name: south}]")

    def report(start: str, end: str) -> subprocess.CompletedProcess[str]:
        of = ["--candidate", model, "--site", "north", "--from", start, "--to", end, "--json"]
        command = [sys.executable, "-W", "ignore", "-m", "cli.main", "report", *of]
        return subprocess.run(command, env=told, capture_output=True, text=True, check=False)

    done = report("2025-03-01", "2025-04-01")
    assert done.returncode == 1, done.stderr
    assert "current: no rows of north are kept from 2025-03-01 to 2025-04-01" in done.stderr
    done = report(*CURRENT)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["report"] in list(azure.blobs.names("evidently/pumps/"))
    assert said["link"] == f"/api/reports/{said['report']}"
    page = azure.blobs.get(said["report"]).decode()
    served = f"<body><p>north served by {model[:12]}, 2024-01-11 to 2024-01-21, against 2024-01-01 to 2024-01-11."
    assert served in page
    assert "pressure" in page
    fetched = int(done.stderr.split("fetched ")[1].split(" of")[0])
    assert fetched == len(list((home.blobs / "batches" / "pumps" / "north").iterdir()))


def test_of_no_app_there_is_no_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRIFTLOOP_PROFILE", raising=False)
    assert cli.main.main(["report", "--from", CURRENT[0], "--to", CURRENT[1]]) == 2
    assert "of which app? expected --state DIR, or DRIFTLOOP_PROFILE=azure" in capsys.readouterr().err
