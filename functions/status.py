"""What there is to see over HTTP: fleet, sites, drift, runs, what happened, what it costs.

Every answer bears an ETag; asked again with If-None-Match, what has not changed is 304. Its `now` is not part of that,
and stands in the header Driftloop-Now as well. Lists come in pages: `next` is the `cursor` of the page that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import azure.functions as func
import msgspec

from functions import answers, host, people
from triggers import glance, quarantine, story, views
from triggers.errors import DriftloopError
from triggers.ports import Ports

bp = func.Blueprint()
_ALWAYS = datetime.fromtimestamp(0, UTC)


class _BadQuery(Exception):
    """What stands after the question mark is not what was expected."""


def _read(req: func.HttpRequest, view: Callable[[Ports], Any]) -> func.HttpResponse:
    """What there is to see, for whoever may look; errors become problems by the reaction that they ask for."""
    try:
        ports = host.ports()
        if refused := people.unseen(req, ports):
            return refused
        return _answered(req, view(ports))
    except _BadQuery as problem:
        return answers.problem(400, str(problem))
    except DriftloopError as problem:
        status = people.reaction(problem)
        return answers.problem(500 if status == 409 else status, str(problem))  # what only looks is never in the way


def _answered(req: func.HttpRequest, found: Any) -> func.HttpResponse:
    now = getattr(found, "now", None)
    same = msgspec.structs.replace(found, now=_ALWAYS) if now else found
    tag = f'W/"{sha256(msgspec.json.encode(same)).hexdigest()[:32]}"'
    headers = {"ETag": tag} | ({"Driftloop-Now": now.isoformat()} if now else {})
    if tag in [given.strip() for given in (req.headers.get("If-None-Match") or "").split(",")]:
        return func.HttpResponse(status_code=304, headers={**answers.SECURITY, **headers})
    return answers.data(found, headers=headers)


def _number(req: func.HttpRequest, name: str, default: int, most: int, least: int = 0) -> int:
    """A whole number of the query."""
    text = req.params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= most):
        raise _BadQuery(f"{name} is a whole number up to {most}, not {text[:40]!r}")
    return max(int(text), least)


def _paged(req: func.HttpRequest, default: int) -> tuple[str, int]:
    """Where the page begins, and how much is on it."""
    cursor = req.params.get("cursor", "")
    if len(cursor) > 300:
        raise _BadQuery("cursor is the `next` of the page before")
    return cursor, _number(req, "limit", default, 1000, 1)


def _metric(req: func.HttpRequest) -> str:
    metric = req.params.get("metric", "psi")
    if metric not in views.METRICS:
        raise _BadQuery(f"metric is one of {', '.join(views.METRICS)}")
    return metric


# --- the fleet


@bp.route("loops", methods=["GET"])
def list_loops(req: func.HttpRequest) -> func.HttpResponse:
    """Every loop at a glance."""
    return _read(req, views.loops)


@bp.route("loops/{loop}", methods=["GET"])
def show_loop(req: func.HttpRequest) -> func.HttpResponse:
    """One loop: its fleet by ring, its last decision, its detectors."""
    return _read(req, lambda ports: views.fleet(ports, req.route_params["loop"]))


@bp.route("loops/{loop}/glance", methods=["GET"])
def show_glance(req: func.HttpRequest) -> func.HttpResponse:
    """The whole fleet of a loop in columns, and what wants a person."""
    return _read(req, lambda ports: glance.glance(ports, req.route_params["loop"]))


@bp.route("loops/{loop}/sites", methods=["GET"])
def list_sites(req: func.HttpRequest) -> func.HttpResponse:
    """A page of a loop's sites."""
    return _read(req, lambda ports: glance.page(ports, req.route_params["loop"], *_paged(req, 100)))


@bp.route("loops/{loop}/sites/{site}", methods=["GET"])
def show_site(req: func.HttpRequest) -> func.HttpResponse:
    """One site."""
    return _read(req, lambda ports: glance.site(ports, req.route_params["loop"], req.route_params["site"]))


@bp.route("loops/{loop}/sites/{site}/features/{feature}", methods=["GET"])
def show_distribution(req: func.HttpRequest) -> func.HttpResponse:
    """One feature at one site over time, against its reference."""
    loop, site, feature = (req.route_params[part] for part in ("loop", "site", "feature"))
    return _read(req, lambda ports: glance.distribution(ports, loop, site, feature, _number(req, "days", 30, 400, 1)))


# --- drift


@bp.route("loops/{loop}/drift", methods=["GET"])
def show_drift(req: func.HttpRequest) -> func.HttpResponse:
    """The checks of the last days."""
    return _read(req, lambda ports: views.drift(ports, req.route_params["loop"], _number(req, "days", 30, 400)))


@bp.route("loops/{loop}/drift/{check}", methods=["GET"])
def show_heat(req: func.HttpRequest) -> func.HttpResponse:
    """The distances of one check by site and feature."""
    loop, check = req.route_params["loop"], req.route_params["check"]
    return _read(req, lambda ports: views.heat(ports, loop, check, _metric(req), *_paged(req, 100)))


@bp.route("loops/{loop}/decisions", methods=["GET"])
def list_decisions(req: func.HttpRequest) -> func.HttpResponse:
    """The last decisions, newest first."""
    return _read(req, lambda ports: _by_time(req, views.decisions, ports, 30))


def _by_time(req: func.HttpRequest, page: Callable[..., Any], ports: Ports, limit: int) -> Any:
    """A page whose cursor is a time."""
    cursor, limit = _paged(req, limit)
    try:
        return page(ports, req.route_params["loop"], limit, cursor)
    except ValueError:
        raise _BadQuery("cursor is the `next` of the page before") from None


# --- runs


@bp.route("loops/{loop}/runs", methods=["GET"])
def list_runs(req: func.HttpRequest) -> func.HttpResponse:
    """Runs, newest first."""

    def found(ports: Ports) -> views.Runs:
        cursor, limit = _paged(req, 200)
        return views.runs(ports, req.route_params["loop"], limit, cursor)

    return _read(req, found)


@bp.route("runs/{run}", methods=["GET"])
def show_run(req: func.HttpRequest) -> func.HttpResponse:
    """Everything about one run."""
    return _read(req, lambda ports: views.run(ports, req.route_params["run"]))


@bp.route("runs/{run}/story", methods=["GET"])
def tell_story(req: func.HttpRequest) -> func.HttpResponse:
    """What happened to a run, in sentences."""
    return _read(req, lambda ports: story.story(ports, req.route_params["run"]))


@bp.route("loops/{loop}/costs", methods=["GET"])
def show_costs(req: func.HttpRequest) -> func.HttpResponse:
    """The retrain budget, and what trainings took."""
    return _read(req, lambda ports: glance.costs(ports, req.route_params["loop"]))


# --- what was kept


@bp.route("loops/{loop}/quarantine", methods=["GET"])
def list_quarantine(req: func.HttpRequest) -> func.HttpResponse:
    """What was not counted, and why."""

    def found(ports: Ports) -> views.Quarantine:
        cursor, limit = _paged(req, 100)
        return views.quarantine(ports, req.route_params["loop"], limit, cursor)

    return _read(req, found)


@bp.route("loops/{loop}/quarantine/{id}", methods=["GET"])
def show_quarantined(req: func.HttpRequest) -> func.HttpResponse:
    """The bytes that were not counted, to be saved by somebody who may operate."""
    person = people.identify(req)
    if person is None or "operate" not in person.roles:
        return answers.problem(403 if person else 401, "for who may operate: sign in first")
    try:
        body = quarantine.content(host.ports(), req.route_params["loop"], req.route_params["id"])
    except DriftloopError as problem:
        return answers.problem(people.reaction(problem), str(problem))
    headers = {**answers.SECURITY, "Content-Disposition": "attachment"}
    return func.HttpResponse(body, mimetype="application/octet-stream", headers=headers)


@bp.route("loops/{loop}/stored", methods=["GET"])
def list_stored(req: func.HttpRequest) -> func.HttpResponse:
    """What the audit trail has to give again, as it is stored."""
    return _read(req, lambda ports: views.stored(ports, req.route_params["loop"]))


@bp.route("loops/{loop}/weighed", methods=["GET"])
def list_weighed(req: func.HttpRequest) -> func.HttpResponse:
    """Decisions, oldest first, with all that each was made of."""
    return _read(req, lambda ports: _by_time(req, views.weighed, ports, 100))


@bp.route("loops/{loop}/audit", methods=["GET"])
def list_audit(req: func.HttpRequest) -> func.HttpResponse:
    """A page of the audit trail, oldest first, as it is chained."""
    return _read(
        req, lambda ports: views.audit(ports, req.route_params["loop"], _number(req, "after", 0, 10**12 - 1), 200)
    )


@bp.route("loops/{loop}/log", methods=["GET"])
def show_log(req: func.HttpRequest) -> func.HttpResponse:
    """What happened, newest first, in sentences."""
    return _read(req, lambda ports: glance.log(ports, req.route_params["loop"], *_paged(req, 50)))


@bp.route("health", methods=["GET"])
def health(req: func.HttpRequest) -> func.HttpResponse:
    """Whether the state can be read."""
    try:
        ports = host.ports()
        ports.store.get("driftloop", "freeze/all")
        return answers.data({"status": "ok", "now": ports.clock.now(), "loops": len(ports.configs.loops())})
    except DriftloopError as problem:
        status = people.reaction(problem)
        return answers.problem(500 if status == 409 else status, str(problem))
