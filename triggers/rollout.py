"""Fleet -> plan, and who may be asked now; what sites report -> verdict."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec

from triggers import windows
from triggers.config import Count, Fleet, Rollout, Site, duration, selected
from triggers.events import Measured, Wave, WaveReported
from triggers.gates import Verdict, worst

SiteStatus = Literal[
    "waiting",
    "asked",
    "underway",
    "applied",
    "soaking",
    "verified",
    "failed",
    "deferred",
    "restoring",
    "restored",
    "stuck",
    "removed",
]
"""asked: the request is made; underway: its executor takes it there step by step; applied: the site took it;
soaking: its own telemetry names the candidate; removed: no longer of the fleet."""

UPDATING: Collection[SiteStatus] = ("asked", "underway", "applied")
DOWN: Collection[SiteStatus] = ("failed", "deferred", "restoring", "stuck")


class PlannedWave(msgspec.Struct, frozen=True):
    """Sites that are verified together."""

    ring: str
    sites: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All waves, in order, with the limits they are judged by: what a person approves.

    When each site's turn comes is not part of it: that follows from the fleet's windows, as they are then.
    """

    loop: str
    candidate: str
    waves: tuple[PlannedWave, ...]
    limits: Rollout

    @property
    def summary(self) -> tuple[Wave, ...]:
        return tuple(Wave(w.ring, len(w.sites)) for w in self.waves)

    @property
    def sites(self) -> int:
        return sum(len(w.sites) for w in self.waves)

    def members(self, wave: int, fleet: Fleet) -> tuple[str, ...]:
        """The wave's sites; a ring's last wave also takes in the sites that have joined the ring since."""
        ring, here = self.waves[wave].ring, self.waves[wave].sites
        if any(w.ring == ring for w in self.waves[wave + 1 :]):
            return here
        planned = {s for w in self.waves for s in w.sites}
        joined = [s for s in fleet.sites if s.name not in planned]
        order = rings(fleet, self.limits) if joined else ()
        return here + tuple(s.name for s in joined if ring_of(s, order) == ring)


def plan(fleet: Fleet, limits: Rollout, loop: str, candidate: str, sites: Collection[str] | None = None) -> Plan:
    """Rings in their order, each cut into waves. `sites` narrows the fleet to a run's scope (None: all)."""
    order = rings(fleet, limits)
    by_ring: dict[str, list[Site]] = {ring: [] for ring in order}
    within = None if sites is None else frozenset(sites)
    for site in fleet.sites:
        if within is None or site.name in within:
            by_ring[ring_of(site, order)].append(site)
    total = sum(map(len, by_ring.values()))
    waves = [
        PlannedWave(ring, tuple(s.name for s in part))
        for ring, members in by_ring.items()
        for part in _cut(members, _wave_size(limits, len(members), total))
    ]
    return Plan(loop=loop, candidate=candidate, waves=tuple(waves), limits=limits)


def rings(fleet: Fleet, limits: Rollout) -> tuple[str, ...]:
    """The order of rings: as loop.yaml says, then as fleet.yaml first names those that it leaves out."""
    left = (s.ring for s in fleet.sites if not any(selected(s, ring) for ring in limits.rings))
    return tuple(dict.fromkeys([*limits.rings, *left]))


def ring_of(site: Site, order: Sequence[str]) -> str:
    """The first ring of `order` that a site is of."""
    return next((ring for ring in order if selected(site, ring)), site.ring)


def at_most(count: Count, of: int) -> int:
    """A number of sites, or that share of them, at least one.

    >>> at_most(3, 40), at_most("10%", 40), at_most("10%", 4)
    (3, 4, 1)
    """
    return count if isinstance(count, int) else max(1, of * int(count.rstrip("%")) // 100)


def _wave_size(limits: Rollout, of_ring: int, total: int) -> int:
    return at_most(limits.max_unavailable, total) if limits.wave_size is None else at_most(limits.wave_size, of_ring)


def _cut(sites: Sequence[Site], size: int) -> Iterator[Sequence[Site]]:
    for i in range(0, len(sites), size):
        yield sites[i : i + size]


# --- who may be asked, and when


class Room(NamedTuple):
    """How many more sites may begin to change: in all, and of those that are well."""

    at_once: int
    well: int


def room(limits: Rollout, total: int, updating: int, down: int) -> Room:
    """What is left where so many sites change already and so many others are not to be counted on.

    >>> room(Rollout(max_unavailable=5, max_concurrent=2), total=20, updating=1, down=4)
    Room(at_once=1, well=0)
    """
    unavailable = at_most(limits.max_unavailable, total)
    at_once = unavailable if limits.max_concurrent is None else at_most(limits.max_concurrent, total)
    return Room(max(0, at_once - updating), max(0, min(at_once - updating, unavailable - updating - down)))


def unknown(heard: datetime | None, silence: timedelta, now: datetime) -> bool:
    """Whether nothing is known of a site: its newest telemetry is too old, or there never was any."""
    return heard is None or now - heard > silence


class Turn(NamedTuple):
    """Who is asked now; why the others are not; when the first of those has a window."""

    now: tuple[str, ...]
    held: Mapping[str, str]
    next: datetime | None


class Hold:
    """What keeps a site from being changed at a time: its windows, the fleet's blackouts, a freeze.

    `size`: bytes that must reach each site; `frozen`: why a site is, or "".
    """

    def __init__(
        self,
        fleet: Fleet,
        limits: Rollout,
        size: Callable[[Site], int],
        frozen: Callable[[str], str] = lambda site: "",
    ) -> None:
        self.fleet, self.size, self.frozen = fleet, size, frozen
        self._install = duration(limits.install)
        self._known: dict[str, tuple[datetime, datetime | None]] = {}

    def needed(self, site: Site) -> timedelta:
        """How long a change is expected to take: the bytes over the link, and the start."""
        return self._install + (transfer(self.size(site), site) if site.link_kbps else timedelta(0))

    def start(self, site: Site, now: datetime) -> datetime | None:
        """When a change may begin that ends in the same window."""
        if not site.windows and not site.blackouts and not self.fleet.blackouts:
            return now
        asked, start = self._known.get(site.name, (now, now))
        if asked < now and (start is None or start >= now):
            return start  # what was found earlier, and still lies ahead
        start = windows.next_start(site, now, self.needed(site), self.fleet.blackouts)
        self._known[site.name] = (now, start)
        return start

    def why(self, site: Site, now: datetime) -> str:
        """Why a change must not begin now; empty where it may."""
        if frozen := self.frozen(site.name):
            return frozen
        start = self.start(site, now)
        return "" if start == now else self.waits(site, start)

    def waits(self, site: Site, start: datetime | None) -> str:
        if start is None:
            return f"no window within a year is {in_words(self.needed(site))} long"
        return _opens(start)

    def turn(
        self,
        waiting: Iterable[Site],
        now: datetime,
        room: Room,
        down: Collection[str] = (),
        updating: Collection[str] = (),
    ) -> Turn:
        """Choose who is asked, in order, those that are well first. Who is `down` is not counted on anyway, and takes
        only a place among those that change at once; who is `updating` has one."""
        at_once, well = room
        asked: list[str] = []
        held: dict[str, str] = {}
        later: list[datetime] = []
        for site in sorted(waiting, key=lambda site: site.name in down):
            if frozen := self.frozen(site.name):
                held[site.name] = frozen
            elif (start := self.start(site, now)) != now:
                held[site.name] = self.waits(site, start)
                later += [start] if start else []
            elif site.name in updating:
                asked.append(site.name)
            elif at_once > 0 and (well > 0 or site.name in down):
                asked.append(site.name)
                at_once, well = at_once - 1, well - (site.name not in down)
            else:
                held[site.name] = "as many sites as may be are unavailable"
        return Turn(tuple(asked), held, min(later, default=None))


@lru_cache(maxsize=4096)
def _opens(start: datetime) -> str:
    return f"its window opens at {start:%Y-%m-%d %H:%M} UTC"


def transfer(size: int, site: Site) -> timedelta:
    """How long so many bytes take over a site's link; nothing where its rate is not known.

    >>> transfer(1_000_000, Site(name="far", link_kbps=64)).total_seconds()
    125.0
    """
    return timedelta(seconds=size * 8 / (site.link_kbps * 1000)) if site.link_kbps else timedelta(0)


def in_words(length: timedelta) -> str:
    """
    >>> in_words(timedelta(minutes=5)), in_words(timedelta(hours=49)), in_words(timedelta(hours=5, minutes=7))
    ('5 min', '2 d 1 h', '5 h 7 min')
    """
    seconds = math.ceil(length.total_seconds())
    for (big, unit), (small, rest) in (
        ((86_400, "d"), (3600, "h")),
        ((3600, "h"), (60, "min")),
        ((60, "min"), (1, "s")),
    ):
        if seconds >= big:
            return f"{seconds // big} {unit}" + (f" {seconds % big // small} {rest}" if seconds % big >= small else "")
    return f"{seconds} s"


# --- how long it will take


class SiteForecast(msgspec.Struct, frozen=True, kw_only=True):
    """When one site is expected to change (None: it cannot), and what it waits for."""

    site: str
    start: datetime | None
    end: datetime | None
    bytes: int
    held: str = ""


class WaveForecast(msgspec.Struct, frozen=True, kw_only=True):
    """When a wave is expected to begin, and to be verified."""

    ring: str
    start: datetime
    end: datetime
    bytes: int
    held: str
    sites: tuple[SiteForecast, ...]


def forecast(plan: Plan, hold: Hold, at: datetime) -> list[WaveForecast]:
    """All waves, as they would go if every site were well."""
    found: list[WaveForecast] = []
    for wave in range(len(plan.waves)):
        found.append(forecast_wave(plan, wave, hold, found[-1].end if found else at))
    return found


def forecast_wave(plan: Plan, wave: int, hold: Hold, at: datetime) -> WaveForecast:
    """One wave that begins at `at`: sites by their windows, as many at a time as may be, then the soak."""
    known = {s.name: s for s in hold.fleet.sites}
    members = [known[name] for name in plan.members(wave, hold.fleet) if name in known]
    starts = {s.name: hold.start(s, at) for s in members}
    never = at + windows.HORIZON
    free: list[datetime] = []
    ends: list[datetime] = []
    made: dict[str, SiteForecast] = {}
    slots = room(plan.limits, plan.sites, 0, 0).well
    for site in sorted(members, key=lambda s: starts[s.name] or never):
        start, held, size = starts[site.name], "", hold.size(site)
        if start is not None and start > at:
            held = hold.waits(site, start)
        if start is not None and len(free) >= slots and (first := heapq.heappop(free)) > start:
            start, held = hold.start(site, first), "as many sites as may be are being changed"
        end = start + hold.needed(site) if start else None
        if end is None:
            held = hold.waits(site, None)
        else:
            heapq.heappush(free, end)
            ends.append(end)
        made[site.name] = SiteForecast(site=site.name, start=start, end=end, bytes=size, held=held)
    return WaveForecast(
        ring=plan.waves[wave].ring,
        start=min((f.start for f in made.values() if f.start), default=at),
        end=max(ends, default=at) + duration(plan.limits.soak),
        bytes=sum(f.bytes for f in made.values()),
        held=_what_holds(made, at),
        sites=tuple(made[s.name] for s in members),
    )


def _what_holds(made: Mapping[str, SiteForecast], at: datetime) -> str:
    """What a wave as a whole waits for."""
    never = [f.site for f in made.values() if f.end is None]
    if never:
        return f"{len(never)} of {len(made)} sites never: {made[never[0]].held}"
    last = max(made.values(), key=lambda f: f.start or at, default=None)
    return f"{last.site}: {last.held}" if last and last.held else ""


# --- what is seen


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What a site's own telemetry says of one candidate since it was deployed there."""

    candidate: str
    since: datetime
    last: datetime | None = None  # end of the newest fresh batch
    requests: int = 0
    errors: int = 0
    slow: int = 0  # requests in batches whose p95 was above the limit
    p95_ms: float = 0.0  # worst batch
    bad: int = 0  # batches in a row with too many errors

    def heard(self, end: datetime, requests: int, errors: int, p95_ms: float, limits: Rollout) -> Health:
        """With one more batch, which ends at `end`."""
        slow = limits.max_p95_ms is not None and not p95_ms <= limits.max_p95_ms
        bad = self.bad
        if requests:
            bad = 0 if errors / requests <= limits.max_error_rate else bad + 1
        return Health(
            candidate=self.candidate,
            since=self.since,
            last=end if self.last is None else max(end, self.last),
            requests=self.requests + requests,
            errors=self.errors + errors,
            slow=self.slow + requests * slow,
            p95_ms=p95_ms if not p95_ms <= self.p95_ms else self.p95_ms,
            bad=bad,
        )


def judge_site(health: Health, limits: Rollout, now: datetime) -> Verdict:
    """Failed as soon as the numbers say so; passed once it has soaked with enough requests; else inconclusive."""
    said = f"{health.errors} errors in {health.requests:,} requests"
    if health.bad >= limits.consecutive_errors:
        return Verdict("failed", f"{said}; {health.bad} batches in a row with more than {limits.max_error_rate:.1%}")
    if health.requests < limits.minimum_requests:
        return Verdict("inconclusive", f"{health.requests} fresh requests of {limits.minimum_requests}")
    rate = health.errors / health.requests
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


def late(asked: datetime, needed: timedelta, limits: Rollout, now: datetime) -> bool:
    """Whether a site has had its time to show itself well: the change, the soak, the deadline."""
    return now - asked > needed + duration(limits.soak) + duration(limits.deadline)


def count(statuses: Iterable[tuple[int, SiteStatus]], wave: int, sites: int) -> tuple[int, int, int, int, int]:
    """(verified, failed, deferred, pending, removed) of `wave`, by (wave, status) of each site; and earlier failures.

    Who has failed stays so on its way back. Of the wave's `sites` those without a status have not been asked yet:
    pending. Nobody waits for removed ones.
    """
    here: list[SiteStatus] = []
    earlier_failures = 0
    for of, status in statuses:
        if of == wave:
            here.append(status)
        elif of < wave and status == "failed":
            earlier_failures += 1
    verified, failed, deferred, removed = (here.count(x) for x in ("verified", "failed", "deferred", "removed"))
    pending = max(sites, len(here)) - verified - failed - deferred - removed
    return verified, failed + earlier_failures, deferred, pending, removed


def judge_wave(report: WaveReported, limits: Rollout, total: int) -> Verdict:
    """Failures beyond the tolerated fail at once; a wave passes when nothing is pending, few enough are deferred, and
    what its sites measured together is as it should be. `total`: the sites of the whole rollout."""
    where = f"wave {report.wave + 1}"
    if report.failed > limits.max_failed:
        why = f" ({report.because})" if report.because else ""
        return Verdict("failed", f"{where}: {report.failed} failed, {limits.max_failed} tolerated{why}")
    said = f"{where}: {report.verified} verified, {report.deferred} deferred, {report.pending} pending"
    if report.pending:
        return Verdict("inconclusive", said)
    most = at_most(limits.max_unavailable, total)
    if report.deferred > most:
        return Verdict("inconclusive", f"{said}; more than {most} unavailable")
    if report.verified == 0 and (report.deferred + report.failed or not report.removed):
        return Verdict("inconclusive", f"{said}; nobody has verified it")
    measured = worst([_scores(report.measured, limits), _performance(report.measured, limits)])
    return Verdict(measured.outcome, "; ".join(filter(None, (said, measured.reason))))


def _scores(found: Measured, limits: Rollout) -> Verdict:
    if limits.max_score_drift is None:
        return Verdict("passed", "")
    drift = found.score_drift
    if drift is None or found.rows < limits.minimum_requests:
        return Verdict("inconclusive", f"its scores are not known ({found.rows} rows)")
    said = f"its scores are {drift:.3f} PSI from those in training"
    if not drift <= limits.max_score_drift:
        return Verdict("failed", f"{said}, more than {limits.max_score_drift:g}")
    return Verdict("passed", said)


def _performance(found: Measured, limits: Rollout) -> Verdict:
    """Labels that have not come yet hold nobody up."""
    if limits.max_metric_loss is None or not found.labels:
        return Verdict("passed", "")
    loss = found.metric_loss
    said = f"{found.labels:,} labels"
    if loss is None or math.isnan(loss):
        return Verdict("inconclusive", f"{said}, by which {found.metric} is not known")
    said = f"{found.metric} is worse by {loss:.4f} than in its evaluation, by {said}"
    if not loss <= limits.max_metric_loss:
        return Verdict("failed", f"{said}; {limits.max_metric_loss:g} tolerated")
    return Verdict("passed", said)
