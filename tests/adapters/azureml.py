"""An Azure ML workspace on one machine: the paths and bodies that azure-ai-ml speaks, over https.

Command jobs really run, as processes, in the code that was uploaded. A datastore is a folder or a port Blobs. Online
deployments start the program that their scoring script belongs to. What the real service would announce through
Event Grid is collected, and given to `on_event`.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import trustme

from adapters.azure.settings import WorkspaceId
from tests.conftest import Authority
from tests.infra.calls import unknown
from triggers.ports import Blobs, Clock

SUBSCRIPTION, GROUP, NAME = "00000000-0000-0000-0000-000000000001", "plant", "ml"
WORKSPACE_ID = WorkspaceId(SUBSCRIPTION, GROUP, NAME)
WORKSPACE = str(WORKSPACE_ID)
PROVIDERS = WORKSPACE[: WORKSPACE.index("/Microsoft")]
MADE = {"createdAt": "2026-03-01T00:00:00Z", "createdBy": "driftloop", "createdByType": "Application"}
MADE |= {"lastModifiedAt": "2026-03-01T00:00:00Z", "lastModifiedBy": "driftloop", "lastModifiedByType": "Application"}
IMAGE = "sha256:" + "1f" * 32


class Token:
    """A credential of azure-core, of which the server knows every token."""

    def __init__(self) -> None:
        self.issued = 0

    def get_token(self, *scopes: str, **_: Any) -> Any:
        from azure.core.credentials import AccessToken

        self.issued += 1
        return AccessToken(f"token-{self.issued}", int(time.time()) + 3600)


@dataclass
class Fault:
    """What happens to the next requests whose method and path match, `times` times.

    status: answered instead; `after`: done first, then answered so. A status of 0 resets the connection, -1 lets it
    hang until the client gives up.
    """

    method: str
    path: str
    status: int
    times: int = 1
    after: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Run:
    """A job as the service knows it."""

    name: str
    body: dict[str, Any]
    folder: Path
    status: str = "NotStarted"
    process: subprocess.Popen[bytes] | None = None
    ends: float | None = None


class AzureMl:
    """Starts when it is made; `close` ends it and every process that it started."""

    called: ClassVar[list[tuple[str, str]]] = []
    """Of all of them, as they were closed."""

    def __init__(
        self,
        folder: Path,
        blobs: Blobs,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        datastore: str = "driftloop",
        authority: Authority | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`clock`: the time at the deployments, where it is not the machine's."""
        self.folder = folder
        self.blobs = blobs
        self.datastore = datastore
        self.token = Token()
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.events: list[dict[str, Any]] = []
        self.resources: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, Run] = {}
        self.expired: set[str] = set()
        self.deployments: dict[str, subprocess.Popen[str]] = {}
        self.submissions = 0
        self.pretended: dict[str, str] = {}
        self.serving: Callable[[str, list[Any]], Any] | None = None
        """Where it is set, a deployment is no process: (model's version, rows) -> what it answers a probe."""
        self.slow = 0
        """How often an endpoint or a deployment is found unfinished."""
        self.unfinished: dict[str, int] = {}
        self.bad: set[str] = set()
        """Versions of models whose deployments fail."""
        self.room = 20
        """Deployments of an endpoint."""
        self.pretends = False
        """Whether a job only runs until `end` says how it ended."""
        self.waits = True
        """Whether a deployment is answered for when its program is up; else it is Creating until then, as really."""
        self._answered: dict[str, Counter[str]] = {}
        """Requests since the traffic of an endpoint was last set, by deployment."""
        self._on_event, self._clock = on_event, clock
        self._lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if authority is None:
            ca = trustme.CA()
            self.ca = folder / "ca.pem"
            ca.cert_pem.write_to_path(self.ca)
            ca.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        else:
            self.ca = authority.ca
            context.load_cert_chain(authority.cert, authority.key)
        self._arm = _Server(self, context)
        self.shown = self.url
        """Where it is said to be."""
        self._storage = _Server(self, None)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._arm.server_port}"

    @property
    def storage(self) -> str:
        return f"http://127.0.0.1:{self._storage.server_port}"

    @property
    def credential(self) -> Token:
        return self.token

    def options(self) -> dict[str, Any]:
        """What an MLClient is told to find this workspace."""
        clouds = {
            "azure_portal": self.shown,
            "resource_manager": self.shown,
            "active_directory": self.shown,
            "aml_resource_id": self.shown,
            "storage_endpoint": "localhost",
            "registry_discovery_endpoint": self.shown,
        }
        return {"connection_verify": str(self.ca), "cloud": self.shown, "cloud_metadata": clouds}

    def score(self, endpoint: str, asked: Any, deployment: str = "") -> Any:
        """What an endpoint answers."""
        headers = {"azureml-model-deployment": deployment} if deployment else {}
        status, answer, _ = self._score(endpoint, headers, json.dumps(asked).encode())
        assert status == 200, answer
        return answer

    def end(self, name: str, status: str) -> None:
        """The end of a job that pretends."""
        self._ended(self.runs[name], status, {})

    def close_runs(self) -> None:
        for run in list(self.runs.values()):
            _kill(run)
        self.runs.clear()

    def close(self) -> None:
        self.close_runs()
        for path in list(self.deployments):
            self._stop(path)
        for server in (self._arm, self._storage):
            server.shutdown()
            server.server_close()
        AzureMl.called += self.requests
        strange = unknown(self.requests)
        assert not strange, f"no role of infra/roles allows {strange}: infra/calls.json"

    def wait(self, timeout_s: float = 30.0) -> bool:
        """Until every job has ended."""
        end = time.monotonic() + timeout_s
        while any(run.status not in FINAL for run in self.runs.values()):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def fail(self, method: str, path: str, status: int, times: int = 1, after: bool = False, **headers: str) -> None:
        self.faults.append(Fault(method, path, status, times, after, headers))

    def asked(self, method: str, path: str) -> int:
        """How many requests there were."""
        return sum(m == method and re.search(path, p) is not None for m, p in self.requests)

    # What the service does.

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any, dict[str, str]]:
        given = json.loads(body) if body else {}
        low = path.lower()
        if path == WORKSPACE:
            return 200, self._workspace(), {}
        if method == "POST" and low.endswith("/listkeys"):
            return 200, {"primaryKey": "key", "secondaryKey": "other"}, {}
        if low.endswith("/startpendingupload"):
            container = f"{self.storage}/account/code-{_safe(path)}"
            credential = {"credentialType": "SAS", "sasUri": f"{container}?sv=2026-01-01&sig=c2ln"}
            reference = {"blobUri": container, "storageAccountArmId": "x", "credential": credential}
            kind = "TemporaryBlobReference"
            return 200, {"pendingUploadType": kind, "blobReferenceForConsumption": reference}, {}
        if method == "POST" and (found := re.fullmatch(r"(.+/jobs/([^/]+))/cancel", path)):
            return self._cancel(found[2])
        if method == "PUT" and (found := re.fullmatch(r".+/jobs/([^/]+)", path)):
            return self._submit(path, found[1], given)
        if method == "PUT":
            return self._put(path, given)
        if method == "PATCH" and path in self.resources:
            self.resources[path].setdefault("properties", {}).update(given.get("properties", {}))
            return 200, self.resources[path], {}
        if method == "DELETE":
            endpoint, _, deployment = path.partition("/deployments/")
            if deployment and int((self._traffic(endpoint)).get(deployment, 0)):
                return 400, _error("UserError", f"{deployment} has traffic: set it to 0 before"), {}
            self._stop(path)
            self.pretended.pop(path, None)
            self.resources.pop(path, None)
            return 200, {}, {}
        if method == "GET":
            return self._get(path, query)
        return 404, _error("NotFound", f"no {method} {path}"), {}

    def _workspace(self) -> dict[str, Any]:
        return {
            "id": WORKSPACE,
            "name": NAME,
            "type": "Microsoft.MachineLearningServices/workspaces",
            "location": "westeurope",
            "identity": {"type": "SystemAssigned", "principalId": "p", "tenantId": "t"},
            "properties": {
                "workspaceId": "w",
                "storageAccount": f"{PROVIDERS}/Microsoft.Storage/storageAccounts/account",
                "keyVault": f"{PROVIDERS}/Microsoft.KeyVault/vaults/vault",
                "applicationInsights": f"{PROVIDERS}/microsoft.insights/components/insights",
                "discoveryUrl": f"{self.url}/discovery",
                "mlFlowTrackingUri": "azureml://tracking",
                "provisioningState": "Succeeded",
            },
        }

    def _get(self, path: str, query: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        if path in self.resources:
            found = self.resources[path]
            if self.unfinished.get(path):
                self.unfinished[path] -= 1
                return 200, {**found, "properties": {**found["properties"], "provisioningState": "Creating"}}, {}
            return 200, found, {}
        below = path.rstrip("/") + "/"
        found = [r for p, r in self.resources.items() if p.startswith(below) and "/" not in p[len(below) :]]
        if "hash" in query:
            found = [r for r in found if (r["properties"].get("properties") or {}).get("hash_sha256") == query["hash"]]
        if re.search(r"/(jobs|versions|deployments|onlineEndpoints)$", path) and (found or "hash" in query):
            return 200, {"value": found}, {}
        return 404, _error("UserError", f"not found: {path}"), {}

    def _put(self, path: str, given: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        new = path not in self.resources
        versioned = re.fullmatch(r"(.+)/versions/([^/]+)", path)
        properties = given.get("properties") or {}
        if versioned and not new and _place(properties) != _place(self.resources[path]["properties"]):
            return 409, _error("UserError", "the asset path of a version cannot be changed"), {}
        found = {**given, "id": path, "name": path.rsplit("/", 1)[1], "systemData": MADE, "properties": properties}
        if "/models/" in path:
            properties.setdefault("flavors", {})
        if "/environments/" in path:
            image = {"digest": IMAGE, "hostname": "registry.example", "repository": "azureml/driftloop", "tag": "1"}
            properties["imageDetails"] = {"exists": True, "image": image}
        if versioned:
            name = versioned[1].rsplit("/", 1)[1]
            latest = {"latestVersion": versioned[2], "nextVersion": "2"}
            self.resources[versioned[1]] = {"id": versioned[1], "name": name, "properties": latest}
        if re.search(r"/onlineEndpoints/[^/]+(/deployments/[^/]+)?$", path):
            if wrong := self._wrong(path, properties):
                return 400, _error("UserError", wrong), {}
            if new:
                self.unfinished[path] = self.slow
            self._deploy(path, found)
        self.resources[path] = found
        if versioned and "/models/" in path and new:
            self._announce(
                "ModelRegistered",
                f"models/{versioned[1].rsplit('/', 1)[1]}:{versioned[2]}",
                {
                    "ModelName": versioned[1].rsplit("/", 1)[1],
                    "ModelVersion": versioned[2],
                    "ModelTags": properties.get("tags") or {},
                    "ModelProperties": properties.get("properties") or {},
                },
            )
        return (201 if new else 200), found, {}

    # Jobs.

    def _submit(self, path: str, name: str, given: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        with self._lock:
            if name in self.runs:
                return 400, _error("UserError", f"A job with this name already exists: {name}"), {}
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}", name):
                return 400, _error("UserError", f"{name!r} cannot be the name of a job"), {}
            self.submissions += 1
            properties = given["properties"]
            properties.update(status="NotStarted", services={"Studio": _studio(name)})
            found = {"id": path, "name": name, "type": "x", "systemData": MADE, "properties": properties}
            self.resources[path] = found
            run = self.runs[name] = Run(name, properties, self.folder / "runs" / name)
        if self.pretends:
            run.status = "Running"
            self._show(run)
        else:
            threading.Thread(target=self._work, args=(run,), daemon=True).start()
        return 201, found, {}

    def _cancel(self, name: str) -> tuple[int, Any, dict[str, str]]:
        run = self.runs.get(name)
        if run is None:
            return 404, _error("UserError", f"not found: {name}"), {}
        if run.status in FINAL:
            return 400, _error("UserError", f"{name} has ended: {run.status}"), {}
        run.status = "CancelRequested"
        _kill(run)
        if self.pretends:
            self._ended(run, "Canceled", {})
        return 200, {}, {}

    def _work(self, run: Run) -> None:
        code = run.folder / "code"
        shutil.copytree(self._code(run.body["codeId"]), code)
        places = {f"inputs.{k}": self._input(run, k, v) for k, v in (run.body.get("inputs") or {}).items()}
        outputs: dict[str, Path] = {}
        for name, wanted in (run.body.get("outputs") or {}).items():
            outputs[_stored(wanted["uri"])] = made = run.folder / "outputs" / name
            made.mkdir(parents=True)
            places[f"outputs.{name}"] = str(made)
        command = re.sub(r"\$\{\{([^}]+)\}\}", lambda m: shlex.quote(places[m[1].strip()]), run.body["command"])
        variables = run.body.get("environmentVariables") or {}
        limit = _seconds((run.body.get("limits") or {}).get("timeout"))
        with (run.folder / "log.txt").open("wb") as log, self._lock:
            if run.status == "CancelRequested":
                return self._ended(run, "Canceled", outputs)
            run.process = subprocess.Popen(
                ["/bin/bash", "-c", f"exec {command}"],
                cwd=code,
                env={**os.environ, **variables, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            run.status = "Running"
        self._show(run)
        try:
            status = run.process.wait(limit)
        except subprocess.TimeoutExpired:
            run.status = "CancelRequested"
            _kill(run)
            status = run.process.wait()
        _kill(run)
        canceled = run.status == "CancelRequested"
        return self._ended(run, "Canceled" if canceled else "Failed" if status else "Completed", outputs)

    def _ended(self, run: Run, status: str, outputs: Mapping[str, Path]) -> None:
        for place, made in outputs.items():
            for path in sorted(made.rglob("*")):
                if path.is_file():
                    self.blobs.put(f"{place}{path.relative_to(made).as_posix()}", path.read_bytes())
        run.status = status
        self._show(run)
        common = {"experimentName": run.body.get("experimentName"), "runId": run.name, "runType": "azureml.scriptrun"}
        tags = {"RunTags": run.body.get("tags") or {}}
        self._announce("RunStatusChanged", f"runs/{run.name}", {**common, **tags, "RunStatus": status})
        if status == "Completed":
            self._announce("RunCompleted", f"runs/{run.name}", {**common, **tags})

    def _show(self, run: Run) -> None:
        run.body["status"] = run.status

    def _code(self, code: str) -> Path:
        uri = self.resources[code]["properties"]["codeUri"]
        _, container, *rest = urllib.parse.urlsplit(uri).path.strip("/").split("/")
        return self.folder / "storage" / container / "/".join(rest)

    def _input(self, run: Run, name: str, given: Mapping[str, Any]) -> str:
        if given["jobInputType"] == "literal":
            return str(given["value"])
        uri = given["uri"]
        if "/data/" in uri or "/models/" in uri:
            properties = self.resources[uri[uri.index("/subscriptions") :]]["properties"]
            uri = properties.get("dataUri") or properties["modelUri"]
        place = _stored(uri)
        folder = run.folder / "inputs" / name
        folder.mkdir(parents=True, exist_ok=True)
        if given["jobInputType"] == "uri_file" or place[-1:] != "/":
            path = folder / place.rsplit("/", 1)[-1]
            path.write_bytes(self.blobs.get(place))
            return str(path)
        for found in self.blobs.names(place):
            path = folder / found[len(place) :]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.blobs.get(found))
        return str(folder)

    # Online endpoints.

    def _traffic(self, endpoint: str) -> dict[str, Any]:
        return (self.resources.get(endpoint, {}).get("properties") or {}).get("traffic") or {}

    def _wrong(self, path: str, properties: dict[str, Any]) -> str:
        endpoint, _, deployment = path.partition("/deployments/")
        names = [p.rsplit("/", 1)[1] for p in self.resources if p.startswith(f"{path}/deployments/")]
        if deployment:
            there = [p for p in self.resources if p.startswith(f"{endpoint}/deployments/") and p != path]
            if len(there) >= self.room:
                return f"QuotaExceeded: an endpoint has at most {self.room} deployments"
            return "" if endpoint in self.resources else f"no endpoint {endpoint}"
        traffic = properties.get("traffic") or {}
        if properties.get("mirrorTraffic"):
            return "mirroring is unsupported on Kubernetes"
        if sum(map(int, traffic.values())) not in (0, 100) or not set(traffic) <= set(names):
            return f"traffic {traffic} to {names}"
        return ""

    def _deploy(self, path: str, found: dict[str, Any]) -> None:
        """A deployment is a process that runs its scoring script; it has succeeded when `init` has."""
        properties = found["properties"]
        properties["provisioningState"] = "Succeeded"
        endpoint, _, deployment = path.partition("/deployments/")
        if not deployment:
            self._answered.pop(path, None)
            properties["scoringUri"] = f"{self.shown}/score/{endpoint.rsplit('/', 1)[1]}"
            return
        properties.setdefault("scaleSettings", {"scaleType": "Default"})
        resources: dict[str, Any] = {"containerResourceRequests": {}, "containerResourceLimits": {}}
        properties.setdefault("containerResourceRequirements", resources)
        if self.serving is not None:
            self.pretended[path] = properties["model"].rsplit("/", 1)[1]
            if self.pretended[path] in self.bad:
                properties["provisioningState"] = "Failed"
            return
        if path in self.deployments and self.deployments[path].poll() is None:
            found["properties"] = self.resources[path]["properties"]
            return
        folder = self.folder / "deployments" / f"{endpoint.rsplit('/', 1)[1]}-{deployment}"
        code = self._code(properties["codeConfiguration"]["codeId"])
        given = {"jobInputType": "uri_folder", "uri": properties["model"]}
        model = Path(self._input(Run(deployment, {}, folder), "model", given))
        script = code / properties["codeConfiguration"]["scoringScript"]
        told = {k: v.replace("/var/tmp/", f"{folder}/disk/") for k, v in properties["environmentVariables"].items()}
        variables = {**os.environ, **told, "AZUREML_MODEL_DIR": str(model)}
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(code), str(script)],
                cwd=code,
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.deployments[path] = process
        if self.waits:
            self._up(process, properties)
        else:
            properties["provisioningState"] = "Creating"
            threading.Thread(target=self._up, args=(process, properties), daemon=True).start()

    @staticmethod
    def _up(process: subprocess.Popen[str], properties: dict[str, Any]) -> None:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline() or '{"error": "it ended"}')
        if "error" in said:
            process.wait(10)
        properties["provisioningState"] = "Failed" if "error" in said else "Succeeded"

    @property
    def starting(self) -> bool:
        """Whether a deployment is coming up."""
        found = (self.resources[path]["properties"] for path in list(self.deployments) if path in self.resources)
        return any(properties["provisioningState"] == "Creating" for properties in found)

    def _score(self, endpoint: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any, dict[str, str]]:
        """The deployment that the header names, else the one that has had least of its share of the traffic."""
        path = next((p for p in self.resources if p.endswith(f"/onlineEndpoints/{endpoint}")), "")
        traffic = (self.resources.get(path, {}).get("properties") or {}).get("traffic") or {}
        name = headers.get("azureml-model-deployment") or self._next(path, traffic)
        if self.serving is not None and f"{path}/deployments/{name}" in self.pretended:
            rows = json.loads(body).get("probe")
            return 200, self.serving(self.pretended[f"{path}/deployments/{name}"], rows), {}
        process = self.deployments.get(f"{path}/deployments/{name}")
        if process is None or process.poll() is not None:
            return 404, _error("NotFound", f"no deployment {name!r} of {endpoint}"), {}
        with self._lock:
            assert process.stdin is not None
            assert process.stdout is not None
            now = self._clock.now().timestamp() if self._clock else 0
            process.stdin.write(json.dumps([now, body.decode()]) + "\n")
            process.stdin.flush()
            return 200, json.loads(process.stdout.readline()), {}

    def _next(self, path: str, traffic: Mapping[str, Any]) -> str:
        with self._lock:
            answered = self._answered.setdefault(path, Counter())
            lacks = {
                name: int(share) * (answered.total() + 1) - 100 * answered[name] for name, share in traffic.items()
            }
            name = max(lacks, key=lambda n: lacks[n], default="")
            answered[name] += 1
        return name

    def _stop(self, path: str) -> None:
        process = self.deployments.pop(path, None)
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            process.stdout.close()

    # Announcing.

    def _announce(self, kind: str, subject: str, data: dict[str, Any]) -> None:
        event = {
            "specversion": "1.0",
            "id": f"{kind}-{subject}-{len(self.events)}",
            "source": WORKSPACE,
            "type": f"Microsoft.MachineLearningServices.{kind}",
            "subject": subject,
            "time": "2026-03-01T00:00:00Z",
            "data": data,
        }
        self.events.append(event)
        if self._on_event is not None:
            self._on_event(event)

    # Storage, as far as an upload with a SAS goes.

    def store(
        self, method: str, path: str, query: dict[str, str], body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        _, container, *rest = path.strip("/").split("/")
        file = self.folder / "storage" / container / "/".join(map(urllib.parse.unquote, rest))
        meta = self.folder / "storage-metadata" / container / "/".join(rest)
        if method == "PUT" and query.get("comp") == "metadata":
            meta.parent.mkdir(parents=True, exist_ok=True)
            found = {k.lower(): v for k, v in headers.items() if k.lower().startswith("x-ms-meta-")}
            meta.write_text(json.dumps(found))
            return 200, b"", {"ETag": '"1"'}
        if method == "PUT":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
            return 201, b"", {"ETag": '"1"', "Last-Modified": "Sun, 01 Mar 2026 00:00:00 GMT"}
        if method == "HEAD" and file.is_file():
            told = json.loads(meta.read_text()) if meta.exists() else {}
            about = {"ETag": '"1"', "Last-Modified": "Sun, 01 Mar 2026 00:00:00 GMT", "x-ms-blob-type": "BlockBlob"}
            return 200, b"", {**about, **told}
        if method == "GET" and query.get("comp") == "list":
            listed = (
                b'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs/><NextMarker/></EnumerationResults>'
            )
            return 200, listed, {"Content-Type": "application/xml"}
        return 404, b"", {"x-ms-error-code": "BlobNotFound"}


FINAL = ("Completed", "Failed", "Canceled")
_SERVE = """
import importlib.util, json, sys, time, types
sys.path.insert(0, sys.argv[1])
spec = importlib.util.spec_from_file_location("score", sys.argv[2])
script = importlib.util.module_from_spec(spec)
out, sys.stdout = sys.stdout, sys.stderr
def say(what):
    out.write(json.dumps(what) + "\\n")
    out.flush()
try:
    spec.loader.exec_module(script)
    script.init()
except Exception as error:
    say({"error": str(error)})
    sys.exit(1)
say({})
for line in sys.stdin:
    now, body = json.loads(line)
    if now:
        sys.modules["edge.site"].time = types.SimpleNamespace(time=lambda: now, perf_counter=time.perf_counter)
    say(script.run(body))
getattr(script, "stop", lambda: None)()
"""


def _safe(path: str) -> str:
    found = re.search(r"/codes/([^/]+)/versions/([^/]+)/", path)
    return f"{found[1]}-{found[2]}".lower() if found else "other"


def _studio(name: str) -> dict[str, Any]:
    return {"jobServiceType": "Studio", "endpoint": f"https://ml.azure.com/runs/{name}", "status": None}


def _place(properties: Mapping[str, Any]) -> Any:
    return properties.get("dataUri") or properties.get("modelUri")


def _stored(uri: str) -> str:
    """The path within the datastore."""
    return uri.split("/paths/", 1)[1]


def _seconds(duration: str | None) -> float | None:
    found = re.fullmatch(r"P(?:(\d+)D)?T?(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?", duration or "")
    if not duration or not found:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _kill(run: Run) -> None:
    if run.process is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(run.process.pid, signal.SIGKILL)


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, service: AzureMl, context: ssl.SSLContext | None) -> None:
        self.service = service
        super().__init__(("127.0.0.1", 0), _Arm if context else _Storage)
        self.context = context
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is None:
            super().finish_request(request, client_address)
            return
        with suppress(OSError), self.context.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: what comes in two waits 40 ms for the client's acknowledgement
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def read(self) -> tuple[str, dict[str, str], bytes]:
        parts = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        return parts.path, dict(urllib.parse.parse_qsl(parts.query)), body

    def reply(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class _Arm(_Handler):
    def handle_one(self) -> None:
        service = self.server.service
        path, query, body = self.read()
        service.requests.append((self.command, path))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token or token in service.expired:
            challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            return self.reply(401, json.dumps(_error("ExpiredToken", "the token has expired")).encode(), challenge)
        if path.startswith("/score/"):
            status, answer, headers = service._score(path.removeprefix("/score/"), self.headers, body)
            return self.reply(status, json.dumps(answer).encode(), headers)
        fault = self._fault(path)
        if fault is None or fault.after:
            status, answer, headers = service.answer(self.command, path, query, body)
        if fault is not None:
            return self._suffer(fault)
        return self.reply(status, json.dumps(answer).encode(), headers)

    def _fault(self, path: str) -> Fault | None:
        for fault in self.server.service.faults:
            if fault.times > 0 and fault.method == self.command and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def _suffer(self, fault: Fault) -> None:
        if fault.status > 0:
            return self.reply(fault.status, json.dumps(_error("Fault", "on purpose")).encode(), fault.headers)
        self.close_connection = True
        if fault.status < 0:
            time.sleep(1.5)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return None

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_one  # noqa: N815


class _Storage(_Handler):
    def handle_one(self) -> None:
        self.reply(*self.server.service.store(self.command, *self.read(), self.headers))

    do_GET = do_PUT = do_HEAD = handle_one  # noqa: N815
