"""A soak: the factory at work on ports of which one call in a hundred fails, and whether anything grows.

Half of the faults come before a call is done, half after it: then it was done, and nobody knows.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import numpy as np

from bench import chaos, factory
from bench.chaos import Chaos
from bench.factory import Factory, Process

FAULTS = 0.01
GROWTH = 1.15
"""What is counted as growth: the last quarter's median above this share of the second quarter's (and above SLACK)."""

SLACK = {"memory": 15.0, "handles": 15.0, "pending": 200.0, "at sites": 200.0}
LEAST = 60
"""Samples without which nothing is said of growth: two minutes."""

EVERY_S = 2.0


class Soak(Chaos):
    """Nobody is killed; the host's ports fail.

    A site waits 5 s where it is answered 503, once in a hundred batches, and sends one at a time: with twice the
    requests it falls behind, whoever answers."""

    pause_s = 0.1

    def host(self) -> Process:
        host = self.factory.host()
        begin = host.command.index("cli.main")
        host.command[begin : begin + 2] = ["bench.soak"]
        return host

    def disturb(self, host: Process, sites: list[Process]) -> None:
        """Watch, for so many minutes."""
        from adapters.local.profile import Local

        self.samples: list[dict[str, float]] = []
        self._last = dict.fromkeys(self.factory.names, 0)
        local = Local(self.factory.state)
        try:
            while time.monotonic() < self._end:
                self.samples.append(
                    {
                        "memory": factory.memory_mb(host.pid),
                        "handles": factory.handles(host.pid),
                        "pending": local.bus.pending("telemetry") + local.bus.pending("effects"),
                        "at sites": sum(map(self._buffered, self.factory.names)),
                    }
                )
                time.sleep(EVERY_S)
        finally:
            local.close()

    def _buffered(self, name: str) -> int:
        """Batches that the site has not sent yet; as many as before where it does not say."""
        with suppress(OSError, ValueError, KeyError):
            status = factory.ask(self.factory.ports_of[name], "GET", f"/{name}/status")[1]
            self._last[name] = int(json.loads(status)["buffered"])
        return self._last[name]


def run(minutes: float, seed: int = 0) -> dict[str, Any]:
    def soak(here: Factory) -> dict[str, Any]:
        found = Soak(here, 0, seed, minutes)
        return {**found.run(), "minutes": minutes, "samples": found.samples}

    made = chaos.somewhere(soak)
    made["grew"] = grew(made["samples"])
    return made


def grew(samples: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """(the median of the second quarter, that of the last) of what has grown.

    >>> flat, rising = {"handles": 20.0}, [{"handles": float(n)} for n in range(100)]
    >>> grew([flat] * 100), grew(rising)
    ({}, {'handles': (37.0, 87.0)})
    """
    found, quarter = {}, len(samples) // 4
    for what in samples[0] if len(samples) >= LEAST else ():
        values = [sample[what] for sample in samples]
        early, late = float(np.median(values[quarter : 2 * quarter])), float(np.median(values[-quarter:]))
        if late > GROWTH * early and late > early + SLACK[what]:
            found[what] = early, late
    return found


def show(found: dict[str, Any]) -> list[str]:
    last = found["samples"][-1] if found["samples"] else {}
    rows, batches, seconds = found["rows answered"], found["batches accepted"], 60 * found["minutes"]
    counted, pending = found["batches counted"], found["pending"]
    grew = found["grew"] or "nothing"
    growth = f"grew: {grew}" if len(found["samples"]) >= LEAST else f"growth not looked at (fewer than {LEAST} samples)"
    now = ", ".join(f"{what} {value:.0f}" for what, value in last.items())
    said = f"{found['minutes']:g} minutes with {FAULTS:.0%} faults a call"
    return [
        f"{said}: {rows:,} rows answered ({rows / seconds:.0f}/s), {batches:,} batches sent",
        f"{counted:,} batches counted ({counted / seconds:.0f}/s), {pending} pending; runs: {found['runs']}",
        f"{now} at the end; {growth}",
        "wrong: " + ("; ".join(found["wrong"]) or "nothing"),
    ]


def main() -> int:
    """`driftloop host`, on ports that fail."""
    from adapters.faults import Faults, faulty_ports
    from cli import main as command
    from functions import host as root

    os.environ["DRIFTLOOP_STATE"] = sys.argv[sys.argv.index("--state") + 1]
    faults = Faults(1, {"before": FAULTS / 2, "after": FAULTS / 2})
    local = root.local()
    local.ports = faulty_ports(local.ports, faults)

    def forget() -> None:
        while True:
            time.sleep(1.0)
            del faults.calls[:-1000]

    threading.Thread(target=forget, daemon=True).start()
    return command.main(["host", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
