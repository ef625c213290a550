"""functions/web/openapi.json, from the shapes that the HTTP surface answers with.

`python tools/openapi.py` writes it; a test says when it is stale, or not what the app does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from functions import approvals, operator, people  # noqa: E402
from triggers import glance, story, views  # noqa: E402
from triggers.config import undented  # noqa: E402

FILE = ROOT / "functions" / "web" / "openapi.json"

TYPES: tuple[Any, ...] = (
    views.Loops,
    views.FleetView,
    views.DriftView,
    views.HeatMap,
    glance.Glance,
    glance.Sites,
    glance.SiteDetail,
    glance.Distribution,
    glance.Log,
    glance.Costs,
    views.Runs,
    views.RunDetail,
    story.Story,
    views.Audit,
    views.Stored,
    views.Weighed,
    views.Decisions,
    views.Quarantine,
    operator.Checked,
    people.Session,
    people.Asked,
    approvals.Given,
    approvals.Answered,
)
PROBLEM = {
    "type": "object",
    "description": "RFC 9457: what is wrong, in words.",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
WORDS = {
    400: "Not what was expected",
    401: "Nobody is signed in",
    403: "Not allowed, or not from a page of this app",
    404: "No such thing",
    409: "Refused as things stand",
    413: "Too large",
    415: "Another content type is expected",
    422: "The reason is missing or too long",
    429: "Too many requests at once for the Functions host",
    500: "Not working: a setting, a configuration or what is stored is wrong",
    503: "Not now: see Retry-After",
}
MAY_FAIL = (401, 403, 404, 500, 503)
OPERATING = (400, 401, 403, 404, 409, 415, 422, 500, 503)
_LOOP = {"name": "loop", "in": "path", "required": True, "schema": {"type": "string"}}
_TEXT = {"schema": {"type": "string"}}
_TAG = {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}, "description": "An ETag of before"}
_RUN = {"name": "run", "in": "path", "required": True, "schema": {"type": "string"}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _said(description: str, **content: Any) -> dict[str, Any]:
    return {"description": description, "content": {k: {"schema": v} for k, v in content.items()}}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return _said(description, **{"application/json": schema})


def _html(description: str) -> dict[str, Any]:
    return _said(description, **{"text/html": {"type": "string"}})


def _problems(*statuses: int) -> dict[str, Any]:
    return {str(s): _said(WORDS[s], **{"application/problem+json": _ref("Problem")}) for s in statuses}


def _get(summary: str, answer: dict[str, Any], *statuses: int, parameters: tuple[Any, ...] = ()) -> dict[str, Any]:
    said: dict[str, Any] = {"summary": summary, "responses": {"200": answer, **_problems(*statuses)}}
    return {"get": {**said, "parameters": list(parameters)} if parameters else said}


def _view(summary: str, name: str, *parameters: Any) -> dict[str, Any]:
    bad_query = (400,) if any(p["in"] == "query" for p in parameters) else ()
    made = _get(summary, _json(summary, _ref(name)), *bad_query, *MAY_FAIL, parameters=(*parameters, _TAG))
    made["get"]["responses"]["200"]["headers"] = {"ETag": _TEXT, "Driftloop-Now": _TEXT}
    made["get"]["responses"]["304"] = {"description": "It is as it was", "headers": {"ETag": _TEXT}}
    return made


def _paged(most: int) -> tuple[dict[str, Any], dict[str, Any]]:
    cursor = {"type": "string", "maxLength": 300}
    said = "The `next` of the page before; without it, the first page"
    return {"name": "cursor", "in": "query", "schema": cursor, "description": said}, _number("limit", most, 1, 1000)


def _number(name: str, default: int, least: int, most: int) -> dict[str, Any]:
    limits = {"type": "integer", "minimum": least, "maximum": most, "default": default}
    return {"name": name, "in": "query", "schema": limits}


def _change(summary: str, key: str, *parameters: Any) -> dict[str, Any]:
    made = {"type": "object", "required": [key], "properties": {key: {"type": "string"}}}
    token = {"name": "X-CSRF-Token", "in": "header", "schema": {"type": "string"}, "description": "With a session"}
    return {
        "post": {
            "summary": summary,
            "security": [{"session": []}, {"token": []}],
            "parameters": [*parameters, token],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("Asked")}}},
            "responses": {"202": _json("Under way", made), **_problems(*OPERATING)},
        }
    }


def _checked() -> dict[str, Any]:
    found = _change("Assess what has come, now; a run may begin", "run", _LOOP)
    found["post"]["responses"]["202"] = _json("Decided", _ref("Checked"))
    return found


def _telemetry() -> dict[str, Any]:
    body = {
        "application/json": {"schema": {"type": "object", "description": "The telemetry envelope, in JSON"}},
        "application/octet-stream": {"schema": {"type": "string", "description": "The telemetry envelope, in Arrow"}},
    }
    accepted = {"type": "object", "required": ["accepted"], "properties": {"accepted": {"type": "integer"}}}
    return {
        "post": {
            "summary": "One batch of telemetry; it is durable when it is acknowledged, and counted once",
            "requestBody": {"required": True, "content": body},
            "responses": {"202": _json("Durable", accepted), **_problems(400, 413, 429, 503)},
        }
    }


def _events() -> dict[str, Any]:
    one = {"schema": {"type": "object", "description": "A CloudEvent 1.0, or Event Grid's own schema"}}
    media = ("application/json", "application/cloudevents+json", "application/cloudevents-batch+json")
    counted = {"type": "object", "properties": {"events": {"type": "integer"}, "taken": {"type": "integer"}}}
    shaken = {"type": "object", "properties": {"validationResponse": {"type": "string"}}}
    origin = {"name": "WebHook-Request-Origin", "in": "header", "required": True, "schema": {"type": "string"}}
    return {
        "options": {
            "summary": "The handshake of CloudEvents: Event Grid may send, nobody else",
            "parameters": [origin],
            "responses": {"200": {"description": "It may"}, **_problems(403)},
        },
        "post": {
            "summary": "Events, one or an array; or the handshake of Event Grid's own schema",
            "requestBody": {
                "required": True,
                "content": dict.fromkeys(media, one),
            },
            "responses": {
                "200": _json("Each is done, or none of ours", {"anyOf": [counted, shaken]}),
                **_problems(400, 413, 503),
            },
        },
    }


def _approvals() -> dict[str, Any]:
    form = {"schema": _ref("Given")}
    return {
        **_get(
            "What is asked of a person, and the form for those who may answer; looking never answers",
            _html("The approval page"),
            parameters=(_RUN,),
        ),
        "post": {
            "summary": "One person's answer, bound to what their page showed; the person is the one who is signed in",
            "security": [{"session": []}, {"token": []}],
            "parameters": [_RUN],
            "requestBody": {
                "required": True,
                "content": {"application/x-www-form-urlencoded": form, "application/json": form},
            },
            "responses": {
                "200": _json("Counted (where JSON was sent)", _ref("Answered")),
                "303": {"description": "Counted: back to the page"},
                **_problems(415),
                **{str(s): _either(WORDS[s]) for s in (400, 401, 403, 404, 409, 422, 500, 503)},
            },
        },
    }


def _either(description: str) -> dict[str, Any]:
    return _said(description, **{"text/html": {"type": "string"}, "application/problem+json": _ref("Problem")})


def paths() -> dict[str, Any]:
    """Every route and method of the app."""
    page = _approvals()
    page["get"]["responses"] |= {str(s): _html(WORDS[s]) for s in (401, 404, 409, 500, 503)}
    ok = {
        "type": "object",
        "required": ["status", "now", "loops"],
        "properties": {
            "status": {"const": "ok"},
            "now": {"type": "string", "format": "date-time"},
            "loops": {"type": "integer"},
        },
    }
    metric = {"name": "metric", "in": "query", "schema": {"enum": list(views.METRICS), "default": "psi"}}
    token = {"name": "token", "in": "query", "required": True, "schema": {"type": "string"}}
    onward = {"name": "next", "in": "query", "schema": {"type": "string"}}
    file, name, kept, site, feature, check = (
        {"name": n, "in": "path", "required": True, "schema": {"type": "string"}}
        for n in ("file", "name", "id", "site", "feature", "check")
    )
    login = _get("Open the session that a login link names", _html("Signed in"), parameters=(token, onward))
    login["get"]["responses"]["401"] = _html("The link is not valid, or no longer")
    return {
        "/api/telemetry": _telemetry(),
        "/api/events": _events(),
        "/api/login": login,
        "/api/session": _get("Who is signed in", _json("Who is signed in", _ref("Session")), 500, 503),
        "/api/health": _get("Whether the state can be read", _json("It can", ok), 500, 503),
        "/api/loops": _view("Every loop at a glance", "Loops"),
        "/api/loops/{loop}": _view("One loop: fleet, last decision, detectors", "FleetView", _LOOP),
        "/api/loops/{loop}/glance": _view("The whole fleet in columns, and what wants a person", "Glance", _LOOP),
        "/api/loops/{loop}/sites": _view("Sites, in the order of fleet.yaml", "Sites", _LOOP, *_paged(100)),
        "/api/loops/{loop}/sites/{site}": _view("One site", "SiteDetail", _LOOP, site),
        "/api/loops/{loop}/sites/{site}/features/{feature}": _view(
            "One feature at one site over time, against its reference",
            "Distribution",
            *(_LOOP, site, feature, _number("days", 30, 1, 400)),
        ),
        "/api/loops/{loop}/drift": _view(
            "The checks of the last days", "DriftView", _LOOP, _number("days", 30, 0, 400)
        ),
        "/api/loops/{loop}/drift/{check}": _view(
            "One check's distances by site and feature", "HeatMap", _LOOP, check, metric, *_paged(100)
        ),
        "/api/loops/{loop}/runs": _view("Runs, newest first", "Runs", _LOOP, *_paged(200)),
        "/api/loops/{loop}/decisions": _view("Decisions, newest first", "Decisions", _LOOP, *_paged(30)),
        "/api/loops/{loop}/log": _view("What happened, newest first, in sentences", "Log", _LOOP, *_paged(50)),
        "/api/loops/{loop}/costs": _view("The retrain budget, and what trainings took", "Costs", _LOOP),
        "/api/loops/{loop}/quarantine": _view(
            "What was not counted, and why, newest first", "Quarantine", _LOOP, *_paged(100)
        ),
        "/api/loops/{loop}/quarantine/{id}": _get(
            "The bytes that were not counted, for who may operate",
            _said("The bytes", **{"application/octet-stream": {}}),
            *(401, 403, 404, 409, 503),
            parameters=(_LOOP, kept),
        ),
        "/api/loops/{loop}/quarantine/{id}/replay": _change("Let a batch come in once more", "batch", _LOOP, kept),
        "/api/loops/{loop}/audit": _view(
            "A page of the audit trail", "Audit", _LOOP, _number("after", 0, 0, 10**12 - 1)
        ),
        "/api/loops/{loop}/stored": _view("What the audit trail has to give again", "Stored", _LOOP),
        "/api/loops/{loop}/weighed": _view("Decisions, with all that each was made of", "Weighed", _LOOP, *_paged(100)),
        "/api/loops/{loop}/retrain": _change("Begin a run now", "run", _LOOP),
        "/api/loops/{loop}/check": _checked(),
        "/api/loops/{loop}/revoke": _change("Let no site be asked to serve a candidate any more", "revoked", _LOOP),
        "/api/runs/{run}": _view("Everything about one run", "RunDetail", _RUN),
        "/api/runs/{run}/story": _view("What happened to a run, in sentences", "Story", _RUN),
        "/api/runs/{run}/cancel": _change("Stop a run", "run", _RUN),
        "/api/runs/{run}/rollback": _change("Take a run's sites back to their last known good", "run", _RUN),
        "/api/runs/{run}/pause": _change("Begin nothing new in a rollout", "run", _RUN),
        "/api/runs/{run}/resume": _change("Go on with a paused rollout", "run", _RUN),
        "/api/approvals/{run}": page,
        "/api/freeze": _change("Begin nothing new", "frozen"),
        "/api/unfreeze": _change("Go on where a freeze stopped", "unfrozen"),
        "/api/reports/{name}": _get(
            "A stored drift report", _html("The report"), 401, 403, 404, 503, parameters=(name,)
        ),
        "/api/ui/{file}": _get("The dashboard", _html("A file of it"), 404, parameters=(file,)),
        "/api/openapi.json": _get("This document", _json("This document", {"type": "object"})),
    }


def document() -> dict[str, Any]:
    """The whole document."""
    _, schemas = msgspec.json.schema_components(TYPES, ref_template="#/components/schemas/{name}")
    for operations in (found := paths()).values():
        for operation in operations.values():
            operation.setdefault("security", [])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "driftloop",
            "version": "1",
            "description": "Times are UTC. Reading needs no session on one machine; whatever changes something needs "
            "one, a token of ours and a reason. Lists come in pages: `next` is the cursor of the one that follows. "
            "What was read and has not changed is 304 for who brings its ETag.",
        },
        "servers": [{"url": "/"}],
        "paths": found,
        "components": {
            "schemas": {"Problem": PROBLEM, **schemas},
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": "driftloop_session"},
                "token": {"type": "http", "scheme": "bearer", "description": "On Azure, where TokenAudience is set"},
            },
        },
    }


def text() -> str:
    return json.dumps(undented(document()), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
