"""At the door: a site's rate, what nobody can do to another site, and 503 where the queue is full."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from drift import envelope
from drift.telemetry import Batch
from functions import rates
from tests.functions.conftest import FLEET_YAML, LOOP_YAML

PRIVATE = Ed25519PrivateKey.generate()
PUBLIC = base64.b64encode(PRIVATE.public_key().public_bytes_raw()).decode()
PER_HOUR = 300
BURST = PER_HOUR // 60


@pytest.fixture
def door(empty: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An app whose site EWR has a key and may send five batches a minute."""
    monkeypatch.setattr(rates, "_ALLOWANCES", rates.Allowances())
    signing = FLEET_YAML.replace("{name: EWR,", f"{{name: EWR, keys: [{{id: k1, public: {PUBLIC}}}],")
    empty.configure(LOOP_YAML + f"telemetry: {{rate: {PER_HOUR} per hour}}\n", signing)
    return empty


def a_batch(stage: Any, site: str, name: str, *, signed: bool) -> bytes:
    now = int(stage.ports.clock.now().timestamp())
    rows, _ = stage._rows(np.random.default_rng(1), now - 60, 2, 0.0)
    batch = Batch("1", "flights", "c" * 64, site, name, now - 60, now, rows, key="k1")
    payload = envelope.encode(batch, stage.ports.configs.loop("flights").schema.telemetry("binary"))
    return envelope.signed(payload, PRIVATE.sign) if signed else payload


def test_above_its_rate_a_site_is_told_when_to_come_again(door: Any) -> None:
    answers = [
        door.ask("POST", "/api/telemetry", a_batch(door, "JFK", f"b{n}", signed=False)) for n in range(BURST + 2)
    ]
    assert [a.status for a in answers] == [202] * BURST + [429] * 2
    assert 0 < int(answers[-1].headers["retry-after"]) <= 3600 / PER_HOUR
    assert door.local.bus.pending("telemetry") == BURST
    assert door.ask("POST", "/api/telemetry", a_batch(door, "LGA", "b", signed=False)).status == 202


@pytest.mark.attack
def test_who_floods_in_the_name_of_a_site_does_not_keep_out_the_site(door: Any) -> None:
    flood = [door.ask("POST", "/api/telemetry", a_batch(door, "EWR", f"x{n}", signed=False)) for n in range(3 * BURST)]
    assert flood[-1].status == 429
    own = [door.ask("POST", "/api/telemetry", a_batch(door, "EWR", f"b{n}", signed=True)) for n in range(BURST + 1)]
    assert [a.status for a in own] == [202] * BURST + [429]


@pytest.mark.attack
def test_what_names_no_known_site_has_one_allowance_together(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "NOBODYS_PER_SECOND", 0.05)
    sent = [b"{", b"[]", b"\xff", a_batch(door, "LAX", "b1", signed=False), a_batch(door, "SFO", "b2", signed=False)]
    assert [door.ask("POST", "/api/telemetry", body).status for body in sent] == [202, 202, 202, 429, 429]


def test_a_full_queue_is_503_with_a_time_to_come_again_and_empties(door: Any) -> None:
    door.local.bus._most = 2
    posted = lambda n: door.ask("POST", "/api/telemetry", a_batch(door, "JFK", f"b{n}", signed=False))  # noqa: E731
    assert [posted(n).status for n in range(2)] == [202, 202]
    door.local.clock.set(door.local.clock.now() + timedelta(seconds=1))
    full = posted(2)
    assert full.status == 503
    assert full.headers["retry-after"] == "5"
    door.host.pump()
    door.local.clock.set(door.local.clock.now() + timedelta(seconds=1))
    assert posted(3).status == 202
