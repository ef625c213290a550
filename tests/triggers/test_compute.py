"""Where a training runs, and why."""

from __future__ import annotations

from typing import Any

import pytest

from tests.triggers.samples import a_fleet, a_loop
from triggers.compute import choose, instance_type
from triggers.config import Cost, InstanceType, Needs, Training

SMALL, LARGE = InstanceType(name="small", cpu="500m", memory="1Gi"), InstanceType(name="large", cpu="4", memory="16Gi")
TABLE = {"dataset": "azureml:line-a:1"}
SLOW = "9,000 MB over 2000 kbit/s would take 10.0 h, more than 6h"
BIG = {**TABLE, "dataset_mb": 9000.0, "link_kbps": 2000.0}


@pytest.mark.parametrize(
    ("site", "training", "where", "why"),
    [
        ({}, {}, "cloud", "compute cloud"),
        (TABLE, {}, "cloud", "compute cloud"),
        ({"dataset": "/mnt/t.csv"}, {}, "edge", "compute edge at a: only a can read /mnt/t.csv"),
        (BIG, {}, "edge", f"compute edge at a: {SLOW}"),
        (BIG, {"send": "11h"}, "cloud", "compute cloud"),
        (BIG, {"compute": "cloud"}, "cloud", "compute cloud as configured"),
        (
            TABLE,
            {"cost": Cost(cloud=1.5, edge=0.25)},
            "edge",
            "compute edge at a: 0.25 an hour instead of 1.5 in the cloud",
        ),
        (TABLE, {"cost": Cost(cloud=0.25, edge=1.5)}, "cloud", "compute cloud"),
        (
            {**TABLE, "data": "stays", "instance_types": (SMALL, LARGE)},
            {"needs": Needs(memory="2Gi")},
            "edge",
            "compute edge at a, large: data of a stays",
        ),
        (
            {**TABLE, "data": "stays", "instance_types": (SMALL,)},
            {"needs": Needs(cpu="2", memory="2Gi")},
            "",
            "data of a stays, and no instance type of a has 2 CPU and 2Gi",
        ),
        (
            {**BIG, "instance_types": (SMALL,)},
            {"needs": Needs(cpu="2")},
            "cloud",
            f"compute cloud: {SLOW}, and no instance type of a has 2 CPU",
        ),
        ({"data": "stays"}, {"compute": "cloud"}, "", "data of a stays, and a names no dataset to train on"),
    ],
)
def test_the_place_and_the_reason(site: dict[str, Any], training: dict[str, Any], where: str, why: str) -> None:
    found = choose(("a",), a_loop(training=Training(**training)), a_fleet("a", "b", **site))
    assert (found.where, found.reason) == (where, why)


def test_the_first_site_with_room_is_taken() -> None:
    fleet = a_fleet("a", "b", data="stays", dataset="/mnt/t")
    first = a_fleet("a", data="stays").sites[0]
    mixed = type(fleet)(sites=(first, fleet.sites[1]))
    assert choose(None, a_loop(), mixed).site == "b"


def test_the_smallest_instance_type_that_fits() -> None:
    site = a_fleet("a", instance_types=(LARGE, SMALL)).sites[0]
    assert instance_type(site, Needs()) == SMALL
    assert instance_type(site, Needs(cpu="1")) == LARGE
    assert instance_type(site, Needs(cpu="8")) is None
