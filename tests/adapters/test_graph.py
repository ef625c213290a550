"""A fleet from Azure Resource Graph."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from adapters.azure.arm import Arm
from adapters.azure.graph import PATH, VERSION, ResourceGraph, site
from cli.fleet import dropped, written
from tests.servers.https import Handler, serving
from triggers.config import parse_fleet
from triggers.errors import Refused, Retry
from triggers.reading import Wrong

GROUP = "/subscriptions/s1/resourceGroups/g/providers"


def cluster(name: str, **tags: str) -> dict[str, Any]:
    return {
        "id": f"{GROUP}/Microsoft.Kubernetes/connectedClusters/{name}",
        "name": name,
        "location": "westeurope",
        "subscriptionId": "s1",
        "tags": {"driftloop": "line", **tags},
        "connectivity": "Connected",
        "seen": "2026-03-01T00:00:00Z",
        "certificate": "2026-05-30T00:00:00Z",
    }


def configuration(of: str, kind: str, **more: str) -> dict[str, Any]:
    provider = "Microsoft.KubernetesConfiguration/extensions"
    name = {"id": f"{cluster(of)['id'].upper()}/providers/{provider}/{kind}", "name": kind, "kind": kind}
    return {**name, "type": provider.lower(), "state": "Succeeded", "compliance": "", **more}


CLUSTERS = [
    cluster("plant-1", **{"Driftloop-Ring": "plant", "driftloop-link-kbps": "256", "tier": "pilot"}),
    cluster("plant-2", **{"driftloop-windows": "0 2 * * SAT / 4h | FREQ=MONTHLY;BYDAY=1SU / 2h"}),
    {**cluster("away", driftloop="line, other"), "connectivity": "Offline"},
    cluster("elsewhere", driftloop="other"),
]
CONFIGURATIONS = [
    configuration("plant-1", "Microsoft.AzureML.Kubernetes"),
    configuration("plant-2", "microsoft.flux", compliance="Non-Compliant"),
    configuration("away", "microsoft.flux", state="Failed"),
]


def test_tags_are_the_fields_of_a_site() -> None:
    made = site(CLUSTERS[0], CONFIGURATIONS[:1])
    assert made == {
        "name": "plant-1",
        "resource_id": CLUSTERS[0]["id"],
        "subscription": "s1",
        "region": "westeurope",
        "executor": "azureml",
        "ring": "plant",
        "link_kbps": 256.0,
        "labels": {"tier": "pilot"},
        "certificate_expires": "2026-05-30T00:00:00Z",
    }


def test_what_the_graph_does_not_know_is_kept_and_what_has_gone_is_gone() -> None:
    known = {
        "sites": [
            {"name": "plant-1", "url": "http://127.0.0.1:1/x", "ring": "old"},
            {"name": "gone", "resource_id": "/x"},
        ],
        "quota": {"endpoints": 9},
    }
    said = written([site(CLUSTERS[0])], known, "fleet.yaml")
    fleet = parse_fleet(said)
    assert [(s.name, s.url, s.ring) for s in fleet.sites] == [("plant-1", "http://127.0.0.1:1/x", "plant")]
    assert fleet.quota.endpoints == 9
    assert list(yaml.safe_load(said)) == ["sites", "quota"]


def test_what_people_wrote_is_not_undone_by_what_is_inferred() -> None:
    wrote = {"name": "plant-1", "executor": "flux", "subscription": "other", "region": "here"}
    lines = {"name": "plant-1", "labels": {"line": "7", "tier": "old"}}
    device = {"name": "press", "executor": "iotedge"}
    gone = {"name": "gone", "resource_id": "/x"}
    found = site(CLUSTERS[0], CONFIGURATIONS[:1], {"plant-1": wrote})
    known = {"sites": [{**wrote, **lines}, device, gone]}
    press, plant = sorted(parse_fleet(written([found], known, "fleet.yaml")).sites, key=lambda s: s.executor)[::-1]
    assert (press.name, plant.name) == ("press", "plant-1")
    assert (plant.executor, plant.subscription, plant.region) == ("flux", "other", "here")
    assert plant.labels == {"line": "7", "tier": "pilot"}
    assert dropped([found], known) == ["gone"]
    tagged = cluster("plant-1", **{"driftloop-executor": "azureml"})
    assert site(tagged, (), {"plant-1": wrote})["executor"] == "azureml", "a tag wins"


def test_a_tag_that_makes_no_sense_is_refused_by_its_field() -> None:
    with pytest.raises(Wrong, match="timezone: 'Berlin' is no time zone"):
        written([site(cluster("x", **{"driftloop-timezone": "Berlin"}))], {}, "fleet.yaml")


class Graph:
    """The service: a page of two rows at a time."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.fails: list[int] = []

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(asked)
        rows = CLUSTERS if asked["query"].startswith("resources") else CONFIGURATIONS
        start = int(asked["options"].get("$skipToken", 0))
        more = {"$skipToken": str(start + 2)} if start + 2 < len(rows) else {}
        return {"data": rows[start : start + 2], **more}


@pytest.fixture
def graph(authority: Any) -> Iterator[tuple[Graph, Any]]:
    from azure.core.credentials import AccessToken

    service = Graph()

    class Here(Handler):
        def do_POST(self) -> None:  # noqa: N802
            asked = json.loads(self.read())
            assert (self.path, self.headers["Authorization"]) == (f"{PATH}?api-version={VERSION}", "Bearer token")
            if service.fails:
                self.answer(service.fails.pop(0), b'{"error": {"code": "Throttled", "message": "slowly"}}')
            else:
                self.answer(200, json.dumps(service.answer(asked)).encode())

    class Credential:
        def get_token(self, *_: str, **__: Any) -> AccessToken:
            return AccessToken("token", 2**40)

    with serving(Here, str(authority.cert), str(authority.key)) as url:
        arm = Arm(Credential, url, connection_verify=str(authority.ca))
        yield service, ResourceGraph(arm, ["s1"])


@pytest.mark.wire
def test_every_page_is_read_and_what_a_person_should_know_is_said(graph: tuple[Graph, Any]) -> None:
    service, found = graph
    sites, notes = found.sites("line")
    assert [(s["name"], s["executor"]) for s in sites] == [
        ("plant-1", "azureml"),
        ("plant-2", "flux"),
        ("away", "flux"),
    ]
    assert notes == [
        "plant-2: Flux says of microsoft.flux: Non-Compliant",
        "away: Offline since 2026-03-01T00:00:00Z",
        "away: microsoft.flux is Failed",
    ]
    assert [a["options"].get("$skipToken") for a in service.asked] == [None, "2", None, "2"]
    assert all(a["subscriptions"] == ["s1"] for a in service.asked)
    assert parse_fleet(written(sites, {}, "fleet.yaml")).sites[1].windows[1].rrule == "FREQ=MONTHLY;BYDAY=1SU"


@pytest.mark.wire
@pytest.mark.parametrize(("status", "reaction"), [(429, Retry), (403, Retry), (400, Refused)])
def test_what_the_service_will_not_answer_is_said(
    graph: tuple[Graph, Any], status: int, reaction: type[Exception]
) -> None:
    service, found = graph
    service.fails += [status] * 5
    with pytest.raises(reaction, match=r"POST Microsoft\.ResourceGraph/resources: "):
        found.sites("line")
