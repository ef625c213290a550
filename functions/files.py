"""Files of rows, read in pieces: CSV, Parquet, JSON lines, and what Azure ML's data collector writes."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import msgspec

from triggers.errors import NotFound, Refused
from triggers.sources import Piece

ROWS = 2000
LINE = 8 * 1024 * 1024
"""Bytes of a line: the collector writes up to 4 MB a request."""

ENDINGS: Mapping[str, str] = {"csv": "csv", "parquet": "parquet", "jsonl": "jsonl", "ndjson": "jsonl"}
ENVELOPE = ".envelope.json"
"""A batch as a site's own program leaves it: no rows, but the telemetry envelope."""

GROW = frozenset({"jsonl", "collector"})
"""Formats that a file may be appended to."""

Fetch = Callable[[str], bytes]


def kind(name: str, said: str) -> str:
    """The format of a file. Raises Refused where neither the configuration nor its name says it."""
    if said != "auto":
        return said
    if "/modelDataCollector/" in f"/{name}":
        return "collector"
    if name.endswith(ENVELOPE):
        return "envelope"
    found = ENDINGS.get(name.rpartition(".")[2].lower())
    if found is None:
        raise Refused(f"{name[-80:]}: the name does not say whether it is CSV, Parquet or JSON lines")
    return found


def pieces(file: BinaryIO, kind: str, fetch: Fetch, start: int = 0, first: int = 0) -> Iterator[Piece]:
    """Rows from byte `start` on (formats that grow), the first of which has the number `first`. Raises Refused where
    the file is not what it should be; `fetch` gets what a collector's record points to."""
    if kind in GROW:
        yield from _lines(file, _collected(fetch) if kind == "collector" else _plain, start, first)
        return
    digest, end = _digest(file), file.tell()
    rows = _csv(file) if kind == "csv" else _parquet(file)
    number, part = 0, []
    for row in rows:
        part.append(row)
        if len(part) == ROWS:
            yield Piece(number, part)
            number, part = number + len(part), []
    yield Piece(number, part, end=end, digest=digest)


def prefix(file: BinaryIO, length: int) -> str:
    """SHA-256 of the first bytes."""
    file.seek(0)
    made, left = hashlib.sha256(), length
    while left and (data := file.read(min(left, 1 << 20))):
        made.update(data)
        left -= len(data)
    return made.hexdigest()


def _digest(file: BinaryIO) -> str:
    return prefix(file, 1 << 62)


def _lines(file: BinaryIO, read: Callable[[bytes], list[Any]], start: int, first: int) -> Iterator[Piece]:
    """Whole lines: one that is still being written waits for the next time."""
    made = hashlib.sha256()
    file.seek(0)
    made.update(file.read(start))
    number, end = first, start
    rows: list[Any] = []
    refused: list[tuple[int, str, str]] = []
    while line := file.readline(LINE):
        try:
            found = read(line) if line.strip() else []
        except ValueError as problem:
            if not line.endswith(b"\n"):
                if len(line) == LINE:
                    raise Refused(f"a line of more than {LINE} bytes") from problem
                break
            found = [None]
            refused.append((number + len(rows), "", f"cannot be read: {problem}"))
        made.update(line)
        end += len(line)
        rows += [row if isinstance(row, dict) else {} for row in found]
        if len(rows) >= ROWS:
            yield _piece(number, rows, refused, end, made)
            number, rows, refused = number + len(rows), [], []
    yield _piece(number, rows, refused, end, made)


def _piece(first: int, rows: list[Any], refused: list[tuple[int, str, str]], end: int, made: Any) -> Piece:
    return Piece(first, rows, refused, end, made.hexdigest())


def _plain(line: bytes) -> list[Any]:
    return [_json(line)]


def _collected(fetch: Fetch) -> Callable[[bytes], list[Any]]:
    """A collector's record is a CloudEvent with the rows of one request, or a pointer to them. Its `correlationid` is
    shared by requests that are near each other, so that it names no row; its `id` does, with the row's place."""

    def read(line: bytes) -> list[Any]:
        record = _json(line)
        if not isinstance(record, dict):
            raise ValueError("is no CloudEvent")
        data = record.get("data")
        if data is None and isinstance(record.get("dataref"), str):
            try:
                data = _json(fetch(record["dataref"]))
            except (Refused, NotFound) as problem:
                raise ValueError(f"points to {record['dataref'][:200]}: {problem}") from problem
        rows = data if isinstance(data, list) else [data]
        about = {"_at": record.get("time")}
        known = record.get("id")
        return [
            {**about, **({"_id": f"{known}-{i}"} if known else {}), **row} if isinstance(row, dict) else None
            for i, row in enumerate(rows)
        ]

    return read


def _json(data: bytes) -> Any:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise ValueError(str(problem)) from problem
    return found


def _csv(file: BinaryIO) -> Iterator[Mapping[str, Any]]:
    file.seek(0)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
    try:
        reader = csv.DictReader(text)
        if len(set(reader.fieldnames or ())) < len(reader.fieldnames or ()):
            raise Refused("a column stands twice")
        for row in reader:
            yield {name: value for name, value in row.items() if isinstance(name, str)}
    except csv.Error as problem:
        raise Refused(f"not CSV: {problem}") from problem
    finally:
        text.detach()


def _parquet(file: BinaryIO) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.seek(0)
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=ROWS):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as problem:
        raise Refused(f"not Parquet: {str(problem)[:200]}") from problem
