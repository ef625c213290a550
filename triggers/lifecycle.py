"""How a retraining run moves, as a table.

Whatever can change a run is in this file. No clock, network or disk is read here: facts arrive as events,
and what the world must do next leaves as effects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from triggers import effects as do
from triggers import events as on
from triggers.config import duration
from triggers.errors import DriftloopError
from triggers.gates import judge
from triggers.policy import Decision
from triggers.rollout import judge_wave
from triggers.run import Limits, Phase, Run, WaveTimes

replace = msgspec.structs.replace


class Step(NamedTuple):
    """A run's next state, and what the world must do for it."""

    run: Run
    effects: tuple[do.Effect, ...] = ()


class Rule(NamedTuple):
    """What a fact does in a phase, and the phases it may lead to."""

    apply: Callable[[Run, Any], Step]
    leads_to: tuple[Phase, ...]


class IllegalTransition(DriftloopError):
    """A fact that cannot be true in this phase: a bug, or a forged event."""

    def __init__(self, run: Run, event: on.Event) -> None:
        story = f"run {run.id} is {run.phase} ({run.because}) and was told {type(event).__name__} {event.id}"
        super().__init__(story, run=run.id, phase=str(run.phase), event=event.id)


def begin(
    decision: Decision,
    run_id: str,
    champion: str,
    limits: Limits,
    data: str = "",
    model: str = "",
    trained: tuple[str, str] | None = None,
) -> Step:
    """A run starts in training, on the data before the holdout that its gate will need; or with somebody's `model`,
    which only has to become a candidate."""
    holdout = duration(limits.training.holdout)
    end = decision.at - holdout
    start = end - duration(limits.training.window)
    run = Run(
        id=run_id,
        loop=decision.loop,
        scope=decision.scope,
        sites=decision.sites,
        cause=decision.reason,
        phase=Phase.TRAINING,
        because=decision.reason,
        started=decision.at,
        champion=champion,
        compute=decision.compute,
        data_start=start,
        data_end=end,
        holdout_end=decision.at,
        limits=limits,
    )
    train = do.Train(
        job=f"{run_id}-train",
        start=start,
        end=end,
        sites=decision.sites,
        compute=decision.compute,
        parent=champion,
        data=data,
        model=model,
        trained=trained,
    )
    deadline = do.SetDeadline(phase=Phase.TRAINING, at=decision.at + duration(limits.training.timeout))
    return Step(run, (train, deadline))


def enter(decision: Decision, run_id: str, champion: str, candidate: str, limits: Limits) -> Step:
    """A run for a candidate that somebody else trained: it enters at the gate."""
    run = begin(decision, run_id, champion, limits).run
    return _evaluate(run, on.Trained(id="", run=run_id, at=decision.at, candidate=candidate, rows=0))


def advance(run: Run, event: on.Event) -> Step:
    """Apply one fact to a run: the only door through which a run changes.

    A redelivered event, or one that reaches a finished run, changes nothing.
    """
    if event.id in run.seen or run.phase.final:
        return Step(run)
    rule = RULES.get((run.phase, type(event)))
    if rule is None:
        raise IllegalTransition(run, event)
    step = rule.apply(replace(run, seen=run.seen | {event.id}), event)
    if step.run.phase is not run.phase and step.run.phase not in rule.leads_to:
        raise IllegalTransition(step.run, event)
    return step


def _to(phase: Phase, run: Run, event: on.Event, because: str, *effects: do.Effect, **changes: Any) -> Step:
    """Move to another phase; the end of a run is announced."""
    moved = replace(run, phase=phase, because=because, **changes)
    if not phase.final:
        return Step(moved, effects)
    told = do.Announce(kind=f"run-{phase}", title=f"{run.loop}: {phase}", text=because)
    return Step(replace(moved, ended=event.at), (*effects, told))


def _evaluate(run: Run, event: on.Trained) -> Step:
    job = do.Evaluate(
        job=f"{run.id}-evaluate",
        champion=run.champion,
        challenger=event.candidate,
        start=run.data_end or event.at,
        end=run.holdout_end or event.at,
        sites=run.sites,
        compute=run.compute,
    )
    deadline = do.SetDeadline(phase=Phase.EVALUATING, at=event.at + duration(run.limits.evaluation_timeout))
    because = f"trained on {event.rows:,} rows"
    return _to(Phase.EVALUATING, run, event, because, job, deadline, candidate=event.candidate, rows=event.rows)


def _evaluated(run: Run, event: on.Evaluated) -> Step:
    verdict = judge(event.evidence, run.candidate, run.champion, run.limits.gates, event.at)
    judged = replace(run, evidence=event.digest, outcome=verdict.outcome, verdict=verdict.reason)
    if verdict.outcome == "failed":
        return _to(Phase.REJECTED, judged, event, verdict.reason)
    expires = event.at + duration(run.limits.approval_expires)
    ask = do.AskApproval(
        candidate=run.candidate,
        evidence=event.digest,
        outcome=verdict.outcome,
        verdict=verdict.reason,
        expires=expires,
    )
    deadline = do.SetDeadline(phase=Phase.AWAITING_APPROVAL, at=expires)
    return _to(Phase.AWAITING_APPROVAL, judged, event, verdict.reason, ask, deadline)


def _answered(run: Run, event: on.Answered) -> Step:
    said = f"{event.by}: {event.reason}" if event.reason else event.by
    if event.answer == "reject":
        return _to(Phase.REJECTED, run, event, f"rejected by {said}")
    if (event.candidate, event.evidence) != (run.candidate, run.evidence):
        return _to(Phase.REJECTED, run, event, f"the answer of {event.by} is about another candidate or evidence")
    if not event.waves:
        return _to(Phase.REJECTED, run, event, "the plan is not the one that was shown, or names no site")
    approved = replace(run, approved_by=event.by, plan=event.plan, waves=event.waves)
    return _start_wave(approved, event, 0, f"approved by {said}")


def _start_wave(run: Run, event: on.Event, wave: int, because: str) -> Step:
    times = (*run.times, WaveTimes(started=event.at, sites=run.waves[wave].sites))
    deploy = do.DeployWave(wave=wave, candidate=run.candidate)
    limits = run.limits.rollout
    last = event.at + duration(limits.soak) + duration(limits.deadline)
    deadline = do.SetDeadline(phase=f"{Phase.ROLLING_OUT}/{wave}", at=last)
    title = f"{run.loop}: wave {wave + 1} of {len(run.waves)} begins"
    told = do.Announce(kind="progress", title=title, text=because)
    return _to(Phase.ROLLING_OUT, run, event, because, deploy, deadline, told, wave=wave, times=times)


def _wave_reported(run: Run, event: on.WaveReported) -> Step:
    if event.wave != run.wave:
        return Step(run)  # late: that wave is already judged
    verdict = judge_wave(event, run.limits.rollout)
    if verdict.outcome == "failed":
        return _back(run, event, verdict.reason)
    if verdict.outcome == "inconclusive":
        return Step(replace(run, because=verdict.reason))
    done = replace(run.times[-1], verified=event.at, deferred=event.deferred)
    judged = replace(run, times=(*run.times[:-1], done), seen=frozenset(i for i in run.seen if not _of_wave(i)))
    if run.wave + 1 < len(run.waves):
        return _start_wave(judged, event, run.wave + 1, verdict.reason)
    reached = sum(w.sites for w in run.waves) - sum(t.deferred for t in judged.times)
    return _to(Phase.VERIFIED, judged, event, f"verified at {reached} sites by their own telemetry")


def wave_report_id(run: str, wave: int, counts: tuple[int, int, int, int]) -> str:
    """The id of a wave's report: the same counts are the same fact."""
    return f"wave/{run}/{wave}/{'-'.join(map(str, counts))}"


def _of_wave(event_id: str) -> bool:
    return event_id.startswith("wave/")


def _back(run: Run, event: on.Event, because: str) -> Step:
    back = do.RollBack(through=run.wave, reason=because)
    deadline = do.SetDeadline(phase=Phase.ROLLING_BACK, at=event.at + duration(run.limits.rollout.deadline))
    return _to(Phase.ROLLING_BACK, run, event, because, back, deadline)


def _restored(run: Run, event: on.RollbackReported) -> Step:
    if event.pending:
        return Step(run)
    later = f", {event.deferred} offline follow when they return" if event.deferred else ""
    stuck = f", {event.stuck} refused the way back: {event.because}" if event.stuck else ""
    return _to(Phase.ROLLED_BACK, run, event, f"{run.because}; {event.restored} sites taken back{later}{stuck}")


def _job_failed(run: Run, event: on.JobFailed) -> Step:
    return _to(Phase.FAILED, run, event, f"{event.job}: {event.reason}")


def _deadline(run: Run, event: on.DeadlinePassed) -> Step:
    """The time given to a phase or wave is over; where that is an earlier one, nothing happens."""
    if event.phase == f"{Phase.ROLLING_OUT}/{run.wave}" and run.phase is Phase.ROLLING_OUT:
        return _back(run, event, f"wave {run.wave + 1} was not verified in time ({run.because})")
    if event.phase != run.phase:
        return Step(run)
    if run.phase is Phase.AWAITING_APPROVAL:
        withdraw = do.WithdrawApproval(reason="expired")
        return _to(Phase.EXPIRED, run, event, "nobody answered in time", withdraw)
    if run.phase is Phase.ROLLING_BACK:
        late = f"{run.because}; not every site has said in time that it is back"
        return _to(Phase.ROLLED_BACK, run, event, late)
    return _to(Phase.FAILED, run, event, f"{run.phase} took too long", do.CancelJob(job=_job(run)))


def _cancelled(run: Run, event: on.Cancelled) -> Step:
    return _to(Phase.CANCELLED, run, event, f"cancelled by {event.by}: {event.reason}", *_undo(run, "cancelled"))


def _superseded(run: Run, event: on.Superseded) -> Step:
    return _to(Phase.SUPERSEDED, run, event, f"superseded by {event.by}", *_undo(run, "superseded"))


def _undo(run: Run, reason: str) -> tuple[do.Effect, ...]:
    if run.phase is Phase.AWAITING_APPROVAL:
        return (do.WithdrawApproval(reason=reason),)
    return (do.CancelJob(job=_job(run)),)


def _job(run: Run) -> str:
    return f"{run.id}-{'train' if run.phase is Phase.TRAINING else 'evaluate'}"


def _back_asked(run: Run, event: on.RollBackAsked | on.Cancelled) -> Step:
    return _back(run, event, f"taken back by {event.by}: {event.reason}")


def _nothing(run: Run, event: on.Event) -> Step:
    """The run is on its way back already."""
    return Step(run)


RULES: Mapping[tuple[Phase, type[on.Event]], Rule] = {
    (Phase.TRAINING, on.Trained): Rule(_evaluate, (Phase.EVALUATING,)),
    (Phase.TRAINING, on.JobFailed): Rule(_job_failed, (Phase.FAILED,)),
    (Phase.TRAINING, on.DeadlinePassed): Rule(_deadline, (Phase.FAILED,)),
    (Phase.TRAINING, on.Cancelled): Rule(_cancelled, (Phase.CANCELLED,)),
    (Phase.TRAINING, on.Superseded): Rule(_superseded, (Phase.SUPERSEDED,)),
    (Phase.EVALUATING, on.Evaluated): Rule(_evaluated, (Phase.AWAITING_APPROVAL, Phase.REJECTED)),
    (Phase.EVALUATING, on.JobFailed): Rule(_job_failed, (Phase.FAILED,)),
    (Phase.EVALUATING, on.DeadlinePassed): Rule(_deadline, (Phase.FAILED,)),
    (Phase.EVALUATING, on.Cancelled): Rule(_cancelled, (Phase.CANCELLED,)),
    (Phase.EVALUATING, on.Superseded): Rule(_superseded, (Phase.SUPERSEDED,)),
    (Phase.AWAITING_APPROVAL, on.Answered): Rule(_answered, (Phase.ROLLING_OUT, Phase.REJECTED)),
    (Phase.AWAITING_APPROVAL, on.DeadlinePassed): Rule(_deadline, (Phase.EXPIRED,)),
    (Phase.AWAITING_APPROVAL, on.Cancelled): Rule(_cancelled, (Phase.CANCELLED,)),
    (Phase.AWAITING_APPROVAL, on.Superseded): Rule(_superseded, (Phase.SUPERSEDED,)),
    (Phase.ROLLING_OUT, on.WaveReported): Rule(_wave_reported, (Phase.VERIFIED, Phase.ROLLING_BACK)),
    (Phase.ROLLING_OUT, on.DeadlinePassed): Rule(_deadline, (Phase.ROLLING_BACK,)),
    (Phase.ROLLING_OUT, on.RollBackAsked): Rule(_back_asked, (Phase.ROLLING_BACK,)),
    (Phase.ROLLING_OUT, on.Cancelled): Rule(_back_asked, (Phase.ROLLING_BACK,)),
    (Phase.ROLLING_BACK, on.RollbackReported): Rule(_restored, (Phase.ROLLED_BACK,)),
    (Phase.ROLLING_BACK, on.WaveReported): Rule(_nothing, ()),
    (Phase.ROLLING_BACK, on.DeadlinePassed): Rule(_deadline, (Phase.ROLLED_BACK,)),
    (Phase.ROLLING_BACK, on.RollBackAsked): Rule(_nothing, ()),
    (Phase.ROLLING_BACK, on.Cancelled): Rule(_nothing, ()),
}
"""Every fact that may reach a run, by phase. What is not here is refused."""
