"""The fleet as Azure Resource Graph knows it: Arc-connected clusters, what their tags say, extensions, Flux."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from adapters.azure.arm import Arm

PATH = "/providers/Microsoft.ResourceGraph/resources"
VERSION = "2022-10-01"
PREFIX = "driftloop-"
"""A cluster is of the loops that its tag `driftloop` lists (or `*`); `driftloop-ring` and the like are fields of its
site, and every other tag is a label."""

_CLUSTERS = """resources
| where type =~ 'microsoft.kubernetes/connectedclusters' and isnotempty(tags['driftloop'])
| project id, name, location, subscriptionId, tags, connectivity = tostring(properties.connectivityStatus),
  seen = tostring(properties.lastConnectivityTime),
  certificate = tostring(properties.managedIdentityCertificateExpirationTime)
| order by id asc"""
_CONFIGURATIONS = """kubernetesconfigurationresources
| where type in~ ('microsoft.kubernetesconfiguration/extensions',
  'microsoft.kubernetesconfiguration/fluxconfigurations')
| project id, type, name, kind = tostring(properties.extensionType), state = tostring(properties.provisioningState),
  compliance = tostring(properties.complianceState)
| order by id asc"""


class ResourceGraph:
    """What a fleet.yaml is made from; `arm` is how it is asked."""

    def __init__(self, arm: Arm, subscriptions: Sequence[str] = ()) -> None:
        self._arm, self._subscriptions = arm, list(subscriptions)

    def sites(
        self, loop: str, known: Mapping[str, Mapping[str, Any]] | None = None
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """The sites of a loop as fleet.yaml spells them, and what people should know of them; `known`: what it says of
        them already, by name. Raises Retry, Refused."""
        configurations: dict[str, list[Mapping[str, Any]]] = {}
        for found in self._rows(_CONFIGURATIONS):
            owner = str(found["id"]).lower().partition("/providers/microsoft.kubernetesconfiguration/")[0]
            configurations.setdefault(owner, []).append(found)
        sites, notes = [], []
        for cluster in self._rows(_CLUSTERS):
            if loop in _words(_tags(cluster).get("driftloop", "")) or _tags(cluster).get("driftloop") == "*":
                mine = configurations.get(str(cluster["id"]).lower(), [])
                sites.append(site(cluster, mine, known))
                notes += [f"{sites[-1]['name']}: {note}" for note in _notes(cluster, mine)]
        return sites, notes

    def _rows(self, query: str) -> Iterator[Mapping[str, Any]]:
        """Page by page."""
        options: dict[str, Any] = {"resultFormat": "objectArray", "$top": 1000}
        while True:
            asked: dict[str, Any] = {"query": query, "options": options}
            if self._subscriptions:
                asked["subscriptions"] = self._subscriptions
            answer = self._arm.post(PATH, VERSION, asked)
            yield from answer.get("data") or []
            if not (token := answer.get("$skipToken")):
                return
            options = {**options, "$skipToken": token}


def site(
    cluster: Mapping[str, Any],
    configurations: Iterable[Mapping[str, Any]] = (),
    known: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """One cluster as an entry of fleet.yaml. What no tag says is as `known` has it, and only then inferred.

    >>> site({"id": "/c", "name": "lab", "location": "westeurope", "subscriptionId": "s",
    ...       "tags": {"driftloop": "*", "driftloop-windows": "0 2 * * SAT / 4h", "tier": "pilot"}})["windows"]
    [{'cron': '0 2 * * SAT', 'duration': '4h'}]
    """
    tags = _tags(cluster)
    said = {name.removeprefix(PREFIX): value for name, value in tags.items() if name.startswith(PREFIX)}
    name = said.get("name", cluster["name"])
    inferred = {
        "subscription": cluster["subscriptionId"],
        "region": cluster["location"],
        "executor": _executor(configurations),
    }
    before = (known or {}).get(name, {})
    written = {key: before[key] for key in inferred if before.get(key)}
    made: dict[str, Any] = {"name": name, "resource_id": cluster["id"], **inferred, **written}
    if "executor" in said:
        made["executor"] = said["executor"]
    plain = ("ring", "cohort", "timezone", "architecture", "compute", "data")
    made |= {name: said[name] for name in plain if name in said}
    if "link-kbps" in said:
        made["link_kbps"] = float(said["link-kbps"])
    if "windows" in said:
        made["windows"] = [_window(part) for part in said["windows"].split("|") if part.strip()]
    if labels := {n: v for n, v in tags.items() if not n.startswith(PREFIX) and n != "driftloop"}:
        made["labels"] = labels
    if cluster.get("certificate"):
        made["certificate_expires"] = cluster["certificate"]
    return made


def _window(text: str) -> dict[str, str]:
    when, _, length = text.rpartition(" / ")
    return {"rrule" if "FREQ=" in when else "cron": when.strip(), "duration": length.strip()}


def _tags(cluster: Mapping[str, Any]) -> dict[str, str]:
    """Names of tags are the same whatever their case."""
    return {name.lower(): str(value) for name, value in (cluster.get("tags") or {}).items()}


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _executor(configurations: Iterable[Mapping[str, Any]]) -> str:
    """Push where Azure ML's extension is, else pull."""
    pushed = any(str(c.get("kind")).lower() == "microsoft.azureml.kubernetes" for c in configurations)
    return "azureml" if pushed else "flux"


def _notes(cluster: Mapping[str, Any], configurations: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    if (status := cluster.get("connectivity")) and status != "Connected":
        yield f"{status} since {cluster.get('seen') or 'an unknown time'}"
    for found in configurations:
        if found.get("state") not in ("Succeeded", "", None):
            yield f"{found['name']} is {found['state']}"
        if found.get("compliance") not in ("Compliant", "", None):
            yield f"Flux says of {found['name']}: {found['compliance']}"
