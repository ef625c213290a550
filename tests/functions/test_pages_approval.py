"""The approval page: what is asked, and who may answer it how. To look never answers."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from functions import people
from triggers import loop
from triggers.codec import encode
from triggers.ports import Person, Put


def _refused(stage: Any, run: str) -> None:
    """The question is as open as it was, and the run has heard of no answer."""
    assert stage.asked(run).state == "open"
    stage.host.pump()
    assert loop.runs(stage.ports, "flights")[0].phase == "awaiting-approval"


def test_the_page_says_what_will_happen_and_what_the_answer_is_bound_to(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    page = stage.get(f"/api/approvals/{run}").text
    words = re.sub(r"<[^>]+>", " ", page)
    request = stage.asked(run)
    for shown in (
        *(request.candidate, request.evidence, request.plan, stage.champion[:12]),
        "at 3 sites in 2 waves: lab (EWR), then coast (JFK, LGA)",
        "at least 10 requests, at most 2.0% errors, answers within 50 ms, for 1d",
        "goes back to its last known good",
        *("0.6981", "champion 0.6410", "+0.0571", "+0.0361 to +0.0761", "not above", "1,800")[:4],
        *("feature drift in wind", "prediction drift", "python 3.11", "EWR: 2,300, JFK: 2,301"),
        f"until {request.expires:%Y-%m-%d %H:%M} UTC",
    ):
        assert shown in words, shown
    assert "<script" not in page
    assert set(stage.form(run)) == {"candidate", "evidence", "plan", "csrf"}


def test_the_page_links_the_drift_report_of_the_run(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    stage.ports.blobs.put(f"evidently/flights/{run}.html", b"x")
    stage.ports.blobs.put("evidently/flights/other.html", b"x")
    links = re.findall(r'href="(/api/reports/[^"]*)"', stage.get(f"/api/approvals/{run}").text)
    assert links == [f"/api/reports/evidently/flights/{run}.html"]


@pytest.mark.parametrize(("answer", "phase"), [("approve", "rolling-out"), ("reject", "rejected")])
def test_an_answer_counts_and_the_page_then_shows_it(stage: Any, run: str, answer: str, phase: str) -> None:
    stage.sign_in("ben")
    got = stage.answer(run, {**stage.form(run), "answer": answer, "reason": " seen the numbers "})
    assert (got.status, got.headers["location"]) == (303, f"/api/approvals/{run}")
    stage.host.pump()
    found = loop.runs(stage.ports, "flights")[0]
    assert (found.phase, stage.asked(run).by) == (phase, "ben")
    page = stage.get(f"/api/approvals/{run}").text
    assert f"{stage.asked(run).state.capitalize()} by ben" in page
    assert "seen the numbers." in page
    assert "<form" not in page


def test_an_answer_may_be_sent_as_json(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    said = json.dumps({**stage.form(run), "answer": "approve"}).encode()
    headers = {"Origin": stage.origin, "Content-Type": "application/json; charset=utf-8"}
    got = stage.ask("POST", f"/api/approvals/{run}", said, headers)
    assert (got.status, got.json()) == (200, {"run": run, "state": "approved", "by": "anna"})


def test_to_reject_needs_a_reason_that_is_not_lost(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    got = stage.answer(run, {**stage.form(run), "answer": "reject", "reason": "  "})
    assert (got.status, "Not counted:</strong> say why" in got.text) == (422, True)
    long = stage.answer(run, {**stage.form(run), "answer": "approve", "reason": 1001 * "<"})
    assert (long.status, 1001 * "&lt;" in long.text) == (422, True)
    _refused(stage, run)


def test_a_run_without_a_question_says_so(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    stage.operate(f"/api/runs/{run}/cancel", {"reason": "x"})
    stage.host.pump()
    new = stage.operate("/api/loops/flights/retrain", {"reason": "x"}).json()["run"]
    got = stage.get(f"/api/approvals/{new}")
    assert (got.status, "Nothing to answer" in got.text) == (200, True)
    assert "Withdrawn: cancelled" in stage.get(f"/api/approvals/{run}").text
    assert stage.get("/api/approvals/flights.2013-01-01.77").status == 404


@pytest.mark.attack
def test_to_look_never_answers(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    form = stage.form(run)
    query = "&".join(f"{k}={v}" for k, v in {**form, "answer": "approve"}.items())
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"):
        for extra in ({}, {"X-HTTP-Method-Override": "POST", "X-Method-Override": "POST", "X-HTTP-Method": "POST"}):
            for path in (f"/api/approvals/{run}", f"/api/approvals/{run}?{query}&_method=POST"):
                headers = {"Origin": stage.origin, "Content-Type": "application/x-www-form-urlencoded", **extra}
                assert stage.ask(method, path, query.encode(), headers).status in (200, 204, 405)
    _refused(stage, run)


@pytest.mark.attack
def test_an_answer_without_a_form_of_ours_does_not_count(stage: Any, run: str) -> None:
    stage.sign_in("ben")
    of_ben = stage.form(run)["csrf"]
    stage.sign_in("anna")
    form = {**stage.form(run), "answer": "approve"}
    session = stage.get("/api/session").json()["csrf"]
    for csrf in ("", "0" * 64, of_ben, session, form["csrf"][:-1], form["csrf"].upper(), "é"):
        assert stage.answer(run, {**form, "csrf": csrf}).status == 403, csrf
    assert stage.answer(run, {k: v for k, v in form.items() if k != "csrf"}).status == 403
    _refused(stage, run)


@pytest.mark.attack
def test_the_form_of_one_run_does_not_answer_another(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    other = "flights.2013-04-13.2"
    stage.ports.store.commit("flights", [Put(f"approval/{other}", encode(stage.asked(run)))])
    assert stage.answer(other, {**stage.form(run), "answer": "approve"}).status == 403
    _refused(stage, run)


@pytest.mark.attack
def test_an_answer_from_elsewhere_does_not_count(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    form = {**stage.form(run), "answer": "approve"}
    for headers in (
        {"Origin": "https://evil.example", "Sec-Fetch-Site": ""},
        {"Origin": "https://evil.example"},
        {"Origin": stage.origin, "Sec-Fetch-Site": "cross-site"},
        {"Origin": stage.origin, "Sec-Fetch-Site": "same-site"},
        {"Origin": stage.origin, "Sec-Fetch-Site": "none"},
        {"Origin": stage.origin + ".evil.example", "Sec-Fetch-Site": ""},
        {"Origin": "null", "Sec-Fetch-Site": ""},
        {"Origin": "", "Sec-Fetch-Site": "", "Referer": stage.origin + "/api/ui/"},
        {"Origin": "", "Sec-Fetch-Site": "", "X-Forwarded-Host": "evil.example"},
    ):
        assert stage.answer(run, form, headers).status == 403, headers
    _refused(stage, run)
    assert stage.answer(run, form, {"Origin": stage.origin, "Sec-Fetch-Site": ""}).status == 303


@pytest.mark.attack
def test_only_a_form_or_json_is_an_answer(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    form = {**stage.form(run), "answer": "approve"}
    for content in ("text/plain", "multipart/form-data; boundary=x", "application/json5", "application/xml", "x"):
        assert stage.answer(run, form, {"Content-Type": content}).status in (400, 415), content
    for body in (b"", b"answer=approve", b"\xff\xfe", b"{", b"&" * 70000, b"answer=approve&answer=reject"):
        headers = {"Origin": stage.origin, "Content-Type": "application/x-www-form-urlencoded"}
        assert stage.ask("POST", f"/api/approvals/{run}", body, headers).status == 400
    for extra in ({"answer": "maybe"}, {"answer": "approved"}, {"answer": ""}):
        assert stage.answer(run, {**form, **extra}).status == 400, extra
    _refused(stage, run)


@pytest.mark.attack
def test_who_answers_is_who_is_signed_in(stage: Any, run: str) -> None:
    stage.sign_in("mallory")
    assert stage.form(run) == {}
    assert "mallory is not on the list of approvers (anna, ben)" in stage.get(f"/api/approvals/{run}").text
    request = stage.asked(run)
    shown = {"candidate": request.candidate, "evidence": request.evidence, "plan": request.plan}
    token = stage.local.people.sign(json.dumps(["approval", "mallory", run, *shown.values()], separators=(",", ":")))
    form = {**shown, "csrf": token, "answer": "approve"}
    spoofed = {
        "X-MS-CLIENT-PRINCIPAL-NAME": "anna",
        "X-MS-CLIENT-PRINCIPAL": "eyJ1c2VySWQiOiJhbm5hIn0=",
        "From": "anna",
    }
    got = stage.answer(run, form, spoofed)
    assert (got.status, "mallory is not on the list of approvers" in got.text) == (409, True)
    for named in ({"by": "anna"}, {"approver": "anna"}, {"name": "anna"}):
        assert stage.answer(run, {**form, **named}).status == 400, named
    _refused(stage, run)
    stage.sign_out()
    for headers in ({}, spoofed, {"Authorization": "Basic YW5uYTphbm5h"}):
        assert stage.answer(run, form, headers).status == 401
        unknown = stage.get("/api/approvals/flights.2000-01-01.1", headers)
        known = stage.get(f"/api/approvals/{run}", headers)
        assert (known.status, known.body) == (unknown.status, unknown.body)
    _refused(stage, run)


@pytest.mark.attack
@pytest.mark.parametrize("which", ["candidate", "evidence", "plan"])
def test_an_answer_about_other_bytes_does_not_count(stage: Any, run: str, which: str) -> None:
    stage.sign_in("anna")
    form = {**stage.form(run), "answer": "approve"}
    assert stage.answer(run, {**form, which: "f" * 64}).status == 403
    _refused(stage, run)


@pytest.mark.attack
def test_bytes_swapped_under_the_page_are_not_shown_as_what_was_judged(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    form = {**stage.form(run), "answer": "approve"}
    request = stage.asked(run)
    for name in (f"plans/{request.plan}", f"evidence/{request.evidence}.json"):
        kept = stage.ports.blobs.get(name)
        stage.ports.blobs.put(name, kept.replace(b"EWR", b"JFK"))
        got = stage.get(f"/api/approvals/{run}")
        assert (got.status, "is not what was" in got.text) == (409, True)
        stage.ports.blobs.put(name, kept)
    assert stage.answer(run, form).status == 303


@pytest.mark.attack
def test_a_question_asked_anew_is_not_answered_by_the_old_form(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    form = {**stage.form(run), "answer": "approve"}
    record = stage.ports.store.get("flights", f"approval/{run}")
    newer = record.value.replace(form["plan"].encode(), b"a" * 64)
    stage.ports.store.commit("flights", [Put(record.key, newer, record.version)])
    got = stage.ask("POST", f"/api/approvals/{run}", json.dumps(form).encode(),
                    {"Origin": stage.origin, "Content-Type": "application/json"})  # fmt: skip
    assert (got.status, "not the ones that were shown" in got.text) == (409, True)


@pytest.mark.attack
def test_an_expired_question_is_not_answered(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    form = {**stage.form(run), "answer": "approve"}
    stage.local.clock.set(stage.asked(run).expires - timedelta(seconds=1))
    assert stage.form(run)
    stage.local.clock.advance(timedelta(seconds=1))
    assert stage.form(run) == {}
    got = stage.answer(run, form)
    assert (got.status, "expired at" in got.text) == (409, True)
    assert stage.asked(run).state == "open"
    stage.host.pump()
    assert loop.runs(stage.ports, "flights")[0].phase == "expired"


@pytest.mark.attack
def test_a_frozen_loop_takes_no_approval_and_any_rejection(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    form = stage.form(run)
    loop.freeze(stage.ports, "all", "ben", "inspection")
    got = stage.answer(run, {**form, "answer": "approve"})
    assert (got.status, "frozen by ben" in got.text) == (409, True)
    assert stage.answer(run, {**form, "answer": "reject", "reason": "then not"}).status == 303


@pytest.mark.attack
def test_of_many_answers_at_once_one_counts(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    anna, as_anna = stage.form(run), dict(stage.cookies)
    stage.sign_in("ben")
    ben, as_ben = stage.form(run), dict(stage.cookies)

    def send(n: int) -> int:
        form, cookie = ((anna, as_anna), (ben, as_ben))[n % 2]
        said = {**form, "answer": ("approve", "reject")[n % 2], "reason": "r"}
        value = "; ".join(f"{k}={v}" for k, v in cookie.items())
        return int(stage.answer(run, said, {"Cookie": value}).status)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(send, range(24)))
    assert set(found) <= {303, 409, 503}
    assert {n % 2 for n, status in enumerate(found) if status == 303} == {0 if stage.asked(run).by == "anna" else 1}
    stage.host.pump()
    told = [e for e in loop.story(stage.ports, "flights", run) if e.kind in ("answered", "event-answered")]
    assert len(told) == 2


@pytest.mark.attack
def test_a_second_click_is_the_same_answer_and_another_one_is_refused(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    form = {**stage.form(run), "answer": "approve"}
    assert [stage.answer(run, form).status for _ in range(3)] == [303, 303, 303]
    got = stage.answer(run, {**form, "answer": "reject", "reason": "no"})
    assert (got.status, "already approved by anna" in got.text) == (409, True)
    stage.host.pump()
    assert loop.runs(stage.ports, "flights")[0].approved_by == "anna"


@pytest.mark.attack
def test_hostile_words_stay_words(stage: Any, run: str) -> None:
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=boom()> \u202eevil\u2066 {0} {{}}"
    stage.sign_in("anna")
    assert stage.answer(run, {**stage.form(run), "answer": "reject", "reason": hostile}).status == 303
    stage.host.pump()
    page = stage.get(f"/api/approvals/{run}").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&gt;" in page
    assert "\\u202eevil\\u2066 {0} {{}}" in page
    assert not re.search(r"<script|<img|\u202e", page)
    stage.sign_in("</title><script>")
    assert "<script" not in stage.get(f"/api/approvals/{run}").text


@pytest.mark.attack
def test_hostile_names_in_fleet_and_evidence_stay_words(empty: Any) -> None:
    hostile = "<img src=x onerror=boom()>"
    empty.sites = ("EWR", hostile, "LGA")
    fleet = f"""
sites:
  - {{name: EWR, ring: "<b onmouseover=x>"}}
  - {{name: "{hostile}", ring: coast}}
  - {{name: LGA, ring: coast}}
"""
    empty.configure(fleet_yaml=fleet, loop_yaml=LOOP_WITHOUT_RINGS)
    run = empty.begin()
    empty.judge(run)
    empty.sign_in("anna")
    page = empty.get(f"/api/approvals/{run}").text
    assert page.count("&lt;img src=x onerror=boom()&gt;") >= 4
    assert not re.search(r"<img|<b ", page)
    assert empty.answer(run, {**empty.form(run), "answer": "approve"}).status == 303


LOOP_WITHOUT_RINGS = """
loop: flights
schema:
  site: origin
  features: [{name: distance}, {name: dep_hour}, {name: wind}, {name: carrier, kind: category}]
drift: {minimum_rows: 20}
retrain: {minimum_rows: 100}
gates: {minimum_rows: 100}
approval: {approvers: [anna]}
"""


def test_who_brings_a_token_of_their_own_needs_no_form(stage: Any, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = stage.asked(run)
    shown = {"candidate": request.candidate, "evidence": request.evidence, "plan": request.plan}
    said = json.dumps({**shown, "answer": "approve"}).encode()
    for token, status in ((False, 403), (True, 200)):
        anna = Person("anna", frozenset({"approve"}), token=token)
        monkeypatch.setattr(people, "identify", lambda req, anna=anna: anna)
        assert stage.ask("POST", f"/api/approvals/{run}", said, {"Content-Type": "application/json"}).status == status
    assert stage.asked(run).by == "anna"


def test_two_people_and_a_freeze_are_said_on_the_page(stage: Any, run: str) -> None:
    path = stage.state / "config" / "flights" / "loop.yaml"
    path.write_text(path.read_text().replace("[anna, ben]", "[anna, ben, cem], needed: 2"))
    stage.sign_in("ben")
    page = stage.get(f"/api/approvals/{run}").text
    assert "nothing begins before 1 person more has approved; then" in page
    assert stage.answer(run, {**stage.form(run), "answer": "approve"}).status == 303
    loop.freeze(stage.ports, "flights", "zoe", "stocktaking")
    page = stage.get(f"/api/approvals/{run}").text
    for words in ("2 people have to approve. So far: ben (", "flights frozen by zoe: stocktaking", "ben has approved"):
        assert words in page
    assert 'value="approve"' not in page
    assert 'value="changes"' in page


def test_what_is_sent_back_says_why(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    assert stage.answer(run, {**stage.form(run), "answer": "changes"}).status == 422
    assert stage.answer(run, {**stage.form(run), "answer": "changes", "reason": "nights too"}).status == 303
    stage.host.pump()
    assert "Sent back for changes by anna" in stage.get(f"/api/approvals/{run}").text
    assert loop.runs(stage.ports, "flights")[0].because == "sent back for changes by anna: nights too"


def test_whatever_the_evaluation_has_compared_is_in_the_table(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", stage.get(f"/api/approvals/{run}").text))
    for shown in (
        "Of 7 parts, it is surely better in 4, surely worse in 1 (dep hour below 6)",
        "groups carrier AA 600 rows",
        "-0.0300 -0.0500 to -0.0100",
        "churn 0.083",
        "trials challenger: cpu (ms): 0.8",
    ):
        assert shown in words, shown
