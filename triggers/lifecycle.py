"""How a retraining run moves, as a table.

Whatever can change a run is in this file. No clock, network or disk is read here: facts arrive as events,
and what the world must do next leaves as effects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from triggers import effects as do
from triggers import events as on
from triggers.approval import waking
from triggers.config import duration
from triggers.errors import DriftloopError
from triggers.gates import Verdict, judge, worst
from triggers.policy import Decision
from triggers.rollout import judge_wave
from triggers.run import Limits, Pause, Phase, Run, WaveTimes

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
    authors: tuple[str, ...] = (),
    requested_by: tuple[str, ...] = (),
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
        model=model,
        data_start=start,
        data_end=end,
        holdout_end=decision.at,
        requested_by=requested_by,
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
        authors=(*limits.training.authors, *authors),
    )
    deadline = do.SetDeadline(phase=Phase.TRAINING, at=decision.at + duration(limits.training.timeout))
    return Step(run, (train, deadline))


def enter(
    decision: Decision,
    run_id: str,
    champion: str,
    candidate: str,
    limits: Limits,
    requested_by: tuple[str, ...] = (),
) -> Step:
    """A run for a candidate that somebody else trained: it enters at the gate."""
    run = begin(decision, run_id, champion, limits, requested_by=requested_by).run
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
    verdict = judge(event.evidence, run.candidate, run.champion, run.limits.gates, event.at, event.rooms)
    if run.limits.unknown:
        why = f"a newer version asked for {', '.join(run.limits.unknown)}, of which this one knows nothing"
        verdict = worst([verdict, Verdict("inconclusive", why)])
    judged = replace(run, evidence=event.digest, outcome=verdict.outcome, verdict=verdict.reason)
    if verdict.outcome == "failed":
        return _to(Phase.REJECTED, judged, event, verdict.reason)
    return _ask(judged, event, verdict.reason)


_REMIND, _ESCALATE = f"{Phase.AWAITING_APPROVAL}/remind", f"{Phase.AWAITING_APPROVAL}/escalate"


def _ask(run: Run, event: on.Event, because: str) -> Step:
    """Wait for people; quiet hours do not count for how long."""
    rules = run.limits.approval
    expires = waking(event.at, duration(rules.expires), rules.quiet)
    after = rules.escalate.after if rules.escalate else None
    escalates = waking(event.at, duration(after), rules.quiet) if after else None
    ask = do.AskApproval(
        candidate=run.candidate,
        evidence=run.evidence,
        outcome=run.outcome,
        verdict=run.verdict,
        expires=expires,
        escalates=escalates,
    )
    deadlines = [do.SetDeadline(phase=Phase.AWAITING_APPROVAL, at=expires)]
    if escalates:
        deadlines.append(do.SetDeadline(phase=_ESCALATE, at=escalates))
    if rules.remind:
        deadlines.append(_next_reminder(run, event, rules.remind))
    return _to(Phase.AWAITING_APPROVAL, run, event, because, ask, *deadlines, expires=expires, paused=None)


def _next_reminder(run: Run, event: on.Event, every: str) -> do.SetDeadline:
    return do.SetDeadline(phase=_REMIND, at=waking(event.at, duration(every), run.limits.approval.quiet))


def _answered(run: Run, event: on.Answered) -> Step:
    said = f"{event.by}: {event.reason}" if event.reason else event.by
    if event.answer != "approve":
        because = f"{'rejected' if event.answer == 'reject' else 'sent back for changes'} by {said}"
        return _back(run, event, because) if run.times else _to(Phase.REJECTED, run, event, because)
    if (event.candidate, event.evidence) != (run.candidate, run.evidence):
        return _to(Phase.REJECTED, run, event, f"the answer of {event.by} is about another candidate or evidence")
    if not event.waves:
        return _to(Phase.REJECTED, run, event, "the plan is not the one that was shown, or names no site")
    approved = replace(run, approved_by=event.by, plan=event.plan, waves=event.waves, through=event.through)
    return _start_wave(approved, event, len(run.times), f"approved by {said}")


def _start_wave(run: Run, event: on.Event, wave: int, because: str) -> Step:
    times = (*run.times, WaveTimes(started=event.at, sites=run.waves[wave].sites))
    deploy = do.DeployWave(wave=wave, candidate=run.candidate)
    title = f"{run.loop}: wave {wave + 1} of {len(run.waves)} begins"
    told = do.Announce(kind="progress", title=title, text=because)
    return _to(Phase.ROLLING_OUT, run, event, because, deploy, told, wave=wave, times=times, paused=None)


def _wave_reported(run: Run, event: on.WaveReported) -> Step:
    if event.wave != run.wave:
        return Step(run)  # late: that wave is already judged
    verdict = judge_wave(event, run.limits.rollout, _sites(run))
    if verdict.outcome == "failed":
        return _back(run, event, verdict.reason)
    if verdict.outcome == "inconclusive" or (run.paused and run.paused.by != _ITSELF):
        return Step(replace(run, because=verdict.reason))
    done = replace(run.times[-1], verified=event.at, deferred=event.deferred)
    judged = replace(run, times=(*run.times[:-1], done), seen=frozenset(i for i in run.seen if not _of_wave(i)))
    if judged.through is not None and run.wave + 1 == judged.through < len(run.waves):
        return _ask(judged, event, f"{verdict.reason}; that was approved by rule, the rest waits for a person")
    if run.wave + 1 < len(run.waves):
        return _start_wave(judged, event, run.wave + 1, verdict.reason)
    reached = _sites(run) - sum(t.deferred for t in judged.times)
    return _to(Phase.VERIFIED, judged, event, f"verified at {reached} sites by their own telemetry", paused=None)


def _went_bad(run: Run, event: on.WaveReported) -> Step:
    """What was approved by rule and verified may still go bad while a person thinks about the rest."""
    verdict = judge_wave(event, run.limits.rollout, _sites(run))
    if verdict.outcome != "failed":
        return Step(run)
    return _unanswered(run, event, Phase.ROLLING_BACK, verdict.reason, verdict.reason)


def _sites(run: Run) -> int:
    """Of the whole rollout."""
    return sum(w.sites for w in run.waves)


def wave_report_id(run: str, wave: int, counts: tuple[int, ...]) -> str:
    """The id of a wave's report: the same counts are the same fact."""
    return f"wave/{run}/{wave}/{'-'.join(map(str, counts))}"


def _of_wave(event_id: str) -> bool:
    return event_id.startswith("wave/")


def _back(run: Run, event: on.Event, because: str) -> Step:
    back = do.RollBack(through=run.wave, reason=because)
    limits = run.limits.rollout
    patience = duration(limits.deadline) + (_A_WINDOW if limits.rollback_in_windows else timedelta(0))
    deadline = do.SetDeadline(phase=Phase.ROLLING_BACK, at=event.at + patience)
    return _to(Phase.ROLLING_BACK, run, event, because, back, deadline, paused=None)


_A_WINDOW = timedelta(days=14)
"""By when every site has had a window, where the way back waits for them."""

_ITSELF = "driftloop"


def _paused(run: Run, event: on.Paused) -> Step:
    if run.paused:
        return Step(run)
    pause = Pause(by=event.by, at=event.at, reason=event.reason)
    return Step(replace(run, paused=pause, because=f"paused by {event.by}: {event.reason}"))


def _resumed(run: Run, event: on.Resumed) -> Step:
    """The wave is asked again, with time anew; what it has reported is judged again."""
    if not run.paused:
        return Step(run)
    deploy = do.DeployWave(wave=run.wave, candidate=run.candidate)
    heard = frozenset(i for i in run.seen if not _of_wave(i))
    because = f"resumed by {event.by}: {event.reason}"
    return Step(replace(run, paused=None, resumed=run.resumed + 1, seen=heard, because=because), (deploy,))


def wave_deadline(run: Run) -> str:
    """The name of the time given to a wave; each resumption gives it a new one."""
    return f"{Phase.ROLLING_OUT}/{run.wave}{f'/{run.resumed}' if run.resumed else ''}"


def _out_of_time(run: Run, event: on.DeadlinePassed) -> Step:
    """A wave that is not decided in time is no success and no failure: a person is asked, for so long."""
    if run.paused:
        return Step(run)
    why = f"wave {run.wave + 1} was not verified in time ({run.because})"
    ask = do.SetDeadline(phase=_pause(event.at), at=event.at + duration(run.limits.rollout.ask))
    title = f"{run.loop}: wave {run.wave + 1} is inconclusive: resume it, or roll it back"
    told = do.Announce(kind="paused", title=title, text=f"{why}; unanswered for {run.limits.rollout.ask}, all go back")
    return Step(replace(run, paused=Pause(by=_ITSELF, at=event.at, reason=why), because=why), (ask, told))


def _pause(at: datetime) -> str:
    return f"paused/{at:%Y%m%dT%H%M%S}"


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
    if event.phase == wave_deadline(run) and run.phase is Phase.ROLLING_OUT:
        return _out_of_time(run, event)
    if run.paused and run.phase is Phase.ROLLING_OUT and event.phase == _pause(run.paused.at):
        return _back(run, event, f"{run.paused.reason}, and nobody went on with it")
    if run.phase is Phase.AWAITING_APPROVAL and event.phase == _ESCALATE:
        return Step(run, (do.Remind(at=event.at, escalated=True),))
    if run.phase is Phase.AWAITING_APPROVAL and event.phase == _REMIND and run.limits.approval.remind:
        return Step(run, (do.Remind(at=event.at), _next_reminder(run, event, run.limits.approval.remind)))
    if event.phase != run.phase:
        return Step(run)
    if run.phase is Phase.AWAITING_APPROVAL:
        if run.expires is not None and event.at < run.expires:
            return Step(run)  # of a question that was asked before
        return _unanswered(run, event, Phase.EXPIRED, "nobody answered in time", "expired")
    if run.phase is Phase.ROLLING_BACK:
        late = f"{run.because}; not every site has said in time that it is back"
        return _to(Phase.ROLLED_BACK, run, event, late)
    return _to(Phase.FAILED, run, event, f"{run.phase} took too long", do.CancelJob(job=job(run)))


def _cancelled(run: Run, event: on.Cancelled) -> Step:
    return _stopped(run, event, Phase.CANCELLED, f"cancelled by {event.by}: {event.reason}")


def _superseded(run: Run, event: on.Superseded) -> Step:
    return _stopped(run, event, Phase.SUPERSEDED, f"superseded by {event.by}")


def _stopped(run: Run, event: on.Event, phase: Phase, because: str) -> Step:
    if run.phase is Phase.AWAITING_APPROVAL:
        return _unanswered(run, event, phase, because, str(phase))
    return _to(phase, run, event, because, do.CancelJob(job=job(run)))


def _unanswered(run: Run, event: on.Event, phase: Phase, because: str, reason: str) -> Step:
    """The question is withdrawn; sites that were reached by rule go back."""
    withdraw = do.WithdrawApproval(reason=reason)
    if not run.times:
        return _to(phase, run, event, because, withdraw)
    back = _back(run, event, because)
    return Step(back.run, (withdraw, *back.effects))


def job(run: Run) -> str:
    """The name of what trains or evaluates for a run in that phase."""
    return f"{run.id}-{'train' if run.phase is Phase.TRAINING else 'evaluate'}"


def _back_asked(run: Run, event: on.RollBackAsked | on.Cancelled) -> Step:
    return _back(run, event, f"taken back by {event.by}: {event.reason}")


def _back_asked_meanwhile(run: Run, event: on.RollBackAsked) -> Step:
    """Somebody wants the way back from what was approved by rule, while people are asked about the rest."""
    if not run.times:
        return Step(run)
    return _unanswered(run, event, Phase.ROLLING_BACK, f"taken back by {event.by}: {event.reason}", "taken back")


def _nothing(run: Run, event: on.Event) -> Step:
    """The run is on its way back already."""
    return Step(run)


def _late(run: Run, event: on.Paused | on.Resumed) -> Step:
    """What it was about is verified."""
    return Step(run)


def _let_go(run: Run, event: on.Superseded) -> Step:
    """Its rollout has begun: a newer model takes its place only while people are asked."""
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
    (Phase.AWAITING_APPROVAL, on.Answered): Rule(_answered, (Phase.ROLLING_OUT, Phase.REJECTED, Phase.ROLLING_BACK)),
    (Phase.AWAITING_APPROVAL, on.WaveReported): Rule(_went_bad, (Phase.ROLLING_BACK,)),
    (Phase.AWAITING_APPROVAL, on.DeadlinePassed): Rule(_deadline, (Phase.EXPIRED, Phase.ROLLING_BACK)),
    (Phase.AWAITING_APPROVAL, on.Cancelled): Rule(_cancelled, (Phase.CANCELLED, Phase.ROLLING_BACK)),
    (Phase.AWAITING_APPROVAL, on.Superseded): Rule(_superseded, (Phase.SUPERSEDED, Phase.ROLLING_BACK)),
    (Phase.AWAITING_APPROVAL, on.RollBackAsked): Rule(_back_asked_meanwhile, (Phase.ROLLING_BACK,)),
    (Phase.AWAITING_APPROVAL, on.Paused): Rule(_late, ()),
    (Phase.AWAITING_APPROVAL, on.Resumed): Rule(_late, ()),
    (Phase.ROLLING_OUT, on.WaveReported): Rule(
        _wave_reported, (Phase.VERIFIED, Phase.ROLLING_BACK, Phase.AWAITING_APPROVAL)
    ),
    (Phase.ROLLING_OUT, on.DeadlinePassed): Rule(_deadline, (Phase.ROLLING_BACK,)),
    (Phase.ROLLING_OUT, on.RollBackAsked): Rule(_back_asked, (Phase.ROLLING_BACK,)),
    (Phase.ROLLING_OUT, on.Cancelled): Rule(_back_asked, (Phase.ROLLING_BACK,)),
    (Phase.ROLLING_OUT, on.Paused): Rule(_paused, (Phase.ROLLING_OUT,)),
    (Phase.ROLLING_OUT, on.Resumed): Rule(_resumed, (Phase.ROLLING_OUT,)),
    (Phase.ROLLING_OUT, on.Superseded): Rule(_let_go, ()),
    (Phase.ROLLING_BACK, on.RollbackReported): Rule(_restored, (Phase.ROLLED_BACK,)),
    (Phase.ROLLING_BACK, on.WaveReported): Rule(_nothing, ()),
    (Phase.ROLLING_BACK, on.DeadlinePassed): Rule(_deadline, (Phase.ROLLED_BACK,)),
    (Phase.ROLLING_BACK, on.RollBackAsked): Rule(_nothing, ()),
    (Phase.ROLLING_BACK, on.Cancelled): Rule(_nothing, ()),
    (Phase.ROLLING_BACK, on.Paused): Rule(_nothing, ()),
    (Phase.ROLLING_BACK, on.Resumed): Rule(_nothing, ()),
    (Phase.ROLLING_BACK, on.Answered): Rule(_nothing, ()),
    (Phase.ROLLING_BACK, on.Superseded): Rule(_nothing, ()),
}
"""Every fact that may reach a run, by phase. What is not here is refused."""


def heeds(run: Run, what: type[on.Event]) -> bool:
    """Whether this, told to the run now, may be more than late."""
    if run.phase is Phase.AWAITING_APPROVAL and what in (on.Paused, on.Resumed, on.RollBackAsked):
        return what is on.RollBackAsked and bool(run.times)  # sites were reached by rule
    return (run.phase, what) in RULES


def gives_way(run: Run) -> bool:
    """Whether a newer run or model may take its place."""
    rule = RULES.get((run.phase, on.Superseded))
    return rule is not None and bool(rule.leads_to)
