"""The Store on SQLite: rows in partitions, compare and swap, durable when a commit returns."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import partial

from adapters.limits import check_commit, check_name
from adapters.local.database import Database
from triggers.errors import Conflict
from triggers.ports import Delete, Put, Record

_PAGE = 200
_TABLES = """
create table if not exists rows (
    partition text not null, key text not null, value blob not null, version integer not null,
    primary key (partition, key)
) without rowid;
create table if not exists counters (name text primary key, value integer not null) without rowid;
insert into counters values ('version', 0) on conflict do nothing
"""


class SqliteStore:
    """Port Store. Versions come from one counter of the file: no two commits share one, also after a delete."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.define(_TABLES)

    def get(self, partition: str, key: str) -> Record | None:
        check_name(partition)
        check_name(key)
        rows = self._database.read("select value, version from rows where partition = ? and key = ?", (partition, key))
        return Record(key, rows[0][0], str(rows[0][1])) if rows else None

    def scan(self, partition: str, prefix: str = "", after: str = "", limit: int = 0) -> Iterator[Record]:
        """Read in pages: a commit between two pages may be seen in part."""
        for name in (partition, prefix, after):
            check_name(name)
        return self._scan(partition, prefix, after, limit)

    def _scan(self, partition: str, prefix: str, after: str, limit: int) -> Iterator[Record]:
        end = prefix.encode() + b"\xff"  # above whatever is UTF-8
        order, left = (">", after) if after >= prefix else (">=", prefix)
        wanted = limit or -1
        while wanted:
            page = min(_PAGE, wanted) if limit else _PAGE
            rows = self._database.read(
                f"select key, value, version from rows where partition = ? and key {order} ?"  # noqa: S608
                " and key < cast(? as text) order by key limit ?",
                (partition, left, end, page),
            )
            for key, value, version in rows:
                yield Record(key, value, str(version))
            if len(rows) < page:
                return
            order, left = ">", rows[-1][0]
            wanted -= page if limit else 0

    def commit(self, partition: str, changes: Sequence[Put | Delete]) -> None:
        check_commit(partition, changes)
        if changes:
            self._database.write(partial(_apply, partition, changes))


def _apply(partition: str, changes: Sequence[Put | Delete], connection: sqlite3.Connection) -> None:
    [(version,)] = connection.execute(
        "update counters set value = value + 1 where name = 'version' returning value"
    ).fetchall()
    for change in changes:
        done = (
            _put(connection, partition, change, version)
            if isinstance(change, Put)
            else _delete(connection, partition, change)
        )
        if not done:
            raise Conflict(
                f"somebody else wrote {change.key!r} first", partition=partition, key=change.key, expect=change.expect
            )


def _put(connection: sqlite3.Connection, partition: str, put: Put, version: int) -> bool:
    if put.expect is None or put.expect == "*":
        instead = (
            "do nothing" if put.expect is None else "do update set value = excluded.value, version = excluded.version"
        )
        cursor = connection.execute(
            f"insert into rows values (?, ?, ?, ?) on conflict (partition, key) {instead}",  # noqa: S608
            (partition, put.key, put.value, version),
        )
    else:
        cursor = connection.execute(
            "update rows set value = ?, version = ? where partition = ? and key = ? and version = ?",
            (put.value, version, partition, put.key, put.expect),
        )
    return cursor.rowcount == 1


def _delete(connection: sqlite3.Connection, partition: str, delete: Delete) -> bool:
    if delete.expect == "*":
        connection.execute("delete from rows where partition = ? and key = ?", (partition, delete.key))
        return True
    cursor = connection.execute(
        "delete from rows where partition = ? and key = ? and version = ?", (partition, delete.key, delete.expect)
    )
    return cursor.rowcount == 1
