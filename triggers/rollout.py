"""Fleet -> plan; what sites report -> verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from triggers.config import Fleet, Rollout, Site, duration
from triggers.events import Wave, WaveReported
from triggers.gates import Verdict

SiteStatus = Literal[
    "waiting", "asked", "underway", "applied", "verified", "failed", "deferred", "restoring", "restored", "stuck"
]


class PlannedWave(msgspec.Struct, frozen=True):
    """Sites that are updated together."""

    ring: str
    sites: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All waves, in order, with the limits they are judged by."""

    loop: str
    candidate: str
    waves: tuple[PlannedWave, ...]
    limits: Rollout

    @property
    def summary(self) -> tuple[Wave, ...]:
        return tuple(Wave(w.ring, len(w.sites)) for w in self.waves)

    def through(self, wave: int) -> tuple[str, ...]:
        """Every site of the waves up to and including `wave`, newest wave first."""
        return tuple(s for w in reversed(self.waves[: wave + 1]) for s in reversed(w.sites))


def plan(fleet: Fleet, limits: Rollout, loop: str, candidate: str, sites: Sequence[str] | None = None) -> Plan:
    """Rings in their order, each cut into waves of at most `wave_size` and `max_unavailable` sites: a site that is
    updated is unavailable meanwhile. `sites` narrows the fleet to a run's scope (None: all)."""
    size = min(limits.wave_size or limits.max_unavailable, limits.max_unavailable)
    wanted = [s for s in fleet.sites if sites is None or s.name in sites]
    waves = [
        PlannedWave(ring, tuple(s.name for s in part))
        for ring in rings(fleet, limits)
        for part in _cut([s for s in wanted if s.ring == ring], size)
    ]
    return Plan(loop=loop, candidate=candidate, waves=tuple(waves), limits=limits)


def rings(fleet: Fleet, limits: Rollout) -> tuple[str, ...]:
    """The order of rings: as loop.yaml says, then as fleet.yaml first names them."""
    return tuple(dict.fromkeys([*limits.rings, *(s.ring for s in fleet.sites)]))


def _cut(sites: Sequence[Site], size: int) -> Iterator[Sequence[Site]]:
    for i in range(0, len(sites), size):
        yield sites[i : i + size]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What a site's own telemetry says of one candidate since it was deployed there."""

    candidate: str
    since: datetime
    last: datetime | None = None  # end of the newest fresh batch
    requests: int = 0
    errors: int = 0
    slow: int = 0  # requests in batches whose p95 was above the limit
    p95_ms: float = 0.0  # worst batch


def judge_site(health: Health, limits: Rollout, now: datetime) -> Verdict:
    """Failed as soon as the numbers say so; passed once it has soaked with enough requests; else inconclusive."""
    if health.requests < limits.minimum_requests:
        return Verdict("inconclusive", f"{health.requests} fresh requests of {limits.minimum_requests}")
    rate = health.errors / health.requests
    said = f"{health.errors} errors in {health.requests:,} requests"
    if not rate <= limits.max_error_rate:
        return Verdict("failed", f"{said} ({rate:.1%}), more than {limits.max_error_rate:.1%}")
    if limits.max_p95_ms is not None:
        if health.slow * 2 > health.requests:
            slow = f"p95 above {limits.max_p95_ms:g} ms for {health.slow:,} of {health.requests:,} requests"
            return Verdict("failed", f"{slow} (worst {health.p95_ms:.1f} ms)")
        said += f", worst p95 {health.p95_ms:.1f} ms"
    if now - health.since < duration(limits.soak):
        return Verdict("inconclusive", f"{said}; soaking for {limits.soak}")
    return Verdict("passed", said)


def proven(health: Health, limits: Rollout, now: datetime) -> bool:
    """Whether requests enough were answered well for a change to take its next step; the soak comes after the last."""
    return judge_site(health, msgspec.structs.replace(limits, soak="0s"), now).passed


def count(statuses: Iterable[tuple[int, SiteStatus]], wave: int, sites: int) -> tuple[int, int, int, int]:
    """(verified, failed, deferred, pending) of `wave`, from (wave, status) of each site; earlier failures count too.

    Of the wave's `sites` those without a status have not been asked yet: pending.
    """
    here: list[SiteStatus] = []
    earlier_failures = 0
    for of, status in statuses:
        if of == wave:
            here.append(status)
        elif of < wave and status == "failed":
            earlier_failures += 1
    verified, failed, deferred = (here.count(x) for x in ("verified", "failed", "deferred"))
    return verified, failed + earlier_failures, deferred, max(sites, len(here)) - verified - failed - deferred


def judge_wave(report: WaveReported, limits: Rollout) -> Verdict:
    """Failures beyond the tolerated fail at once; a wave passes when nothing is pending and few enough are deferred."""
    where = f"wave {report.wave + 1}"
    if report.failed > limits.max_failed:
        why = f" ({report.because})" if report.because else ""
        return Verdict("failed", f"{where}: {report.failed} failed, {limits.max_failed} tolerated{why}")
    said = f"{where}: {report.verified} verified, {report.deferred} deferred, {report.pending} pending"
    if report.pending:
        return Verdict("inconclusive", said)
    if report.deferred > limits.max_unavailable:
        return Verdict("inconclusive", f"{said}; more than {limits.max_unavailable} unavailable")
    if report.verified == 0:
        return Verdict("inconclusive", f"{said}; nobody has verified it")
    return Verdict("passed", said)
