"""The Event Grid adapter when the wire fails: the same outcome as without, or an error that says what to do."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from adapters.azure.eventgrid import EventGridTopic
from adapters.azure.identity import Identity
from adapters.azure.settings import Settings
from adapters.local.clock import VirtualClock
from adapters.local.database import Database
from adapters.local.topic import SqliteTopic
from tests.adapters.test_topic import event
from tests.servers.eventgrid import KEY, EventGrid, How
from triggers.errors import Misconfigured, Refused, Retry

pytestmark = pytest.mark.wire

Topics = Callable[..., EventGridTopic]


@pytest.fixture
def grid(event_grid: EventGrid, database: Database, clock: VirtualClock) -> EventGrid:
    event_grid.topic = SqliteTopic(database, clock)
    event_grid.faults.clear()
    event_grid.requests.clear()
    return event_grid


@pytest.fixture
def topics(grid: EventGrid) -> Topics:
    def make(**said: str) -> EventGridTopic:
        settings = Settings({**os.environ, "EventGrid__topicEndpointUri": grid.url, **said})
        return EventGridTopic(settings, Identity(settings))

    return make


def published(grid: EventGrid) -> list[str]:
    assert grid.topic is not None
    return [e["id"] for e in reversed(grid.topic.recent())]


@pytest.mark.parametrize("fault", [429, 500, 503, 408, "drop", "done, then drop", "done, then 503"])
def test_one_fault_changes_nothing(grid: EventGrid, topics: Topics, fault: How) -> None:
    grid.faults.append(fault)
    try:
        topics().publish([event("a"), event("b")])
    except Retry:
        topics().publish([event("a"), event("b")])
    assert not grid.faults
    assert list(dict.fromkeys(published(grid))) == ["a", "b"]


@pytest.mark.parametrize("fault", [401, 403, 429, 503, "drop"])
def test_a_fault_that_stays_asks_for_a_retry(grid: EventGrid, topics: Topics, fault: How) -> None:
    grid.faults.extend([fault] * 9)
    with pytest.raises(Retry, match="Event Grid did not take the events"):
        topics().publish([event("a")])
    grid.faults.clear()
    topics().publish([event("a")])
    assert published(grid) == ["a"]


def test_what_is_refused_says_why_and_a_topic_that_is_not_there_yet_is_a_retry(grid: EventGrid, topics: Topics) -> None:
    grid.faults.append(413)
    with pytest.raises(Refused, match="on purpose"):
        topics().publish([event("a")])
    with pytest.raises(Retry, match="not found"):
        topics(EventGrid__topicEndpointUri=grid.url.replace("/api/events", "/elsewhere")).publish([event("a")])


def test_a_key_will_do_where_no_identity_does(grid: EventGrid, topics: Topics) -> None:
    topics(EventGridKey=KEY).publish([event("a")])
    with pytest.raises(Retry):
        topics(EventGridKey="another").publish([event("b")])
    assert published(grid) == ["a"]


def test_many_events_go_in_few_requests_under_a_megabyte(grid: EventGrid, topics: Topics) -> None:
    topics().publish([event(f"{n}", data={"text": "é" * 100_000}) for n in range(12)])
    assert sorted(published(grid), key=int) == [f"{n}" for n in range(12)]
    assert 2 <= len(grid.requests) <= 12
    assert max(r["bytes"] for r in grid.requests) <= 1024 * 1024


def test_an_event_arrives_with_all_that_it_had(grid: EventGrid, topics: Topics) -> None:
    whole = event("a", time="2026-03-01T01:02:03.456Z", datacontenttype="application/json", traceparent="00-1-2-01")
    topics().publish([whole])
    assert grid.topic is not None
    [found] = grid.topic.recent()
    assert found == whole


def test_without_a_topic_the_error_names_the_setting() -> None:
    settings = Settings({})
    with pytest.raises(Misconfigured, match="EventGrid__topicEndpointUri"):
        EventGridTopic(settings, Identity(settings)).publish([event("a")])
