"""How batches leave a site for Azure's services, over the wire: once for each id, kept while nobody answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from drift.envelope import encode
from drift.telemetry import Batch, Labels
from edge.errors import Refused, Unreachable
from edge.services import BlobRegistry, Folder, Queue, Topic, name, sender
from tests.edge.conftest import SCHEMA, START


def a_batch(number: int = 1, ids: int = 1) -> bytes:
    labels = Labels([f"r{i}" for i in range(ids)], np.full(ids, START), np.ones(ids))
    return encode(Batch("1", "flights", "c" * 64, "JFK", f"b{number}", START, START + 1, labels=labels), SCHEMA)


@pytest.mark.parametrize("address", ["servicebus://name.servicebus.windows.net", "blob:///container", "ftp://x/y"])
def test_an_address_of_no_known_kind_is_refused(address: str) -> None:
    with pytest.raises(Refused, match="ingest"):
        sender(address)


def test_an_id_is_one_that_every_service_takes() -> None:
    from drift.envelope import peek

    assert len(name(peek(a_batch()))) == 40
    assert name(peek(a_batch(1))) == name(peek(a_batch(1, ids=2))) != name(peek(a_batch(2)))


@pytest.mark.wire
def test_a_batch_goes_to_a_queue_once(service_bus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.servicebus import ServiceBusClient

    service_bus.clear()
    monkeypatch.setenv("DRIFTLOOP_SERVICEBUS", service_bus.connection_string)
    queue = sender("servicebus://name.servicebus.windows.net/telemetry")
    assert isinstance(queue, Queue)
    try:
        for number in (1, 2, 1):
            assert queue.post(a_batch(number)).accepted
        assert queue.post(a_batch(3, ids=20_000)).status == 413
        assert queue.post(a_batch(4)).accepted
    finally:
        queue.close()
    with (
        ServiceBusClient.from_connection_string(service_bus.connection_string) as client,
        client.get_queue_receiver("telemetry") as receiver,
    ):
        found = receiver.receive_messages(max_message_count=10, max_wait_time=2)
        bodies = [b"".join(m.body) for m in found]
    assert bodies == [a_batch(1), a_batch(2), a_batch(4)]
    service_bus.clear()


@pytest.mark.wire
def test_a_queue_that_cannot_be_reached_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "Endpoint=sb://127.0.0.1:9;SharedAccessKeyName=x;SharedAccessKey=eA==;UseDevelopmentEmulator=true;"
    monkeypatch.setenv("DRIFTLOOP_SERVICEBUS", told)
    queue = sender("servicebus://name.servicebus.windows.net/telemetry")
    with pytest.raises(Unreachable):
        queue.post(a_batch())
    queue.close()


@pytest.mark.wire
def test_a_batch_goes_to_a_topic_byte_by_byte(event_grid: Any) -> None:
    class Held:
        events: list[Any] = []  # noqa: RUF012

        def publish(self, events: Any) -> None:
            self.events.extend(events)

    event_grid.topic = held = Held()
    topic = sender(event_grid.url.replace("https://", "eventgrid://"))
    assert isinstance(topic, Topic)
    assert topic.post(a_batch()).accepted
    topic.close()
    event_grid.topic = None
    [event] = held.events
    assert (event["type"], event["source"]) == ("driftloop.telemetry", "/driftloop/flights/JFK")
    assert base64.b64decode(event["data_base64"]) == a_batch()


@pytest.mark.wire
def test_a_batch_is_a_file_of_a_container_and_candidates_are_read_there(azurite: Any) -> None:
    from azure.identity import DefaultAzureCredential
    from azure.storage.blob import BlobServiceClient

    address = azurite.blobs.replace("https://", "blob://")
    account = BlobServiceClient(azurite.blobs, DefaultAzureCredential())
    container = account.create_container("from-a-site")
    folder = sender(f"{address}/from-a-site/in")
    assert isinstance(folder, Folder)
    for _ in range(2):
        assert folder.post(a_batch()).accepted
    folder.close()
    [blob] = container.list_blobs()
    assert blob.name.startswith("in/flights/JFK/")
    assert blob.name.endswith(".envelope.json")
    assert json.loads(container.download_blob(blob.name).readall())["batch"] == "b1"
    registry = BlobRegistry(f"{address}/from-a-site")
    assert registry.read(blob.name, 10_000) == a_batch()
    with pytest.raises(Refused, match="longer than 5 bytes"):
        registry.read(blob.name, 5)
    with pytest.raises(Refused, match="is not in the registry"):
        registry.read("candidates/none", 5)
    missing = sender(f"{address}/nowhere/in")
    assert missing.post(a_batch()).status == 404
    missing.close()
    container.close()
    account.close()
