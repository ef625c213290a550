"""The telemetry envelope: a Batch as bytes, and bytes as a Batch.

Four spellings of one thing: JSON rows, JSON columns, a base64 sketch, and Arrow (`DLA1`, uint32 LE length of a JSON
header, the header, an Arrow IPC stream whose sha256 the header names). A row that cannot be read becomes a Refusal and
costs only itself; what is wrong with the batch as a whole raises BadBatch. No other exception leaves this module for
any bytes whatever.

A signature is over the very bytes of the (JSON or header) object with the member `"signature":"..."` cut out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import starmap
from operator import attrgetter, itemgetter
from types import GenericAlias
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift.telemetry import MAX_BYTES, Batch, Labels, Refusal, Rows, Schema, Serving

Spelling = Literal["rows", "columns", "sketch", "arrow", "labels"]

MAX_TEXT = 200
"""Longest name, id or digest, in characters."""
MAGIC = b"DLA1"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = -62_135_596_800, 253_402_300_799  # the years 1 to 9999
_BUNDLE = b"DLB1"
_LEAST_BYTES = 10
"""No row is shorter in any spelling."""
_TAIL = re.compile(rb',"signature":"([A-Za-z0-9+/=_-]*)"\}\s*\Z')
_SPELLINGS: tuple[Literal["rows", "columns", "sketch", "arrow"], ...] = ("rows", "columns", "sketch", "arrow")


class BadBatch(Exception):
    """The batch as a whole cannot be counted: quarantine it, with this reason."""

    def __init__(self, reason: str, field: str = "") -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.reason = reason
        self.field = field


@dataclass(frozen=True, slots=True)
class Header:
    """What an envelope says about itself, its rows unread. `start` and `end` are UTC seconds."""

    schema: str
    loop: str
    candidate: str
    site: str
    batch: str
    start: int
    end: int
    key: str
    spelling: Spelling


def encode(batch: Batch, schema: Schema, spelling: Spelling = "columns") -> bytes:
    """The batch as unsigned bytes. A batch that holds a sketch is spelled `sketch`, one without rows `labels`.

    >>> from drift.telemetry import Batch, Labels, Schema
    >>> labels = Labels(["a"], np.array([5]), np.array([1.0]))
    >>> encode(Batch("1", "l", "c", "s", "b", 0, 9, labels=labels), Schema("1", ()))[-54:]
    b'"labels":{"id":["a"],"at":[5],"label":[1.0]},"key":""}'
    """
    envelope: dict[str, Any] = {
        "schema": batch.schema,
        "loop": batch.loop,
        "candidate": batch.candidate,
        "site": batch.site,
        "batch": batch.id,
        "from": iso(batch.start),
        "to": iso(batch.end),
    }
    if batch.sketch is not None:
        envelope["sketch"] = base64.b64encode(batch.sketch).decode()
    elif batch.rows is not None and spelling == "rows":
        envelope["rows"] = _records(_columns_of(batch.rows, schema))
    elif batch.rows is not None and spelling != "arrow":
        envelope["columns"] = _columns_of(batch.rows, schema)
    if batch.labels is not None:
        labels = {"id": list(batch.labels.ids), "at": batch.labels.at.tolist(), "label": batch.labels.label.tolist()}
        envelope["labels"] = _records(labels) if spelling == "rows" else labels
    if batch.serving != Serving():
        envelope["serving"] = batch.serving
    envelope["key"] = batch.key
    if batch.rows is None or batch.sketch is not None or spelling != "arrow":
        return msgspec.json.encode(envelope)
    stream = _arrow_stream(batch.rows, schema)
    envelope["arrow"] = hashlib.sha256(stream).hexdigest()
    return _framed(msgspec.json.encode(envelope), stream)


def signed(payload: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """The payload with its signature as the last member; `sign` gets the very bytes of the unsigned object.

    The id of the key must already be in the payload's `key`.
    """
    header, rest = _split(payload)
    header = header[: header.rindex(b"}") + 1]
    signature = base64.b64encode(sign(header))
    return _framed(header[:-1] + b',"signature":"' + signature + b'"}', rest)


def signed_part(payload: bytes) -> tuple[bytes, bytes | None]:
    """The bytes that were signed, and the signature (None where there is none).

    Raises BadBatch for a signature that is not compact JSON, or is there twice.
    """
    header, _ = _split(payload)
    if found := _TAIL.search(header, max(0, len(header) - MAX_TEXT)):
        return header[: found.start()] + b"}", _unbase64(found[1].decode(), "signature")
    if b'"signature"' not in header:
        return header, None
    text = _parsed(header, _Signature).signature
    if text is None:
        return header, None
    member = b'"signature":' + msgspec.json.encode(text)
    if header.count(member) != 1:
        raise BadBatch("is not spelled once, in compact JSON", "signature")
    start = header.index(member)
    end = start + len(member)
    if header[start - 1 : start] == b",":
        start -= 1
    elif header[end : end + 1] == b",":
        end += 1
    return header[:start] + header[end:], _unbase64(text, "signature")


def peek(payload: bytes, max_bytes: int = MAX_BYTES) -> Header:
    """The header alone, the rows skipped: for routing. Raises BadBatch."""
    _bounded(payload, max_bytes)
    header, _ = _split(payload)
    head = _parsed(header, _Peek)
    for name in ("rows", "columns", "labels"):
        if bytes(memoryview(getattr(head, name))[:5]) in (b"", b"null"):
            setattr(head, name, None)
    return _header(head)


def decode(payload: bytes, schema: Schema, max_bytes: int = MAX_BYTES) -> Batch:
    """The batch, with the rows that could not be read in `refused`. Raises BadBatch.

    The rows are read by `schema` also where the batch names another version: a feature that is absent is missing.
    """
    _bounded(payload, max_bytes)
    text, rest = _split(payload)
    envelope = _fast(text, schema) or _careful(text, schema)
    header = envelope.header
    table = envelope.table
    if header.spelling == "arrow":
        if hashlib.sha256(rest).hexdigest() != envelope.arrow:
            raise BadBatch("is not the sha256 of the stream that follows", "arrow")
        table = _arrow_table(rest, schema)
    batch = Batch(
        header.schema,
        header.loop,
        header.candidate,
        header.site,
        header.batch,
        header.start,
        header.end,
        sketch=envelope.sketch,
        serving=envelope.serving,
        key=header.key,
    )
    if table is not None:
        rows, refused = _rows(table, schema, header)
        batch = replace(batch, rows=rows, refused=refused)
    if envelope.labels is not None:
        labels, refused = _labels(envelope.labels, schema)
        batch = replace(batch, labels=labels, refused=batch.refused + refused)
    return batch


def bundle(payloads: Sequence[bytes]) -> bytes:
    """Batches as they came, in one file.

    >>> unbundle(bundle([b"{}", b"[1]"]))
    [b'{}', b'[1]']
    """
    return _BUNDLE + b"".join(len(p).to_bytes(4, "little") + p for p in payloads)


def unbundle(data: bytes) -> list[bytes]:
    """The batches of a bundle. Raises ValueError."""
    if data[:4] != _BUNDLE:
        raise ValueError("not a bundle of batches")
    found, at = [], 4
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(data):
        raise ValueError("a bundle of batches that is cut short")
    return found


def iso(seconds: int) -> str:
    """
    >>> iso(1_357_000_000)
    '2013-01-01T00:26:40Z'
    """
    return (_EPOCH + timedelta(seconds=int(seconds))).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(value: Any) -> int:
    """UTC seconds of a number (seconds) or an ISO 8601 text (UTC where it names no offset). Raises ValueError.

    >>> seconds("2013-01-01T00:26:40Z"), seconds("2013-01-01 01:26:40+01:00"), seconds(5.9)
    (1357000000, 1357000000, 5)
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"is not a time: {_shown(value)}") from None
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return (moment - _EPOCH) // timedelta(seconds=1)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is not a time: {_shown(value)}")
    if not _FIRST <= value <= _LAST:
        raise ValueError("is a time outside the years 1 to 9999")
    return int(value // 1)


# What an envelope holds, whichever way it was parsed.


@dataclass(slots=True)
class _Table:
    """Columns of n values each, or `numbers` float64 [k, n] in place of those of the score and the number features, in
    the schema's order. `bad` holds, by row, the first field that could not be read, and why."""

    n: int
    columns: dict[str, Any]
    bad: dict[int, tuple[str, str]] = field(default_factory=dict)
    numbers: NDArray[np.float64] | None = None

    def refuse(self, rows: Iterable[int], field: str, reason: str) -> None:
        for row in rows:
            self.bad.setdefault(int(row), (field, reason))


@dataclass(frozen=True, slots=True)
class _Envelope:
    header: Header
    table: _Table | None
    sketch: bytes | None
    arrow: str
    labels: _Table | None
    serving: Serving


class _Signature(msgspec.Struct):
    signature: str | None = None


class _ServingPart(msgspec.Struct):
    requests: int | msgspec.UnsetType = msgspec.UNSET
    errors: int | msgspec.UnsetType = msgspec.UNSET
    p50_ms: float | msgspec.UnsetType = msgspec.UNSET
    p95_ms: float | msgspec.UnsetType = msgspec.UNSET


class _Head(msgspec.Struct):
    """The members that are not telemetry; whatever else there is, is skipped."""

    schema: str | int | None = None
    loop: str | None = None
    candidate: str | None = None
    site: str | None = None
    batch: str | None = None
    from_: str | int | float | None = msgspec.field(default=None, name="from")
    to: str | int | float | None = None
    key: str | None = None
    sketch: str | None = None
    arrow: str | None = None
    signature: str | None = None


class _Peek(_Head):
    rows: msgspec.Raw = msgspec.Raw()
    columns: msgspec.Raw = msgspec.Raw()
    labels: msgspec.Raw = msgspec.Raw()


class _LabelRow(msgspec.Struct):
    id: str
    at: int | float | str
    label: float


class _LabelColumns(msgspec.Struct):
    id: list[str]
    at: list[int | float | str]
    label: list[float]


def _bounded(payload: bytes, max_bytes: int) -> None:
    if len(payload) > max_bytes:
        raise BadBatch(f"{len(payload)} bytes, at most {max_bytes}")
    if payload[:2] == b"\x1f\x8b":
        raise BadBatch("is gzip; send it uncompressed")


def _framed(header: bytes, stream: bytes | memoryview) -> bytes:
    return b"".join((MAGIC, len(header).to_bytes(4, "little"), header, stream)) if stream else header


def _split(payload: bytes) -> tuple[bytes, memoryview]:
    """The JSON object, and the Arrow stream that follows it (empty for the JSON spellings)."""
    if payload[:4] != MAGIC:
        return payload, memoryview(b"")
    end = 8 + int.from_bytes(payload[4:8], "little")
    if end >= len(payload):
        raise BadBatch("the header is longer than the payload", "arrow")
    return payload[8:end], memoryview(payload)[end:]


def _parsed(text: bytes, kind: type[Any]) -> Any:
    """One JSON text as `kind`; BadBatch where it is not."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise _mistyped(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBatch(f"not JSON: {error}") from None
    except RecursionError:
        raise BadBatch("not JSON that can be read: nested too deep") from None


def _mistyped(error: msgspec.ValidationError) -> BadBatch:
    reason, _, path = str(error).partition(" - at `$.")
    return BadBatch(reason[:1].lower() + reason[1:], path.rstrip("`"))


def _header(head: Any) -> Header:
    """The members that every envelope must have, checked. `head` is a _Head with rows, columns and labels."""
    texts: dict[str, str] = {}
    for name in ("schema", "loop", "candidate", "site", "batch"):
        value = getattr(head, name)
        if value is None:
            raise BadBatch("is missing", name)
        texts[name] = str(value)
        if not 0 < len(texts[name]) <= MAX_TEXT:
            raise BadBatch(f"has {len(texts[name])} characters, expected 1 to {MAX_TEXT}", name)
    times = []
    for name, value in (("from", head.from_), ("to", head.to)):
        if value is None:
            raise BadBatch("is missing", name)
        try:
            times.append(seconds(value))
        except ValueError as error:
            raise BadBatch(str(error), name) from None
    if times[0] > times[1]:
        raise BadBatch("is before `from`", "to")
    key = head.key or ""
    if len(key) > MAX_TEXT:
        raise BadBatch(f"has more than {MAX_TEXT} characters", "key")
    return Header(start=times[0], end=times[1], key=key, spelling=_spelling(head), **texts)


def _spelling(head: Any) -> Spelling:
    given = [name for name in _SPELLINGS if getattr(head, name) is not None]
    if len(given) > 1:
        raise BadBatch(f"only one of {' and '.join(given)} may be given", given[1])
    if given:
        return given[0]
    if head.labels is None:
        raise BadBatch("neither rows, columns, sketch, arrow nor labels are given", "rows")
    return "labels"


def _unbase64(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise BadBatch("is not base64", field) from None


# The fast way: typed by the schema. It answers None where anything is not exactly as it should be.


@dataclass(frozen=True, slots=True)
class _Types:
    """What msgspec needs for one schema. `names` are the columns, in the order of the generated fields: from the
    `first` on they are numbers."""

    names: tuple[str, ...]
    first: int
    decoder: msgspec.json.Decoder[Any]
    colons: int
    """In the names of the features."""


@lru_cache(maxsize=64)
def _types(schema: Schema) -> _Types:
    texts = tuple(feature.name for feature in schema.features if feature.kind == "category")
    numbers = _numeric(schema)
    names = ("id", "at", *texts, *numbers)
    fields = [f"c{i}" for i in range(len(names))]
    values: list[Any] = [str, int | float | str, *(str | None for _ in texts), *(float | None for _ in numbers)]
    rename = dict(zip(fields, names, strict=True))
    row: Any = msgspec.defstruct("_Row", list(zip(fields, values, strict=True)), rename=rename, gc=False)
    lists: list[Any] = [(name, GenericAlias(tuple, (value, ...))) for name, value in zip(fields, values, strict=True)]
    columns: Any = msgspec.defstruct("_Columns", lists, rename=rename)
    parts: list[Any] = [
        ("rows", list[row] | None, None),
        ("columns", columns | None, None),
        ("labels", list[_LabelRow] | _LabelColumns | None, None),
        ("serving", _ServingPart | None, None),
    ]
    whole = msgspec.defstruct("_Whole", parts, bases=(_Head,))
    return _Types(names, len(names) - len(numbers), msgspec.json.Decoder(whole), sum(name.count(":") for name in names))


def _fast(text: bytes, schema: Schema) -> _Envelope | None:
    """None where a value is not of its type, or a member unknown or perhaps there twice: the careful way will tell."""
    if b"\\" in text and b"\\u003" in text:  # a colon may hide in an escape, and then counting them proves nothing
        return None
    types = _types(schema)
    try:
        whole = types.decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    table = labels = None
    colons = sum(getattr(whole, name) is not None for name in whole.__struct_fields__)
    colons += sum(
        value.count(":") for name in _Head.__struct_fields__ if isinstance(value := getattr(whole, name), str)
    )
    if whole.rows is not None:
        table = _of_rows(whole.rows, types)
        colons += table.n * (len(types.names) + types.colons)
    elif whole.columns is not None:
        table = _of_columns(msgspec.structs.astuple(whole.columns), types)
        colons += len(types.names) + types.colons
    if isinstance(whole.labels, list):
        labels = _table({name: [getattr(row, name) for row in whole.labels] for name in _LabelRow.__struct_fields__})
        colons += labels.n * 3
    elif whole.labels is not None:
        labels = _table(msgspec.structs.asdict(whole.labels))
        colons += 3
    if whole.serving is not None:
        colons += sum(value is not msgspec.UNSET for value in msgspec.structs.astuple(whole.serving))
    colons += sum(_colons(t.columns[name]) for t in (table, labels) if t for name in ("id", "at"))
    colons += sum(_colons(table.columns[name]) for name in types.names[2 : types.first] if table)
    # Every member has one colon of its own, the others stand in texts; what msgspec drops (a member that is unknown,
    # or there twice) has at least one more. So the numbers agree only where nothing was dropped.
    there = np.count_nonzero(np.frombuffer(text, np.uint8) == ord(":"))
    return _envelope(whole, table, labels) if colons == there else None


def _of_rows(rows: Sequence[Any], types: _Types) -> _Table:
    """Numbers go row by row, as they lie in memory: twice as fast as column by column."""
    n, k = len(rows), len(types.names) - types.first
    pack = struct.Struct(f"{k}d").pack
    numbers = map(itemgetter(slice(types.first, None)), map(msgspec.structs.astuple, rows))
    try:
        packed = b"".join(starmap(pack, numbers))
    except struct.error:  # some are None
        tuples = (msgspec.structs.astuple(row)[types.first :] for row in rows)
        packed = b"".join(pack(*(math.nan if v is None else v for v in t) if None in t else t) for t in tuples)
    columns = {name: list(map(attrgetter(f"c{i}"), rows)) for i, name in enumerate(types.names[: types.first])}
    columns["at"] = _whole(columns["at"])
    return _Table(n, columns, numbers=np.ascontiguousarray(np.frombuffer(packed).reshape(n, k).T))


def _of_columns(values: Sequence[Any], types: _Types) -> _Table:
    table = _table(dict(zip(types.names, values, strict=True)))
    table.columns["at"] = _whole(table.columns["at"])
    table.numbers = _matrix([table.columns.pop(name) for name in types.names[types.first :]], table.n)
    return table


def _matrix(columns: Sequence[Any], n: int) -> NDArray[np.float64]:
    """Columns of numbers, NaN for None, as float64 [columns, n]."""
    made = np.empty((len(columns), n))
    for to, values in zip(made, columns, strict=True):
        if isinstance(values, np.ndarray):
            to[:] = values
            continue
        try:
            packed = struct.pack(f"{n}d", *values)
        except struct.error:  # some are None
            packed = struct.pack(f"{n}d", *(math.nan if v is None else v for v in values))
        to[:] = np.frombuffer(packed)
    return made


def _whole(values: Any) -> Any:
    """Whole numbers as an array; others as they are."""
    if isinstance(values, np.ndarray):
        return values
    try:
        return np.frombuffer(struct.pack(f"{len(values)}q", *values), np.int64)
    except struct.error:
        return values


def _colons(values: Any) -> int:
    """In the texts among the values."""
    if isinstance(values, np.ndarray):
        return 0
    try:
        return "".join(values).count(":")
    except TypeError:
        return "".join(v for v in values if type(v) is str).count(":")


def _table(columns: dict[str, Any]) -> _Table:
    n = len(columns["id"])
    for name, values in columns.items():
        if len(values) != n:
            raise BadBatch(f"has {len(values)} values, `id` has {n}", name)
    return _Table(n, columns)


def _envelope(head: Any, table: _Table | None, labels: _Table | None) -> _Envelope:
    header = _header(head)
    sketch = None if head.sketch is None else _unbase64(head.sketch, "sketch")
    given = {} if head.serving is None else msgspec.structs.asdict(head.serving)
    serving = Serving(**{name: value for name, value in given.items() if value is not msgspec.UNSET})
    if min(serving.requests, serving.errors, serving.p50_ms, serving.p95_ms) < 0:
        raise BadBatch("is negative", "serving")
    return _Envelope(header, table, sketch, head.arrow or "", labels, serving)


# The careful way: every value on its own, and every member that is there twice is found.


@dataclass(frozen=True, slots=True)
class _Twice:
    """An object in which a member stands twice."""

    member: str


@dataclass(frozen=True, slots=True)
class _NotJson:
    """What Python writes and JSON does not have: NaN, Infinity, -Infinity."""

    text: str


def _careful(text: bytes, schema: Schema) -> _Envelope:
    whole = _loaded(text)
    tables = {name: whole.pop(name) for name in ("rows", "columns", "labels") if whole.get(name) is not None}
    try:
        head = msgspec.convert(whole, _CarefulHead)
    except msgspec.ValidationError as error:
        raise _mistyped(error) from None
    except UnicodeEncodeError as error:
        raise BadBatch("holds a lone surrogate") from error
    for name in _Head.__struct_fields__:
        if isinstance(value := getattr(head, name), str) and not _encodable(value):
            raise BadBatch("holds a lone surrogate", name)
    head.rows, head.columns, head.labels = (tables.get(name) for name in ("rows", "columns", "labels"))
    for name, values in tables.items():
        if isinstance(values, list) and len(values) > len(text) // _LEAST_BYTES:
            raise BadBatch(f"{len(values)} rows in {len(text)} bytes: they cannot be telemetry", name)
    readers = {"id": _text, "at": seconds, "score": _number}
    readers |= {f.name: _number if f.kind == "number" else _category for f in schema.features}
    given = next((name for name in ("rows", "columns") if name in tables), None)
    table = _read(tables[given], readers, given) if given else None
    labels = None
    if "labels" in tables:
        labels = _read(tables["labels"], {"id": _text, "at": seconds, "label": _label}, "labels")
    return _envelope(head, table, labels)


def _loaded(text: bytes) -> dict[str, Any]:
    """The object, with its numbers, duplicates and non-numbers marked for the readers of single values."""
    try:
        whole = json.loads(text.decode(), object_pairs_hook=_object, parse_constant=_NotJson, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise BadBatch(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise BadBatch("not JSON that can be read: nested too deep") from None
    except ValueError as error:
        raise BadBatch(f"not JSON: {error}") from None
    if isinstance(whole, _Twice):
        raise BadBatch("stands twice", whole.member)
    if not isinstance(whole, dict):
        raise BadBatch(f"expected an object, got {_shown(whole)}")
    serving = whole.get("serving")
    if isinstance(serving, _Twice):
        raise BadBatch(f"{serving.member!r} stands twice", "serving")
    return whole


class _CarefulHead(_Head):
    rows: Any = None
    columns: Any = None
    labels: Any = None
    serving: _ServingPart | None = None


def _read(given: Any, readers: Mapping[str, Callable[[Any], Any]], where: str) -> _Table:
    """Rows (a list of objects) or columns (an object of lists), each value by the reader of its column."""
    if isinstance(given, list):
        table = _Table(len(given), {})
        for i, row in enumerate(given):
            if isinstance(row, _Twice):
                table.refuse([i], row.member, "stands twice in one row")
            elif not isinstance(row, dict):
                table.refuse([i], "", f"expected an object, got {_shown(row)}")
        rows = [{} if i in table.bad else row for i, row in enumerate(given)]
        raw = {name: [row.get(name) for row in rows] for name in readers}
    elif isinstance(given, _Twice):
        raise BadBatch("stands twice", given.member)
    elif isinstance(given, dict):
        if not isinstance(given.get("id"), list):
            raise BadBatch("expected a list", "id")
        raw = {name: given[name] if given.get(name) is not None else [None] * len(given["id"]) for name in readers}
        for name, values in raw.items():
            if not isinstance(values, list):
                raise BadBatch(f"expected a list, got {_shown(values)}", name)
        table = _table(raw)
    else:
        raise BadBatch(f"expected rows or columns, got {_shown(given)}", where)
    table.columns = {name: _each(raw[name], reader, name, table) for name, reader in readers.items()}
    return table


def _each(values: Sequence[Any], reader: Callable[[Any], Any], field: str, table: _Table) -> list[Any]:
    read: list[Any] = []
    for i, value in enumerate(values):
        try:
            read.append(reader(value))
        except ValueError as error:
            table.refuse([i], field, str(error))
            read.append(_BLANK[reader])
    return read


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    return _Twice(_printable(next(name for name in names if names.count(name) > 1)))


def _integer(text: str) -> int | float:
    return int(text) if len(text) < 19 else float(text)


def _text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {_shown(value)}")
    if not _encodable(value):
        raise ValueError("holds a lone surrogate")
    return value


def _category(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, int):
        raise ValueError(f"expected text, got {_shown(value)}")
    return _text(value)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {_shown(value)}")
    return float(value)


def _label(value: Any) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {_shown(value)}")
    return float(value)


_BLANK: dict[Callable[[Any], Any], Any] = {_text: "", seconds: 0, _category: None, _number: None, _label: 0.0}


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(value: str) -> str:
    return value[:40].encode("ascii", "backslashreplace").decode()


def _shown(value: Any) -> str:
    """A value as a person may read it: short, and of printable characters only."""
    if isinstance(value, str):
        return f"the text {_printable(repr(value))}"
    if isinstance(value, _NotJson):
        return f"{value.text} (write null where a value is missing)"
    if isinstance(value, dict | _Twice):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return {None: "null", True: "true", False: "false"}[value] if value in (None, True, False) else repr(value)


# What was parsed, as arrays, and the checks that need more than one value.


def _rows(table: _Table, schema: Schema, header: Header) -> tuple[Rows, tuple[Refusal, ...]]:
    at = _times(table)  # first: a row without a time takes no id from its neighbours
    ids = _ids(table)
    if table.n and (at.min() < header.start or at.max() > header.end):
        late = (at < header.start) | (at > header.end)
        table.refuse(np.flatnonzero(late), "at", f"is outside the batch, {iso(header.start)} to {iso(header.end)}")
    names = _numeric(schema)
    numbers = table.numbers
    if numbers is None:
        numbers = _matrix([table.columns[name] for name in names], table.n)
    endless = np.isinf(numbers)
    _refuse_endless(table, names[:1], endless[:1])
    if schema.task == "binary":
        table.refuse(np.flatnonzero((numbers[0] < 0) | (numbers[0] > 1)), "score", "is outside 0 to 1")
    _refuse_endless(table, names[1:], endless[1:])
    texts = {f.name: table.columns[f.name] for f in schema.features if f.kind == "category"}
    if table.bad:
        keep = _kept(table)
        ids, at, numbers = [ids[i] for i in keep], at[keep], numbers[:, keep]
        texts = {name: [values[i] for i in keep] for name, values in texts.items()}
    by_name = dict(zip(names, numbers, strict=True)) | texts
    return Rows(ids, at, by_name["score"], {name: by_name[name] for name in schema.names}), _refusals(table)


def _refuse_endless(table: _Table, names: Sequence[str], endless: NDArray[np.bool_]) -> None:
    if endless.any():
        for name, rows in zip(names, endless, strict=True):
            table.refuse(np.flatnonzero(rows), name, "is not finite")


@lru_cache(maxsize=64)
def _numeric(schema: Schema) -> tuple[str, ...]:
    """The columns of numbers: the score, and features in the schema's order."""
    return ("score", *(f.name for f in schema.features if f.kind == "number"))


def _labels(table: _Table, schema: Schema) -> tuple[Labels, tuple[Refusal, ...]]:
    at = _times(table)
    ids = _ids(table)
    label = _floats(table, "label")
    if schema.task == "binary":
        table.refuse(np.flatnonzero((label != 0) & (label != 1)), "label", "is neither 0 nor 1")
    if table.bad:
        keep = _kept(table)
        ids, at, label = [ids[i] for i in keep], at[keep], label[keep]
    return Labels(ids, at, label), _refusals(table)


def _ids(table: _Table) -> Sequence[str]:
    ids: Sequence[str] = table.columns["id"]
    distinct, lengths = set(ids), {1, *map(len, ids)}
    if min(lengths) < 1 or max(lengths) > MAX_TEXT:
        wrong = [i for i, name in enumerate(ids) if not 1 <= len(name) <= MAX_TEXT]
        table.refuse(wrong, "id", f"expected 1 to {MAX_TEXT} characters")
    if len(distinct) < table.n:
        first: dict[str, int] = {}
        for i, name in enumerate(ids):
            if i not in table.bad and first.setdefault(name, i) != i:
                table.refuse([i], "id", f"is the id of row {first[name]} as well")
    return ids


def _times(table: _Table) -> NDArray[np.int64]:
    values = _whole(table.columns["at"])
    if isinstance(values, np.ndarray):
        return values
    return np.array(_each(values, seconds, "at", table), dtype=np.int64)  # some are texts or have a fraction


def _floats(table: _Table, name: str) -> NDArray[np.float64]:
    (values,) = made = _matrix([table.columns[name]], table.n)
    _refuse_endless(table, (name,), np.isinf(made))
    return np.asarray(values)


def _kept(table: _Table) -> NDArray[np.intp]:
    keep = np.ones(table.n, dtype=bool)
    keep[list(table.bad)] = False
    return np.flatnonzero(keep)


def _refusals(table: _Table) -> tuple[Refusal, ...]:
    return tuple(Refusal(row, *table.bad[row]) for row in sorted(table.bad))


def _columns_of(rows: Rows, schema: Schema) -> dict[str, Any]:
    columns: dict[str, Any] = {"id": list(rows.ids), "at": rows.at.tolist(), "score": rows.score.tolist()}
    for feature in schema.features:
        values = rows.columns[feature.name]
        columns[feature.name] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return columns


def _records(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


# Arrow. pyarrow is heavy, and only who speaks Arrow pays for it.


def _arrow_stream(rows: Rows, schema: Schema) -> bytes:
    import pyarrow as pa

    arrays = {"id": pa.array(rows.ids, pa.string()), "at": pa.array(rows.at), "score": _nullable(rows.score)}
    for feature in schema.features:
        values = rows.columns[feature.name]
        arrays[feature.name] = _nullable(values) if feature.kind == "number" else pa.array(values, pa.string())
    table = pa.table(arrays)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _nullable(values: NDArray[np.float64]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.float64(), from_pandas=True)


def _arrow_table(stream: memoryview, schema: Schema) -> _Table:
    """The columns of an Arrow stream; values are checked before they are believed."""
    import pyarrow as pa

    try:
        for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(stream)):
            if _compressed(bytes(message.metadata)):
                raise BadBatch("holds compressed buffers", "arrow")
        table = pa.ipc.open_stream(pa.py_buffer(stream)).read_all()
        table.validate(full=True)
        names = table.column_names
        if len(set(names)) < len(names):
            raise BadBatch("a column stands twice", "arrow")
        if "id" not in names or "at" not in names:
            raise BadBatch("a column `id` and a column `at` are needed", "arrow")
        if table.num_rows > len(stream):
            raise BadBatch("more rows than bytes", "arrow")
        found = _Table(table.num_rows, {})
        found.columns["id"] = _arrow_texts(table["id"], "id", found)
        found.columns["at"] = _arrow_times(table["at"], found)
        found.numbers = _arrow_numbers(table, _numeric(schema))
        for feature in schema.features:
            if feature.kind == "category":
                given = feature.name in names
                found.columns[feature.name] = (
                    _arrow_texts(table[feature.name], feature.name, None) if given else [None] * found.n
                )
    except (pa.ArrowException, ValueError, TypeError, LookupError, OverflowError, OSError, MemoryError) as error:
        raise BadBatch(f"not an Arrow stream that can be read: {_printable(str(error))}", "arrow") from None
    return found


def _compressed(metadata: bytes) -> bool:
    """Whether the record batch that this flatbuffer message announces has a BodyCompression (Arrow, Message.fbs)."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(metadata[at : at + size], "little", signed=size == 4)

    def slot(table: int, index: int) -> int:
        vtable = table - number(table, 4)
        offset = number(vtable + 4 + 2 * index, 2) if 4 + 2 * index < number(vtable, 2) else 0
        return table + offset if offset else 0

    message = number(0, 4)
    kind, header = slot(message, 1), slot(message, 2)
    if not kind or not header:
        return False
    batch = header + number(header, 4)
    if metadata[kind] == 2 and (data := slot(batch, 1)):  # a dictionary batch wraps a record batch
        batch = data + number(data, 4)
    return metadata[kind] in (2, 3) and bool(slot(batch, 3))


def _arrow_texts(column: Any, name: str, table: _Table | None) -> Sequence[Any]:
    """Texts, None where null; with a `table`, nulls are refused."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise BadBatch(f"expected text, got {column.type}", name)
    values: list[Any] = column.to_numpy().tolist()
    if table is not None and column.null_count:
        table.refuse([i for i, value in enumerate(values) if value is None], name, "expected text, got null")
        values = ["" if value is None else value for value in values]
    return values


def _arrow_numbers(table: Any, names: Sequence[str]) -> NDArray[np.float64]:
    """Columns of numbers as float64 [names, n], NaN where null or absent."""
    import pyarrow as pa

    there = {f.name: f.type for f in table.schema}
    if table.num_rows and all(there.get(name) == pa.float64() for name in names):
        (batch,) = table.select(names).combine_chunks().to_batches()
        return np.asarray(batch.to_tensor(null_to_nan=True, row_major=False).to_numpy()).T
    nothing = np.full(table.num_rows, np.nan)
    return _matrix([_arrow_number(table[n], n) if n in there else nothing for n in names], table.num_rows)


def _arrow_number(column: Any, name: str) -> NDArray[np.float64]:
    import pyarrow as pa

    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise BadBatch(f"expected numbers, got {column.type}", name)
    if not pa.types.is_float64(column.type):
        column = column.cast(pa.float64(), safe=False)
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _arrow_times(column: Any, table: _Table) -> NDArray[np.int64]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("s", "UTC" if column.type.tz else None), safe=False)
    elif not pa.types.is_integer(column.type):
        raise BadBatch(f"expected seconds or timestamps, got {column.type}", "at")
    table.refuse(np.flatnonzero(column.is_null().to_numpy()), "at", "is not a time: null")
    return np.asarray(column.cast(pa.int64()).fill_null(0).to_numpy(), dtype=np.int64)
