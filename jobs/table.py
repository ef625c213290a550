"""Labelled rows by column: what jobs train and evaluate on, and the files that hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.telemetry import Rows, Schema
from triggers.config import Loop, duration

Text = NDArray[np.object_]
BOUNDS = ("at_least", "at_most")


class BadTable(ValueError):
    """A table cannot be read as the loop's; the words say which column, and what was expected."""


@dataclass(frozen=True)
class Table:
    """Rows of every site, [n] each. `at` is UTC seconds; `score` is what was served, NaN where nothing was; `label` is
    NaN until known. A number column is float64, NaN for missing; a category column holds `str | None`."""

    ids: Text
    at: NDArray[np.int64]
    site: Text
    score: NDArray[np.float64]
    label: NDArray[np.float64]
    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: NDArray[Any]) -> Table:
        """The rows of a mask or an index."""
        columns = {name: column[which] for name, column in self.columns.items()}
        return Table(self.ids[which], self.at[which], self.site[which], self.score[which], self.label[which], columns)

    def between(self, start: int, end: int) -> NDArray[np.bool_]:
        """Which rows have start <= at < end."""
        return (self.at >= start) & (self.at < end)

    @property
    def labelled(self) -> Table:
        return self.take(np.isfinite(self.label))

    def within(self, share: float | None) -> tuple[NDArray[np.bool_], dict[str, int]]:
        """Which rows to keep so that of the labelled ones no site has more than `share` (None: three times an even
        share), and how many that costs each site; they are taken out evenly over its time."""
        known = np.isfinite(self.label)
        counts = self.take(known).sites()
        most = _most(list(counts.values()), min(1.0, 3 / max(len(counts), 1)) if share is None else share)
        keep, cut = np.ones(len(self), np.bool_), {}
        for site, n in counts.items():
            if n > most:
                index = np.flatnonzero(known & (self.site == site))
                keep[index] = False
                keep[index[np.linspace(0, n - 1, most).astype(np.intp)]] = True
                cut[site] = n - most
        return keep, cut

    def rows(self, score: NDArray[np.float64]) -> Rows:
        """The same as telemetry, with these scores."""
        return Rows(self.ids.tolist(), self.at, score, self.columns)

    def sites(self) -> dict[str, int]:
        """Rows by site."""
        names, counts = np.unique(self.site.astype(str), return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))

    def busiest(self, seconds: int) -> int:
        """The most rows that one site has in one of the periods of so many seconds."""
        _, sites = np.unique(self.site.astype(str), return_inverse=True)
        periods = np.unique(np.stack([sites, self.at // seconds]), axis=1, return_counts=True)[1]
        return int(periods.max(initial=0))

    def digest(self) -> str:
        """sha256 of the rows, columns by name."""
        made = hashlib.sha256()
        parts = {"id": self.ids, "at": self.at, "site": self.site, "label": self.label, **self.columns}
        for name, column in sorted(parts.items()):
            made.update(name.encode())
            if column.dtype == object:
                made.update("\x1f".join("\x00" if v is None else v for v in column.tolist()).encode())
            else:
                made.update(np.ascontiguousarray(column).tobytes())
        return made.hexdigest()


def _most(counts: Sequence[int], share: float) -> int:
    """How many rows a site may have so that none has more than `share` of what is left; an even share, where fewer is
    asked.

    >>> _most([90, 10, 10], 0.5), _most([4, 4], 0.1)
    (20, 4)
    """
    rest, ordered = sum(counts), sorted(counts, reverse=True)
    for capped, n in enumerate(ordered):
        if share * capped >= 1 - 1e-9:
            return n
        most = share * rest / (1 - share * capped)
        if n <= most:
            return int(most)
        rest -= n
    return min(counts, default=0)


def write(table: Table, path: Path) -> None:
    """As Parquet: id, at, site, score, label, then the features."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"id": table.ids, "at": table.at, "site": table.site, "score": table.score, "label": table.label}
    arrays = {
        name: pa.array(column, pa.string() if column.dtype == object else None, from_pandas=column.dtype == np.float64)
        for name, column in {**columns, **table.columns}.items()
    }
    pq.write_table(pa.table(arrays), path)


def load(path: Path, schema: Schema) -> Table:
    """What `write` wrote."""
    import pyarrow.parquet as pq

    found = pq.ParquetFile(path).read()
    known = {name: numbers(found[name], name) for name in ("score", "label")}
    at = found["at"].to_numpy().astype(np.int64)
    columns = {f.name: _feature(f, found[f.name], f.name) for f in schema.features}
    return Table(texts(found["id"]), at, texts(found["site"]), columns=columns, **known)


def read(path: Path, loop: Loop, site: str = "site") -> tuple[Table, NDArray[np.int64], dict[str, int]]:
    """A user's table (Parquet or CSV), its columns named by loop.yaml, ordered by time; when each label became known,
    UTC seconds [n]; and how many rows are left out, by reason: without a time, a site or an id, or of an id that the
    site had before. `site` is where the rows are from when no column says it. Raises BadTable."""
    s, column = loop.schema, _file(path, _wanted(loop))
    at, readable = _times(column(s.timestamp), s.timestamp)
    n = len(at)
    known_at = at + int(duration(s.label_delay).total_seconds())
    if s.label_at:
        told, said = _times(column(s.label_at), s.label_at)
        known_at = np.where(said, told, known_at)
    nothing = np.full(n, np.nan)
    table = Table(
        texts(column(s.id)) if s.id else np.array([f"{i:09d}" for i in range(n)], dtype=object),
        at,
        texts(column(s.site)) if s.site else np.full(n, site, dtype=object),
        numbers(column(s.prediction), s.prediction) if s.prediction else nothing,
        _labels(column(s.label), s.label, loop.task) if s.label else nothing,
        {f.name: _feature(f, column(f.column or f.name), f.column or f.name) for f in s.features},
    )
    order, left_out = _usable(table, readable)
    if not len(order):
        raise BadTable(f"{path}: no row has both a time in {s.timestamp} and a site")
    if len(order) == n and (np.diff(order) > 0).all():
        return table, known_at, left_out
    return table.take(order), known_at[order], left_out


def examples(path: Path, loop: Loop) -> tuple[Table, NDArray[np.float64], NDArray[np.float64]]:
    """Rows of features alone, each with the least and the greatest score that it may get, NaN for any: the columns
    at_least and at_most, and perhaps a name. Raises BadTable."""
    column = _file(path, [*(f.column or f.name for f in loop.schema.features), *BOUNDS])
    least, most = (numbers(column(name), name) for name in BOUNDS)
    n = len(least)
    try:
        ids = texts(_file(path, ["name"])("name"))
    except BadTable:
        ids = np.full(n, None, dtype=object)
    ids = _objects([name or f"row {i + 1}" for i, name in enumerate(ids.tolist())])
    nothing = np.full(n, np.nan)
    columns = {f.name: _feature(f, column(f.column or f.name), f.column or f.name) for f in loop.schema.features}
    return Table(ids, np.zeros(n, np.int64), _objects([""] * n), nothing, nothing, columns), least, most


def _usable(table: Table, readable: NDArray[np.bool_]) -> tuple[NDArray[np.intp], dict[str, int]]:
    """The rows to keep, in the order of time, and how many are not kept, by reason."""
    kept, left_out = np.ones(len(table), np.bool_), {}
    for reason, fine in (
        ("rows without a time", readable),
        ("rows without a site", _there(table.site)),
        ("rows without an id", _there(table.ids)),
    ):
        left_out[reason] = int((kept & ~fine).sum())
        kept &= fine
    order = np.flatnonzero(kept)
    order = order[np.argsort(table.at[order], kind="stable")]
    first = np.zeros(len(order), np.bool_)
    first[np.unique(_codes(table.site[order]) * len(order) + _codes(table.ids[order]), return_index=True)[1]] = True
    if not first.all():
        again = dict.fromkeys(table.ids[order[~first]].tolist())
        such = ", ".join(list(again)[:3]) + ", ..." * (len(again) > 3)
        left_out[f"rows whose id came before ({such})"] = int((~first).sum())
    return order[first], {reason: rows for reason, rows in left_out.items() if rows}


def _there(values: Text) -> NDArray[np.bool_]:
    return np.array([v is not None for v in values.tolist()], np.bool_)


def _codes(values: Text) -> NDArray[np.int64]:
    """A number for each different text, [n]."""
    import pyarrow as pa

    return np.asarray(pa.array(values, pa.large_string()).dictionary_encode().indices).astype(np.int64)


def _wanted(loop: Loop) -> list[str]:
    s = loop.schema
    named = [s.timestamp, s.site, s.id, s.label, s.label_at, s.prediction]
    return list(dict.fromkeys([n for n in named if n] + [f.column or f.name for f in s.features]))


def _file(path: Path, wanted: Sequence[str]) -> Callable[[str], Any]:
    """What gives the wanted columns, one at a time, as Arrow arrays."""
    import pyarrow as pa

    found = opened(path)
    names = found.column_names if isinstance(found, pa.Table) else found.schema_arrow.names
    if missing := [n for n in wanted if n not in names]:
        raise BadTable(f"{path}: no column {', '.join(missing)}; it has {', '.join(names)}")
    return found.column if isinstance(found, pa.Table) else lambda name: found.read(columns=[name])[name]


def opened(path: Path) -> Any:
    """A CSV file as an Arrow table; a Parquet file open, nothing read of it yet. Raises BadTable."""
    import pyarrow as pa
    from pyarrow import csv
    from pyarrow import parquet as pq

    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pq.ParquetFile(path)
        _check_header(path)
        found = csv.read_csv(path, convert_options=csv.ConvertOptions(strings_can_be_null=True))
    except FileNotFoundError:
        raise BadTable(f"{path}: no such file; expected a table, CSV or Parquet") from None
    except (pa.ArrowException, OSError) as error:
        raise BadTable(f"{path}: neither CSV nor Parquet that can be read: {error}") from None
    if unread := [f.name for f in found.schema if pa.types.is_binary(f.type)]:
        raise BadTable(f"{path}: column {', '.join(unread)} is not UTF-8; expected UTF-8: save it so")
    return found


def _check_header(path: Path) -> None:
    """Raises BadTable where a CSV file's first line is not UTF-8, or its columns are not set apart by commas."""
    with path.open("rb") as file:
        first = file.readline(1_000_000)
    try:
        head = first.decode()
    except UnicodeDecodeError:
        raise BadTable(f"{path}: the first line is not UTF-8; expected UTF-8: save it so") from None
    other = next((c for c in ";\t|" if c in head), None)
    if "," not in head and other:
        raise BadTable(f"{path}: one column, {head.strip()[:60]!r}: is the separator {other!r}? Expected commas")


def _feature(feature: Any, column: Any, name: str) -> NDArray[Any]:
    return texts(column) if feature.kind == "category" else numbers(column, name)


def texts(column: Any) -> Text:
    """Values as text, None for missing and for the empty text."""
    import pyarrow as pa

    whole = column.combine_chunks()
    if pa.types.is_floating(whole.type):  # a code with gaps: 12.0 means 12
        return _objects([None if v is None else f"{v:.15g}" for v in whole.to_pylist()])
    coded = whole.cast(pa.string()).dictionary_encode()
    names = _objects([*(v or None for v in coded.dictionary.to_pylist()), None])
    return names[np.asarray(coded.indices.fill_null(len(names) - 1))]


def _objects(values: Sequence[str | None]) -> Text:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def numbers(column: Any, name: str) -> NDArray[np.float64]:
    """Values as numbers, NaN for missing. Raises BadTable."""
    import pyarrow as pa

    try:
        return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64).copy()
    except pa.ArrowException as error:
        raise BadTable(f"column {name}: expected numbers: {error}") from None


def _labels(column: Any, name: str, task: str) -> NDArray[np.float64]:
    """A binary label is 0 or 1, or false or true."""
    values = numbers(column, name)
    if task == "binary" and not np.isin(values[np.isfinite(values)], (0.0, 1.0)).all():
        raise BadTable(f"column {name}: expected 0 and 1, found {values[np.isfinite(values)][:5].tolist()}")
    return values


def _times(column: Any, name: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """UTC seconds, and where there are any. Numbers are seconds since 1970; a time without a zone is UTC."""
    import pyarrow as pa

    whole = column.combine_chunks()
    readable = np.asarray(whole.is_valid())
    try:
        if pa.types.is_string(whole.type) or pa.types.is_large_string(whole.type):
            seconds = _parsed(whole.to_pylist())
            return np.nan_to_num(seconds).astype(np.int64), np.isfinite(seconds)
        if pa.types.is_timestamp(whole.type) or pa.types.is_date(whole.type):
            whole = whole.cast(pa.timestamp("us", tz=getattr(whole.type, "tz", None))).cast(pa.int64())
            return np.asarray(whole.fill_null(0)) // 1_000_000, readable
        seconds = np.asarray(whole.cast(pa.float64()).fill_null(float("nan")))
    except pa.ArrowException as error:
        raise BadTable(f"column {name}: expected times: {error}") from None
    return np.nan_to_num(seconds).astype(np.int64), np.isfinite(seconds)


def _parsed(texts: Sequence[str | None]) -> NDArray[np.float64]:
    from drift.envelope import seconds

    out = np.full(len(texts), np.nan)
    for i, text in enumerate(texts):
        try:
            out[i] = seconds(text)
        except ValueError:
            continue
    return out
