"""Whatever comes over HTTP is answered as the OpenAPI document says, soon, and never by falling over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

FILE = Path(__file__).parents[2] / "functions" / "web" / "openapi.json"
DOCUMENT = json.loads(FILE.read_text())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
SOON_S = 20.0


@pytest.fixture(scope="module")
def headers(shared: Any) -> dict[str, str]:
    """Those of a page of ours, for who is signed in."""
    [(name, value)] = shared.cookies.items()
    csrf = shared.get("/api/session").json()["csrf"]
    return {"Cookie": f"{name}={value}", "Origin": shared.origin, "X-CSRF-Token": csrf}


@pytest.mark.wire
@pytest.mark.attack
@SCHEMA.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_nothing_falls_over_or_hangs(case: Any, shared: Any, run: str, headers: dict[str, str]) -> None:
    known = {"run": run, "loop": "flights"}
    if len(str(case.path_parameters)) % 2:
        case.path_parameters.update({k: v for k, v in known.items() if k in case.path_parameters})
    answer = case.call(base_url=shared.origin, timeout=SOON_S, headers=headers)
    assert answer.status_code < 500 or answer.status_code in (501, 503), answer.text
