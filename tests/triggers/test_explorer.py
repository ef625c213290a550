"""The explorer finds nothing in the product, and each bug that is planted there, with the history that leads to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.explore import Found, Taken, explore
from bench.model import LIMITS, Explorer, Shape, Site, State, Violation
from triggers import approval, lifecycle, rollout, sites
from triggers import effects as do
from triggers import events as on
from triggers.lifecycle import Rule, Step
from triggers.run import Phase

ONE = Shape(workers=1, runs=1, sites=1, people=1, crashes=0)
replace = ONE._replace
Plant = Callable[[pytest.MonkeyPatch], Explorer | None]
LONG = pytest.mark.nightly


def test_nothing_is_violated_in_any_state_of_a_small_world() -> None:
    found = explore(replace(sites=2, people=2, crashes=1, cancels=1, freezes=1, steps=1, reads=1))
    assert found.states > 10_000
    assert found.depth > 40
    assert {"verified", "rolled-back", "rejected", "failed", "cancelled", "expired"} == found.phases.keys()


BACK = (on.WaveReported, on.RollBackAsked, on.Cancelled, on.Paused, on.Resumed, on.Answered, on.Superseded)
UNTAKEN = {(Phase.ROLLING_BACK, kind): "it does nothing: that is tried wherever it may be taken" for kind in BACK}
"""Why some of `lifecycle.RULES` are never taken."""


def test_each_rule_of_the_lifecycle_is_taken_or_said_why_not() -> None:
    taken = Taken()
    for shape in (
        replace(sites=2, cancels=1, pauses=1, backs=1, rule=1, fails=1),
        replace(runs=2, supersedes=1),
        replace(sites=2, backs=1, supersedes=1, rule=1, reads=1),
    ):
        explore(shape, e := Explorer(shape))
        taken.add(e)
    assert taken.never() == set()
    assert set(lifecycle.RULES) - taken.taken == UNTAKEN.keys()


@pytest.mark.parametrize(
    "shape",
    [
        replace(sites=2, crashes=1, freezes=1, pauses=1, backs=1),
        replace(runs=2, supersedes=1, reads=1),
        replace(workers=2, people=2, crashes=1, needed=2, reads=1),
    ],
    ids=str,
)
def test_nothing_is_violated_where_people_pause_and_where_newer_runs_begin(shape: Shape) -> None:
    found = explore(shape)
    assert found.states > 500
    assert ("superseded" in " ".join(found.phases)) is bool(shape.supersedes)


class Plain(Explorer):
    """Keeps what cannot matter any more."""

    def tidy(self, s: State) -> State:
        mail = {m for m in s.mail if not self.ignored(s.runs[m[0]], m[1])}
        return s._replace(
            mail=tuple(sorted(mail)), outbox=tuple(sorted(set(s.outbox))), workers=tuple(sorted(s.workers))
        )

    def remains(self, s: State, place: Site) -> Site:
        return place


def _seen(found: Found, keys: Any) -> set[Any]:
    """Of these states: phases, the champion, and how each site is and what it serves."""
    e, seen = found.space.e, set()
    for key in keys:
        s = found.space.state(int(key))
        phases = tuple(str(e.values[run].phase) if run else "" for run in s.runs)
        of = [(p.serves, "well" if p.status in ("verified", "restored") else p.status) for p in s.sites]
        seen.add((phases, s.champion, s.frozen, of[0], tuple(sorted(of[1:]))))
    return seen


@pytest.mark.parametrize(
    "shape",
    [
        replace(crashes=1),
        replace(crashes=1, cancels=1, freezes=1),
        replace(sites=2),
        replace(runs=2, people=2),
        replace(people=2, needed=2),
        replace(supersedes=1, fails=1),
        pytest.param(replace(pauses=1, backs=1), marks=LONG),
        pytest.param(replace(runs=2, supersedes=1), marks=LONG),
        pytest.param(replace(runs=2, sites=2, people=2), marks=LONG),
        pytest.param(replace(crashes=1, cancels=1, freezes=1, steps=1), marks=LONG),
        pytest.param(replace(workers=2, crashes=1), marks=LONG),
        pytest.param(replace(sites=2, crashes=1), marks=LONG),
        pytest.param(replace(runs=2, crashes=1), marks=LONG),
        pytest.param(replace(sites=3), marks=LONG),
    ],
    ids=str,
)
def test_what_is_left_out_would_reach_nothing_else(shape: Shape) -> None:
    """Where it is kept, and others come in between load and save, the same is seen, and the ends are the same."""
    some = explore(shape)
    whole = explore(shape, Plain(shape._replace(reads=1)))
    assert whole.states > 3 * some.states
    assert _seen(some, some.keys) == _seen(whole, whole.keys)
    assert _seen(some, some.ends) == _seen(whole, whole.ends)


@pytest.mark.parametrize(
    "shape",
    [
        replace(workers=2, people=2, crashes=1, cancels=1, freezes=1, reads=1),
        replace(runs=2, crashes=1),
        replace(runs=2, pauses=1, backs=1, supersedes=1),
        replace(sites=3, steps=1),
    ],
    ids=str,
)
def test_states_as_numbers_are_those_that_single_moves_lead_to(shape: Shape) -> None:
    e = Explorer(shape)
    seen = _one_by_one(e)
    found = explore(shape, e)
    assert found.states == len(seen)
    assert {int(key) for key in found.keys} == {found.space.number(state) for state in seen}


def _one_by_one(e: Explorer) -> set[State]:
    first = e.canonical(e.start())
    seen, waiting = {first}, [first]
    while waiting:
        here = waiting.pop()
        e.check(here)
        new = {after for _, _, after in e.moves(here)} - seen
        seen |= new
        waiting += new
    return seen


class Ordered(Explorer):
    """Tells the sites of a wave apart, at first."""

    apart = True

    def alike(self, s: State) -> bool:
        return not self.apart and super().alike(s)

    def ordered(self, s: State) -> State:
        return s if self.apart else super().ordered(s)


@pytest.mark.parametrize("shape", [replace(sites=3, crashes=1), pytest.param(replace(sites=3, steps=1), marks=LONG)])
def test_sites_that_are_told_apart_reach_nothing_else(shape: Shape) -> None:
    e = Ordered(shape)
    apart = _one_by_one(e)
    e.apart = False
    together = _one_by_one(e)
    assert len(apart) > 1.5 * len(together)
    assert {e.ordered(state) for state in apart} == together


class Blind(Explorer):
    """Writes over whatever somebody else wrote."""

    def holds(self, s: Any, what: str, run: int, loaded: int = 0) -> bool:
        return True

    def _in_vain(self, *which: Any) -> bool:
        return False


class SelfAsked(Explorer):
    """The first run was asked for by an approver."""

    def begun(self, run: int, champion: int) -> Step:
        return super().begun(run + 1, champion)


class Forgetful(Explorer):
    """A job that was begun for nothing runs on."""

    def overtaken(self, s: Any, run: int, effect: do.Effect) -> Any:
        return s


class Heedless(Explorer):
    """What a verified run asked for begins whenever it arrives."""

    def _no_place(self, s: State, place: int) -> bool:
        return False


def _ruled(patch: pytest.MonkeyPatch, phase: Phase, kind: type[on.Event], apply: Callable[..., Step]) -> None:
    patch.setitem(lifecycle.RULES, (phase, kind), Rule(apply, lifecycle.RULES[phase, kind].leads_to))  # type: ignore[arg-type]


def _racing_begins(patch: pytest.MonkeyPatch) -> Explorer:
    return Blind(replace(workers=2, runs=2, reads=1))


def _lost_update(patch: pytest.MonkeyPatch) -> Explorer:
    return Blind(replace(workers=2, people=0, reads=1))


def _racing_answers(patch: pytest.MonkeyPatch) -> Explorer:
    class RacingAnswers(Explorer):
        def holds(self, s: Any, what: str, run: int, loaded: int = 0) -> bool:
            return what == "asked" or super().holds(s, what, run, loaded)

        def _in_vain(self, s: Any, worker: tuple[Any, ...]) -> bool:
            return worker[0] != "answer" and super()._in_vain(s, worker)

    return RacingAnswers(replace(workers=2, people=2, reads=1))


def _forgets_what_it_saw(patch: pytest.MonkeyPatch) -> None:
    real = lifecycle.advance

    def advance(run: Any, event: on.Event) -> Step:
        step = real(run, event)
        return Step(lifecycle.replace(step.run, seen=step.run.seen - {event.id}), step.effects)

    patch.setattr(lifecycle, "advance", advance)


def _no_is_yes(patch: pytest.MonkeyPatch) -> None:
    def answered(run: Any, event: on.Answered) -> Step:
        return lifecycle._answered(run, lifecycle.replace(event, answer="approve"))

    _ruled(patch, Phase.AWAITING_APPROVAL, on.Answered, answered)


def _approves_its_own(patch: pytest.MonkeyPatch) -> Explorer:
    patch.setattr(approval, "not_impartial", lambda *of: "")
    return SelfAsked(ONE)


def _does_not_wait(patch: pytest.MonkeyPatch) -> Explorer:
    patch.setattr(rollout, "count", lambda statuses, wave, of: (of, 0, 0, 0, 0))
    return Explorer(replace(sites=2))


def _all_at_once(patch: pytest.MonkeyPatch) -> Explorer:
    patch.setattr(rollout, "room", lambda *of: rollout.Room(3, 3))
    return Explorer(replace(sites=3))


def _late_request(patch: pytest.MonkeyPatch) -> Explorer:
    return Heedless(replace(runs=2, sites=3, people=2))


def _goes_on_while_frozen(patch: pytest.MonkeyPatch) -> Explorer:
    patch.setattr(do, "GOES_ON_WHILE_FROZEN", (*do.GOES_ON_WHILE_FROZEN, do.Train))
    return Explorer(replace(freezes=1))


def _no_cancelling(patch: pytest.MonkeyPatch) -> Explorer:
    def stopped(run: Any, event: on.Cancelled) -> Step:
        return Step(lifecycle._cancelled(run, event).run)

    _ruled(patch, Phase.TRAINING, on.Cancelled, stopped)
    return Explorer(replace(cancels=1))


def _submits_too_late(patch: pytest.MonkeyPatch) -> Explorer:
    return Forgetful(replace(workers=2, cancels=1))


def _waits_for_ever(patch: pytest.MonkeyPatch) -> Explorer:
    _ruled(patch, Phase.AWAITING_APPROVAL, on.DeadlinePassed, lambda run, event: Step(run))
    return Explorer(replace(people=0))


def _goes_nowhere(patch: pytest.MonkeyPatch) -> Explorer:
    _ruled(patch, Phase.EVALUATING, on.Evaluated, lambda run, event: Step(lifecycle.replace(run, phase=Phase.VERIFIED)))
    return Explorer(ONE)


def _one_is_enough(patch: pytest.MonkeyPatch) -> Explorer:
    real = approval.answered
    alone = lifecycle.replace(LIMITS.approval, needed=1)
    patch.setattr(approval, "answered", lambda request, given, rules, now: real(request, given, alone, now))
    return Explorer(replace(people=2, needed=2))


def _ends_for_no_newer_one(patch: pytest.MonkeyPatch) -> Explorer:
    _ruled(patch, Phase.TRAINING, on.Superseded, lambda run, event: Step(run))
    return Explorer(replace(runs=2, supersedes=1))


def _stays_paused(patch: pytest.MonkeyPatch) -> Explorer:
    _ruled(patch, Phase.ROLLING_OUT, on.Resumed, lambda run, event: Step(run))
    return Explorer(replace(pauses=1))


def _all_by_rule(patch: pytest.MonkeyPatch) -> Explorer:
    def answered(run: Any, event: on.Answered) -> Step:
        return lifecycle._answered(run, lifecycle.replace(event, through=None))

    _ruled(patch, Phase.AWAITING_APPROVAL, on.Answered, answered)
    return Explorer(replace(sites=2, rule=1))


def _way_back_is_older(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sites, "fence", lambda run_id, back=False: 4 * int(run_id.rsplit(".", 1)[1]) - back)


PLANTED: dict[str, tuple[str, Plant]] = {
    "two workers begin at once": ("1: two runs", _racing_begins),
    "a save without its expected version": ("2: from failed", _lost_update),
    "an event may come twice": ("2: job/0 comes twice", _forgets_what_it_saw),
    "an edge that is not declared": ("2: run line.2026-03-10.1 is verified () and was told Evaluated", _goes_nowhere),
    "a no that counts as a yes": ("9: site 0", _no_is_yes),
    "an approval of one's own": ("10: ann", _approves_its_own),
    "answers without their expected version": ("11: ", _racing_answers),
    "a wave that waits for nobody": ("14: wave 2", _does_not_wait),
    "no limit of what is unavailable": ("15: 2 sites", _all_at_once),
    "a request of the run before that comes late": ("15: 2 sites", _late_request),
    "a freeze that lets training begin": ("18: Train", _goes_on_while_frozen),
    "a cancelled run whose job runs on": ("21: run 1 is cancelled", _no_cancelling),
    "a job that is submitted too late": ("21: run 1 is ", _submits_too_late),
    "a question that never expires": ("22: from here", _waits_for_ever),
    "a way back that is older than the way out": ("22: run 1 is rolled-back", _way_back_is_older),
    "one yes where two are needed": ("10: ann approves alone", _one_is_enough),
    "a newer run beside the one before": ("1: two runs", _ends_for_no_newer_one),
    "a rollout that nobody can resume": ("22: from here", _stays_paused),
    "all waves by rule": ("9: site 1", _all_by_rule),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found_and_its_history_told(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, plant = PLANTED[bug]
    made = plant(monkeypatch)
    with pytest.raises(Violation) as found:
        explore(ONE, made or Explorer(ONE))
    assert str(found.value).startswith(expected), str(found.value)
    assert "\n   1 worker 0 checks: run 1 is due" in str(found.value)
