"""What an operator sees and does over HTTP: fleet, drift, runs, story; retrain, cancel, roll back, freeze."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import azure.functions as func

from functions import answers, host, pages, people
from triggers import loop, quarantine, views
from triggers.errors import DriftloopError, NotFound, Refused
from triggers.ports import Person, Ports

bp = func.Blueprint()

WEB = Path(__file__).with_name("web")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class _BadQuery(Exception):
    """What stands after the question mark is not what was expected."""


def _read(view: Callable[[Ports], object]) -> func.HttpResponse:
    """What there is to see; errors become problems by the reaction that they ask for."""
    try:
        return answers.data(view(host.ports()))
    except _BadQuery as problem:
        return answers.problem(400, str(problem))
    except DriftloopError as problem:
        status = people.reaction(problem)
        return answers.problem(500 if status == 409 else status, str(problem))  # what only looks is never in the way


def _number(req: func.HttpRequest, name: str, default: int, most: int) -> int:
    """A whole number of the query."""
    text = req.params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= most):
        raise _BadQuery(f"{name} is a whole number up to {most}, not {text[:40]!r}")
    return int(text)


def _metric(req: func.HttpRequest) -> str:
    metric = req.params.get("metric", "psi")
    if metric not in views.METRICS:
        raise _BadQuery(f"metric is one of {', '.join(views.METRICS)}")
    return metric


# --- what there is to see


@bp.route("loops", methods=["GET"])
def list_loops(req: func.HttpRequest) -> func.HttpResponse:
    """Every loop at a glance."""
    return _read(views.loops)


@bp.route("loops/{loop}", methods=["GET"])
def show_loop(req: func.HttpRequest) -> func.HttpResponse:
    """One loop: its fleet by ring, its last decision, its detectors."""
    return _read(lambda ports: views.fleet(ports, req.route_params["loop"]))


@bp.route("loops/{loop}/drift", methods=["GET"])
def show_drift(req: func.HttpRequest) -> func.HttpResponse:
    """The checks of the last days, with their distances by site and feature."""
    return _read(
        lambda ports: views.drift(ports, req.route_params["loop"], _number(req, "days", 30, 400), _metric(req))
    )


@bp.route("loops/{loop}/runs", methods=["GET"])
def list_runs(req: func.HttpRequest) -> func.HttpResponse:
    """Every run, newest first."""
    return _read(lambda ports: views.runs(ports, req.route_params["loop"]))


@bp.route("loops/{loop}/decisions", methods=["GET"])
def list_decisions(req: func.HttpRequest) -> func.HttpResponse:
    """The last decisions, newest first."""
    return _read(lambda ports: views.decisions(ports, req.route_params["loop"], max(_number(req, "limit", 30, 400), 1)))


@bp.route("loops/{loop}/quarantine", methods=["GET"])
def list_quarantine(req: func.HttpRequest) -> func.HttpResponse:
    """What was not counted, and why."""
    return _read(lambda ports: views.quarantine(ports, req.route_params["loop"]))


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


@bp.route("loops/{loop}/audit", methods=["GET"])
def list_audit(req: func.HttpRequest) -> func.HttpResponse:
    """A page of the audit trail."""
    return _read(lambda ports: views.audit(ports, req.route_params["loop"], _number(req, "after", 0, 10**12 - 1), 200))


@bp.route("runs/{run}", methods=["GET"])
def show_run(req: func.HttpRequest) -> func.HttpResponse:
    """Everything about one run."""
    return _read(lambda ports: views.run(ports, req.route_params["run"]))


@bp.route("runs/{run}/story", methods=["GET"])
def tell_story(req: func.HttpRequest) -> func.HttpResponse:
    """What happened to a run, in sentences."""
    return _read(lambda ports: views.story(ports, req.route_params["run"]))


@bp.route("health", methods=["GET"])
def health(req: func.HttpRequest) -> func.HttpResponse:
    """Whether the state can be read."""

    def ok(ports: Ports) -> dict[str, object]:
        ports.store.get("driftloop", "freeze/all")
        return {"status": "ok", "now": ports.clock.now(), "loops": len(ports.configs.loops())}

    return _read(ok)


# --- what a person does


@bp.route("loops/{loop}/retrain", methods=["POST"])
def retrain(req: func.HttpRequest) -> func.HttpResponse:
    """Begin a run now."""
    name = req.route_params["loop"]
    return people.operate(
        req, lambda ports, by, asked: {"run": loop.retrain(ports, name, by.name, asked.reason, by.id)}
    )


@bp.route("loops/{loop}/revoke", methods=["POST"])
def revoke(req: func.HttpRequest) -> func.HttpResponse:
    """Let no site be asked to serve a candidate any more."""
    name = req.route_params["loop"]

    def change(ports: Ports, by: Person, asked: people.Asked) -> dict[str, str]:
        ports.configs.loop(name)
        loop.revoke(ports, name, asked.target, by.name, asked.reason)
        return {"revoked": asked.target}

    return people.operate(req, change)


@bp.route("loops/{loop}/quarantine/{id}/replay", methods=["POST"])
def replay_quarantined(req: func.HttpRequest) -> func.HttpResponse:
    """Let a batch come in once more."""
    name, which = req.route_params["loop"], req.route_params["id"]

    def change(ports: Ports, by: Person, asked: people.Asked) -> dict[str, str]:
        ports.configs.loop(name)
        return {"batch": quarantine.replay(ports, name, which, by.name, asked.reason)}

    return people.operate(req, change)


@bp.route("runs/{run}/cancel", methods=["POST"])
def cancel(req: func.HttpRequest) -> func.HttpResponse:
    """Stop a run."""
    return people.operate(req, _asking(req, "cancel"))


@bp.route("runs/{run}/rollback", methods=["POST"])
def roll_back(req: func.HttpRequest) -> func.HttpResponse:
    """Take a run's sites back to their last known good."""
    return people.operate(req, _asking(req, "rollback"))


@bp.route("runs/{run}/pause", methods=["POST"])
def pause(req: func.HttpRequest) -> func.HttpResponse:
    """Begin nothing new in a rollout."""
    return people.operate(req, _asking(req, "pause"))


@bp.route("runs/{run}/resume", methods=["POST"])
def resume(req: func.HttpRequest) -> func.HttpResponse:
    """Go on with a paused rollout."""
    return people.operate(req, _asking(req, "resume"))


def _asking(req: func.HttpRequest, what: str) -> Callable[[Ports, Person, people.Asked], dict[str, str]]:
    run = req.route_params["run"]

    def ask(ports: Ports, by: Person, asked: people.Asked) -> dict[str, str]:
        views.stored_run(ports, run)
        loop.ask(ports, run, views.ASKED[what], by.name, asked.reason)
        return {"run": run}

    return ask


@bp.route("freeze", methods=["POST"])
def freeze(req: func.HttpRequest) -> func.HttpResponse:
    """Begin nothing new."""

    def change(ports: Ports, by: Person, asked: people.Asked) -> dict[str, str]:
        target = _target(ports, asked.target)
        loop.freeze(ports, target, by.name, asked.reason)
        return {"frozen": target}

    return people.operate(req, change)


@bp.route("unfreeze", methods=["POST"])
def unfreeze(req: func.HttpRequest) -> func.HttpResponse:
    """Go on where a freeze stopped."""

    def change(ports: Ports, by: Person, asked: people.Asked) -> dict[str, str]:
        target = _target(ports, asked.target)
        loop.unfreeze(ports, target, by.name)
        return {"unfrozen": target}

    return people.operate(req, change)


def _target(ports: Ports, target: str) -> str:
    """What can be frozen. Raises NotFound."""
    name, _, site = target.partition("/")
    if target == "all" or (name in ports.configs.loops() and (not site or ports.configs.fleet(name).site(site))):
        return target
    raise NotFound(f"no loop or site {target[:100]!r}: say all, a loop, or loop/site")


# --- files


@bp.route("ui/{*file}", methods=["GET"])
def dashboard(req: func.HttpRequest) -> func.HttpResponse:
    """The dashboard: a page, a script and a style sheet."""
    name = req.route_params.get("file") or "index.html"
    path = next((p for p in WEB.iterdir() if p.name == name and p.suffix in _TYPES), None)
    if path is None:
        return answers.problem(404, "no such file")
    headers = {**answers.SECURITY, "Content-Security-Policy": pages.POLICY, "Cache-Control": "no-cache"}
    return func.HttpResponse(path.read_bytes(), mimetype=_TYPES[path.suffix], headers=headers)


@bp.route("openapi.json", methods=["GET"])
def openapi(req: func.HttpRequest) -> func.HttpResponse:
    """This surface, as an OpenAPI document."""
    return func.HttpResponse((WEB / "openapi.json").read_bytes(), mimetype="application/json", headers=answers.SECURITY)


@bp.route("reports/{*name}", methods=["GET"])
def report(req: func.HttpRequest) -> func.HttpResponse:
    """A stored drift report for a person: its scripts run in a sandbox, without this app's cookies and addresses."""
    name = req.route_params.get("name") or ""
    if not (name.startswith("evidently/") and name.endswith(".html")):
        return answers.problem(404, "no such report")
    try:
        body = host.ports().blobs.get(name)
    except DriftloopError as problem:
        return answers.problem(404 if isinstance(problem, Refused) else people.reaction(problem), str(problem))
    headers = {**answers.SECURITY, "Content-Security-Policy": pages.REPORT_POLICY}
    return func.HttpResponse(body, mimetype="text/html", headers=headers)
