"""Who asks, and whether they may: sign-in, forms that come back, and what an error becomes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import azure.functions as func
import msgspec

from functions import answers, host, pages
from triggers.errors import DriftloopError, Misconfigured, NotFound, Offline, Retry
from triggers.ports import Person, Ports

bp = func.Blueprint()


log = logging.getLogger("driftloop")
_OURS = re.compile(r"/api/(approvals/[A-Za-z0-9._-]+|ui/)")
"""Where a login may lead on to."""


class Session(msgspec.Struct, frozen=True):
    """Who is signed in (nobody: empty), and what a request that changes something must bring as X-CSRF-Token.
    `looks`: whether they, signed in or not, may see what there is."""

    person: str
    roles: Sequence[str]
    csrf: str
    looks: bool


@bp.route("login", methods=["GET"])
def login(req: func.HttpRequest) -> func.HttpResponse:
    """Open the session that a login link names, and go on to `next`, where that is a page of ours."""
    found = host.ports().people.login(req.params.get("token", ""))
    if found is None:
        return pages.respond(401, pages.signed_out("This link is not valid, or no longer."))
    person, cookie = found
    wanted = req.params.get("next", "")
    onward = wanted if _OURS.fullmatch(wanted) else "/api/ui/"
    return pages.respond(200, pages.signed_in(person.name, onward), {"Set-Cookie": cookie})


@bp.route("session", methods=["GET"])
def session(req: func.HttpRequest) -> func.HttpResponse:
    """Who is signed in."""
    person = identify(req)
    try:
        looks = host.ports().people.may_look(person)
        if person is None:
            return answers.data(Session("", (), "", looks))
        return answers.data(Session(person.name, sorted(person.roles), seal("operate", person.name), looks))
    except DriftloopError as problem:
        return answers.problem(503 if isinstance(problem, Retry) else 500, str(problem))


def identify(req: func.HttpRequest) -> Person | None:
    """Who sent this request; None where that is not proven, or cannot be now."""
    try:
        return host.ports().people.identify(req.headers)
    except Retry as problem:
        log.warning("nobody can be identified by a token: %s", problem)
        return None


def unseen(req: func.HttpRequest, ports: Ports) -> func.HttpResponse | None:
    """The refusal, where who asks may not look."""
    person = identify(req)
    if ports.people.may_look(person):
        return None
    if person is None:
        return answers.problem(401, "sign in first", {"WWW-Authenticate": 'Bearer realm="driftloop"'})
    return answers.problem(403, f"{person.name} may not look")


def seal(*about: str) -> str:
    """What only a form that we made for exactly this carries."""
    return host.ports().people.sign(_text(about))


def sealed(token: str, *about: str) -> bool:
    """Whether a form that came back is one that we made for exactly this."""
    return host.ports().people.check(_text(about), token)


def _text(about: Sequence[str]) -> str:
    return msgspec.json.encode(about).decode()


def same_origin(req: func.HttpRequest) -> bool:
    """Whether a page of ours sent this. A browser says so itself; what says nothing about where it is from is refused.

    Under our referrer policy a form's Origin is "null", so that then Sec-Fetch-Site must be there.
    """
    site, origin = req.headers.get("Sec-Fetch-Site"), req.headers.get("Origin")
    if site not in (None, "same-origin"):
        return False
    if origin in (None, "null"):
        return site is not None
    here = urlsplit(req.url)
    return origin.lower() == f"{here.scheme}://{here.netloc}".lower()


def media_type(req: func.HttpRequest) -> str:
    """The content type, without its parameters."""
    return (req.headers.get("Content-Type") or "").partition(";")[0].strip().lower()


def reaction(problem: DriftloopError) -> int:
    """The status that an error asks for; a configuration that is wrong is nothing that who asks can mend."""
    if isinstance(problem, NotFound):
        return 404
    if isinstance(problem, Misconfigured):
        return 500
    return 503 if isinstance(problem, Retry | Offline) else 409


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody who changes something says. `target` is for a freeze: "all", a loop, or "loop/site";
    or the digest of the candidate to revoke. `supersede`: a retraining takes the place of a run that nobody has
    answered."""

    reason: str
    target: str = ""
    supersede: bool = False


def operate(req: func.HttpRequest, change: Callable[[Ports, Person, Asked], object]) -> func.HttpResponse:
    """Change something for a signed-in person who may operate, from a page of ours, with a reason; 202 with what came
    of it."""
    person = identify(req)
    if person is None:
        return answers.problem(401, "sign in first", {"WWW-Authenticate": 'Bearer realm="driftloop"'})
    if "operate" not in person.roles:
        return answers.problem(403, f"{person.name} may not operate")
    ours = person.token or (same_origin(req) and sealed(req.headers.get("X-CSRF-Token", ""), "operate", person.name))
    if not ours:
        return answers.problem(403, "the request does not come from a page of this app")
    if media_type(req) != "application/json":
        return answers.problem(415, "send application/json")
    try:
        asked = msgspec.json.decode(req.get_body(), type=Asked)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        return answers.problem(400, f'expected {{"reason": "..."}}: {problem}')
    if wrong := unfit(asked.reason):
        return answers.problem(422, wrong)
    try:
        return answers.data(change(host.ports(), person, asked), status=202)
    except DriftloopError as problem:
        return answers.problem(reaction(problem), str(problem))


MOST_WORDS = 1000


def unfit(reason: str) -> str:
    """Why these words are no reason; empty where they are."""
    if not reason.strip():
        return "say why"
    return f"a reason has at most {MOST_WORDS} characters" if len(reason) > MOST_WORDS else ""
