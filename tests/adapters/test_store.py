"""Contract of the port Store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from triggers.errors import Conflict, Refused
from triggers.ports import Delete, Put, Record, Store


def keys(store: Store, partition: str, prefix: str = "", after: str = "", limit: int = 0) -> list[str]:
    return [record.key for record in store.scan(partition, prefix, after, limit)]


def read(store: Store, partition: str, key: str) -> Record:
    record = store.get(partition, key)
    assert record is not None
    return record


def test_what_was_put_is_read_and_what_was_not_is_none(store: Store) -> None:
    store.commit("p", [Put("k", b"\x00value")])
    assert read(store, "p", "k").value == b"\x00value"
    assert store.get("p", "other") is None
    assert store.get("other", "k") is None


def test_a_new_row_must_be_new(store: Store) -> None:
    store.commit("p", [Put("k", b"1")])
    with pytest.raises(Conflict):
        store.commit("p", [Put("k", b"2")])
    assert read(store, "p", "k").value == b"1"


def test_a_version_holds_for_one_write(store: Store) -> None:
    store.commit("p", [Put("k", b"1")])
    first = read(store, "p", "k").version
    store.commit("p", [Put("k", b"2", first)])
    with pytest.raises(Conflict) as conflict:
        store.commit("p", [Put("k", b"3", first)])
    assert conflict.value.fields["key"] == "k"
    assert read(store, "p", "k").value == b"2"


def test_a_version_of_a_deleted_row_never_comes_back(store: Store) -> None:
    store.commit("p", [Put("k", b"1")])
    old = read(store, "p", "k").version
    store.commit("p", [Delete("k", old)])
    store.commit("p", [Put("k", b"1")])
    with pytest.raises(Conflict):
        store.commit("p", [Put("k", b"2", old)])


def test_a_star_writes_over_whatever_is_there(store: Store) -> None:
    store.commit("p", [Put("k", b"1", "*")])
    store.commit("p", [Put("k", b"2", "*")])
    assert read(store, "p", "k").value == b"2"


def test_a_delete_expects_its_version_or_nothing_at_all(store: Store) -> None:
    store.commit("p", [Put("k", b"1")])
    with pytest.raises(Conflict):
        store.commit("p", [Delete("k", "no such version")])
    store.commit("p", [Delete("k", read(store, "p", "k").version)])
    store.commit("p", [Delete("k")])
    assert store.get("p", "k") is None
    with pytest.raises(Conflict):
        store.commit("p", [Delete("k", "1")])


def test_an_update_of_what_is_gone_is_a_conflict(store: Store) -> None:
    with pytest.raises(Conflict):
        store.commit("p", [Put("k", b"1", "1")])


def test_a_commit_is_all_or_nothing(store: Store) -> None:
    store.commit("p", [Put("b", b"1")])
    with pytest.raises(Conflict):
        store.commit("p", [Put("a", b"1"), Delete("b"), Put("c", b"1", "stale")])
    assert keys(store, "p") == ["b"]
    store.commit("p", [Put("a", b"1"), Delete("b"), Put("c", b"1")])
    assert keys(store, "p") == ["a", "c"]
    store.commit("p", [])


def test_a_scan_is_sorted_and_takes_prefix_after_and_limit(store: Store) -> None:
    names = ["run/2", "run/10", "run/1", "run", "runs", "head", "run/ä", "run/\U0010ffff", "run0"]
    for name in names:
        store.commit("p", [Put(name, name.encode())])
    store.commit("q", [Put("run/3", b"")])
    assert keys(store, "p") == sorted(names)
    runs = ["run/1", "run/10", "run/2", "run/ä", "run/\U0010ffff"]
    assert keys(store, "p", "run/") == runs
    assert keys(store, "p", "run/", after="run/10") == runs[2:]
    assert keys(store, "p", "run/", after="head", limit=2) == runs[:2]
    assert keys(store, "p", "run/", after="run0") == []
    assert [record.value for record in store.scan("p", "run/1")] == [b"run/1", b"run/10"]


def test_a_scan_of_many_rows_yields_each_once(store: Store) -> None:
    wanted = [f"{n:04}" for n in range(1003)]
    for start in range(0, len(wanted), 100):
        store.commit("p", [Put(key, b"") for key in wanted[start : start + 100]])
    assert keys(store, "p") == wanted
    assert keys(store, "p", limit=450) == wanted[:450]
    assert keys(store, "p", after="0299", limit=400) == wanted[300:700]


def test_rows_may_be_changed_while_they_are_scanned(store: Store) -> None:
    store.commit("p", [Put(f"{n:02}", b"") for n in range(50)])
    for record in store.scan("p"):
        store.commit("p", [Delete(record.key)])
    assert keys(store, "p") == []


@pytest.mark.parametrize("key", ["ä/# ?%\\'\"", "\x00", "a\x00b", "..", " ", "\n", "🛩" * 100, "x" * 400])
def test_any_text_is_a_key(store: Store, key: str) -> None:
    store.commit(key, [Put(key, b"1")])
    assert keys(store, key) == [key]
    assert read(store, key, key).value == b"1"


@pytest.mark.parametrize(
    ("one", "other"), [("a", "A"), ("é", "e\u0301"), ("a", "a "), ("a/b", "a%2Fb"), ("a", "a\x00")]
)
def test_keys_that_look_alike_are_not_the_same(store: Store, one: str, other: str) -> None:
    store.commit("p", [Put(one, b"1"), Put(other, b"2")])
    store.commit(one, [Put("k", b"1")])
    store.commit(other, [Put("k", b"2")])
    assert (read(store, "p", one).value, read(store, "p", other).value) == (b"1", b"2")
    assert (read(store, one, "k").value, read(store, other, "k").value) == (b"1", b"2")


@pytest.mark.parametrize(
    "changes",
    [
        [Put("x" * 401, b"")],
        [Put("", b"")],
        [Put("\ud800", b"")],
        [Put("k", b"x" * (900 * 1024 + 1))],
        [Put(str(n), b"") for n in range(101)],
        [Put(str(n), b"x" * 900 * 1024) for n in range(4)],
        [Put("k", b"1"), Put("k", b"2")],
        [Put("k", b"1"), Delete("k")],
    ],
    ids=["key", "empty key", "surrogate", "value", "changes", "bytes", "twice", "put and delete"],
)
def test_what_exceeds_the_limits_is_refused_and_changes_nothing(store: Store, changes: list[Put | Delete]) -> None:
    with pytest.raises(Refused):
        store.commit("p", changes)
    assert keys(store, "p") == []


def test_the_limits_themselves_are_within_them(store: Store) -> None:
    store.commit("p", [Put(f"{n}", b"x" * 900 * 1024) for n in range(3)])
    store.commit("q", [Put(f"{n}", b"") for n in range(100)])
    assert len(read(store, "p", "2").value) == 900 * 1024


def test_of_writers_that_race_each_commit_counts_once(store: Store) -> None:
    store.commit("p", [Put("n", b"0")])
    start = threading.Barrier(8)

    def count(times: int) -> None:
        start.wait()
        for _ in range(times):
            while True:
                record = read(store, "p", "n")
                try:
                    store.commit("p", [Put("n", str(int(record.value) + 1).encode(), record.version)])
                    break
                except Conflict:
                    continue

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(count, 10) for _ in range(8)]:
            done.result()
    assert read(store, "p", "n").value == b"80"


def test_of_writers_that_create_one_row_one_wins(store: Store) -> None:
    start = threading.Barrier(16)

    def create(n: int) -> bool:
        start.wait()
        try:
            store.commit("p", [Put("row", str(n).encode()), Put(f"of/{n}", b"")])
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        won = [n for n, done in enumerate(threads.map(create, range(16))) if done]
    assert len(won) == 1
    assert read(store, "p", "row").value == str(won[0]).encode()
    assert keys(store, "p", "of/") == [f"of/{won[0]}"]
