"""What may happen to two runs: `lifecycle.advance` itself, in a world of workers that race and die.

What decides is the product's own: `lifecycle.begin` and `advance`, `approval.refusal` and `answered`, `gates.judge`,
`rollout.count`, `judge_wave` and `room`, `sites.fence`, the rules of what goes on while frozen and of which effect is
still wanted. What is modelled is the world around it: a store with compare and swap; an outbox; messages that come
at any time, in any order, and again where they are not acknowledged; workers that take, load, save and acknowledge,
with others in between, and may die at each of those; training that ends well or not; people who answer, cancel,
freeze; sites that take a candidate, refuse it, are away, and are well, unwell or silent afterwards; deadlines that pass
at any time. In small worlds only, and not all of it together: people who pause, resume and take back, newer runs and
models that take a run's place, two people who have to approve, a first wave that is approved by rule.

Not in it: runs of a part of the fleet, side by side, and sites with a champion of their own; candidates that enter at
the gate, or are revoked; training at a site; failures that are tolerated (`max_failed`), and sites that failed and go
back before their run does; sites that refuse the way back, join or leave the fleet, or change in steps; windows,
blackouts, and what waits for them; what a wave's sites measure together; answers that ask for changes, reminders, who
may answer later, quiet hours, people with several accounts; a rule whose bounds are not met, or for several waves;
rules and limits that change meanwhile; what driftloop itself cancels in a freeze (it is as if a person did).

What else is left out changes no verdict. tests/triggers/test_explorer.py keeps it in, in small worlds, and sees the
same.

- Times are one instant, but for waves that were resumed and questions that are asked again: a deadline may pass
  whenever it is set, and is with the bus as soon as it is asked for. Words, names of who answered, and announcements
  are not kept.
- A run that has ended is its phase: nobody asks for its jobs any more, nor for its question but if it was approved.
- A message that `advance` would ignore from here on is dropped (that it does is tried on each), and with it the ids
  that a phase has seen when the next one begins, but for that of an answer by rule. A run tells one thing at a time
  of its sites.
- Load and save are one step, but where `reads` is set: a save that somebody overtook does nothing, and one that nobody
  overtook might as well have been loaded just before. What can be told anew for as long as it matters (an answer, the
  end of a job, a wave's time, a cancelling) is then not kept between being sent and being taken.
- An effect that would do nothing, whoever performed it now or later, is as good as done, and who is at it is idle: a
  wave is listed once, sites are asked back once, a job that has ended is not begun again.
- A request at a site that will be dropped whatever comes (its run wants it no more, a newer one was there) is gone.
  A site that a run which has ended left well, or took back, is as if it had never asked; of one that a later run has
  changed since, it does not matter how it stood. What was good before is kept only for as long as a run may need it.
- Workers, and the sites of one wave, are alike: of states that differ by their order, one is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from triggers import approval, asking, codec, lifecycle, loop, rollout, sites
from triggers import effects as do
from triggers import events as on
from triggers.config import Approval, Automatic, Rollout
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
    lost; else it is one, as the queue's sessions have it. `reads`: whether others may come in between load and save.

    `pauses`: up to how many times a rollout is resumed; until then people may pause it. `backs`: whether people want
    the way back. `supersedes`: whether a newer run, in one write, or a newer model, by a message, takes the place of
    one. `needed`: so many have to approve. `rule`: whether the first wave is approved by rule. `fails`: whether an
    evaluation may end without a result."""

    workers: int = 2
    runs: int = 2
    sites: int = 3
    people: int = 2
    crashes: int = 1
    cancels: int = 0
    freezes: int = 0
    steps: int = 0
    reads: int = 0
    pauses: int = 0
    backs: int = 0
    supersedes: int = 0
    needed: int = 1
    rule: int = 0
    fails: int = 0


ASKED = Shape()


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
    todo: tuple[int, int] = (0, 0)  # (run, effect) that was performed, and is not yet at the sites


class Violation(AssertionError):
    """What does not hold, and how the world came there. `at`: the place of the state among those looked at."""

    at: int = 0


_ORDER = (Phase.TRAINING, Phase.EVALUATING, Phase.AWAITING_APPROVAL, Phase.ROLLING_OUT, Phase.ROLLING_BACK)
"""Of phases that are never entered again, but for a question about the rest (`_asks_again`)."""

_BY_RULE = "answer/automatic"

Move = tuple[str, bool, State]
"""In words; whether it is the world's fault (a crash, a freeze); what then is."""
Row = Sequence[int]


class Explorer:
    """Values by number, moves from a state, and what must hold in each."""

    def __init__(self, shape: Shape = ASKED, limits: Limits = LIMITS) -> None:
        rules = replace(
            limits.approval, needed=shape.needed, automatic=Automatic(minimum_gain=0.0) if shape.rule else None
        )
        self.shape, self.limits = shape, replace(limits, approval=rules)
        self.taken: Counter[tuple[Phase, type[on.Event]]] = Counter()
        """How many kinds of runs and events each of `lifecycle.RULES` was taken for."""
        self.tried: Counter[tuple[Phase, type[on.Event]]] = Counter()
        """The same, where only this was looked at: that it does nothing."""
        self.values: list[Any] = [None]
        self._numbers: dict[bytes, int] = {}
        self._steps: dict[tuple[int, int], tuple[int, tuple[int, ...], tuple[int, ...]]] = {}
        self._ignored: dict[tuple[int, int], bool] = {}
        self._final: dict[int, bool] = {}
        self._tables: dict[Any, Any] = {}
        self.at_most = rollout.at_most(limits.rollout.max_unavailable, shape.sites)
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
            known = self._steps[run, event] = self._stepped(self.values[run], self.values[event])
        return known

    def _stepped(self, before: Run, event: on.Event) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        rule = (before.phase, type(event))
        try:
            made = lifecycle.advance(before, event)
        except lifecycle.IllegalTransition as wrong:
            raise Violation(f"2: {wrong}") from None
        self.taken[rule] += event.id not in before.seen and not before.phase.final
        self._edge(before, made.run)
        self._once(made.run, event)
        moved = (before.phase, before.wave) != (made.run.phase, made.run.wave)
        after = replace(made.run, seen=made.run.seen & {_BY_RULE}) if moved else made.run
        if isinstance(event, on.Paused | on.Resumed):  # each time with an id of its own
            after = replace(after, seen=after.seen - {event.id})
        return (self.kept(after), *self.split(made))

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
        if (run.phase, type(event)) not in lifecycle.RULES:
            return False
        if run.phase is Phase.ROLLING_BACK:  # which ends by a report or in time, and hears nothing else
            ends = isinstance(event, on.RollbackReported) or getattr(event, "phase", "") == run.phase
            return not ends and self._still(run, event)
        if isinstance(event, on.DeadlinePassed):
            return self._is_over(run, event) and self._still(run, event)
        late = isinstance(event, on.WaveReported) and event.wave < run.wave
        return late and self._still(run, event)

    def _is_over(self, run: Run, event: on.DeadlinePassed) -> bool:
        """Whether what this is the time of will never be again."""
        of, *wave = event.phase.split("/")
        if of == "paused":
            resumed = run.paused is None or lifecycle._pause(run.paused.at) != event.phase
            return bool(self.shape.pauses) and resumed
        if of == Phase.AWAITING_APPROVAL and _asks_again(run):
            return False
        if of == Phase.AWAITING_APPROVAL == run.phase:
            return run.expires is not None and event.at < run.expires
        if of == run.phase and wave:
            return [int(n) for n in (*wave, "0")][:2] < [run.wave, run.resumed]
        return of in _ORDER[: _ORDER.index(run.phase)]

    def _still(self, run: Run, event: on.Event) -> bool:
        """That this event does nothing now is tried, not believed."""
        after = lifecycle.advance(run, event)
        if after.effects or replace(after.run, seen=run.seen) != run:
            raise Violation(f"the explorer takes {event.id} to be ignored in {run.phase}, and it is not")
        self.tried[run.phase, type(event)] += 1
        return True

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
        for words, fault, after in (*self.core_moves(s), *self.row_moves(s)):
            yield words, fault, self.canonical(after)
        for n, place in enumerate(s.sites):
            if n == 2 and self.alike(s):
                continue
            for words, site in (*self.site_moves(s, n, place), *self._asked_now(s, n, place)):
                yield words, False, self.canonical(self._put(s, n, site))
            for words, fault, after in self.work_at(s, n):
                yield words, fault, self.canonical(after)

    def alike(self, s: State) -> bool:
        """Whether sites 1 and 2 are, and what is done at them."""
        return swapped(s) == s

    def canonical(self, s: State) -> State:
        """Of states that differ by the order of alike sites or workers, one."""
        s = self.tidy(s)
        s = s._replace(sites=tuple(self.changed(s, n, place, s.todo) for n, place in enumerate(s.sites)), todo=(0, 0))
        return s if len(s.sites) < 3 else self.ordered(s)

    def ordered(self, s: State) -> State:
        return min(s, swapped(s), key=lambda state: (state.sites, state.workers))

    def tidy(self, s: State) -> State:
        """Without messages that will be ignored, and what nobody asks of a run that has ended; workers in order."""
        done = ("perform", *s.todo)  # a wave that is listed, or asked back, is so whoever does it again
        s = s._replace(
            mail=tuple(sorted({m for m in s.mail if not self.ignored(s.runs[m[0]], m[1])})),
            outbox=tuple(sorted({o for o in s.outbox if o != s.todo and not self._over(s, *o)})),
        )
        workers = (() if w == done or (w and self._in_vain(s, w)) else w for w in s.workers)
        s = s._replace(workers=tuple(sorted(workers)))
        for run, jobs in enumerate(s.jobs):
            if not self.over_with(s, run):
                continue
            if any(jobs) and "running" not in jobs:
                s = s._replace(jobs=put(s.jobs, run, ("", "")))
            reached = self.values[s.runs[run]].phase in (Phase.VERIFIED, Phase.ROLLED_BACK)
            if s.asked[run] and not reached and self.values[s.asked[run]].state != "open":
                s = s._replace(asked=put(s.asked, run, 0))
        return s

    def changed(self, s: State, n: int, place: Site, todo: tuple[int, int] = (0, 0)) -> Site:
        """A site after something was performed."""
        run, effect = todo[0], self.values[todo[1]]
        match effect:
            case do.DeployWave():
                place = self._listed(n, place, run, effect.wave)
            case do.RollBack():
                place = self._asked_back(place, run)
        return self.remains(s, place)

    def remains(self, s: State, place: Site) -> Site:
        """A site as far as it matters from here on. Without rows of runs that have ended, but where their way back is
        still to be asked for; without requests that will be dropped. What was good is for the next run to go back to.
        Where a run that has ended has left a site for good, it is as if never asked."""
        over = [run for run in range(self.shape.runs) if self.over_with(s, run)]
        place = place._replace(
            rows=tuple(self._row(s, place, n, row) if n not in over else "" for n, row in enumerate(place.rows)),
            mail=tuple(m for m in place.mail if not self._dropped(s, place, *m)),
            fenced=place.fenced if self.shape.steps else 0,
        )
        if place.run == self.shape.runs - 1 and (place.back or place.status in ("failed", "deferred")):
            place = place._replace(good=place.before)
        asked = any(run == place.run for run, _ in place.mail)
        older = set(range(place.run + 1))  # which might still come with a smaller fence
        if self.shape.steps or asked or place.run < 0 or older - set(over) or place.serves != place.good:
            return place
        stays = place.status == "restored" or (
            place.status == "verified" and self.values[s.runs[place.run]].phase is Phase.VERIFIED
        )
        return Site(serves=place.serves, good=place.good, mail=place.mail, rows=place.rows) if stays else place

    def _row(self, s: State, place: Site, run: int, row: str) -> str:
        """Of a run that is taken back, and waits for no site: whether a site would still be asked to go back."""
        if not row or not s.runs[run] or self.values[s.runs[run]].phase is not Phase.ROLLED_BACK:
            return row
        going = (place.run, place.back) == (run, True) and place.status != "asked"
        never = row == "waiting" or place.fence > _fence(run, True) or going
        return "" if never else "asked"

    def _dropped(self, s: State, place: Site, run: int, back: bool) -> bool:
        """Whether a request will be, whatever comes."""
        wanted = _wants(self.values[s.runs[run]], back)
        done = (place.run, place.back) == (run, back) and place.status not in ("asked", "applied", "deferred")
        return not wanted or done or place.fence > _fence(run, back)

    def over_with(self, s: State, run: int) -> bool:
        return bool(s.runs[run]) and self.is_final(s.runs[run]) and not self._busy(s, run)

    def _busy(self, s: State, run: int) -> bool:
        """Something is still to be done for it."""
        return any(o[0] == run for o in s.outbox) or any(w[:2] == ("perform", run) for w in s.workers)

    def _over(self, s: State, run: int, effect: int) -> bool:
        """Whether an effect was performed, its row left by a crash, and would now be dropped without a trace."""
        value, kind = self.values[s.runs[run]], self.values[effect]
        if not isinstance(kind, do.DeployWave | do.RollBack) and self._is_done(s, run, kind):
            return True
        phases = loop._ONLY_IN.get(type(kind), (value.phase,))
        passed = value.phase.final or set(phases) <= set(_ORDER[: _ORDER.index(value.phase)])
        passed = passed and not (isinstance(kind, do.AskApproval) and _asks_again(value))
        passed = passed or (isinstance(kind, do.DeployWave) and kind.wave < value.wave)
        return passed and not loop._wanted(value, kind) and self.overtaken(s, run, kind) is s

    def _in_vain(self, s: State, worker: tuple[Any, ...]) -> bool:
        """Whether somebody else wrote first, so that what this worker is at will only be given back."""
        match worker:
            case ("tell", run, event, loaded):
                return not self.holds(s, "runs", run, loaded) or self.ignored(s.runs[run], event)
            case ("answer", run, _, _, loaded):
                return not self.holds(s, "asked", run, loaded)
            case ("begin", run):
                return not self.holds(s, "begin", run)
            case ("supersede", run, old, loaded, asked):
                return not self._in_place(s, run, old, loaded, asked)
            case ("perform", run, effect):
                return (run, effect) not in s.outbox and self._is_done(s, run, self.values[effect])
        return False

    def _is_done(self, s: State, run: int, effect: do.Effect) -> bool:
        """Whether to perform it again would do nothing, now and later."""
        match effect:
            case do.Train() | do.Evaluate():
                return s.jobs[run][isinstance(effect, do.Evaluate)] not in ("", "running")
            case do.AskApproval():
                known = self.values[s.asked[run]]
                return bool(known and known.state != "automatic") or self._asks_no_more(s, run)
            case do.CancelJob():
                job = s.jobs[run][effect.job.endswith("evaluate")]
                return job != "running" and (job != "" or not self._may_submit(s, run))
            case do.WithdrawApproval():
                request = self.values[s.asked[run]]
                return request.state != "open" if request else self._asks_no_more(s, run)
        return True

    def _may_submit(self, s: State, run: int) -> bool:
        begun = [w[1:] for w in s.workers if w[:1] == ("perform",)]
        return any(r == run and isinstance(self.values[e], do.Train | do.Evaluate) for r, e in (*s.outbox, *begun))

    def _asks_no_more(self, s: State, run: int) -> bool:
        value = self.values[s.runs[run]]
        return value.phase not in _ORDER[: _ORDER.index(Phase.AWAITING_APPROVAL) + 1] and not _asks_again(value)

    def core_moves(self, s: State) -> Iterator[Move]:
        """All that needs no more of the sites than how they stand in the list of a run."""
        for n, worker in self._workers(s):
            if not worker:
                yield from self._takes(s, n)
            elif worker[0] != "apply":
                yield from self._goes_on(s, n, worker)
        yield from self._jobs_end(s)
        yield from self._people(s)
        yield from self._sweeps(s)

    def _workers(self, s: State) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Those that are not alike."""
        return ((n, worker) for n, worker in enumerate(s.workers) if not n or worker != s.workers[n - 1])

    def work_at(self, s: State, place: int) -> Iterator[Move]:
        """What workers do at a site, where that is several steps."""
        for n, worker in self._workers(s) if self.shape.steps else ():
            if worker[:2] == ("apply", place):
                yield from self._goes_on(s, n, worker)
            for run, back in s.sites[place].mail if not worker else ():
                yield from self._intends(s, n, place, run, back)

    def site_moves(self, s: State, n: int, place: Site) -> Iterator[tuple[str, Site]]:
        """All that needs no more of the rest than the phases of runs."""
        yield from self._site_says(s, n, place)
        yield from self._at_once(s, n) if not self.shape.steps else ()

    def _at(self, s: State, worker: int, *what: Any) -> State:
        """The state with a worker at something, or idle."""
        return s._replace(workers=put(s.workers, worker, what))

    def _takes(self, s: State, w: int) -> Iterator[Move]:
        """An idle worker takes what there is, and loads what it needs."""
        for run, event in s.mail:
            words = f"worker {w} takes {self.values[event].id} and loads run {run + 1}"
            yield from self._loads(words, s, w, "tell", run, event, s.runs[run])
        for run, effect in s.outbox:
            yield from self._looks_at(s, w, run, effect)
        for run, asked in enumerate(s.asked):
            if asked and self.values[asked].state == "open":
                for person in PEOPLE[: self.shape.people]:
                    for said in ("approve", "reject"):
                        words = f"worker {w} takes {person}'s {said} of run {run + 1} and loads the question"
                        yield from self._loads(words, s, w, "answer", run, person, said, asked)
        if 0 in s.runs and not any(run and not self.is_final(run) for run in s.runs):
            run = s.runs.index(0)
            yield from self._loads(f"worker {w} checks: run {run + 1} is due", s, w, "begin", run)
        if self.shape.supersedes and 0 in s.runs and not s.frozen:
            run = s.runs.index(0)
            for old in range(run):
                if self._gives_way(s, old):
                    words = f"worker {w} is asked for run {run + 1} in the place of run {old + 1}"
                    yield from self._loads(words, s, w, "supersede", run, old, s.runs[old], s.asked[old])

    def _gives_way(self, s: State, run: int) -> bool:
        """As in triggers/loop.py: nobody has answered, and no site was reached."""
        value, request = self.values[s.runs[run]], self.values[s.asked[run]]
        open_ = request is None or request.state not in asking.ANSWERS
        return bool(not value.times and lifecycle.gives_way(value) and open_)

    def _loads(self, words: str, s: State, w: int, *what: Any) -> Iterator[Move]:
        """What it then writes is a step of its own only where somebody may come in between."""
        if self.shape.reads:
            yield words, False, self._at(s, w, *what)
            return
        for then, fault, after in getattr(self, f"_{what[0]}")(s, w, *what[1:]):
            yield f"{words}; {then}", fault, after

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
        if not self.holds(s, "begin", run):
            yield from self._gives_up(s, w)
            return
        step = self.begun(run, s.champion)
        effects, deadlines = self.split(step)
        after = s._replace(
            runs=put(s.runs, run, self.kept(step.run)),
            outbox=(*s.outbox, *((run, e) for e in effects)),
            mail=(*s.mail, *((run, d) for d in deadlines)),
        )
        yield from self._done(w, f"worker {w} begins run {run + 1}", after, after)

    def _in_place(self, s: State, run: int, old: int, loaded: int, asked: int) -> bool:
        return not s.runs[run] and (s.runs[old], s.asked[old]) == (loaded, asked)

    def _supersede(self, s: State, w: int, run: int, old: int, loaded: int, asked: int) -> Iterator[Move]:
        """One run ends, with its question, and another begins, in one write."""
        if not self._in_place(s, run, old, loaded, asked):
            yield from self._gives_up(s, w)
            return
        ended, effects, _ = self.step(loaded, self.number(_superseded(self.values[loaded])))
        request, step = self.values[asked], self.begun(run, s.champion)
        begins, deadlines = self.split(step)
        withdrawn = self.number(replace(request, state="withdrawn")) if request and request.state == "open" else asked
        after = s._replace(
            runs=put(put(s.runs, old, ended), run, self.kept(step.run)),
            asked=put(s.asked, old, withdrawn),
            outbox=(*s.outbox, *((old, e) for e in effects), *((run, e) for e in begins)),
            mail=(*s.mail, *((run, d) for d in deadlines)),
        )
        yield from self._done(w, f"worker {w} begins run {run + 1} in the place of run {old + 1}", after, after)

    def _tell(self, s: State, w: int, run: int, event: int, loaded: int) -> Iterator[Move]:
        """Save what `advance` made of what was loaded, unless somebody else wrote first."""
        if not self.holds(s, "runs", run, loaded):
            yield from self._gives_up(s, w)
            return
        name = self.values[event].id
        new, effects, deadlines = self.step(loaded, event)
        after = s._replace(
            runs=put(s.runs, run, new),
            outbox=(*s.outbox, *((run, e) for e in effects)),
            mail=(*s.mail, *((run, d) for d in deadlines)),
        )
        if self.values[new].phase is Phase.VERIFIED and not self.is_final(loaded):
            after = after._replace(champion=run)
        if loaded != new:
            self._edge(self.values[s.runs[run]], self.values[new])
        acknowledged = after._replace(mail=tuple(m for m in after.mail if m != (run, event)))
        yield f"worker {w} saves run {run + 1} after {name}: {self.values[new].phase}", False, self._at(acknowledged, w)

    def holds(self, s: State, what: str, run: int, loaded: int = 0) -> bool:
        """Compare, then swap."""
        if what == "begin":
            return not s.runs[run] and all(self.is_final(r) for r in s.runs if r)
        return bool(getattr(s, what)[run] == loaded)

    def _gives_up(self, s: State, w: int) -> Iterator[Move]:
        yield f"worker {w} finds that somebody else wrote first", False, self._at(s, w)

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
                return s if jobs[kind] else s._replace(jobs=put(s.jobs, run, put(jobs, kind, "running")))
            case do.CancelJob():
                kind = int(effect.job.endswith("evaluate"))
                running = jobs[kind] == "running"
                return s._replace(jobs=put(s.jobs, run, put(jobs, kind, "cancelled"))) if running else s
            case do.AskApproval():
                known = self.values[s.asked[run]]
                asked = known is not None and (known.state != "automatic" or not value.times)
                if asked or value.phase is not Phase.AWAITING_APPROVAL:
                    return s
                return s._replace(asked=put(s.asked, run, self.number(self._request(value, effect))))
            case do.WithdrawApproval():
                request = s.asked[run] and self.values[s.asked[run]]
                if not request or request.state != "open":
                    return s
                return s._replace(asked=put(s.asked, run, self.number(replace(request, state="withdrawn"))))
            case do.DeployWave() | do.RollBack():
                if isinstance(effect, do.DeployWave) and value.resumed and loop._wanted(value, effect):
                    s = s._replace(mail=(*s.mail, (run, self._wave_over(value))))
                return s._replace(todo=(run, self.number(effect)))
        raise TypeError(effect)

    def _wave_over(self, run: Run) -> int:
        return self.deadline(run, lifecycle.wave_deadline(run), NOW + timedelta(hours=run.resumed))

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
            state="automatic" if self.shape.rule and not run.times else "open",
            requested_by=run.requested_by,
        )

    def _listed(self, n: int, place: Site, run: int, wave: int) -> Site:
        return (
            place._replace(rows=put(place.rows, run, "waiting")) if min(n, 1) == wave and not place.rows[run] else place
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
            answer=said,  # type: ignore[arg-type]
            by=person,
            reason="",
            candidate=request.candidate,
            evidence=request.evidence,
            plan=PLAN,
        )
        words = f"worker {w} takes {person}'s {said} of run {run + 1}"
        if approval.refusal(request, given, self.limits.approval, NOW, "frozen" * s.frozen):
            yield f"{words}: refused", False, self._at(s, w)
            return
        if not self.holds(s, "asked", run, loaded):
            yield from self._gives_up(s, w)
            return
        there = self.values[s.asked[run]]
        if there.state != "open":
            raise Violation(f"11: {person}'s {said} counts, though it was {there.state} by {there.by}")
        decided = approval.answered(request, given, self.limits.approval, NOW)
        nameless = decided if decided.state == "open" else replace(decided, by="", consents=())
        after = s._replace(asked=put(s.asked, run, self.number(nameless)))
        yes = {consent.by for consent in decided.consents}
        if decided.state == "approved" and yes & set(request.requested_by):
            raise Violation(f"10: {decided.by} approves what {decided.by} asked for")
        if decided.state == "approved" and len(yes) < self.shape.needed:
            raise Violation(f"10: {decided.by} approves alone")
        told = self._told(after, run) if decided.state != "open" and self.shape.reads else after
        yield from self._done(w, words, after, told)

    def _told(self, s: State, run: int) -> State:
        request = self.values[s.asked[run]]
        by_rule = request.state == "automatic"
        event = on.Answered(
            id=_BY_RULE if by_rule else "answer",
            run=request.run,
            at=NOW,
            answer=asking.ANSWERS[request.state],
            by="rule" if by_rule else request.by,
            reason="",
            candidate=request.candidate,
            evidence=request.evidence,
            plan=PLAN,
            waves=self.waves,
            through=approval.first_ring([w.ring for w in self.waves]) if by_rule else None,
        )
        return s._replace(mail=(*s.mail, (run, self.number(event))))

    # --- sites

    def _intends(self, s: State, w: int, place: int, run: int, back: bool) -> Iterator[Move]:
        """A request at a site: is it wanted, and is nothing newer there? Then it is written down before it is made."""
        site, phase, fence = s.sites[place], self.values[s.runs[run]].phase, _fence(run, back)
        gone = self._put(s, place, site._replace(mail=tuple(m for m in site.mail if m != (run, back))))
        words = f"worker {w} takes the {'way back' if back else 'candidate'} of run {run + 1} to site {place}"
        wanted = _wants(self.values[s.runs[run]], back)
        late = phase is Phase.VERIFIED and self._no_place(s, place)
        held = not back and (
            s.frozen or late or self.values[s.runs[run]].paused or (site.run != run and site.rows[run] == "waiting")
        )
        done = (site.run, site.back) == (run, back) and site.status not in ("asked", "deferred")
        if not wanted or held or site.fence > fence or done:
            dropped = gone
            if held and wanted and site.run != run:  # the sweep asks again
                dropped = self._put(gone, place, gone.sites[place]._replace(rows=put(site.rows, run, "waiting")))
            yield f"{words}: not now", False, dropped
            return
        before = self._way_back(s, site, run)
        new = site._replace(run=run, back=back, status="asked", before=before, fence=fence)
        if new.fence < site.fence:
            raise Violation("3: a fence falls")
        yield words, False, self._at(self._put(s, place, self._rowed(new)), w, "apply", place, run, back)

    def _way_back(self, s: State, site: Site, run: int) -> int:
        """As in triggers/sites.py."""
        taken_back = site.run >= 0 and self.values[s.runs[site.run]].phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        return site.before if site.run == run or site.back or taken_back else site.good

    def _no_place(self, s: State, place: int) -> bool:
        """For a site of a run that is verified: another run is at work, or others take every place."""
        others = sum(is_updating(p, self.asks(s)) for n, p in enumerate(s.sites) if n != place)
        at_work = any(r and not self.is_final(r) for r in s.runs)
        return at_work or not rollout.room(self.limits.rollout, self.shape.sites, others, 0).at_once

    def _at_once(self, s: State, place: int) -> Iterator[tuple[str, Site]]:
        """Requests at a site, by whatever worker, with nobody in between."""
        for request in s.sites[place].mail:
            for words, _, taken in self._intends(s._replace(workers=((),)), 0, place, *request):
                if not taken.workers[0]:
                    yield words, taken.sites[place]
                    continue
                for words, fault, after in self._apply(taken, 0, *taken.workers[0][1:]):
                    if not fault:
                        yield words, after.sites[place]

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
        return s._replace(sites=put(s.sites, place, site))

    def _rowed(self, site: Site) -> Site:
        return site._replace(rows=put(site.rows, site.run, site.status)) if site.rows[site.run] else site

    def _site_says(self, s: State, n: int, site: Site) -> Iterator[tuple[str, Site]]:
        """What a site says of itself, or that it says nothing."""
        if site.run < 0:
            return
        intent = site.before if site.back else site.run
        phase = self.values[s.runs[site.run]].phase
        if site.back and site.serves == intent and site.status in ("restoring", "deferred", "asked"):
            yield f"site {n} says that it is back", self._rowed(site._replace(status="restored", good=intent))
        if not site.back and site.serves == intent and site.status in ("asked", "applied", "deferred"):
            yield f"site {n} shows itself well", self._rowed(site._replace(status="verified", good=intent))
        rolling = phase is Phase.ROLLING_OUT or sites._begun(self.values[s.runs[site.run]])
        if not site.back and site.serves == intent and rolling and site.status in ("applied", "verified"):
            yield f"site {n} shows itself unwell", self._rowed(site._replace(status="failed"))
        if site.status == "applied":
            yield f"site {n} stays silent", self._rowed(site._replace(status="deferred"))
        asked_again = site.status == "deferred" and site.serves != intent and (site.run, True) not in site.mail
        if site.back and asked_again and phase in sites._BACK:
            yield f"site {n} is there again and is asked again", _mailed(site, site.run, back=True)

    # --- what the sweep and people do

    def _jobs_end(self, s: State) -> Iterator[Move]:
        for run, jobs in enumerate(s.jobs):
            for kind, state in enumerate(jobs):
                if state == "running":
                    for outcome in ("good", "bad", *(("cancelled",) if kind and self.shape.fails else ())):
                        after = s._replace(jobs=put(s.jobs, run, put(jobs, kind, outcome)))
                        yield f"job {kind} of run {run + 1} ends: {outcome}", False, after
                phase = self.values[s.runs[run]].phase if s.runs[run] else None
                if state in ("good", "bad", "cancelled") and phase is (Phase.TRAINING, Phase.EVALUATING)[kind]:
                    event = (run, self._job_ended(run, kind, state, s))
                    if event not in s.mail and not self.ignored(s.runs[run], event[1]):
                        yield from self._hears(f"that job {kind} of run {run + 1} ended is heard", s, *event)

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
            if value is None or value.phase.final:
                continue
            for wants, fault, asked in self._asked_for(s, value):
                event = self.number(asked)
                if not self.ignored(number, event) and (run, event) not in s.mail:
                    for words, _, after in self._hears(f"{wants} run {run + 1}", s, run, event):
                        yield words, fault, after
        if self.shape.freezes:
            words = "somebody ends the freeze" if s.frozen else "somebody freezes the loop"
            yield words, not s.frozen, s._replace(frozen=not s.frozen)

    def _asked_for(self, s: State, run: Run) -> Iterator[tuple[str, bool, on.Event]]:
        """What is sent to a run that hears it now; nobody but who resumes it can be relied on."""
        shape, common = self.shape, {"run": run.id, "by": "eve", "reason": ""}
        hears = {kind for phase, kind in lifecycle.RULES if phase is run.phase}
        by_person = run.paused is not None and run.paused.by != lifecycle._ITSELF
        if shape.cancels and on.Cancelled in hears:
            yield "somebody cancels", True, on.Cancelled(id="cancelled", at=NOW, **common)
        if shape.backs and on.RollBackAsked in hears:
            yield "somebody takes back", True, on.RollBackAsked(id="back-asked", at=NOW, **common)
        if run.resumed < shape.pauses and on.Paused in hears:
            yield "somebody pauses", True, on.Paused(id="paused", at=NOW - timedelta(hours=1), **common)
        if (run.resumed < shape.pauses or by_person) and on.Resumed in hears:
            yield "somebody resumes", False, on.Resumed(id="resumed", at=NOW, **common)
        if shape.supersedes and lifecycle.gives_way(run) and not s.frozen:
            yield "a newer model takes the place of", True, _superseded(run)

    def _sweeps(self, s: State) -> Iterator[Move]:
        for run, number in enumerate(s.runs):
            value = self.values[number] if number else None
            if value is None or value.phase.final:
                continue
            request = s.asked[run] and self.values[s.asked[run]]
            if value.phase is Phase.AWAITING_APPROVAL and request and request.state in asking.ANSWERS:
                answer = self._told(s, run).mail[-1]
                if answer not in s.mail:
                    yield from self._hears(f"the sweep tells run {run + 1} its answer", s, *answer)

    def row_moves(self, s: State) -> Iterator[Move]:
        """What the sweep does about the list of a run."""
        for run, number in enumerate(s.runs):
            value = self.values[number] if number else None
            if value is not None and rolls(value):
                event = self._report(tuple(p.rows[run] for p in s.sites), number)
                if event and not self._reporting(s, run) and not self.ignored(number, event):
                    words = f"run {run + 1} is told how its sites stand: {self.values[event].id}"
                    yield words, False, s._replace(mail=(*s.mail, (run, event)))
                if value.phase is Phase.ROLLING_OUT and value.paused is None and not value.resumed:
                    late = self._wave_over(value)
                    if (run, late) not in s.mail and not self.ignored(number, late) and self._listed_all(s, run, value):
                        yield from self._hears(f"time passes for wave {value.wave + 1}", s, run, late)

    def _hears(self, words: str, s: State, run: int, event: int) -> Iterator[Move]:
        """Of what can be told anew for as long as it matters: so that where nobody may come in between, a worker that
        is idle may tell it at any time, and it need not be kept."""
        if self.shape.reads:
            yield words, False, s._replace(mail=(*s.mail, (run, event)))
        elif () in s.workers:
            for then, fault, after in self._tell(s, s.workers.index(()), run, event, s.runs[run]):
                yield f"{words}; {then}", fault, after

    def _reporting(self, s: State, run: int) -> bool:
        return any(r == run and isinstance(self.values[e], on.WaveReported | on.RollbackReported) for r, e in s.mail)

    def _listed_all(self, s: State, run: int, value: Run) -> bool:
        """A wave's time is set when it is asked for."""
        return any(p.rows[run] for n, p in enumerate(s.sites) if min(n, 1) == value.wave)

    def asks(self, s: State) -> int:
        """The run that may ask sites now: the one that rolls out; between rollouts, that which made the champion."""
        if s.frozen:
            return -1
        active = [run for run, number in enumerate(s.runs) if number and not self.is_final(number)]
        for run in active:
            value = self.values[s.runs[run]]
            return run if (value.phase is Phase.ROLLING_OUT or sites._begun(value)) and not value.paused else -1
        return s.champion

    def _asked_now(self, s: State, n: int, place: Site) -> Iterator[tuple[str, Site]]:
        """A site whose turn it is is asked."""
        run = self.asks(s)
        how, asked = self.turn(place, run)
        updating, down = sum(is_updating(p, run) for p in s.sites), sum(p.status in rollout.DOWN for p in s.sites)
        if asked != place and self.rooms(updating, down)[how] > 0:
            yield f"site {n} is asked", asked

    def turn(self, place: Site, run: int) -> tuple[int, Site]:
        """Which room it needs, and the site once it is asked; the same where it is not to be."""
        if run >= 0 and place.rows[run] == "waiting":
            return int(place.status in rollout.DOWN), _asked(place, run)
        away = (place.run, place.back, place.status) == (run, False, "deferred") and place.serves != run
        return 2, _mailed(place, run, back=False) if run >= 0 and away else place

    def rooms(self, updating: int, down: int) -> tuple[int, int, int]:
        """For one that is well, that is down, and that is there again."""
        room = rollout.room(self.limits.rollout, self.shape.sites, updating, down)
        again = rollout.room(self.limits.rollout, self.shape.sites, updating, max(0, down - 1))
        return room.well, room.at_once, again.well

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
                at=NOW + timedelta(hours=self.shape.rule),  # so that a question about the rest ends later
                wave=run.wave,
                verified=verified,
                failed=failed,
                deferred=deferred,
                pending=pending,
                removed=removed,
            )
        )

    # --- what must hold

    def begins_wave(self, before: State, after: State) -> int:
        """The wave that begins, from 1 on; 0: none."""
        for old, new in zip(before.runs, after.runs, strict=True):
            was, is_ = self.values[old], self.values[new]
            if old and is_.phase is Phase.ROLLING_OUT and is_.wave > (was.wave if was.phase is is_.phase else 0):
                return int(is_.wave)
        return 0

    def check_wave(self, s: State, run: int, wave: int) -> None:
        """Invariant 14, where the next wave begins."""
        earlier = [place.rows[run] for n, place in enumerate(s.sites) if min(n, 1) < wave]
        if any(row in ("", "waiting", "asked", "applied") for row in earlier):
            raise Violation(f"14: wave {wave + 1} begins while the one before it is {earlier}")

    def check(self, s: State) -> None:
        """Of one state. Raises Violation."""
        self.check_core(s)
        for n, place in enumerate(s.sites):
            self.check_site(s, n, place)
        if (changing := sum(map(is_changing, s.sites))) > self.at_most:
            raise Violation(f"15: {changing} sites are being changed at once")
        if self.quiet(s):
            self._check_back(s)

    def check_core(self, s: State) -> None:
        if len([run for run in s.runs if run and not self.is_final(run)]) > 1:
            raise Violation("1: two runs are active")
        for run, number in enumerate(s.runs):
            if number and self.is_final(number) and not self._busy(s, run):
                self._check_ended(s, run)

    def check_site(self, s: State, n: int, place: Site) -> None:
        if place.serves >= 0:
            request = self.values[s.asked[place.serves]]
            by_rule = self.shape.rule and not n
            if (
                not request
                or request.candidate != _digest(place.serves)
                or not (by_rule or request.state == "approved")
            ):
                raise Violation(f"9: site {n} serves what nobody approved")
        if not place.back and place.run >= 0 and place.good == place.run and place.status in ("asked", "applied"):
            raise Violation(f"16: site {n} calls good what it has not verified")
        if place.back and place.before == place.run:
            raise Violation(f"17: site {n} is taken back to what it is taken back from")
        if place.status == "verified" and place.run >= 0 and place.good != place.run:
            raise Violation(f"20: site {n} is called verified and serves something else")

    def _check_back(self, s: State) -> None:
        for n, place in enumerate(s.sites):
            asked = place.serves if place.run < 0 else place.before if place.back else place.run
            phase = self.values[s.runs[asked]].phase if asked >= 0 else Phase.VERIFIED
            if phase is not Phase.VERIFIED and place.serves == asked:
                raise Violation(f"22: run {asked + 1} is {phase}, and site {n} is to serve its candidate")

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


def _asks_again(run: Run) -> bool:
    """Whether people will be asked about the rest, once a wave that was approved by rule is verified."""
    return run.phase is Phase.ROLLING_OUT and run.through is not None and run.wave < run.through < len(run.waves)


def rolls(run: Run) -> bool:
    """Whether it hears how its sites stand."""
    return run.phase in (Phase.ROLLING_OUT, Phase.ROLLING_BACK) or sites._begun(run)


def _wants(run: Run, back: bool) -> bool:
    """Whether a request at a site is what a run wants now."""
    return run.phase in sites._BACK if back else run.phase in sites._OUT or sites._begun(run)


def put(values: Sequence[Any], n: int, value: Any) -> Any:
    return (*values[:n], value, *values[n + 1 :])


def _superseded(run: Run) -> on.Event:
    return on.Superseded(id=f"superseded/{len(run.times)}", run=run.id, at=NOW, by="")


def _digest(candidate: int) -> str:
    return str(candidate + 1) * 64


def _fence(run: int, back: bool) -> int:
    return sites.fence(f"line.2026-03-10.{run + 1}", back)


def _mailed(place: Site, run: int, back: bool) -> Site:
    return place._replace(mail=tuple(sorted({*place.mail, (run, back)})))


def _asked(place: Site, run: int) -> Site:
    return _mailed(place, run, back=False)._replace(rows=put(place.rows, run, "asked"))


def is_updating(place: Site, run: int) -> bool:
    asked = place.rows[run] == "asked" or (
        (place.run, place.status) == (run, "deferred") and (run, False) in place.mail
    )
    return place.status in rollout.UPDATING or (run >= 0 and asked)


def is_changing(place: Site) -> bool:
    return place.status in rollout.UPDATING and not place.back


def swapped(s: State) -> State:
    """Sites 1 and 2 in each other's place."""
    places = (s.sites[0], s.sites[2], s.sites[1], *s.sites[3:])
    return s._replace(sites=places, workers=swapped_workers(s.workers))


def swapped_workers(workers: tuple[tuple[Any, ...], ...]) -> tuple[tuple[Any, ...], ...]:
    return tuple(sorted((w[0], 3 - w[1], *w[2:]) if w[:1] == ("apply",) and w[1] in (1, 2) else w for w in workers))
