"""Faults happen as told, again and again the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from adapters.faults import SKEW, SPELL, TIMEOUT, Crash, Fault, Faults, faulty, faulty_ports
from adapters.local.bus import SqliteBus
from adapters.local.clock import VirtualClock
from adapters.local.database import Database
from adapters.local.profile import Local
from adapters.local.store import SqliteStore
from adapters.local.topic import SqliteTopic
from triggers.errors import Conflict, Retry
from triggers.ports import Change, Delete, Message, Put, Queue


@pytest.fixture
def store(database: Database) -> SqliteStore:
    return SqliteStore(database)


@pytest.mark.parametrize(
    ("fault", "error", "done"),
    [
        ("before", Retry, False),
        ("after", Retry, True),
        ("crash before", Crash, False),
        ("crash after", Crash, True),
    ],
)
def test_a_planned_fault_hits_its_call(store: SqliteStore, fault: Fault, error: type, done: bool) -> None:
    port = faulty(store, Faults(plan={1: fault}))
    port.commit("p", [Put("a", b"")])
    with pytest.raises(error, match=f"call 1, SqliteStore.commit: {fault}"):
        port.commit("p", [Put("b", b"")])
    port.commit("p", [Put("c", b"")])
    assert [record.key for record in store.scan("p")] == (["a", "b", "c"] if done else ["a", "c"])


def test_what_is_done_twice_answers_as_a_retry_of_the_client_would(store: SqliteStore) -> None:
    port = faulty(store, Faults(plan={0: "duplicate", 1: "duplicate"}))
    with pytest.raises(Conflict):
        port.commit("p", [Put("a", b"")])
    port.commit("p", [Delete("a")])
    assert store.get("p", "a") is None


def test_a_hang_takes_its_time_and_leaves_open_whether_it_was_done(store: SqliteStore, clock: VirtualClock) -> None:
    start = clock.now()
    faults = Faults(plan=dict.fromkeys(range(20), "hang"), clock=clock)
    for n in range(20):
        with pytest.raises(Retry):
            faulty(store, faults).commit("p", [Put(f"{n}", b"")])
    assert clock.now() == start + 20 * TIMEOUT
    assert 0 < len(list(store.scan("p"))) < 20


def test_a_delayed_message_arrives_later_and_any_other_call_takes_longer(
    store: SqliteStore, database: Database, clock: VirtualClock
) -> None:
    bus = SqliteBus(database, clock)
    faults = Faults(plan={0: "delay", 1: "delay"}, clock=clock)
    faulty(bus, faults).send("effects", [Message("m", b"")])
    assert bus.receive("effects") == []
    start = clock.now()
    assert faulty(store, faults).get("p", "k") is None
    assert start < clock.now() < start + 2 * TIMEOUT
    clock.advance(2 * TIMEOUT)
    assert [delivery.id for delivery in bus.receive("effects")] == ["m"]


def test_order_is_lost_where_the_world_does_not_keep_it(
    store: SqliteStore, database: Database, clock: VirtualClock
) -> None:
    topic = SqliteTopic(database, clock)
    topic.subscribe("s")
    names = [f"{n}" for n in range(10)]
    events = [{"specversion": "1.0", "id": name, "source": "/s", "type": "t"} for name in names]
    faults = Faults(chances={"reorder": 1.0})
    faulty(topic, faults).publish(events)
    published = [handout.event["id"] for handout in topic.pending("s")]
    pending = [handout.event["id"] for handout in faulty(topic, faults).pending("s")]
    assert sorted(published) == sorted(pending) == names
    assert len({tuple(names), tuple(published), tuple(pending)}) == 3
    faulty(store, faults).commit("p", [Put(name, b"") for name in names])
    assert [record.key for record in faulty(store, faults).scan("p")] == names
    assert [call.fault for call in faults.calls] == ["reorder", "reorder", None, None]


def test_a_full_store_takes_no_writes_for_a_while_and_is_read_meanwhile(store: SqliteStore) -> None:
    faults = Faults(seed=3, plan={1: "full"})
    port = faulty(store, faults)
    port.commit("p", [Put("a", b"")])
    refused = 0
    while store.get("p", "b") is None:
        with suppress(Retry):
            port.commit("p", [Put("b", b"")])
        refused += store.get("p", "b") is None
        assert port.get("p", "a")
    assert 1 < refused <= SPELL
    assert [call.fault for call in faults.calls if call.method == "get"] == [None] * (refused + 1)


def test_a_store_that_is_full_says_what_a_full_disk_says(tmp_path: Path) -> None:
    """The fault is the one that the adapter makes of SQLite's own: Retry, which HTTP answers with 503."""
    database = Database(tmp_path / "state.db")
    store = SqliteStore(database)
    store.commit("p", [Put("a", b"")])
    pages = database.read("pragma page_count")[0][0]
    database.write(lambda connection: connection.execute(f"pragma max_page_count = {pages}").fetchall())
    for full in (store, faulty(store, Faults(plan={0: "full"}))):
        with pytest.raises(Retry):
            full.commit("p", [Put("b", bytes(100_000))])
        assert store.get("p", "b") is None
    database.close()


def test_a_slow_store_takes_its_time_for_some_calls(store: SqliteStore, clock: VirtualClock) -> None:
    faults, times = Faults(seed=3, plan={0: "slow"}, clock=clock), [clock.now()]
    for n in range(SPELL + 1):
        faulty(store, faults).commit("p", [Put(f"{n}", b"")])
        times.append(clock.now())
    slow = [later > earlier for earlier, later in pairwise(times)]
    assert slow == [True] * sum(slow) + [False] * (len(slow) - sum(slow))
    assert 1 < sum(slow) <= SPELL
    assert len(list(store.scan("p"))) == SPELL + 1


@pytest.mark.parametrize("queue", ["effects", "runs"])
def test_who_has_lost_a_lock_has_the_message_beside_another_and_cannot_settle_it(
    database: Database, clock: VirtualClock, queue: Queue
) -> None:
    bus = SqliteBus(database, clock)
    bus.send(queue, [Message("m", b"", session="s" if queue == "runs" else "")])
    port = faulty(bus, Faults(plan={0: "lost"}))
    first, second = port.receive(queue), port.receive(queue)
    assert [d.id for d in first] == [d.id for d in second] == ["m"]
    assert port.complete(first) == port.renew(first) == port.abandon(first) == first
    assert port.complete(second) == []
    assert bus.pending(queue) == 0


def test_a_lock_that_another_has_taken_is_not_revived_by_a_clock_that_goes_back(database: Database) -> None:
    clock = VirtualClock(database, NOW)
    faults = Faults()
    bus = SqliteBus(database, faulty(clock, faults), lock=timedelta(seconds=60))
    bus.send("effects", [Message("m", b"")])
    first = bus.receive("effects")
    faults._skew = timedelta(seconds=61)
    second = bus.receive("effects")
    faults._skew = -timedelta(seconds=61)
    assert bus.complete(first) == bus.renew(first) == first
    assert bus.receive("effects") == []
    assert bus.complete(second) == []


def test_a_clock_jumps_there_and_back_by_its_seed_and_no_call_of_another_port_makes_it(clock: VirtualClock) -> None:
    def told(seed: int) -> list[datetime]:
        faults = Faults(seed, {"jump": 0.3, "before": 0.7})
        return [faulty(clock, faults).now() for _ in range(50)]

    times = told(1)
    assert times == told(1) != told(2)
    steps = [later - earlier for earlier, later in pairwise(times)]
    assert min(steps) < timedelta(0) < max(steps)
    assert timedelta(0) in steps
    assert max(abs(time - clock.now()) for time in times) <= SKEW
    faults = Faults(chances={"jump": 1.0})
    jumpy = faulty(clock, faults)
    assert jumpy.now() != clock.now()
    faults.stop()
    assert jumpy.now() == clock.now()


CHANCES: dict[Fault, float] = {"before": 0.2, "after": 0.2, "hang": 0.1, "duplicate": 0.1}


def history(folder: Path, seed: int) -> tuple[str, list[str]]:
    folder.mkdir()
    database = Database(folder / "state.db")
    faults = Faults(seed, CHANCES)
    store = faulty(SqliteStore(database), faults)
    for n in range(60):
        try:
            store.commit("p", [Put(f"{n}", b"")])
        except Retry:
            continue
    faults.stop()
    keys = [record.key for record in store.scan("p")]
    database.close()
    return str(faults), keys


def test_one_seed_has_one_history(tmp_path: Path) -> None:
    first, again, other = (history(tmp_path / name, seed) for name, seed in (("a", 7), ("b", 7), ("c", 8)))
    assert first == again != other
    lines = first[0].splitlines()
    assert lines[0].startswith("    0 SqliteStore.commit('p', [0])")
    assert len([line for line in lines if "<-" in line]) in range(20, 50)
    assert lines[-1] == "   60 SqliteStore.scan('p')"


NOW = datetime(2026, 3, 1, tzinfo=UTC)
CHANGE = Change(
    id="1",
    loop="l",
    site="s",
    run="r",
    wave=0,
    candidate="c",
    action="deploy",
    fence=2,
    at=datetime(2026, 3, 1, tzinfo=UTC),
)


def test_every_port_that_does_something_can_fail_and_no_other(tmp_path: Path) -> None:
    local = Local(tmp_path)
    faults = Faults(chances={"before": 1.0})
    ports = faulty_ports(local.ports, faults)
    attempts: list[Callable[[], Any]] = [
        lambda: ports.store.get("p", "k"),
        lambda: ports.blobs.get("b"),
        lambda: ports.bus.send("effects", []),
        lambda: ports.topic.publish([]),
        lambda: ports.jobs.status("j"),
        lambda: ports.executor.apply(CHANGE),
        lambda: ports.notifier.tell({}),
    ]
    for attempt in attempts:
        with pytest.raises(Retry):
            attempt()
    assert ports.clock is local.clock
    assert ports.configs is local.ports.configs
    some = faulty_ports(local.ports, faults, only=["blobs"])
    assert some.store is local.store
    assert [call.port for call in faults.calls] == [
        "store", "blobs", "bus", "topic", "jobs", "executor", "notifier",
    ]  # fmt: skip
    local.close()


def test_after_each_possible_crash_a_restart_ends_as_if_there_had_been_none(tmp_path: Path) -> None:
    """A little outbox, the way the loop does it, crashed before and after each call, and again while it recovers."""
    calls = len(outbox(tmp_path / "whole", Faults()).calls)
    assert calls > 5
    for first in range(calls):
        for when in ("crash before", "crash after"):
            for second in (first + 1, first + 3):
                outbox(tmp_path / f"{first}{when}{second}", Faults(plan={first: when, second: when}))


def outbox(folder: Path, faults: Faults) -> Faults:
    folder.mkdir()
    database = Database(folder / "state.db")
    clock = VirtualClock(database, datetime(2026, 3, 1, tzinfo=UTC))
    for life in range(4):
        store, bus = SqliteStore(database), SqliteBus(database, clock)
        bus.recover()
        try:
            work(faulty(store, faults), faulty(bus, faults))
        except Crash:
            assert life < 3
        else:
            break
    [effect] = bus.receive("effects", 9)
    assert effect.id == "run/1"
    assert list(store.scan("p", "outbox/")) == []
    assert store.get("p", "done") is not None
    database.close()
    return faults


def work(store: Any, bus: Any) -> None:
    if store.get("p", "run") is None:
        store.commit("p", [Put("run", b"1"), Put("outbox/1", b"effect")])
    for record in list(store.scan("p", "outbox/")):
        bus.send("effects", [Message("run/1", record.value)])
        store.commit("p", [Delete(record.key)])
    if store.get("p", "done") is None:
        store.commit("p", [Put("done", b"", "*")])


def test_a_fault_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no such"):
        Faults(plan={0: "explode"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="more than 1"):
        Faults(chances={"before": 0.6, "after": 0.6})
