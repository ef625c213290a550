"""A run ends before, or while, what it asked for is performed: found by the explorer, told as stories."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.triggers.world import World, a_reference, put_candidate
from triggers import events, loop, sites
from triggers.run import Phase


def cancel_before(world: World, monkeypatch: pytest.MonkeyPatch, port: Any, method: str) -> None:
    """As the call begins, somebody cancels the run, and another worker does all that follows from it."""
    call: Callable[..., Any] = getattr(port, method)

    def overtaken(*args: Any, **more: Any) -> Any:
        monkeypatch.setattr(port, method, call)
        loop.ask(world.ports, world.runs[-1].id, events.Cancelled, "ann", "wrong month")
        world.pump()
        assert world.runs[-1].phase is Phase.CANCELLED
        return call(*args, **more)

    monkeypatch.setattr(port, method, overtaken)


def test_a_job_that_is_submitted_after_its_run_was_cancelled_does_not_run_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.jobs.holds = True
    cancel_before(world, monkeypatch, world.ports.jobs, "submit")
    run = loop.retrain(world.ports, "line", "eve", "new machine")
    world.pump()
    assert world.jobs.jobs.keys() == {f"{run}-train"}
    assert world.jobs.status(f"{run}-train").state == "cancelled"


def test_no_question_stays_open_for_a_run_that_was_cancelled_as_it_was_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = world.ports.blobs.put

    def watched(name: str, data: bytes) -> None:
        if name.startswith("plans/") and world.runs[-1].phase is Phase.AWAITING_APPROVAL:
            loop.ask(world.ports, world.runs[-1].id, events.Cancelled, "ann", "wrong month")
            world.pump()
        put(name, data)

    monkeypatch.setattr(world.ports.blobs, "put", watched)
    loop.retrain(world.ports, "line", "eve", "new machine")
    world.pump()
    assert world.runs[-1].phase is Phase.CANCELLED
    assert world.store.get("line", f"approval/{world.runs[-1].id}") is None
    assert [key for key in world.board.cards if key.startswith("approval/")] == []


def test_sites_go_back_though_the_time_for_it_was_over_before_anybody_was_asked(world: World) -> None:
    """The host is down for longer than a rollback may take; when it is back, the deadline comes first."""
    first = world.plants["a"].serves
    better = put_candidate(world.blobs, a_reference(0.1), "better")
    run = loop.submit(world.ports, "line", better, "eve", "by hand")
    world.pump()
    assert world.answer() == ""
    assert world.plants["a"].serves == better
    world.lags.add("effects")
    loop.ask(world.ports, run, events.RollBackAsked, "ann", "complaints")
    world.pump()
    world.clock.advance(timedelta(days=4))
    way_back, deadline = world.waiting()
    loop.perform(world.ports, deadline)
    world.pump()
    assert world.runs[-1].phase is Phase.ROLLED_BACK
    assert loop.perform(world.ports, way_back)
    world.lags.clear()
    world.days(1)
    assert {plant.serves for plant in world.plants.all.values()} == {first}
    assert world.state("a").status == "restored"


def test_a_site_never_goes_back_to_what_was_taken_back_while_it_was_away(world: World) -> None:
    """It had verified the candidate, which its run then took back everywhere; it has not heard of that when the next
    run reaches it, and takes its own candidate back, too."""
    first = world.plants["a"].serves
    tried = [put_candidate(world.blobs, a_reference(0.1 * n), f"candidate-{n}") for n in (1, 2)]
    run = loop.submit(world.ports, "line", tried[0], "eve", "by hand")
    world.pump()
    assert world.answer() == ""
    while not (world.state("a").status == "verified" and world.state("a").candidate == tried[0]):
        world.days(0.5)
    world.plants["a"].online = False
    loop.ask(world.ports, run, events.RollBackAsked, "ann", "complaints")
    world.days(4)
    assert world.runs[-1].phase is Phase.ROLLED_BACK
    assert world.plants["a"].serves == tried[0]
    run = loop.submit(world.ports, "line", tried[1], "eve", "by hand")
    world.pump()
    assert world.answer() == ""
    world.plants["a"].online = True
    while world.plants["a"].serves != tried[1]:
        world.days(0.5)
        assert world.runs[-1].phase is Phase.ROLLING_OUT
    loop.ask(world.ports, run, events.RollBackAsked, "ann", "complaints")
    world.days(3)
    assert world.runs[-1].phase is Phase.ROLLED_BACK
    assert world.plants["a"].serves == first


def test_what_a_run_was_taken_back_from_is_no_way_back_even_where_nobody_was_asked_to_go_back(world: World) -> None:
    first = world.plants["a"].serves
    better = put_candidate(world.blobs, a_reference(0.1), "better")
    loop.submit(world.ports, "line", better, "eve", "by hand")
    world.pump()
    assert world.answer() == ""
    while not (world.state("a").status == "verified" and world.state("a").candidate == better):
        world.days(0.5)
    reached = world.state("a")
    loop.ask(world.ports, world.runs[-1].id, events.RollBackAsked, "ann", "complaints")
    world.days(4)
    assert world.runs[-1].phase is Phase.ROLLED_BACK
    later = msgspec.structs.replace(world.runs[-1], id="line.2026-03-10.9", champion="", phase=Phase.ROLLING_OUT)
    assert (reached.run, reached.last_good) == (world.runs[-1].id, better)
    assert sites._way_back(world.ports, reached, later) == first
