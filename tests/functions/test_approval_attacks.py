"""Attacks on approval. Each names the defence that stands against it, and succeeds once that is taken away."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace as changed
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec
import pytest

from cli.host.http import Router
from functions import answers, approvals, pages, people
from triggers import approval, asking, codec, loop, sites
from triggers.ports import Person, Put

replace = msgspec.structs.replace
FORM = "application/x-www-form-urlencoded"
refusal = approval.refusal


class Attack(NamedTuple):
    """`attack` says whether it succeeded; `remove` takes the defence away."""

    defence: str
    attack: Callable[[Any, str], bool]
    remove: Callable[[pytest.MonkeyPatch, Any], None]


def approved(stage: Any, run: str) -> bool:
    return stage.asked(run).state == "approved"


def as_if(**said: Any) -> Callable[[pytest.MonkeyPatch, Any], None]:
    """The rules judge another request than the stored one."""

    def remove(patch: pytest.MonkeyPatch, stage: Any) -> None:
        patch.setattr(approval, "refusal", lambda request, *rest: refusal(replace(request, **said), *rest))

    return remove


def a_form(stage: Any, run: str, who: str = "anna") -> dict[str, str]:
    stage.sign_in(who)
    return {**stage.form(run), "answer": "approve"}


def marked(run: str, request: approval.Request, who: str) -> dict[str, str]:
    """The form that `who` would have been given."""
    shown = {"candidate": request.candidate, "evidence": request.evidence, "plan": request.plan}
    return {**shown, "csrf": people.seal("approval", who, run, *shown.values()), "answer": "approve"}


def by_get(stage: Any, run: str) -> bool:
    link = stage.local.people.login_link("", "anna")
    _, cookie = stage.local.people.login(unquote(link.partition("token=")[2]))
    headers = {"Sec-Fetch-Site": "same-origin", "Origin": "null", "Content-Type": FORM, "Cookie": cookie.split(";")[0]}
    body = "&".join(f"{k}={v}" for k, v in marked(run, stage.asked(run), "anna").items()).encode()
    for method in ("HEAD", "GET"):
        stage.ask(method, f"/api/approvals/{run}", body, headers)
    return approved(stage, run)


def take_get(patch: pytest.MonkeyPatch, stage: Any) -> None:
    found = {f.name: f for f in stage.host.functions}
    answering = changed(found["answer_approval"], methods=("GET", "HEAD", "POST"))
    patch.setattr(stage.host, "_router", Router([answering], stage.host.json.route_prefix))


def without_a_session(stage: Any, run: str) -> bool:
    """A link scanner that runs scripts and presses buttons."""
    form = a_form(stage, run)
    stage.sign_out()
    stage.answer(run, form)
    return approved(stage, run)


def forged_form(stage: Any, run: str) -> bool:
    stage.answer(run, {**a_form(stage, run), "csrf": "0" * 64})
    return approved(stage, run)


def from_elsewhere(stage: Any, run: str) -> bool:
    stage.answer(run, a_form(stage, run), {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"})
    return approved(stage, run)


def as_plain_text(stage: Any, run: str) -> bool:
    """What a form of another site can send without asking first."""
    headers = {"Origin": stage.origin, "Content-Type": "text/plain"}
    stage.ask("POST", f"/api/approvals/{run}", json.dumps(a_form(stage, run)).encode(), headers)
    return approved(stage, run)


def form_of_another_run(stage: Any, run: str) -> bool:
    other = "flights.2013-04-13.2"
    form = a_form(stage, run)
    stage.ports.store.commit("flights", [Put(f"approval/{other}", codec.encode(stage.asked(run)))])
    stage.answer(other, form)
    return approved(stage, other)


def digest_swapped(stage: Any, run: str) -> bool:
    form = a_form(stage, run)
    record = stage.ports.store.get("flights", f"approval/{run}")
    plan = stage.ports.blobs.get(f"plans/{form['plan']}").replace(b"{", b"{ ", 1)
    stage.ports.blobs.put(f"plans/{codec.digest(plan)}", plan)
    newer = record.value.replace(form["plan"].encode(), codec.digest(plan).encode())
    stage.ports.store.commit("flights", [Put(record.key, newer, record.version)])
    stage.answer(run, form)
    return approved(stage, run)


def bytes_swapped(stage: Any, run: str) -> bool:
    """Between the look and the answer; the digests are what they were."""
    form = a_form(stage, run)
    name = f"evidence/{form['evidence']}.json"
    stage.ports.blobs.put(name, stage.ports.blobs.get(name).replace(b"0", b"9"))
    stage.answer(run, form)
    return approved(stage, run)


def show_nothing_new(patch: pytest.MonkeyPatch, stage: Any) -> None:
    def lenient(request: Any, answer: Any, *rest: Any) -> str:
        shown = {n: getattr(request, n) for n in ("candidate", "evidence", "plan")}
        return refusal(request, replace(answer, **shown), *rest)

    patch.setattr(approval, "refusal", lenient)


def too_late(stage: Any, run: str) -> bool:
    form = a_form(stage, run)
    stage.local.clock.set(stage.asked(run).expires)
    stage.answer(run, form)
    return approved(stage, run)


def with_a_clock_behind(stage: Any, run: str) -> bool:
    """The question has expired; a worker whose clock is ten minutes behind takes an answer."""
    asked = stage.asked(run)
    stage.local.clock.set(asked.expires + timedelta(seconds=1))
    stage.host.pump()
    late = changed(stage.ports, clock=SimpleNamespace(now=lambda: asked.expires - timedelta(minutes=10)))
    shown = {"candidate": asked.candidate, "evidence": asked.evidence, "plan": asked.plan}
    asking.answer(late, run, approval.Answer(answer="approve", by="anna", reason="", **shown))
    return approved(stage, run)


def told_apart(stage: Any, run: str) -> bool:
    """Somebody unknown learns which runs there are."""
    form = a_form(stage, run)
    stage.sign_out()
    there, nowhere = (stage.answer(name, form) for name in (run, "flights.2013-01-01.77"))
    return (there.status, there.text) != (nowhere.status, nowhere.text)


def not_on_the_list(stage: Any, run: str) -> bool:
    """A forwarded link, opened by somebody who is signed in."""
    stage.answer(run, a_form(stage, run, "mallory"))
    return approved(stage, run)


def without_the_role(stage: Any, run: str) -> bool:
    stage.sign_in("anna", "operate")
    stage.answer(run, marked(run, stage.asked(run), "anna"))
    return approved(stage, run)


def own_request(stage: Any, run: str) -> bool:
    record = stage.ports.store.get("flights", f"approval/{run}")
    mine = replace(stage.asked(run), requested_by=("ANNA",))
    stage.ports.store.commit("flights", [Put(record.key, codec.encode(mine), record.version)])
    stage.answer(run, a_form(stage, run))
    return approved(stage, run)


def after_a_rejection(stage: Any, run: str) -> bool:
    anna, ben = a_form(stage, run), a_form(stage, run, "ben")
    assert stage.answer(run, {**ben, "answer": "reject", "reason": "no"}).status == 303
    stage.sign_in("anna")
    stage.answer(run, anna)
    return approved(stage, run)


def after_it_was_cancelled(stage: Any, run: str) -> bool:
    form = a_form(stage, run)
    stage.operate(f"/api/runs/{run}/cancel", {"reason": "a newer one is on its way"})
    stage.host.pump()
    stage.answer(run, form)
    return approved(stage, run)


def in_a_freeze(stage: Any, run: str) -> bool:
    form = a_form(stage, run)
    loop.freeze(stage.ports, "flights", "ben", "inspection")
    stage.answer(run, form)
    return approved(stage, run)


HOSTILE = "<script>alert(1)</script> \u202egnp.exe \u0430nna"


def after_hostile_words(stage: Any, run: str) -> str:
    stage.answer(run, {**a_form(stage, run), "answer": "reject", "reason": HOSTILE})
    return str(stage.get(f"/api/approvals/{run}").text)


def script(stage: Any, run: str) -> bool:
    return "<script>" in after_hostile_words(stage, run)


def turned_around(stage: Any, run: str) -> bool:
    return "\u202e" in after_hostile_words(stage, run)


def lookalike(stage: Any, run: str) -> bool:
    return "\u0430nna" in after_hostile_words(stage, run)


def header(name: str, part: str) -> Callable[[Any, str], bool]:
    """The browser is not told."""

    def missing(stage: Any, run: str) -> bool:
        stage.sign_in("anna")
        return part not in stage.get(f"/api/approvals/{run}").headers.get(name, "")

    return missing


def silent(name: str) -> Callable[[pytest.MonkeyPatch, Any], None]:
    return lambda patch, stage: patch.delitem(answers.SECURITY, name)


def redirected(stage: Any, run: str) -> bool:
    link = stage.local.people.login_link("", "anna")
    return "evil.example" in stage.get(f"{link}&next=//evil.example/").text


def patched(module: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch, Any], None]:
    return lambda patch, stage: patch.setattr(module, name, value)


ANNA = Person("anna", frozenset({"approve"}))
ATTACKS = {
    "prefetch": Attack("only POST answers", by_get, take_get),
    "link scanner": Attack("a session", without_a_session, patched(people, "identify", lambda req: ANNA)),
    "csrf": Attack("the form's mark", forged_form, patched(people, "sealed", lambda *_: True)),
    "another site": Attack("same origin", from_elsewhere, patched(people, "same_origin", lambda req: True)),
    "text/plain": Attack("the content type", as_plain_text, patched(people, "media_type", lambda req: approvals.JSON)),
    "form of run A on run B": Attack(
        "the mark names the run", form_of_another_run, patched(approvals, "_about", lambda *_: ("approval",))
    ),
    "digest swapped": Attack("the answer names what was shown", digest_swapped, show_nothing_new),
    "bytes swapped": Attack(
        "what was judged is hashed again", bytes_swapped, patched(asking, "_swapped", lambda *_: "")
    ),
    "expired": Attack("expiry", too_late, as_if(expires=datetime(2100, 1, 1, tzinfo=UTC))),
    "skewed clock": Attack("a question that has expired is withdrawn", with_a_clock_behind, as_if(state="open")),
    "enumeration": Attack("who asks is known first", told_apart, patched(people, "identify", lambda req: ANNA)),
    "forwarded link": Attack("the list", not_on_the_list, patched(approval, "not_asked", lambda *_: "")),
    "self-approval": Attack("not the requester", own_request, patched(approval, "not_impartial", lambda *_: "")),
    "after a rejection": Attack("decided once", after_a_rejection, as_if(state="open")),
    "after a newer run": Attack("a question is withdrawn", after_it_was_cancelled, as_if(state="open")),
    "freeze": Attack("a freeze", in_a_freeze, patched(sites, "frozen", lambda *_: "")),
    "script": Attack("escaping", script, patched(pages, "escape", str)),
    "turned around": Attack("what is hidden is shown", turned_around, patched(pages, "_visible", str)),
    "homoglyph": Attack("alphabets are told apart", lookalike, patched(pages, "_told_apart", str)),
    "clickjacking": Attack(
        "frame-ancestors", header("content-security-policy", "frame-ancestors 'none'"), patched(pages, "POLICY", "x")
    ),
    "cached page": Attack("no-store", header("cache-control", "no-store"), silent("Cache-Control")),
    "token in the Referer": Attack(
        "Referrer-Policy", header("referrer-policy", "no-referrer"), silent("Referrer-Policy")
    ),
    "open redirect": Attack("where a login leads", redirected, patched(people, "_OURS", re.compile(".*"))),
}


@pytest.mark.attack
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("defended", [True, False], ids=["defended", "removed"])
def test_an_attack_fails_by_its_defence_and_by_nothing_else(
    name: str, defended: bool, stage: Any, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ATTACKS[name]
    if not defended:
        found.remove(monkeypatch, stage)
    assert found.attack(stage, run) is not defended, found.defence


@pytest.mark.attack
def test_every_refusal_of_somebody_known_is_in_the_trail(stage: Any, run: str) -> None:
    form = a_form(stage, run)
    stage.answer(run, {**form, "csrf": "x"})
    stage.answer(run, form, {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"})
    stage.answer(run, {**form, "answer": "reject"})
    stage.answer(run, a_form(stage, run, "mallory") | {k: form[k] for k in ("candidate", "evidence", "plan")})
    told = [(e.actor, e.text) for e in loop.story(stage.ports, "flights", run) if e.kind == "answer-refused"]
    assert [actor for actor, _ in told] == ["anna", "anna", "anna", "mallory"]
    for part, (_, text) in zip(("not made for", "not come from a page", "say why", "not made for"), told, strict=True):
        assert part in text
    assert stage.asked(run).state == "open"


@pytest.mark.attack
def test_who_may_not_approve_is_refused_though_on_the_list(stage: Any, run: str) -> None:
    assert not without_the_role(stage, run)
    stage.sign_in("anna", "approve")
    assert stage.answer(run, {**stage.form(run), "answer": "approve"}).status == 303
