"""What a site must not forget, in one SQLite file: each change is whole, and survives a crash at any moment."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edge.errors import Refused, Unreachable

_TABLES = """
create table if not exists facts (name text primary key, value blob not null);
create table if not exists outbox (seq integer primary key autoincrement, batch text unique not null,
    body blob not null, held integer not null default 0, refused text);
create table if not exists served (seq integer primary key autoincrement, candidate text not null, row blob not null);
create table if not exists requests (seq integer primary key autoincrement, candidate text not null,
    rows integer not null, errors integer not null, ms real not null);
create table if not exists predictions (number integer primary key, candidate text not null, start integer not null,
    body blob not null);
"""


class State:
    """One process at a time: a second one that opens the same folder is Refused."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._closed = False
        self._db = sqlite3.connect(folder / "site.db", timeout=2, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("pragma locking_mode = exclusive")
            self._db.execute("pragma journal_mode = wal")
            self._db.executescript(_TABLES)
        except sqlite3.OperationalError as error:
            self._db.close()
            raise Refused(f"{folder} is in use by another process, or cannot be written: {error}") from error

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._db.close()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise Unreachable("the site is shutting down")
            yield self._db

    @contextmanager
    def change(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction. `durable`: on the disk when it ends; otherwise a loss of power may undo the last ones."""
        with self._open() as db:
            if db.in_transaction:  # part of the one around it
                yield db
                return
            db.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                db.execute("rollback")
                raise

    def all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._open() as db:
            return db.execute(query, values).fetchall()

    def one(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        found = self.all(query, *values)
        return found[0] if found else None

    def get(self, name: str, default: Any = None) -> Any:
        found = self.one("select value from facts where name = ?", name)
        return default if found is None else msgspec.json.decode(found[0])

    def put(self, **facts: Any) -> None:
        with self.change() as db:
            for name, value in facts.items():
                db.execute("insert or replace into facts values (?, ?)", (name, msgspec.json.encode(value)))


def write_file(path: Path, data: bytes) -> None:
    """The file whole and on the disk, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.unfinished")
    try:
        unfinished.write_bytes(data)
        settle(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def settle(unfinished: Path, path: Path) -> None:
    """A file that is whole by now, on the disk under its name."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
