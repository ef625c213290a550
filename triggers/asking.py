"""People are asked about a run's candidate, and what they answer becomes the run's event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from triggers import approval, candidates, codec, notices, rollout, sites
from triggers import effects as do
from triggers import events as on
from triggers.errors import NotFound, Refused
from triggers.ports import Ports
from triggers.records import LoopUnit, again, hand_on, loop_of
from triggers.run import Phase, Run

replace = msgspec.structs.replace


def ask(ports: Ports, run: Run, effect: do.AskApproval) -> bool:
    """Ask, or let the first ring's waves begin by rule. False while those who would be told are not to be disturbed."""
    if run.plan:
        plan, digest = sites.load_plan(ports, run.plan), run.plan
    else:
        plan = rollout.plan(ports.configs.fleet(run.loop), run.limits.rollout, run.loop, run.candidate, run.sites)
        data = codec.encode(plan)
        ports.blobs.put(f"plans/{(digest := codec.digest(data))}", data)
    now = ports.clock.now()
    lineage = candidates.manifest(ports, run.candidate).get("lineage") or {}
    request = approval.Request(
        run=run.id,
        loop=run.loop,
        candidate=effect.candidate,
        evidence=effect.evidence,
        plan=digest,
        outcome=effect.outcome,
        verdict=effect.verdict,
        asked=now,
        expires=effect.expires,
        escalates=effect.escalates,
        requested_by=run.requested_by,
        authors=tuple(lineage.get("authors") or ()),
    )
    why_not = "a person answers for the rest" if run.times else _not_automatic(ports, run, effect)

    def attempt() -> approval.Request | None:
        unit = LoopUnit(ports.store, run.loop, now)
        if unit.run(run.id).phase is not Phase.AWAITING_APPROVAL:
            return None  # overtaken: what has withdrawn the question did not find it yet
        known = unit.get(f"approval/{run.id}", approval.Request)
        if known is not None and (known.state != "automatic" or not run.times):
            return known
        asked = request if why_not else replace(request, state="automatic", answered=now)
        unit.put(f"approval/{run.id}", asked)
        if why_not:
            unit.note("approval-asked", run.id, effect.verdict, plan=digest, candidate=effect.candidate)
        else:
            ring, waves = plan.waves[0].ring, approval.first_ring([w.ring for w in plan.waves])
            said = f"automatic, by the bounds in loop.yaml, for the {waves} waves of ring {ring}: {effect.verdict}"
            bound = {"candidate": effect.candidate, "evidence": effect.evidence, "plan": digest}
            unit.note("answered", run.id, said, "driftloop", answer="approve", automatic=True, through=waves, **bound)
        unit.commit()
        return asked

    asked = again(attempt)
    if asked is None:
        return True
    if asked.state == "automatic":
        tell(ports, asked)
        return True
    return asked.state != "open" or _tell_approvers(ports, run, asked, "a new model waits for your answer", "")


def _not_automatic(ports: Ports, run: Run, effect: do.AskApproval) -> str:
    """By the rules as they were when the run began, and as they are now."""
    rules = run.limits.approval.automatic, ports.configs.loop(run.loop).approval.automatic
    if None in rules:
        return approval.not_automatic(None, "", {}, {}, {})
    found = ports.blobs.get(f"evidence/{effect.evidence}.json")
    if codec.digest(found) != effect.evidence:
        return "the evidence is not what was judged"
    if why := candidates.revoked(ports, run.loop, run.candidate):
        return why
    pair = candidates.manifest(ports, run.champion), candidates.manifest(ports, run.candidate)
    whys = [approval.not_automatic(rule, effect.outcome, msgspec.json.decode(found), *pair) for rule in rules]
    return next(filter(None, whys), "")


def _tell_approvers(ports: Ports, run: Run, request: approval.Request, what: str, suffix: str) -> bool:
    """False where it is not the hour."""
    rules, now = ports.configs.loop(run.loop).approval, ports.clock.now()
    if approval.quiet(now, rules.quiet):
        return False
    people, groups = approval.approvers(request, rules, now)
    given = {"approved by": [c.by for c in request.consents]} if request.consents else {}
    notices.tell(
        ports,
        run.loop,
        {
            "id": f"approval/{run.id}{suffix}",
            "kind": "approval",
            "loop": run.loop,
            "title": f"{run.loop}: {what}",
            "text": request.verdict,
            "facts": {
                "run": run.id,
                "candidate": request.candidate[:12],
                "approvers": [*people, *(f"group {g}" for g in groups)],
                **({"needed": rules.needed} if rules.needed > 1 else {}),
                **given,
                "expires": f"{request.expires:%Y-%m-%d %H:%M} UTC",
            },
            "link": f"/api/approvals/{run.id}",
        },
    )
    return True


def remind(ports: Ports, run: Run, effect: do.Remind) -> bool:
    """Ask those again who have not answered. False while they are not to be disturbed."""
    unit = LoopUnit(ports.store, run.loop, ports.clock.now())
    request = unit.get(f"approval/{run.id}", approval.Request)
    if request is None or request.state != "open":
        return True
    what = "nobody has answered: it is your turn" if effect.escalated else "a new model still waits for your answer"
    return _tell_approvers(ports, run, request, what, f"/{effect.at:%Y%m%dT%H%M}/{int(effect.escalated)}")


def withdraw(ports: Ports, run: Run, effect: do.WithdrawApproval) -> None:
    """An open question is not open any more; an answer that has been given stays."""

    def attempt() -> None:
        unit = LoopUnit(ports.store, run.loop, ports.clock.now())
        request = unit.get(f"approval/{run.id}", approval.Request)
        if request is not None and request.state == "open":
            unit.put(f"approval/{run.id}", replace(request, state="withdrawn", reason=effect.reason))
            unit.note("approval-withdrawn", run.id, effect.reason)
            unit.commit()

    again(attempt)


def answer(ports: Ports, run_id: str, given: approval.Answer) -> str:
    """Take a person's answer; returns why it does not count, or nothing. One decision counts, whoever else answers."""
    loop_name = loop_of(run_id)
    rules = ports.configs.loop(loop_name).approval

    def attempt() -> str:
        unit = LoopUnit(ports.store, loop_name, ports.clock.now())
        request = unit.need(f"approval/{run_id}", approval.Request)
        if approval.said_before(request, given):
            if request.state != "open":
                tell(ports, request)
            return ""
        why = approval.refusal(request, given, rules, unit.now, sites.frozen(ports, loop_name))
        if given.answer == "approve":
            why = why or candidates.revoked(ports, loop_name, request.candidate) or _swapped(ports, request)
        if why:
            _note_refused(unit, run_id, given, why)
        else:
            request = approval.answered(request, given, rules, unit.now)
            unit.put(f"approval/{run_id}", request)
            more = f" ({len(request.consents)} of {rules.needed})" if request.consents and rules.needed > 1 else ""
            told = {k: v for k, v in msgspec.to_builtins(given).items() if k != "groups"}
            unit.note("answered", run_id, f"{_said(given)}{more}", given.by, **told)
        unit.commit()
        if not why and request.state != "open":
            tell(ports, request)
        return why

    return again(attempt)


def _swapped(ports: Ports, request: approval.Request) -> str:
    """What of the question is no longer the bytes that were judged; empty where all are."""
    try:
        candidates.manifest(ports, request.candidate)
        sites.load_plan(ports, request.plan)
        evidence = ports.blobs.get(f"evidence/{request.evidence}.json")
    except (NotFound, Refused) as problem:
        return str(problem)
    whole = codec.digest(evidence) == request.evidence
    return "" if whole else f"evidence {request.evidence[:12]} is not what was judged"


def refuse(ports: Ports, run_id: str, given: approval.Answer, why: str) -> None:
    """Note that somebody known tried to answer, and why that did not get so far as to be looked at."""

    def attempt() -> None:
        unit = LoopUnit(ports.store, loop_of(run_id), ports.clock.now())
        unit.need(f"approval/{run_id}", approval.Request)
        _note_refused(unit, run_id, given, why)
        unit.commit()

    again(attempt)


def _note_refused(unit: LoopUnit, run_id: str, given: approval.Answer, why: str) -> None:
    unit.note("answer-refused", run_id, f"{_said(given)}; refused: {why}", given.by, id=given.id)


def _said(given: approval.Answer) -> str:
    return f"{given.answer} by {given.by}" + (f": {given.reason}" if given.reason else "")


def tell(ports: Ports, request: approval.Request) -> None:
    """Hand an answer on to its run. A plan that is not the one that was shown has no waves, and so deploys nothing."""
    try:
        waves = sites.load_plan(ports, request.plan).summary
    except Refused:
        waves = ()
    by_rule = request.state == "automatic"
    event = on.Answered(
        id=f"answer/{request.run}{'/automatic' * by_rule}",
        run=request.run,
        at=request.answered or ports.clock.now(),
        answer=ANSWERS[request.state],
        by="rule" if by_rule else request.by,
        reason=request.reason,
        candidate=request.candidate,
        evidence=request.evidence,
        plan=request.plan,
        waves=waves,
        through=approval.first_ring([w.ring for w in waves]) if by_rule else None,
    )
    hand_on(ports.bus, event)


ANSWERS: Mapping[str, Literal["approve", "reject", "changes"]] = {
    "approved": "approve",
    "automatic": "approve",
    "rejected": "reject",
    "changes": "changes",
}
"""What a run is told, by the state of its request."""


def tell_again(ports: Ports, run: Run) -> None:
    """An answer that is stored may not have been handed on."""
    record = ports.store.get(run.loop, f"approval/{run.id}")
    if record:
        request = codec.decode(record.value, approval.Request)
        if request.state in ANSWERS:
            tell(ports, request)
