"""Three sites in the hands of each executor, and what they come to serve."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import trustme

from adapters.azure.arm import Arm
from adapters.azure.flux import FluxExecutor, folder_of
from adapters.azure.git import Repository
from adapters.azure.identity import Identity
from adapters.azure.iotedge import IotEdgeExecutor
from adapters.azure.program import Addresses
from adapters.azure.push import PushExecutor
from adapters.azure.settings import Settings
from adapters.azure.workspace import Workspace
from adapters.local.sites import HttpExecutor
from tests.adapters.azureml import PROVIDERS, WORKSPACE, WORKSPACE_ID, AzureMl, Token
from tests.conftest import Authority
from tests.servers import https
from tests.servers.faults import Faults, between
from tests.servers.git import Bare, serving
from tests.triggers.world import LOOP
from triggers import config as cfg
from triggers.config import endpoint_name
from triggers.ports import Blobs, Clock, Configs, Executor

replace = msgspec.structs.replace
NAMES = ("a", "b", "c")
UNHURRIED = replace(LOOP, rollout=replace(LOOP.rollout, max_p95_ms=190.0))
"""Where another program has the machine, an endpoint takes its time; what is slow here takes 200 ms."""
ADDRESSES = Addresses(ingest="servicebus://plant.servicebus.windows.net/telemetry", registry="blob://plant/driftloop")


@dataclass
class Field:
    """`online` and `refuses` (site -> candidates that do not come up there) are the test's to change.

    `work` is what happens at the sites by itself; `serves` says what answers all of a site's requests, `shares` what
    answers some; `writes` counts what was changed from outside.
    """

    executor: Executor
    work: Callable[[], None]
    shares: Callable[[str], Mapping[str, int]]
    writes: Callable[[], int]
    online: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(NAMES, True))
    refuses: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in NAMES})
    more: Any = None

    def serves(self, site: str) -> str:
        return next((c for c, share in self.shares(site).items() if share == 100), "")


def fleet(executor: str) -> cfg.Fleet:
    """The first site is the lab, the others are the plant."""
    sites = [
        cfg.Site(name=n, ring="plant" if i else "lab", executor=executor, compute=f"k8s-{n}", resource_id=cluster(n))  # type: ignore[arg-type]
        for i, n in enumerate(NAMES)
    ]
    return cfg.Fleet(sites=tuple(sites))


def cluster(site: str) -> str:
    return f"{PROVIDERS}/Microsoft.Kubernetes/connectedClusters/{site}"


@dataclass
class Through:
    """A proxy with faults in front of each https server of a field."""

    authority: Authority
    faults: Faults
    close: ExitStack

    def __call__(self, url: str) -> str:
        a = self.authority
        return self.close.enter_context(between(url, self.faults, a.ca, a.cert, a.key))


class _Arm:
    """The local server with the clusters of the sites in it."""

    def __init__(self, folder: Path, blobs: Blobs, online: dict[str, bool], through: Through | None = None) -> None:
        self.server = AzureMl(folder, blobs, authority=through and through.authority)
        if through is not None:
            self.server.shown = through(self.server.url)
        self.workspace = Workspace(lambda: WORKSPACE_ID, Identity(Settings({})), **self.server.options())
        self.workspace._identity.__dict__["credential"] = self.server.credential
        self.online = online
        self.connect()

    def connect(self) -> None:
        for name in NAMES:
            status = "Connected" if self.online[name] else "Offline"
            said = {"connectivityStatus": status, "lastConnectivityTime": "2026-03-01T00:00:00Z"}
            self.server.resources[cluster(name)] = {"id": cluster(name), "name": name, "properties": said}


@contextmanager
def push(
    folder: Path,
    blobs: Blobs,
    configs: Configs,
    clock: Clock,
    public: bytes = b"PUBLIC",
    through: Through | None = None,
) -> Iterator[Field]:
    online = dict.fromkeys(NAMES, True)
    arm = _Arm(folder / "azure", blobs, online, through)
    server = arm.server
    server.serving = lambda candidate, rows: {"candidate": candidate, "scores": [0.5] * len(rows)}
    transport = {"connection_verify": str(server.ca)}
    executor = PushExecutor(
        arm.workspace,
        blobs,
        configs,
        clock,
        addresses=lambda: ADDRESSES,
        public_key=lambda: public,
        datastore=lambda: server.datastore,
        state=str(folder / "state"),
        **transport,
    )
    refuses: dict[str, set[str]] = {name: set() for name in NAMES}

    def work() -> None:
        arm.connect()
        server.bad = set().union(*refuses.values())

    def shares(site: str) -> dict[str, int]:
        path = f"{WORKSPACE}/onlineEndpoints/{endpoint_name('line', cfg.Site(name=site))}"
        traffic = server._traffic(path)
        return {server.pretended[f"{path}/deployments/{name}"]: int(share) for name, share in traffic.items()}

    def writes() -> int:
        return sum(method in ("PUT", "PATCH", "DELETE") for method, _ in server.requests)

    try:
        yield Field(executor, work, shares, writes, online, refuses, server)
    finally:
        server.close()


@dataclass
class Cluster:
    """Flux in a cluster, as far as it goes: what it has pulled, and since when that would not come up."""

    candidate: str = ""
    wanted: str = ""
    seen: str = ""


@contextmanager
def flux(folder: Path, blobs: Blobs, configs: Configs, clock: Clock, through: Through | None = None) -> Iterator[Field]:
    online = dict.fromkeys(NAMES, True)
    refuses: dict[str, set[str]] = {name: set() for name in NAMES}
    clusters = {name: Cluster() for name in NAMES}
    with ExitStack() as stack:
        secure = (str(through.authority.cert), str(through.authority.key)) if through else ()
        bare: Bare = stack.enter_context(serving(folder / "fleet.git", *secure))
        arm = _Arm(folder / "azure", blobs, online, through)
        stack.callback(arm.server.close)
        url = through(bare.url) if through else bare.url
        git = Repository(lambda: url, lambda: "main", lambda: ("", ""), clock)
        executor = FluxExecutor(configs, arm.workspace.arm, git, clock, lambda: ADDRESSES, lambda: b"PUBLIC")

        def work() -> None:
            """Each cluster pulls, as long as it is online and not suspended."""
            arm.connect()
            for name, found in clusters.items():
                path = f"{cluster(name)}/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/driftloop"
                new = {"id": path, "name": "driftloop", "properties": {"suspend": False, "sourceSyncedCommitId": ""}}
                said = arm.server.resources.setdefault(path, new)["properties"]
                if not online[name]:
                    continue
                said["statusUpdatedAt"] = clock.now().isoformat()
                if said["suspend"]:
                    said["complianceState"] = "Suspended"
                    continue
                head = bare.head
                if head and head != found.seen:
                    files = bare.files(folder_of("line", name))
                    found.wanted, found.seen = json.loads(files.get("wanted.json", b"{}")).get("candidate", ""), head
                wanted = found.wanted
                said["sourceSyncedCommitId"] = f"main@sha1:{head}" if head else ""
                said["complianceState"] = "Non-Compliant" if wanted in refuses[name] else "Compliant"
                why = [{"message": "the pod does not get ready"}]
                bad = {
                    "kind": "StatefulSet",
                    "name": "site",
                    "complianceState": "Non-Compliant",
                    "statusConditions": why,
                }
                said["statuses"] = [bad] if wanted in refuses[name] else []
                if wanted and wanted not in refuses[name]:
                    found.candidate = wanted

        def writes() -> int:
            return bare.commits

        work()
        yield Field(executor, work, lambda s: {clusters[s].candidate: 100}, writes, online, refuses, (bare, arm.server))


@contextmanager
def local(folder: Path, blobs: Blobs, configs: Configs, clock: Clock) -> Iterator[Field]:
    online = dict.fromkeys(NAMES, True)
    refuses: dict[str, set[str]] = {name: set() for name in NAMES}
    serves = dict.fromkeys(NAMES, "")
    changes: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            name = self.path.strip("/").split("/")[0]
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, said = 202, {}
            if not online[name]:
                status, said = 503, {"error": "offline"}
            elif asked["candidate"] in refuses[name] or not asked["candidate"]:
                status, said = 422, {"error": "does not come up"}
            elif serves[name] != asked["candidate"]:
                serves[name] = asked["candidate"]
                changes.append(name)
            self.send_response(status)
            data = json.dumps(said).encode()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        found = configs.fleet("line")
        urls = tuple(cfg.msgspec.structs.replace(s, url=f"{base}/{s.name}") for s in found.sites)
        configs.sites = cfg.Fleet(sites=urls)  # type: ignore[attr-defined]
        yield Field(
            HttpExecutor(configs), lambda: None, lambda s: {serves[s]: 100}, lambda: len(changes), online, refuses
        )
        server.shutdown()


@contextmanager
def iotedge(
    folder: Path, blobs: Blobs, configs: Configs, clock: Clock, through: Through | None = None
) -> Iterator[Field]:
    """IoT Hub, and the agents of devices that run the module of the deployment with the greatest priority."""
    online = dict.fromkeys(NAMES, True)
    refuses: dict[str, set[str]] = {name: set() for name in NAMES}
    serves = dict.fromkeys(NAMES, "")
    held: dict[str, dict[str, Any]] = {}
    twins: dict[str, dict[str, Any]] = {}
    writes: list[str] = []

    class Handler(https.Handler, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/configurations":
                return self.answer(200, json.dumps(list(held.values())).encode())
            kind, _, rest = path.strip("/").partition("/")
            found = held.get(rest) if kind == "configurations" else twins.get(rest.split("/")[0])
            if kind == "devices" and rest in NAMES:
                state = "Connected" if online[rest] else "Disconnected"
                found = {"connectionState": state, "lastActivityTime": "2026-02-01T00:00:00+00:00"}
            return self.answer(200 if found else 404, json.dumps(found or {}).encode())

        def do_PUT(self) -> None:
            asked = json.loads(self.read())
            there = held.get(asked["id"])
            if there and self.headers.get("If-Match") != f'"{there["etag"]}"':
                return self.answer(412, b"{}")
            if there and there["content"] != asked["content"]:
                return self.answer(400, b'{"message": "the content of a configuration cannot be changed"}')
            held[asked["id"]] = {**asked, "etag": f"e{len(writes)}"}
            writes.append(asked["id"])
            return self.answer(200, json.dumps(held[asked["id"]]).encode())

        def do_DELETE(self) -> None:
            held.pop(self.path.partition("?")[0].rsplit("/", 1)[1], None)
            self.send_response(204)
            self.end_headers()

    trusted, cert, key = _certificate(folder, through)

    def work() -> None:
        for name in (n for n in NAMES if online[n]):
            mine = [c for c in held.values() if c["targetCondition"] == f"deviceId='{name}'"]
            if not mine:
                continue
            newest = max(mine, key=lambda c: int(c["priority"]))
            [(key, module)] = newest["content"]["modulesContent"]["$edgeAgent"].items()
            asked = json.loads(module["env"]["DRIFTLOOP_WANTED"]["value"])["candidate"]
            state = "failed" if asked in refuses[name] else "running"
            reported = {key.rsplit(".", 1)[1]: {**module, "runtimeStatus": state}}
            twins[name] = {"properties": {"reported": {"modules": reported}}}
            if state == "running":
                serves[name] = asked

    with https.serving(Handler, str(cert), str(key)) as url:
        hub = Arm(Token, through(url) if through else url, connection_verify=str(trusted))
        executor = IotEdgeExecutor(configs, hub, clock, lambda: "driftloop-edge:0.1.0")
        yield Field(executor, work, lambda s: {serves[s]: 100}, lambda: len(writes), online, refuses, (held, twins))


def _certificate(folder: Path, through: Through | None) -> tuple[Path, Path, Path]:
    """Who is trusted, certificate and key of a server."""
    if through is not None:
        return through.authority.ca, through.authority.cert, through.authority.key
    ca, pem = trustme.CA(), folder / "server.pem"
    folder.mkdir(exist_ok=True)
    ca.cert_pem.write_to_path(folder / "ca.pem")
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    return folder / "ca.pem", pem, pem


Open = Callable[..., AbstractContextManager[Field]]
FIELDS: dict[str, Open] = {"local": local, "azureml": push, "flux": flux, "iotedge": iotedge}
