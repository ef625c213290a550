"""A user's table (CSV or Parquet) as the columns that loop.yaml names."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triggers.config import Loop, duration
from triggers.errors import Refused

NEVER = np.int64(2**62)
"""When a label that never came was known."""


@dataclass(frozen=True, slots=True)
class Data:
    """Rows in the order of `at` (UTC seconds, int64 [n]). `label` is NaN, and `label_at` NEVER, where none is known.

    `features` maps the names of loop.yaml to float64 [n] or to text [n], "" for missing.
    """

    id: NDArray[Any]
    at: NDArray[np.int64]
    site: NDArray[Any]
    label: NDArray[np.float64]
    label_at: NDArray[np.int64]
    features: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.at)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        return np.isfinite(self.label)

    def take(self, rows: NDArray[Any]) -> Data:
        """Some of the rows, by mask or index."""
        features = {name: column[rows] for name, column in self.features.items()}
        return Data(self.id[rows], self.at[rows], self.site[rows], self.label[rows], self.label_at[rows], features)

    def start_of_telemetry(self, loop: Loop) -> int:
        """The first moment after the bootstrap, UTC seconds, at a midnight where the bootstrap is a share."""
        if loop.bootstrap.until is not None:
            return int(loop.bootstrap.until.timestamp())
        first, last = int(self.at[0]), int(self.at[-1])
        cut = first + (last - first) * loop.bootstrap.fraction
        return int(-(-cut // 86_400) * 86_400)


def read(path: Path) -> Any:
    """The table as Arrow. Raises Refused."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if not path.is_file():
        raise Refused(f"{path}: no such file")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pyarrow.parquet.read_table(path)
        return pyarrow.csv.read_csv(path)
    except (pa.ArrowInvalid, OSError) as problem:
        raise Refused(f"{path}: {problem}") from problem


def load(path: Path, loop: Loop) -> Data:
    """The columns that the loop needs. Raises Refused with every column that is missing or of the wrong kind."""
    table = read(path)
    schema = loop.schema
    wanted = [schema.timestamp, schema.site, schema.id, schema.label, schema.label_at]
    wanted += [f.column or f.name for f in schema.features]
    if missing := [name for name in wanted if name is not None and name not in table.column_names]:
        there = ", ".join(table.column_names[:40])
        raise Refused(f"{path}: no column {', '.join(map(repr, missing))}; there are {there}")
    n = table.num_rows
    at = _times(path, table, schema.timestamp)
    keep = at >= 0
    label = np.full(n, np.nan) if schema.label is None else _numbers(path, table, schema.label)
    known = np.isfinite(label)
    if schema.label_at is not None:
        label_at = _times(path, table, schema.label_at)
        known &= label_at >= 0
    else:
        label_at = at + int(duration(schema.label_delay).total_seconds())
    features = {
        f.name: _numbers(path, table, f.column or f.name)
        if f.kind == "number"
        else _texts(table, f.column or f.name)
        for f in schema.features
    }
    site = np.full(n, "main") if schema.site is None else _texts(table, schema.site)
    rows = np.arange(n).astype(str)
    data = Data(
        id=_texts(table, schema.id) if schema.id else rows,
        at=at,
        site=site,
        label=np.where(known, label, np.nan),
        label_at=np.where(known, label_at, NEVER),
        features=features,
    )
    if not keep.any():
        raise Refused(f"{path}: no row has a time in column {schema.timestamp!r}")
    data = data.take(keep)
    return data.take(np.argsort(data.at, kind="stable"))


def _times(path: Path, table: Any, name: str) -> NDArray[np.int64]:
    """UTC seconds; -1 where there is none. Text is read as ISO 8601, numbers as seconds, no zone as UTC."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(name)
    try:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = _parsed(column)
        elif pa.types.is_floating(column.type):
            column = pc.floor(column)
        if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
            zone = getattr(column.type, "tz", None)
            column = column.cast(pa.timestamp("s", tz=zone), safe=False)
        return np.asarray(column.cast(pa.int64()).fill_null(-1).to_numpy(), dtype=np.int64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as problem:
        raise Refused(f"{path}: column {name!r} is not a time: {problem}") from problem


def _parsed(column: Any) -> Any:
    import pyarrow as pa

    from drift.envelope import seconds

    return pa.array([None if v in (None, "") else seconds(v) for v in column.to_pylist()], pa.int64())


def _numbers(path: Path, table: Any, name: str) -> NDArray[np.float64]:
    import pyarrow as pa

    column = table.column(name)
    try:
        found = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as problem:
        raise Refused(f"{path}: column {name!r} is not a number: {problem}") from problem
    return np.asarray(found, dtype=np.float64)


def _texts(table: Any, name: str) -> NDArray[Any]:
    import pyarrow as pa

    return np.asarray(table.column(name).cast(pa.string()).fill_null("").to_pylist(), dtype=np.str_)


def write_recording(path: Path, data: Data) -> None:
    """One site's rows for the site to play: an .npz of `id`, `at`, `label`, `label_at` and the features."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    columns = {"id": data.id, "at": data.at, "label": data.label, "label_at": data.label_at, **data.features}
    with zipfile.ZipFile(partial, "w") as archive:
        for name, column in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, column, allow_pickle=False)
    partial.replace(path)


def write_rows(path: Path, data: Data) -> None:
    """Rows for a training job: id, at, site, score (unknown), label and the features, as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "id": data.id.tolist(),
        "at": data.at,
        "site": data.site.tolist(),
        "score": np.full(len(data), np.nan),
        "label": data.label,
    }
    for name, values in data.features.items():
        columns[name] = values if values.dtype.kind == "f" else [v or None for v in values.tolist()]
    partial = path.with_suffix(".partial")
    pyarrow.parquet.write_table(pa.table(columns), partial)
    partial.replace(path)
