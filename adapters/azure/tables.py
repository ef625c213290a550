"""The Store on Table storage: a row is an entity; a commit is one transaction of its partition."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any
from uuid import uuid4

import msgspec

from adapters.azure.errors import by_status
from adapters.azure.identity import Identity
from adapters.azure.rest import Answer, Rest
from adapters.azure.settings import Settings
from adapters.limits import check_commit, check_name
from triggers.errors import Conflict, Retry
from triggers.ports import Delete, Put, Record

PIECE = 64 * 1024
"""Bytes of a property; a value has up to 15."""

KEY, OPERATION, VALUE = "key", "operation", "v"
"""Properties: the key itself, the commit that wrote the row, the value's pieces (v00, v01, ...)."""

WAITS_S = (0.2, 0.8, 2.0)
PATIENCE: Mapping[str, Any] = {"connection_timeout": 5, "read_timeout": 20}
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
        self._settings, self._rest = settings, Rest("table", settings, identity, PATIENCE)

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
        bounds = f"RowKey ge '{low}' and RowKey lt '{begin}~~~'"
        query = {"$filter": f"PartitionKey eq '{stored(partition)}' and {bounds}"}
        query["$top"] = str(min(limit + 1, 1000) if limit else 1000)
        wanted = limit or -1
        entities = self._entities(f"{partition!r} cannot be read", query)
        for _, alike in groupby(entities, key=lambda entity: entity["RowKey"][:_CUT]):
            for record in sorted(map(_record, alike), key=lambda record: record.key):
                if record.key > after and record.key.startswith(prefix):
                    yield record
                    wanted -= 1
                    if not wanted:
                        return

    def _entities(self, what: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        following: dict[str, str] = {}
        while True:
            asked = {**query, **following}
            answer = self._rest.ask(what, "GET", f"/{self._settings.table}()", asked, _JSON, taken=(404,))
            if answer.status == 404:
                return
            yield from msgspec.json.decode(answer.body)["value"]
            said = {name: answer.headers.get(f"x-ms-continuation-{name}", "") for name in _NEXT}
            following = {name: value for name, value in said.items() if value}
            if not following:
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
        pk, what = stored(partition), f"{partition!r} cannot be written"
        while changes:
            failed = self._transact(what, [self._operation(pk, change, operation) for change in changes])
            if failed is None:
                return
            if failed.code == "TableNotFound":
                self._create_table()
                continue
            if failed.code not in _WRITTEN and failed.code not in _GONE:
                raise by_status(failed.status, f"{what}: {failed.status} {failed.code}", {"partition": partition})
            left = [
                c for c in changes if not (failed.code in _GONE and _forgiving(c) and self._read(pk, c.key) is None)
            ]
            if len(left) == len(changes):
                raise _conflict(partition, changes[min(_index(failed), len(changes) - 1)])
            changes = left

    def _transact(self, what: str, operations: Sequence[bytes]) -> Answer | None:
        """An entity group transaction; what the operation that stopped it was answered, None where all were done."""
        batch, change = f"batch_{uuid4()}", f"changeset_{uuid4()}"
        parts = [f"--{batch}\r\nContent-Type: multipart/mixed; boundary={change}\r\n\r\n".encode()]
        for n, operation in enumerate(operations):
            head = "Content-Type: application/http\r\nContent-Transfer-Encoding: binary"
            parts += [f"--{change}\r\n{head}\r\nContent-ID: {n}\r\n\r\n".encode(), operation, b"\r\n"]
        parts.append(f"--{change}--\r\n--{batch}--\r\n".encode())
        headers = {**_JSON, "Content-Type": f"multipart/mixed; boundary={batch}"}
        taken = range(300, 500)
        answer = self._rest.ask(what, "POST", "/$batch", {}, headers, b"".join(parts), taken=taken, tries=1)
        if answer.status != 202:
            return answer
        done = _STATUS.findall(answer.body)
        for status in map(int, done):
            if status >= 300:
                found = _ERROR.search(answer.body)
                return Answer(status, {}, found[0] if found else b"")
        if not done:
            raise Retry(f"{what}: the answer names no operation")
        return None

    def _operation(self, pk: str, change: Put | Delete, operation: str) -> bytes:
        """One change, as a request within the transaction."""
        entity = self._rest.url(self._entity(pk, change.key))
        exactly = {"If-Match": str(change.expect)}
        if isinstance(change, Delete):
            return _request("DELETE", entity, exactly)
        values: dict[str, str] = {"PartitionKey": pk, "RowKey": stored(change.key), OPERATION: operation}
        pieces = {
            f"{VALUE}{n:02}": change.value[at : at + PIECE] for n, at in enumerate(range(0, len(change.value), PIECE))
        }
        for name, data in {KEY: change.key.encode(), **pieces}.items():
            values |= {name: base64.b64encode(data).decode(), f"{name}@odata.type": "Edm.Binary"}
        if change.expect is None:
            return _request("POST", self._rest.url(f"/{self._settings.table}"), {}, values)
        return _request("PUT", entity, {} if change.expect == "*" else exactly, values)

    def _is_done(self, partition: str, changes: list[Put | Delete], operation: str) -> bool:
        """Whether a row of this commit is there, so that all of it was."""
        pk = stored(partition)
        rows = (self._read(pk, change.key) for change in changes if isinstance(change, Put))
        return any(row is not None and row[OPERATION] == operation for row in rows)

    def _read(self, pk: str, key: str) -> dict[str, Any] | None:
        what = f"{key!r} cannot be read"
        answer = self._rest.ask(what, "GET", self._entity(pk, key), {}, _JSON, taken=(404,), key=key)
        return None if answer.status == 404 else msgspec.json.decode(answer.body)

    def _entity(self, pk: str, key: str) -> str:
        return f"/{self._settings.table}(PartitionKey='{pk}',RowKey='{stored(key)}')"

    def _create_table(self) -> None:
        body = msgspec.json.encode({"TableName": self._settings.table})
        headers = {**_JSON, "Content-Type": "application/json"}
        self._rest.ask("the table cannot be made", "POST", "/Tables", {}, headers, body, taken=(409,))


_JSON = {
    "Accept": "application/json;odata=fullmetadata",
    "DataServiceVersion": "3.0",
    "MaxDataServiceVersion": "3.0;NetFx",
}
_NEXT = ("NextPartitionKey", "NextRowKey")
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_ERROR = re.compile(rb'\{"odata\.error".*\}')
_GONE = frozenset({"ResourceNotFound", "EntityNotFound"})
_WRITTEN = frozenset({"EntityAlreadyExists", "UpdateConditionNotSatisfied", "ConditionNotMet"})


def _forgiving(change: Put | Delete) -> bool:
    return isinstance(change, Delete) and change.expect == "*"


def _request(method: str, url: str, headers: Mapping[str, str], values: Mapping[str, str] | None = None) -> bytes:
    body = b"" if values is None else msgspec.json.encode(values)
    kind = {"Content-Type": "application/json", "Prefer": "return-no-content"} if body else {}
    said = {**_JSON, **kind, "Content-Length": str(len(body)), **headers}
    lines = [f"{method} {url} HTTP/1.1", *(f"{name}: {value}" for name, value in said.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _index(failed: Answer) -> int:
    """Which operation it was: Table storage begins its message with the number."""
    found = re.search(rb'"value":"(\d+):', failed.body)
    return int(found[1]) if found else 0


def _record(entity: Mapping[str, Any]) -> Record:
    pieces = sorted(name for name in entity if name[:1] == VALUE and name[1:].isdigit())
    value = b"".join(base64.b64decode(entity[name]) for name in pieces)
    return Record(base64.b64decode(entity[KEY]).decode(), value, entity["odata.etag"])


def _conflict(partition: str, change: Put | Delete) -> Conflict:
    return Conflict(
        f"somebody else wrote {change.key!r} first", partition=partition, key=change.key, expect=change.expect
    )
