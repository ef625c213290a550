"""The process dies at every call of a story that is no read (tests/triggers/world.py, READS), or is told of an error
though it was done: found by counting the calls, and the end is the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from adapters.local.store import SqliteStore
from tests.triggers.crashing import STORIES, Played, played
from tests.triggers.world import READS, Crash, Faults, Fragile, World
from triggers import codec, loop
from triggers.ports import Ports
from triggers.records import LoopUnit, Outbox, Unit

HOW = ("before", "after", "error")
"""Dies before the call is done, or after it; or lives, and gets an error though it was done."""


@pytest.fixture(scope="module", params=STORIES)
def story(request: pytest.FixtureRequest) -> Iterator[Played]:
    with played(request.param) as story:
        yield story


def test_without_faults_from_any_half_day_the_end_is_the_same(story: Played) -> None:
    for now in range(len(story.kept) - 1):
        assert story.different([max(story.kept[now].calls + 1, 1) + 10**6], "before") == []


@pytest.mark.parametrize("how", HOW)
def test_a_fault_at_a_call_changes_nothing(story: Played, how: str) -> None:
    """At calls spread over the story; `make test-wire` takes each."""
    for at in range(2 + HOW.index(how), story.calls + 1, 20):
        assert story.different([at], how) == [], f"differ after a fault at call {at}, {how}"


@pytest.mark.wire
@pytest.mark.parametrize("how", HOW)
def test_a_fault_at_any_call_changes_nothing(story: Played, how: str) -> None:
    for at in range(1, story.calls + 1):
        assert story.different([at], how) == [], f"differ after a fault at call {at}, {how}"


NO_PORTS = {"together", "cache"}
"""Fields of Ports that are none; uploads and logs are not there in these stories."""


def test_every_call_of_a_port_counts_unless_it_is_said_to_read(world: World) -> None:
    there = {f.name for f in fields(Ports) if getattr(world.ports, f.name) is not None} - NO_PORTS
    assert there == set(READS)
    for name in there:
        fragile, promised = getattr(world.ports, name), vars(get_type_hints(Ports)[name])
        port = fragile._port
        assert isinstance(fragile, Fragile)
        assert [read for read in READS[name] if not callable(getattr(port, read, None))] == [], "reads that are none"
        for method in {*promised, *dir(port)}:
            if not method.startswith("_") and callable(getattr(port, method)):
                guarded = getattr(fragile, method) != getattr(port, method)
                assert guarded == (method not in READS[name]), f"{name}.{method}"


def test_a_new_method_of_a_port_counts() -> None:
    class Store(SqliteStore):
        def compact(self, partition: str) -> None:
            """What somebody adds tomorrow."""

    faults = Faults({2})
    store: Any = Fragile(object.__new__(Store), faults, READS["store"])
    store.compact("line")
    with pytest.raises(Crash):
        store.compact("line")


def test_a_process_that_dies_again_and_again_still_gets_there(story: Played) -> None:
    for every, how in ((7, "after"), (11, "before")):
        assert story.different(range(every, 3 * story.calls, every), how) == []


def test_an_effect_that_is_forgotten_before_it_is_performed_is_found(
    story: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind of bug that this is for: the outbox's row goes first."""

    def perform(ports: Ports, key: str) -> bool:
        record = ports.store.get("line", key)
        if record is None:
            return False
        unit = Unit(ports.store, "line")
        unit.delete(key)
        unit.commit()
        outbox = codec.decode(record.value, Outbox)
        run = LoopUnit(ports.store, "line", ports.clock.now()).run(outbox.run)
        if loop._wanted(run, outbox.effect):
            loop._PERFORM[type(outbox.effect)](ports, run, outbox.effect)
        return True

    monkeypatch.setattr(loop, "perform", perform)

    def found(at: int) -> bool:
        try:
            return story.different([at], "after") != []
        except AssertionError:  # there is nothing to be answered
            return True

    assert any(found(at) for at in range(1, story.calls + 1))
