"""No secret reaches a log: not when it works, not when it fails, not from who asks."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest

from adapters.local import keys
from triggers import loop


@pytest.mark.attack
def test_no_secret_is_ever_logged(stage: Any, run: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    link = stage.local.people.login_link(stage.origin, "anna")
    stage.sign_in("anna")
    form = stage.form(run)
    stage.operate("/api/freeze", {"reason": "inventory", "target": "flights"})
    stage.operate("/api/unfreeze", {"reason": "inventory", "target": "flights"})
    stage.ask("GET", f"/api/login?token={'x' * 60}")
    stage.ask("POST", "/api/telemetry", b"{" * 40, {"Authorization": "Bearer SECRET-TOKEN"})
    stage.ask("GET", "/api/%ff?code=SECRET-CODE", headers={"Authorization": "Bearer SECRET-TOKEN"})
    stage.answer(run, {**form, "answer": "approve", "reason": "looks right"})
    stage.host.pump()
    loop.sweep(stage.ports, "flights")
    private = keys.registry(stage.state).read_text()
    cookie = next(iter(stage.cookies.values()))
    key = (stage.state / "keys" / "people.key").read_bytes()
    secrets = {
        "login link": link.partition("token=")[2],
        "session": cookie,
        "form": form["csrf"],
        "bearer": "SECRET-TOKEN",
        "code": "SECRET-CODE",
        "registry's key": private.splitlines()[1],
        "people's key": base64.b64encode(key).decode(),
        "people's key, hex": key.hex(),
    }
    told = "\n".join([caplog.text, *(str(r.__dict__) for r in caplog.records)])
    assert caplog.records, "something is logged at all"
    for name, secret in secrets.items():
        assert secret, name
        assert secret not in told, f"the {name} was logged"
