"""Approval: a page that asks, and its answer. To look never answers; an answer is a form of ours, from who it names."""

from __future__ import annotations

from typing import Literal
from urllib.parse import parse_qsl, quote

import azure.functions as func
import msgspec

from functions import answers, approval_page, host, pages, people, traces
from triggers import approval, asking, candidates, views
from triggers.approval import Answer, Request
from triggers.errors import DriftloopError
from triggers.ports import Person

bp = func.Blueprint()

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
_MOST = 64 * 1024


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the form says. Who answers is not in it. `csrf` is that of the page; who brings a token needs none."""

    answer: Literal["approve", "reject", "changes"]
    candidate: str
    evidence: str
    plan: str
    csrf: str = ""
    reason: str = ""


class Answered(msgspec.Struct, frozen=True):
    """What became of an answer that was sent as JSON; open: it counts, and more people have to approve."""

    run: str
    state: str
    by: str


@bp.route("approvals/{run}", methods=["GET"])
def show_approval(req: func.HttpRequest) -> func.HttpResponse:
    """What is asked, and the form for those who may answer."""
    person = people.identify(req)
    if person is None:
        return pages.respond(401, pages.signed_out("Only who is signed in may see what is asked."))
    try:
        return pages.respond(200, _page(req.route_params["run"], person))
    except DriftloopError as problem:
        return _sorry(problem)


@bp.route("approvals/{run}", methods=["POST"])
def answer_approval(req: func.HttpRequest) -> func.HttpResponse:
    """One person's answer. What is refused is noted, if somebody known sent it."""
    person, run = people.identify(req), req.route_params["run"]
    if people.media_type(req) not in (FORM, JSON):
        return answers.problem(415, f"send {FORM} or {JSON}")
    if person is None:
        return _refused(req, 401, "Not signed in", "the answer did not count: nobody is signed in")
    given = _given(req)
    if given is None:
        return _refused(req, 400, "Not counted", "this is not the form of the approval page")
    said = _answer(person, given)
    try:
        if why := _not_ours(req, person, run, given):
            asking.refuse(host.ports(), run, said, why)
            return _refused(req, 403, "Not counted", why)
        if wrong := _unfit(given):
            asking.refuse(host.ports(), run, said, wrong)
            return _again(req, 422, run, person, given, wrong)
        with traces.step("answer_approval", run):
            wrong = asking.answer(host.ports(), run, said)
        if wrong:
            return _again(req, 409, run, person, given, wrong)
        return _counted(req, run, person)
    except DriftloopError as problem:
        return _sorry(problem)


def _answer(person: Person, given: Given) -> Answer:
    return Answer(
        answer=given.answer,
        by=person.name,
        reason=given.reason.strip()[: people.MOST_WORDS],
        candidate=given.candidate,
        evidence=given.evidence,
        plan=given.plan,
        id=person.id,
        groups=person.groups,
        partial=person.partial,
    )


def _not_ours(req: func.HttpRequest, person: Person, run: str, given: Given) -> str:
    """Why this is no answer that the person meant to give, or may give at all."""
    if not person.token and not people.same_origin(req):
        return "the answer does not come from a page of this app"
    if not person.token and not people.sealed(given.csrf, *_about(person, run, given)):
        return "this form was not made for this person, run, candidate, evidence and plan: load the page again"
    return "" if "approve" in person.roles else f"{person.name} may not approve"


def _unfit(given: Given) -> str:
    return people.unfit(given.reason) if given.answer != "approve" or given.reason else ""


def _again(req: func.HttpRequest, status: int, run: str, person: Person, given: Given, wrong: str) -> func.HttpResponse:
    if people.media_type(req) == JSON:
        return answers.problem(status, wrong)
    return pages.respond(status, _page(run, person, wrong, given.reason))


def _counted(req: func.HttpRequest, run: str, person: Person) -> func.HttpResponse:
    if people.media_type(req) == JSON:
        request = views.approval_request(host.ports(), run)
        return answers.data(Answered(run, request.state if request else "", person.name))
    back = {**answers.SECURITY, "Location": f"/api/approvals/{quote(run, safe='')}"}
    return func.HttpResponse(status_code=303, headers=back)


def _given(req: func.HttpRequest) -> Given | None:
    """The form; None where it is not one, or says anything twice."""
    body = req.get_body()
    if len(body) > _MOST:
        return None
    try:
        if people.media_type(req) == JSON:
            found = msgspec.json.decode(body, type=Given)
        else:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=10)
            if len(dict(pairs)) < len(pairs):
                return None
            found = msgspec.convert(dict(pairs), type=Given)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return found


def _about(person: Person, run: str, shown: Given | Request) -> tuple[str, ...]:
    return ("approval", person.id or person.name, run, shown.candidate, shown.evidence, shown.plan)


def _page(run: str, person: Person, refused: str = "", reason: str = "") -> pages.Html:
    ports = host.ports()
    detail, request = views.run(ports, run), views.approval_request(ports, run)
    if detail.approval is None or request is None:
        return pages.message("Nothing to answer", f"Run {run} is {detail.run.phase}: {detail.run.because}.")
    asked, rules = detail.approval, ports.configs.loop(detail.run.loop).approval
    same = {"candidate": request.candidate, "evidence": request.evidence, "plan": request.plan}
    them = _answer(person, Given(answer="approve", **same))
    open_ = request.state == "open" and detail.now < request.expires
    not_asked = approval.not_asked(request, them, rules, detail.now)
    if not not_asked and "approve" not in person.roles:
        not_asked = f"{person.name} may not approve"
    revoked = candidates.revoked(ports, request.loop, request.candidate)
    partial = "" if not_asked else revoked or approval.not_impartial(request, them, rules)
    token = people.seal(*_about(person, run, request)) if open_ and not not_asked else ""
    you = approval_page.You(person.name, token, not_asked, partial)
    return approval_page.render(detail, asked, you, refused, reason)


def _refused(req: func.HttpRequest, status: int, title: str, why: str) -> func.HttpResponse:
    if people.media_type(req) == JSON:
        return answers.problem(status, why)
    return pages.respond(status, pages.message(title, f"{why[0].upper()}{why[1:]}."))


def _sorry(problem: DriftloopError) -> func.HttpResponse:
    status = people.reaction(problem)
    more = {"Retry-After": "5"} if status == 503 else {}
    title = {404: "There is no such run", 503: "Try again later"}.get(status, "Refused")
    return pages.respond(status, pages.message(title, str(problem)), more)
