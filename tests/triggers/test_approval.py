"""Whose answer counts, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.triggers.samples import DAY, NEW, NOW, replace
from triggers.approval import Answer, Request, answered, not_automatic, quiet, refusal, said_before, waking
from triggers.config import Approval, Automatic, Escalate, Quiet

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
        ({}, {"by": "Ann"}, DAY, ""),
        ({}, {"by": "\uff41nn"}, DAY, "\uff41nn is not on the list of approvers"),
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


# --- who


GROUP = "group 1d"


@pytest.mark.parametrize(
    ("rules", "answer", "why"),
    [
        ({"approvers": ("7f",)}, {"by": "ann@x.org", "id": "7f"}, ""),
        ({"approvers": ("7f",)}, {"by": "ann@x.org", "id": "8e"}, "ann@x.org is not on the list of approvers"),
        ({"groups": ("1d",)}, {"groups": frozenset({"1d", "2e"})}, ""),
        ({"groups": ("1d",)}, {"groups": frozenset({"2e"})}, "ann is not on the list of approvers"),
        ({"groups": ("1d",)}, {"by": GROUP}, "group 1d is not on the list of approvers"),
        (
            {"groups": ("1d",)},
            {"partial": True},
            "ann is in more groups than the sign-in names, so that it is not known whether they may answer",
        ),
        ({"approvers": ("ann",), "groups": ("1d",)}, {"partial": True}, ""),
        ({"approvers": ("ann",), "accounts": {"ann": ("a2",)}}, {"by": "a2"}, ""),
        ({"approvers": ("Ann@X.org",)}, {"by": "ann@x.org"}, ""),
        ({"approvers": ("Ann",), "accounts": {"ann": ("Ann@X.org",)}}, {"by": "ann@x.org"}, ""),
        ({"approvers": ("7F",)}, {"by": "ann@x.org", "id": "7f"}, ""),
        ({"approvers": ("a2",), "accounts": {"ann": ("a2",)}}, {"by": "ann"}, "ann is not on the list of approvers"),
        ({"approvers": ("ann",), "accounts": {"ann": ("a2",)}}, {"by": "eve"}, "eve is not on the list of approvers"),
        ({"approvers": ("",), "accounts": {"ann": ("",)}}, {"by": "eve"}, "eve is not on the list of approvers"),
        ({"approvers": ("ann",)}, {"by": "eve", "partial": True}, "eve is not on the list of approvers"),
    ],
)
def test_who_may_answer_is_on_the_list_by_name_id_account_or_group(
    rules: dict[str, Any], answer: dict[str, Any], why: str
) -> None:
    assert refusal(a_request(), an_answer(**answer), Approval(**rules), NOW) == why


@pytest.mark.attack
@pytest.mark.parametrize("by", [("ann", ""), ("ANN", ""), ("ann-admin", "8e"), ("other", "7f"), ("\uff41nn", "")])
@pytest.mark.parametrize("role", ["requested_by", "authors"])
@pytest.mark.parametrize("mine", [("ann",), ("Ann",), ("7f",), ("renamed", "7f")])
def test_nobody_approves_what_they_asked_for_or_wrote_whatever_account_they_use(
    by: tuple[str, str], role: str, mine: tuple[str, ...]
) -> None:
    rules = Approval(
        approvers=("ann", "ANN", "ann-admin", "7f", "\uff41nn"), accounts={"ann": ("ann-admin", "7f", "8e")}
    )
    request, answer = a_request(**{role: mine}), an_answer(by=by[0], id=by[1])
    assert "somebody else has to approve it" in refusal(request, answer, rules, NOW)
    assert refusal(request, replace(answer, answer="reject"), rules, NOW) == ""
    open_ = replace(rules, self_approval=True)
    assert refusal(request, answer, open_, NOW) == "", "without its defence the attack succeeds"


@pytest.mark.attack
def test_two_people_have_to_approve_and_are_counted_by_person() -> None:
    rules = Approval(approvers=("ann", "bob", "ann-admin"), accounts={"ann": ("ann-admin",)}, needed=2)
    once = answered(a_request(), an_answer(), rules, NOW)
    assert (once.state, [c.by for c in once.consents]) == ("open", ["ann"])
    assert said_before(once, an_answer())
    again = an_answer(by="ann-admin")
    assert refusal(once, again, rules, NOW) == "ann-admin has approved already, as ann"
    apart = replace(rules, accounts={})
    assert refusal(once, again, apart, NOW) == "", "without its defence, the accounts, one person counts twice"
    renamed = replace(rules, approvers=("ann", "bob", "Ann B."))
    known = answered(a_request(), an_answer(id="7f"), renamed, NOW)
    assert refusal(known, an_answer(by="Ann B.", id="7f"), renamed, NOW) == "Ann B. has approved already, as ann"
    assert refusal(known, an_answer(by="ann"), renamed, NOW) == "ann has approved already"
    twice = answered(once, an_answer(by="bob"), rules, NOW + DAY)
    assert (twice.state, twice.by, twice.answered) == ("approved", "ann and bob", NOW + DAY)
    assert answered(once, an_answer(by="bob", answer="reject"), rules, NOW).state == "rejected"


@pytest.mark.parametrize(
    ("answer", "again", "before"),
    [
        ({}, {}, True),
        ({}, {"by": "bob"}, False),
        ({}, {"answer": "reject"}, False),
        ({}, {"plan": "p2"}, False),
        ({"answer": "reject"}, {"answer": "reject"}, True),
        ({"answer": "reject"}, {"answer": "reject", "by": "bob"}, False),
        ({"answer": "reject"}, {"answer": "changes"}, False),
        ({"answer": "reject"}, {}, False),
        ({"answer": "reject"}, {"answer": "reject", "evidence": "e2"}, False),
    ],
)
def test_an_answer_that_comes_twice_is_the_same_persons_same_answer(
    answer: dict[str, Any], again: dict[str, Any], before: bool
) -> None:
    assert said_before(answered(a_request(), an_answer(**answer), RULES, NOW), an_answer(**again)) is before


def test_each_of_those_who_approved_may_say_so_again() -> None:
    rules = replace(RULES, needed=2)
    both = answered(answered(a_request(), an_answer(), rules, NOW), an_answer(by="bob"), rules, NOW)
    assert both.by == "ann and bob"
    assert [said_before(both, an_answer(by=who)) for who in ("ann", "bob", "cem")] == [True, True, False]


@pytest.mark.attack
def test_the_yes_of_somebody_who_may_no_longer_answer_does_not_count() -> None:
    rules = Approval(approvers=("ann", "bob", "cem"), needed=2)
    once = answered(a_request(), an_answer(), rules, NOW)
    without_ann = replace(rules, approvers=("bob", "cem"))
    after = answered(once, an_answer(by="bob"), without_ann, NOW)
    assert (after.state, [c.by for c in after.consents]) == ("open", ["bob"])
    assert answered(once, an_answer(by="bob"), rules, NOW).state == "approved", "without its defence"


def test_others_may_answer_from_the_escalation_on() -> None:
    rules = replace(RULES, escalate=Escalate(after="1d", approvers=("zoe",), groups=("9c",)))
    request = a_request(escalates=NOW + DAY)
    for answer in (an_answer(by="zoe"), an_answer(by="yan", groups=frozenset({"9c"}))):
        assert "not on the list" in refusal(request, answer, rules, NOW + DAY - timedelta(seconds=1))
        assert refusal(request, answer, rules, NOW + DAY) == ""
    assert "not on the list" in refusal(a_request(), an_answer(by="zoe"), rules, NOW + 2 * DAY)
    assert refusal(request, an_answer(by="ann"), replace(rules, groups=("1d",)), NOW + DAY) == "", (
        "who could, still can"
    )
    mine = an_answer(by="xia", groups=frozenset({"1d"}))
    assert refusal(request, mine, replace(rules, groups=("1d",)), NOW + DAY) == ""


@pytest.mark.parametrize(("frozen", "rejects"), [("reject", ""), ("nothing", "line frozen")])
def test_in_a_freeze_nobody_approves_and_rejecting_is_as_the_rules_say(frozen: Any, rejects: str) -> None:
    rules = replace(RULES, frozen=frozen)
    assert refusal(a_request(), an_answer(), rules, NOW, "line frozen") == "line frozen"
    assert refusal(a_request(), an_answer(answer="reject"), rules, NOW, "line frozen") == rejects


# --- by rule

ALIKE = {"code": "c1", "settings": "s1", "architecture": "a1", "environment": "python 3.11"}
RULE = Automatic(minimum_gain=0.02)
CHAMPION = {"schema": {"version": "1"}, "task": "binary", "lineage": ALIKE}


@pytest.mark.parametrize(
    ("rules", "outcome", "low", "changes", "why"),
    [
        (Automatic(minimum_gain=0.02), "passed", 0.03, {}, ""),
        (None, "passed", 0.03, {}, "nothing is approved by rule"),
        (Automatic(minimum_gain=0.02), "inconclusive", 0.03, {}, "the gate says inconclusive"),
        (Automatic(minimum_gain=0.02), "passed", 0.02, {}, "the lower end of the gain, 0.02, does not exceed 0.02"),
        (Automatic(minimum_gain=0.02), "passed", None, {}, "the lower end of the gain, None, does not exceed 0.02"),
        (
            Automatic(minimum_gain=0.02),
            "passed",
            float("nan"),
            {},
            "the lower end of the gain, nan, does not exceed 0.02",
        ),
        (Automatic(minimum_gain=0.02), "passed", 0.03, {"schema": {"version": "2"}}, "schema is not the champion's"),
        (RULE, "passed", 0.03, {"task": "regression"}, "task is not the champion's"),
        (Automatic(minimum_gain=0.02), "passed", 0.03, {"lineage": {}}, "code is not the champion's"),
        *(
            (RULE, "passed", 0.03, {"lineage": {**ALIKE, name: now}}, f"{name} is not the champion's")
            for name, now in (("environment", "python 3.13"), ("settings", "s2"), ("architecture", ""))
        ),
    ],
)
def test_by_rule_goes_only_what_is_better_and_alike(
    rules: Any, outcome: str, low: Any, changes: dict[str, Any], why: str
) -> None:
    assert not_automatic(rules, outcome, {"gain_low": low}, CHAMPION, {**CHAMPION, **changes}) == why
    assert not_automatic(rules, "passed", {"gain_low": 1.0}, {}, {}) != "", "what is not known is not alike"


# --- quiet hours

NIGHT = Quiet(timezone="Europe/Berlin", start="20:00", end="06:30", days=("sun",))


@pytest.mark.parametrize(
    ("at", "is_quiet"),
    [
        ("2026-03-10T18:59", False),
        ("2026-03-10T19:00", True),
        ("2026-03-11T05:29", True),
        ("2026-03-11T05:30", False),
        ("2026-03-15T12:00", True),
        ("2026-03-29T12:00", True),
        ("2026-03-30T04:30", False),
        ("2026-03-30T04:29", True),
    ],
)
def test_quiet_hours_are_those_of_their_zone(at: str, is_quiet: bool) -> None:
    assert quiet(datetime.fromisoformat(f"{at}+00:00"), NIGHT) is is_quiet


hours = st.builds(
    Quiet,
    timezone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe"]),
    start=st.sampled_from(["00:00", "02:15", "20:00", "23:45"]),
    end=st.sampled_from(["00:00", "02:30", "06:30", "22:00"]),
    days=st.sampled_from([(), ("sun",), ("sat", "sun")]),
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 365 * 1440), st.integers(0, 900), hours)
def test_time_that_counts_is_counted_minute_by_minute(start: int, minutes: int, when: Quiet) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=start)
    found = waking(at, timedelta(minutes=minutes), when)
    clock, left = at, minutes
    while left or quiet(clock, when):
        left -= not quiet(clock, when)
        clock += timedelta(minutes=1)
    assert found == clock
