"""One SQLite file, many writers: concurrent commits share one fsync."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from triggers.errors import Retry

T = TypeVar("T")

GROUP = 256
"""At most so many commits in one transaction."""

PATIENCE_S = 10.0
"""How long to wait for another process's transaction."""

READERS = 4
"""So many connections are kept for reading; where more are wanted at once, they are opened, and closed again."""

_READ_PAGES = -256
"""KiB of pages that a reader keeps: they are of no use after the next commit, and would stay."""

_LOOK_S = 0.0005
"""Between two looks whether it is over. SQLite itself waits up to 100 ms, and hardly ever meets the gap between two
transactions of a process that commits again and again."""

_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}


class Database:
    """A file that threads and processes may share.

    `write` returns when its work is in the file, for good where `durable`; the first of the writers that wait
    commits for all of them. Work that raises undoes itself alone. A full disk or a locked file raises Retry:
    the work may then be asked for again.
    """

    def __init__(self, path: Path | str, patience_s: float = PATIENCE_S) -> None:
        self._path = str(path)
        self._patience_s = patience_s
        self._readers: deque[sqlite3.Connection] = deque()
        self._waiting: deque[_Work[Any]] = deque()
        self._leader: _Work[Any] | None = None
        self._mutex = threading.Lock()  # of the two above
        self._committing = threading.Lock()
        self._closed = False
        self._durable = True
        self._writer = self._open()
        self._writer.execute("pragma busy_timeout=0")

    def define(self, script: str) -> None:
        """Create what is not there yet: statements that say `if not exists`, separated by `;`."""

        def create(connection: sqlite3.Connection) -> None:
            for statement in script.split(";"):
                connection.execute(statement)

        self.write(create)

    def write(self, work: Callable[[sqlite3.Connection], T], durable: bool = True) -> T:
        """Run `work` in a transaction. Not `durable`: it outlives this process, but maybe not a loss of power."""
        mine = _Work(work, durable)
        with self._mutex:
            self._waiting.append(mine)
            if self._leader is None:
                self._appoint()
        try:
            mine.woken.acquire()
            if not mine.done:
                self._lead()
        except BaseException:
            self._give_up(mine)
            raise
        if mine.error is not None:
            raise mine.error
        return cast(T, mine.result)

    def read(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """All rows of one statement, as they are in one moment."""
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._open()
            connection.execute(f"pragma cache_size={_READ_PAGES}")
        try:
            return connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise _translated(error) from error
        finally:
            self._readers.append(connection)
            self._close_readers(0 if self._closed else READERS)

    def close(self) -> None:
        with self._committing:
            self._closed = True
            self._close_readers(0)
            self._writer.close()

    def _close_readers(self, beyond: int) -> None:
        while len(self._readers) > beyond:
            with suppress(IndexError):  # another thread's
                self._readers.popleft().close()

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise sqlite3.ProgrammingError("the database is closed")
        try:
            connection = sqlite3.connect(
                self._path, timeout=self._patience_s, isolation_level=None, check_same_thread=False
            )
            self._use_wal(connection)
            for setting in ("synchronous=FULL", "fullfsync=ON", "checkpoint_fullfsync=ON"):
                connection.execute(f"pragma {setting}")
        except sqlite3.Error as error:
            raise _translated(error) from error
        return connection

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """SQLite does not wait for other openers here, so that this does."""
        end = time.monotonic() + self._patience_s
        while True:
            try:
                connection.execute("pragma journal_mode=WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def _appoint(self) -> None:
        """Whoever waits longest commits next."""
        self._leader = self._waiting[0] if self._waiting else None
        if self._leader is not None:
            self._leader.woken.release()

    def _give_up(self, work: _Work[Any]) -> None:
        """Interrupted: nobody waits for this work any more, and it may have been done."""
        with self._mutex:
            if work in self._waiting:
                self._waiting.remove(work)
            if self._leader is work:
                self._appoint()

    def _lead(self) -> None:
        """Commit what waits, for all; then let the next one lead."""
        group: list[_Work[Any]] = []
        try:
            with self._committing:
                with self._mutex:
                    while self._waiting and len(group) < GROUP:
                        group.append(self._waiting.popleft())
                self._transact(group)
        except sqlite3.Error as error:
            for work in group:
                work.error = _translated(error)
        except BaseException:
            for work in group:
                work.error = Retry("the commit was interrupted; it may have been done")
            raise
        finally:
            for work in group:
                work.done = True
                if work is not self._leader:
                    work.woken.release()
            with self._mutex:
                self._appoint()

    def _transact(self, group: Sequence[_Work[Any]]) -> None:
        durable = any(work.durable for work in group)
        if durable is not self._durable:
            self._writer.execute(f"pragma synchronous={'FULL' if durable else 'NORMAL'}")
            self._durable = durable
        self._begin()
        try:
            for work in group:
                work.run(self._writer)
            self._writer.execute("commit")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("rollback")
            raise

    def _begin(self) -> None:
        end = time.monotonic() + self._patience_s
        while True:
            try:
                self._writer.execute("begin immediate")
                return
            except sqlite3.OperationalError as busy:
                if busy.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
            time.sleep(_LOOK_S)


class _Work(Generic[T]):
    """One writer's part of a transaction."""

    __slots__ = ("_work", "done", "durable", "error", "result", "woken")

    def __init__(self, work: Callable[[sqlite3.Connection], T], durable: bool) -> None:
        self._work = work
        self.durable = durable
        self.result: T | None = None
        self.error: Exception | None = None
        self.done = False
        self.woken = threading.Lock()  # released when it is done, or its turn to lead
        self.woken.acquire()

    def run(self, connection: sqlite3.Connection) -> None:
        connection.execute("savepoint work")
        try:
            self.result = self._work(connection)
        except Exception as error:
            if not connection.in_transaction:
                raise  # SQLite has given up the whole transaction
            connection.execute("rollback to work")
            self.error = _translated(error) if isinstance(error, sqlite3.Error) else error
        connection.execute("release work")


def _translated(error: sqlite3.Error) -> Exception:
    """Retry where the same may succeed later; anything else is a bug and stays what it is."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _PASSING:
        return Retry(f"the database is not available: {error}", code=code)
    return error
