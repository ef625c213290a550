"""The Service Bus adapter when the wire fails: the same outcome as without, or an error that says what to do."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.credentials import AccessToken
from azure.servicebus import ServiceBusClient, ServiceBusMessage, TransportType
from azure.servicebus.exceptions import ServiceBusError

from adapters import claims
from adapters.azure import servicebus as adapter
from adapters.azure.identity import Identity
from adapters.azure.servicebus import ServiceBusBus
from adapters.azure.settings import Settings
from adapters.local.blobs import FileBlobs
from adapters.local.clock import SystemClock
from triggers.errors import Misconfigured, Refused, Retry
from triggers.ports import Message

if TYPE_CHECKING:
    from tests.servers.servicebus import Found, How, Peer, Where

pytestmark = [
    pytest.mark.wire,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # the SDK leaves a reset socket open
]

Buses = Callable[..., ServiceBusBus]
TWO = [Message("a", b"1"), Message("b", b"2")]


@pytest.fixture
def peer(service_bus: Found) -> Peer:
    if service_bus.peer is None:
        pytest.skip("a real Service Bus fails when it likes")
    service_bus.clear()
    return service_bus.peer


@pytest.fixture
def buses(peer: Peer, tmp_path: Path) -> Iterator[Buses]:
    made = []

    def make(connection_string: str = "", timeout_s: float = 20.0) -> ServiceBusBus:
        settings = Settings({"ServiceBus": connection_string or peer.connection_string})
        blobs = FileBlobs(tmp_path / "blobs")
        made.append(ServiceBusBus(settings, Identity(settings), blobs, SystemClock(), timeout_s))
        return made[-1]

    yield make
    for bus in made:
        threading.Thread(target=bus.close, daemon=True).start()
    gc.collect()


def there(peer: Peer, queue: str = "telemetry") -> list[str]:
    return [entry.message.id for entry in peer.queue(queue).entries.values()]


@pytest.mark.parametrize(
    ("where", "how", "warm"),
    [
        ("token", "drop", False),
        ("token", "unauthorized", False),
        ("attach", "drop", False),
        ("attach", "busy", False),
        ("send", "drop", False),
        ("send", "drop", True),
        ("send", "busy", True),
        ("send", "unauthorized", True),
        ("send", "done, then drop", True),
    ],
)
def test_one_fault_changes_nothing(peer: Peer, buses: Buses, where: Where, how: How, warm: bool) -> None:
    bus = buses(timeout_s=3.0)
    if warm:
        bus.send("telemetry", [Message("before", b"")])
    peer.fail(where, how)
    try:
        bus.send("telemetry", TWO)
    except Retry:
        bus.send("telemetry", TWO)
    assert peer.failed
    assert there(peer) == ["before"] * warm + ["a", "b"]


@pytest.mark.parametrize("how", ["busy", "drop", "unauthorized", "done, then drop"])
def test_a_fault_that_stays_asks_for_a_retry_and_the_next_call_is_well(peer: Peer, buses: Buses, how: How) -> None:
    bus = buses()
    peer.fail("send", *[how] * 3)
    with pytest.raises(Retry, match="queue telemetry"):
        bus.send("telemetry", TWO)
    peer.heal()
    bus.send("telemetry", TWO)
    assert there(peer) == ["a", "b"]


@pytest.mark.parametrize(("where", "how"), [("send", "silence"), ("send", "done, then silence"), ("attach", "silence")])
def test_silence_is_not_waited_for_without_end(peer: Peer, buses: Buses, where: Where, how: How) -> None:
    bus = buses(timeout_s=2.0)  # what a busy machine needs to open a link
    peer.fail(where, *[how] * 3)
    with pytest.raises(Retry, match="queue telemetry"):
        bus.send("telemetry", TWO)
    bus.send("telemetry", TWO)
    assert there(peer) == ["a", "b"]


def test_a_key_that_is_not_believed_is_a_retry_that_says_so(peer: Peer, buses: Buses) -> None:
    bus = buses(peer.connection_string.replace("SAS_KEY_VALUE", "another"))
    with pytest.raises(Retry, match=r"Authentication|Authorization|Unauthorized"):
        bus.send("telemetry", TWO)


def test_a_queue_that_is_not_there_is_a_retry_that_names_it(peer: Peer, tmp_path: Path) -> None:
    settings = Settings({"ServiceBus": peer.connection_string, "TelemetryQueue": "nowhere"})
    bus = ServiceBusBus(settings, Identity(settings), FileBlobs(tmp_path), SystemClock())
    with pytest.raises(Retry, match="nowhere"):
        bus.send("telemetry", TWO)
    bus.close()


def test_without_a_namespace_the_error_names_the_setting(tmp_path: Path) -> None:
    settings = Settings({})
    bus = ServiceBusBus(settings, Identity(settings), FileBlobs(tmp_path), SystemClock())
    with pytest.raises(Misconfigured, match="ServiceBus__fullyQualifiedNamespace"):
        bus.send("telemetry", TWO)


def test_a_large_body_leaves_a_claim_that_cannot_be_forged(peer: Peer, buses: Buses, tmp_path: Path) -> None:
    body = b"x" * (adapter.LARGEST + 1)
    buses().send("telemetry", [Message("at the limit", body[1:]), Message("large", body)])
    [whole, claim] = [bytes(e.message.body) for e in peer.queue("telemetry").entries.values()]
    blobs = FileBlobs(tmp_path / "blobs")
    assert (whole, claims.collect(blobs, claim)) == (body[1:], body)
    blobs.put(claim.removeprefix(b"DLC1 ").decode(), b"something else")
    with pytest.raises(Refused, match="is not what was put there"):
        claims.collect(blobs, claim)
    with pytest.raises(Refused, match="is not there"):
        claims.collect(blobs, claim[:-1] + (b"0" if claim[-1:] != b"0" else b"1"))
    inside = b"DLC1 claims/../candidates/" + b"0" * 64
    assert claims.collect(blobs, inside) == inside


def test_claims_are_forgotten_when_no_message_can_come_again(tmp_path: Path) -> None:
    blobs, now = FileBlobs(tmp_path), SystemClock().now()
    old = claims.leave(blobs, b"old", now - claims.KEPT - timedelta(days=1))
    kept = claims.leave(blobs, b"new", now - claims.KEPT)
    assert claims.forget(blobs, now) == 1
    assert claims.collect(blobs, kept) == b"new"
    with pytest.raises(Refused):
        claims.collect(blobs, old)


def test_the_peer_schedules_and_cancels_as_the_service_does(peer: Peer, service_bus: Found) -> None:
    with ServiceBusClient.from_connection_string(peer.connection_string) as client:
        sender = client.get_queue_sender("effects")
        at = service_bus.now() + timedelta(minutes=5)
        later = [ServiceBusMessage(name, message_id=name) for name in ("kept", "cancelled")]
        _, cancelled = sender.schedule_messages(later, at)
        sender.cancel_scheduled_messages([cancelled])
        service_bus.pass_time(timedelta(minutes=5))
        receiver = client.get_queue_receiver("effects").__enter__()
        assert [str(m) for m in receiver.receive_messages(5, max_wait_time=0.3)] == ["kept"]


def test_the_peer_speaks_tls_to_who_has_a_token_that_it_knows(authority: Any) -> None:
    from tests.servers.servicebus import Peer

    class Holder:
        def __init__(self, token: str) -> None:
            self.token = token

        def get_token(self, *scopes: str, **_: Any) -> AccessToken:
            return AccessToken(self.token, 4102444800)

    certificate = str(authority.cert), str(authority.key)
    with Peer({"q": False}, certificate=certificate, tokens=["known"]).running() as peer:

        def send(token: str) -> None:
            with ServiceBusClient(
                "name.servicebus.windows.net",
                Holder(token),
                custom_endpoint_address=f"sb://127.0.0.1:{peer.port}",
                connection_verify=str(authority.ca),
                transport_type=TransportType.Amqp,
                retry_total=0,
            ) as client:
                client.get_queue_sender("q").send_messages(ServiceBusMessage("m"))

        send("known")
        with pytest.raises(ServiceBusError):
            send("unknown")
        assert len(peer.queue("q").entries) == 1


def test_the_app_sends_as_its_managed_identity(authority: Any, identity: Any, tmp_path: Path) -> None:
    """Namespace, DefaultAzureCredential, TLS and claims-based security, as in a subscription."""
    from tests.servers.servicebus import Peer

    settings = Settings({**os.environ, "ServiceBus__fullyQualifiedNamespace": "name.servicebus.windows.net"})
    blobs, certificate = FileBlobs(tmp_path / "blobs"), (str(authority.cert), str(authority.key))
    with Peer({"telemetry": False}, certificate=certificate, tokens=identity.tokens).running() as peer:
        there = {"custom_endpoint_address": f"sb://127.0.0.1:{peer.port}", "connection_verify": str(authority.ca)}
        how = {**there, "transport_type": TransportType.Amqp}
        bus = ServiceBusBus(settings, Identity(settings), blobs, SystemClock(), 5.0, **how)
        try:
            bus.send("telemetry", TWO)
            assert [entry.message.id for entry in peer.queue("telemetry").entries.values()] == ["a", "b"]
            assert identity.asked["https://servicebus.azure.net/"]
            assert ("token", "jwt") in peer.log
        finally:
            bus.close()


def test_what_comes_while_nobody_receives_was_never_delivered(peer: Peer) -> None:
    """The SDK asks for more than there is, and gives back what then comes while it settles: that is no attempt."""
    with (
        ServiceBusClient.from_connection_string(peer.connection_string, retry_total=0) as client,
        client.get_queue_receiver("telemetry") as receiver,
        client.get_queue_sender("telemetry") as sender,
    ):
        sender.send_messages([ServiceBusMessage("first", message_id=str(n)) for n in range(4)])
        first = receiver.receive_messages(32, max_wait_time=5)
        sender.send_messages(ServiceBusMessage("then", message_id="then"))
        for message in first:
            receiver.complete_message(message)
        (then,) = receiver.receive_messages(1, max_wait_time=5)
        assert ("release", "telemetry") in peer.log
        assert not then.delivery_count
