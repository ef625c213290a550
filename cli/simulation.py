"""A rollout to a fleet that is not there: the app's own planner, table and policies over made-up sites and time.

Sites have links that vary, go offline, and may take the candidate badly. Whatever is decided here is decided by
triggers/; this only tells it what the sites do.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count as counter
from math import inf
from random import Random
from typing import Any

import msgspec

from drift.envelope import iso
from triggers import effects as do
from triggers import events as on
from triggers import lifecycle, rollout
from triggers.config import Fleet, Loop, Site, Window, duration
from triggers.rollout import DOWN, UPDATING, Health, SiteStatus
from triggers.run import Limits, Phase, Run

ZONES = [
    "Africa/Cairo",
    "Africa/Johannesburg",
    "Africa/Lagos",
    "Africa/Nairobi",
    "America/Anchorage",
    "America/Argentina/Buenos_Aires",
    "America/Bogota",
    "America/Chicago",
    "America/Denver",
    "America/Halifax",
    "America/Lima",
    "America/Los_Angeles",
    "America/Mexico_City",
    "America/New_York",
    "America/Santiago",
    "America/Sao_Paulo",
    "America/St_Johns",
    "America/Toronto",
    "Asia/Bangkok",
    "Asia/Dhaka",
    "Asia/Dubai",
    "Asia/Hong_Kong",
    "Asia/Jakarta",
    "Asia/Karachi",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Asia/Manila",
    "Asia/Seoul",
    "Asia/Shanghai",
    "Asia/Singapore",
    "Asia/Tokyo",
    "Australia/Adelaide",
    "Australia/Perth",
    "Australia/Sydney",
    "Europe/Berlin",
    "Europe/Istanbul",
    "Europe/London",
    "Europe/Warsaw",
    "Pacific/Auckland",
    "Pacific/Honolulu",
]

_SWEEP = 300
_PATIENCE = 3600
"""How often those who wait are looked at when nothing else happens, seconds."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What sites do. `offline`: share of their time; `failing`: share of the sites, which take the candidate badly."""

    offline: float = 0.02
    spell_hours: float = 12.0
    failing: float = 0.0
    batch_s: int = 3600
    requests: int = 100


@dataclass(slots=True)
class Place:
    """One site as it stands."""

    site: Site
    wave: int = -1
    status: SiteStatus = "waiting"
    online: bool = True
    since: float = 0.0  # it is online, or offline
    bad: bool = False
    asked: float = 0.0
    held: str = ""
    health: Health | None = None


@dataclass(slots=True)
class Wave:
    """What became of one wave."""

    ring: str
    at: datetime
    sites: int
    verified: datetime | None = None
    last: str = ""
    waited: str = ""


@dataclass(slots=True)
class Simulation:
    """One rollout from its approval on. Times within are seconds since `start`."""

    loop: Loop
    fleet: Fleet
    size: int
    start: datetime
    random: Random
    weather: Weather = field(default_factory=Weather)
    frozen: Callable[[str], str] = lambda site: ""
    run: Run = field(init=False)
    plan: rollout.Plan = field(init=False)
    hold: rollout.Hold = field(init=False)
    places: dict[str, Place] = field(init=False)
    waves: list[Wave] = field(init=False, default_factory=list)
    curve: list[tuple[float, int]] = field(init=False, default_factory=list)
    told: list[tuple[datetime, str]] = field(init=False, default_factory=list)
    time: float = field(init=False, default=0.0)
    updating: set[str] = field(init=False, default_factory=set)
    down: set[str] = field(init=False, default_factory=set)
    _reached: list[tuple[str, ...]] = field(init=False, default_factory=list)
    _waiting: dict[str, None] = field(init=False, default_factory=dict)
    _back: set[str] = field(init=False, default_factory=set)
    _open: set[str] = field(init=False, default_factory=set)
    _failed: set[str] = field(init=False, default_factory=set)
    _silent: set[str] = field(init=False, default_factory=set)
    _queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = field(init=False, default_factory=list)
    _order: Any = field(init=False, default_factory=counter)
    _sweep_due: float = field(init=False, default=inf)

    def __post_init__(self) -> None:
        limits = self.loop.rollout
        self.plan = rollout.plan(self.fleet, limits, self.loop.loop, "candidate")
        self.hold = rollout.Hold(self.fleet, limits, lambda site: self.size, self.frozen)
        self.places = {s.name: Place(s, bad=self.random.random() < self.weather.failing) for s in self.fleet.sites}
        self.run = Run(
            id=f"{self.loop.loop}.{self.start:%Y-%m-%d}.1",
            loop=self.loop.loop,
            scope="fleet",
            sites=None,
            cause="a simulation",
            phase=Phase.AWAITING_APPROVAL,
            because="a simulation",
            started=self.start,
            champion="champion",
            candidate="candidate",
            evidence="evidence",
            limits=Limits(rollout=limits),
        )
        for name in self.places:
            self._later(self._until_spell(), self._offline, name)

    # --- running

    def go(self, days: float) -> None:
        """Approve, and let so many days pass, or fewer where the run ends."""
        answered = on.Answered(
            id="answer",
            run=self.run.id,
            at=self.now,
            answer="approve",
            by="you",
            reason="",
            candidate=self.run.candidate,
            evidence=self.run.evidence,
            plan="plan",
            waves=self.plan.summary,
        )
        self._tell(answered)
        until = days * 86_400
        while self._queue and self._queue[0][0] <= until and not self.run.phase.final:
            self.time, _, what, about = heapq.heappop(self._queue)
            what(*about)

    @property
    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.time)

    def _later(self, seconds: float, what: Callable[..., None], *about: Any) -> None:
        heapq.heappush(self._queue, (self.time + seconds, next(self._order), what, about))

    def _tell(self, event: on.Event) -> None:
        before, step = self.run, lifecycle.advance(self.run, event)
        self.run = step.run
        if (isinstance(event, on.WaveReported) and step.run.wave != before.wave) or step.run.phase is Phase.VERIFIED:
            self.waves[-1].verified = self.now
        for effect in step.effects:
            if isinstance(effect, do.DeployWave):
                self._deploy(effect.wave)
            elif isinstance(effect, do.SetDeadline):
                self._deadline(effect.phase, effect.at)
            elif isinstance(effect, do.RollBack):
                self._roll_back(effect.reason)
            elif isinstance(effect, do.Announce):
                self.told.append((self.now, f"{effect.title.removeprefix(self.loop.loop + ': ')}: {effect.text}"))

    def _deadline(self, phase: str, at: datetime) -> None:
        event = on.DeadlinePassed(id=f"{phase}/{at.isoformat()}", run=self.run.id, at=at, phase=phase)
        self._later((at - self.now).total_seconds(), self._tell, event)

    # --- the wave

    def _deploy(self, wave: int) -> None:
        members = self.plan.members(wave, self.fleet)
        for name in members:
            self.places[name].wave = wave
            if self.places[name].status == "waiting":
                self._waiting[name] = None
        self._reached[wave:] = [members]
        self._open = set(members)
        self.waves.append(Wave(self.plan.waves[wave].ring, self.now, len(members)))
        expected = rollout.forecast_wave(self.plan, wave, self.hold, self.now)
        self._deadline(f"{Phase.ROLLING_OUT}/{wave}", expected.end + 2 * duration(self.loop.rollout.deadline))
        self._sweep()

    def _sweep(self) -> None:
        """Who waits is asked, if it is their turn; looked at again when a window opens, or something has changed."""
        self._sweep_due = inf
        if self.run.phase is not Phase.ROLLING_OUT or self.run.paused:
            return
        waiting = [self.places[name].site for name in self._waiting]
        for name in sorted(self._back):
            if self.places[name].status != "deferred" or not self.hold.why(self.places[name].site, self.now):
                self._back.discard(name)
                if self.places[name].status == "deferred":
                    self.ask(self.places[name])
        room = rollout.room(self.loop.rollout, self.plan.sites, len(self.updating), len(self.down))
        turn = self.hold.turn(waiting, self.now, room, self.down, self.updating)
        for name in turn.now:
            self.ask(self.places[name])
        for name, why in turn.held.items():
            self.places[name].held = self.places[name].held or why
        if turn.held or self._back:
            opens = (turn.next - self.now).total_seconds() if turn.next else inf
            self._sweep_by(min(_PATIENCE, max(opens, _SWEEP)))

    def _members(self) -> tuple[str, ...]:
        return self._reached[self.run.wave]

    def _sweep_by(self, seconds: float) -> None:
        due = self.time + seconds
        if due < self._sweep_due:
            self._sweep_due = due
            self._later(seconds, self._swept, due)

    def _swept(self, due: float) -> None:
        if due == self._sweep_due:
            self._sweep()

    def ask(self, place: Place) -> None:
        """A site is asked to change."""
        place.asked = self.time
        if not place.online:
            self._set(place, "deferred")
            return
        self._set(place, "asked")
        needed, limits = self.hold.needed(place.site), self.loop.rollout
        self._later(needed.total_seconds() / self.random.uniform(0.6, 1.2), self._arrive, place.site.name)
        patience = needed + duration(limits.soak) + duration(limits.deadline)
        self._later(patience.total_seconds() + 1, self._late, place.site.name, place.asked)

    def _arrive(self, name: str) -> None:
        place = self.places[name]
        if place.status != "asked":
            return
        if not place.online:
            self._later(_SWEEP, self._arrive, name)
            return
        place.health = Health(candidate="candidate", since=self.now)
        self._set(place, "applied")
        self._later(self.random.uniform(60, self.weather.batch_s), self._speak, name)

    def _speak(self, name: str) -> None:
        """A site's batch says how it fares."""
        place = self.places[name]
        if place.status not in ("applied", "soaking", "deferred") or place.health is None or name in self._failed:
            return
        self._later(self.weather.batch_s, self._speak, name)
        if not place.online:
            return
        n = self.weather.requests
        errors = round(n * 0.2) if place.bad else 0
        place.health = place.health.heard(self.now, n, errors, 10.0, self.loop.rollout)
        verdict = rollout.judge_site(place.health, self.loop.rollout, self.now)
        into: SiteStatus = "failed" if verdict.outcome == "failed" else "verified" if verdict.passed else "soaking"
        self._set(place, into, verdict.reason)

    def _late(self, name: str, asked: float) -> None:
        place = self.places[name]
        if place.status in (*UPDATING, "soaking") and place.asked == asked:
            self._set(place, "deferred")

    def _set(self, place: Place, status: SiteStatus, reason: str = "") -> None:
        name, before = place.site.name, place.status
        place.status = status
        self._count(name)
        if status == before:
            return
        if status == "verified":
            self.curve.append((self.time, self.curve[-1][1] + 1 if self.curve else 1))
            wave = self.waves[place.wave]
            wave.last, wave.waited = name, place.held
        if self.run.phase is Phase.ROLLING_OUT:
            self._report(f"{name}: {reason}" if status == "failed" else "")
            self._sweep_by(_SWEEP)
            if place.status == "failed":
                self._take_back(name)
        elif self.run.phase is Phase.ROLLING_BACK:
            self._report_back()

    def _count(self, name: str) -> None:
        """What `room` counts, kept up to date."""
        status = self.places[name].status
        for counted, is_in in (
            (self.updating, status in UPDATING),
            (self.down, status in DOWN or (name in self._silent and status not in UPDATING)),
        ):
            (counted.add if is_in else counted.discard)(name)
        if status != "waiting":
            self._waiting.pop(name, None)
        elif self.places[name].wave >= 0:
            self._waiting[name] = None
        if status == "failed":
            self._failed.add(name)
        if status in ("verified", "deferred") or name in self._failed:
            self._open.discard(name)
        elif self._reached and self.places[name].wave == len(self._reached) - 1:
            self._open.add(name)

    def _report(self, because: str) -> None:
        if self._open and not self._failed:
            return
        wave, here = self.run.wave, self._members()
        listed = ((p.wave, self._counted(n)) for n in {*here, *self._failed} if (p := self.places[n]))
        counts = rollout.count(listed, wave, len(here))
        verified, failed, deferred, pending, removed = counts
        self._tell(
            on.WaveReported(
                id=lifecycle.wave_report_id(self.run.id, wave, counts),
                run=self.run.id,
                at=self.now,
                wave=wave,
                verified=verified,
                failed=failed,
                deferred=deferred,
                pending=pending,
                removed=removed,
                because=because,
            )
        )

    def _counted(self, name: str) -> SiteStatus:
        """A site that failed has done so, wherever it is on its way back."""
        return "failed" if name in self._failed else self.places[name].status

    def _listed(self) -> list[str]:
        """Sites of the waves that have begun, newest first."""
        return [name for members in reversed(self._reached) for name in reversed(members)]

    # --- the way back

    def _roll_back(self, reason: str) -> None:
        for name in self._listed():
            if self.places[name].status not in ("waiting", "restoring", "restored"):
                self._take_back(name)
        self._report_back()

    def _take_back(self, name: str) -> None:
        place = self.places[name]
        self._set(place, "restoring" if place.online else "deferred")
        self._later(duration(self.loop.rollout.install).total_seconds(), self._restored, name)

    def _restored(self, name: str) -> None:
        place = self.places[name]
        if place.status == "restoring" and place.online:
            self._set(place, "restored")

    def _report_back(self) -> None:
        found = [self.places[n].status for n in self._listed()]
        restored, deferred = found.count("restored"), found.count("deferred")
        pending = len(found) - restored - deferred - found.count("waiting")
        if not pending and self.run.phase is Phase.ROLLING_BACK:
            name = f"back/{restored}-{deferred}"
            event = on.RollbackReported(
                id=name, run=self.run.id, at=self.now, restored=restored, deferred=deferred, pending=0
            )
            self._tell(event)

    # --- connections

    def _until_spell(self) -> float:
        """How long a site stays online."""
        share = self.weather.offline
        return self.random.expovariate(share / (1 - share) / (self.weather.spell_hours * 3600)) if share else inf

    def _offline(self, name: str) -> None:
        self.places[name].online, self.places[name].since = False, self.time
        length = self.random.expovariate(1 / (self.weather.spell_hours * 3600))
        silence = duration(self.loop.telemetry.silence).total_seconds()
        if length > silence:
            self._later(silence, self._falls_silent, name)
        self._later(length, self._online, name)

    def _falls_silent(self, name: str) -> None:
        self._silent.add(name)
        self._count(name)

    def _online(self, name: str) -> None:
        place = self.places[name]
        place.online, place.since = True, self.time
        self._silent.discard(name)
        self._count(name)
        if place.status == "deferred" and place.health is None and self.run.phase is Phase.ROLLING_OUT:
            self._back.add(name)
            self._sweep_by(_SWEEP)
        elif place.status in ("deferred", "restoring") and (
            name in self._failed or self.run.phase is Phase.ROLLING_BACK
        ):
            self._set(place, "restored")
        self._later(self._until_spell(), self._offline, name)

    # --- what came of it

    def result(self) -> dict[str, Any]:
        """As JSON."""
        statuses = [p.status for p in self.places.values()]  # who failed and is back, too, is among the failed
        return {
            "sites": len(statuses),
            "updated": statuses.count("verified"),
            "deferred": sum(p.status == "deferred" and n not in self._failed for n, p in self.places.items()),
            "failed": len(self._failed),
            "waves": [
                {
                    "at": iso(int(w.at.timestamp())),
                    "ring": w.ring,
                    "sites": w.sites,
                    "verified": iso(int(w.verified.timestamp())) if w.verified else None,
                    "last": w.last,
                    "waited": w.waited,
                }
                for w in self.waves
            ],
            "planned_waves": len(self.plan.waves),
            "phase": str(self.run.phase),
            "because": self.run.because,
            "finished": iso(int(self.now.timestamp())) if self.run.phase.final else None,
            "story": self.story(),
        }

    def story(self) -> list[str]:
        """What happened and what held it up, in sentences."""
        said = []
        for n, wave in enumerate(self.waves, 1):
            took = f"verified after {rollout.in_words(wave.verified - wave.at)}" if wave.verified else "not verified"
            last = f"; the last was {wave.last}" if wave.last else ""
            waited = f", for which {wave.waited}" if wave.waited.startswith("its window") else ""
            waited = waited or (f", since {wave.waited}" if wave.waited else "")
            said.append(f"{wave.at:%Y-%m-%d %H:%M}  wave {n} ({wave.ring}, {wave.sites} sites): {took}{last}{waited}")
        said += [
            f"{at:%Y-%m-%d %H:%M}  {text}" for at, text in self.told if not text.startswith("wave ") or "incon" in text
        ]
        return said

    def plot(self) -> str:
        """Updated sites by day, as SVG; a mark where each wave began."""
        wide, high, left, edge = 720, 320, 60, 40
        days, most = max(self.time / 86_400, 1e-9), len(self.places)

        def x(seconds: float) -> float:
            return left + seconds / 86_400 / days * (wide - left - edge)

        def y(sites: float) -> float:
            return high - edge - sites / most * (high - 2 * edge)

        step = max(1, len(self.curve) // 1000)
        points = [(0.0, 0), *self.curve[::step], *self.curve[-1:], (self.time, self.curve[-1][1] if self.curve else 0)]
        line = " ".join(f"{x(t):.1f},{y(n):.1f}" for t, n in points)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif"',
            ' font-size="12">',
            f'<title>Updated sites by day</title><rect width="{wide}" height="{high}" fill="#fff"/>',
            f'<path d="M{left} {y(most):.1f}H{wide - edge}M{left} {y(0):.1f}H{wide - edge}" stroke="#ccc"/>',
            f'<text x="{left - 8}" y="{y(most) + 4:.1f}" text-anchor="end">{most:,}</text>',
            f'<text x="{left - 8}" y="{y(0) + 4:.1f}" text-anchor="end">0</text>',
            f'<text x="{wide - edge}" y="{high - edge + 20}" text-anchor="end">{days:.1f} days</text>',
            f'<text x="{left}" y="{edge - 12}">sites with the new candidate; a mark where a wave begins</text>',
        ]
        for wave in self.waves:
            at = x((wave.at - self.start).total_seconds())
            parts.append(f'<path d="M{at:.1f} {y(0):.1f}v6" stroke="#b5542a"/>')
        parts.append(f'<polyline points="{line}" fill="none" stroke="#1b6ca8" stroke-width="2"/>')
        return "\n".join((*parts, "</svg>")) + "\n"


def a_fleet(sites: int, random: Random, rings: int = 5, windows: float = 0.9) -> Fleet:
    """A fleet such as there might be: rings that grow, forty zones, windows at night or at the weekend, thin links."""
    shares = [2.0**n for n in range(rings)] if rings <= 8 else [1.0] * rings
    bounds = [sum(shares[: n + 1]) / sum(shares) for n in range(rings)]

    def one(n: int) -> Site:
        ring = next(i for i, bound in enumerate(bounds) if (n + 0.5) / sites <= bound)
        night = Window(cron=f"{random.choice((0, 30))} {random.choice((0, 1, 2, 22, 23))} * * *", duration="4h")
        weekend = Window(cron=f"0 {random.choice((4, 6, 8))} * * SUN", duration="8h")
        chosen = (night,) if random.random() < 0.8 else (weekend,)
        return Site(
            name=f"site-{n + 1:05}",
            ring=f"ring-{ring + 1:02}",
            timezone=random.choice(ZONES),
            windows=chosen if random.random() < windows else (),
            link_kbps=random.choice((256.0, 1000.0, 4000.0, 16_000.0, 100_000.0)),
        )

    return Fleet(sites=tuple(one(n) for n in range(sites)))


def with_limits(loop: Loop, **limits: Any) -> Loop:
    """The same loop with other limits of its rollout."""
    return msgspec.structs.replace(loop, rollout=msgspec.structs.replace(loop.rollout, **limits))


def counts(result: Mapping[str, Any]) -> str:
    """The outcome in a line."""
    ended = (
        f"{result['phase']} at {result['finished'][:16].replace('T', ' ')} UTC"
        if result["finished"]
        else "not finished"
    )
    return (
        f"{ended}: {result['updated']:,} of {result['sites']:,} sites updated, {result['deferred']:,} deferred, "
        f"{result['failed']:,} failed, {len(result['waves'])} of {result['planned_waves']} waves ({result['because']})"
    )
