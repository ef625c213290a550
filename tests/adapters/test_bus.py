"""Contract of the port Bus, with the consumer's side of its queues: the semantics of Azure Service Bus."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from triggers.errors import Refused
from triggers.ports import Message

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def ids(deliveries: Sequence[Any]) -> list[str]:
    return [delivery.id for delivery in deliveries]


def numbered(*ids: str, session: str = "") -> list[Message]:
    return [Message(id, id.encode(), session) for id in ids]


def test_a_message_arrives_as_it_was_sent(queues: Any) -> None:
    queues.bus.send("runs", [Message("m1", b"\x00body", "run-1", properties={"kind": "tést"})])
    [delivery] = queues.bus.receive("runs")
    assert (delivery.id, delivery.body, delivery.session) == ("m1", b"\x00body", "run-1")
    assert delivery.properties == {"kind": "tést"}
    assert (delivery.count, delivery.sent, delivery.queue) == (1, queues.now(), "runs")


def test_messages_arrive_in_order_at_most_so_many_at_once(queues: Any) -> None:
    queues.bus.send("telemetry", numbered("a", "b", "c"))
    queues.bus.send("telemetry", numbered("d"))
    assert ids(queues.bus.receive("telemetry", 3)) == ["a", "b", "c"]
    assert ids(queues.bus.receive("telemetry", 3)) == ["d"]
    assert queues.bus.receive("telemetry", 3) == []
    assert queues.bus.receive("effects", 3) == []


def test_what_is_completed_never_comes_again(queues: Any) -> None:
    queues.bus.send("effects", numbered("a", "b"))
    assert queues.bus.complete(queues.bus.receive("effects", 2)) == []
    queues.pass_time(MINUTE)
    assert queues.bus.receive("effects", 2) == []


def test_what_is_abandoned_comes_again_at_its_place_and_is_counted(queues: Any) -> None:
    queues.bus.send("effects", numbered("a", "b"))
    [a] = queues.bus.receive("effects")
    queues.bus.abandon([a])
    again = queues.bus.receive("effects", 2)
    assert [(d.id, d.count) for d in again] == [("a", 2), ("b", 1)]


def test_a_lock_expires_and_cannot_settle_afterwards(queues: Any) -> None:
    queues.bus.send("effects", numbered("a"))
    [first] = queues.bus.receive("effects")
    assert first.locked_until == queues.now() + 60 * SECOND
    queues.pass_time(59 * SECOND)
    assert queues.bus.receive("effects") == []
    queues.pass_time(SECOND)
    assert queues.bus.complete([first]) == [first]
    [second] = queues.bus.receive("effects")
    assert (second.id, second.count) == ("a", 2)
    for settle in (queues.bus.complete, queues.bus.abandon, queues.bus.renew):
        assert settle([first]) == [first]
    assert queues.bus.dead_letter(first, "no") == [first]
    assert queues.bus.complete([second]) == []
    assert queues.bus.complete([second]) == [second]


def test_a_lost_lock_does_not_keep_its_neighbours_from_being_settled(queues: Any) -> None:
    queues.bus.send("effects", numbered("a", "b"))
    a, b = queues.bus.receive("effects", 2)
    queues.bus.abandon([a])
    assert queues.bus.complete([a, b]) == [a]
    assert ids(queues.bus.receive("effects", 2)) == ["a"]


def test_a_renewed_lock_holds_on(queues: Any) -> None:
    queues.bus.send("effects", numbered("a"))
    deliveries = queues.bus.receive("effects")
    queues.pass_time(50 * SECOND)
    assert queues.bus.renew(deliveries) == []
    queues.pass_time(50 * SECOND)
    assert queues.bus.receive("effects") == []
    assert queues.bus.complete(deliveries) == []


def test_one_id_within_the_window_arrives_once(queues: Any) -> None:
    queues.bus.send("telemetry", numbered("a", "a"))
    queues.bus.complete(queues.bus.receive("telemetry", 9))
    queues.pass_time(9 * MINUTE)
    queues.bus.send("telemetry", numbered("a", "b"))
    queues.bus.send("effects", numbered("a"))
    assert ids(queues.bus.receive("telemetry", 9)) == ["b"]
    assert ids(queues.bus.receive("effects", 9)) == ["a"]
    queues.pass_time(MINUTE)
    queues.bus.send("telemetry", numbered("a"))
    assert ids(queues.bus.receive("telemetry", 9)) == ["b", "a"]


def test_a_scheduled_message_waits_for_its_time(queues: Any) -> None:
    at = queues.now() + 5 * MINUTE
    queues.bus.send("effects", [Message("later", b"", at=at), Message("now", b"", at=queues.now() - MINUTE)])
    assert ids(queues.bus.receive("effects", 9)) == ["now"]
    queues.pass_time(5 * MINUTE)
    assert ids(queues.bus.receive("effects", 9)) == ["now", "later"]


def test_scheduled_messages_are_queued_when_due_before_what_is_sent_later(queues: Any) -> None:
    start = queues.now()
    queues.bus.send("runs", [Message("20", b"", "r", at=start + 20 * SECOND)])
    queues.bus.send("runs", [Message("10", b"", "r", at=start + 10 * SECOND)])
    queues.bus.send("runs", numbered("0", session="r"))
    queues.pass_time(15 * SECOND)
    queues.bus.send("runs", numbered("15", session="r"))
    queues.pass_time(15 * SECOND)
    assert drained(queues.bus, "runs") == ["0", "10", "15", "20"]


def drained(bus: Any, queue: str) -> list[str]:
    order = []
    while deliveries := bus.receive(queue, 4):
        order += ids(deliveries)
        bus.complete(deliveries)
    return order


def test_a_session_has_one_message_out_at_a_time_and_in_order(queues: Any) -> None:
    for n in range(3):
        queues.bus.send("runs", [Message(f"{run}{n}", b"", run) for run in ("x", "y")])
    first = queues.bus.receive("runs", 9)
    assert ids(first) == ["x0", "y0"]
    assert queues.bus.receive("runs", 9) == []
    queues.bus.complete(first[:1])
    assert ids(queues.bus.receive("runs", 9)) == ["x1"]
    queues.bus.abandon(first[1:])
    assert ids(queues.bus.receive("runs", 9)) == ["y0"]


def test_a_message_that_nobody_can_handle_ends_as_a_dead_letter_and_its_session_goes_on(queues: Any) -> None:
    queues.bus.send("runs", numbered("poison", "next", session="r"))
    for attempt in range(1, 11):
        [delivery] = queues.bus.receive("runs")
        assert (delivery.id, delivery.count) == ("poison", attempt)
        queues.bus.abandon([delivery])
    assert ids(queues.bus.receive("runs")) == ["next"]
    [dead] = queues.bus.dead_letters("runs")
    assert (dead.id, dead.body, dead.session, dead.count) == ("poison", b"poison", "r", 10)
    assert dead.reason == "MaxDeliveryCountExceeded"


def test_a_message_that_kills_its_consumer_ends_as_a_dead_letter_too(queues: Any) -> None:
    queues.bus.send("telemetry", numbered("poison", "fine"))
    for _ in range(10):
        assert ids(queues.bus.receive("telemetry")) == ["poison"]
        queues.pass_time(MINUTE)
    assert ids(queues.bus.receive("telemetry")) == ["fine"]
    assert ids(queues.bus.dead_letters("telemetry")) == ["poison"]


def test_a_dead_letter_says_why_and_keeps_the_message(queues: Any) -> None:
    queues.bus.send("telemetry", [Message("a", b"?", properties={"p": "1"}), *numbered("b")])
    a, b = queues.bus.receive("telemetry", 2)
    queues.bus.dead_letter(a, "Unreadable", "not JSON")
    queues.pass_time(SECOND)
    queues.bus.dead_letter(b, "Unreadable")
    newest, oldest = queues.bus.dead_letters("telemetry")
    assert (newest.id, oldest.id) == ("b", "a")
    assert (oldest.body, oldest.properties, oldest.reason, oldest.description) == (
        b"?",
        {"p": "1"},
        "Unreadable",
        "not JSON",
    )
    assert ids(queues.bus.dead_letters("telemetry", 1)) == ["b"]
    assert queues.bus.dead_letters("runs") == []


@pytest.mark.parametrize(
    ("queue", "message"),
    [
        ("nowhere", Message("a", b"")),
        ("runs", Message("a", b"")),
        ("telemetry", Message("", b"")),
        ("telemetry", Message("x" * 129, b"")),
        ("telemetry", Message("\ud800", b"")),
        ("runs", Message("a", b"", "x" * 129)),
        ("telemetry", Message("a", b"x" * (1024 * 1024 + 1))),
    ],
    ids=["queue", "no session", "no id", "long id", "surrogate", "long session", "large"],
)
def test_what_no_queue_could_hold_is_refused_whole(queues: Any, queue: str, message: Message) -> None:
    with pytest.raises(Refused):
        queues.bus.send(queue, [Message("fine", b"", "s"), message])
    assert queues.bus.receive("telemetry") == queues.bus.receive("runs") == []


def test_a_message_as_large_as_a_batch_may_be_arrives_whole(queues: Any) -> None:
    body = bytes(range(256)) * 4096
    queues.bus.send("telemetry", [*numbered("a"), Message("large", body), *numbered("b")])
    found = queues.received("telemetry", 3)
    assert found == {"a": b"a", "large": body, "b": b"b"}


def test_what_is_too_much_for_one_transfer_arrives_in_order(queues: Any) -> None:
    queues.bus.send("runs", [Message(f"{n}", b"x" * 100_000, "r") for n in range(7)])
    assert drained(queues.bus, "runs") == list("0123456")
