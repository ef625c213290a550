"""Telemetry that is no envelope: rows of files and of log tables, made into batches that count once.

What a source has said before makes the same batches again, which are known by their ids: a crash, a redelivery or an
overlapping timer changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from drift import envelope, windows
from drift.telemetry import MAX_BYTES
from triggers import codec, sites
from triggers.config import Fleet, Logs, Loop, duration, endpoint_name
from triggers.errors import Refused, Retry
from triggers.intake import MAX_AHEAD, Intake, ingest
from triggers.ports import LogTable, Ports, Put
from triggers.records import Head, Quarantined

SLICE = timedelta(minutes=15)
"""A log table is read in slices of so long, on a fixed grid: who reads the same slice makes the same batches."""

CATCH_UP = 96
"""Slices in one go at most."""

TRAFFIC = """AmlOnlineEndpointTrafficLog
| summarize requests = count(), errors = countif(toint(ResponseCode) >= 500),
  p50_ms = percentile(TotalDurationMs, 50), p95_ms = percentile(TotalDurationMs, 95), TimeGenerated = max(TimeGenerated)
  by EndpointName, DeploymentName"""

_SAID = 100


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What of a file was counted: its first `bytes`, whose SHA-256 is `digest`."""

    name: str
    etag: str
    bytes: int
    digest: str
    rows: int
    at: datetime


class Watermark(msgspec.Struct, frozen=True, kw_only=True):
    """Until when (ingestion time) a log table was read."""

    until: datetime


@dataclass(frozen=True)
class Piece:
    """Rows by column, as they stand in a source: numbered from `first`. Its own name and time of a row are in `_id` and
    `_at`, where the schema's columns are not there. What could not be read is in `refused`, as
    (number, column, reason). `end` and `digest`: bytes of the source up to here, and their SHA-256."""

    first: int
    rows: Sequence[Mapping[str, Any]]
    refused: Sequence[tuple[int, str, str]] = ()
    end: int = 0
    digest: str = ""


@dataclass(frozen=True)
class Origin:
    """Where rows come from: `id` names it once and for all. What it does not say of site and candidate, rows or the
    site's state do. `own`: only the site itself can write there."""

    id: str
    name: str
    site: str = ""
    candidate: str = ""
    own: bool = False


@dataclass
class _Reading:
    """One source being read."""

    ports: Ports
    loop: Loop
    fleet: Fleet
    origin: Origin
    refused: list[tuple[int, str, str]] = field(default_factory=list)
    serving: dict[str, str] = field(default_factory=dict)

    def batches(self, piece: Piece) -> Iterator[bytes]:
        """Envelopes, each of one site and one window."""
        self.refused += piece.refused
        now, seconds = self.ports.clock.now(), int(duration(self.loop.telemetry.window).total_seconds())
        lateness = int(duration(self.loop.telemetry.lateness).total_seconds())
        found: dict[tuple[str, int], list[tuple[int, int, Mapping[str, Any]]]] = {}
        for number, row in enumerate(piece.rows, piece.first):
            try:
                site, at = self._site(row), self._at(row)
                if at > (now + MAX_AHEAD).timestamp():
                    raise ValueError(f"{self.loop.schema.timestamp}: is in the future")
                if windows.too_late(at, int(now.timestamp()), lateness, seconds):
                    raise ValueError(f"{self.loop.schema.timestamp}: is later than {self.loop.telemetry.lateness}")
            except ValueError as problem:
                column, _, reason = str(problem).partition(": ")
                self.refused.append((number, column, reason))
                continue
            found.setdefault((site, windows.period(at, seconds)), []).append((number, at, row))
        for (site, start), rows in found.items():
            yield from self._fitting(site, start, rows)

    def _fitting(self, site: str, start: int, rows: list[tuple[int, int, Mapping[str, Any]]]) -> Iterator[bytes]:
        made = self._envelope(site, start, rows)
        if len(made) <= MAX_BYTES or len(rows) == 1:
            yield made
            return
        half = len(rows) // 2
        yield from self._fitting(site, start, rows[:half])
        yield from self._fitting(site, start, rows[half:])

    def _envelope(self, site: str, start: int, rows: list[tuple[int, int, Mapping[str, Any]]]) -> bytes:
        schema, number = self.loop.schema, rows[0][0]
        ids = [str(row.get(schema.id or "") or row.get("_id") or f"{self.origin.id}-{n}") for n, _, row in rows]
        at = [time for _, time, _ in rows]
        columns: dict[str, Any] = {"id": ids, "at": at}
        if schema.prediction:
            columns["score"] = [_number(row.get(schema.prediction)) for _, _, row in rows]
        for f in schema.features:
            read = _number if f.kind == "number" else _text
            columns[f.name] = [read(row.get(f.column or f.name)) for _, _, row in rows]
        told: dict[str, Any] = {
            "schema": schema.version,
            "loop": self.loop.loop,
            "candidate": self._candidate(site),
            "site": site,
            "batch": f"{self.origin.id}/{number}/{start}",
            "from": envelope.iso(min(at)),
            "to": envelope.iso(max(at)),
            "columns": columns,
        }
        if schema.label:
            labels = [(i, t, _number(row.get(schema.label))) for i, t, (_, _, row) in zip(ids, at, rows, strict=True)]
            told["labels"] = [{"id": i, "at": t, "label": v} for i, t, v in labels if v is not None]
        return msgspec.json.encode(told)

    def _site(self, row: Mapping[str, Any]) -> str:
        name = self.origin.site or str(row.get(self.loop.schema.site or "") or "")
        site = self.fleet.site(name)
        column = self.loop.schema.site or "site"
        if site is None:
            raise ValueError(f"{column}: is no site of the fleet: {name[:40]!r}")
        if site.keys and not self.origin.own:
            raise ValueError(f"{column}: {name} signs its batches: its rows come signed, or from a folder of its own")
        return name

    def _at(self, row: Mapping[str, Any]) -> int:
        column = self.loop.schema.timestamp
        value = row.get(column, row.get("_at"))
        if isinstance(value, str) and (number := _number(value)) is not None and not isinstance(number, str):
            value = number
        if isinstance(value, datetime):
            value = value.isoformat()
        try:
            return envelope.seconds(value)
        except ValueError as problem:
            raise ValueError(f"{column}: {problem}") from problem

    def _candidate(self, site: str) -> str:
        """What the source says, or what the site was last seen to serve."""
        if self.origin.candidate:
            return self.origin.candidate
        if site not in self.serving:
            seen = sites.state_of(self.ports, self.loop.loop, site).observed
            record = None if seen else self.ports.store.get(self.loop.loop, "head")
            self.serving[site] = seen or (codec.decode(record.value, Head).champion_of(site) if record else "")
        return self.serving[site]


def count(ports: Ports, loop: str, origin: Origin, piece: Piece) -> Intake:
    """Count a piece of a source; durable when it returns. A row that cannot be read costs itself: the first of them
    are kept with their reasons."""
    reading = _Reading(ports, ports.configs.loop(loop), ports.configs.fleet(loop), origin)
    done = ingest(ports, list(reading.batches(piece)), verify=False)
    if reading.refused:
        done.refused_rows += len(reading.refused)
        words = f"{len(reading.refused)} rows of {origin.name[:200]} could not be read; the others were counted"
        _note(ports, loop, origin, piece.first, words, tuple(reading.refused[:_SAID]))
    return done


def counted(ports: Ports, loop: str, name: str) -> Counted | None:
    """What was counted of a file."""
    record = ports.store.get(loop, _file_key(name))
    return codec.decode(record.value, Counted) if record else None


def keep(ports: Ports, loop: str, counted: Counted) -> None:
    """Remember what was counted of a file."""
    ports.store.commit(loop, [Put(_file_key(counted.name), codec.encode(counted), "*")])


def refuse(ports: Ports, loop: str, origin: Origin, reason: str) -> None:
    """Nothing of a source is counted, and why; the source itself stays where it is."""
    _note(ports, loop, origin, 0, reason, ())


def poll(ports: Ports, loop: str) -> Intake:
    """Read what the loop's log tables have ingested since the last time, slice by slice."""
    config, done = ports.configs.loop(loop), Intake()
    for logs in config.telemetry.logs:
        end = None
        for start in _slices(ports, loop, logs):
            end = start + SLICE
            table = _whole(ports, logs, start, end)
            if logs.query:
                origin = Origin(f"logs/{_mark(logs)}/{start:%Y%m%dT%H%M}", f"log table {logs.workspace}")
                for piece in _pieces(table):
                    _add(done, count(ports, loop, origin, piece))
            else:
                _add(done, _traffic(ports, loop, logs, start, end, table))
            if table.rows:
                _reached(ports, loop, logs, end)
        if end is not None:
            _reached(ports, loop, logs, end)
    return done


def _reached(ports: Ports, loop: str, logs: Logs, until: datetime) -> None:
    ports.store.commit(loop, [Put(f"logs/{_mark(logs)}", codec.encode(Watermark(until=until)), "*")])


def _slices(ports: Ports, loop: str, logs: Logs) -> Iterator[datetime]:
    """Beginnings of the slices that are whole and not yet read; at first, of the last day."""
    last = ports.clock.now() - duration(logs.delay) - SLICE
    record = ports.store.get(loop, f"logs/{_mark(logs)}")
    start = codec.decode(record.value, Watermark).until if record else _grid(last - timedelta(days=1))
    for _ in range(CATCH_UP):
        if start > last:
            return
        yield start
        start += SLICE


def _grid(at: datetime) -> datetime:
    seconds = int(at.timestamp()) // int(SLICE.total_seconds()) * int(SLICE.total_seconds())
    return datetime.fromtimestamp(seconds, UTC)


def _mark(logs: Logs) -> str:
    return codec.digest(f"{logs.workspace.lower()} {logs.query}".encode())[:24]


def _whole(ports: Ports, logs: Logs, start: datetime, end: datetime) -> LogTable:
    """All rows of a slice; where an answer is partial, its halves are asked for."""
    if ports.logs is None:
        raise Refused("this profile reads no log tables")
    between = f"where ingestion_time() >= datetime({_utc(start)}) and ingestion_time() < datetime({_utc(end)})"
    name, _, rest = (logs.query or TRAFFIC).strip().partition("\n" if "\n" in (logs.query or TRAFFIC).strip() else "|")
    rest = rest.strip().removeprefix("|").strip()
    kql = f"{name.strip()}\n| {between}" + (f"\n| {rest}" if rest else "")
    table = ports.logs.query(logs.workspace, kql, start - timedelta(days=30), end)
    if not table.partial:
        return table
    if end - start < timedelta(seconds=2) or not logs.query:
        raise Retry(f"log table {logs.workspace}: {table.partial}")
    middle = start + (end - start) / 2
    first, second = _whole(ports, logs, start, middle), _whole(ports, logs, middle, end)
    return LogTable(first.columns or second.columns, [*first.rows, *second.rows])


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _pieces(table: LogTable, most: int = 2000) -> Iterator[Piece]:
    """In an order of their own: the service promises none, and what is read again must be the same batches."""
    rows = [dict(zip(table.columns, row, strict=True)) for row in sorted(table.rows, key=repr)]
    for first in range(0, len(rows), most):
        yield Piece(first, rows[first : first + most])


def _traffic(ports: Ports, loop: str, logs: Logs, start: datetime, end: datetime, table: LogTable) -> Intake:
    """Requests, errors and latencies of endpoints that are called as config.endpoint_name says, or as their site is."""
    config, fleet = ports.configs.loop(loop), ports.configs.fleet(loop)
    names = {n.casefold(): s.name for s in fleet.sites for n in (s.name, endpoint_name(loop, s))}
    payloads = []
    for values in table.rows:
        row = dict(zip(table.columns, values, strict=True))
        site = names.get(str(row["EndpointName"]).casefold())
        if site is None:
            continue
        origin = Origin(f"logs/{_mark(logs)}/{start:%Y%m%dT%H%M}/{row['DeploymentName']}", "endpoint traffic")
        candidate = _deployed(ports, config.loop, site, str(row["DeploymentName"]))
        if not candidate:
            refuse(
                ports, loop, origin, f"{site} has no candidate that deployment {row['DeploymentName']!r} is called by"
            )
            continue
        told = {
            "schema": config.schema.version,
            "loop": loop,
            "candidate": candidate,
            "site": site,
            "batch": origin.id,
            "from": _utc(start),
            "to": _utc(end - timedelta(seconds=1)),
            "rows": [],
            "serving": {n: _number(row[n]) or 0 for n in ("p50_ms", "p95_ms")}
            | {n: int(row[n] or 0) for n in ("requests", "errors")},
        }
        payloads.append(msgspec.json.encode(told))
    return ingest(ports, payloads, verify=False)


def _deployed(ports: Ports, loop: str, site: str, deployment: str) -> str:
    """The candidate of this site whose digest a deployment's name has the beginning of, 12 characters at least."""
    state = sites.state_of(ports, loop, site)
    record = ports.store.get(loop, "head")
    champion = codec.decode(record.value, Head).champion_of(site) if record else ""
    known = (state.candidate, state.observed, state.last_good, champion)
    return next((c for c in known if c and c[:12] in deployment.lower()), "")


def _note(
    ports: Ports, loop: str, origin: Origin, first: int, reason: str, rows: tuple[tuple[int, str, str], ...]
) -> None:
    found = Quarantined(
        at=ports.clock.now(),
        loop=loop,
        site=origin.site,
        batch=origin.id[:200],
        reason=reason,
        blob=origin.name[:1000],
        rows=rows,
    )
    key = f"quarantine/source-{codec.digest(f'{origin.id}/{first}'.encode())[:32]}"
    ports.store.commit(loop, [Put(key, codec.encode(found), "*")])


def _file_key(name: str) -> str:
    return f"upload/{codec.digest(name.encode())[:32]}"


def _add(done: Intake, more: Intake) -> None:
    done.accepted += more.accepted
    done.duplicate += more.duplicate
    done.rows += more.rows
    done.refused_rows += more.refused_rows
    done.reasons += more.reasons


def _number(value: Any) -> Any:
    """A number, where a text is one; nothing for an empty one; anything else as it is, for the decoder to refuse."""
    if isinstance(value, str):
        try:
            value = float(value) if value.strip() else None
        except ValueError:
            return value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _text(value: Any) -> Any:
    return None if value is None or value == "" else value if isinstance(value, str) else str(value)
