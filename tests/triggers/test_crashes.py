"""The process dies at every commit and every send of a story, or is told of an error though it was done: found by
counting the calls, and the end is the same each time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.triggers.crashing import STORIES, Played, played
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
def test_a_fault_at_a_commit_or_send_changes_nothing(story: Played, how: str) -> None:
    """At calls spread over the story; `make test-wire` takes each."""
    for at in range(2 + HOW.index(how), story.calls + 1, 20):
        assert story.different([at], how) == [], f"differ after a fault at call {at}, {how}"


@pytest.mark.wire
@pytest.mark.parametrize("how", HOW)
def test_a_fault_at_any_commit_or_send_changes_nothing(story: Played, how: str) -> None:
    for at in range(1, story.calls + 1):
        assert story.different([at], how) == [], f"differ after a fault at call {at}, {how}"


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
