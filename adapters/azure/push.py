"""Push: Azure ML's extension runs the candidate as a deployment beside the old one, and requests move over in steps."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import yaml

from adapters.azure import staging
from adapters.azure.errors import named
from adapters.azure.program import Addresses, connected, site_of, told
from adapters.azure.workspace import Workspace
from edge.smoke import SMOKE
from triggers.compute import instance_type
from triggers.config import Loop, Site, endpoint_name
from triggers.errors import NotFound, Refused, Retry
from triggers.ports import Blobs, Change, Clock, Configs, Underway

VERSION = "2024-10-01"
PROGRAM = ("edge", "drift")
SCRIPT = "edge/azureml.py"
TIMEOUT_S = 10.0
PROBE = {"initialDelay": "PT10S", "period": "PT10S", "timeout": "PT5S", "failureThreshold": 30, "successThreshold": 1}
_ANOTHER_TIME = frozenset({401, 408, 429, 502, 503, 504})
"""What the endpoint says of itself, and not of a candidate: throttled, a key just renewed, nobody behind it yet."""
CHANGING = frozenset({"Creating", "Updating", "Deleting", "Scaling"})
_KEPT = ("location", "tags", "identity", "kind", "sku")
_PROPERTIES = ("authMode", "compute", "description", "traffic", "properties", "publicNetworkAccess")


class PushExecutor:
    """Port Executor. What was done is in the workspace, and each call does the next thing from there.

    One endpoint a site; a deployment for each candidate, named by the first 12 characters of its digest, by which the
    endpoints' traffic logs are read. It is made without requests, tried by name, and gets `serving.traffic` step by
    step, each when the site's telemetry has shown it well. What it takes the place of stays until `finish`.
    """

    def __init__(
        self,
        workspace: Workspace,
        blobs: Blobs,
        configs: Configs,
        clock: Clock,
        *,
        addresses: Callable[[], Addresses],
        public_key: Callable[[], bytes],
        datastore: Callable[[], str],
        state: str = "/var/tmp/driftloop",  # noqa: S108  the pod's own
        **options: Any,
    ) -> None:
        """`datastore`: the workspace's name for the container of `blobs`; `state`: a folder in the pod. `options` go to
        the transport of scoring."""
        self._workspace, self._blobs, self._configs, self._clock = workspace, blobs, configs, clock
        self._addresses, self._public, self._datastore, self._options = addresses, public_key, datastore, options
        self._state = state

    def apply(self, change: Change, proven: bool = False) -> Underway | None:
        """Refused: no quota, no room, a deployment that has failed, or one that does not answer as it should."""
        site, back = site_of(self._configs, change), change.action == "rollback"
        connected(self._arm, site, self._clock.now())
        loop, path = self._configs.loop(change.loop), self._endpoint(change.loop, site)
        endpoint = self._arm.get(path, VERSION)
        if endpoint is None:
            self._make(path, self._new_endpoint(site))
            return Underway("endpoint", "the endpoint is being made")
        if waits := _provisioning(endpoint, "the endpoint"):
            return Underway("endpoint", waits)
        name = deployment_name(change.candidate)
        mine = self._arm.get(f"{path}/deployments/{name}", VERSION)
        if mine is None:
            self._make(f"{path}/deployments/{name}", self._new_deployment(loop, site, change))
            return Underway("dark", f"{name} is being made, without requests")
        if waits := _provisioning(mine, name):
            return Underway("dark", waits)
        traffic = {k: int(v) for k, v in (endpoint["properties"].get("traffic") or {}).items() if int(v)}
        share, old = traffic.pop(name, 0), max(traffic, key=lambda n: traffic[n], default="")
        if share == 100:
            return None
        if not share and not back:
            self._try_out(change, path, endpoint, name, old)
        if share and not proven:
            return Underway(f"{share}%", f"{name} answers {share}% of the requests")
        steps = loop.serving.traffic if old and not back else (100,)
        share = next(s for s in steps if s > share)
        self._route(path, endpoint, {name: share, **({old: 100 - share} if share < 100 else {})})
        return None if share == 100 else Underway(f"{share}%", f"{name} answers {share}% of the requests")

    def finish(self, change: Change) -> None:
        """Deletes what has no requests any more beside a candidate that has them all."""
        site = site_of(self._configs, change)
        path, name = self._endpoint(change.loop, site), deployment_name(change.candidate)
        endpoint = self._arm.get(path, VERSION)
        traffic = (endpoint or {}).get("properties", {}).get("traffic") or {}
        if int(traffic.get(name, 0)) != 100:
            return
        for found in (self._arm.get(f"{path}/deployments", VERSION) or {}).get("value", []):
            if found["name"] != name:
                with _alone():
                    self._arm.delete(f"{path}/deployments/{found['name']}", VERSION)

    # What is made in the workspace.

    @property
    def _arm(self) -> Any:
        return self._workspace.arm

    @cached_property
    def _location(self) -> str:
        found = self._arm.get(str(self._workspace.id), VERSION)
        if found is None:
            raise Refused(f"there is no workspace {self._workspace.id}")
        return str(found["location"])

    def _endpoint(self, loop: str, site: Site) -> str:
        return f"{self._workspace.id}/onlineEndpoints/{endpoint_name(loop, site)}"

    def _make(self, path: str, body: Mapping[str, Any]) -> None:
        with _alone():
            self._arm.put(path, VERSION, body)

    def _route(self, path: str, endpoint: Mapping[str, Any], traffic: Mapping[str, int]) -> None:
        properties = {k: v for k, v in endpoint["properties"].items() if k in _PROPERTIES}
        body = {k: v for k, v in endpoint.items() if k in _KEPT}
        self._make(path, {**body, "properties": {**properties, "traffic": traffic}})

    def _new_endpoint(self, site: Site) -> dict[str, Any]:
        if not site.compute:
            raise Refused("fleet.yaml names no compute of the workspace for it", site=site.name)
        compute = f"{self._workspace.id}/computes/{site.compute}"
        return {
            "location": self._location,
            "tags": {"driftloop.site": site.name},
            "identity": {"type": "SystemAssigned"},
            "properties": {"authMode": "Key", "compute": compute, "traffic": {}, "properties": {}},
        }

    def _new_deployment(self, loop: Loop, site: Site, change: Change) -> dict[str, Any]:
        needs = loop.serving.needs
        chosen = instance_type(site, needs)
        if site.instance_types and chosen is None:
            wanted = " and ".join(filter(None, (needs.cpu and f"{needs.cpu} CPU", needs.memory)))
            raise Refused(f"no instance type of the cluster has {wanted}", site=site.name)
        limits = {k: v for k, v in (("cpu", needs.cpu), ("memory", needs.memory)) if v}
        state = f"{self._state}/{change.candidate[:12]}"
        edge = told(loop, site, self._addresses(), state=state)
        return {
            "location": self._location,
            "sku": {"name": "Default", "capacity": 1},
            "tags": {"driftloop.candidate": change.candidate, "driftloop.run": change.run},
            "properties": {
                "endpointComputeType": "Kubernetes",
                "model": self._model(change),
                "codeConfiguration": {"codeId": self._code, "scoringScript": SCRIPT},
                "environmentId": self._environment,
                "environmentVariables": {
                    "DRIFTLOOP_EDGE": json.dumps(edge),
                    "DRIFTLOOP_CHANGE": change.id,
                    "WORKER_COUNT": "1",
                },
                "instanceType": chosen.name if chosen else None,
                "containerResourceRequirements": {
                    "containerResourceRequests": limits,
                    "containerResourceLimits": limits,
                },
                "livenessProbe": PROBE,
                "readinessProbe": PROBE,
                "requestSettings": {"requestTimeout": "PT5S", "maxConcurrentRequestsPerInstance": 1},
                "scaleSettings": {"scaleType": "Default"},
                "appInsightsEnabled": False,
            },
        }

    def _model(self, change: Change) -> str:
        """The candidate as a model of the workspace, where the trainer has not put it."""
        path = f"{self._workspace.id}/models/{change.loop}/versions/{change.candidate}"
        if self._arm.get(path, VERSION) is None:
            source, target = f"candidates/{change.candidate}", f"models/{change.loop}/{change.candidate}"
            manifest = self._blobs.get(f"{source}/manifest.json")
            files = {n: f"layers/{f['sha256']}" for n, f in msgspec.json.decode(manifest)["files"].items()}
            files |= {name: f"{source}/{name}" for name in ("manifest.sig", "manifest.json")}
            for name, blob in files.items():
                self._blobs.put(f"{target}/{name}", self._blobs.get(blob))
            uri = f"azureml:/{self._workspace.id}/datastores/{self._datastore()}/paths/{target}/"
            uri = re.sub("(?i)/resourceGroups/", "/resourcegroups/", uri).replace(
                "/providers/Microsoft.MachineLearningServices", ""
            )
            tags = {"driftloop": change.candidate, "run": change.run}
            self._arm.put(path, VERSION, {"properties": {"modelType": "custom_model", "modelUri": uri, "tags": tags}})
        return path

    @cached_property
    def _code(self) -> str:
        """The site's program as a code asset whose version is the digest of its files: a layer of its own."""
        from azure.storage.blob import ContainerClient

        files = program(self._public())
        made = hashlib.sha256()
        for name, data in files.items():
            made.update(f"{name}\0{len(data)}\0".encode() + data)
        path = f"{self._workspace.id}/codes/driftloop-site/versions/{made.hexdigest()[:32]}"
        if self._arm.get(path, VERSION) is None:
            asked = {"pendingUploadType": "TemporaryBlobReference"}
            place = self._arm.post(f"{path}/startPendingUpload", VERSION, asked)["blobReferenceForConsumption"]
            with named("the site's program"), ContainerClient.from_container_url(place["credential"]["sasUri"]) as to:
                for name, data in files.items():
                    to.upload_blob(name, data, overwrite=True)
            about = {"hash_sha256": made.hexdigest(), "hash_version": "202208"}
            self._arm.put(path, VERSION, {"properties": {"codeUri": place["blobUri"], "properties": about}})
        return path

    @cached_property
    def _environment(self) -> str:
        """What the program runs in, which the workspace builds: another layer of its own."""
        pins = (staging.ROOT / "edge" / "requirements.txt").read_text().splitlines()
        wanted = [line for line in pins if line and not line.startswith("#")] + ["azureml-inference-server-http"]
        conda = yaml.safe_dump({"channels": ["conda-forge"], "dependencies": ["python=3.11", "pip", {"pip": wanted}]})
        version = hashlib.sha256((staging.IMAGE + conda).encode()).hexdigest()[:16]
        path = f"{self._workspace.id}/environments/driftloop-site/versions/{version}"
        if self._arm.get(path, VERSION) is None:
            self._arm.put(path, VERSION, {"properties": {"image": staging.IMAGE, "condaFile": conda}})
        return path

    # What it answers.

    def _try_out(self, change: Change, path: str, endpoint: Mapping[str, Any], name: str, old: str) -> None:
        """Asks the new deployment by its name, and the old one the same. Raises Refused where the new one is another
        candidate, refuses what the old one takes, or is slower than the loop allows.

        Where the endpoint cannot be reached from here, as on most plants, what the deployment has tried of itself
        before it came up must do: it opens no candidate that does not score.
        """
        rows = self._rows(change)
        key = self._arm.post(f"{path}/listKeys", VERSION)["primaryKey"]
        uri = endpoint["properties"]["scoringUri"]
        new = self._ask(uri, key, name, rows)
        if new is None:
            return
        if new.candidate != change.candidate:
            raise Refused(f"{name} answers as {new.candidate[:12]!r}, not as the candidate")
        before = self._ask(uri, key, old, rows) if old else None
        taken = [s is not None for s in (before.scores if before else new.scores)]
        lost = sum(was and now is None for was, now in zip(taken, new.scores, strict=True))
        if lost or not any(s is not None for s in new.scores):
            raise Refused(f"{name} gives no score for {lost or len(rows)} of {len(rows)} rows that it was tried with")
        limit = self._configs.loop(change.loop).rollout.max_p95_ms
        if limit is not None and new.ms > limit and (before is None or new.ms > 2 * before.ms):
            raise Refused(f"{name} takes {new.ms:.0f} ms to answer, at most {limit:g} are allowed")

    def _ask(self, uri: str, key: str, deployment: str, rows: list[dict[str, Any]]) -> _Answer | None:
        """None where nobody can be reached there. Raises Retry where the answer is lost."""
        from azure.core import PipelineClient
        from azure.core.exceptions import ServiceRequestError
        from azure.core.rest import HttpRequest

        headers = {"Authorization": f"Bearer {key}", "azureml-model-deployment": deployment}
        request = HttpRequest("POST", uri, headers=headers, json={"probe": rows})
        times = []
        with named(f"{deployment} was tried"), PipelineClient(uri, policies=[], **self._options) as client:
            for _ in range(3):  # the first may have to wake it up
                began = time.perf_counter()
                try:
                    answer = client.send_request(request, connection_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S)
                except ServiceRequestError:
                    return None
                times.append((time.perf_counter() - began) * 1000)
        if answer.status_code in _ANOTHER_TIME:
            raise Retry(f"{deployment} was tried, and the endpoint answered {answer.status_code}")
        if answer.status_code != 200:
            raise Refused(f"{deployment} answered {answer.status_code} when it was tried: {answer.text()[:200]}")
        said = answer.json()
        if not isinstance(said, dict) or len(said.get("scores") or ()) != len(rows):
            raise Refused(f"{deployment} gives no scores: {str(said)[:200]}")
        return _Answer(str(said.get("candidate")), said["scores"], min(times))

    def _rows(self, change: Change) -> list[dict[str, Any]]:
        """The candidate's own sample, or a row of nothing and one of zeros."""
        manifest = msgspec.json.decode(self._blobs.get(f"candidates/{change.candidate}/manifest.json"))
        try:
            sample = msgspec.json.decode(self._blobs.get(f"layers/{manifest['files'][SMOKE]['sha256']}"))
            return list(sample["rows"])
        except (KeyError, NotFound):
            schema = self._configs.loop(change.loop).schema
            return [{}, {f.name: 0.0 if f.kind == "number" else "" for f in schema.features}]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a deployment said; `ms` is the fastest of some answers."""

    candidate: str
    scores: list[float | None]
    ms: float


@contextmanager
def _alone() -> Iterator[None]:
    """Raises Retry where another operation is still going on there."""
    try:
        yield
    except Refused as problem:
        if problem.fields.get("status") == 409:
            raise Retry(str(problem)) from problem
        raise


def deployment_name(candidate: str) -> str:
    """
    >>> deployment_name("0a1b2c3d4e5f6789" * 4)
    'c-0a1b2c3d4e5f'
    """
    return f"c-{candidate[:12]}"


def program(public: bytes) -> dict[str, bytes]:
    """The site's program, and the key that it checks candidates with: file name -> bytes, in order."""
    found = {
        path.relative_to(staging.ROOT).as_posix(): path.read_bytes()
        for package in PROGRAM
        for path in sorted((staging.ROOT / package).rglob("*.py"))
    }
    return {**found, "registry.pub": public}


def _provisioning(resource: Mapping[str, Any], what: str) -> str:
    """What is to be waited for; empty where it is there. Raises Refused where it has failed."""
    state = str(resource["properties"].get("provisioningState", ""))
    if state in CHANGING:
        return f"{what} is {state.lower()}"
    if state != "Succeeded":
        raise Refused(f"{what} is {state or 'in no known state'}: `az ml online-deployment get-logs` says why")
    return ""
