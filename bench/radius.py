"""Blast radius in random fleets with faults, judged from outside.

The shell as it is in an app (triggers/loop.py, sites.py, lifecycle.py, rollout.py) moves sites that go offline, refuse,
fail, and fall silent, over a bus that lags and repeats and through processes that die. Whoever judges sees none of its
records: only what arrived at a site and when, and what the sites have said.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

import msgspec

from drift.telemetry import Batch, Rows, Serving
from triggers import codec, events, loop, rollout, sites
from triggers.config import Blackout, Feature, Fleet, Loop, Rollout, Schema, Site, Telemetry, Window, duration
from triggers.errors import Conflict, NotFound, Offline, Refused, Retry
from triggers.lifecycle import IllegalTransition
from triggers.ports import Change, Delete, Message, Ports, Put, Record, Underway
from triggers.records import Head, LoopUnit, SiteState, Unit, site_partition
from triggers.run import Limits, Phase, Run

START = datetime(2026, 3, 6, 6, tzinfo=UTC)
"""Two days before the clocks are changed in North America."""
STEP = timedelta(hours=1)
DAYS = 6
ZONES = ("UTC", "America/New_York", "Asia/Kolkata", "Pacific/Auckland", "America/Sao_Paulo")
BYTES = 40_000_000
PROMPT = 6
"""By when a site that does badly is taken back: in so many hours in which requests are handed out. Processes die."""
RUN = "line.2026-03-06.1"


class Crash(BaseException):
    """The process is gone."""


# --- ports, in memory


class Store:
    def __init__(self) -> None:
        self.all: dict[str, dict[str, Record]] = {}
        self.keys: dict[str, list[str]] = {}
        self.version = 0

    def get(self, partition: str, key: str) -> Record | None:
        return self.all.get(partition, {}).get(key)

    def scan(self, partition: str, prefix: str = "", after: str = "", limit: int = 0) -> Iterator[Record]:
        keys, here = self.keys.get(partition, []), self.all.get(partition, {})
        found = []
        for i in range(bisect_left(keys, max(prefix, after)), len(keys)):
            if not keys[i].startswith(prefix) or (limit and len(found) == limit):
                break
            if keys[i] > after:
                found.append(here[keys[i]])
        return iter(found)

    def commit(self, partition: str, changes: Sequence[Put | Delete]) -> None:
        here = self.all.setdefault(partition, {})
        for change in changes:
            known = here.get(change.key)
            if change.expect != "*" and (known.version if known else None) != change.expect:
                raise Conflict(partition, key=change.key)
        for change in changes:
            self.version += 1
            if isinstance(change, Put):
                here[change.key] = Record(change.key, change.value, str(self.version))
            else:
                here.pop(change.key, None)
        self.keys[partition] = sorted(here)


@dataclass
class Bus:
    """Drops what it was sent within ten minutes; in order within a queue."""

    now: Callable[[], datetime]
    queues: dict[str, list[Message]] = field(default_factory=dict)
    sent: dict[tuple[str, str], datetime] = field(default_factory=dict)

    def send(self, queue: str, messages: Sequence[Message]) -> None:
        for message in messages:
            last = self.sent.get((queue, message.id))
            if last is None or self.now() - last > timedelta(minutes=10):
                self.sent[queue, message.id] = self.now()
                self.queues.setdefault(queue, []).append(message)

    def take(self, queue: str) -> list[Message]:
        waiting, now = self.queues.get(queue, []), self.now()
        due = [m for m in waiting if m.at is None or m.at <= now]
        self.queues[queue] = [m for m in waiting if not (m.at is None or m.at <= now)]
        return due


@dataclass
class Topic:
    bus: Bus

    def publish(self, events: Sequence[Mapping[str, Any]]) -> None:
        for event in events:
            if event["type"] == "driftloop.deployment.requested":
                body = msgspec.json.encode(event["data"])
                self.bus.send("deployments", [Message(id=event["id"], body=body, session=event["subject"])])


class Blobs(dict[str, bytes]):
    def put(self, name: str, data: bytes) -> None:
        self[name] = data

    def get(self, name: str) -> bytes:  # type: ignore[override]
        if name not in self:
            raise NotFound(name)
        return self[name]


class Fragile:
    """A port at some of whose calls the process dies, before they are done or after."""

    def __init__(self, port: Any, dies: Callable[[], bool], *names: str) -> None:
        self._port = port
        for name in names:
            setattr(self, name, self._guard(getattr(port, name), dies))

    @staticmethod
    def _guard(call: Callable[..., Any], dies: Callable[[], bool]) -> Callable[..., Any]:
        def guarded(*args: Any) -> Any:
            if dies():
                raise Crash
            done = call(*args)
            if dies():
                raise Crash
            return done

        return guarded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


# --- sites, and who watches them


@dataclass
class Place:
    """A site as it is, and what it has been heard to say."""

    site: Site
    serves: str
    mute: bool  # its telemetry never arrives
    bad: bool  # answers wrongly with the candidate
    refuses: bool
    steps: bool  # takes it step by step
    online: bool = True
    heard: datetime | None = None
    badly: bool = False
    joins: str = ""  # answers some of the requests
    badly_for: int = 0  # hours in which requests were handed out
    changing: str = ""  # what it was asked to serve, until it says so itself
    until: datetime = START  # by when that should have come
    missed: bool = False  # a request could not reach it, and it has not been heard since
    cut: bool = False  # half changed, it could not be reached: unavailable, and changed again only when it goes on
    verified_by: datetime | None = None  # when it was first heard to serve the candidate well
    excused: bool = False  # it was away, failed or unheard: nobody waits for it

    def gone(self, now: datetime, silence: timedelta) -> bool:
        """Whether it is not to be counted on: updating, unavailable or unknown."""
        unknown = self.heard is None or now - self.heard > silence
        return bool(self.changing) or self.badly or self.missed or unknown


class Watch:
    """Executor port and judge: invariants 14, 15, 18, 19 and 20 at each request that reaches a site."""

    def __init__(self, fleet: Fleet, limits: Rollout, silence: timedelta, now: Callable[[], datetime]) -> None:
        self.limits, self.silence, self.now = limits, silence, now
        self.places: dict[str, Place] = {}
        self.fleet = fleet
        self.waves: tuple[rollout.PlannedWave, ...] = ()
        self.frozen: set[str] = set()
        self.paused = False
        self.total = len(fleet.sites)
        self.candidate = ""
        self.starts = 0
        self.wrong: list[str] = []

    def apply(self, change: Change, proven: bool = False) -> Underway | None:
        place = self.places[change.site]
        begins = change.action == "deploy" and place.changing != change.candidate and place.serves != change.candidate
        if begins:
            self._judge(place)
        elif place.cut and change.action == "deploy":
            self._judge_at_once(place)
        if not place.online:
            place.missed = place.excused = True
            place.cut = place.changing not in ("", place.serves)
            raise Offline(change.site)
        if place.refuses and change.action == "deploy":
            place.badly = place.excused = True
            raise Refused("no such bytes")
        if place.changing != change.candidate and (place.serves != change.candidate or place.badly):
            place.changing, place.until = change.candidate, self._by_when(place.site)
        elif place.cut:
            place.until = self._by_when(place.site)
        place.cut = False
        if place.steps and not proven:
            place.joins = change.candidate
            return Underway("some", "some of the requests")
        place.serves, place.joins = change.candidate, ""
        return None

    def finish(self, change: Change) -> None:
        pass

    def _judge(self, place: Place) -> None:
        now, name = self.now(), place.site.name
        self.starts += 1
        here = [self.places[s.name] for s in self.fleet.sites]
        gone = [p.site.name for p in here if p is not place and p.gone(now, self.silence)]
        most = rollout.at_most(self.limits.max_unavailable, self.total)
        if not place.gone(now, self.silence) and len(gone) + 1 > most:
            self._note(f"{name} is changed where {len(gone)} of {most} are unavailable: {gone}")
        self._judge_at_once(place)
        if {"all", "line", f"line/{name}"} & self.frozen:
            self._note(f"{name} is changed while it is frozen")
        if self.paused:
            self._note(f"{name} is changed in a pause")
        self._judge_windows(place.site, now)
        self._judge_waves(place.site)

    def _judge_at_once(self, place: Place) -> None:
        others = [p for s in self.fleet.sites if (p := self.places[s.name]) is not place and not p.cut]
        changing = sum(p.changing == self.candidate and self.now() <= p.until for p in others)
        at_once = rollout.at_most(self.limits.max_concurrent or self.limits.max_unavailable, self.total)
        if changing + 1 > at_once:
            self._note(f"{place.site.name} is changed where {changing} of {at_once} are being changed")

    def _end(self, site: Site) -> datetime:
        """By when a change that begins now should be done."""
        over = timedelta(seconds=BYTES / 125 / site.link_kbps) if site.link_kbps else timedelta(0)
        return self.now() + over + duration(self.limits.install)

    def _by_when(self, site: Site) -> datetime:
        """By when the site should have shown that; from then on it is unavailable, and nobody waits for it."""
        return self._end(site) + duration(self.limits.soak) + duration(self.limits.deadline)

    def _judge_windows(self, site: Site, now: datetime) -> None:
        end = self._end(site)
        if any(b.start < end and now < b.end for b in (*site.blackouts, *self.fleet.blackouts)):
            self._note(f"{site.name} is changed in a blackout")
        if site.windows and not any(_within(w, site.timezone, now, end) for w in site.windows):
            self._note(f"{site.name} is changed outside its window")

    def _judge_waves(self, site: Site) -> None:
        """A site that has joined is of its ring's last wave."""
        own = [n for n, w in enumerate(self.waves) if site.name in w.sites]
        own = own or [n for n, w in enumerate(self.waves) if w.ring == site.ring] or [len(self.waves) - 1]
        early = {n for w in self.waves[: own[-1]] for n in w.sites if self.fleet.site(n)}
        undecided = [n for n in early if not self._decided(self.places[n])]
        if undecided and not self.places[site.name].excused:
            self._note(f"{site.name} is changed before {undecided} of an earlier wave are decided")

    def _decided(self, place: Place) -> bool:
        late = bool(place.changing) and self.now() > place.until
        return bool(place.verified_by) or place.excused or late

    def look(self, delivered: bool) -> None:
        """Who was heard to do badly is taken back, whatever becomes of the others."""
        for place in self.places.values():
            if place.badly and place.online and place.serves == self.candidate:
                place.badly_for += delivered
                if place.badly_for == PROMPT and delivered and self.fleet.site(place.site.name):
                    self._note(f"{place.site.name} has done badly for {PROMPT} hours and is not taken back")
            else:
                place.badly_for = 0

    def _note(self, what: str) -> None:
        self.wrong.append(f"{self.now():%m-%d %H:%M} {what}")

    def speaks(self, place: Place) -> list[Batch]:
        """What a site says now, and what follows from that for whoever listens."""
        now = self.now()
        place.heard, place.missed = now, False
        if place.serves == place.changing:
            place.changing = ""
        answering = [c for c in (place.joins, place.serves) if c]
        place.badly = place.bad and self.candidate in answering
        place.excused = place.excused or place.badly
        if place.serves == self.candidate:
            place.verified_by = place.verified_by or (None if place.badly else now)
        return [self._batch(place, candidate, int(now.timestamp())) for candidate in answering]

    def _batch(self, place: Place, candidate: str, end: int) -> Batch:
        return Batch(
            schema="1",
            loop="line",
            candidate=candidate,
            site=place.site.name,
            id=f"{place.site.name}-{end}",
            start=end - 3600,
            end=end,
            rows=Rows([], [], [], {}),  # type: ignore[arg-type]
            serving=Serving(100, 40 * (place.bad and candidate == self.candidate), 5.0, 10.0),
        )


def _within(window: Window, zone: str, now: datetime, end: datetime) -> bool:
    """A window opens at a full hour of the wall clock each day, or on one day of the week."""
    _, hour, _, _, weekday = (window.cron or "").split()
    tz = ZoneInfo(zone)
    for days in (-1, 0):
        day = now.astimezone(tz).date() + timedelta(days=days)
        opens = datetime(day.year, day.month, day.day, int(hour), tzinfo=tz).astimezone(UTC)
        fits = weekday == "*" or day.isoweekday() % 7 == int(weekday)
        if fits and opens <= now and end <= opens + duration(window.duration):
            return True
    return False


# --- one story


@dataclass
class Trial:
    """A fleet, and a rollout to it, from its approval on."""

    random: Random
    now: datetime = START
    deaths: int = 0

    def __post_init__(self) -> None:
        pick = self.random.choice
        self.limits = Rollout(
            wave_size=pick((None, 1, 3, "40%", "100%")),
            max_unavailable=pick((1, 2, 3, "30%")),
            max_concurrent=pick((None, None, 1, 2)),
            max_failed=pick((0, 0, 1, 2)),
            soak=pick(("1h", "4h")),
            deadline=pick(("6h", "1d")),
            ask="1d",
            install=pick(("5m", "30m")),
            minimum_requests=20,
            max_error_rate=0.1,
        )
        self.config = Loop(
            loop="line",
            schema=Schema(site="site", features=(Feature(name="x"),)),
            telemetry=Telemetry(silence=pick(("4h", "12h"))),
            rollout=self.limits,
        )
        deadly, self.deadly = pick((0.0, 0.0, 0.003, 0.02)), 0.0
        self.lag, self.twice = pick((0.0, 0.3)), pick((0.0, 0.2))
        self.restless = pick((0.0, 0.0, 0.05))
        self.loss, self.away = pick((0.0, 0.1)), pick((0.0, 0.02, 0.1))
        fleet = self._fleet()
        self.bus = Bus(lambda: self.now)
        self.blobs = Blobs()
        self.watch = Watch(fleet, self.limits, duration(self.config.telemetry.silence), lambda: self.now)
        first, self.made = self._candidate("first"), self._candidate("second")
        self.watch.candidate = self.made
        configs = SimpleNamespace(
            loops=lambda: ["line"], loop=lambda name: self.config, fleet=lambda name: self.watch.fleet
        )
        dies = self._dies
        self.ports = Ports(
            store=cast(Any, Fragile(Store(), dies, "commit")),
            blobs=cast(Any, self.blobs),
            bus=cast(Any, Fragile(self.bus, dies, "send")),
            topic=cast(Any, Fragile(Topic(self.bus), dies, "publish")),
            jobs=cast(Any, None),
            executor=cast(Any, Fragile(self.watch, dies, "apply")),
            notifier=cast(Any, SimpleNamespace(tell=lambda card: None)),
            signatures=cast(Any, None),
            people=cast(Any, None),
            clock=cast(Any, SimpleNamespace(now=lambda: self.now)),
            configs=cast(Any, configs),
        )
        for site in fleet.sites:
            self._settle_in(site, first)
        self._begin(first)
        self.deadly = deadly

    def _dies(self) -> bool:
        dead = self.deadly > 0 and self.random.random() < self.deadly
        self.deaths += dead
        return dead

    def _fleet(self) -> Fleet:
        random = self.random
        blackouts: tuple[Blackout, ...] = ()
        if random.random() < 0.2:
            begin = START + timedelta(hours=random.randint(0, 60))
            blackouts = (Blackout(start=begin, end=begin + timedelta(hours=20)),)
        return Fleet(sites=tuple(self._site(n) for n in range(random.randint(1, 9))), blackouts=blackouts)

    def _site(self, n: int) -> Site:
        random = self.random
        windows = ()
        if random.random() < 0.4:
            hour, day = random.randint(0, 23), random.choice(("*", "*", "*", "0", "1"))
            windows = (Window(cron=f"0 {hour} * * {day}", duration=random.choice(("4h", "9h"))),)
        return Site(
            name=f"s{n}",
            ring=f"ring-{random.randint(1, 3)}",
            timezone=random.choice(ZONES),
            windows=windows,
            link_kbps=random.choice((None, 100.0, 1000.0)),
        )

    def _settle_in(self, site: Site, serves: str) -> None:
        """A site as it is when it joins."""
        chance = self.random.random
        place = Place(site, serves, chance() < 0.04, chance() < 0.08, chance() < 0.04, chance() < 0.2)
        place.online = chance() > 0.05
        self.watch.places[site.name] = place

    def _candidate(self, name: str) -> str:
        files = {"model": {"sha256": name, "bytes": BYTES}}
        data = msgspec.json.encode({"files": files})
        self.blobs.put(f"candidates/{codec.digest(data)}/manifest.json", data)
        return codec.digest(data)

    def _begin(self, first: str) -> None:
        """The first champion is everywhere, and most sites have spoken; the candidate is approved."""
        for site in self.watch.fleet.sites:
            sites.adopt(self.ports, "line", site.name, first)
        plan = rollout.plan(self.watch.fleet, self.limits, "line", self.made)
        self.watch.waves = plan.waves
        data = codec.encode(plan)
        self.blobs.put(f"plans/{codec.digest(data)}", data)
        run = Run(
            id=RUN,
            loop="line",
            scope="fleet",
            sites=None,
            cause="",
            phase=Phase.AWAITING_APPROVAL,
            because="",
            started=self.now,
            champion=first,
            candidate=self.made,
            evidence="e",
            limits=Limits(rollout=self.limits),
        )
        unit = LoopUnit(self.ports.store, "line", self.now)
        unit.put("head", Head(champion=first, active={"fleet": RUN}, counter=1))
        unit.put(f"run/{RUN}", run)
        unit.commit()
        self._speak()
        answer = events.Answered(
            id="answer",
            run=RUN,
            at=self.now,
            answer="approve",
            by="ann",
            reason="",
            candidate=self.made,
            evidence="e",
            plan=codec.digest(data),
            waves=plan.summary,
        )
        self.bus.send("runs", [Message(id="answer", body=codec.encode(answer, "Event"), session=RUN)])

    @property
    def run(self) -> Run:
        return LoopUnit(self.ports.store, "line", self.now).run(RUN)

    def go(self) -> Trial:
        """Hour by hour: sites speak, somebody does something, the sweep looks, queues are worked off."""
        for _ in range(int(timedelta(days=DAYS) / STEP)):
            self.now += STEP
            self._weather()
            self._speak()
            if self.random.random() < self.restless:
                self._alive(self._somebody)
            self._alive(lambda: loop.sweep(self.ports, "line"))
            self.watch.look(self._pump())
        self._compare()
        return self

    def _compare(self) -> None:
        """Nobody is called updated who has not said so."""
        for name, state in sites.states(self.ports, "line").items():
            if (state.status, state.candidate) == ("verified", self.made) and not self.watch.places[name].verified_by:
                self.watch.wrong.append(f"{name} is called updated, and has never been heard to be")

    @staticmethod
    def _alive(what: Callable[[], Any]) -> None:
        """Whatever it dies of, the next process goes on."""
        with suppress(Crash):
            what()

    def _weather(self) -> None:
        for place in self.watch.places.values():
            if self.random.random() < (self.away if place.online else 0.15):
                place.online = not place.online

    def _speak(self) -> None:
        """As an app folds a batch: the site's record first, then what follows."""
        for place in self.watch.places.values():
            if not place.online or place.mute or self.random.random() < self.loss:
                continue
            for batch in self.watch.speaks(place):
                if self.watch.fleet.site(place.site.name):
                    self._heard(place.site.name, batch)

    def _heard(self, name: str, batch: Batch) -> None:
        """A batch is taken until it is stored; whoever dies after that leaves the rest to the sweep."""
        while True:
            stored = False
            try:
                unit = Unit(self.ports.store, site_partition("line", name))
                before = unit.get(sites.SITE, SiteState) or SiteState()
                after = sites.observe(before, batch, self.limits, self.now)
                if after != before:
                    unit.put(sites.SITE, after)
                    unit.commit()
                stored = True
                if after.status != before.status:
                    sites.follow_up(self.ports, "line", name, after)
                if sites.returned(after):
                    sites.ask_returned(self.ports, "line", name, after)
            except Crash:
                if stored:
                    return
                continue
            return

    def _somebody(self) -> None:
        """An operator does something, or the fleet changes."""
        watch, pick = self.watch, self.random.choice
        what = pick(("freeze", "unfreeze", "pause", "resume", "join", "leave", "rollback"))
        target = pick(("all", "line", *(f"line/{s.name}" for s in watch.fleet.sites)))
        if what == "freeze":
            loop.freeze(self.ports, target, "ann", "inventory")
            watch.frozen.add(target)
        elif what == "unfreeze" and watch.frozen:
            watch.frozen.remove(target := pick(sorted(watch.frozen)))
            loop.unfreeze(self.ports, target, "ann")
        elif what == "join":
            site = self._site(len(watch.places))
            self._settle_in(site, self.run.champion)
            watch.fleet = msgspec.structs.replace(watch.fleet, sites=(*watch.fleet.sites, site))
        elif what == "leave" and len(watch.fleet.sites) > 1:
            left = watch.fleet.sites[:-1]
            watch.fleet = msgspec.structs.replace(watch.fleet, sites=left)
        elif what in ("pause", "resume", "rollback") and self.run.phase is Phase.ROLLING_OUT:
            if what == "rollback" and self.random.random() < 0.7:
                return
            kinds: dict[str, loop.Asked] = {
                "pause": events.Paused,
                "resume": events.Resumed,
                "rollback": events.RollBackAsked,
            }
            loop.ask(self.ports, RUN, kinds[what], "ann", "a reason")

    def _pump(self) -> bool:
        """Whether requests to sites were handed out."""
        lags = self.random.random() < self.lag
        for _ in range(30):
            told = [("runs", m) for m in self.bus.take("runs")] + [("effects", m) for m in self.bus.take("effects")]
            if not lags:
                told += [("deployments", m) for m in self.bus.take("deployments")]
            if not told:
                break
            for queue, message in told:
                self._handle(queue, message)
                if self.random.random() < self.twice:
                    self._handle(queue, message)
        return not lags

    def _handle(self, queue: str, message: Message) -> None:
        """A message is handed out until whoever works on it lives to say that it is done."""
        while True:
            try:
                if queue == "runs":
                    loop.tell(self.ports, codec.decode_as(message.body, events.AnyEvent, "Event"))
                elif queue == "effects":
                    loop.perform(self.ports, message.body.decode())
                else:
                    sites.deploy(self.ports, msgspec.json.decode(message.body, type=Change))
            except Crash:
                continue
            except Retry:
                self.bus.queues.setdefault(queue, []).append(message)
            except (Refused, IllegalTransition):
                pass
            run = self.run
            self.watch.paused = run.paused is not None
            return


def a_trial(seed: int) -> Trial:
    return Trial(Random(seed)).go()


def blast(trials: int, processes: int = 1) -> dict[str, Any]:
    """What came of so many random fleets with faults; `wrong`: each violation, and in which."""
    found: dict[str, Any] = {"fleets": trials, "starts": 0, "deaths": 0, "phases": {}, "wrong": []}
    with ProcessPoolExecutor(processes) if processes > 1 else nullcontext() as pool:
        for seed, (phase, starts, deaths, wrong) in enumerate((pool.map if pool else map)(_came, range(trials))):
            found["starts"] += starts
            found["deaths"] += deaths
            found["phases"][phase] = found["phases"].get(phase, 0) + 1
            found["wrong"] += [f"fleet {seed}: {what}" for what in wrong]
            if (seed + 1) % 1000 == 0:
                print(f"  {seed + 1:,} of {trials:,} fleets", file=sys.stderr, flush=True)
    return found


def _came(seed: int) -> tuple[str, int, int, list[str]]:
    trial = a_trial(seed)
    return str(trial.run.phase), trial.watch.starts, trial.deaths, trial.watch.wrong
