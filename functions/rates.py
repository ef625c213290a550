"""How many batches a site may send: what is above its rate is told when to come again.

Kept in this process alone: of several instances of the app, each allows the rate by itself. What a batch says of its
site is not proven at the door. So a site has two allowances: one for whoever names it, which costs nothing to look at,
and, when that is used up, one for batches that bear its signature, which nobody else can use up.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from triggers.config import rate
from triggers.errors import DriftloopError
from triggers.ports import Ports

NOBODY = ("", "")
NOBODYS_PER_SECOND = 10.0
"""Of what names no known site, all together: it ends in quarantine."""

BURST_S = 60.0
"""An allowance that was not used grows up to so many seconds' worth."""


@dataclass
class Allowances:
    """Token buckets by name."""

    _left: dict[tuple[str, ...], tuple[float, float]] = field(default_factory=dict)  # tokens, and when that was

    def take(self, name: tuple[str, ...], per_second: float, now: float) -> float:
        """0 where one more is allowed, which is thereby used; or else in how many seconds it will be.

        >>> found = Allowances()
        >>> [round(found.take(("a",), 0.05, at), 1) for at in (0.0, 1.0, 2.0, 3.0, 70.0)]
        [0.0, 0.0, 0.0, 17.0, 0.0]
        """
        most = max(1.0, per_second * BURST_S)
        tokens, then = self._left.get(name, (most, now))
        tokens = min(most, tokens + (now - then) * per_second)
        if tokens < 1.0:
            self._left[name] = tokens, now
            return (1.0 - tokens) / per_second
        self._left[name] = tokens - 1.0, now
        return 0.0


_ALLOWANCES = Allowances()


def wait(ports: Ports, payload: bytes) -> float:
    """Seconds until a batch of this site may come again; 0 where this one may come in."""
    from drift import envelope  # numpy comes with it: not at a cold start
    from triggers import intake

    now = time.monotonic()
    try:
        header = envelope.peek(payload)
        loop, site = ports.configs.loop(header.loop), ports.configs.fleet(header.loop).site(header.site)
    except (envelope.BadBatch, DriftloopError):
        site = None
    if site is None:
        return _ALLOWANCES.take(NOBODY, NOBODYS_PER_SECOND, now)
    times, per = rate(loop.telemetry.rate)
    per_second = times / per.total_seconds()
    seconds = _ALLOWANCES.take((header.loop, header.site), per_second, now)
    if seconds and intake.proven(ports, payload, header, site):
        return _ALLOWANCES.take((header.loop, header.site, "proven"), per_second, now)
    return seconds
