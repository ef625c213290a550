"""Every answer of every endpoint carries the security headers, whoever asks and whatever for."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cli.host.app import METHODS
from functions.answers import SECURITY

WANTED = {name.lower() for name in SECURITY}


def assert_headers(answer: Any, asked: str) -> None:
    there = {name.lower() for name in answer.headers}
    assert there >= WANTED, f"{asked}: {answer.status} without {sorted(WANTED - there)}"
    assert answer.headers["x-content-type-options"] == "nosniff", asked
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"], asked


@pytest.mark.attack
def test_every_endpoint_and_method_answers_with_them(shared: Any, run: str) -> None:
    known = {"loop": "flights", "run": run, "id": "ab" * 16, "*file": "app.js", "*name": "x.html"}
    known |= {"site": "EWR", "feature": "distance", "check": "2013-04-13T000000"}
    functions = [f for f in shared.host.functions if f.kind == "http"]
    assert len(functions) > 25
    cookies = shared.cookies
    for shared.cookies in ({}, cookies):
        for function in functions:
            path = "/api/" + re.sub(r"\{([^}]+)\}", lambda found: known[found[1]], function.route)
            for method in METHODS:
                body = b"{}" if method in ("POST", "PUT", "PATCH") else b""
                assert_headers(shared.ask(method, path, body), f"{method} {path}")


@pytest.mark.attack
@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 302),
        ("GET", "/nothing", {}, 404),
        ("GET", "/api/%ff", {}, 400),
        ("GET", "/api/health", {"Host": "evil.example"}, 421),
        ("POST", "/api/telemetry", {"Content-Length": str(1 << 24)}, 413),
        ("BREW", "/api/health", {}, 501),
    ],
)
def test_what_no_function_answers_has_them_too(
    shared: Any, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = shared.ask(method, path, headers=headers)
    assert answer.status == status
    assert_headers(answer, path)
