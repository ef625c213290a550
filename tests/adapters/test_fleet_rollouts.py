"""Whole rollouts by push, by pull and to devices: all sites, a failed wave with its way back, an offline site."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from drift.telemetry import Serving
from tests.adapters.fields import FIELDS, NAMES, UNHURRIED, Field, fleet
from tests.triggers.world import World, a_reference, put_candidate
from triggers import loop, sites
from triggers.ports import Change

pytestmark = pytest.mark.wire
EVENT = Draft202012Validator(sites.event_schema())


class Fleet(World):
    """The world of the loop's own tests, its sites in the hands of another executor."""

    field: Field
    executor: str

    def give(self, field: Field) -> None:
        self.field = field
        self.ports = replace(self.ports, executor=field.executor)

    def pump(self, most: int = 500) -> int:
        """As the minutes pass at the sites and in the app."""
        done = 0
        if "field" not in self.__dict__:
            return super().pump(most)
        for _ in range(8):
            self.field.work()
            done += super().pump(most)
            for name, plant in self.plants.all.items():
                plant.online = self.field.online[name]
                plant.serves = max(self.field.shares(name).items(), key=lambda x: x[1], default=("", 0))[0]
            if all(self.state(name).status != "underway" for name in NAMES):
                break
            self.clock.advance(timedelta(minutes=1))
        return done

    def speak(self) -> None:
        for name, plant in self.plants.all.items():
            for candidate, share in self.field.shares(name).items():
                if candidate != plant.serves and share:
                    p95 = 200.0 if candidate in plant.slow else 10.0
                    mark = f"{name}-part-{self.clock.now():%m%dT%H%M}"
                    said: Any = {"id": mark, "candidate": candidate, "serving": Serving(40, 0, 5.0, p95)}
                    plant.unsent.append(self.payload(self.batch(name, **said)))
        super().speak()

    def served(self) -> dict[str, str]:
        return {name: self.field.serves(name) for name in NAMES}

    def told(self) -> list[tuple[str, str]]:
        """What was said of deployments: site and what, once where it was said again."""
        events = [h.event for h in self.topic.pending("all")]
        for event in events:
            EVENT.validate(event)
        said = [
            (str(event["subject"]), str(event["type"]).rpartition(".")[2])
            for event in events
            if event["data"]["action"] != "finish"
        ]
        return list(dict.fromkeys(said))


@pytest.fixture(params=["azureml", "flux", "iotedge"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    world = Fleet(tmp_path, a_loop=UNHURRIED, fleet=fleet(request.param))
    world.executor = request.param
    world.topic.subscribe("all", [f"driftloop.deployment.{kind}" for kind in sites.TOLD])
    with ExitStack() as stack:
        field = stack.enter_context(FIELDS[request.param](tmp_path, world.blobs, world.configs, world.clock))
        world.give(field)
        first = world.begin()
        sign(world, first)
        for name in NAMES:  # what was put there by hand
            change = Change(
                id=f"line.2026-03-01.0/{name}/deploy", loop="line", site=name, run="line.2026-03-01.0", wave=0,
                candidate=first, action="deploy", fence=0, at=world.clock.now(),
            )  # fmt: skip
            for _ in range(20):
                field.work()
                if field.executor.apply(change, proven=True) is None:
                    break
        world.half_day()
        assert world.served() == dict.fromkeys(NAMES, first)
        yield world
    world.close()


def sign(world: Fleet, candidate: str) -> None:
    world.blobs.put(f"candidates/{candidate}/manifest.sig", b"signature")


def approved(world: Fleet) -> str:
    """A candidate whose rollout has been let go."""
    made = put_candidate(world.blobs, a_reference(), "better")
    sign(world, made)
    loop.submit(world.ports, "line", made, "eve", "made by hand")
    world.pump()
    world.answer()
    return made


def test_a_full_rollout(world: Fleet) -> None:
    old = world.served()["a"]
    new = approved(world)
    world.until("verified", days=12)
    assert world.served() == dict.fromkeys(NAMES, new)
    assert {world.state(name).last_good for name in NAMES} == {new}
    told = world.told()
    for name in NAMES:
        assert [what for site, what in told if site == name] == ["requested", "started", "succeeded"]
    world.half_day()
    for name in NAMES:
        assert world.field.shares(name) == {new: 100}
    if hasattr(world.field.more, "pretended"):
        assert old not in world.field.more.pretended.values(), "what it took the place of is gone"


def test_a_wave_that_fails_takes_every_site_back(world: Fleet) -> None:
    old = world.served()["a"]
    world.plants["b"].slow.add(put_candidate(world.blobs, a_reference(), "better"))
    new = approved(world)
    run = world.until("rolled-back", days=12)
    assert "b: p95 above 190 ms" in run.because
    assert world.served() == dict.fromkeys(NAMES, old)
    assert (world.state("b").status, world.state("a").last_good) == ("restored", old)
    assert [what for site, what in world.told() if site == "a"][-1] == "rolledback"
    assert ("b", "failed") in world.told()
    if world.executor == "flux":
        bare, _ = world.field.more
        reverts = [m for m in bare.messages() if m.startswith('Revert "')]
        assert {m.splitlines()[0] for m in reverts} >= {f'Revert "a: {new[:12]}"', f'Revert "b: {new[:12]}"'}
        assert all("This reverts commit" in m and "Driftloop-Run: line." in m for m in reverts)


def test_a_candidate_that_does_not_come_up_fails_its_wave(world: Fleet) -> None:
    old = world.served()["a"]
    world.field.refuses["a"].add(put_candidate(world.blobs, a_reference(), "better"))
    approved(world)
    run = world.until("rolled-back", days=12)
    assert run.because.startswith("wave 1: 1 failed, 0 tolerated (a: ")
    assert world.served() == dict.fromkeys(NAMES, old)


def test_an_offline_site_is_deferred_and_converges_when_it_is_back(world: Fleet) -> None:
    old = world.served()["c"]
    world.field.online["c"] = False
    new = approved(world)
    world.until("verified", days=12)
    assert world.served() == {"a": new, "b": new, "c": old}
    assert world.state("c").status == "deferred"
    assert ("c", "deferred") in world.told()
    world.field.online["c"] = True
    world.days(4)
    assert world.served()["c"] == new
    assert world.state("c").status == "verified"
    assert [what for site, what in world.told() if site == "c"][-1] == "succeeded"
