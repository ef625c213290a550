"""A bounded sample of rows, however many: those whose ids hash lowest, so that order and repeats do not matter."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.envelope import BadBatch, decode, unbundle
from drift.performance import hashes
from drift.telemetry import Rows, Schema
from jobs.assemble import bundles, joined, nothing
from jobs.table import Table


class Reservoir:
    """At most `rows` rows of all that are added, each id once; at no time more than a few times as many are held."""

    def __init__(self, rows: int, schema: Schema) -> None:
        self.rows, self.seen = rows, 0
        self._kept = nothing(schema)
        self._keys = np.zeros(0, np.uint64)
        self._bound: int | None = None

    def add(self, table: Table) -> None:
        keys = hashes(table.ids.tolist())
        self.seen += len(keys)
        if self._bound is not None:
            low = np.flatnonzero(keys < self._bound)
            table, keys = table.take(low), keys[low]
        self._kept, self._keys = joined([self._kept, table]), np.concatenate((self._keys, keys))
        if len(self._keys) > 4 * self.rows:
            self._cut()

    def table(self) -> Table:
        """The sample, ordered by time."""
        self._cut()
        return self._kept.take(np.argsort(self._kept.at, kind="stable"))

    def _cut(self) -> None:
        self._keys, first = np.unique(self._keys, return_index=True)
        self._kept = self._kept.take(first[: self.rows])
        self._keys = self._keys[: self.rows]
        if len(self._keys) == self.rows:
            self._bound = int(self._keys[-1])


def stored(
    blobs: Path,
    loop: str,
    schema: Schema,
    span: tuple[int, int],
    *,
    rows: int,
    sites: Collection[str] | None = None,
    candidate: str = "",
) -> Reservoir:
    """A sample of the stored rows with span[0] <= at < span[1] (UTC seconds), of some sites, of one model or of all."""
    kept = Reservoir(rows, schema)
    for path in bundles(blobs / "batches" / loop, span[0]):
        try:
            payloads = unbundle(Path(path).read_bytes())
        except ValueError:
            continue
        for payload in payloads:
            try:
                batch = decode(payload, schema, max_bytes=max(len(payload), 1))
            except BadBatch:
                continue
            wanted = (sites is None or batch.site in sites) and candidate in ("", batch.candidate)
            if wanted and batch.rows is not None and len(batch.rows):
                inside = (batch.rows.at >= span[0]) & (batch.rows.at < span[1])
                kept.add(_table(batch.rows, batch.site, schema).take(np.flatnonzero(inside)))
    return kept


def _table(rows: Rows, site: str, schema: Schema) -> Table:
    n = len(rows)
    columns = {
        f.name: _texts(rows.columns[f.name]) if f.kind == "category" else np.asarray(rows.columns[f.name], np.float64)
        for f in schema.features
    }
    return Table(_texts(rows.ids), rows.at, np.full(n, site, object), rows.score, np.full(n, np.nan), columns)


def _texts(values: Any) -> NDArray[Any]:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out
