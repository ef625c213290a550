"""What a replay costs: seconds by function, and the most memory that all its processes held at once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

from cli.host.host import Took

_EVERY_S = 0.25


class Meter:
    """Of this process and all that it starts, from now on."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.errors: Counter[str] = Counter()
        self.peak_mb = 0.0
        self._spans: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._busy: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        threading.Thread(target=self._watch, name="meter", daemon=True).start()

    def invoked(self, name: str, took: Took, error: Exception | None) -> None:
        now, used = time.monotonic(), time.process_time()
        self._spans[name].append((now - took.wall, now))
        self._busy[name].append((used - took.processor, used))
        self.errors[name] += error is not None

    @property
    def names(self) -> list[str]:
        return sorted(self._spans)

    def seconds(self, *names: str) -> float:
        """For how long at least one of these functions was at work."""
        return covered([span for name in names for span in self._spans[name]])

    def processor_seconds(self, *names: str) -> float:
        """What all threads of this process used of its processors while at least one of these functions was at work."""
        return covered([span for name in names for span in self._busy[name]])

    def _watch(self) -> None:
        """To ask for shared memory takes long, so that is asked only where there is more of their own than before."""
        most = 0.0
        while True:
            processes = family(os.getpid())
            own = sum(map(own_mb, processes))
            if own > most:
                most = own
                self.peak_mb = max(self.peak_mb, sum(map(memory_mb, processes)))
            time.sleep(_EVERY_S)


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of what these spans of time cover together.

    >>> covered([(4, 6), (0, 2), (1, 3)])
    5.0
    """
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def family(pid: int) -> list[int]:
    """A process and all that it started (Linux; elsewhere itself alone)."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def memory_mb(pid: int) -> float:
    """What a process holds for itself, with its share of what it holds with others (Linux: PSS; elsewhere 0)."""
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") / 1024


def own_mb(pid: int) -> float:
    """What a process holds for itself alone (Linux; elsewhere 0)."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "RssAnon:") / 1024


def _kilobytes(path: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0
