"""A user's table for a replay: read as a training job reads it, and cut into what each site will see."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift.envelope import iso
from jobs import table as tables
from jobs.table import BadTable, Table
from triggers.config import Loop
from triggers.errors import Refused

NEVER = np.int64(2**62)
"""When a label that never came was known."""


@dataclass(frozen=True, slots=True)
class Data:
    """Rows in the order of time, and when the label of each was known (UTC seconds, NEVER where it was not), [n];
    `left_out` counts the rows of the file that are not among them, by reason."""

    table: Table
    label_at: NDArray[np.int64]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def first(self) -> int:
        return int(self.table.at[0])

    @property
    def last(self) -> int:
        return int(self.table.at[-1])

    def take(self, rows: NDArray[Any]) -> Data:
        """Some of the rows, by mask or index."""
        return replace(self, table=self.table.take(rows), label_at=self.label_at[rows])

    def between(self, start: float, end: float) -> Data:
        """The rows of [start, end), UTC seconds."""
        return self.take((self.table.at >= start) & (self.table.at < end))

    def start_of_telemetry(self, loop: Loop) -> int:
        """The first moment after the bootstrap, UTC seconds. Where the bootstrap is a share it ends at a midnight, or
        at a full hour or minute where a whole day would be more than a twentieth of the data."""
        if loop.bootstrap.until is not None:
            return int(loop.bootstrap.until.timestamp())
        span = self.last - self.first
        unit = next((u for u in (86_400, 3_600, 60) if 20 * u <= span), 1)
        return int(-(-(self.first + span * loop.bootstrap.fraction) // unit) * unit)


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay has to know of its table: UTC seconds of its first row, of the end of the bootstrap and of the end;
    how many labelled rows the bootstrap has; how many rows of the file are left out, by reason."""

    first: int
    start: int
    end: int
    bootstrap_rows: int
    left_out: dict[str, int] = {}


def load(path: Path, loop: Loop) -> Data:
    """Raises Refused with what is missing or of the wrong kind."""
    try:
        table, label_at, left_out = tables.read(path, loop, "main")
    except BadTable as problem:
        raise Refused(str(problem)) from problem
    return Data(table, np.where(np.isfinite(table.label), label_at, NEVER), left_out)


def in_words(left_out: Mapping[str, int]) -> str:
    """What is left out of a table, for people; "" for nothing.

    >>> in_words({"rows without a time": 1200, "rows without a site": 3})
    'left out: 1,200 rows without a time; 3 rows without a site'
    """
    return "left out: " * bool(left_out) + "; ".join(f"{rows:,} {reason}" for reason, rows in left_out.items())


def record(data: Data, loop: Loop, sites: Mapping[str, Path]) -> Span:
    """Write each site's rows after the bootstrap for it to play. Raises Refused where rows are of no site."""
    start, end = data.start_of_telemetry(loop), data.last + 1
    live, before = data.between(start, end), data.between(data.first, start)
    if not len(before.table.labelled) or not len(live):
        raise Refused(
            f"the bootstrap ends at {iso(start)}: it has {len(before.table.labelled)} labelled rows, and {len(live)} "
            "rows come after it; set bootstrap in loop.yaml"
        )
    if stray := sorted(set(live.table.site.tolist()) - set(sites)):
        raise Refused(f"the data has sites that fleet.yaml does not name: {', '.join(stray[:10])}")
    for site, path in sites.items():
        write_recording(path, live.take(live.table.site == site))
    return Span(
        first=data.first,
        start=start,
        end=end,
        bootstrap_rows=len(before.table.labelled),
        left_out=dict(data.left_out),
    )


def write_recording(path: Path, data: Data) -> None:
    """One site's rows for the site to play: an .npz of `id`, `at`, `label`, `label_at` and the features."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = data.table
    columns = {"id": table.ids, "at": table.at, "label": table.label, "label_at": data.label_at, **table.columns}
    partial = path.with_suffix(".partial.npz")
    with zipfile.ZipFile(partial, "w") as archive:
        for name, column in columns.items():
            plain = column if column.dtype != object else np.array([v or "" for v in column.tolist()], np.str_)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, plain, allow_pickle=False)
    partial.replace(path)
