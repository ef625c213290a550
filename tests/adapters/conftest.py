"""The adapters under contract. Another profile joins by adding its factory to the dictionaries here."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from adapters import claims
from adapters.azure.eventgrid import EventGridTopic
from adapters.azure.identity import Identity
from adapters.azure.profile import Azure
from adapters.azure.servicebus import ServiceBusBus
from adapters.azure.settings import Settings
from adapters.local.blobs import FileBlobs
from adapters.local.bus import SqliteBus
from adapters.local.clock import SystemClock, VirtualClock
from adapters.local.database import Database
from adapters.local.store import SqliteStore
from adapters.local.topic import SqliteTopic
from tests.servers.azurite import Azurite
from triggers.ports import Blobs, Bus, Store, Topic

if TYPE_CHECKING:
    from tests.servers.consumer import Consumer
    from tests.servers.servicebus import Found

START = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Queues:
    """A bus with its consumer's side, and a hand on its time. `blobs` is where it leaves what is too large."""

    bus: Any
    pass_time: Callable[[timedelta], object]
    now: Callable[[], datetime]
    blobs: Blobs | None = None

    def received(self, queue: str, count: int) -> dict[str, bytes]:
        """Messages as a handler sees them: a claim stands for what it leads to."""
        found = self.bus.receive(queue, count)
        return {d.id: claims.collect(self.blobs, d.body) if self.blobs else d.body for d in found}


@contextmanager
def _database(folder: Path) -> Iterator[Database]:
    database = Database(folder / "state.db")
    try:
        yield database
    finally:
        database.close()


@contextmanager
def _sqlite_store(folder: Path) -> Iterator[Store]:
    with _database(folder) as database:
        yield SqliteStore(database)


@contextmanager
def _file_blobs(folder: Path) -> Iterator[Blobs]:
    yield FileBlobs(folder / "blobs")


@contextmanager
def _case_blind_blobs(folder: Path) -> Iterator[Blobs]:
    """As on a file system that takes upper and lower case for the same."""
    (folder / "blobs" / ".UNFINISHED").mkdir(parents=True)
    yield FileBlobs(folder / "blobs")


@contextmanager
def _sqlite_queues(folder: Path) -> Iterator[Queues]:
    with _database(folder) as database:
        clock = VirtualClock(database, START)
        yield Queues(SqliteBus(database, clock), clock.advance, clock.now)


class _BothSides:
    """What the app sends with, and what the Functions host would receive with."""

    def __init__(self, sends: Bus, receives: Consumer) -> None:
        self.send, self._receives = sends.send, receives

    def __getattr__(self, name: str) -> Any:
        return getattr(self._receives, name)


@contextmanager
def _service_bus_queues(folder: Path, found: Found) -> Iterator[Queues]:
    from azure.servicebus import ServiceBusClient

    from tests.servers.consumer import Consumer

    client = ServiceBusClient.from_connection_string(found.connection_string, retry_total=0)
    blobs = FileBlobs(folder / "blobs")
    settings = Settings({"ServiceBus": found.connection_string})
    bus = ServiceBusBus(settings, Identity(settings), blobs, SystemClock())
    consumer = Consumer(client, ready=found.ready)
    found.clear()
    try:
        yield Queues(_BothSides(bus, consumer), found.pass_time, found.now, blobs)
    finally:
        threading.Thread(target=lambda: (consumer.close(), bus.close(), client.close()), daemon=True).start()


Factory = Callable[[Path], AbstractContextManager[Any]]
STORES: dict[str, Factory] = {"sqlite": _sqlite_store}
AZURE = pytest.param("azure", marks=pytest.mark.wire)
"""The azure profile's adapter, against a local server."""

BLOBS: dict[str, Factory] = {"files": _file_blobs, "files, case blind": _case_blind_blobs}
QUEUES: dict[str, Factory] = {"sqlite": _sqlite_queues}


@pytest.fixture
def azure(azurite: Azurite) -> Azure:
    """The azure profile with a table and containers of its own."""
    name = f"t{uuid4().hex}"
    own = {
        "StateTable": name,
        "StateContainer": name,
        "ConfigContainer": f"{name}-config",
        "KeyContainer": f"{name}-keys",
    }
    return Azure(Settings({**os.environ, **azurite.settings, **own}))


@pytest.fixture(params=[*STORES, AZURE])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "azure":
        yield request.getfixturevalue("azure").ports.store
        return
    with STORES[request.param](tmp_path) as store:
        yield store


@pytest.fixture(params=[*BLOBS, AZURE])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Blobs]:
    if request.param == "azure":
        yield request.getfixturevalue("azure").ports.blobs
        return
    with BLOBS[request.param](tmp_path) as blobs:
        yield blobs


@pytest.fixture(params=[*QUEUES, AZURE])
def queues(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Queues]:
    if request.param in QUEUES:
        opened = QUEUES[request.param](tmp_path)
    else:
        opened = _service_bus_queues(tmp_path, request.getfixturevalue("service_bus"))
    with opened as queues:
        yield queues


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with _database(tmp_path) as database:
        yield database


@pytest.fixture
def clock(database: Database) -> VirtualClock:
    return VirtualClock(database, START)


class _Published:
    """A topic that the app publishes to, with the delivering side behind it."""

    def __init__(self, publishes: Topic, delivers: SqliteTopic) -> None:
        self.publish, self._delivers = publishes.publish, delivers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivers, name)


@pytest.fixture(params=["sqlite", AZURE])
def topic(request: pytest.FixtureRequest, database: Database, clock: VirtualClock) -> Any:
    held = SqliteTopic(database, clock, keep=5)
    if request.param == "sqlite":
        return held
    grid = request.getfixturevalue("event_grid")
    grid.topic = held
    settings = Settings({**os.environ, "EventGrid__topicEndpointUri": grid.url})
    return _Published(EventGridTopic(settings, Identity(settings)), held)
