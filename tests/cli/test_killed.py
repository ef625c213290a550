"""A replay that is killed, and started again by the same command, ends as one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DAYS, BEFORE, A_DAY = 60, 30, 60

LOOP = """
loop: line
schema:
  timestamp: time
  site: plant
  id: piece
  label: scrap
  features: [{name: heat}, {name: load}, {name: tool, kind: category}]
bootstrap: {until: 2024-01-31T00:00:00Z}
drift: {minimum_rows: 30}
retrain: {confirm: 2, cooldown: 10d, minimum_rows: 300}
training: {window: 20d, holdout: 4d}
gates: {minimum_rows: 100, confidence: 0.8}
approval: {approvers: [operator]}
rollout: {rings: [first, rest], minimum_requests: 20}
"""
FLEET = "sites: [{name: north, ring: first}, {name: south, ring: rest}]\n"


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two plants; ten days after the bootstrap the machines run hotter, and what makes scrap turns round."""
    folder = tmp_path_factory.mktemp("line")
    random = np.random.default_rng(3)
    lines = ["piece,time,plant,heat,load,tool,scrap"]
    for day in range(DAYS):
        for plant in ("north", "south"):
            changed = day >= BEFORE + 6
            heat = random.normal(3.0 * changed, 1.0, A_DAY)
            load = random.normal(0.0, 1.0, A_DAY)
            wrong = random.random(A_DAY) < 1 / (1 + np.exp(-(-2.0 if changed else 2.0) * load))
            tool = random.choice(["drill", "mill"], A_DAY)
            for i in range(A_DAY):
                at = 1_704_067_200 + day * 86_400 + i * (86_400 // A_DAY)
                row = f"{plant}-{day}-{i},{at},{plant},{heat[i]:.3f},{load[i]:.3f},{tool[i]},{int(wrong[i])}"
                lines.append(row)
    (folder / "rows.csv").write_text("\n".join(lines))
    (folder / "loop.yaml").write_text(LOOP)
    (folder / "fleet.yaml").write_text(FLEET)
    return folder


def command(folder: Path, state: Path) -> list[str]:
    files = ["--loop", folder / "loop.yaml", "--fleet", folder / "fleet.yaml", "--data", folder / "rows.csv"]
    where = ["--state", state, "--json", state.with_suffix(".json"), "--port", "0", "--approve"]
    return [sys.executable, "-W", "ignore", "-m", "cli.main", "replay", *map(str, [*files, *where])]


def finished(folder: Path, state: Path) -> dict[str, Any]:
    done = subprocess.run(command(folder, state), cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(state.with_suffix(".json").read_text())
    return found


def killed(folder: Path, state: Path, after: float) -> None:
    """Start the replay and kill it, and only it, after so many seconds; its children end by themselves."""
    process = subprocess.Popen(command(folder, state), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()


def told(found: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on kills: everything but what it cost, and batches that a crash made come twice."""
    kept = {k: v for k, v in found.items() if k not in ("figures", "report")}
    kept["batches"] = {k: v for k, v in kept["batches"].items() if k != "duplicate"}
    return kept


def test_a_killed_replay_goes_on_and_ends_as_it_would_have(loop: Path, tmp_path: Path) -> None:
    alone = finished(loop, tmp_path / "alone")
    assert [run["phase"] for run in alone["runs"]][-1] == "verified", alone["runs"]
    assert alone["rows"] == (DAYS - BEFORE) * 2 * A_DAY
    random = np.random.default_rng(int(os.environ.get("KILL_SEED", "1")))
    state = tmp_path / "killed"
    for after in random.uniform(3.0, 13.0, 3):
        killed(loop, state, float(after))
    assert told(finished(loop, state)) == told(alone)
