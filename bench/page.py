"""The dashboard of a large fleet: what the API takes, and when a browser has drawn it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from triggers import codec
from triggers.ports import Put
from triggers.records import LoopUnit, SiteState, site_partition

ROOT = Path(__file__).resolve().parents[1]
NOW = datetime(2026, 3, 2, 6, tzinfo=UTC)
CHAMPION = "c" * 64
FEATURES = 20
LOOP_YAML = """
loop: plant
schema:
  timestamp: at
  site: site
  label: failed
  features: [{name: temperature}]
"""


def _fleet(sites: int) -> str:
    rings = ("lab", "canary", *(f"region-{n}" for n in range(8)))
    lines = [
        f"  - {{name: plant-{n:05}, ring: {rings[min(n // max(sites // 10, 1), 9)]}, cohort: line-{n % 7}}}"
        for n in range(sites)
    ]
    return "\n".join(["sites:", *lines, ""])


def _state(n: int) -> SiteState:
    status = "failed" if n % 97 == 0 else "deferred" if n % 61 == 0 else "verified"
    heard = NOW - timedelta(days=4 if n % 211 == 0 else 0, hours=1)
    return SiteState(
        candidate=CHAMPION,
        last_good=CHAMPION,
        observed=CHAMPION,
        observed_at=heard,
        status=status,
        reason="31 errors in 900 requests" if status == "failed" else "",
    )


def _report(sites: int) -> bytes:
    """A stored check, as drift writes it."""
    rng = np.random.default_rng(7)
    names = [f"sensor_{n:02}" for n in range(FEATURES)]
    values = {m: rng.gamma(0.7, 0.08, (sites, FEATURES)).round(6).tolist() for m in ("psi", "js", "ks", "wasserstein")}
    distances = {"sites": [f"plant-{n:05}" for n in range(sites)], "features": names, "values": values}
    about = {"evidence": 3.1, "limit": 90.0, "reason": "no drift: evidence 3.1 < 90", "windows": sites, "findings": []}
    return msgspec.json.encode({**about, "coverage": {"why": "covered"}, "distances": distances})


@contextmanager
def served(folder: Path, sites: int) -> Iterator[str]:
    """A fleet of so many sites behind the real app on the local host; its address."""
    os.environ |= {"DRIFTLOOP_PROFILE": "local", "DRIFTLOOP_STATE": str(folder), "DRIFTLOOP_CLOCK": NOW.isoformat()}
    from cli.host import APP
    from cli.host.app import load
    from cli.host.host import Host
    from functions import host, wire

    host.ports.cache_clear()
    host.local.cache_clear()
    config = folder / "config" / "plant"
    config.mkdir(parents=True)
    (config / "loop.yaml").write_text(LOOP_YAML)
    (config / "fleet.yaml").write_text(_fleet(sites))
    local = host.local()

    def put(n: int) -> None:
        name = site_partition("plant", f"plant-{n:05}")
        local.store.commit(name, [Put("site", codec.encode(_state(n)))])

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(put, range(sites)))
    unit = LoopUnit(local.store, "plant", NOW)
    unit.set_head(champion=CHAMPION)
    for n in range(40):
        unit.note("held", "plant", f"no drift: evidence {n / 10:.1f} < 90")
    unit.commit()
    local.blobs.put(f"reports/plant/{NOW:%Y-%m-%dT%H%M%S}-{CHAMPION[:12]}.json", _report(sites))
    server = Host(
        load(APP), local.bus, local.topic, local.store, local.clock, host.SETTINGS, subscriptions=wire.SUBSCRIPTIONS
    )
    http_ = server.start_http(0)
    try:
        yield f"http://127.0.0.1:{http_.port}"
    finally:
        http_.stop()
        local.close()
        host.ports.cache_clear()
        host.local.cache_clear()


def _get(origin: str, path: str, tag: str = "") -> tuple[tuple[float, float], int, bytes, str]:
    """Seconds on the clock and of the processor (the app's and ours, which is little), status, bytes and ETag."""
    connection = http.client.HTTPConnection(origin.removeprefix("http://"), timeout=60)
    began, worked = time.perf_counter(), time.process_time()
    connection.request("GET", path, headers={"If-None-Match": tag} if tag else {})
    answer = connection.getresponse()
    body = answer.read()
    took = time.perf_counter() - began, time.process_time() - worked
    connection.close()
    return took, answer.status, body, answer.headers.get("ETag", "")


def api(origin: str) -> dict[str, tuple[float, float, int]]:
    """What the pages ask for: seconds on the clock and of the processor (the middle of five), bytes."""
    check = f"{NOW:%Y-%m-%dT%H%M%S}-{CHAMPION[:12]}"
    paths = {
        "the whole fleet": "/api/loops/plant/glance",
        "what happened": "/api/loops/plant/log?limit=60",
        "a page of 100 sites": "/api/loops/plant/sites?limit=100&cursor=plant-02000",
        "one site": "/api/loops/plant/sites/plant-02000",
        "checks of 30 days": "/api/loops/plant/drift?days=30",
        "the 100 sites that moved most": f"/api/loops/plant/drift/{check}",
    }
    found = {"the whole fleet, first of all": _timed(origin, paths["the whole fleet"], 1)}
    found |= {name: _timed(origin, path, 5) for name, path in paths.items()}
    tag = _get(origin, paths["the whole fleet"])[3]
    again = [_get(origin, paths["the whole fleet"], tag) for _ in range(5)]
    assert {status for _, status, _, _ in again} == {304}
    return found | {"the whole fleet, unchanged (304)": (*sorted(took for took, *_ in again)[2], len(again[0][2]))}


def _timed(origin: str, path: str, times: int) -> tuple[float, float, int]:
    tries = [_get(origin, path) for _ in range(times)]
    assert {status for _, status, _, _ in tries} == {200}, (path, tries[0][2])
    return *sorted(took for took, *_ in tries)[times // 2], len(tries[0][2])


def browser(origin: str, times: int = 5) -> dict[str, float] | None:
    """Seconds from the navigation to the first paint, and until the fleet is drawn (the middle of some loads);
    None where there is no Chromium or Node."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None or shutil.which("npm") is None:
        return None
    from tools import setup

    setup.node()
    with tempfile.TemporaryDirectory() as folder:
        pages = [{"url": f"{origin}/api/ui/#/fleet", "width": 390, "dark": False}] * (times + 1)
        spec = {"chromium": chromium, "profile": f"{folder}/profile", "node": str(setup.NODE), "pages": pages}
        (Path(folder) / "spec.json").write_text(json.dumps(spec))
        command = ["node", str(ROOT / "tests" / "servers" / "look.mjs"), f"{folder}/spec.json"]
        said = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=300).stdout)
    found = [page["timing"] for page in said[1:]]  # the first also starts the browser's processes
    return {name: sorted(t[name] for t in found)[times // 2] / 1000 for name in ("first paint", "drawn")}


def run(sites: int = 5000) -> dict[str, Any]:
    """Both, of a fleet of so many sites."""
    with tempfile.TemporaryDirectory() as folder, served(Path(folder) / "state", sites) as origin:
        return {"api": api(origin), "browser": browser(origin)}


if __name__ == "__main__":
    json.dump(run(int(sys.argv[1]) if len(sys.argv) > 1 else 5000), sys.stdout, indent=1)
