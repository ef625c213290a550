"""Who may answer what, and when."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from triggers.config import Approval, Automatic, Quiet

State = Literal["open", "approved", "rejected", "changes", "withdrawn", "automatic"]
_BECOMES: Mapping[str, State] = {"approve": "approved", "reject": "rejected", "changes": "changes"}
IN_WORDS: Mapping[str, str] = {"changes": "sent back for changes", "automatic": "approved by rule for the first ring"}
"""How a state is said, where it is not a word."""


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """One person's yes: from which account, and by which entry of the list it counts."""

    by: str
    id: str = ""
    entry: str
    at: datetime
    reason: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A question to people, bound to the digests of candidate, evidence and plan. Decided at most once.

    `requested_by` and `authors` are names and ids; who else may answer from `escalates` on is in loop.yaml.
    """

    run: str
    loop: str
    candidate: str
    evidence: str
    plan: str
    outcome: str
    verdict: str
    asked: datetime
    expires: datetime
    state: State = "open"
    by: str = ""
    answered: datetime | None = None
    reason: str = ""
    requested_by: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    escalates: datetime | None = None
    consents: tuple[Consent, ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says, with the digests that were on the page they saw.

    `id` and `groups` are what their sign-in proves; `partial`: it names some of their groups at most.
    """

    answer: Literal["approve", "reject", "changes"]
    by: str
    reason: str
    candidate: str
    evidence: str
    plan: str
    id: str = ""
    groups: frozenset[str] = frozenset()
    partial: bool = False


def refusal(request: Request, answer: Answer, rules: Approval, now: datetime, frozen: str = "") -> str:
    """Why this answer does not count; empty where it does. `frozen`: why nothing new may begin now."""
    if request.state != "open":
        return f"already {IN_WORDS.get(request.state, request.state)}" + (f" by {request.by}" if request.by else "")
    if now >= request.expires:
        return f"expired at {request.expires:%Y-%m-%d %H:%M} UTC"
    if why := not_asked(request, answer, rules, now):
        return why
    shown = (answer.candidate, answer.evidence, answer.plan)
    if shown != (request.candidate, request.evidence, request.plan):
        return "candidate, evidence or plan are not the ones that were shown"
    if frozen and (answer.answer == "approve" or rules.frozen == "nothing"):
        return frozen
    return not_impartial(request, answer, rules) if answer.answer == "approve" else ""


def not_asked(request: Request, answer: Answer, rules: Approval, now: datetime) -> str:
    """Why this is nobody whose answer is asked for; empty where it is."""
    if entry(request, answer, rules, now):
        return ""
    who = answer.by or "nobody"
    if answer.partial and rules.groups:
        return f"{who} is in more groups than the sign-in names, so that it is not known whether they may answer"
    return f"{who} is not on the list of approvers"


def not_impartial(request: Request, answer: Answer, rules: Approval) -> str:
    """Why somebody on the list may not approve this one; empty where they may."""
    them = known(rules, (answer.by, answer.id))
    if not rules.self_approval and them & known(rules, request.requested_by):
        return f"{answer.by} asked for this run: somebody else has to approve it"
    if not rules.self_approval and them & known(rules, request.authors):
        return f"{answer.by} is an author of what is to be approved: somebody else has to approve it"
    for given in request.consents:
        if them & known(rules, (given.by, given.id)):
            return f"{answer.by} has approved already" + (f", as {given.by}" if given.by != answer.by else "")
    return ""


def known(rules: Approval, names: Iterable[str]) -> frozenset[str]:
    """Every name and id by which the person behind these is known, whatever their case and Unicode form.

    >>> sorted(known(Approval(accounts={"ann": ("Ann@x.org", "7f")}), ["ANN@x.org"]))
    ['7f', 'ann', 'ann@x.org']
    """
    found = {_folded(name) for name in names if name}
    for who, accounts in rules.accounts.items():
        one = {_folded(name) for name in (who, *accounts)}
        found |= one if one & found else set()
    return frozenset(found)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def entry(request: Request, answer: Answer | Consent, rules: Approval, now: datetime) -> str:
    """By which entry of the list somebody may answer; empty where by none. Case is no difference: sign-ins have none
    (Azure's come in lower case). Other ways of writing a name are: what looks alike may be somebody else."""
    people, groups = approvers(request, rules, now)
    listed = {name.lower(): name for name in people}
    mine = [name.lower() for name in (answer.by, answer.id) if name]
    mine += [who.lower() for who, accounts in rules.accounts.items() if {a.lower() for a in accounts} & set(mine)]
    if named := next((listed[name] for name in mine if name in listed), ""):
        return named
    mine = [answer.entry] if isinstance(answer, Consent) else [f"group {g}" for g in sorted(answer.groups)]
    return next((name for name in mine if name in {f"group {g}" for g in groups}), "")


def approvers(request: Request, rules: Approval, now: datetime) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The people, and the groups, who may answer now."""
    more = rules.escalate if request.escalates is not None and now >= request.escalates else None
    if more is None:
        return rules.approvers, rules.groups
    return (*rules.approvers, *more.approvers), (*rules.groups, *more.groups)


def answered(request: Request, answer: Answer, rules: Approval, now: datetime) -> Request:
    """The request with its answer; `refusal` must have been empty. It stays open until enough people have approved,
    each of whom still may."""
    replace = msgspec.structs.replace
    state, by, consents = _BECOMES[answer.answer], answer.by, request.consents
    if answer.answer == "approve":
        counts = entry(request, answer, rules, now)
        given = Consent(by=answer.by, id=answer.id, entry=counts, at=now, reason=answer.reason)
        consents = (*(c for c in consents if entry(request, c, rules, now)), given)
        if len(consents) < rules.needed:
            return replace(request, consents=consents)
        by = " and ".join(c.by for c in consents)
    return replace(request, state=state, by=by, answered=now, reason=answer.reason, consents=consents)


def said_before(request: Request, answer: Answer) -> bool:
    """Whether this is the same account's same answer, come again."""
    shown = (answer.candidate, answer.evidence, answer.plan) == (request.candidate, request.evidence, request.plan)
    given = request.consents if answer.answer == "approve" else ()
    same = any((c.by, c.id) == (answer.by, answer.id) for c in given)
    if request.state == "open":
        return shown and same
    return shown and request.state == _BECOMES[answer.answer] and (same or request.by == answer.by)


def first_ring(rings: Sequence[str]) -> int:
    """How many of a plan's waves, whose rings these are, belong to the first.

    >>> first_ring(["lab", "lab", "plant"])
    2
    """
    return next((n for n, ring in enumerate(rings) if ring != rings[0]), len(rings))


def not_automatic(
    rules: Automatic | None,
    outcome: str,
    evidence: Mapping[str, Any],
    champion: Mapping[str, Any],
    challenger: Mapping[str, Any],
) -> str:
    """Why no wave begins without a person; empty where those of the first ring may. The last two are manifests."""
    if rules is None:
        return "nothing is approved by rule"
    if outcome != "passed":
        return f"the gate says {outcome}"
    low = evidence.get("gain_low")
    if not isinstance(low, int | float) or not low > rules.minimum_gain:
        return f"the lower end of the gain, {low}, does not exceed {rules.minimum_gain:g}"
    for what, old, new in (
        ("schema", champion.get("schema"), challenger.get("schema")),
        ("task", champion.get("task"), challenger.get("task")),
        *((n, champion.get("lineage", {}).get(n), challenger.get("lineage", {}).get(n)) for n in _SAME),
    ):
        if not old or old != new:
            return f"{what} is not the champion's"
    return ""


_SAME = ("code", "settings", "architecture", "environment")

# --- quiet hours

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_STEP = timedelta(minutes=15)


def quiet(at: datetime, hours: Quiet | None) -> bool:
    """Whether nobody is to be disturbed now."""
    if hours is None:
        return False
    there = at.astimezone(ZoneInfo(hours.timezone))
    if _DAYS[there.weekday()] in hours.days:
        return True
    clock, start, end = f"{there:%H:%M}", hours.start, hours.end
    return start <= clock < end if start <= end else clock >= start or clock < end


def waking(at: datetime, length: timedelta, hours: Quiet | None) -> datetime:
    """When `length` has passed since `at`, quiet hours not counted. Zones differ from UTC by quarters of an hour, and
    quiet hours begin and end on them: between two of them nothing changes.

    >>> night, evening = Quiet(start="20:00", end="06:00"), datetime.fromisoformat("2026-03-10T19:00+00:00")
    >>> waking(evening, timedelta(hours=3), night).isoformat()
    '2026-03-11T08:00:00+00:00'
    """
    if hours is None:
        return at + length
    while True:
        step = _STEP - timedelta(minutes=at.minute % 15, seconds=at.second, microseconds=at.microsecond)
        if not quiet(at, hours):
            if length < step:
                return at + length
            length -= step
        at += step
