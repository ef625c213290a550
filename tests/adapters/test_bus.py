"""Contract of the port Bus, with its consumer's side: the semantics of Azure Service Bus."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapters.local.bus import Delivery, SqliteBus
from adapters.local.clock import SystemClock, VirtualClock
from adapters.local.database import Database
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
    assert queues.bus.pending("effects") == 0


def test_what_is_abandoned_comes_again_at_its_place_and_is_counted(queues: Any) -> None:
    queues.bus.send("effects", numbered("a", "b"))
    [a] = queues.bus.receive("effects")
    queues.bus.abandon([a])
    again = queues.bus.receive("effects", 2)
    assert [(d.id, d.count) for d in again] == [("a", 2), ("b", 1)]


def test_a_lock_expires_and_cannot_settle_afterwards(queues: Any) -> None:
    queues.bus.send("effects", numbered("a"))
    [first] = queues.bus.receive("effects")
    assert queues.bus.next_due("effects") == first.locked_until == queues.now() + 60 * SECOND
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
    assert queues.bus.pending("effects") == 1
    queues.pass_time(2 * MINUTE)
    assert queues.bus.next_due("effects") == at
    queues.pass_time(3 * MINUTE)
    assert queues.bus.pending("effects") == 2
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
    assert queues.bus.pending("runs") == 5


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
    assert oldest.died == newest.died - SECOND
    assert queues.bus.pending("telemetry") == 0
    assert ids(queues.bus.dead_letters("telemetry", 1)) == ["b"]
    assert queues.bus.dead_letters("runs") == []


def test_a_restarted_host_gets_what_the_last_one_had_locked(queues: Any) -> None:
    queues.bus.send("telemetry", numbered("a", "b"))
    [a] = queues.bus.receive("telemetry")
    bus = queues.restarted()
    [b] = bus.receive("telemetry", 9)
    bus.recover()
    [again] = bus.receive("telemetry", 9)
    assert (b.id, again.id, again.count) == ("b", "a", 2)
    assert queues.bus.complete([a]) == [a]
    assert bus.complete([b, again]) == []


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


def test_consumers_that_race_get_each_message_once_and_sessions_in_order(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db")
    buses = [SqliteBus(database, SystemClock()) for _ in range(4)]
    for n in range(40):
        buses[0].send("runs", [Message(f"{run}/{n:02}", b"", run) for run in "abcde"])
    handled: list[str] = []

    def consume(bus: SqliteBus) -> None:
        while bus.pending("runs"):
            for delivery in bus.receive("runs", 3):
                handled.append(delivery.id)
                bus.complete([delivery])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(consume, buses))
    database.close()
    assert len(handled) == len(set(handled)) == 200
    for run in "abcde":
        assert [id for id in handled if id[0] == run] == sorted(id for id in handled if id[0] == run)


class Sessions(RuleBasedStateMachine):
    """A bus beside an oracle: per session a list; its first may be out; nothing is lost, added or reordered."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.database = Database(Path(self.folder.name, "state.db"))
        self.clock = VirtualClock(self.database, datetime(2026, 1, 1, tzinfo=UTC))
        self.bus = SqliteBus(self.database, self.clock, deliveries=3)
        self.waiting: dict[str, list[str]] = {}
        self.later: list[tuple[datetime, int, str, str]] = []
        self.tries: dict[str, int] = {}
        self.out: list[Delivery] = []
        self.dead: list[str] = []
        self.sent = 0

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    @rule(session=st.sampled_from("xyz"), count=st.integers(1, 3), delay=st.integers(0, 90))
    def send(self, session: str, count: int, delay: int) -> None:
        at = self.clock.now() + delay * SECOND
        names = [f"{self.sent + n}" for n in range(count)]
        self.bus.send("deployments", [Message(name, b"", session, at) for name in names])
        for name in names:
            if delay:
                self.later.append((at, self.sent, session, name))
            else:
                self.waiting.setdefault(session, []).append(name)
            self.sent += 1

    @rule(seconds=st.integers(1, 70))
    def wait(self, seconds: int) -> None:
        now = self.clock.advance(seconds * SECOND)
        for at, n, session, name in sorted(self.later):
            if at <= now:
                self.later.remove((at, n, session, name))
                self.waiting.setdefault(session, []).append(name)
        self.out = [d for d in self.out if d.locked_until > now]

    @rule(count=st.integers(1, 4))
    def receive(self, count: int) -> None:
        locked = {delivery.session for delivery in self.out}
        for session in set(self.waiting) - locked:
            while self.waiting[session] and self.tries.get(self.waiting[session][0], 0) >= 3:
                self.dead.append(self.waiting[session].pop(0))
        ready = [self.waiting[s][0] for s in self.waiting if s not in locked and self.waiting[s]]
        got = self.bus.receive("deployments", count)
        assert len(got) == min(count, len(ready))
        assert set(ids(got)) <= set(ready)
        for delivery in got:
            self.tries[delivery.id] = self.tries.get(delivery.id, 0) + 1
            assert delivery.count == self.tries[delivery.id]
        self.out += got

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        delivery = data.draw(st.sampled_from(self.out), "delivery")
        how = data.draw(st.sampled_from(["complete", "abandon", "dead letter"]), "how")
        self.out.remove(delivery)
        if how == "abandon":
            assert self.bus.abandon([delivery]) == []
            if delivery.count < 3:
                return
        elif how == "complete":
            assert self.bus.complete([delivery]) == []
        else:
            assert self.bus.dead_letter(delivery, "test") == []
        assert self.waiting[delivery.session].pop(0) == delivery.id
        if how != "complete":
            self.dead.append(delivery.id)

    @rule()
    def restart(self) -> None:
        self.bus = SqliteBus(self.database, self.clock, deliveries=3)
        self.bus.recover()
        self.out = []

    @invariant()
    def nothing_is_lost(self) -> None:
        dead = {letter.id for letter in self.bus.dead_letters("deployments", 10_000)}
        held = sum(len(names) for names in self.waiting.values())
        assert dead <= set(self.dead)
        assert self.bus.pending("deployments") + len(dead) == held + len(self.dead)


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_speed_is_shown(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db")
    bus = SqliteBus(database, SystemClock())
    start = time.perf_counter()
    for n in range(320):
        bus.send("telemetry", [Message(f"{n}", b"x" * 1000)])
    sent = time.perf_counter()
    bus.send("telemetry", [Message(f"batch {n}", b"x" * 1000) for n in range(1280)])
    received = time.perf_counter()
    while deliveries := bus.receive("telemetry", 32):
        bus.complete(deliveries)
    done = time.perf_counter()
    database.close()
    print(f"\n{320 / (sent - start):,.0f} sends/s, {1280 / (received - sent):,.0f} messages/s sent together,", end=" ")
    print(f"{1600 / (done - received):,.0f} received and completed/s in batches of 32")
    assert done > start
