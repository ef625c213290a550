"""Who may answer what, and when."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from triggers.config import Approval


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A question to a person, bound to the digests of candidate, evidence and plan. Answered at most once."""

    run: str
    loop: str
    candidate: str
    evidence: str
    plan: str
    outcome: str
    verdict: str
    asked: datetime
    expires: datetime
    state: Literal["open", "approved", "rejected", "withdrawn"] = "open"
    by: str = ""
    answered: datetime | None = None
    reason: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says, with the digests that were on the page they saw."""

    answer: Literal["approve", "reject"]
    by: str
    reason: str
    candidate: str
    evidence: str
    plan: str


def refusal(request: Request, answer: Answer, rules: Approval, now: datetime) -> str:
    """Why this answer does not count; empty where it does."""
    if request.state != "open":
        return f"already {request.state}" + (f" by {request.by}" if request.by else "")
    if now >= request.expires:
        return f"expired at {request.expires:%Y-%m-%d %H:%M} UTC"
    if answer.by not in rules.approvers:
        return f"{answer.by or 'nobody'} is not on the list of approvers"
    shown = (answer.candidate, answer.evidence, answer.plan)
    if shown != (request.candidate, request.evidence, request.plan):
        return "candidate, evidence or plan are not the ones that were shown"
    return ""


def answered(request: Request, answer: Answer, now: datetime) -> Request:
    """The request with its answer; `refusal` must have been empty."""
    state: Literal["approved", "rejected"] = "approved" if answer.answer == "approve" else "rejected"
    return msgspec.structs.replace(request, state=state, by=answer.by, answered=now, reason=answer.reason)
