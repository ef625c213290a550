"""The SQLite bus: what it has beyond the contract, under races, and against an oracle."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapters.local.bus import VANISHED, Delivery, SqliteBus
from adapters.local.clock import SystemClock, VirtualClock
from adapters.local.database import Database
from tests.adapters.test_bus import MINUTE, SECOND, ids, numbered
from triggers.ports import Message


@pytest.fixture
def bus(database: Database, clock: VirtualClock) -> SqliteBus:
    return SqliteBus(database, clock)


def test_it_is_known_what_is_pending_and_when_the_next_is_due(bus: SqliteBus, clock: VirtualClock) -> None:
    at = clock.now() + 5 * MINUTE
    bus.send("effects", [Message("later", b"", at=at), *numbered("now")])
    assert bus.pending("effects") == 1
    assert bus.next_due("effects") == at
    [now] = bus.receive("effects", 9)
    assert bus.next_due("effects") == now.locked_until
    clock.advance(5 * MINUTE)
    assert bus.pending("effects") == 2
    bus.complete(bus.receive("effects", 9))
    assert bus.pending("effects") == 0


def test_a_dead_letter_says_when_it_died(bus: SqliteBus, clock: VirtualClock) -> None:
    bus.send("telemetry", numbered("a", "b"))
    for delivery in bus.receive("telemetry", 2):
        bus.dead_letter(delivery, "Unreadable")
        clock.advance(SECOND)
    newest, oldest = bus.dead_letters("telemetry")
    assert oldest.died == newest.died - SECOND
    assert bus.pending("telemetry") == 0


def test_a_restarted_host_gets_what_the_last_one_had_locked(
    bus: SqliteBus, database: Database, clock: VirtualClock
) -> None:
    bus.send("telemetry", numbered("a", "b"))
    [a] = bus.receive("telemetry")
    restarted = SqliteBus(database, clock)
    [b] = restarted.receive("telemetry", 9)
    restarted.recover()
    [again] = restarted.receive("telemetry", 9)
    assert (b.id, again.id, again.count) == ("b", "a", 1)
    assert bus.complete([a]) == [a]
    assert restarted.complete([b, again]) == []


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
        self.in_hand: set[str] = set()
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
                self.in_hand.discard(self.dead[-1])
        ready = [self.waiting[s][0] for s in self.waiting if s not in locked and self.waiting[s]]
        got = self.bus.receive("deployments", count)
        assert len(got) == min(count, len(ready))
        assert set(ids(got)) <= set(ready)
        for delivery in got:
            self.tries[delivery.id] = self.tries.get(delivery.id, 0) + 1
            assert delivery.count == self.tries[delivery.id]
        self.out += got
        self.in_hand |= set(ids(got))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        delivery = data.draw(st.sampled_from(self.out), "delivery")
        how = data.draw(st.sampled_from(["complete", "abandon", "dead letter"]), "how")
        self.out.remove(delivery)
        self.in_hand.discard(delivery.id)
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
        for name in self.in_hand:  # a host that vanished is not held against what it had in hand, however long ago
            self.tries[name] -= 1
        self.out, self.in_hand = [], set()

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


def test_a_host_that_vanishes_is_not_held_against_what_it_had_in_hand_for_long(
    database: Database, clock: VirtualClock
) -> None:
    """Ten failed tries make a dead letter; being killed is no try, up to a hundred times."""
    SqliteBus(database, clock).send("effects", [Message("m", b"")])
    for _ in range(VANISHED):
        host = SqliteBus(database, clock)
        host.recover()
        assert [d.count for d in host.receive("effects")] == [1]
    crashes = 0
    while not SqliteBus(database, clock).dead_letters("effects"):
        host, crashes = SqliteBus(database, clock), crashes + 1
        host.recover()
        host.receive("effects")
    assert 9 <= crashes <= 11


def test_a_queue_of_an_older_version_is_taken_over(tmp_path: Path, clock: VirtualClock) -> None:
    """The column that counts vanished hosts came later."""
    file = Database(tmp_path / "old.db")
    SqliteBus(file, clock).send("effects", [Message("m", b"kept")])
    file.define("alter table messages drop column vanished")
    again = SqliteBus(file, clock)
    again.recover()
    assert [d.body for d in again.receive("effects")] == [b"kept"]
    file.close()
