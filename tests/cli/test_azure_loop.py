"""The whole loop on the azure profile: Azurite, an AMQP peer, an Event Grid topic, a Git repository, and an Azure ML
workspace whose jobs are the real ones and whose online deployments are the edge program. Every service is reached
through its SDK.

Of three sites one is pushed to by Azure ML, one pulls by Flux, and one is reached over HTTP, over a bad network.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import pytest
import yaml
from azure.servicebus import ServiceBusClient

from adapters.azure import configs, profile
from adapters.azure.profile import Azure
from adapters.azure.settings import Settings
from adapters.local.clock import VirtualClock
from adapters.local.database import Database
from adapters.local.sites import HttpExecutor
from adapters.local.topic import SqliteTopic
from adapters.queues import QUEUES, SESSIONS
from cli import summary
from cli.browser import Page
from cli.replay import Options, Replay
from functions import host as root
from tests.adapters.azureml import FINAL, WORKSPACE, AzureMl
from tests.adapters.fields import cluster
from tests.cli import line
from tests.cli.plants import Flux, Machines
from tests.conftest import Authority
from tests.servers.azurite import Azurite
from tests.servers.consumer import Consumer, Wait
from tests.servers.git import serving
from tests.servers.https import Handler
from tests.servers.https import serving as serving_https
from tests.servers.identity import SECRET, Identity
from triggers import loop as shell
from triggers.config import endpoint_name
from triggers.ports import Blobs, Change, Clock, Ports

if TYPE_CHECKING:
    from tests.servers.servicebus import Peer

pytestmark = pytest.mark.wire

START = datetime(2037, 1, 1, tzinfo=UTC)
"""The SDK holds a lock for expired by the machine's clock: what is replayed lies ahead of it."""

DAYS = line.BEFORE + 12
FRESH_S = 1.0
GIT_TOKEN = "what-lets-the-app-push"
TEAMS_SECRET = "what-lets-the-app-post-cards"
SIGNED = re.compile(
    r"[?&]sig=(?!REDACTED)|SharedAccessSignature s|Bearer (?!\[?REDACTED)|AccountKey=|-----BEGIN \w* ?PRIVATE"
)
"""A SAS, a token, a key of an account or of a registry, whosever it is."""


class Watch(logging.Handler):
    """Reads all that is logged in this process, at DEBUG, and keeps where a secret was."""

    def __init__(self, *secrets: str) -> None:
        super().__init__(logging.DEBUG)
        self.secrets, self.tokens = secrets, list[str]()
        self.read: set[str] = set()
        self.leaks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.read.add(record.name)
        said = f"{record.getMessage()} {record.exc_text} {record.__dict__}"
        if SIGNED.search(said) or any(s in said for s in (*self.secrets, *self.tokens)):
            self.leaks.append(f"{record.name}: {said[:300]}")


class Workflow(Handler):
    """What posts cards to a Teams channel."""

    cards: list[Any]

    def do_POST(self) -> None:  # noqa: N802
        assert self.path.endswith(f"&sig={TEAMS_SECRET}")
        self.cards.append(json.loads(self.read())["attachments"][0]["content"])
        self.answer(202, b"")


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
    """The jobs and deployments of the workspace, as far as a replay waits for them."""

    server: AzureMl

    def running(self) -> bool:
        if self.server.starting:
            return True
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

    mount: Mount

    def apply(self, change: Change, proven: bool = False) -> None:
        self.mount.sync(f"candidates/{change.candidate}/", "layers/")
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
    """A replay whose app is told to be on Azure, and has the ports of that profile."""

    def __init__(self, options: Options, servers: Mapping[str, Any], patch: pytest.MonkeyPatch) -> None:
        super().__init__(options)
        self.servers, self.patch = servers, patch
        name = f"t{uuid4().hex}"
        own = {"StateTable": name, "StateContainer": name, "ConfigContainer": f"{name}-config"}
        for key, value in {**own, "KeyContainer": f"{name}-keys", "WEBSITE_AUTH_ENABLED": "True"}.items():
            patch.setenv(key, value)
        patch.setattr(configs, "FRESH_S", FRESH_S)
        patch.setenv("EventGrid__topicEndpointUri", servers["grid"].url)
        self.brought = False

    # --- setting up

    def _prepare(self) -> None:
        self.state.mkdir(parents=True)
        database = Database(self.state / "world.db")
        self._close.callback(database.close)
        self.now = VirtualClock(database, START + timedelta(days=line.BEFORE))
        self.topic = self.servers["grid"].topic = SqliteTopic(database, self.now)
        authority = self.servers["authority"]
        tell = lambda event: self.topic.publish([event])  # noqa: E731
        self.ml = AzureMl(self.state / "ml", Late(self), tell, authority=authority, clock=self.now)
        self.ml.waits = False
        self._close.callback(self.ml.close)
        cert = str(authority.cert), str(authority.key)
        self.git = self._close.enter_context(serving(self.state / "fleet.git", *cert))
        self.cards: list[Any] = []
        handler = type("Channel", (Workflow,), {"cards": self.cards})
        teams = self._close.enter_context(serving_https(handler, *cert))
        self.patch.setenv("TeamsWorkflowUrl", f"{teams}/workflows/1?api-version=1&sig={TEAMS_SECRET}")
        self.patch.setenv("GitUrl", self.git.url)
        self.patch.setenv("GitToken", GIT_TOKEN)
        self.azure = Azure(Settings(os.environ), self.now, **self.ml.options())
        (self.state / "keys").mkdir()
        (self.state / "keys" / "registry.pem").write_bytes(self.azure.keys.registry)
        super()._prepare()

    def _profile(self) -> Any:
        from tests.servers.servicebus import Peer

        self.peer = Peer({queue: queue in SESSIONS for queue in QUEUES}, lambda: self.now.now().timestamp())
        for queue in SESSIONS:  # the host renews what it holds, and has no chance to while time jumps
            self.peer.queue(queue).lock = int(timedelta(days=DAYS).total_seconds() * 1000)
        self._close.enter_context(self.peer.running())
        for name in ("ServiceBus", "DRIFTLOOP_SERVICEBUS"):  # the app's, and that of programs at sites
            self.patch.setenv(name, self.peer.connection_string)
        self.patch.setenv("SiteIngest", "servicebus://127.0.0.1/telemetry")
        self.mount = Mount(self.azure.blobs, self.state / "blobs")
        self.patch.setattr(Sites, "mount", self.mount, raising=False)
        self.patch.setenv("DRIFTLOOP_PROFILE", "azure")
        self.patch.setattr(root, "azure", lambda: self.azure)
        root.ports.cache_clear()
        self._close.callback(root.ports.cache_clear)
        client = ServiceBusClient.from_connection_string(self.peer.connection_string, retry_total=0)
        self._close.callback(client.close)
        consumer = Consumer(client, ready=self.peer.ready, wait=Wait(5.0, 5.0))
        self._close.callback(consumer.close)
        ports = root.ports()
        return Cloud(ports, Received(consumer, self.peer), self.topic, ports.store, self.now, Workshop(self.ml))

    def _write_fleet(self, urls: Mapping[str, str]) -> None:
        """Into the container of configurations, and until the app reads it again."""
        super()._write_fleet(urls)
        folder = self.state / "config" / self.loop.loop
        fleet = yaml.safe_load((folder / "fleet.yaml").read_text())
        for site in fleet["sites"]:
            site["key_file"] = str(self._site(site["name"]) / "key.pem")
        (folder / "fleet.yaml").write_text(yaml.safe_dump(fleet))
        for path in folder.iterdir():
            self.azure.files.put(f"{self.loop.loop}/{path.name}", path.read_bytes())
        time.sleep(FRESH_S)

    def _start_edges(self) -> dict[str, str]:
        """Those that nobody else starts."""
        whole = self.fleet
        self.fleet = msgspec.structs.replace(whole, sites=tuple(s for s in whole.sites if s.executor == "local"))
        try:
            return super()._start_edges()
        finally:
            self.fleet = whole

    # --- the first champion

    def adopt(self) -> str:
        """Onto the other sites by hand, with what is there for it."""
        champion = super().adopt()
        names = tuple(f.name for f in self.loop.schema.features)
        north, west = (next(s for s in self.fleet.sites if s.name == name) for name in ("north", "west"))
        for name in ("north", "west"):
            about = {"id": cluster(name), "name": name, "properties": {"connectivityStatus": "Connected"}}
            self.ml.resources[cluster(name)] = about
        rows = self._site("west") / "rows.npz"
        self.flux = Flux(self.git, self.ml, cluster("west"), self.loop.loop, "west", self.state / "pod", rows)
        self._close.callback(self.flux.close)
        for site in (north, west):
            change = Change(
                id=f"line.2036-01-01.0/{site.name}/deploy", loop="line", site=site.name, run="line.2036-01-01.0",
                wave=0, candidate=champion, action="deploy", fence=0, at=self.now.now(),
            )  # fmt: skip
            end = time.monotonic() + 60
            self.flux.work(self.now.now())
            while self.azure.ports.executor.apply(change, proven=True) is not None:
                assert time.monotonic() < end
                self.flux.work(self.now.now())
                time.sleep(0.05)
        self.edges["west"] = self.flux.url
        rows = self._site("north") / "rows.npz"
        self.machines = Machines(self.ml, endpoint_name("line", north), rows, names)
        self._close.callback(self.machines.close)
        return champion

    def train(self, name: str, *args: Any, **named: Any) -> str:
        found = super().train(name, *args, **named)
        for folder in ("candidates", "layers"):
            for path in (self.state / "blobs" / folder).rglob("*"):
                if path.is_file():
                    self.azure.blobs.put(path.relative_to(self.state / "blobs").as_posix(), path.read_bytes())
        return found

    # --- time

    def settle(self) -> None:
        self.flux.work(self.now.now())
        super().settle()

    def _play(self, now: datetime) -> None:
        self.machines.play(int(now.timestamp()) - 1)
        super()._play(now)

    def bring(self) -> None:
        """Once the loop has a new champion, somebody registers a model of their own in the workspace: the champion,
        unable to score a row whose heat it has not seen."""
        head = shell.head(self.azure.ports, "line")
        first = shell.runs(self.azure.ports, "line")[:1]
        if self.brought or head.active or not first or head.champion != first[0].candidate:
            return
        from azure.ai.ml.entities import Model

        self.brought = True
        now = self.now.now()
        self.azure.blobs.put("theirs/model.onnx", self._refusing(head.champion, now))
        start, end = now - timedelta(days=20), now - timedelta(days=4)
        theirs = Model(
            name="line",
            version="7",
            path="azureml://datastores/driftloop/paths/theirs/",
            type="custom_model",
            tags={"from": start.isoformat(), "to": end.isoformat(), "by": "mallory", "author": "mallory"},
        )
        self.azure.workspace.client.models.create_or_update(theirs)
        self.settle()

    def _refusing(self, champion: str, until: datetime) -> bytes:
        import onnx

        manifest = json.loads(self.azure.blobs.get(f"candidates/{champion}/manifest.json"))
        model = onnx.load_from_string(self.azure.blobs.get(f"layers/{manifest['files']['model.onnx']['sha256']}"))
        rows = (line.split(",") for line in self.options.data.read_text().splitlines()[1:])
        seen = {round(float(heat) * 1000) for _, at, _, heat, *_ in rows if float(at) < until.timestamp()}
        return refusing(model, "heat", 1000.0, sorted({0, *seen})).SerializeToString()

    def review(self) -> dict[str, Any]:
        self.mount.sync("candidates/", "layers/", "batches/")
        return super().review()

    def _draw(self) -> None:
        return

    def _browser(self) -> Page:
        return Operator(self.url, "")


class Late:
    """The blobs of a profile that is not yet made."""

    def __init__(self, replay: AzureReplay) -> None:
        self._replay = replay

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replay.azure.blobs, name)


def refusing(model: Any, feature: str, scale: float, seen: list[int]) -> Any:
    """The ONNX model, unable to score a row whose feature, times scale, is not among those seen; missing is 0. What the
    endpoint tries it with before it gets requests it takes."""
    import onnx

    graph, nodes = model.graph, []

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(onnx.helper.make_node(op, inputs, [output], **attributes))
        return output

    for name, value in (("scale", scale), ("zero", 0.0)):
        graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [1], [value]))
    known = node("Where", [node("IsNaN", [feature], "missing"), "zero", feature], "known")
    code = node("Cast", [node("Round", [node("Mul", [known, "scale"], "scaled")], "round")], "code", to=7)
    places = {"keys_int64s": seen, "values_int64s": [0] * len(seen), "default_int64": 1 << 30}
    place = node("LabelEncoder", [code], "place", domain="ai.onnx.ml", **places)
    nothing = node("Gather", ["zero", place], "nothing")
    for last in graph.node:
        for i, output in enumerate(last.output):
            if output == "score":
                last.output[i] = "score_as_it_was"
    graph.node.extend(nodes)
    graph.node.append(onnx.helper.make_node("Add", ["score_as_it_was", nothing], ["score"]))
    onnx.checker.check_model(model)
    return model


def write(folder: Path) -> None:
    """The line with a third plant, and how each is reached."""
    folder.mkdir()
    line.write(folder, START, DAYS, changes=2, holdout="3d", minimum_rows=600, plants=("north", "south", "west"))
    loop = yaml.safe_load((folder / "loop.yaml").read_text())
    loop["gates"]["margin"] = 0.02
    loop["rollout"]["max_unavailable"] = 2
    loop |= {"serving": {"traffic": [50, 100]}, "telemetry": {"report": "12h"}}
    (folder / "loop.yaml").write_text(yaml.safe_dump(loop))
    north = {"name": "north", "ring": "first", "executor": "azureml", "compute": "k8s-north"}
    west = {"name": "west", "ring": "rest", "executor": "flux", "resource_id": cluster("west")}
    sites = [{**north, "resource_id": cluster("north")}, {"name": "south", "ring": "rest"}, west]
    (folder / "fleet.yaml").write_text(yaml.safe_dump({"sites": sites}))


@pytest.fixture
def replayed(
    tmp_path: Path, azurite: Azurite, authority: Authority, event_grid: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AzureReplay]:
    folder = tmp_path / "line"
    write(folder)
    for name, value in {**azurite.settings, "AzureMLWorkspace": WORKSPACE, "AzureMLCompute": "cluster"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(profile, "HttpExecutor", Sites)
    offline = START + timedelta(days=line.BEFORE + 3)
    options = Options(
        folder / "loop.yaml",
        folder / "fleet.yaml",
        folder / "rows.csv",
        tmp_path / "state",
        site_faults={"south": {"seed": 2, "duplicate": 0.3, "reorder": 0.3, "malformed": 1}},
        offline=[("south", offline, offline + timedelta(days=2))],
    )
    with AzureReplay(options, {"grid": event_grid, "authority": authority}, monkeypatch) as replay:
        yield replay
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def watch(identity: Identity) -> Iterator[Watch]:
    """Beside the log of the app and of every SDK."""
    from tests.servers.servicebus import KEY

    basic = base64.b64encode(f"driftloop:{GIT_TOKEN}".encode()).decode()
    watch = Watch(SECRET, GIT_TOKEN, TEAMS_SECRET, KEY, basic)
    watch.tokens = identity.tokens
    log, peer = logging.getLogger(), logging.getLogger("proton")
    levels = log.level, peer.level
    log.addHandler(watch)
    log.setLevel(logging.DEBUG)
    peer.setLevel(logging.INFO)  # it is nobody's SDK, and says ten times as much as all others
    yield watch
    log.removeHandler(watch)
    for one, level in zip((log, peer), levels, strict=True):
        one.setLevel(level)


def test_the_whole_loop_passes_on_the_azure_profile(replayed: AzureReplay, watch: Watch) -> None:
    from tests.servers.servicebus import KEY

    replayed.adopt()
    for _ in replayed.ticks():
        replayed.bring()
    assert not replayed.failed()
    found = summary.make(replayed)
    good, bad = found["runs"]
    assert [good["phase"], bad["phase"]] == ["verified", "rolled-back"], found["runs"]
    assert found["batches"]["duplicate"] > 0
    assert found["batches"]["quarantined"] == 1
    assert found["rows"] == (DAYS - line.BEFORE) * 3 * line.A_DAY
    assert {site["candidate"] for site in found["sites"].values()} == {good["candidate"]}
    pushed = replayed.machines.answered
    assert sum(pushed.values()) == (DAYS - line.BEFORE) * line.A_DAY
    assert pushed[good["candidate"]] > pushed.get(bad["candidate"], 0) > 0, bad
    commits = [message.splitlines()[0] for message in replayed.git.messages()]
    written = b"".join(path.read_bytes() for path in replayed.state.rglob("*log*") if path.is_file())
    for secret in (SECRET, GIT_TOKEN, KEY):
        assert secret.encode() not in written, "in a log of a job, a deployment or a site"
    assert watch.leaks == []
    assert watch.read >= {"azure.core.pipeline.policies.http_logging_policy", "azure.servicebus._pyamqp.cbs"}, (
        watch.read
    )
    assert any(f"/api/approvals/{good['id']}" in json.dumps(card) for card in replayed.cards), replayed.cards
    assert commits == [f"west: {good['candidate'][:12]}", f"west: {good['champion'][:12]}"], "it has never reached west"
