"""The whole loop on the azure profile: Azurite, an AMQP peer, an Event Grid topic, an Azure ML workspace whose jobs are
the real ones, and sites that are the edge program. Every service is reached through its SDK."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from azure.servicebus import ServiceBusClient

from adapters.azure import configs
from adapters.azure.ml import AzureMlJobs
from adapters.azure.profile import Azure
from adapters.azure.settings import Settings
from adapters.azure.workspace import Workspace
from adapters.local.clock import VirtualClock
from adapters.local.database import Database
from adapters.local.sites import HttpExecutor
from adapters.local.topic import SqliteTopic
from adapters.queues import QUEUES, SESSIONS
from cli import summary
from cli.browser import Page
from cli.replay import Options, Replay
from functions import host as root
from tests.adapters.azureml import FINAL, WORKSPACE, WORKSPACE_ID, AzureMl
from tests.cli import line
from tests.conftest import Authority
from tests.servers.azurite import Azurite
from tests.servers.consumer import Consumer, Wait
from triggers.ports import Blobs, Change, Clock, Configs, Ports

if TYPE_CHECKING:
    from tests.servers.servicebus import Peer

pytestmark = pytest.mark.wire

START = datetime(2037, 1, 1, tzinfo=UTC)
"""The SDK holds a lock for expired by the machine's clock: what is replayed lies ahead of it."""

DAYS = line.BEFORE + 12
FRESH_S = 1.0


class Received:
    """What the Functions host does with Service Bus; when something is due is asked of the peer itself."""

    def __init__(self, consumer: Consumer, peer: Peer) -> None:
        self._consumer, self._peer = consumer, peer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def next_due(self, queue: str) -> datetime | None:
        waiting = [e.due for e in list(self._peer.queue(queue).entries.values()) if e.state == "scheduled"]
        return datetime.fromtimestamp(min(waiting) / 1000, UTC) if waiting else None


@dataclass
class Workshop:
    """The jobs of the workspace, as far as a replay waits for them."""

    server: AzureMl

    def running(self) -> bool:
        told = {event["subject"] for event in self.server.events}
        runs = list(self.server.runs.values())
        return any(run.status not in FINAL or f"runs/{run.name}" not in told for run in runs)

    def wait(self, timeout_s: float) -> None:
        time.sleep(timeout_s)


class Mount:
    """The container as a folder, as a cluster has it mounted."""

    def __init__(self, blobs: Blobs, folder: Path) -> None:
        self._blobs, self._folder = blobs, folder

    def sync(self, *prefixes: str) -> None:
        for name in (name for prefix in prefixes for name in self._blobs.names(prefix)):
            path = self._folder / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._blobs.get(name))


class Sites(HttpExecutor):
    """Sites that have the container mounted."""

    def __init__(self, configs: Configs, mount: Mount) -> None:
        super().__init__(configs)
        self._mount = mount

    def apply(self, change: Change, proven: bool = False) -> None:
        self._mount.sync(f"candidates/{change.candidate}/", "layers/")
        super().apply(change, proven)


class Operator(Page):
    """Somebody whom App Service has signed in."""

    def _sign_in(self, login: str) -> None:
        claims = ("preferred_username", "operator"), ("roles", "approve")
        said = {"auth_typ": "aad", "claims": [{"typ": kind, "val": value} for kind, value in claims]}
        self.headers["X-MS-CLIENT-PRINCIPAL"] = base64.b64encode(json.dumps(said).encode()).decode()


@dataclass
class Cloud:
    """What Replay needs of a profile."""

    ports: Ports
    bus: Received
    topic: SqliteTopic
    store: Any
    clock: Clock
    jobs: Workshop


class AzureReplay(Replay):
    """A replay whose app is told to be on Azure."""

    def __init__(self, options: Options, servers: Mapping[str, Any], patch: pytest.MonkeyPatch) -> None:
        super().__init__(options)
        self.servers, self.patch = servers, patch
        name = f"t{uuid4().hex}"
        own = {"StateTable": name, "StateContainer": name, "ConfigContainer": f"{name}-config"}
        for key, value in {**own, "KeyContainer": f"{name}-keys", "WEBSITE_AUTH_ENABLED": "True"}.items():
            patch.setenv(key, value)
        patch.setattr(configs, "FRESH_S", FRESH_S)
        patch.setenv("EventGrid__topicEndpointUri", servers["grid"].url)
        self.azure = Azure(Settings(os.environ))

    def _prepare(self) -> None:
        keys = self.state / "keys"
        keys.mkdir(parents=True)
        (keys / "registry.pem").write_bytes(self.azure.keys.registry)
        super()._prepare()

    def _profile(self) -> Any:
        database = Database(self.state / "world.db")
        self._close.callback(database.close)
        clock = VirtualClock(database, self.start)
        from tests.servers.servicebus import Peer

        peer = Peer({queue: queue in SESSIONS for queue in QUEUES}, lambda: clock.now().timestamp())
        self._close.enter_context(peer.running())
        self.patch.setenv("ServiceBus", peer.connection_string)
        topic = self.servers["grid"].topic = SqliteTopic(database, clock)
        server = AzureMl(self.state / "ml", self.azure.ports.blobs, lambda event: topic.publish([event]))
        self._close.callback(server.close)
        jobs = AzureMlJobs(
            Workspace(lambda: WORKSPACE_ID, server, **server.options()),  # type: ignore[arg-type]
            self.azure.blobs,
            self.azure.files,
            self.azure.ports.configs,
            self.azure.ports.signatures,
            clock,
            registry_key=lambda: self.azure.keys.registry,
            storage=lambda: f"{self.azure.settings.blobs}/{self.azure.settings.container}",
            datastore=lambda: "driftloop",
            compute=lambda: "cluster",
        )
        self.mount = Mount(self.azure.blobs, self.state / "blobs")
        executor = Sites(self.azure.ports.configs, self.mount)
        self.azure.ports = replace(self.azure.ports, clock=clock, jobs=jobs, executor=executor)
        self.patch.setenv("DRIFTLOOP_PROFILE", "azure")
        self.patch.setattr(root, "azure", lambda: self.azure)
        root.ports.cache_clear()
        self._close.callback(root.ports.cache_clear)
        client = ServiceBusClient.from_connection_string(peer.connection_string, retry_total=0)
        self._close.callback(client.close)
        consumer = Consumer(client, ready=peer.ready, wait=Wait(5.0, 5.0))
        self._close.callback(consumer.close)
        self.peer, self.ml = peer, server
        ports = root.ports()
        return Cloud(ports, Received(consumer, peer), topic, ports.store, clock, Workshop(server))

    def _write_fleet(self, urls: Mapping[str, str]) -> None:
        """Into the container of configurations, and until the app reads it again."""
        super()._write_fleet(urls)
        for path in (self.state / "config" / self.loop.loop).iterdir():
            self.azure.files.put(f"{self.loop.loop}/{path.name}", path.read_bytes())
        time.sleep(FRESH_S)

    def train(self, name: str, *args: Any, **named: Any) -> str:
        found = super().train(name, *args, **named)
        for folder in ("candidates", "layers"):
            for path in (self.state / "blobs" / folder).rglob("*"):
                if path.is_file():
                    self.azure.blobs.put(path.relative_to(self.state / "blobs").as_posix(), path.read_bytes())
        return found

    def review(self) -> dict[str, Any]:
        self.mount.sync("candidates/", "layers/", "batches/")
        return super().review()

    def _draw(self) -> None:
        return

    def _browser(self) -> Page:
        return Operator(self.url, "")


@pytest.fixture
def replayed(
    tmp_path: Path, azurite: Azurite, authority: Authority, event_grid: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AzureReplay]:
    folder = tmp_path / "line"
    folder.mkdir()
    line.write(folder, START, DAYS, changes=2, holdout="3d", minimum_rows=600)
    for name, value in {**azurite.settings, "AzureMLWorkspace": WORKSPACE, "AzureMLCompute": "cluster"}.items():
        monkeypatch.setenv(name, value)
    faults = {"north": {"seed": 1, "duplicate": 0.3}, "south": {"seed": 2, "reorder": 0.3, "malformed": 1}}
    offline = START + timedelta(days=line.BEFORE + 3)
    options = Options(
        folder / "loop.yaml",
        folder / "fleet.yaml",
        folder / "rows.csv",
        tmp_path / "state",
        site_faults=faults,
        offline=[("south", offline, offline + timedelta(days=2))],
    )
    with AzureReplay(options, {"grid": event_grid}, monkeypatch) as replay:
        yield replay
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_the_whole_loop_passes_on_the_azure_profile(replayed: AzureReplay) -> None:
    replayed.adopt()
    for _ in replayed.ticks():
        pass
    assert not replayed.failed()
    found = summary.make(replayed)
    assert [run["phase"] for run in found["runs"]] == ["verified"], found["runs"]
    assert found["batches"]["duplicate"] > 0
    assert found["batches"]["quarantined"] == 1
    assert found["rows"] == (DAYS - line.BEFORE) * 2 * line.A_DAY
    assert {site["candidate"] for site in found["sites"].values()} == {found["runs"][-1]["candidate"]}
