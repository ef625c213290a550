"""What an operator does over HTTP: retrain, cancel, roll back, freeze; and the dashboard's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import azure.functions as func
import msgspec

from functions import answers, host, pages, people
from triggers import loop, quarantine, views
from triggers.errors import DriftloopError, NotFound, Refused
from triggers.ports import Person, Ports

bp = func.Blueprint()

WEB = Path(__file__).with_name("web")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


# --- what a person does


@bp.route("loops/{loop}/retrain", methods=["POST"])
def retrain(req: func.HttpRequest) -> func.HttpResponse:
    """Begin a run now."""
    name = req.route_params["loop"]

    def change(ports: Ports, by: Person, asked: people.Asked) -> dict[str, str]:
        return {"run": loop.retrain(ports, name, by.name, asked.reason, by.id, supersede=asked.supersede)}

    return people.operate(req, change)


class Checked(msgspec.Struct, frozen=True):
    """What a check decided, and the run that it began. `drift`: whether it found any that counts."""

    action: str
    reason: str
    run: str
    drift: bool


@bp.route("loops/{loop}/check", methods=["POST"])
def check(req: func.HttpRequest) -> func.HttpResponse:
    """Assess what has come, now."""
    name = req.route_params["loop"]

    def change(ports: Ports, by: Person, asked: people.Asked) -> Checked:
        ports.configs.loop(name)
        loop.note_check(ports, name, by.name, asked.reason)
        found = loop.check(ports, name)
        drift = any(finding.statistical for finding in found.decision.findings)
        return Checked(found.decision.action, found.decision.reason, found.run, drift)

    return people.operate(req, change)


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
        if refused := people.unseen(req, host.ports()):
            return refused
        body = host.ports().blobs.get(name)
    except DriftloopError as problem:
        return answers.problem(404 if isinstance(problem, Refused) else people.reaction(problem), str(problem))
    headers = {**answers.SECURITY, "Content-Security-Policy": pages.REPORT_POLICY}
    return func.HttpResponse(body, mimetype="text/html", headers=headers)
