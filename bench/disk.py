"""A disk that fills up: a host whose files may not grow any more (RLIMIT_FSIZE), and then may again."""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bench import factory
from bench.factory import NAME, Factory, ask
from drift import envelope
from drift.telemetry import Batch

ROOM = 3 << 20
"""Bytes that the largest file may grow."""

MOST = 4000
PATIENCE_S = 150.0
"""What the host had in hand when it could not even let go of it is locked for a minute."""


def run() -> dict[str, Any]:
    """Send until the host cannot take more, make room, send on; every accepted batch must be counted once."""
    folder = Path(tempfile.mkdtemp(prefix="driftloop-disk-"))
    try:
        return _run(Factory(folder / "state", ("north",)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(here: Factory) -> dict[str, Any]:
    champion = here.begin()
    host = here.host()
    accepted: set[str] = set()
    answers: dict[str, Counter[int]] = {}
    with factory.running(host):
        largest = max(path.stat().st_size for path in here.state.glob("state.db*"))
        resource.prlimit(host.pid, resource.RLIMIT_FSIZE, (largest + ROOM, resource.RLIM_INFINITY))
        answers["full"] = _send(here, champion, accepted, "before", until=503)
        resource.prlimit(host.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        answers["room"] = _send(here, champion, accepted, "after", count=50)
        seconds = factory.drained(here.state, PATIENCE_S)
    found = factory.audit(here.state)
    lost = accepted - found.batches["north"]
    wrong = list(found.wrong) + ([f"{len(lost)} accepted batches are not counted"] if lost else [])
    wrong += [f"{found.dead} dead letters"] if found.dead else []
    wrong += ["it never was full"] if not answers["full"][503] else []
    others = {status for counted in answers.values() for status in counted} - {202, 503}
    wrong += [f"answered {sorted(others)}"] if others else []
    wrong += ["it did not go on"] if not answers["room"][202] else []
    counted = len(found.batches["north"])
    return {"answers": answers, "accepted": len(accepted), "counted": counted, "seconds": seconds, "wrong": wrong}


def _send(
    here: Factory, champion: str, accepted: set[str], name: str, until: int = 0, count: int = MOST
) -> Counter[int]:
    """How often each status was answered; ten times `until` are enough."""
    random, found = np.random.default_rng(2), Counter[int]()
    for n in range(count):
        now = int(time.time())
        rows, _ = here.rows(random, "north", f"{name}-{n}", np.full(200, now - 1))
        batch = Batch("1", NAME, champion, "north", f"{name}-{n}", now - 1, now, rows, key="k1")
        payload = envelope.signed(envelope.encode(batch, here.schema), here.sign["north"])
        status = ask(here.port, "POST", "/api/telemetry", payload, timeout=30)[0]
        found[status] += 1
        if status == 202:
            accepted.add(batch.id)
        if until and found[until] >= 10:
            break
    return found


def show(found: dict[str, Any]) -> list[str]:
    full, room = found["answers"]["full"], found["answers"]["room"]
    wrong = "; ".join(found["wrong"]) or "nothing"
    return [
        f"files that may not grow: answered {dict(full)}; with room again: {dict(room)}",
        f"{found['accepted']:,} batches accepted, the last counted after {found['seconds']:.0f} s; wrong: {wrong}",
    ]
