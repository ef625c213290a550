"""Contract of the port Executor: the same for sites that are asked, pushed to, and that pull."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from adapters.local.blobs import FileBlobs
from tests.adapters.azureml import AzureMl
from tests.adapters.fields import FIELDS, UNHURRIED, Field, cluster, fleet
from tests.infra.calls import uncalled
from tests.triggers.world import Configs, put_candidate
from triggers.config import Fleet, Window
from triggers.errors import NotFound, Offline, Refused, Retry
from triggers.ports import Change

START = datetime(2026, 3, 1, tzinfo=UTC)


class Time:
    at = START

    def now(self) -> datetime:
        return self.at


@dataclass
class Sites:
    """A field, and the hand that carries changes on as the deployments queue does."""

    field: Field
    clock: Time
    kind: str
    old: str = ""
    new: str = ""

    def change(self, candidate: str, site: str = "a", run: int = 1, back: bool = False) -> Change:
        action: Any = "rollback" if back else "deploy"
        return Change(
            id=f"line.2026-03-01.{run}/{site}/{action}",
            loop="line",
            site=site,
            run=f"line.2026-03-01.{run}",
            wave=0,
            candidate=candidate,
            action=action,
            fence=2 * run + back,
            at=self.clock.now(),
        )

    def carry_on(self, change: Change, calls: int = 30) -> list[str]:
        """Until there is no more to do; the steps on the way."""
        steps: list[str] = []
        for _ in range(calls):
            self.field.work()
            try:
                underway = self.field.executor.apply(change, proven=True)
            except Retry:
                continue
            finally:
                self.clock.at += timedelta(minutes=1)
            if underway is None:
                self.field.work()
                return steps
            steps.append(underway.step)
        raise AssertionError(f"no end: {steps}")


@pytest.fixture(scope="module", autouse=True)
def calls_that_the_role_is_made_for(request: pytest.FixtureRequest) -> Iterator[None]:
    before = len(AzureMl.called)
    yield
    assert uncalled(request, "driftloop deployer", AzureMl.called[before:]) == set(), "infra/calls.json"


@pytest.fixture(params=[pytest.param(k, marks=[] if k == "local" else pytest.mark.wire) for k in FIELDS])
def sites(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sites]:
    blobs, clock = FileBlobs(tmp_path / "blobs"), Time()
    with FIELDS[request.param](tmp_path, blobs, Configs(UNHURRIED, fleet(request.param)), clock) as field:
        found = Sites(field, clock, request.param)
        for name in ("old", "new"):
            digest = put_candidate(blobs, b"reference", name)
            blobs.put(f"candidates/{digest}/manifest.sig", b"signature")
            setattr(found, name, digest)
        found.carry_on(found.change(found.old, run=0))
        found.field.executor.finish(found.change(found.old, run=0))
        yield found


def test_a_site_comes_to_serve_what_it_is_told_and_asking_again_changes_nothing(sites: Sites) -> None:
    assert sites.field.serves("a") == sites.old
    change = sites.change(sites.new)
    sites.carry_on(change)
    assert sites.field.serves("a") == sites.new
    before = sites.field.writes()
    assert sites.carry_on(change) == []
    assert sites.field.writes() == before
    assert sites.field.serves("b") in ("", "b")


def test_the_way_back_leads_to_what_was_served_before(sites: Sites) -> None:
    sites.carry_on(sites.change(sites.new))
    back = sites.change(sites.old, back=True)
    sites.carry_on(back)
    assert sites.field.serves("a") == sites.old
    sites.carry_on(sites.change(sites.new, run=2))
    assert sites.field.serves("a") == sites.new, "and out again, by another run"


def test_the_way_back_may_begin_at_any_step(sites: Sites) -> None:
    for calls in range(6):
        sites.field.work()
        change = sites.change(sites.new, run=calls + 1)
        for _ in range(calls):
            sites.field.executor.apply(change, proven=True)
            sites.field.work()
        back = sites.change(sites.old, run=calls + 1, back=True)
        sites.carry_on(back)
        sites.field.executor.finish(back)
        assert sites.field.shares("a") == {sites.old: 100}, calls


def test_an_offline_site_is_said_to_be_and_nothing_is_begun(sites: Sites) -> None:
    sites.field.online["a"] = False
    sites.field.work()
    before = sites.field.writes()
    with pytest.raises(Offline) as raised:
        sites.field.executor.apply(sites.change(sites.new))
    assert raised.value.fields["site"] == "a"
    assert sites.field.writes() == before
    sites.field.online["a"] = True
    sites.carry_on(sites.change(sites.new))
    assert sites.field.serves("a") == sites.new


def test_a_candidate_that_does_not_come_up_is_refused_and_the_old_one_serves_on(sites: Sites) -> None:
    sites.field.refuses["a"].add(sites.new)
    with pytest.raises(Refused):
        sites.carry_on(sites.change(sites.new))
    assert sites.field.shares("a") == {sites.old: 100}
    back = sites.change(sites.old, back=True)
    sites.carry_on(back)
    sites.field.executor.finish(back)
    assert sites.field.shares("a") == {sites.old: 100}


def test_what_is_verified_is_finished_and_serves_on(sites: Sites) -> None:
    change = sites.change(sites.new)
    sites.carry_on(change)
    for _ in range(2):
        sites.field.executor.finish(change)
    assert sites.field.shares("a") == {sites.new: 100}
    sites.carry_on(sites.change(sites.old, run=2))
    assert sites.field.serves("a") == sites.old


def test_a_site_of_no_fleet_and_a_way_back_to_nothing_are_refused(sites: Sites) -> None:
    with pytest.raises(NotFound):
        sites.field.executor.apply(sites.change(sites.new, site="nowhere"))
    with pytest.raises(Refused):
        sites.field.executor.apply(sites.change("", back=True))


@pytest.mark.wire
def test_flux_is_suspended_outside_of_the_changes_of_a_site_that_has_windows(tmp_path: Path) -> None:
    window = Window(cron="* * * * *", duration=timedelta(hours=1))
    windowed = Fleet(sites=tuple(replace(site, windows=(window,)) for site in fleet("flux").sites))
    blobs, clock = FileBlobs(tmp_path / "blobs"), Time()
    with FIELDS["flux"](tmp_path, blobs, Configs(UNHURRIED, windowed), clock) as field:
        sites = Sites(field, clock, "flux")
        path = f"{cluster('a')}/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/driftloop"
        of_a = field.more[1].resources[path]["properties"]
        for run, name in enumerate(("one", "two")):
            digest = put_candidate(blobs, b"reference", name)
            blobs.put(f"candidates/{digest}/manifest.sig", b"signature")
            sites.carry_on(sites.change(digest, run=run))
            assert (field.serves("a"), of_a["suspend"]) == (digest, True)


@pytest.mark.wire
@pytest.mark.parametrize("states", [{"runtimeStatus": "unknown"}, {}])
def test_a_device_that_has_not_yet_looked_at_its_module_is_waited_for(tmp_path: Path, states: dict[str, str]) -> None:
    blobs, clock = FileBlobs(tmp_path / "blobs"), Time()
    with FIELDS["iotedge"](tmp_path, blobs, Configs(UNHURRIED, fleet("iotedge")), clock) as field:
        change = Sites(field, clock, "iotedge").change("1" * 64)
        field.executor.apply(change)
        field.work()
        [module] = field.more[1]["a"]["properties"]["reported"]["modules"].values()
        del module["runtimeStatus"]
        module.update(states)
        underway = field.executor.apply(change)
        assert underway is not None
        assert underway.reason == "the module is unknown"
        field.work()
        assert field.executor.apply(change) is None
