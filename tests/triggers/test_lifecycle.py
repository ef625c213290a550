"""How a run moves: every rule, and nothing but the rules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.triggers.samples import DAY, HOUR, NEW, NOW, OLD, a_comparison, a_run, an_event, evidence, replace
from triggers import effects as do
from triggers import events as on
from triggers.config import Approval, Gates, Rollout, Training, duration
from triggers.lifecycle import (
    _ESCALATE,
    RULES,
    IllegalTransition,
    Step,
    advance,
    begin,
    enter,
    gives_way,
    wave_deadline,
)
from triggers.policy import Decision
from triggers.run import FINAL, Limits, Pause, Phase, Run, WaveTimes

ALL = [(phase, kind) for phase in Phase for kind in on.EVENTS]
UNRULED = [(p, k) for p, k in ALL if not p.final and (p, k) not in RULES]
RUN = "line.2026-03-10.1"


def told(phase: Phase, text: str) -> do.Announce:
    return do.Announce(kind=f"run-{phase}", title=f"line: {phase}", text=text)


def a_decision(**changes: Any) -> Decision:
    return replace(Decision(loop="line", at=NOW, action="retrain", reason="x moved"), **changes)


# --- the table as a whole


@pytest.mark.parametrize(("phase", "kind"), UNRULED, ids=lambda v: str(getattr(v, "__name__", v)))
def test_what_has_no_rule_is_refused(phase: Phase, kind: type[on.Event]) -> None:
    with pytest.raises(IllegalTransition, match=rf"run {RUN} is {phase} .* and was told {kind.__name__} e") as refused:
        advance(a_run(phase), an_event(kind))
    assert refused.value.fields == {"run": RUN, "phase": str(phase), "event": "e"}


@pytest.mark.parametrize("phase", sorted(FINAL))
@pytest.mark.parametrize("kind", on.EVENTS)
def test_a_final_phase_is_never_left(phase: Phase, kind: type[on.Event]) -> None:
    run = a_run(phase, ended=NOW)
    assert advance(run, an_event(kind)) == Step(run)


def test_no_rule_begins_in_a_final_phase_and_every_phase_can_be_reached_and_left() -> None:
    assert not [phase for phase, _ in RULES if phase.final]
    reached = {to for rule in RULES.values() for to in rule.leads_to} | {Phase.TRAINING}
    assert reached == set(Phase)
    leaves = {phase for (phase, _), rule in RULES.items() if rule.leads_to}
    assert leaves == set(Phase) - FINAL


def facts_of_every_kind() -> Iterator[on.Event]:
    """Each with an id of its own, so that one drawn twice is one told twice."""
    number = count()
    for kind in (on.Trained, on.JobFailed, on.Cancelled, on.RollBackAsked, on.Superseded):
        yield an_event(kind, f"e{next(number)}")
    for phase in [str(p) for p in Phase if not p.final] + ["rolling-out/0", "rolling-out/1"]:
        yield an_event(on.DeadlinePassed, f"e{next(number)}", phase=phase)
    for answer, candidate, by_evidence in product(("approve", "reject"), (OLD, NEW), ("e1", "e2")):
        more = {"answer": answer, "candidate": candidate, "evidence": by_evidence}
        yield an_event(on.Answered, f"e{next(number)}", **more)
    for wave, verified, failed, deferred, pending in product((0, 1), (0, 2), (0, 1), (0, 1, 2), (0, 1)):
        counts = {"verified": verified, "failed": failed, "deferred": deferred, "pending": pending}
        yield an_event(on.WaveReported, f"e{next(number)}", wave=wave, **counts)
    for restored, deferred, pending in product((0, 1), repeat=3):
        counts = {"restored": restored, "deferred": deferred, "pending": pending}
        yield an_event(on.RollbackReported, f"e{next(number)}", **counts)
    for gain, low in ((None, None), (math.nan, math.nan), (-0.1, -0.2), (0.1, -0.1), (0.1, 0.05)):
        found = a_comparison(gain=gain, gain_low=low, gain_high=0.3)
        yield an_event(on.Evaluated, f"e{next(number)}", evidence=evidence(overall=found))


FACTS = list(facts_of_every_kind())
LEGAL = {p: [f for f in FACTS if (p, type(f)) in RULES] for p in Phase}
begins = st.sampled_from([p for p in Phase if not p.final])


@st.composite
def stories(draw: st.DrawFn) -> list[on.Event]:
    """Mostly facts of one phase after the other, some out of place, some told again."""
    return draw(
        st.lists(st.one_of(st.sampled_from(FACTS), *map(st.sampled_from, filter(None, LEGAL.values()))), max_size=12)
    )


def play(run: Run, facts: list[on.Event]) -> tuple[Run, list[do.Effect], list[tuple[Phase, type[on.Event], Phase]]]:
    """Told one after the other; what is refused is left out, as the shell does."""
    asked: list[do.Effect] = []
    moves = []
    for fact in facts:
        try:
            step = advance(run, fact)
        except IllegalTransition:
            continue
        moves.append((run.phase, type(fact), step.run.phase))
        asked += step.effects
        run = step.run
    return run, asked, moves


@settings(max_examples=150, deadline=None)
@given(begins, stories())
def test_runs_move_only_along_declared_edges_and_never_out_of_a_final_phase(
    phase: Phase, facts: list[on.Event]
) -> None:
    _, asked, moves = play(a_run(phase), facts)
    for before, kind, after in moves:
        if after is not before:
            assert not before.final
            assert after in RULES[before, kind].leads_to
    ends = [e for e in asked if isinstance(e, do.Announce) and e.kind not in ("progress", "paused")]
    assert len(ends) == (moves[-1][2].final if moves else 0), "an end is announced once"


@settings(max_examples=150, deadline=None)
@given(begins, stories())
def test_a_redelivered_event_changes_nothing(phase: Phase, facts: list[on.Event]) -> None:
    run = a_run(phase)
    taken: list[on.Event] = []
    for fact in facts:
        for again in taken:
            assert advance(run, again) == Step(run)
        try:
            run = advance(run, fact).run
        except IllegalTransition:
            continue
        taken.append(fact)


@settings(max_examples=150, deadline=None)
@given(stories())
def test_nothing_is_deployed_without_an_approval_of_that_candidate_and_evidence(facts: list[on.Event]) -> None:
    run = a_run(Phase.EVALUATING)
    for fact in facts:
        try:
            step = advance(run, fact)
        except IllegalTransition:
            continue
        for effect in step.effects:
            if isinstance(effect, do.DeployWave):
                assert (step.run.approved_by, effect.candidate, step.run.plan) == ("ann", NEW, "p1")
                assert effect.wave == step.run.wave
        run = step.run


@settings(max_examples=150, deadline=None)
@given(stories())
def test_the_next_wave_starts_only_after_the_one_before_it_was_verified_and_nothing_is_pending(
    facts: list[on.Event],
) -> None:
    run = a_run(Phase.ROLLING_OUT)
    for fact in facts:
        try:
            step = advance(run, fact)
        except IllegalTransition:
            continue
        if step.run.wave > run.wave or step.run.phase is Phase.VERIFIED is not run.phase:
            assert isinstance(fact, on.WaveReported)
            assert (fact.wave, fact.pending) == (run.wave, 0)
            assert fact.verified > 0
            assert fact.failed <= run.limits.rollout.max_failed
        run = step.run


# --- rule by rule


def test_a_run_begins_with_training_on_the_data_before_its_holdout() -> None:
    limits = Limits(training=Training(window="60d", holdout="10d", timeout="2h"))
    step = begin(a_decision(scope="site:a", sites=("a",), compute="edge"), RUN, OLD, limits)
    assert step.run == Run(
        id=RUN,
        loop="line",
        scope="site:a",
        sites=("a",),
        cause="x moved",
        phase=Phase.TRAINING,
        because="x moved",
        started=NOW,
        champion=OLD,
        compute="edge",
        data_start=NOW - 70 * DAY,
        data_end=NOW - 10 * DAY,
        holdout_end=NOW,
        limits=limits,
    )
    assert step.effects == (
        do.Train(
            job=f"{RUN}-train", start=NOW - 70 * DAY, end=NOW - 10 * DAY, sites=("a",), compute="edge", parent=OLD
        ),
        do.SetDeadline(phase="training", at=NOW + 2 * HOUR),
    )


def an_evaluation(at: Any = NOW) -> tuple[do.Effect, ...]:
    return (
        do.Evaluate(
            job=f"{RUN}-evaluate",
            champion=OLD,
            challenger=NEW,
            start=NOW - 10 * DAY,
            end=NOW,
            sites=None,
            compute="cloud",
        ),
        do.SetDeadline(phase="evaluating", at=at + HOUR),
    )


def test_a_candidate_that_is_handed_in_enters_at_the_gate() -> None:
    step = enter(a_decision(), RUN, OLD, NEW, Limits())
    assert (step.run.phase, step.run.candidate) == (Phase.EVALUATING, NEW)
    assert step.effects == an_evaluation()


def test_a_trained_candidate_is_evaluated_on_rows_after_its_training() -> None:
    at = NOW + HOUR
    step = advance(a_run(), an_event(on.Trained, at=at))
    assert (step.run.phase, step.run.candidate, step.run.rows) == (Phase.EVALUATING, NEW, 5000)
    assert step.run.because == "trained on 5,000 rows"
    assert step.effects == an_evaluation(at)


@pytest.mark.parametrize("phase", [Phase.TRAINING, Phase.EVALUATING])
def test_a_job_that_failed_ends_the_run(phase: Phase) -> None:
    step = advance(a_run(phase), an_event(on.JobFailed, job="j", reason="exit status 1"))
    assert (step.run.phase, step.run.because, step.run.ended) == (Phase.FAILED, "j: exit status 1", NOW)
    assert step.effects == (told(Phase.FAILED, "j: exit status 1"),)


BETTER = (
    "auc 0.7500 against 0.7000 on 1,000 rows, gain +0.0500 [+0.0300, +0.0700] at 95%, above +0.0000; no frozen holdout"
)


def test_a_candidate_that_passes_is_shown_to_a_person() -> None:
    step = advance(a_run(Phase.EVALUATING), an_event(on.Evaluated))
    run = step.run
    assert (run.phase, run.outcome, run.verdict) == (Phase.AWAITING_APPROVAL, "passed", BETTER)
    expires = NOW + duration(Approval().expires)
    assert step.effects == (
        do.AskApproval(candidate=NEW, evidence="e1", outcome="passed", verdict=BETTER, expires=expires),
        do.SetDeadline(phase="awaiting-approval", at=expires),
    )


def test_what_is_inconclusive_goes_to_a_person_as_just_that() -> None:
    few = evidence(overall=a_comparison(rows=10))
    step = advance(a_run(Phase.EVALUATING), an_event(on.Evaluated, evidence=few))
    verdict = "10 labelled rows outside both training windows, fewer than 500"
    assert (step.run.phase, step.run.outcome, step.run.verdict) == (Phase.AWAITING_APPROVAL, "inconclusive", verdict)
    asked = step.effects[0]
    assert isinstance(asked, do.AskApproval)
    assert (asked.outcome, asked.verdict) == ("inconclusive", verdict)


def test_a_candidate_that_fails_its_gate_is_rejected_with_the_numbers() -> None:
    worse = evidence(overall=a_comparison(challenger=0.65, gain=-0.05, gain_low=-0.07, gain_high=-0.03))
    step = advance(a_run(Phase.EVALUATING), an_event(on.Evaluated, evidence=worse))
    why = "auc 0.6500 against 0.7000 on 1,000 rows, gain -0.0500 [-0.0700, -0.0300] at 95%: not above +0.0000"
    assert (step.run.phase, step.run.because) == (Phase.REJECTED, why)
    assert step.effects == (told(Phase.REJECTED, why),)


def test_the_limits_that_bind_a_run_are_those_of_its_beginning() -> None:
    run = a_run(Phase.EVALUATING, limits=Limits(gates=Gates(minimum_gain=0.04)))
    assert advance(run, an_event(on.Evaluated)).run.outcome == "inconclusive"


def test_limits_of_which_this_version_knows_nothing_let_nobody_pass() -> None:
    run = a_run(Phase.EVALUATING, limits=Limits(unknown=("gates.calm",)))
    found = advance(run, an_event(on.Evaluated)).run
    assert (found.phase, found.outcome) == (Phase.AWAITING_APPROVAL, "inconclusive")
    assert found.verdict == "a newer version asked for gates.calm, of which this one knows nothing"
    worse = evidence(overall=a_comparison(challenger=0.65, gain=-0.05, gain_low=-0.07, gain_high=-0.03))
    assert advance(run, an_event(on.Evaluated, evidence=worse)).run.phase is Phase.REJECTED


def the_first_wave(run: Run, why: str) -> Step:
    waves = (on.Wave("lab", 1), on.Wave("plant", 2))
    times = (WaveTimes(started=NOW, sites=1),)
    moved = replace(
        run, phase=Phase.ROLLING_OUT, because=why, approved_by="ann", plan="p1", waves=waves, times=times, seen={"e"}
    )
    told = do.Announce(kind="progress", title="line: wave 1 of 2 begins", text=why)
    return Step(replace(moved, seen=frozenset({"e"})), (do.DeployWave(wave=0, candidate=NEW), told))


def test_an_approval_starts_the_first_wave() -> None:
    run = a_run(Phase.AWAITING_APPROVAL)
    assert advance(run, an_event(on.Answered)) == the_first_wave(run, "approved by ann: looks right")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"answer": "reject", "reason": ""}, "rejected by ann"),
        ({"answer": "reject"}, "rejected by ann: looks right"),
        ({"candidate": OLD}, "the answer of ann is about another candidate or evidence"),
        ({"evidence": "e2"}, "the answer of ann is about another candidate or evidence"),
        ({"waves": ()}, "the plan is not the one that was shown, or names no site"),
    ],
)
def test_any_other_answer_deploys_nothing(changes: dict[str, Any], why: str) -> None:
    step = advance(a_run(Phase.AWAITING_APPROVAL), an_event(on.Answered, **changes))
    assert (step.run.phase, step.run.because) == (Phase.REJECTED, why)
    assert step.effects == (told(Phase.REJECTED, why),)


def test_a_verified_wave_starts_the_next_one_and_forgets_its_own_reports() -> None:
    run = a_run(Phase.ROLLING_OUT, seen=frozenset({"answer/1", "wave/1/0/0-0-0-1"}))
    step = advance(run, an_event(on.WaveReported, "wave/1/0/1-0-0-0"))
    times = (WaveTimes(started=NOW - HOUR, verified=NOW, sites=1), WaveTimes(started=NOW, sites=2))
    assert (step.run.wave, step.run.times, step.run.seen) == (1, times, frozenset({"answer/1"}))
    assert step.run.because == "wave 1: 1 verified, 0 deferred, 0 pending"
    assert step.effects == (
        do.DeployWave(wave=1, candidate=NEW),
        do.Announce(kind="progress", title="line: wave 2 of 2 begins", text=step.run.because),
    )


def in_the_last_wave(**changes: Any) -> Run:
    times = (WaveTimes(started=NOW - DAY, verified=NOW - HOUR, sites=1), WaveTimes(started=NOW - HOUR, sites=2))
    return a_run(Phase.ROLLING_OUT, wave=1, times=times, **changes)


def test_the_last_wave_verified_ends_the_run() -> None:
    step = advance(in_the_last_wave(), an_event(on.WaveReported, wave=1, verified=1, deferred=1))
    why = "verified at 2 sites by their own telemetry"
    assert (step.run.phase, step.run.because, step.run.ended) == (Phase.VERIFIED, why, NOW)
    assert step.run.times[-1] == WaveTimes(started=NOW - HOUR, verified=NOW, sites=2, deferred=1)
    assert step.effects == (told(Phase.VERIFIED, why),)


def test_a_wave_that_is_not_decided_changes_only_the_words() -> None:
    run = a_run(Phase.ROLLING_OUT)
    step = advance(run, an_event(on.WaveReported, verified=0, deferred=1))
    words = "wave 1: 0 verified, 1 deferred, 0 pending; nobody has verified it"
    assert step == Step(replace(run, because=words, seen=frozenset({"e"})))


def test_a_late_report_of_an_earlier_wave_changes_nothing_but_that_it_was_heard() -> None:
    run = in_the_last_wave()
    step = advance(run, an_event(on.WaveReported, wave=0, verified=0, failed=1))
    assert step == Step(replace(run, seen=frozenset({"e"})))


WAY_BACK = NOW + duration(Rollout().deadline)


def the_way_back(through: int, why: str) -> tuple[do.Effect, ...]:
    return (do.RollBack(through=through, reason=why), do.SetDeadline(phase="rolling-back", at=WAY_BACK))


def test_an_unhealthy_wave_takes_the_model_back_from_every_site_it_reached() -> None:
    step = advance(in_the_last_wave(), an_event(on.WaveReported, wave=1, failed=1, pending=1, because="b: 9 errors"))
    why = "wave 2: 1 failed, 0 tolerated (b: 9 errors)"
    assert (step.run.phase, step.run.because) == (Phase.ROLLING_BACK, why)
    assert step.effects == the_way_back(1, why)


def out_of_time() -> Step:
    return advance(a_run(Phase.ROLLING_OUT, because="0 verified"), an_event(on.DeadlinePassed, phase="rolling-out/0"))


def test_a_wave_that_is_not_decided_in_time_is_paused_and_a_person_asked() -> None:
    step = out_of_time()
    why = "wave 1 was not verified in time (0 verified)"
    assert (step.run.phase, step.run.because) == (Phase.ROLLING_OUT, why)
    assert step.run.paused == Pause(by="driftloop", at=NOW, reason=why)
    ask = do.SetDeadline(phase=f"paused/{NOW:%Y%m%dT%H%M%S}", at=NOW + 2 * DAY)
    title = "line: wave 1 is inconclusive: resume it, or roll it back"
    assert step.effects == (ask, do.Announce(kind="paused", title=title, text=f"{why}; unanswered for 2d, all go back"))


def test_a_paused_wave_that_nobody_goes_on_with_is_taken_back() -> None:
    run = out_of_time().run
    step = advance(run, an_event(on.DeadlinePassed, "e2", phase=f"paused/{NOW:%Y%m%dT%H%M%S}"))
    why = "wave 1 was not verified in time (0 verified), and nobody went on with it"
    assert (step.run.phase, step.run.because, step.run.paused) == (Phase.ROLLING_BACK, why, None)
    assert step.effects == the_way_back(0, why)


def test_a_resumed_wave_is_asked_again_and_its_reports_are_judged_again() -> None:
    run = replace(out_of_time().run, seen=frozenset({"answer/1", "wave/1/0/0-0-0-1"}))
    step = advance(run, an_event(on.Resumed))
    assert (step.run.paused, step.run.seen) == (None, frozenset({"answer/1", "e"}))
    assert step.effects == (do.DeployWave(wave=0, candidate=NEW),)
    stale = an_event(on.DeadlinePassed, "e2", phase=f"paused/{NOW:%Y%m%dT%H%M%S}")
    assert advance(step.run, stale) == Step(replace(step.run, seen=step.run.seen | {"e2"}))


def test_a_person_pauses_and_the_wave_goes_no_further_but_for_the_way_back() -> None:
    paused = advance(a_run(Phase.ROLLING_OUT), an_event(on.Paused))
    assert (paused.run.paused, paused.effects) == (Pause(by="ann", at=NOW, reason="inventory"), ())
    verified = advance(paused.run, an_event(on.WaveReported, "e2", verified=1))
    assert (verified.run.wave, verified.effects) == (0, ())
    late = advance(paused.run, an_event(on.DeadlinePassed, "e2", phase="rolling-out/0"))
    assert (late.run.paused, late.effects) == (paused.run.paused, ())
    failed = advance(paused.run, an_event(on.WaveReported, "e2", failed=1))
    assert (failed.run.phase, failed.run.paused) == (Phase.ROLLING_BACK, None)


def test_a_wave_that_is_verified_after_all_goes_on_without_a_person() -> None:
    step = advance(out_of_time().run, an_event(on.WaveReported, "e2", verified=1))
    assert (step.run.wave, step.run.paused) == (1, None)


def test_the_way_back_has_time_for_windows_where_it_waits_for_them() -> None:
    limits = Limits(rollout=Rollout(rollback_in_windows=True))
    step = advance(a_run(Phase.ROLLING_OUT, limits=limits), an_event(on.RollBackAsked))
    assert step.effects[1] == do.SetDeadline(phase="rolling-back", at=WAY_BACK + 14 * DAY)


@pytest.mark.parametrize("kind", [on.RollBackAsked, on.Cancelled])
def test_a_person_stops_a_rollout_by_the_way_back(kind: type[on.Event]) -> None:
    step = advance(a_run(Phase.ROLLING_OUT), an_event(kind, by="ann", reason="no"))
    assert step.run.phase is Phase.ROLLING_BACK
    assert step.effects == the_way_back(0, "taken back by ann: no")


@pytest.mark.parametrize(
    ("phase", "deadline"),
    [
        (Phase.EVALUATING, "training"),
        (Phase.AWAITING_APPROVAL, "evaluating"),
        (Phase.ROLLING_OUT, "awaiting-approval"),
        (Phase.ROLLING_OUT, "rolling-out/1"),
        (Phase.ROLLING_BACK, "rolling-out/0"),
    ],
)
def test_a_deadline_of_another_phase_or_wave_is_over(phase: Phase, deadline: str) -> None:
    run = a_run(phase)
    step = advance(run, an_event(on.DeadlinePassed, phase=deadline))
    assert step == Step(replace(run, seen=frozenset({"e"})))


@pytest.mark.parametrize(
    ("phase", "ends", "why", "undo"),
    [
        (Phase.TRAINING, Phase.FAILED, "training took too long", do.CancelJob(job=f"{RUN}-train")),
        (Phase.EVALUATING, Phase.FAILED, "evaluating took too long", do.CancelJob(job=f"{RUN}-evaluate")),
        (Phase.AWAITING_APPROVAL, Phase.EXPIRED, "nobody answered in time", do.WithdrawApproval(reason="expired")),
    ],
)
def test_time_runs_out(phase: Phase, ends: Phase, why: str, undo: do.Effect) -> None:
    step = advance(a_run(phase), an_event(on.DeadlinePassed, phase=str(phase)))
    assert (step.run.phase, step.run.because) == (ends, why)
    assert step.effects == (undo, told(ends, why))


@pytest.mark.parametrize(
    ("kind", "ends", "why", "word"),
    [
        (on.Cancelled, Phase.CANCELLED, "cancelled by ann: wrong month", "cancelled"),
        (on.Superseded, Phase.SUPERSEDED, "superseded by line.2026-03-11.2", "superseded"),
    ],
)
@pytest.mark.parametrize("phase", [Phase.TRAINING, Phase.EVALUATING, Phase.AWAITING_APPROVAL])
def test_what_is_under_way_is_undone(phase: Phase, kind: type[on.Event], ends: Phase, why: str, word: str) -> None:
    undo: dict[Phase, do.Effect] = {
        Phase.TRAINING: do.CancelJob(job=f"{RUN}-train"),
        Phase.EVALUATING: do.CancelJob(job=f"{RUN}-evaluate"),
        Phase.AWAITING_APPROVAL: do.WithdrawApproval(reason=word),
    }
    step = advance(a_run(phase), an_event(kind))
    assert (step.run.phase, step.run.because) == (ends, why)
    assert step.effects == (undo[phase], told(ends, why))


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"restored": 2}, "x moved; 2 sites taken back"),
        ({"restored": 1, "deferred": 1}, "x moved; 1 sites taken back, 1 offline follow when they return"),
        (
            {"restored": 1, "stuck": 1, "because": "c: no such bytes"},
            "x moved; 1 sites taken back, 1 refused the way back: c: no such bytes",
        ),
    ],
)
def test_the_way_back_ends_when_no_site_is_pending(counts: dict[str, Any], words: str) -> None:
    step = advance(a_run(Phase.ROLLING_BACK), an_event(on.RollbackReported, **counts))
    assert (step.run.phase, step.run.because) == (Phase.ROLLED_BACK, words)
    assert step.effects == (told(Phase.ROLLED_BACK, words),)


def test_the_way_back_goes_on_while_a_site_is_pending() -> None:
    run = a_run(Phase.ROLLING_BACK)
    assert advance(run, an_event(on.RollbackReported, pending=1)) == Step(replace(run, seen=frozenset({"e"})))


def test_the_way_back_ends_even_where_a_site_never_says_that_it_is_back() -> None:
    step = advance(a_run(Phase.ROLLING_BACK), an_event(on.DeadlinePassed, phase="rolling-back"))
    why = "x moved; not every site has said in time that it is back"
    assert (step.run.phase, step.run.because) == (Phase.ROLLED_BACK, why)
    assert step.effects == (told(Phase.ROLLED_BACK, why),)


# --- what is handed on


def test_what_was_asked_for_is_in_the_run_and_in_its_training() -> None:
    limits = Limits(training=Training(authors=("cem",)))
    more: dict[str, Any] = {"data": "labels:2", "model": "models:7", "trained": ("2026-01-01", "2026-02-01")}
    step = begin(a_decision(), RUN, OLD, limits, requested_by=("eve",), authors=("ben",), **more)
    assert (step.run.requested_by, step.run.model) == (("eve",), "models:7")
    train = step.effects[0]
    assert isinstance(train, do.Train)
    assert {name: getattr(train, name) for name in more} == more
    assert train.authors == ("cem", "ben")


def test_what_is_handed_in_is_nobody_s_training_and_somebody_s_wish() -> None:
    step = enter(a_decision(), RUN, OLD, NEW, Limits(), requested_by=("eve",))
    assert (step.run.requested_by, step.run.rows, step.run.seen) == (("eve",), 0, frozenset())


def test_a_run_of_an_older_version_without_its_times_is_evaluated_on_what_comes_after() -> None:
    step = advance(a_run(data_end=None, holdout_end=None), an_event(on.Trained, at=NOW + HOUR))
    (evaluate, _) = step.effects
    assert isinstance(evaluate, do.Evaluate)
    assert (evaluate.start, evaluate.end) == (NOW + HOUR, NOW + HOUR)


THREE = (on.Wave("lab", 1), on.Wave("plant", 2), on.Wave("plant", 2))


def in_the_second_of_three(**changes: Any) -> Run:
    times = (WaveTimes(started=NOW - DAY, verified=NOW - HOUR, sites=1), WaveTimes(started=NOW - HOUR, sites=2))
    return a_run(Phase.ROLLING_OUT, waves=THREE, wave=1, times=times, **changes)


def test_each_wave_keeps_its_own_times() -> None:
    run = in_the_second_of_three()
    step = advance(run, an_event(on.WaveReported, wave=1, verified=2))
    judged = WaveTimes(started=NOW - HOUR, verified=NOW, sites=2)
    assert step.run.times == (run.times[0], judged, WaveTimes(started=NOW, sites=2))


@pytest.mark.parametrize(
    ("through", "phase", "wave"),
    [
        (None, Phase.ROLLING_OUT, 2),
        (1, Phase.ROLLING_OUT, 2),
        (2, Phase.AWAITING_APPROVAL, 1),
        (3, Phase.ROLLING_OUT, 2),
    ],
)
def test_what_was_approved_by_rule_goes_so_far_and_a_person_is_asked(through: Any, phase: Phase, wave: int) -> None:
    step = advance(in_the_second_of_three(through=through), an_event(on.WaveReported, wave=1, verified=2))
    assert (step.run.phase, step.run.wave) == (phase, wave)
    asked = [e for e in step.effects if isinstance(e, do.AskApproval)]
    assert len(asked) == (phase is Phase.AWAITING_APPROVAL)
    assert [step.run.expires] == ([e.expires for e in asked] or [None])


def test_a_rollout_by_rule_ends_where_its_rule_ends() -> None:
    step = advance(in_the_last_wave(through=2), an_event(on.WaveReported, wave=1, verified=2))
    assert step.run.phase is Phase.VERIFIED


# --- pausing, twice and again


def test_who_pauses_second_changes_nothing() -> None:
    first = advance(a_run(Phase.ROLLING_OUT), an_event(on.Paused)).run
    assert first.because == "paused by ann: inventory"
    second = advance(first, an_event(on.Paused, "e2", by="bob", reason="too"))
    assert second == Step(replace(first, seen=first.seen | {"e2"}))


def test_each_time_that_a_wave_is_resumed_it_has_time_anew() -> None:
    run = a_run(Phase.ROLLING_OUT)
    assert advance(run, an_event(on.Resumed)) == Step(replace(run, seen=frozenset({"e"}))), "it is not paused"
    for times in (1, 2):
        run = advance(run, an_event(on.Paused, f"p{times}")).run
        run = advance(run, an_event(on.Resumed, f"r{times}")).run
        assert (run.resumed, run.because) == (times, "resumed by ann: inventory is over")
        assert wave_deadline(run) == f"rolling-out/0/{times}"
    before = an_event(on.DeadlinePassed, "d1", phase="rolling-out/0/1")
    assert advance(run, before).run.paused is None, "that time was the one before"
    assert advance(run, replace(before, phase="rolling-out/0/2")).run.paused is not None


def test_a_last_wave_that_is_verified_after_all_is_paused_no_longer() -> None:
    late = advance(in_the_last_wave(), an_event(on.DeadlinePassed, phase="rolling-out/1")).run
    assert late.paused
    done = advance(late, an_event(on.WaveReported, "e2", wave=1, verified=2))
    assert (done.run.phase, done.run.paused) == (Phase.VERIFIED, None)


# --- asking


def test_reminders_and_escalations_are_of_a_question_that_is_open() -> None:
    limits = Limits(approval=Approval(remind="4h"))
    asked = advance(a_run(Phase.EVALUATING, limits=limits), an_event(on.Evaluated))
    [remind] = [e for e in asked.effects if isinstance(e, do.SetDeadline) and e.at == NOW + 4 * HOUR]
    (ask,) = [e for e in asked.effects if isinstance(e, do.AskApproval)]
    assert asked.run.expires == ask.expires
    again = advance(asked.run, an_event(on.DeadlinePassed, "d1", phase=remind.phase, at=remind.at))
    assert again.effects == (do.Remind(at=remind.at), replace(remind, at=remind.at + 4 * HOUR))
    quiet = replace(asked.run, limits=Limits(approval=Approval()))
    assert advance(quiet, an_event(on.DeadlinePassed, "d1", phase=remind.phase)).effects == ()
    escalated = advance(asked.run, an_event(on.DeadlinePassed, "d2", phase=_ESCALATE))
    assert escalated.effects == (do.Remind(at=NOW, escalated=True),)
    for other in (Phase.TRAINING, Phase.EVALUATING, Phase.ROLLING_OUT, Phase.ROLLING_BACK):
        for phase in (remind.phase, _ESCALATE):
            run = a_run(other, limits=limits)
            late = advance(run, an_event(on.DeadlinePassed, "d3", phase=phase))
            assert late == Step(replace(run, seen=frozenset({"d3"}))), (other, phase)


@pytest.mark.parametrize("kind", [on.Cancelled, on.Superseded])
def test_what_began_by_rule_goes_back_when_its_question_is_withdrawn(kind: type[on.Event]) -> None:
    times = (WaveTimes(started=NOW - DAY, verified=NOW - HOUR, sites=1),)
    run = a_run(Phase.AWAITING_APPROVAL, waves=THREE, wave=0, times=times, through=1)
    step = advance(run, an_event(kind))
    assert step.run.phase is Phase.ROLLING_BACK
    assert step.run.phase in RULES[Phase.AWAITING_APPROVAL, kind].leads_to
    withdraw, back, deadline = step.effects
    assert isinstance(withdraw, do.WithdrawApproval)
    assert (back, deadline) == the_way_back(0, step.run.because)


@pytest.mark.parametrize(
    "kind", [on.WaveReported, on.RollBackAsked, on.Cancelled, on.Paused, on.Resumed, on.Answered, on.Superseded]
)
def test_on_the_way_back_nothing_else_is_asked_for(kind: type[on.Event]) -> None:
    run = a_run(Phase.ROLLING_BACK)
    assert advance(run, an_event(kind)) == Step(replace(run, seen=frozenset({"e"})))


def test_a_run_gives_way_to_a_newer_one_until_it_rolls_out() -> None:
    gives = {phase for phase in Phase if gives_way(a_run(phase))}
    assert gives == {Phase.TRAINING, Phase.EVALUATING, Phase.AWAITING_APPROVAL}
    run = a_run(Phase.ROLLING_OUT)
    assert advance(run, an_event(on.Superseded)) == Step(replace(run, seen=frozenset({"e"})))
