"""What the proofs of docs/guarantees.md call wrong, so that they exit with 1."""

from __future__ import annotations

import fcntl
import random
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import chaos, load, soak

CHAOS: dict[str, Any] = {
    "asked": 20,
    "killed": {"host": 5, "site": 14, "job": 1},
    "in time": True,
    "recovery": {"host": [0.5, 5.0], "site": []},
    "moving": 0,
}
LOAD: dict[str, Any] = {
    "seconds": 60.0,
    "pace": 200.0,
    "statuses": {"202": 90, "503": 10},
    "took": {"http": [0.01] * 99 + [0.24], "queue": [0.25]},
    "memory": 300.0,
    "drained": 300.0,
}
SOAK: dict[str, Any] = {
    "minutes": 1,
    "rows answered": 1,
    "batches accepted": 1,
    "batches counted": 1,
    "pending": 0,
    "runs": {},
    "grew": {},
    "wrong": [],
}


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"killed": {"host": 5, "site": 14, "job": 0}}, ["19 of 20 kills"]),
        ({"killed": {"host": 5, "site": 14, "job": 0}, "in time": False}, []),
        ({"recovery": {"host": [0.5], "site": [5.1, 6.0]}}, []),
        (
            {"recovery": {"host": [0.5], "site": [5.1, 6.0]}, "asked": 100, "in time": False},
            ["site: 2 recoveries above 5 s"],
        ),
        ({"moving": 1}, ["1 runs have not ended after 180 s"]),
    ],
)
def test_a_run_of_kills_is_wrong_where_less_was_done_or_kept(changes: dict[str, Any], wrong: list[str]) -> None:
    assert chaos.unmet({**CHAOS, **changes}) == wrong


def killer(state: Path, kills: int) -> chaos.Chaos:
    """Where the kills of host and sites are used up."""
    made = chaos.Chaos(SimpleNamespace(names=(), state=state), kills)  # type: ignore[arg-type]
    made._end = time.monotonic() + 60
    made._left["other"] = 0
    return made


@pytest.mark.parametrize(("kills", "jobs"), [(1000, 20), (20, 1), (3, 1), (0, 0)])
def test_a_share_of_the_kills_is_kept_for_jobs(kills: int, jobs: int, tmp_path: Path) -> None:
    made = killer(tmp_path, kills)
    assert made._left["job"] == jobs
    assert not made._one_more("site")
    assert made._one_more("job") is bool(jobs)


def test_a_job_that_runs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "Random", lambda _: SimpleNamespace(uniform=lambda a, b: a, random=lambda: 0.0))
    folder = tmp_path / "jobs" / "line.1-train"
    folder.mkdir(parents=True)
    (folder.parent / "host.lock").touch()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job = subprocess.Popen(["sleep", "60"], start_new_session=True, pass_fds=(lock.fileno(),))
    (folder / "pids").write_text(f"{job.pid}\n")
    made = killer(tmp_path, 20)
    made._kill_jobs()
    assert job.wait(10) == -9
    assert (made.killed["job"], made.problems) == (1, [])


def test_where_no_job_runs_the_kills_end_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "PATIENCE_S", 0.1)
    made = killer(tmp_path, 20)
    made._kill_jobs()
    assert (made.killed["job"], made.problems) == (0, ["no job ran for 0.1 s"])


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"took": {"http": [0.26], "queue": [0.3]}}, ["http: p99 260 ms", "queue: p99 300 ms"]),
        ({"took": {"http": [0.26], "queue": [0.3]}, "seconds": 15.0}, []),
        ({"took": {"http": [], "queue": [0.1]}}, ["http: nothing was taken"]),
        ({"took": {"http": [9.0], "queue": []}, "pace": 1000.0}, []),
        ({"memory": 301.0, "pace": 1000.0}, ["301 MB of memory"]),
        ({"drained": float("inf"), "pace": 1000.0}, ["batches waited for more than 300 s"]),
        ({"statuses": {"202": 9, "429": 1, "TimeoutError": 2}}, ["1 answers of 429", "2 answers of TimeoutError"]),
    ],
)
def test_a_load_is_wrong_where_it_is_slow_large_or_refused(changes: dict[str, Any], wrong: list[str]) -> None:
    assert load.unmet({**LOAD, **changes}) == wrong


@pytest.mark.parametrize(
    ("samples", "said"), [(soak.LEAST - 1, "growth not looked at (fewer than 60 samples)"), (60, "grew: nothing")]
)
def test_nothing_is_said_of_growth_in_too_short_a_soak(samples: int, said: str) -> None:
    flat = [{"memory": 100.0, "handles": 20.0, "pending": 0.0}] * samples
    assert soak.grew(flat) == {}
    assert said in "\n".join(soak.show({**SOAK, "samples": flat}))


def test_growth_is_found() -> None:
    rising = [{"memory": 100.0, "handles": float(n), "pending": 0.0} for n in range(100)]
    assert soak.grew(rising) == {"handles": (37.0, 87.0)}
