"""The door for events over HTTP: both handshakes, forged ones, and what becomes of each event."""

from __future__ import annotations

import base64
import json
import socket
from typing import Any

import pytest

from adapters import claims
from adapters.faults import Faults, faulty_ports
from drift import envelope
from functions import host as root
from tests.functions.conftest import LOOP, Stage
from tests.servers.eventgrid import VALIDATION_HEADERS, Webhook, call, validation
from triggers import codec
from triggers.errors import Retry
from triggers.ports import Message
from triggers.records import Quarantined

JSON = {"Content-Type": "application/json"}


def event(kind: str, data: Any, id: str = "e1", **more: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": id, "source": "/test", "type": kind, "subject": "s", "data": data, **more}


def post(stage: Stage, body: Any, **headers: str) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return stage.ask("POST", "/api/events", raw, {**JSON, **headers})


def quarantined(stage: Stage) -> list[str]:
    found = stage.ports.store.scan("driftloop", "quarantine/")
    return [codec.decode(record.value, Quarantined).reason for record in found]


def batch(stage: Stage, id: str = "b1") -> bytes:
    now = int(stage.ports.clock.now().timestamp())
    header = {"schema": "1", "loop": LOOP, "candidate": stage.champion, "site": "EWR", "batch": id}
    times = {"from": envelope.iso(now - 60), "to": envelope.iso(now)}
    row = {
        "id": f"{id}-r",
        "at": now - 30,
        "score": 0.5,
        "distance": 1.0,
        "dep_hour": 2.0,
        "wind": 3.0,
        "carrier": "AA",
    }
    return json.dumps({**header, **times, "rows": [row]}).encode()


@pytest.mark.parametrize("schema", ["cloud", "eventgrid"])
def test_a_webhook_subscribes_and_an_event_goes_its_way_once(stage: Stage, schema: Any) -> None:
    hook = Webhook(stage.local.topic, "hook", f"{stage.origin}/api/events", schema)
    hook.subscribe(("driftloop.telemetry",))
    for id in ("a", "a", "b"):
        data = json.loads(batch(stage))
        stage.local.topic.publish([event("driftloop.telemetry", data, id)])
    hook.deliver()
    assert hook.answered == [200, 200, 200]
    assert stage.local.bus.pending("telemetry") == 2
    before = stage.ports.store.get(f"{LOOP}/EWR", "batch/b1")
    stage.host.pump()
    assert (before, stage.ports.store.get(f"{LOOP}/EWR", "batch/b1") is None) == (None, False)


def test_what_cannot_be_taken_now_is_tried_again_and_never_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = Webhook(stage.local.topic, "hook", f"{stage.origin}/api/events")
    hook.subscribe(("driftloop.telemetry",))
    stage.local.topic.publish([event("driftloop.telemetry", json.loads(batch(stage)))])

    def later(*_: Any) -> None:
        raise Retry("the queue is full")

    with monkeypatch.context() as patch:
        patch.setattr(root.ports().bus, "send", later)
        hook.deliver()
    assert hook.answered == [503]
    assert stage.local.topic.dead_letters() == []
    stage.local.clock.advance(hook.topic.next_due("hook") - stage.ports.clock.now())  # type: ignore[attr-defined]
    hook.deliver()
    assert hook.answered == [503, 200]


@pytest.mark.parametrize("seed", range(3))
def test_a_call_that_fails_now_and_then_costs_no_batch_a_delivery(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """One batch alone passes nine times in ten; sixty together would hardly ever."""
    faults = Faults(seed, {"before": 0.02, "after": 0.02})
    ports = faulty_ports(root.ports(), faults, ["store", "blobs"])
    stage.local.bus.send("telemetry", [Message(str(n), batch(stage, f"b{n}")) for n in range(60)])
    with monkeypatch.context() as patch:
        patch.setattr(root, "ports", lambda: ports)
        stage.host.pump()
    assert any(call.fault for call in faults.calls)
    assert stage.local.bus.dead_letters("telemetry") == []
    partition = f"{LOOP}/EWR"
    assert all(stage.ports.store.get(partition, f"batch/b{n}") for n in range(60))


@pytest.mark.parametrize("spelling", ["data_base64", "text"])
def test_a_signed_batch_arrives_as_the_very_bytes(stage: Stage, spelling: str) -> None:
    raw = batch(stage).replace(b'"rows"', b' "rows"')
    brought = {"data_base64": base64.b64encode(raw).decode()} if spelling == "data_base64" else {"data": raw.decode()}
    told = event("driftloop.telemetry", None)
    del told["data"]
    assert post(stage, {**told, **brought}).json() == {"events": 1, "taken": 1}
    [delivery] = stage.local.bus.receive("telemetry")
    assert delivery.body == raw


def test_poison_costs_only_itself_and_is_kept(stage: Stage) -> None:
    good = event("driftloop.telemetry", json.loads(batch(stage)))
    bad = [
        event("driftloop.telemetry", 5, "e2"),
        event("driftloop.telemetry", None, "e3", data_base64="?"),
        event("driftloop.deployment.requested", {"site": "EWR"}, "e4"),
        event("driftloop.job.ended", {}, "e5"),
        {**good, "id": 7},
        {**good, "time": "yesterday"},
    ]
    answer = post(stage, [*bad, good, event("somebody.elses", {})])
    assert answer.status == 200
    assert len(quarantined(stage)) == len(bad)
    assert stage.local.bus.pending("telemetry") == 1


def test_a_claim_is_redeemed_before_a_batch_is_counted_and_a_forged_one_is_quarantined(stage: Stage) -> None:
    claim = claims.leave(stage.ports.blobs, batch(stage), stage.ports.clock.now())
    forged = claim[:-64] + b"0" * 64
    stage.local.bus.send("telemetry", [Message("1", claim), Message("2", forged)])
    stage.host.pump()
    assert stage.ports.store.get(f"{LOOP}/EWR", "batch/b1") is not None
    assert [r for r in quarantined(stage) if "is not there" in r]


@pytest.mark.attack
def test_a_forged_deployment_or_job_end_moves_nothing(stage: Stage, run: str) -> None:
    change = {"id": "c", "loop": LOOP, "site": "EWR", "run": run, "wave": 0, "candidate": stage.challenger}
    forged = {**change, "action": "deploy", "fence": 99, "at": "2013-05-01T00:00:00Z"}
    before = stage.get("/api/runs").body
    assert post(stage, event("driftloop.deployment.requested", forged)).status == 200
    assert post(stage, event("driftloop.job.ended", {"name": f"{run}-train", "state": "failed"})).status == 200
    stage.host.pump()
    assert stage.get("/api/runs").body == before


@pytest.mark.attack
@pytest.mark.parametrize("origin", ["evil.example", "eventgrid.azure.net.evil.example", "*", "null", ""])
def test_a_hostile_origin_gets_no_leave(empty: Stage, origin: str) -> None:
    answer = empty.ask("OPTIONS", "/api/events", headers={"WebHook-Request-Origin": origin} if origin else {})
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("webhook-allowed")]


@pytest.mark.attack
def test_a_handshake_is_answered_with_its_code_and_its_address_is_not_called(empty: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inside:
        inside.setblocking(False)
        body = validation("code-1", url=f"http://127.0.0.1:{inside.getsockname()[1]}/")
        status, headers, said = call("POST", f"{empty.origin}/api/events", VALIDATION_HEADERS, body)
        with pytest.raises(BlockingIOError):
            inside.accept()
    assert (status, json.loads(said)) == (200, {"validationResponse": "code-1"})
    assert headers["content-type"].startswith("application/json")


@pytest.mark.attack
def test_a_forged_handshake_is_refused_and_hides_nothing(stage: Stage) -> None:
    good = event("driftloop.telemetry", json.loads(batch(stage)))
    [genuine] = json.loads(validation("code"))
    for body in (
        good,
        [good],
        [genuine, good],
        [{**genuine, "data": {}}],
        [{**genuine, "data": {"validationCode": "<script>alert(1)</script>"}}],
        [{**genuine, "data": {"validationCode": "x" * 129}}],
        [{**genuine, "data": {"validationCode": ["x"]}}],
    ):
        assert post(stage, body, **{"aeg-event-type": "SubscriptionValidation"}).status == 400
    assert stage.local.bus.pending("telemetry") == 0


@pytest.mark.attack
def test_a_validation_event_among_data_is_no_handshake(stage: Stage) -> None:
    good = event("driftloop.telemetry", json.loads(batch(stage)))
    answer = post(stage, [*json.loads(validation("code")), good], **{"aeg-event-type": "Notification"})
    assert (answer.status, answer.json()) == (200, {"events": 2, "taken": 1})
    assert "validationResponse" not in answer.text


@pytest.mark.attack
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"a": NaN}', 400),
        (b"[" * 100_000, 400),
        (b"[1]", 400),
        (b'"text"', 400),
        (b'"\xff"', 400),
        (b'{"id": "\\ud800"}', 400),
        (b"[{}]", 200),
        (b"[" + b"{}," * 5000 + b"{}]", 400),
        (b" " * (1024 * 1024 + 1), 413),
    ],
)
def test_what_is_no_event_is_said_to_be_none(empty: Stage, body: bytes, status: int) -> None:
    assert post(empty, body).status == status
