"""Telemetry through the functions into durable windows: batches as small as a site sends in a day, with labels."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np

from bench.start import home
from drift import envelope
from drift.telemetry import Batch, Labels, Rows

SITES, DAYS, ROWS, FEATURES = 3, 60, 290, 15
_DAY = 86_400


def run() -> dict[str, float]:
    """Rows a second, by the wall and by processor time of this process, from the request to the completed message."""
    with tempfile.TemporaryDirectory() as folder:
        told = {"DRIFTLOOP_PROFILE": "local", "DRIFTLOOP_STATE": folder, "DRIFTLOOP_CLOCK": "2024-03-01T00:00:00+00:00"}
        with patch.dict(os.environ, told):
            return _measured(Path(folder))


def _measured(folder: Path) -> dict[str, float]:
    from datetime import UTC, datetime

    from adapters.local.clock import VirtualClock
    from cli.host import APP, Host, load
    from functions import host as root
    from functions import wire
    from triggers import sites

    start = int(datetime(2024, 3, 1, tzinfo=UTC).timestamp())
    days = _batches(folder, start)
    local = root.local()
    settings = {name: root.setting(name) for name in root.SETTINGS}
    parts = (local.bus, local.topic, local.store, local.clock, settings)
    host = Host(load(APP), *parts, subscriptions=wire.SUBSCRIPTIONS)
    assert isinstance(local.clock, VirtualClock)
    headers = {"host": "127.0.0.1", "content-type": "application/json"}
    wall = cpu = 0.0
    for day, payloads in enumerate(days):
        local.clock.set(datetime.fromtimestamp(start + (day + 1) * _DAY, UTC))
        began, spent = time.perf_counter(), time.process_time()
        for payload in payloads:
            host.request("POST", "http://127.0.0.1/api/telemetry", headers, payload)
        host.pump()
        wall, cpu = wall + time.perf_counter() - began, cpu + time.process_time() - spent
    counted = sum(state.rows for state in sites.states(local.ports, "bench").values())
    local.close()
    root.ports.cache_clear()
    root.local.cache_clear()
    assert counted == SITES * DAYS * ROWS, counted
    return {"wall": counted / wall, "processor": counted / cpu}


def _batches(folder: Path, start: int) -> list[list[bytes]]:
    """What all sites send, day by day: rows, and the labels of the day before."""
    names = [f"f{i}" for i in range(FEATURES)]
    candidate, schema = home(folder, [f"s{n}" for n in range(SITES)], names, "label: y, ")
    random = np.random.default_rng(0)
    made: list[list[bytes]] = []
    known: dict[int, Labels] = {}
    for day in range(DAYS):
        made.append([])
        for site in range(SITES):
            first = start + day * _DAY
            at = np.sort(random.integers(first, first + _DAY, ROWS))
            x = random.normal(size=(ROWS, FEATURES)).round(3)
            score = random.random(ROWS).round(4)
            rows = Rows(
                [f"{day}-{site}-{i}" for i in range(ROWS)], at, score, {n: x[:, i] for i, n in enumerate(names)}
            )
            told = known.get(site)
            known[site] = Labels(rows.ids, at, (random.random(ROWS) < score).astype(float))
            ends = first + _DAY - 1
            batch = Batch("1", "bench", candidate, f"s{site}", f"b{day}", first, ends, rows=rows, labels=told)
            made[-1].append(envelope.encode(batch, schema))
    return made
