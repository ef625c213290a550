"""A replay shows what it does and says what it could not; killed, and started again by the same command, it ends as
one that was left alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli import inputs
from tests.cli import line
from triggers.config import parse_loop

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The line, with two rows that come twice and one without a time."""
    folder = line.write(tmp_path_factory.mktemp("line"))
    rows = (folder / "rows.csv").read_text().splitlines()
    (folder / "rows.csv").write_text("\n".join([*rows, rows[-1], rows[-2], "x-1,,south,0,0,drill,0"]))
    return folder


def command(folder: Path, state: Path) -> list[str]:
    files = ["--loop", folder / "loop.yaml", "--fleet", folder / "fleet.yaml", "--data", folder / "rows.csv"]
    where = ["--state", state, "--json", state.with_suffix(".json"), "--port", "0", "--approve"]
    return [sys.executable, "-W", "ignore", "-m", "cli.main", "replay", *map(str, [*files, *where])]


def ended(folder: Path, state: Path, status: int = 0, **environment: str) -> str:
    """What a replay printed."""
    env = {**os.environ, **environment}
    done = subprocess.run(
        command(folder, state), cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-2000:]
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", done.stdout + done.stderr)


def told_by(state: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(state.with_suffix(".json").read_text())
    return found


@pytest.fixture(scope="module")
def alone(loop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a replay left alone prints on a terminal, and its summary; beside its loop is one that cannot be read."""
    state = tmp_path_factory.mktemp("alone") / "state"
    bad = state / "config" / "bad"
    bad.mkdir(parents=True)
    (bad / "loop.yaml").write_text("loop: [")
    return ended(loop, state, status=1, FORCE_COLOR="1", COLUMNS="150"), told_by(state)


def killed(words: list[str], after: float) -> bool:
    """Start a command and kill it, and only it, after so many seconds; its children end by themselves. False where it
    had ended before."""
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def told(found: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on kills: everything but what it cost, and batches that a crash made come twice."""
    kept = {k: v for k, v in found.items() if k not in ("figures", "report")}
    kept["batches"] = {k: v for k, v in kept["batches"].items() if k != "duplicate"}
    return kept


def test_on_a_terminal_it_draws_where_it_is(alone: tuple[str, dict[str, Any]]) -> None:
    drawn, _ = alone
    assert re.search(r"telemetry\W+[\d,]{5,} rows", drawn)
    assert re.search(r"check.*(no drift|nothing moved|drift in)", drawn)
    assert "token=" in drawn


def test_rows_that_are_left_out_are_counted_by_reason(alone: tuple[str, dict[str, Any]]) -> None:
    drawn, found = alone
    last = line.DAYS - 1
    again = f"rows whose id came before (south-{last}-{line.A_DAY - 2}, south-{last}-{line.A_DAY - 1})"
    assert found["left_out"] == {"rows without a time": 1, again: 2}
    assert "left out: 1 rows without a time; 2 rows whose id came before" in drawn


def test_the_summary_has_what_others_read(alone: tuple[str, dict[str, Any]]) -> None:
    _, found = alone
    assert {"rows", "bootstrap_rows", "runs", "drift", "performance"} <= found.keys()
    assert found["batches"].keys() == {"accepted", "duplicate", "quarantined"}
    for of, fields in (
        ("drift", {"at", "scope", "sites", "features", "reason"}),
        ("runs", {"id", "phase", "reason", "candidate", "started", "ended", "waves"}),
    ):
        assert found[of]
        assert all(fields <= one.keys() for one in found[of])
    served = found["runs"][-1]["candidate"]
    assert {site: (s["candidate"], s["verified"]) for site, s in found["sites"].items()} == {
        "north": (served, True),
        "south": (served, True),
    }
    performance = found["performance"]
    assert performance["metric"] == "auc"
    assert list(performance["static"]) == list(performance["loop"]) == ["2024-01", "2024-02"]
    assert performance["loop"]["2024-02"] > performance["static"]["2024-02"]
    assert min(found["figures"][name] for name in ("seconds", "peak_mb", "rows_per_second")) > 0


def test_a_loop_that_cannot_be_read_stops_no_other_and_the_end_is_red(alone: tuple[str, dict[str, Any]]) -> None:
    drawn, found = alone
    checks = found["figures"]["failed"]["check_drift"]
    assert checks >= line.DAYS - line.BEFORE
    assert found["figures"]["errors"]["check_drift"] == checks
    assert f"failed for good: check_drift, {checks} times" in drawn
    assert "done for 1 of 2 loops, not for bad (Wrong: bad/loop.yaml" in drawn.replace("config/", "")
    assert "Traceback" not in drawn


def test_a_state_goes_on_with_what_it_was_begun_with_or_not_at_all(loop: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(loop, other)
    files = loop / "fleet.yaml", loop / "rows.csv"
    inputs.keep(
        tmp_path / "state", inputs.digests(loop / "loop.yaml", parse_loop((loop / "loop.yaml").read_text()), *files)
    )
    (other / "train.py").write_text("")
    with (other / "rows.csv").open("a") as rows:
        rows.write("\nx-2,2024-02-01,south,0,0,drill,0")
    said = ended(other, tmp_path / "state", status=2)
    assert "was begun with another data, train.py; put that back, or begin anew in another folder" in " ".join(
        said.split()
    )


def test_a_killed_replay_goes_on_and_ends_as_it_would_have(
    loop: Path, tmp_path: Path, alone: tuple[str, dict[str, Any]]
) -> None:
    _, wanted = alone
    assert [run["phase"] for run in wanted["runs"]][-1] == "verified", wanted["runs"]
    assert wanted["rows"] == (line.DAYS - line.BEFORE) * 2 * line.A_DAY
    random = np.random.default_rng(int(os.environ.get("KILL_SEED", "1")))
    state = tmp_path / "killed"
    for after in random.uniform(3.0, 13.0, 3):
        killed(command(loop, state), float(after))
    drawn = ended(loop, state)
    assert told(told_by(state)) == told(wanted)
    assert "token=" not in drawn, "a login link is for a terminal, not for a log"


@pytest.mark.nightly
def test_the_demo_killed_again_and_again_ends_as_one_left_alone(tmp_path: Path) -> None:
    """A year of flights, with its second act; kills at random until there were eight, or it has ended."""
    random = np.random.default_rng(int(os.environ.get("KILL_SEED", "1")))

    def demo(name: str) -> list[str]:
        words = ["demo", "--port", "0", "--home", str(tmp_path / name)]
        return [sys.executable, "-W", "ignore", "-m", "cli.main", *words]

    kills = 0
    while kills < 8 and killed(demo("killed"), float(random.uniform(5.0, 40.0))):
        kills += 1
    assert kills >= 4, "it ended before it was killed often enough to say anything"
    for name in ("killed", "alone"):
        if not (tmp_path / name / "finished").exists():
            subprocess.run(demo(name), cwd=ROOT, check=True, capture_output=True, timeout=1800)
    found, wanted = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("killed", "alone"))
    assert [run["phase"] for run in wanted["runs"]].count("verified") >= 1
    worse, bad = (next(r for r in wanted["runs"] if name in r["cause"]) for name in ("damaged-labels", "refuses-rows"))
    assert worse["phase"] == "rejected"
    assert re.search(r"gain -\S+ \[-\S+, -\S+\] at \S+: not above", worse["verdict"])
    assert (bad["outcome"], bad["phase"]) == ("passed", "rolled-back")
    assert {r["accepted"] for r in wanted["regret"]} == {True, False}
    assert told(found) == told(wanted)
