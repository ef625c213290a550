"""The Store on Table storage: a row is an entity; a commit is one transaction of its partition."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any
from uuid import uuid4

from adapters.azure.errors import code_of, named
from adapters.azure.identity import Identity
from adapters.azure.settings import Settings
from adapters.limits import check_commit, check_name
from triggers.errors import Conflict, Retry
from triggers.ports import Delete, Put, Record

PIECE = 64 * 1024
"""Bytes of a property; a value has up to 15."""

KEY, OPERATION, VALUE = "key", "operation", "v"
"""Properties: the key itself, the commit that wrote the row, the value's pieces (v00, v01, ...)."""

WAITS_S = (0.2, 0.8, 2.0)
PATIENCE: Mapping[str, Any] = {
    "retry_total": 3,
    "retry_backoff_factor": 0.3,
    "connection_timeout": 5,
    "read_timeout": 20,
}
_ROW_CHARACTERS = 512
_CUT = 440
_LEADS = ((",", "!"), ("/", "."), ("@", ":"), ("`", "_"), ("\xff", "~"))


def escape(text: str) -> str:
    """Characters that Table storage takes in a key, no two texts alike, sorted as the code points of `text` are.

    Letters, digits and hyphens stay what they are; any other byte of UTF-8 is its hexadecimal digits behind a mark
    that sorts where the byte does.

    >>> escape("run/flights-1"), escape("ä")
    ('run.2fflights-1', '~c3~a4')
    >>> names = ["", "a", "a/", "a/b", "a-b", "a0", "A", "_", "~", "\\x00", "ä", "\\uffff", "🛩"]
    >>> sorted(names, key=escape) == sorted(names)
    True
    """
    return "".join(map(_escaped, text.encode()))


def _escaped(byte: int) -> str:
    char = chr(byte)
    if char == "-" or (char.isascii() and char.isalnum()):
        return char
    return next(lead for last, lead in _LEADS if char <= last) + f"{byte:02x}"


def stored(key: str) -> str:
    """A partition or row key: `escape`, or where that is too long its beginning and a digest (in order up to there).

    >>> len(stored("🛩" * 400)), stored("x" * 400) == "x" * 400
    (482, True)
    """
    escaped = escape(key)
    if len(escaped) <= _ROW_CHARACTERS:
        return escaped
    return f"{escaped[:_CUT]}~~{hashlib.sha256(key.encode()).hexdigest()[:40]}"


class TableStore:
    """Port Store. A version is an ETag.

    Each row bears the id of the commit that wrote it: a commit of which the answer was lost, tried again, meets its
    own rows, and knows them from somebody else's.
    """

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self._settings, self._identity = settings, identity

    @cached_property
    def _table(self) -> Any:
        from azure.data.tables import TableClient

        s = self._settings
        if s.storage:
            return TableClient.from_connection_string(s.storage, s.table, **PATIENCE)
        return TableClient(s.tables, s.table, credential=self._identity.credential, **PATIENCE)

    def get(self, partition: str, key: str) -> Record | None:
        check_name(partition)
        check_name(key)
        found = self._read(stored(partition), key)
        return None if found is None else _record(found)

    def scan(self, partition: str, prefix: str = "", after: str = "", limit: int = 0) -> Iterator[Record]:
        """Read in pages: a commit between two pages may be seen in part."""
        for name in (partition, prefix, after):
            check_name(name)
        return self._scan(partition, prefix, after, limit)

    def _scan(self, partition: str, prefix: str, after: str, limit: int) -> Iterator[Record]:
        begin, low = escape(prefix)[:_CUT], escape(max(prefix, after))[:_CUT]
        bounds = {"partition": stored(partition), "low": low, "high": f"{begin}~~~"}
        query = "PartitionKey eq @partition and RowKey ge @low and RowKey lt @high"
        wanted = limit or -1
        with named(f"{partition!r} cannot be read"):
            page = min(limit + 1, 1000) if limit else 1000
            entities = _found(self._table.query_entities(query, parameters=bounds, results_per_page=page))
            for _, alike in groupby(entities, key=lambda entity: entity["RowKey"][:_CUT]):
                for record in sorted(map(_record, alike), key=lambda record: record.key):
                    if record.key > after and record.key.startswith(prefix):
                        yield record
                        wanted -= 1
                        if not wanted:
                            return

    def commit(self, partition: str, changes: Sequence[Put | Delete]) -> None:
        check_commit(partition, changes)
        for change in changes:
            if change.expect not in (None, "*") and not str(change.expect).startswith('W/"'):
                raise _conflict(partition, change)
        if changes:
            self._commit(partition, list(changes), uuid4().hex)

    def _commit(self, partition: str, changes: list[Put | Delete], operation: str) -> None:
        unsure = False
        for wait in (*WAITS_S, None):
            try:
                return self._submit(partition, changes, operation)
            except Conflict:
                if unsure and self._is_done(partition, changes, operation):
                    return None
                raise
            except Retry:
                unsure = True
                if wait is None:
                    raise
                time.sleep(wait * random.uniform(0.5, 1.5))
        return None

    def _submit(self, partition: str, changes: list[Put | Delete], operation: str) -> None:
        """One attempt. Raises Conflict; a Delete of whatever is there, where nothing is, is left out."""
        from azure.core.exceptions import HttpResponseError

        pk = stored(partition)
        while changes:
            with named(f"{partition!r} cannot be written", partition=partition):
                try:
                    asked = [_operation(pk, change, operation) for change in changes]
                    self._table.submit_transaction(asked, retry_total=0)
                    return
                except HttpResponseError as error:
                    code = code_of(error)
                    if code == "TableNotFound":
                        self._create_table()
                        continue
                    if code not in _WRITTEN and code not in _GONE:
                        raise
                    left = [
                        c for c in changes if not (code in _GONE and _forgiving(c) and self._read(pk, c.key) is None)
                    ]
                    if len(left) == len(changes):
                        raise _conflict(
                            partition, changes[min(getattr(error, "index", 0), len(changes) - 1)]
                        ) from error
                    changes = left

    def _is_done(self, partition: str, changes: list[Put | Delete], operation: str) -> bool:
        """Whether a row of this commit is there, so that all of it was."""
        pk = stored(partition)
        rows = (self._read(pk, change.key) for change in changes if isinstance(change, Put))
        return any(row is not None and row[OPERATION] == operation for row in rows)

    def _read(self, pk: str, key: str) -> Mapping[str, Any] | None:
        with named(f"{key!r} cannot be read", key=key):
            try:
                found: Mapping[str, Any] = self._table.get_entity(pk, stored(key))
            except Exception as error:
                if code_of(error) in {*_GONE, "TableNotFound"}:
                    return None
                raise
            return found

    def _create_table(self) -> None:
        from azure.core.exceptions import ResourceExistsError

        try:
            self._table.create_table()
        except ResourceExistsError:
            return


_GONE = frozenset({"ResourceNotFound", "EntityNotFound"})
_WRITTEN = frozenset({"EntityAlreadyExists", "UpdateConditionNotSatisfied", "ConditionNotMet"})


def _forgiving(change: Put | Delete) -> bool:
    return isinstance(change, Delete) and change.expect == "*"


def _operation(pk: str, change: Put | Delete, operation: str) -> tuple[Any, ...]:
    """One change, as the SDK takes it."""
    from azure.core import MatchConditions

    entity: dict[str, Any] = {"PartitionKey": pk, "RowKey": stored(change.key)}
    exactly = {"etag": change.expect, "match_condition": MatchConditions.IfNotModified}
    if isinstance(change, Delete):
        return ("delete", entity, {} if change.expect == "*" else exactly)
    entity |= {KEY: change.key.encode(), OPERATION: operation}
    entity |= {
        f"{VALUE}{n:02}": change.value[at : at + PIECE] for n, at in enumerate(range(0, len(change.value), PIECE))
    }
    if change.expect is None:
        return ("create", entity)
    if change.expect == "*":
        return ("upsert", entity, {"mode": "replace"})
    return ("update", entity, {"mode": "replace", **exactly})


def _record(entity: Any) -> Record:
    pieces = sorted(name for name in entity if name[:1] == VALUE and name[1:].isdigit())
    return Record(entity[KEY].decode(), b"".join(entity[name] for name in pieces), entity.metadata["etag"])


def _conflict(partition: str, change: Put | Delete) -> Conflict:
    return Conflict(
        f"somebody else wrote {change.key!r} first", partition=partition, key=change.key, expect=change.expect
    )


def _found(pages: Any) -> Iterator[Any]:
    try:
        yield from pages
    except Exception as error:
        if code_of(error) != "TableNotFound":
            raise
