"""Whose answer counts, and when."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.triggers.samples import DAY, NEW, NOW, replace
from triggers.approval import Answer, Request, answered, refusal
from triggers.config import Approval

RULES = Approval(approvers=("ann", "bob"))


def a_request(**changes: Any) -> Request:
    asked = Request(
        run="line.2026-03-10.1",
        loop="line",
        candidate=NEW,
        evidence="e1",
        plan="p1",
        outcome="passed",
        verdict="better",
        asked=NOW,
        expires=NOW + 3 * DAY,
    )
    return replace(asked, **changes)


def an_answer(**changes: Any) -> Answer:
    given = Answer(answer="approve", by="ann", reason="fine", candidate=NEW, evidence="e1", plan="p1")
    return replace(given, **changes)


OTHER = "candidate, evidence or plan are not the ones that were shown"


@pytest.mark.parametrize(
    ("request_", "answer", "after", "why"),
    [
        ({}, {}, DAY, ""),
        ({}, {"answer": "reject", "by": "bob"}, DAY, ""),
        ({}, {"by": "eve"}, DAY, "eve is not on the list of approvers"),
        ({}, {"by": "Ann"}, DAY, "Ann is not on the list of approvers"),
        ({}, {"by": ""}, DAY, "nobody is not on the list of approvers"),
        ({}, {"candidate": "2" * 64}, DAY, OTHER),
        ({}, {"evidence": "e2"}, DAY, OTHER),
        ({}, {"plan": "p2"}, DAY, OTHER),
        ({}, {}, 3 * DAY - timedelta(microseconds=1), ""),
        ({}, {}, 3 * DAY, "expired at 2026-03-13 06:00 UTC"),
        ({"state": "approved", "by": "bob"}, {}, DAY, "already approved by bob"),
        ({"state": "rejected", "by": "bob"}, {}, DAY, "already rejected by bob"),
        ({"state": "withdrawn"}, {}, DAY, "already withdrawn"),
    ],
)
def test_an_answer_counts_or_is_refused_in_words(
    request_: dict[str, Any], answer: dict[str, Any], after: timedelta, why: str
) -> None:
    assert refusal(a_request(**request_), an_answer(**answer), RULES, NOW + after) == why


def test_nobody_approves_where_nobody_is_on_the_list() -> None:
    assert refusal(a_request(), an_answer(by=""), Approval(), NOW) == "nobody is not on the list of approvers"


@pytest.mark.parametrize(("answer", "state"), [("approve", "approved"), ("reject", "rejected"), ("changes", "changes")])
def test_an_answer_is_kept_with_the_question(answer: Any, state: Any) -> None:
    kept = answered(a_request(), an_answer(answer=answer), RULES, NOW + DAY)
    assert replace(kept, consents=()) == a_request(state=state, by="ann", answered=NOW + DAY, reason="fine")
    assert [c.entry for c in kept.consents] == ["ann"] * (answer == "approve")
