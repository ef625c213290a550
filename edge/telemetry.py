"""What a site tells: scored rows and labels as signed batches in the buffer, or, where data stays, as sketches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from drift import envelope, windows
from drift.performance import Predictions
from drift.reference import Reference
from drift.telemetry import Batch, Labels, Rows, Serving
from edge.buffer import Buffer
from edge.config import SiteConfig
from edge.state import State

_SPAN = 25
"""Windows in one batch of sketches."""
_PATIENCE = 90 * 86400
"""Seconds for which a site whose data stays waits for labels."""


class Telemetry:
    """Makes batches and puts them into the buffer.

    A batch's id is site, period and a number that only rises, so no id is ever used for two. Call within a change of
    the state, so that what a batch tells and its place in the buffer are one write.
    """

    def __init__(
        self,
        config: SiteConfig,
        state: State,
        buffer: Buffer,
        sign: Callable[[bytes], bytes] | None,
        reference: Callable[[str], Reference],
    ) -> None:
        self._config = config
        self._schema = config.schema.telemetry()
        self._state = state
        self._buffer = buffer
        self._sign = sign
        self._reference = reference
        self._malformed = config.faults.malformed if config.data else None

    def tell(
        self, candidate: str, rows: Rows | None, serving: Serving, labels: Labels | None, start: int, end: int
    ) -> None:
        """Rows of [start, end] and how they were served; labels that became known meanwhile."""
        batch = self._batch(candidate, start, end)
        if not self._config.stays:
            whole = replace(batch, rows=rows, serving=serving, labels=labels)
            for part in _cut(whole, self._config.batch_rows):
                self._put(part)
            return
        if rows is not None:
            self._sketched(batch, rows, serving)
        if labels is not None:
            self._settled(labels, end)

    def alive(self, candidate: str, at: int) -> None:
        """A batch without rows: this candidate is served, and nothing was asked of it."""
        nothing = np.empty(0)
        columns: Any = {f.name: nothing if f.kind == "number" else [] for f in self._schema.features}
        rows = Rows([], nothing.astype(np.int64), nothing, columns)
        self._put(replace(self._batch(candidate, at, at), rows=rows))

    def _batch(self, candidate: str, start: int, end: int) -> Batch:
        config = self._config
        return Batch(self._schema.version, config.loop, candidate, config.name, "", start, end, key=config.key_id)

    def _put(self, batch: Batch) -> None:
        """Into the buffer, cut in two as often as it takes to keep within the bound."""
        number = self._state.get("batches", 0)
        name = f"{batch.site}-{self._config.instance}" if self._config.instance else batch.site
        named = replace(batch, id=f"{name}-{envelope.iso(batch.start).replace(':', '')}-{number}")
        payload = envelope.encode(named, self._schema)
        body = self._signed(payload)
        n = max((len(part) for part in (batch.rows, batch.labels) if part is not None), default=1)
        if len(body) > self._config.batch_bytes and n > 1:
            for half in _cut(batch, -(-n // 2)):
                self._put(half)
            return
        self._buffer.add(named.id, body)
        if number == self._malformed:
            name = f"{named.id}-damaged"
            self._buffer.add(name, self._signed(_damaged(payload, name)))
        self._state.put(batches=number + 1)

    def _signed(self, payload: bytes) -> bytes:
        return payload if self._sign is None else envelope.signed(payload, self._sign)

    def _sketched(self, batch: Batch, rows: Rows, serving: Serving) -> None:
        """The rows as counts, and their predictions kept here until the labels come."""
        reference = self._reference(batch.candidate)
        made = windows.fold(replace(batch, rows=rows), reference, reference.seconds)
        self._put(replace(batch, sketch=windows.pack(made.values()), serving=serving))
        if len(rows):
            body = Predictions.of(rows, reference, reference.seconds).to_bytes()
            with self._state.change() as db:
                db.execute("delete from predictions where start < ?", (batch.start - _PATIENCE,))
                number = self._state.get("batches")
                db.execute("insert into predictions values (?, ?, ?, ?)", (number, batch.candidate, batch.start, body))

    def _settled(self, labels: Labels, end: int) -> None:
        """Labels joined with the predictions kept here, as counts of outcomes by candidate and period."""
        found: dict[str, dict[int, windows.Window]] = {}
        first, last = int(labels.at.min()) - self._config.flush, int(labels.at.max())
        kept = "select number, candidate, body from predictions where start between ? and ?"
        for number, candidate, body in self._state.all(kept, first, last):
            predictions, outcomes, matched = Predictions.from_bytes(body).settle(labels)
            if not matched.any():
                continue
            reference = self._reference(candidate)
            made = found.setdefault(candidate, {})
            deltas = windows.settled(candidate, self._config.name, reference.seconds, reference, outcomes)
            for period, delta in deltas.items():
                made[period] = made[period] + delta if period in made else delta
            with self._state.change() as db:
                if predictions.settled:
                    db.execute("delete from predictions where number = ?", (number,))
                else:
                    db.execute("update predictions set body = ? where number = ?", (predictions.to_bytes(), number))
        for candidate, made in found.items():
            periods = sorted(made)
            for i in range(0, len(periods), _SPAN):
                some = periods[i : i + _SPAN]
                batch = self._batch(candidate, some[0], end)
                self._put(replace(batch, sketch=windows.pack(made[period] for period in some)))


def take(rows: Rows, part: slice) -> Rows:
    columns = {name: values[part] for name, values in rows.columns.items()}
    return Rows(rows.ids[part], rows.at[part], rows.score[part], columns)


def _cut(batch: Batch, most: int) -> Iterator[Batch]:
    """In parts of at most `most` rows and as many labels; how they were served goes with the first."""
    rows, labels = batch.rows, batch.labels
    n = max((len(part) for part in (rows, labels) if part is not None), default=0)
    for first in range(0, max(n, 1), most):
        part = slice(first, first + most)
        yield replace(
            batch,
            rows=None if rows is None or 0 < len(rows) <= first else take(rows, part),
            labels=None if labels is None or len(labels) <= first else _some(labels, part),
            serving=batch.serving if first == 0 else Serving(),
        )


def _some(labels: Labels, part: slice) -> Labels:
    return Labels(labels.ids[part], labels.at[part], labels.label[part])


def _damaged(payload: bytes, name: str) -> bytes:
    """The batch under another name, with one value lost."""
    envelope = msgspec.json.decode(payload)
    envelope["batch"] = name
    columns = envelope.get("columns") or envelope.get("labels")
    if columns:
        columns[max(columns)].pop()
    else:
        envelope["sketch"] += "!"
    return msgspec.json.encode(envelope)
