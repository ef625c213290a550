"""Every state that two runs can get into: `lifecycle.advance` itself, under workers that race and die.

python -m bench.explore [--workers N] [--runs N] [--sites N] [--people N] ...: explores it whole, breadth first, and
prints how much that was; a violation is printed with a shortest history that leads to it.

What decides is the product's own: `lifecycle.begin` and `advance`, `approval.refusal` and `answered`, `gates.judge`,
`rollout.count`, `judge_wave` and `room`, `sites.fence`, the rules of what goes on while frozen and of which effect is
still wanted. What is modelled is the world around it: a store with compare and swap; an outbox; messages that come
at any time, in any order, and again where they are not acknowledged; workers that take, load, save and acknowledge,
with others in between, and may die at each of those; training that ends well or not; people who answer, cancel,
freeze; sites that take a candidate, refuse it, are away, and are well, unwell or silent afterwards; deadlines that pass
at any time.

What is left out changes no verdict: times are one instant (a deadline may pass whenever it is set); words are blanked;
announcements are not kept; a deadline is with the bus as soon as it is asked for (it may come at any later time);
messages that `advance` would ignore from here on are dropped (that it does is tried on each), and with them the ids
that a phase has seen when the next one begins; a run tells one thing at a time of its sites; a worker whose compare
and swap can only fail gives up at once; a run that has ended is its phase. Workers, and the sites of one wave, are
alike: of states that differ by their order, one is kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from triggers import approval, codec, lifecycle, loop, rollout, sites
from triggers import effects as do
from triggers import events as on
from triggers.config import Approval, Rollout
from triggers.policy import Decision
from triggers.records import RolloutRow
from triggers.run import Limits, Phase, Run

NOW = datetime(2026, 3, 10, 6, tzinfo=UTC)
LIMITS = Limits(
    approval=Approval(approvers=("ann", "bob"), expires="3d"),
    rollout=Rollout(max_unavailable=1, soak="12h", deadline="2d", ask="1d"),
)
PEOPLE = ("ann", "bob")
OLD = "0" * 64
PLAN = "p1"
replace = msgspec.structs.replace


class Shape(NamedTuple):
    """How large the world is; `crashes`, `cancels`, `freezes`: whether there are any, and then any number: that takes
    no more states than one, as nothing has to count them. `steps`: whether a request at a site is several (its
    intent, the call, what came of it), with other workers in between and deaths at each, as where a session's lock is
    lost; else it is one, as the queue's sessions have it."""

    workers: int = 2
    runs: int = 2
    sites: int = 3
    people: int = 2
    crashes: int = 1
    cancels: int = 1
    freezes: int = 1
    steps: int = 0


ASKED = Shape()
SMALL = Shape(workers=1, runs=1, sites=1, steps=1)
"""What `make test` explores whole."""


class Site(NamedTuple):
    """Intent (whose, what for, how it stands), what it serves, the way back, and requests on their way to it.

    Candidates are numbers: -1 is the first champion, n that of run n. `fenced`: the greatest fence its executor saw;
    `mail`: (run, back) of requests; `rows`: how it stands in each run's own list ("": not there).
    """

    run: int = -1
    back: bool = False
    status: str = "verified"
    serves: int = -1
    good: int = -1
    before: int = -1
    fence: int = 0
    fenced: int = 0
    mail: tuple[tuple[int, bool], ...] = ()
    rows: tuple[str, ...] = ()


class State(NamedTuple):
    """Numbers stand for values: runs, effects, events and requests by `Explorer.value`."""

    runs: tuple[int, ...]  # 0: not begun
    jobs: tuple[tuple[str, str], ...]  # training and evaluation of each run
    asked: tuple[int, ...]  # its approval request; 0: none
    sites: tuple[Site, ...]
    outbox: tuple[tuple[int, int], ...]  # (run, effect)
    mail: tuple[tuple[int, int], ...]  # (run, event)
    workers: tuple[tuple[Any, ...], ...]  # what each is at
    champion: int = -1
    frozen: bool = False


class Violation(AssertionError):
    """What does not hold, and how the world came there."""


@dataclass
class Found:
    """What an exploration saw."""

    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    quiet: int = 0
    phases: dict[str, int] = field(default_factory=dict)


_ORDER = (Phase.TRAINING, Phase.EVALUATING, Phase.AWAITING_APPROVAL, Phase.ROLLING_OUT, Phase.ROLLING_BACK)
"""Of phases that are never entered again."""

Move = tuple[str, bool, State]
"""In words; whether it is the world's fault (a crash, a freeze); what then is."""


class Explorer:
    """Values by number, moves from a state, and what must hold in each."""

    def __init__(self, shape: Shape = ASKED, limits: Limits = LIMITS) -> None:
        self.shape, self.limits = shape, limits
        self.values: list[Any] = [None]
        self._numbers: dict[bytes, int] = {}
        self._steps: dict[tuple[int, int], tuple[int, tuple[int, ...], tuple[int, ...]]] = {}
        self._ignored: dict[tuple[int, int], bool] = {}
        self._final: dict[int, bool] = {}
        self._tables: dict[Any, Any] = {}
        self.waves = (on.Wave("lab", 1), *((on.Wave("plant", shape.sites - 1),) if shape.sites > 1 else ()))

    # values

    def number(self, value: Any) -> int:
        key = type(value).__name__.encode() + codec.encode(value)
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.values)
            self.values.append(value)
        return found

    def kept(self, run: Run) -> int:
        """Words are not kept, nor anything but the phase of what has ended."""
        if run.phase.final:
            run = Run(
                id=run.id,
                loop=run.loop,
                scope=run.scope,
                sites=None,
                cause="",
                phase=run.phase,
                because="",
                started=NOW,
                champion="",
                limits=self.limits,
            )
            self._final[number := self.number(run)] = True
            return number
        number = self.number(replace(run, because="", verdict="", paused=run.paused and replace(run.paused, reason="")))
        self._final[number] = False
        return number

    def is_final(self, number: int) -> bool:
        return self._final[number]

    def begun(self, run: int, champion: int) -> lifecycle.Step:
        decision = Decision(loop="line", at=NOW, action="retrain", reason="drift")
        asked_by = ("ann",) if run else ()  # the second one was asked for by somebody who may approve
        return lifecycle.begin(
            decision, f"line.2026-03-10.{run + 1}", _digest(champion), self.limits, requested_by=asked_by
        )

    def step(self, run: int, event: int) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """`lifecycle.advance`: the run that then is, effects to be performed, deadlines to come."""
        known = self._steps.get((run, event))
        if known is None:
            before = self.values[run]
            try:
                made = lifecycle.advance(before, self.values[event])
            except lifecycle.IllegalTransition as wrong:
                raise Violation(f"2: {wrong}") from None
            self._edge(before, made.run)
            self._once(made.run, self.values[event])
            moved = (before.phase, before.wave) != (made.run.phase, made.run.wave)
            after = replace(made.run, seen=frozenset()) if moved else made.run
            known = self._steps[run, event] = (self.kept(after), *self.split(made))
        return known

    def _once(self, after: Run, event: on.Event) -> None:
        """Told again, it changes nothing: so that a message that was not acknowledged need not be kept."""
        try:
            repeated = lifecycle.advance(after, event)
        except lifecycle.IllegalTransition as wrong:
            raise Violation(f"2: {event.id} comes twice: {wrong}") from None
        if repeated.effects or replace(repeated.run, seen=after.seen) != after:
            raise Violation(f"2: {event.id} that comes twice moves a run twice, to {repeated.run.phase}")

    def split(self, step: lifecycle.Step) -> tuple[tuple[int, ...], tuple[int, ...]]:
        effects = tuple(
            self.number(e) for e in step.effects if not isinstance(e, do.Announce | do.SetDeadline | do.Remind)
        )
        deadlines = (e for e in step.effects if isinstance(e, do.SetDeadline))
        return effects, tuple(self.deadline(step.run, e.phase, e.at) for e in deadlines)

    def deadline(self, run: Run, phase: str, at: datetime) -> int:
        return self.number(on.DeadlinePassed(id=f"deadline/{phase}/{at:%m%dT%H}", run=run.id, at=at, phase=phase))

    def _edge(self, before: Run, after: Run) -> None:
        """Invariant 2, against the declared edges."""
        edges = {to for (phase, _), rule in lifecycle.RULES.items() if phase is before.phase for to in rule.leads_to}
        if before.phase is not after.phase and (before.phase.final or after.phase not in edges):
            raise Violation(f"2: from {before.phase} to {after.phase}")

    def ignored(self, run: int, event: int) -> bool:
        """Whether `advance` would ignore this event now and whatever comes."""
        known = self._ignored.get((run, event))
        if known is None:
            known = self._ignored[run, event] = self._ignores(self.values[run], self.values[event])
        return known

    def _ignores(self, run: Run, event: on.Event) -> bool:
        if run.phase.final or event.id in run.seen:
            if lifecycle.advance(run, event).run != run:
                raise Violation(f"2: {event.id} moves a run that has ended, or moves it twice")
            return True
        if run.phase is Phase.ROLLING_BACK:  # which ends by a report or in time, and hears nothing else
            ends = isinstance(event, on.RollbackReported) or getattr(event, "phase", "") == run.phase
            return not ends and _still(run, event)
        if isinstance(event, on.DeadlinePassed):
            of, _, wave = event.phase.partition("/")
            over = of in _ORDER[: _ORDER.index(run.phase)] or (of == run.phase and wave and int(wave) < run.wave)
            return bool(over) and _still(run, event)
        late = isinstance(event, on.WaveReported) and event.wave < run.wave
        return late and _still(run, event)

    # --- moves

    def start(self) -> State:
        shape = self.shape
        return State(
            runs=(0,) * shape.runs,
            jobs=(("", ""),) * shape.runs,
            asked=(0,) * shape.runs,
            sites=(Site(rows=("",) * shape.runs),) * shape.sites,
            outbox=(),
            mail=(),
            workers=((),) * shape.workers,
        )

    def moves(self, s: State) -> Iterator[Move]:
        """Whatever may happen next, in canonical form."""
        for words, fault, after in self._moves(s):
            yield words, fault, self.canonical(after)

    def canonical(self, s: State) -> State:
        """Messages that will be ignored are gone; workers, and the sites of a wave, are in order."""
        mail = tuple(sorted({m for m in s.mail if not self.ignored(s.runs[m[0]], m[1])}))
        ended = [n for n, run in enumerate(s.runs) if run and self.is_final(run) and not self._busy(s, n)]
        places = s.sites
        if ended and any(place.rows[n] for place in places for n in ended):
            places = tuple(
                p._replace(rows=tuple("" if n in ended else row for n, row in enumerate(p.rows))) for p in places
            )
        outbox = tuple(sorted({o for o in s.outbox if not self._over(s, *o)}))
        workers = tuple(sorted(() if w and self._in_vain(s, w) else w for w in s.workers))
        s = s._replace(mail=mail, sites=places, outbox=outbox, workers=workers)
        if len(places) < 3 or places[1] == places[2]:
            return s
        return min(s, _swapped(s), key=lambda state: (state.sites, state.workers))

    def _busy(self, s: State, run: int) -> bool:
        """Something is still to be done for it."""
        return any(o[0] == run for o in s.outbox) or any(w[:2] == ("perform", run) for w in s.workers)

    def _over(self, s: State, run: int, effect: int) -> bool:
        """Whether an effect was performed, its row left by a crash, and would now be dropped without a trace."""
        value, kind = self.values[s.runs[run]], self.values[effect]
        phases = loop._ONLY_IN.get(type(kind), (value.phase,))
        passed = value.phase.final or set(phases) <= set(_ORDER[: _ORDER.index(value.phase)])
        return passed and not loop._wanted(value, kind) and self.overtaken(s, run, kind) is s

    def _in_vain(self, s: State, worker: tuple[Any, ...]) -> bool:
        """Whether somebody else wrote first, so that what this worker is at will only be given back."""
        match worker:
            case ("tell", run, event, loaded):
                return not self.holds(s, run, loaded) or self.ignored(s.runs[run], event)
            case ("answer", run, _, _, loaded):
                return bool(s.asked[run] != loaded)
            case ("begin", run):
                return bool(s.runs[run]) or any(r and not self.is_final(r) for r in s.runs)
            case ("perform", run, effect):
                repeated = isinstance(self.values[effect], do.DeployWave | do.RollBack)
                return repeated and (run, effect) not in s.outbox
        return False

    def _moves(self, s: State) -> Iterator[Move]:
        active = any(run and not self.is_final(run) for run in s.runs)
        for n, worker in enumerate(s.workers):
            if n and worker == s.workers[n - 1]:
                continue  # alike
            yield from self._goes_on(s, n, worker) if worker else self._takes(s, n, active)
        yield from self._jobs_end(s)
        yield from self._people(s)
        for n, place in enumerate(s.sites):
            if n < 2 or place != s.sites[n - 1]:
                yield from self._site_moves(s, n, place)
                yield from self._at_once(s, n) if not self.shape.steps else ()
        yield from self._sweeps(s)

    def _at(self, s: State, worker: int, *what: Any) -> State:
        """The state with a worker at something, or idle."""
        return s._replace(workers=_set(s.workers, worker, what))

    def _takes(self, s: State, w: int, active: bool) -> Iterator[Move]:
        """An idle worker takes what there is, and loads what it needs."""
        for run, event in s.mail:
            name = self.values[event].id
            yield (
                f"worker {w} takes {name} and loads run {run + 1}",
                False,
                self._at(s, w, "tell", run, event, s.runs[run]),
            )
        for run, effect in s.outbox:
            yield from self._looks_at(s, w, run, effect)
        for place, site in enumerate(s.sites):
            for run, back in site.mail if self.shape.steps else ():
                yield from self._intends(s, w, place, run, back)
        for run, asked in enumerate(s.asked):
            if asked and self.values[asked].state == "open":
                for person in PEOPLE[: self.shape.people]:
                    for said in ("approve", "reject"):
                        words = f"worker {w} takes {person}'s {said} of run {run + 1} and loads the question"
                        yield words, False, self._at(s, w, "answer", run, person, said, asked)
        if 0 in s.runs and not active:
            run = s.runs.index(0)
            yield f"worker {w} checks: run {run + 1} is due", False, self._at(s, w, "begin", run)

    def _looks_at(self, s: State, w: int, run: int, effect: int) -> Iterator[Move]:
        """Is an effect still wanted, and may it begin now?"""
        kind = self.values[effect]
        words = f"worker {w} looks at {type(kind).__name__} of run {run + 1}"
        wanted = loop._wanted(self.values[s.runs[run]], kind)
        if wanted and s.frozen and not isinstance(kind, do.GOES_ON_WHILE_FROZEN):
            return
        if not wanted:
            after = self.overtaken(s, run, kind)
            yield f"{words}: overtaken", False, after._replace(outbox=tuple(o for o in s.outbox if o != (run, effect)))
        elif isinstance(kind, do.CancelJob | do.WithdrawApproval):  # wanted whatever happens meanwhile
            yield from self._perform(self._at(s, w, "perform", run, effect), w, run, effect)
        else:
            if s.frozen and not isinstance(kind, do.RollBack):
                raise Violation(f"18: {type(kind).__name__} begins while frozen")
            yield words, False, self._at(s, w, "perform", run, effect)

    def _goes_on(self, s: State, w: int, worker: tuple[Any, ...]) -> Iterator[Move]:
        kind, *what = worker
        go: Callable[..., Iterator[Move]] = getattr(self, f"_{kind}")
        if self.shape.crashes:
            yield f"worker {w} dies before its {kind}", True, self._at(s, w)
        yield from go(s, w, *what)

    def _done(self, w: int, words: str, after: State, acknowledged: State) -> Iterator[Move]:
        """What a worker did, and that it says so; it may die in between."""
        yield words, False, self._at(acknowledged, w)
        if self.shape.crashes and after != acknowledged:
            yield f"{words}, and dies before it says so", True, self._at(after, w)

    def _begin(self, s: State, w: int, run: int) -> Iterator[Move]:
        step = self.begun(run, s.champion)
        effects, deadlines = self.split(step)
        after = s._replace(
            runs=_set(s.runs, run, self.kept(step.run)),
            outbox=(*s.outbox, *((run, e) for e in effects)),
            mail=(*s.mail, *((run, d) for d in deadlines)),
        )
        yield from self._done(w, f"worker {w} begins run {run + 1}", after, after)

    def _tell(self, s: State, w: int, run: int, event: int, loaded: int) -> Iterator[Move]:
        """Save what `advance` made of what was loaded, unless somebody else wrote first."""
        name = self.values[event].id
        new, effects, deadlines = self.step(loaded, event)
        after = s._replace(
            runs=_set(s.runs, run, new),
            outbox=(*s.outbox, *((run, e) for e in effects)),
            mail=(*s.mail, *((run, d) for d in deadlines)),
        )
        if self.values[new].phase is Phase.VERIFIED and not self.is_final(loaded):
            after = after._replace(champion=run)
        self.saved(s, after, run)
        acknowledged = after._replace(mail=tuple(m for m in after.mail if m != (run, event)))
        yield f"worker {w} saves run {run + 1} after {name}: {self.values[new].phase}", False, self._at(acknowledged, w)

    def holds(self, s: State, run: int, loaded: int) -> bool:
        """Compare, then swap."""
        return s.runs[run] == loaded

    def overtaken(self, s: State, run: int, effect: do.Effect) -> State:
        """A job that was begun for nothing is cancelled."""
        return (
            self._performed(s, run, do.CancelJob(job=effect.job)) if isinstance(effect, do.Train | do.Evaluate) else s
        )

    def _perform(self, s: State, w: int, run: int, effect: int) -> Iterator[Move]:
        kind = self.values[effect]
        after = self._performed(s, run, kind)
        if not loop._wanted(self.values[s.runs[run]], kind):
            after = self.overtaken(after, run, kind)
        row = after._replace(outbox=tuple(o for o in after.outbox if o != (run, effect)))
        yield from self._done(w, f"worker {w} performs {type(kind).__name__} of run {run + 1}", after, row)

    def _performed(self, s: State, run: int, effect: do.Effect) -> State:
        jobs, value = s.jobs[run], self.values[s.runs[run]]
        match effect:
            case do.Train() | do.Evaluate():
                kind = int(isinstance(effect, do.Evaluate))
                return s if jobs[kind] else s._replace(jobs=_set(s.jobs, run, _set(jobs, kind, "running")))
            case do.CancelJob():
                kind = int(effect.job.endswith("evaluate"))
                running = jobs[kind] == "running"
                return s._replace(jobs=_set(s.jobs, run, _set(jobs, kind, "cancelled"))) if running else s
            case do.AskApproval():
                if s.asked[run] or value.phase is not Phase.AWAITING_APPROVAL:
                    return s
                return s._replace(asked=_set(s.asked, run, self.number(self._request(value, effect))))
            case do.WithdrawApproval():
                request = s.asked[run] and self.values[s.asked[run]]
                if not request or request.state != "open":
                    return s
                return s._replace(asked=_set(s.asked, run, self.number(replace(request, state="withdrawn"))))
            case do.DeployWave():
                return s._replace(sites=tuple(self._listed(n, p, run, effect.wave) for n, p in enumerate(s.sites)))
            case do.RollBack():
                return s._replace(sites=tuple(self._asked_back(p, run) for p in s.sites))
        raise TypeError(effect)

    def _request(self, run: Run, effect: do.AskApproval) -> approval.Request:
        return approval.Request(
            run=run.id,
            loop=run.loop,
            candidate=effect.candidate,
            evidence=effect.evidence,
            plan=PLAN,
            outcome="",
            verdict="",
            asked=NOW,
            expires=effect.expires,
            requested_by=run.requested_by,
        )

    def _listed(self, n: int, place: Site, run: int, wave: int) -> Site:
        return (
            place._replace(rows=_set(place.rows, run, "waiting"))
            if min(n, 1) == wave and not place.rows[run]
            else place
        )

    def _asked_back(self, place: Site, run: int) -> Site:
        row = place.rows[run]
        going = place.run == run and place.back and place.status != "asked"
        if not row or (place.run != run and row == "waiting") or going:
            return place
        return _mailed(place, run, back=True)

    def _answer(self, s: State, w: int, run: int, person: str, said: str, loaded: int) -> Iterator[Move]:
        request = self.values[loaded]
        given = approval.Answer(
            answer=said, by=person, reason="", candidate=request.candidate, evidence=request.evidence, plan=PLAN
        )  # type: ignore[arg-type]
        words = f"worker {w} takes {person}'s {said} of run {run + 1}"
        if approval.refusal(request, given, self.limits.approval, NOW, "frozen" * s.frozen):
            yield f"{words}: refused", False, self._at(s, w)
            return
        there = self.values[s.asked[run]]
        if there.state != "open":
            raise Violation(f"11: {person}'s {said} counts, though it was {there.state} by {there.by}")
        decided = approval.answered(request, given, self.limits.approval, NOW)
        after = s._replace(asked=_set(s.asked, run, self.number(decided)))
        if decided.state == "approved" and decided.by in request.requested_by:
            raise Violation(f"10: {decided.by} approves what {decided.by} asked for")
        told = self._told(after, run) if decided.state != "open" else after
        yield from self._done(w, words, after, told)

    def _told(self, s: State, run: int) -> State:
        request = self.values[s.asked[run]]
        event = on.Answered(
            id="answer",
            run=request.run,
            at=NOW,
            answer=loop._ANSWERS[request.state],
            by=request.by,
            reason="",
            candidate=request.candidate,
            evidence=request.evidence,
            plan=PLAN,
            waves=self.waves,
        )
        return s._replace(mail=(*s.mail, (run, self.number(event))))

    # --- sites

    def _intends(self, s: State, w: int, place: int, run: int, back: bool) -> Iterator[Move]:
        """A request at a site: is it wanted, and is nothing newer there? Then it is written down before it is made."""
        site, phase, fence = s.sites[place], self.values[s.runs[run]].phase, _fence(run, back)
        gone = self._put(s, place, site._replace(mail=tuple(m for m in site.mail if m != (run, back))))
        words = f"worker {w} takes the {'way back' if back else 'candidate'} of run {run + 1} to site {place}"
        wanted = phase in (sites._BACK if back else sites._OUT)
        held = not back and (
            s.frozen or self.values[s.runs[run]].paused or (site.run != run and site.rows[run] == "waiting")
        )
        done = (site.run, site.back) == (run, back) and site.status not in ("asked", "deferred")
        if not wanted or held or site.fence > fence or done:
            dropped = gone
            if held and wanted and site.run != run:  # the sweep asks again
                dropped = self._put(gone, place, gone.sites[place]._replace(rows=_set(site.rows, run, "waiting")))
            yield f"{words}: not now", False, dropped
            return
        before = site.before if site.run == run else site.good
        new = site._replace(run=run, back=back, status="asked", before=before, fence=fence)
        if new.fence < site.fence:
            raise Violation("3: a fence falls")
        yield words, False, self._at(self._put(s, place, self._rowed(new)), w, "apply", place, run, back)

    def _at_once(self, s: State, place: int) -> Iterator[Move]:
        """Requests at a site, by whatever worker, with nobody in between."""
        for request in s.sites[place].mail:
            for words, _, taken in self._intends(s._replace(workers=((),)), 0, place, *request):
                if not taken.workers[0]:
                    yield words, False, taken._replace(workers=s.workers)
                    continue
                for words, fault, after in self._apply(taken, 0, *taken.workers[0][1:]):
                    if not fault:
                        yield words, False, after._replace(workers=s.workers)

    def _apply(self, s: State, w: int, place: int, run: int, back: bool) -> Iterator[Move]:
        """The call itself, and what came of it; its executor lets the greater fence win."""
        site, fence = s.sites[place], _fence(run, back)
        words = f"worker {w} asks site {place} ({'back' if back else 'out'}, run {run + 1})"
        candidate = site.before if back else run
        for outcome in ("restoring", "deferred") if back else ("applied", "failed", "deferred"):
            new = site
            if outcome in ("restoring", "applied") and fence >= site.fenced:
                new = new._replace(serves=candidate, fenced=fence)
            after = self._put(s, place, new)
            if (site.run, site.back) == (run, back) and site.status in ("asked", "deferred"):
                new = self._rowed(new._replace(status=outcome))
            new = new._replace(mail=tuple(m for m in new.mail if m != (run, back)))
            yield from self._done(w, f"{words}: {outcome}", after, self._put(s, place, new))

    def _put(self, s: State, place: int, site: Site) -> State:
        return s._replace(sites=_set(s.sites, place, site))

    def _rowed(self, site: Site) -> Site:
        return site._replace(rows=_set(site.rows, site.run, site.status)) if site.rows[site.run] else site

    def _site_moves(self, s: State, n: int, site: Site) -> Iterator[Move]:
        """What a site says of itself, or that it says nothing."""
        if site.run < 0:
            return
        intent = site.before if site.back else site.run
        if site.back and site.serves == intent and site.status in ("restoring", "deferred", "asked"):
            back = self._rowed(site._replace(status="restored", good=intent))
            yield f"site {n} says that it is back", False, self._put(s, n, back)
        if not site.back and site.serves == intent and site.status in ("asked", "applied", "deferred"):
            well = self._rowed(site._replace(status="verified", good=intent))
            yield f"site {n} shows itself well", False, self._put(s, n, well)
        rolling = self.values[s.runs[site.run]].phase is Phase.ROLLING_OUT
        if not site.back and site.serves == intent and rolling and site.status in ("applied", "verified"):
            yield f"site {n} shows itself unwell", False, self._put(s, n, self._rowed(site._replace(status="failed")))
        if site.status == "applied":
            yield f"site {n} stays silent", False, self._put(s, n, self._rowed(site._replace(status="deferred")))
        asked_again = site.status == "deferred" and site.serves != intent and (site.run, site.back) not in site.mail
        if asked_again and self.values[s.runs[site.run]].phase in (sites._BACK if site.back else sites._OUT):
            yield (
                f"site {n} is there again and is asked again",
                False,
                self._put(s, n, _mailed(site, site.run, site.back)),
            )

    # --- what the sweep and people do

    def _jobs_end(self, s: State) -> Iterator[Move]:
        for run, jobs in enumerate(s.jobs):
            for kind, state in enumerate(jobs):
                if state == "running":
                    for outcome in ("good", "bad"):
                        after = s._replace(jobs=_set(s.jobs, run, _set(jobs, kind, outcome)))
                        yield f"job {kind} of run {run + 1} ends: {outcome}", False, after
                phase = self.values[s.runs[run]].phase if s.runs[run] else None
                if state in ("good", "bad", "cancelled") and phase is (Phase.TRAINING, Phase.EVALUATING)[kind]:
                    event = (run, self._job_ended(run, kind, state, s))
                    if event not in s.mail and not self.ignored(s.runs[run], event[1]):
                        yield (
                            f"that job {kind} of run {run + 1} ended is heard",
                            False,
                            s._replace(mail=(*s.mail, event)),
                        )

    def _job_ended(self, run: int, kind: int, state: str, s: State) -> int:
        value = self.values[s.runs[run]]
        common = {"id": f"job/{kind}", "run": value.id, "at": NOW}
        if state == "cancelled" or (kind == 0 and state == "bad"):
            return self.number(on.JobFailed(**common, job=str(kind), reason=""))
        if kind == 0:
            return self.number(on.Trained(**common, candidate=_digest(run), rows=1))
        gain = 0.05 if state == "good" else -0.05
        told = on.Comparison(1000, champion=0.7, challenger=0.7 + gain, gain=gain, gain_low=gain - 0.01, gain_high=gain)
        evidence = on.Evidence(
            champion=value.champion,
            challenger=value.candidate,
            metric="auc",
            confidence=0.95,
            overall=told,
            start=NOW - timedelta(days=1),
            end=NOW,
            data="d" * 64,
            trials={"challenger": on.Trial()},
            schema="",
        )
        return self.number(on.Evaluated(**common, evidence=evidence, digest=f"e{run}"))

    def _people(self, s: State) -> Iterator[Move]:
        for run, number in enumerate(s.runs):
            value = self.values[number] if number else None
            if value is None or value.phase.final or not self.shape.cancels:
                continue
            event = self.number(on.Cancelled(id="cancelled", run=value.id, at=NOW, by="eve", reason=""))
            if not self.ignored(number, event) and (run, event) not in s.mail:
                yield f"somebody cancels run {run + 1}", True, s._replace(mail=(*s.mail, (run, event)))
        if self.shape.freezes:
            words = "somebody ends the freeze" if s.frozen else "somebody freezes the loop"
            yield words, not s.frozen, s._replace(frozen=not s.frozen)

    def _sweeps(self, s: State) -> Iterator[Move]:
        for run, number in enumerate(s.runs):
            value = self.values[number] if number else None
            if value is None or value.phase.final:
                continue
            request = s.asked[run] and self.values[s.asked[run]]
            if value.phase is Phase.AWAITING_APPROVAL and request and request.state in loop._ANSWERS:
                told = self._told(s, run)
                if told.mail[-1] not in s.mail:
                    yield f"the sweep tells run {run + 1} its answer", False, told
            if value.phase is Phase.ROLLING_OUT:
                yield from self._asks(s, run, value)
            if value.phase in (Phase.ROLLING_OUT, Phase.ROLLING_BACK):
                event = self._report(tuple(p.rows[run] for p in s.sites), number)
                if event and not self._reporting(s, run) and not self.ignored(number, event):
                    words = f"run {run + 1} is told how its sites stand: {self.values[event].id}"
                    yield words, False, s._replace(mail=(*s.mail, (run, event)))
                if value.phase is Phase.ROLLING_OUT and value.paused is None:
                    late = self.deadline(value, lifecycle.wave_deadline(value), NOW)
                    if (run, late) not in s.mail and not self.ignored(number, late) and self._listed_all(s, run, value):
                        yield f"time passes for wave {value.wave + 1}", False, s._replace(mail=(*s.mail, (run, late)))

    def _reporting(self, s: State, run: int) -> bool:
        return any(r == run and isinstance(self.values[e], on.WaveReported | on.RollbackReported) for r, e in s.mail)

    def _listed_all(self, s: State, run: int, value: Run) -> bool:
        """A wave's time is set when it is asked for."""
        return any(p.rows[run] for n, p in enumerate(s.sites) if min(n, 1) == value.wave)

    def _asks(self, s: State, run: int, value: Run) -> Iterator[Move]:
        """Sites whose turn it is are asked."""
        if value.paused or s.frozen:
            return
        updating = sum(p.status in rollout.UPDATING or p.rows[run] == "asked" for p in s.sites)
        down = sum(p.status in rollout.DOWN for p in s.sites)
        room = rollout.room(value.limits.rollout, len(s.sites), updating, down)
        for n, place in enumerate(s.sites):
            left = room.at_once if place.status in rollout.DOWN else room.well
            if place.rows[run] == "waiting" and left > 0:
                asked = _mailed(place, run, back=False)._replace(rows=_set(place.rows, run, "asked"))
                yield f"site {n} is asked", False, self._put(s, n, asked)

    def _report(self, rows: tuple[str, ...], number: int) -> int:
        known = self._tables.get((rows, number))
        if known is None:
            run = self.values[number]
            listed = [
                RolloutRow(site=str(n), wave=min(n, 1), status=row, at=NOW)  # type: ignore[arg-type]
                for n, row in enumerate(rows)
                if row
            ]
            known = self._tables[rows, number] = self._reported(run, listed)
        return int(known)

    def _reported(self, run: Run, listed: list[RolloutRow]) -> int:
        if run.phase is Phase.ROLLING_BACK:
            restored, deferred, stuck, pending = sites._count_back(listed)
            if pending:
                return 0
            name = f"back/{restored}-{deferred}-{stuck}-{pending}"
            return self.number(
                on.RollbackReported(id=name, run=run.id, at=NOW, restored=restored, deferred=deferred, pending=pending)
            )
        counts = rollout.count(((r.wave, r.status) for r in listed), run.wave, run.waves[run.wave].sites)
        verified, failed, deferred, pending, removed = counts
        if pending and not failed:
            return 0
        name = lifecycle.wave_report_id(run.id, run.wave, counts)
        return self.number(
            on.WaveReported(
                id=name,
                run=run.id,
                at=NOW,
                wave=run.wave,
                verified=verified,
                failed=failed,
                deferred=deferred,
                pending=pending,
                removed=removed,
            )
        )

    # --- what must hold

    def saved(self, before: State, after: State, run: int) -> None:
        """Of one save: invariants 2 and 14."""
        old, new = self.values[before.runs[run]], self.values[after.runs[run]]
        if old is not new:
            self._edge(old, new)
        if new.phase is Phase.ROLLING_OUT and new.wave > (old.wave if old.phase is Phase.ROLLING_OUT else 0):
            earlier = [p.rows[run] for n, p in enumerate(before.sites) if min(n, 1) < new.wave]
            if any(row in ("", "waiting", "asked", "applied") for row in earlier):
                raise Violation(f"14: wave {new.wave + 1} begins while the one before it is {earlier}")

    def check(self, s: State) -> None:
        """Of one state. Raises Violation."""
        at_work = [run for run in s.runs if run and not self.is_final(run)]
        if len(at_work) > 1:
            raise Violation("1: two runs are active")
        for n, place in enumerate(s.sites):
            self._check_site(s, n, place)
        updating = sum(p.status in rollout.UPDATING and not p.back for p in s.sites)
        if updating > rollout.at_most(self.limits.rollout.max_unavailable, len(s.sites)):
            raise Violation(f"15: {updating} sites are being changed at once")
        for run, number in enumerate(s.runs):
            if number and self.is_final(number) and not self._busy(s, run):
                self._check_ended(s, run)
        if self.quiet(s):
            self._check_back(s)

    def _check_site(self, s: State, n: int, place: Site) -> None:
        if place.serves >= 0:
            request = s.asked[place.serves] and self.values[s.asked[place.serves]]
            if not request or request.state != "approved" or request.candidate != _digest(place.serves):
                raise Violation(f"9: site {n} serves what nobody approved")
        if not place.back and place.run >= 0 and place.good == place.run and place.status in ("asked", "applied"):
            raise Violation(f"16: site {n} calls good what it has not verified")
        if place.back and place.before == place.run:
            raise Violation(f"17: site {n} is taken back to what it is taken back from")
        if place.status == "verified" and place.run >= 0 and place.good != place.run:
            raise Violation(f"20: site {n} is called verified and serves something else")

    def _check_back(self, s: State) -> None:
        for n, place in enumerate(s.sites):
            if place.serves >= 0 and (place.run, place.back) == (place.serves, False):
                phase = self.values[s.runs[place.run]].phase
                if phase is not Phase.VERIFIED:
                    raise Violation(f"22: run {place.run + 1} is {phase}, and site {n} was not asked to go back")

    def _check_ended(self, s: State, run: int) -> None:
        phase = self.values[s.runs[run]].phase
        if "running" in s.jobs[run]:
            raise Violation(f"21: run {run + 1} is {phase}, and its job still runs")
        if s.asked[run] and self.values[s.asked[run]].state == "open":
            raise Violation(f"21: run {run + 1} is {phase}, and its question is still open")

    def quiet(self, s: State) -> bool:
        """All runs have ended, and nothing is left to be done."""
        ended = all(run and self.is_final(run) for run in s.runs)
        at_rest = not any(s.workers) and not any(p.mail for p in s.sites)
        return ended and at_rest and not s.outbox and not s.mail


def explore(shape: Shape, explorer: Explorer | None = None, told: Callable[[str], None] | None = None) -> Found:
    """Every state that can be reached. Raises Violation with a shortest history."""
    e = explorer or Explorer(shape)
    first = e.canonical(e.start())
    seen, order, parents, depths = {first: 0}, [first], array("l", [-1]), array("H", [0])
    sources, targets = array("l"), array("l")
    waiting, found, begun = deque([0]), Found(), time.monotonic()
    while waiting:
        here = waiting.popleft()
        state = order[here]
        try:
            for _, fault, after in e.moves(state):
                found.transitions += 1
                there = seen.get(after)
                if there is None:
                    there = seen[after] = len(order)
                    order.append(after)
                    parents.append(here)
                    depths.append(depths[here] + 1)
                    e.check(after)
                    waiting.append(there)
                if not fault:
                    sources.append(here)
                    targets.append(there)
        except Violation as wrong:
            last = here if _holds(e, order[-1]) else len(order) - 1
            raise Violation(f"{wrong}\n{history(e, order, parents, last)}") from None
        if told and here % 100_000 == 0 and here:
            told(f"{here:,} of {len(order):,} states, depth {depths[here]}, {time.monotonic() - begun:.0f} s")
    ends = [n for n, state in enumerate(order) if e.quiet(state)]
    dead = _cannot_reach(len(order), ends, sources, targets)
    if dead is not None:
        raise Violation(f"22: from here no end can be reached\n{history(e, order, parents, dead)}")
    found.states, found.depth, found.quiet = len(order), max(depths), len(ends)
    found.seconds = time.monotonic() - begun
    for n in ends:
        phases = " + ".join(str(e.values[run].phase) for run in order[n].runs)
        found.phases[phases] = found.phases.get(phases, 0) + 1
    return found


def _holds(e: Explorer, state: State) -> bool:
    try:
        e.check(state)
    except Violation:
        return False
    return True


def _cannot_reach(states: int, ends: list[int], sources: array[int], targets: array[int]) -> int | None:
    """The first state from which none of the ends is reached."""
    import numpy as np

    by_target = np.argsort(np.frombuffer(targets, dtype="l"), kind="stable")
    from_ = np.frombuffer(sources, dtype="l")[by_target]
    starts = np.searchsorted(np.frombuffer(targets, dtype="l")[by_target], np.arange(states + 1))
    reached = np.zeros(states, dtype=bool)
    reached[ends] = True
    edge = list(ends)
    while edge:
        found = np.unique(np.concatenate([from_[starts[n] : starts[n + 1]] for n in edge]))
        edge = [int(n) for n in found[~reached[found]]]
        reached[edge] = True
    missing = np.flatnonzero(~reached)
    return int(missing[0]) if len(missing) else None


def history(e: Explorer, order: list[State], parents: array[int], to: int) -> str:
    """The moves that lead to a state, one a line."""
    path = [to]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    path.reverse()
    lines = []
    for before, after in pairwise(path):
        lines.append(next(words for words, _, state in e.moves(order[before]) if state == order[after]))
    return "\n".join(f"  {n + 1:2} {line}" for n, line in enumerate(lines))


def _still(run: Run, event: on.Event) -> bool:
    """That this event does nothing now is tried, not believed."""
    after = lifecycle.advance(run, event)
    if after.effects or replace(after.run, seen=run.seen) != run:
        raise Violation(f"the explorer takes {event.id} to be ignored in {run.phase}, and it is not")
    return True


def _set(values: tuple[Any, ...], n: int, value: Any) -> Any:
    return (*values[:n], value, *values[n + 1 :])


def _digest(candidate: int) -> str:
    return str(candidate + 1) * 64


def _fence(run: int, back: bool) -> int:
    return sites.fence(f"line.2026-03-10.{run + 1}", back)


def _mailed(place: Site, run: int, back: bool) -> Site:
    return place._replace(mail=tuple(sorted({*place.mail, (run, back)})))


def _swapped(s: State) -> State:
    """Sites 1 and 2 in each other's place."""
    places = (s.sites[0], s.sites[2], s.sites[1], *s.sites[3:])
    workers = tuple((w[0], 3 - w[1], *w[2:]) if w[:1] == ("apply",) and w[1] in (1, 2) else w for w in s.workers)
    return s._replace(sites=places, workers=tuple(sorted(workers)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.explore", description=__doc__)
    for name, value in Shape()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default: {value}")
    shape = Shape(**vars(parser.parse_args(arguments)))
    print("  " + ", ".join(f"{value} {name}" for name, value in shape._asdict().items()), flush=True)
    try:
        found = explore(shape, told=lambda words: print(f"  {words}", file=sys.stderr, flush=True))
    except Violation as wrong:
        print(f"  violated: {wrong}")
        return 1
    print(
        f"  {found.states:,} states, {found.transitions:,} transitions, depth {found.depth}, {found.seconds:.0f} s; "
        f"no violation; each reaches one of {found.quiet:,} ends"
    )
    for phases, count in sorted(found.phases.items()):
        print(f"  {count:>9,} ends: {phases}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
