"""Contract of the port Topic, with its delivering side: the semantics of Azure Event Grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from adapters.local.clock import VirtualClock
from adapters.local.database import Database
from adapters.local.topic import Handout, SqliteTopic
from triggers.errors import Refused


def event(id: str, type: str = "driftloop.test", **more: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": id, "source": "/test", "type": type, "subject": "s", "data": {"n": 1}, **more}


def ids(handouts: Sequence[Handout]) -> list[str]:
    return [handout.event["id"] for handout in handouts]


def test_each_subscriber_gets_each_event_until_it_is_done(topic: Any) -> None:
    topic.subscribe("a")
    topic.subscribe("b")
    topic.publish([event("1"), event("2")])
    assert ids(topic.pending("a")) == ids(topic.pending("a")) == ["1", "2"]
    topic.done(topic.pending("a", 1))
    assert ids(topic.pending("a")) == ["2"]
    assert ids(topic.pending("b")) == ["1", "2"]
    assert topic.pending("b")[0].event == event("1")


def test_a_subscriber_gets_the_types_it_named(topic: Any) -> None:
    topic.subscribe("jobs", ["driftloop.job.ended"])
    topic.publish([event("1"), event("2", "driftloop.job.ended")])
    assert ids(topic.pending("jobs")) == ["2"]
    topic.subscribe("jobs", ["driftloop.test"])
    topic.publish([event("3"), event("4", "driftloop.job.ended")])
    assert ids(topic.pending("jobs")) == ["2", "3"]


def test_a_subscription_outlives_a_restart_and_events_of_others(
    topic: Any, database: Database, clock: VirtualClock
) -> None:
    topic.subscribe("a")
    SqliteTopic(database, clock).publish([event("1")])
    restarted = SqliteTopic(database, clock)
    restarted.subscribe("a")
    assert ids(restarted.pending("a")) == ["1"]


def test_an_event_published_twice_may_arrive_twice(topic: Any) -> None:
    topic.subscribe("a")
    topic.publish([event("1")])
    topic.publish([event("1")])
    assert set(ids(topic.pending("a"))) == {"1"}


def test_an_event_is_tried_again_later_and_later(topic: Any, clock: VirtualClock) -> None:
    topic.subscribe("a")
    topic.publish([event("1")])
    for attempts, seconds in enumerate([10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200]):
        [handout] = topic.pending("a")
        assert handout.attempts == attempts
        topic.retry(handout, f"busy {attempts}")
        assert topic.pending("a") == []
        assert topic.next_due("a") == clock.now() + timedelta(seconds=seconds)
        clock.advance(timedelta(seconds=seconds))
    [handout] = topic.pending("a")
    assert handout.reason == "busy 9"
    topic.retry(handout, "still busy")
    assert topic.pending("a") == []
    assert topic.next_due("a") is None
    [dead] = topic.dead_letters()
    assert (dead.event["id"], dead.attempts, dead.reason) == ("1", 11, "still busy")


def test_what_is_refused_is_put_aside_at_once(topic: Any) -> None:
    topic.subscribe("a")
    topic.publish([event("1"), event("2")])
    topic.dead_letter(topic.pending("a")[0], "400")
    assert ids(topic.pending("a")) == ["2"]
    assert [(h.event["id"], h.subscriber, h.reason) for h in topic.dead_letters()] == [("1", "a", "400")]


def test_the_history_keeps_the_newest_and_whatever_is_still_awaited(topic: Any) -> None:
    topic.publish([event(f"{n}") for n in range(4)])
    topic.subscribe("a")
    topic.publish([event("awaited")])
    for n in range(4, 12):
        topic.publish([event(f"{n}")])
        topic.done([h for h in topic.pending("a") if h.event["id"] != "awaited"])
    assert [e["id"] for e in topic.recent()] == ["11", "10", "9", "8", "7", "awaited"]
    assert [e["id"] for e in topic.recent(2)] == ["11", "10"]
    topic.done(topic.pending("a"))
    topic.publish([event("12")])
    assert "awaited" not in [e["id"] for e in topic.recent()]


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in event("1").items() if key != name}


@pytest.mark.parametrize(
    "wrong",
    [
        *(without(name) for name in ("specversion", "id", "source", "type")),
        event("1", specversion="0.3"),
        event(""),
        event("1", data={1, "x", object()}),
        event("1", data="x" * 1024 * 1024),
    ],
)
def test_what_is_no_event_is_refused_whole(topic: Any, wrong: Mapping[str, Any]) -> None:
    with pytest.raises(Refused):
        topic.publish([event("fine"), wrong])
    assert topic.recent() == []
