"""The HTTP surface and its OpenAPI document are one."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from functions import host as root
from triggers import quarantine

ROOT = Path(__file__).parents[2]
FILE = ROOT / "functions" / "web" / "openapi.json"
DOCUMENT = json.loads(FILE.read_text())


def test_the_document_is_openapi() -> None:
    validate(DOCUMENT)


def test_the_document_is_not_stale() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "openapi.py"))["text"]()
    assert FILE.read_text() == made, "run tools/openapi.py"


def test_every_route_of_the_app_is_in_the_document_and_the_other_way_round(empty: Any) -> None:
    routes = {
        (f"/api/{re.sub('[*]', '', f.route)}", method.lower())
        for f in empty.host.functions
        if f.kind == "http"
        for method in f.methods
    }
    assert {(path, method) for path, said in DOCUMENT["paths"].items() for method in said} == routes


def _as_said(path: str, method: str, got: Any) -> None:
    """The answer's status, content type and shape are in the document."""
    said = DOCUMENT["paths"][path][method]["responses"][str(got.status)]
    content = got.headers["content-type"].partition(";")[0]
    if path == "/api/ui/{file}" and got.status == 200:
        content = "text/html"
    schema = said["content"][content]["schema"]
    whole = {**schema, "components": DOCUMENT["components"]}
    value = got.json() if "json" in content else got.text
    Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


KEPT = hashlib.sha256(b"{").hexdigest()[:32]
VALUES = {
    "loop": "flights",
    "file": "app.js",
    "name": "evidently/flights/x.html",
    "id": KEPT,
    "site": "JFK",
    "feature": "wind",
}
READ = sorted(path for path, said in DOCUMENT["paths"].items() if "get" in said)


def test_what_is_read_is_what_the_document_says(stage: Any, run: str) -> None:
    stage.ports.blobs.put("evidently/flights/x.html", b"<p>x")
    quarantine.keep(stage.ports, b"{", "not JSON")
    stage.sign_in("anna")
    link = stage.local.people.login_link("", "anna").partition("?")[2]
    check = stage.get("/api/loops/flights/drift").json()["checks"][-1]["id"]
    for path in READ:
        got = stage.get(path.format(run=run, check=check, **VALUES) + (f"?{link}" if path == "/api/login" else ""))
        assert got.status == 200, got.text
        _as_said(path, "get", got)


def test_what_is_not_there_is_answered_as_the_document_says(stage: Any) -> None:
    stage.sign_in("anna")
    for path in (p for p in READ if "{" in p):
        got = stage.get(
            path.format(
                run="flights.2013-01-01.77",
                loop="nothing",
                file="x",
                name="evidently/x.html",
                id="x",
                site="x",
                feature="x",
                check="x",
            )
        )
        assert got.status == 404, path
        _as_said(path, "get", got)


def test_a_broken_configuration_is_500_as_the_document_says_and_shows_no_folder(empty: Any) -> None:
    folder = empty.local.state / "config" / "flights"
    folder.mkdir(parents=True)
    (folder / "loop.yaml").write_text("loop: [")
    for path in ("/api/loops/{loop}", "/api/loops/{loop}/drift", "/api/loops/{loop}/runs"):
        got = empty.get(path.format(**VALUES))
        assert (got.status, got.json()["title"]) == (500, "Not working")
        assert str(empty.local.state) not in got.text
        _as_said(path, "get", got)


def test_a_wrong_setting_is_said_as_the_document_says(empty: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLOOP_PROFILE", "xx")
    root.ports.cache_clear()
    for method, path, status in (("get", "/api/health", 500), ("post", "/api/telemetry", 503)):
        got = empty.ask(method.upper(), path, b"{}" if method == "post" else b"")
        assert got.status == status
        _as_said(path, method, got)
    monkeypatch.undo()
    root.ports.cache_clear()


@pytest.mark.parametrize("signed_in", [True, False])
def test_what_is_refused_is_refused_as_the_document_says(stage: Any, run: str, signed_in: bool) -> None:
    if signed_in:
        stage.sign_in("anna")
    for path in (p for p, said in DOCUMENT["paths"].items() if "post" in said):
        for body in (b"", b"{}", b"[1", b'{"reason": 1}', b"\xff"):
            got = stage.ask(
                "POST", path.format(run=run, check="x", **VALUES), body, {"Content-Type": "application/json"}
            )
            _as_said(path, "post", got)
