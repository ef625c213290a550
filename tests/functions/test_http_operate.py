"""Changes over HTTP: by a signed-in person who may, from a page of ours, with a reason."""

from __future__ import annotations

import os
import stat
from typing import Any

import pytest

from adapters.local.people import COOKIE, LASTS_S, LocalPeople
from triggers import loop, sites

CHANGES = [
    "loops/flights/retrain",
    "loops/flights/revoke",
    "runs/{run}/cancel",
    "runs/{run}/rollback",
    "runs/{run}/pause",
    "runs/{run}/resume",
    "freeze",
    "unfreeze",
]


def test_a_person_cancels_a_run(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    got = stage.operate(f"/api/runs/{run}/cancel", {"reason": "not this week"})
    assert (got.status, got.json()) == (202, {"run": run})
    stage.host.pump()
    (found,) = loop.runs(stage.ports, "flights")
    assert (found.phase, found.because) == ("cancelled", "cancelled by anna: not this week")
    assert stage.asked(run).state == "withdrawn"


def test_a_person_takes_a_run_back_from_the_sites_it_has_reached(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    assert stage.answer(run, {**stage.form(run), "answer": "approve"}).status == 303
    stage.host.pump()
    assert stage.operate(f"/api/runs/{run}/rollback", {"reason": "a bad feeling"}).status == 202
    stage.host.pump()
    assert loop.runs(stage.ports, "flights")[0].because.startswith("taken back by anna: a bad feeling")


def test_a_person_pauses_a_rollout_and_goes_on_with_it(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    assert "every site is well, it is verified everywhere by" in stage.get(f"/api/approvals/{run}").text
    assert stage.answer(run, {**stage.form(run), "answer": "approve"}).status == 303
    stage.host.pump()
    for what, other in (("pause", "resume"), ("resume", "pause")):
        assert what in stage.get(f"/api/runs/{run}").json()["may"]
        assert stage.operate(f"/api/runs/{run}/{what}", {"reason": "inventory"}).status == 202
        stage.host.pump()
        seen = stage.get(f"/api/runs/{run}").json()
        assert (what in seen["may"], other in seen["may"]) == (False, True)
        assert seen["run"]["because"] == f"{what}d by anna: inventory"


def test_a_person_retrains_when_nothing_else_runs(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    refused = stage.operate("/api/loops/flights/retrain", {"reason": "now"})
    assert (refused.status, refused.json()["detail"]) == (409, f"{run} has not ended")
    stage.operate(f"/api/runs/{run}/cancel", {"reason": "first this"})
    stage.host.pump()
    got = stage.operate("/api/loops/flights/retrain", {"reason": "now"})
    assert (got.status, got.json()) == (202, {"run": "flights.2013-04-13.2"})
    assert loop.active_runs(stage.ports, "flights")[0].cause == "asked for by anna: now"


def test_a_person_revokes_a_candidate_that_then_nobody_approves(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    form = stage.form(run)
    got = stage.operate("/api/loops/flights/revoke", {"reason": "it leaks", "target": stage.challenger})
    assert (got.status, got.json()) == (202, {"revoked": stage.challenger})
    why = f"{stage.challenger[:12]} was revoked by anna: it leaks"
    assert f"and not approve: {why}" in stage.get(f"/api/approvals/{run}").text
    answered = stage.answer(run, {**form, "answer": "approve"})
    assert (answered.status, why in answered.text) == (409, True)
    for target in ("", "0" * 64, stage.challenger[:12]):
        got = stage.operate("/api/loops/flights/revoke", {"reason": "x", "target": target})
        assert (got.status, "no candidate" in got.json()["detail"]) == (404, True)


@pytest.mark.parametrize("target", ["all", "flights", "flights/JFK"])
def test_a_freeze_holds_until_it_is_lifted(stage: Any, target: str) -> None:
    stage.sign_in("anna")
    got = stage.operate("/api/freeze", {"reason": "inspection", "target": target})
    assert (got.status, got.json()) == (202, {"frozen": target})
    assert "frozen by anna: inspection" in sites.frozen(stage.ports, "flights", "JFK")
    assert "inspection" in stage.get("/api/loops/flights").text
    assert stage.operate("/api/unfreeze", {"reason": "done", "target": target}).status == 202
    assert sites.frozen(stage.ports, "flights", "JFK") == ""


@pytest.mark.parametrize("target", ["", "nothing", "flights/nowhere", "all/JFK", "flights/JFK/x"])
def test_what_does_not_exist_is_not_frozen(stage: Any, target: str) -> None:
    stage.sign_in("anna")
    assert stage.operate("/api/freeze", {"reason": "x", "target": target}).status == 404


@pytest.mark.parametrize(("said", "status"), [
    ({"reason": ""}, 422), ({"reason": " \n"}, 422), ({"reason": 1001 * "x"}, 422), ({}, 400), ({"reason": 1}, 400),
    ({"reason": "x", "by": "ben"}, 400), ([], 400),
])  # fmt: skip
def test_a_change_needs_a_reason(stage: Any, run: str, said: Any, status: int) -> None:
    stage.sign_in("anna")
    assert stage.operate(f"/api/runs/{run}/cancel", said).status == status
    assert stage.get(f"/api/runs/{run}").json()["run"]["phase"] == "awaiting-approval"


def test_a_run_that_does_not_exist_or_has_ended_is_not_changed(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    for path in ("/api/runs/nothing/cancel", "/api/runs/flights.2013-01-01.9/rollback", "/api/loops/x/retrain"):
        assert stage.operate(path, {"reason": "x"}).status == 404, path
    got = stage.operate(f"/api/runs/{run}/rollback", {"reason": "x"})
    assert (got.status, "nothing to take back" in got.json()["detail"]) == (409, True)


@pytest.mark.attack
@pytest.mark.parametrize("path", CHANGES)
def test_nobody_changes_anything_unless_signed_in_and_allowed(stage: Any, run: str, path: str) -> None:
    path, before = f"/api/{path.format(run=run)}", stage.ports.store.get("flights", "head").version
    said = {"reason": "x"} | ({"target": "all"} if "freeze" in path else {})
    spoofed = {"X-MS-CLIENT-PRINCIPAL-NAME": "anna", "X-MS-CLIENT-PRINCIPAL": "e30=", "X-Forwarded-User": "anna"}
    assert stage.operate(path, said, spoofed).status == 401
    stage.sign_in("anna", "approve")
    assert stage.operate(path, said).status == 403
    stage.sign_in("anna")
    for wrong in (
        {"X-CSRF-Token": ""},
        {"X-CSRF-Token": "0" * 64},
        {"X-CSRF-Token": stage.local.people.sign('["operate","ben"]')},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": stage.origin.replace("http", "https")},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert stage.operate(path, said, wrong).status == 403, wrong
    assert stage.operate(path, said, {"Content-Type": "text/plain"}).status == 415
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        assert stage.ask(method, path, headers={"X-HTTP-Method-Override": "POST"}).status == 405
    stage.host.pump()
    assert stage.ports.store.get("flights", "head").version == before


def test_a_session_is_a_cookie_that_scripts_and_other_sites_cannot_use(stage: Any) -> None:
    link = stage.local.people.login_link("http://h", "anna")
    got = stage.get(link.removeprefix("http://h"))
    cookie = got.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert stage.get("/api/session").json() == {"person": "", "roles": [], "csrf": "", "looks": True}
    stage.sign_in("anna")
    assert stage.get("/api/session").json()["person"] == "anna"
    assert stage.get("/api/session").json()["roles"] == ["approve", "operate"]


@pytest.mark.attack
def test_a_login_leads_on_to_pages_of_ours_alone(stage: Any) -> None:
    link = stage.local.people.login_link("", "anna")
    assert (
        'url=/api/approvals/flights.2013-04-13.1"' in stage.get(f"{link}&next=/api/approvals/flights.2013-04-13.1").text
    )
    for wrong in (
        *("//evil.example", "https://evil.example", "/api/approvals/../../x", "/api/reports/x", "javascript:alert(1)"),
        *(
            "/api/ui/&next=//evil.example",
            "%22%3E%3Cscript%3E",
            "/api/approvals/x;url=//evil",
            "/api/ui/%0a",
            "/%5cevil",
        ),
    ):
        page = stage.get(f"{link}&next={wrong}").text
        assert 'content="1; url=/api/ui/"' in page, wrong
        assert "evil" not in page


@pytest.mark.attack
def test_a_token_counts_for_what_it_was_made_for_until_it_ends(stage: Any) -> None:
    now = [1000.0]
    people = LocalPeople(stage.state / "keys" / "people.key", lambda: now[0])
    token = people.login_link("", "anna").partition("token=")[2]
    person, cookie = people.login(token) or pytest.fail("not accepted")
    session = cookie.split(";")[0].partition("=")[2]
    assert people.identify({"COOKIE": f"a=b; {COOKIE}={session}"}) == person
    flipped = session[:-1] + ("0" if session[-1] != "0" else "1")
    for wrong in (token, flipped, session.replace(".", "A."), "", ".", "é.é", session + "=", f"{session}; {COOKIE}=x"):
        assert people.identify({"Cookie": f"{COOKIE}={wrong}"}) is None, wrong
    for wrong in (session, flipped, "", "x", "x.y.z", "\ud800", "e30."):
        assert people.login(wrong) is None, wrong
    assert people.identify({"X-MS-CLIENT-PRINCIPAL": session, "Authorization": f"Bearer {session}"}) is None
    now[0] += LASTS_S
    assert people.identify({"Cookie": f"{COOKIE}={session}"}) is None
    assert people.login(token) is None


def test_the_key_is_made_once_and_only_its_owner_may_read_it(stage: Any) -> None:
    file = stage.state / "keys" / "new.key"
    first, second = LocalPeople(file), LocalPeople(file)
    assert second.check("x", first.sign("x"))
    assert not second.check("y", first.sign("x"))
    assert not second.check("x", "é")
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert [p.name for p in file.parent.glob("new.key*")] == ["new.key"]
    assert not LocalPeople(file.with_name("other.key")).check("x", first.sign("x"))
