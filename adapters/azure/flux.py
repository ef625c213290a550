"""Pull: what a site is to serve is committed to Git, one folder for each site, and Flux brings it there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from adapters.azure.arm import Arm
from adapters.azure.git import Commit, Repository
from adapters.azure.program import Addresses, connected, site_of, told
from triggers.config import Loop, Site, Toleration
from triggers.errors import Offline, Refused
from triggers.ports import Change, Clock, Configs, Underway

VERSION = "2025-04-01"
STALE = timedelta(minutes=30)
"""Flux reports every few minutes; a status that is older is that of a cluster which nobody hears."""
PATIENCE = timedelta(minutes=15)
"""A commit that has been synced and is not compliant may still be rolling out."""
CONFIGURATION = "driftloop"
"""What a cluster's fluxConfiguration is called where the site's label `flux` does not say otherwise."""
BASES = {"statefulset": "base/site", "inferenceservice": "base/kserve"}
PODS = {
    "statefulset": ("StatefulSet", "/spec/template/spec"),
    "inferenceservice": ("InferenceService", "/spec/predictor"),
}
_LOOKED_BACK = 500


class FluxExecutor:
    """Port Executor. What was done is in Git, what came of it in the cluster's fluxConfiguration: nothing else is kept.

    A site counts as asked when the cluster has synced a commit in which its folder is as wanted, and is compliant.
    Where the site has windows, its configuration is suspended outside of changes.
    """

    def __init__(
        self,
        configs: Configs,
        arm: Arm,
        repository: Repository,
        clock: Clock,
        addresses: Callable[[], Addresses],
        public_key: Callable[[], bytes],
    ) -> None:
        self._configs, self._arm, self._git, self._clock = configs, arm, repository, clock
        self._addresses, self._public = addresses, public_key

    def apply(self, change: Change, proven: bool = False) -> Underway | None:
        """Refused: the cluster has not come up with it within PATIENCE. Offline: the cluster is, or its status is old;
        a way out is not committed then, a way back is."""
        site = site_of(self._configs, change)
        back = change.action == "rollback"
        if not back:
            connected(self._arm, site, self._clock.now())
        status = self._status(site)
        if not back:
            self._fresh(site, status)
        folder = folder_of(change.loop, site.name)
        head = self._git.put(folder, lambda head: self._made(change, site, head))
        if back:
            connected(self._arm, site, self._clock.now())
            self._fresh(site, status)
        if site.windows and status.get("suspend"):
            self._suspend(site, False)
        at = self._waits_for(site, folder, head, status)
        if at is None and site.windows:
            self._suspend(site, True)
        return at

    def finish(self, change: Change) -> None:
        """What a folder held before stays in the history of the repository."""

    def _waits_for(self, site: Site, folder: str, head: str, status: Mapping[str, Any]) -> Underway | None:
        wanted = self._git.tree(head, folder)
        synced = commit_of(status.get("sourceSyncedCommitId") or "")
        if not synced or self._git.tree(synced, folder) != wanted:
            return Underway("committed", f"{head[:8]} is committed; the cluster has {synced[:8] or 'nothing'} yet")
        state = status.get("complianceState", "Unknown")
        if state == "Compliant":
            return None
        if state == "Suspended" and not site.windows:
            return Underway("committed", "the cluster's fluxConfiguration is suspended, not by driftloop")
        age = self._clock.now() - self._since(head, folder, wanted)
        if state == "Non-Compliant" and age > PATIENCE:
            long = f"{age.total_seconds() / 60:.0f} minutes"
            raise Refused(f"the cluster is not compliant {long} after the commit: {_why(status)}", site=site.name)
        return Underway("synced", f"the cluster has {synced[:8]}: {state}")

    def _since(self, head: str, folder: str, wanted: str) -> datetime:
        """When the folder became what it is."""
        at = self._clock.now()
        for commit in self._git.history(head):
            if self._git.tree(commit.id, folder) != wanted:
                break
            at = commit.at
        return at

    # What is committed.

    def _made(self, change: Change, site: Site, head: str) -> tuple[Mapping[str, bytes], str]:
        """The folder's files, and the commit's message. A way back is a revert, where the way out is found."""
        loop = self._configs.loop(change.loop)
        files = rendered(loop, site, change.candidate, self._addresses(), self._public())
        about = {"Run": change.run, "Candidate": change.candidate, "Change": change.id, "Site": site.name}
        trailers = "\n".join(f"Driftloop-{key}: {value}" for key, value in about.items())
        said = f"{site.name}: {change.candidate[:12]}\n\n{change.reason or f'{change.loop}, wave {change.wave + 1}'}"
        if change.action == "rollback" and (out := self._way_out(change, head)) is not None:
            said = f'Revert "{out.message.splitlines()[0]}"\n\nThis reverts commit {out.id}.\n{change.reason}'.rstrip()
            before = self._git.files(out.parent, folder_of(change.loop, site.name)) if out.parent else {}
            if before.get("wanted.json") == files["wanted.json"]:
                files = before
        return files, f"{said}\n\n{trailers}\n"

    def _way_out(self, change: Change, head: str) -> Commit | None:
        asked = change.id.removesuffix("rollback") + "deploy"
        for _, commit in zip(range(_LOOKED_BACK), self._git.history(head), strict=False):
            if commit.trailer("Driftloop-Change") == asked:
                return commit
        return None

    # What the cluster says.

    def _status(self, site: Site) -> dict[str, Any]:
        found = self._arm.get(self._path(site), VERSION) if site.resource_id else None
        if found is None:
            missing = f"no fluxConfiguration {site.labels.get('flux', CONFIGURATION)!r} of cluster {site.resource_id!r}"
            raise Refused(f"there is {missing}: docs/push-or-pull.md", site=site.name)
        return dict(found["properties"])

    def _fresh(self, site: Site, status: Mapping[str, Any]) -> None:
        at = status.get("statusUpdatedAt")
        if status.get("suspend"):
            return
        if not at:
            raise Offline("the cluster has told nothing of its configuration yet", site=site.name)
        if self._clock.now() - _time(at) > STALE:
            raise Offline(f"the cluster's last word on its configuration is of {at}", site=site.name)

    def _suspend(self, site: Site, suspend: bool) -> None:
        self._arm.patch(self._path(site), VERSION, {"properties": {"suspend": suspend}})

    def _path(self, site: Site) -> str:
        name = site.labels.get("flux", CONFIGURATION)
        return f"{site.resource_id}/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/{name}"


def folder_of(loop: str, site: str) -> str:
    return f"sites/{loop}/{site}"


def commit_of(synced: str) -> str:
    """
    >>> commit_of("main@sha1:0a1b"), commit_of("main/0a1b"), commit_of("")
    ('0a1b', '0a1b', '')
    """
    return synced.rsplit("/", 1)[-1].rsplit(":", 1)[-1]


def rendered(loop: Loop, site: Site, candidate: str, addresses: Addresses, public: bytes) -> dict[str, bytes]:
    """A site's folder: an overlay of Kustomize on infra/site or infra/kserve, which lie in the repository's base/.

    A new candidate is another wanted.json, which the running program hears of: no pod is restarted for it. Whatever
    else changes is in another ConfigMap, and restarts the pod.
    """
    edge = told(loop, site, addresses, state="/state", wanted="/etc/driftloop-wanted/wanted.json")
    kind, pod = PODS[loop.serving.workload]
    needs = {k: v for k, v in (("cpu", loop.serving.needs.cpu), ("memory", loop.serving.needs.memory)) if v}
    patch: list[dict[str, Any]] = [
        {"op": "add", "path": f"{pod}/containers/0/resources/{part}/{name}", "value": value}
        for part in ("requests", "limits")
        for name, value in needs.items()
    ]
    if site.tolerations:
        patch.append({"op": "add", "path": f"{pod}/tolerations", "value": [_tolerated(t) for t in site.tolerations]})
    overlay: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "driftloop",
        "resources": [f"../../../{BASES[loop.serving.workload]}"],
        "configMapGenerator": [
            {"name": "edge", "behavior": "replace", "files": ["edge.json", "registry.pub"]},
            {"name": "wanted", "files": ["wanted.json"], "options": {"disableNameSuffixHash": True}},
        ],
    }
    if patch:
        overlay["patches"] = [{"target": {"kind": kind, "name": "site"}, "patch": yaml.safe_dump(patch)}]
    return {
        "kustomization.yaml": yaml.safe_dump(overlay, sort_keys=False).encode(),
        "edge.json": json.dumps(edge, indent=2).encode() + b"\n",
        "registry.pub": public,
        "wanted.json": json.dumps({"candidate": candidate}).encode() + b"\n",
    }


def _tolerated(taint: Toleration) -> dict[str, str]:
    """As Kubernetes spells it."""
    any_value = {"operator": "Equal", "value": taint.value} if taint.value else {"operator": "Exists"}
    return {"key": taint.key, **any_value, "effect": taint.effect}


def _why(status: Mapping[str, Any]) -> str:
    """What Flux says of the objects that do not come up."""
    found = [
        f"{o.get('kind')} {o.get('name')}: {'; '.join(c.get('message', '') for c in o.get('statusConditions') or [])}"
        for o in status.get("statuses") or []
        if o.get("complianceState") != "Compliant"
    ]
    return " | ".join(found)[:500] or status.get("errorMessage") or "it does not say why"


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
