"""The SQLite file under fire: killed writers, several processes, a full disk."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapters.local.database import READERS, Database
from adapters.local.store import SqliteStore
from triggers.errors import Conflict, Refused, Retry
from triggers.ports import Delete, Put

ROOT = Path(__file__).parents[2]

COMMITTER = """
import os, sys, threading
from adapters.local.database import Database
from adapters.local.store import SqliteStore
from triggers.ports import Put

store = SqliteStore(Database(sys.argv[1]))
def commit(thread):
    for n in range(1_000_000):
        store.commit("p", [Put(f"{sys.argv[2]}/{thread}/{n}/a", b"x" * 100), Put(f"{sys.argv[2]}/{thread}/{n}/b", b"")])
        os.write(1, f"{sys.argv[2]}/{thread}/{n}\\n".encode())
for thread in range(4):
    threading.Thread(target=commit, args=(thread,)).start()
"""

COUNTER = """
import sys
from adapters.local.database import Database
from adapters.local.store import SqliteStore
from triggers.errors import Conflict
from triggers.ports import Put

store = SqliteStore(Database(sys.argv[1]))
left = int(sys.argv[2])
while left:
    record = store.get("p", "n")
    try:
        store.commit("p", [Put("n", str(int(record.value) + 1).encode(), record.version)])
        left -= 1
    except Conflict:
        pass
"""


HOGGER = """
import sys, time
from adapters.local.database import Database

def hold(connection):
    connection.execute("insert or replace into rows values ('p', 'hog', 0, x'00')")
    time.sleep(0.008)

database = Database(sys.argv[1])
print("begun", flush=True)
while True:
    database.write(hold)
    time.sleep(0.0003)
"""


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_what_a_killed_process_had_acknowledged_is_stored_and_commits_are_whole(path: Path) -> None:
    acknowledged: set[str] = set()
    for life in range(2):
        with python(COMMITTER, path, life) as child:
            assert child.stdout is not None
            acknowledged.add(child.stdout.readline().strip())
            time.sleep(0.05 * (life + 1))
            child.kill()
            acknowledged.update(line.strip() for line in child.stdout if line.endswith("\n"))
    database = Database(path)
    stored = {record.key for record in SqliteStore(database).scan("p")}
    database.close()
    assert len(acknowledged) > 20
    assert {f"{name}/{part}" for name in acknowledged for part in "ab"} <= stored
    assert {key[:-2] + "/a" for key in stored} | {key[:-2] + "/b" for key in stored} == stored


def test_compare_and_swap_holds_between_processes(path: Path) -> None:
    database = Database(path)
    store = SqliteStore(database)
    store.commit("p", [Put("n", b"0")])
    children = [python(COUNTER, path, 50) for _ in range(2)]
    for child in children:
        with child:
            assert child.wait(30) == 0
    record = store.get("p", "n")
    database.close()
    assert record is not None
    assert record.value == b"100"


def test_several_may_open_a_new_file_at_once(path: Path) -> None:
    def opened(n: int) -> None:
        database = Database(path)
        SqliteStore(database).commit("p", [Put(str(n), b"")])
        database.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(opened, range(8)))
    database = Database(path)
    assert len(list(SqliteStore(database).scan("p"))) == 8
    database.close()


def test_one_conflict_fails_only_its_own_commit_of_a_group(database: Database) -> None:
    store = SqliteStore(database)
    store.commit("p", [Put("taken", b"")])
    held, release = threading.Event(), threading.Event()

    def hold(connection: sqlite3.Connection) -> None:
        held.set()
        release.wait()

    def commit(n: int) -> bool:
        try:
            store.commit("p", [Put(f"{n}", b""), Put("taken" if n % 3 == 0 else f"{n}/free", b"")])
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(10) as threads:
        leader = threads.submit(database.write, hold)
        held.wait()
        commits = [threads.submit(commit, n) for n in range(9)]
        time.sleep(0.1)
        release.set()
        leader.result()
        assert [commit.result() for commit in commits] == [n % 3 != 0 for n in range(9)]
    assert len([record for record in store.scan("p") if record.key.isdigit()]) == 6


def test_a_full_disk_asks_for_a_retry_and_the_rest_goes_on(database: Database) -> None:
    store = SqliteStore(database)
    database.write(lambda connection: connection.execute("pragma max_page_count = 100").fetchall())
    with pytest.raises(Retry, match="full") as full:
        store.commit("p", [Put(f"{n}", b"x" * 100_000) for n in range(10)])
    assert not isinstance(full.value, Conflict)
    store.commit("p", [Put("small", b"1")])
    store.commit("p", [Delete("small")])
    assert list(store.scan("p")) == []
    database.write(lambda connection: connection.execute("pragma max_page_count = 100000").fetchall())
    store.commit("p", [Put(f"{n}", b"x" * 100_000) for n in range(10)])


def test_a_locked_file_asks_for_a_retry(path: Path) -> None:
    database = Database(path, patience_s=0.05)
    store = SqliteStore(database)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(Retry, match="locked"):
        store.commit("p", [Put("k", b"")])
    assert store.get("p", "k") is None
    other.execute("rollback")
    store.commit("p", [Put("k", b"")])
    other.close()
    database.close()


def test_a_process_that_commits_again_and_again_keeps_no_other_out(path: Path) -> None:
    """SQLite's own waiting, up to 100 ms between two looks, hardly ever meets the gap: a commit then took seconds."""
    store = SqliteStore(Database(path))
    with python(HOGGER, path) as hogger:
        assert hogger.stdout is not None
        hogger.stdout.readline()
        begun = time.monotonic()
        for n in range(20):
            time.sleep(0.02)  # or the other one waits for us
            store.commit("p", [Put(str(n), b"")])
        took = time.monotonic() - begun
        hogger.kill()
    assert took < 4.0


def test_a_bug_is_no_retry_and_costs_nobody_else(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="syntax"):
        database.write(lambda connection: connection.execute("nonsense"))
    with pytest.raises(ZeroDivisionError):
        database.write(lambda connection: 1 // 0)
    assert database.write(lambda connection: connection.execute("select 1").fetchall()) == [(1,)]
    with pytest.raises(sqlite3.OperationalError):
        database.read("nonsense")


def test_a_closed_database_says_so(path: Path) -> None:
    database = Database(path)
    database.close()
    with pytest.raises(sqlite3.ProgrammingError):
        database.read("select 1")
    with pytest.raises(sqlite3.ProgrammingError):
        database.write(lambda connection: None)


def test_a_refusal_reaches_the_one_who_asked(database: Database) -> None:
    def refuse(connection: sqlite3.Connection) -> None:
        raise Refused("no")

    with pytest.raises(Refused):
        database.write(refuse)


def test_speed_is_shown_and_threads_share_the_disk(database: Database) -> None:
    store = SqliteStore(database)

    def rate(threads: int, seconds: float = 0.4) -> float:
        end = time.perf_counter() + seconds

        def commit(thread: int) -> int:
            n = 0
            while time.perf_counter() < end:
                store.commit(f"{threads}/{thread}", [Put(f"{n}", b"x" * 300)])
                n += 1
            return n

        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(commit, range(threads))) / seconds

    alone, together = rate(1), rate(8)
    print(f"\n{alone:,.0f} commits/s by one thread, {together:,.0f} by eight")
    assert min(alone, together) > 0


def test_many_who_read_at_once_leave_few_connections_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database, opened = Database(tmp_path / "state.db"), []
    monkeypatch.setattr(database, "_open", lambda: opened.append(made := Database._open(database)) or made)
    slow = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 300000) select max(i) from n"
    many = 4 * READERS
    meet = threading.Barrier(many)

    def read(_: int) -> int:
        meet.wait(30)
        [(most,)] = database.read(slow)
        return int(most)

    with ThreadPoolExecutor(many) as threads:
        assert list(threads.map(read, range(many))) == [300_000] * many
    assert len(opened) > READERS
    assert 0 < len(database._readers) <= READERS
    database.close()
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("select 1")
