"""`driftloop plan` and `driftloop simulate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from cli.main import main

LOOP = """
loop: line
schema: {site: site, features: [{name: x}]}
rollout: {rings: [lab, "region=eu", plant], max_unavailable: 2, soak: 6h, install: 10m}
"""
FLEET = """
sites:
  - {name: a, ring: lab}
  - {name: b, ring: plant, labels: {region: eu}, link_kbps: 64}
  - {name: c, ring: plant, timezone: Europe/Berlin, windows: [{cron: 0 2 * * SAT, duration: 4h}]}
  - {name: d, ring: plant, timezone: Asia/Tokyo, windows: [{rrule: FREQ=MONTHLY;BYDAY=1SU;BYHOUR=2, duration: 4h}]}
"""


@pytest.fixture
def said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*command: str, fleet: str = FLEET, status: int = 0) -> str:
        (tmp_path / "loop.yaml").write_text(LOOP)
        (tmp_path / "fleet.yaml").write_text(fleet)
        files = ["--loop", str(tmp_path / "loop.yaml"), "--fleet", str(tmp_path / "fleet.yaml")]
        if "--sites" in command:
            files = files[:2]
        assert main([command[0], *files, *command[1:]]) == status
        return capsys.readouterr().out

    return run


def test_a_plan_says_when_each_site_has_its_turn_and_what_holds_it_back(said: Any) -> None:
    found = json.loads(said("plan", "--candidate", "36MB", "--at", "2026-03-02T06:00:00Z", "--json"))
    assert [(w["ring"], [s["site"] for s in w["sites"]]) for w in found["waves"]] == [
        ("lab", ["a"]),
        ("region=eu", ["b"]),
        ("plant", ["c", "d"]),
    ]
    lab, eu, plant = found["waves"]
    assert (lab["start"], lab["end"], lab["held"]) == ("2026-03-02T06:00:00Z", "2026-03-02T12:10:00Z", "")
    assert eu["end"] == "2026-03-02T19:35:00Z", "36 MB at 64 kbit/s take 75 minutes"
    assert [s["start"] for s in plant["sites"]] == ["2026-03-07T01:00:00Z", "2026-04-04T17:00:00Z"]
    assert plant["held"] == "d: its window opens at 2026-04-04 17:00 UTC"
    assert (found["end"], found["bytes"], found["sites"]) == ("2026-04-04T23:10:00Z", 144_000_000, 4)


def test_on_a_terminal_a_plan_is_a_table(said: Any) -> None:
    out = said("plan", "--candidate", "36MB", "--at", "2026-03-02T06:00:00Z")
    assert "3     plant      2      2026-03-07 01:00  2026-04-04 23:10  72.0" in out
    assert "4 sites, 144.0 MB, verified by 2026-04-04 23:10 UTC if all are well" in out


def test_a_site_that_can_never_change_and_a_quota_that_does_not_suffice_are_problems(said: Any) -> None:
    sites = "".join(f"  - {{name: p{n}, ring: lab, executor: azureml}}\n" for n in range(3))
    fleet = FLEET + "  - {name: e, ring: plant, link_kbps: 1, windows: [{cron: 0 0 * * *, duration: 1h}]}\n" + sites
    found = json.loads(said("plan", "--candidate", "1GB", "--json", fleet=fleet + "quota: {endpoints: 2}\n", status=1))
    assert found["problems"] == [
        "e: no window within a year is 92 d 14 h long",
        "1 site (p2): no room under the quotas (current); executor: flux needs none",
    ]
    assert found["quota"]["notes"] == ["the workspace: 2 of 2 endpoints, 4 of 500 deployments"]


def test_the_size_of_a_candidate_is_that_of_its_files(said: Any, tmp_path: Path) -> None:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "model.onnx").write_bytes(b"x" * 1000)
    (tmp_path / "model" / "deep" / "more").write_bytes(b"x" * 24)
    found = json.loads(said("plan", "--candidate", str(tmp_path / "model"), "--json"))
    assert [w["bytes"] for w in found["waves"]] == [1024, 1024, 2048]


def test_what_a_candidate_is_must_be_said(said: Any, capsys: Any) -> None:
    said("plan", "--candidate", "c0ffee", status=2)
    said("plan", "--candidate", "1MB", "--at", "noon", status=2)
    said("simulate", "--days", "0", status=2)


def test_a_simulation_says_what_will_happen_and_what_holds_it_up(said: Any, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    command = ("simulate", "--at", "2026-03-02T06:00:00Z", "--days", "60", "--offline", "0", "--plot", str(plot))
    out = said(*command)
    assert "wave 3 (plant, 2 sites): verified after 33 d" in out
    assert "the last was d, for which its window opens at 2026-04-04 17:00 UTC" in out
    assert "verified at 2026-04-0" in out
    assert ElementTree.fromstring(plot.read_text()).tag.endswith("svg")
    found = json.loads(said(*command, "--json"))
    assert (found["sites"], found["updated"], found["deferred"], found["failed"]) == (4, 4, 0, 0)
    assert [w["sites"] for w in found["waves"]] == [1, 1, 2]
    assert found["finished"] > found["waves"][-1]["at"]


def test_the_same_seed_tells_the_same_story_and_bad_candidates_go_back(said: Any) -> None:
    command = ("simulate", "--sites", "60", "--at", "2026-03-02T06:00:00Z", "--failing", "0.2", "--seed", "7")
    first, again, other = said(*command, status=1), said(*command, status=1), said(*command[:-1], "8", status=1)
    assert first == again != other
    assert "rolled-back: wave" in first
    assert "sites taken back" in first
