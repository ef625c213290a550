"""Stored telemetry -> one table: what the sites sent, each row once, with its label where that has come.

Accepted batches lie in bundles at `batches/<loop>/<site>/<date of their end>-<digest>` in the blob store, some of
them in two. Labels come in batches of their own time, late, twice or in any order. Of two rows, or labels, with one id
at one site the one of the earlier batch (by start, then id) counts, so that the same files make the same table.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.envelope import BadBatch, decode, unbundle
from drift.telemetry import Batch, Schema
from jobs.table import Table


@dataclass(frozen=True)
class Assembled:
    """The table, ordered by time, then site; what was left out, counted by reason; sites that sent sketches alone; the
    batch of each row, where rows came in batches."""

    table: Table
    left_out: Mapping[str, int]
    without_rows: tuple[str, ...] = ()
    batches: NDArray[np.object_] | None = None


def assemble(
    blobs: Path,
    loop: str,
    schema: Schema,
    start: int,
    end: int,
    sites: Collection[str] | None = None,
    listed: Collection[str] | None = None,
    untrusted: Mapping[str, str] = {},
    revoked: Mapping[str, Collection[str]] = {},
) -> Assembled:
    """The rows with start <= at < end (UTC seconds) that `sites` (None: all) sent, labelled or not.

    `listed`: the only bundles to read, by path below the loop's batches. Left out are `untrusted` sites (why, by name),
    and what was signed with `revoked` keys (ids, by site).
    """
    rows, folder = _Gathered(schema, start, end, sites, untrusted, revoked), blobs / "batches" / loop
    for path in bundles(folder, start) if listed is None else (str(folder / name) for name in listed):
        rows.add(path)
    return rows.assembled()


def bundles(folder: Path, start: int) -> Iterator[str]:
    """Every batch that may hold rows or labels of rows since `start`: none is of a row after its own end."""
    first = datetime.fromtimestamp(start, UTC).date().isoformat()
    for at, folders, names in os.walk(folder):
        folders.sort()
        yield from (os.path.join(at, name) for name in sorted(names) if name[:10] >= first)


@dataclass
class _Gathered:
    """What was read so far: batches by site and id."""

    schema: Schema
    start: int
    end: int
    sites: Collection[str] | None
    untrusted: Mapping[str, str]
    revoked: Mapping[str, Collection[str]]
    batches: dict[str, dict[str, Batch]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, path: str) -> None:
        with open(path, "rb") as file:
            data = file.read()
        try:
            payloads = unbundle(data)
        except ValueError as error:
            self.left_out[f"files that cannot be read ({error})"] += 1
            return
        for payload in payloads:
            self._take(payload)

    def _take(self, payload: bytes) -> None:
        try:
            batch = decode(payload, self.schema, max_bytes=max(len(payload), 1))
        except BadBatch as error:
            self.left_out[f"batches that cannot be read ({error})"] += 1
            return
        if why := self._distrust(batch):
            self.left_out[f"rows of {batch.site}: {why}"] += 0 if batch.rows is None else len(batch.rows)
        elif self.sites is None or batch.site in self.sites:
            known = self.batches.setdefault(batch.site, {})
            if known.setdefault(batch.id, batch) is not batch:
                return
            self.left_out["rows that cannot be read"] += len(batch.refused)
            self.left_out[f"batches of {batch.site} that are sketches, without rows"] += batch.sketch is not None

    def _distrust(self, batch: Batch) -> str:
        if batch.key in self.revoked.get(batch.site, ()):
            return f"key {batch.key!r} is revoked"
        return self.untrusted.get(batch.site, "")

    def assembled(self) -> Assembled:
        silent = (s for s, told in self.batches.items() if all(b.rows is None for b in told.values()))
        without = tuple(sorted(s for s in silent if any(b.sketch for b in self.batches[s].values())))
        parts = [self._site(site, [*self.batches.pop(site).values()]) for site in sorted(self.batches)]
        parts = [part for part in parts if len(part[0])] or [(nothing(self.schema), np.empty(0, dtype=object))]
        table, named = joined([part for part, _ in parts]), np.concatenate([batches for _, batches in parts])
        order = np.argsort(table.at, kind="stable")
        table, named = table.take(order), named[order]
        self.left_out["rows without a label yet"] += int(np.isnan(table.label).sum())
        return Assembled(table, {reason: n for reason, n in self.left_out.items() if n}, without, named)

    def _site(self, site: str, batches: list[Batch]) -> tuple[Table, NDArray[np.object_]]:
        """A site's rows, and the batch of each."""
        batches.sort(key=lambda b: (b.start, b.id))
        labels = self._labels(batches)
        told = [(b.id, b.rows) for b in batches if b.rows is not None and len(b.rows)]
        with_rows = [rows for _, rows in told]
        if not told:
            return nothing(self.schema), np.empty(0, dtype=object)
        ids = [i for rows in with_rows for i in rows.ids]
        at = np.concatenate([rows.at for rows in with_rows])
        inside = (at >= self.start) & (at < self.end)
        first: dict[str, int] = {}
        for row in np.flatnonzero(inside).tolist():
            first.setdefault(ids[row], row)
        keep = np.fromiter(first.values(), np.int64, len(first))
        self.left_out["rows sent twice"] += int(inside.sum()) - len(keep)
        unknown = float("nan")
        table = Table(
            _objects(first),
            at[keep],
            np.full(len(keep), site, dtype=object),
            np.concatenate([rows.score for rows in with_rows])[keep],
            np.fromiter((labels.get(i, unknown) for i in first), np.float64, len(first)),
            {f.name: _column([rows.columns[f.name] for rows in with_rows], f.kind)[keep] for f in self.schema.features},
        )
        return table, np.repeat(_objects(name for name, _ in told), [len(rows) for rows in with_rows])[keep]

    def _labels(self, batches: list[Batch]) -> dict[str, float]:
        """The first label of each id; later ones that contradict it are counted."""
        labels: dict[str, float] = {}
        told = [b.labels for b in batches if b.labels is not None]
        for each in reversed(told):
            labels.update(zip(reversed(each.ids), reversed(each.label.tolist()), strict=True))
        self.left_out["labels that contradict an earlier one"] += sum(
            labels[i] != label for each in told for i, label in zip(each.ids, each.label.tolist(), strict=True)
        )
        return labels


def joined(parts: list[Table]) -> Table:
    """The rows of all parts, in their order."""
    return Table(
        np.concatenate([p.ids for p in parts]),
        np.concatenate([p.at for p in parts]),
        np.concatenate([p.site for p in parts]),
        np.concatenate([p.score for p in parts]),
        np.concatenate([p.label for p in parts]),
        {name: np.concatenate([p.columns[name] for p in parts]) for name in parts[0].columns},
    )


def _column(parts: list[Any], kind: str) -> Any:
    if kind == "number":
        return np.concatenate(parts)
    return _objects([value for part in parts for value in part])


def _objects(values: Iterable[Any]) -> Any:
    listed = list(values)
    out = np.empty(len(listed), dtype=object)
    out[:] = listed
    return out


def nothing(schema: Schema) -> Table:
    """A table without rows."""
    nothing = np.empty(0)
    texts = np.empty(0, dtype=object)
    columns = {f.name: nothing if f.kind == "number" else texts for f in schema.features}
    return Table(texts, np.empty(0, np.int64), texts, nothing, nothing, columns)
