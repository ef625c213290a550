"""What the columns of an unknown table probably are, and why: the guesses that `driftloop new` shows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from drift.envelope import seconds
from drift.telemetry import RESERVED
from triggers.errors import Refused

MOST_CATEGORIES = 200
MOST_SITES = 1000
SAMPLE = 1000
ID, RUNNING = "nearly every row has its own: an id, or free text", "a running number"
"""Why a column is no feature whatever is done with it."""

Kind = Literal["time", "number", "text", "other"]
Role = Literal["timestamp", "site", "id", "label", "prediction"]

NAMES: dict[Role, str] = {
    "timestamp": "timestamp|ts|(date|event)?_?time|at|when|date|.*_(timestamp|datetime|time|date|at)",
    "site": "(site|plant|factory|facility|station|store|shop|branch|warehouse|location|region|cluster|edge|airport"
    "|origin|line|machine|device|turbine|sensor)(_?(id|name|code|no|number))?",
    "id": "id|uuid|guid|key|(row|record|event|order|transaction|request|prediction|sample)_?(no|number)"
    "|.*_?(id|uuid|key)",
    "label": "label|target|y|y_true|class|outcome|result|truth|actual|response|churn(ed)?|default(ed)?|(is_)?fraud"
    "|failed|failure|late|delayed|defect(ive)?|faulty|anomaly|survived|click(ed)?|converted|quality|.*_(label|target)",
    "prediction": "pred|predict(ed|ion)|score|prob(a|ability)?|y_?(pred|hat|score)|.*_(prediction|score|proba)",
}
"""Names that a column of a role tends to have, in lower case."""

CODE = re.compile(r"(.*_)?(id|code|type|class|category|zip|postcode)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Column:
    """What can be seen of a column without knowing what it is for."""

    name: str
    kind: Kind
    rows: int
    missing: int
    distinct: int
    whole: bool = False
    low: float = math.nan
    high: float = math.nan
    inner: tuple[float, float] = (math.nan, math.nan)
    """The quantiles 0.001 and 0.999 of a number."""
    why_not_time: str = ""
    two: tuple[str, ...] = ()
    """The values of a text that has two."""

    @property
    def binary(self) -> bool:
        return self.kind == "number" and self.distinct == 2 and (self.low, self.high) == (0, 1)

    @property
    def unique(self) -> bool:
        return self.missing == 0 and self.distinct == self.rows


@dataclass(frozen=True, slots=True)
class Taken:
    """A feature as it will be written: `name` differs from `column` where the column's name cannot be a feature's."""

    column: Column
    name: str
    kind: Literal["number", "category"]
    range: tuple[float, float] | None
    why: str


@dataclass(slots=True)
class Guess:
    """Roles with their column and why; features; columns left out and why."""

    task: Literal["binary", "regression"] = "binary"
    roles: dict[Role, tuple[Column, str]] = field(default_factory=dict)
    features: list[Taken] = field(default_factory=list)
    left: list[tuple[Column, str]] = field(default_factory=list)


def read(path: Path) -> Any:
    """A CSV or Parquet file as an Arrow table. Raises Refused."""
    import pyarrow as pa

    from jobs.table import BadTable, opened

    try:
        found = opened(path)
    except BadTable as problem:
        raise Refused(str(problem)) from problem
    return found if isinstance(found, pa.Table) else found.read()


def look(table: Any) -> list[Column]:
    """Every column of an Arrow table. Raises Refused where two have one name, or there are no rows."""
    names = table.column_names
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise Refused(f"two columns are called {', '.join(map(repr, twice))}; expected every name once")
    if not table.num_rows:
        raise Refused("the table has no rows")
    return [_column(name, table.column(name)) for name in names]


def guess(columns: list[Column], said: Mapping[Role, str | None]) -> Guess:
    """What each column is for; `said` overrules. Raises Refused where that leaves no time, label or feature."""
    made = Guess()
    for role, name in said.items():
        if name is not None:
            made.roles[role] = (_named(columns, name, f"--{role}"), f"--{role} says so")
    for role in ("timestamp", "site", "id", "prediction", "label"):
        if role not in made.roles and (found := _GUESS[role](_free(columns, made))):
            made.roles[role] = found
    _check(made, columns)
    made.task = "binary" if made.roles["label"][0].binary else "regression"
    for column in _free(columns, made):
        if why := useless(column):
            made.left.append((column, why))
        else:
            made.features.append(_taken(column, {t.name for t in made.features}))
    if not made.features:
        raise Refused("no column is left for a feature")
    return made


def _column(name: str, values: Any) -> Column:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, rows, missing = values.type, len(values), values.null_count
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return Column(name, "time", rows, missing, pc.count_distinct(values).as_py())
    exact = pa.types.is_boolean(kind) or pa.types.is_integer(kind)
    if exact or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = values.cast(pa.float64())
        finite = numbers.filter(pc.fill_null(pc.is_finite(numbers), False))
        missing = rows - len(finite)
        if not len(finite):
            return Column(name, "number", rows, missing, 0)
        low, first, last, high = pc.quantile(finite, [0, 0.001, 0.999, 1]).to_pylist()
        whole = exact or pc.all(pc.equal(finite, pc.floor(finite))).as_py()
        return Column(name, "number", rows, missing, pc.count_distinct(finite).as_py(), whole, low, high, (first, last))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        told = values.filter(pc.fill_null(pc.not_equal(values, ""), False))
        distinct = pc.count_distinct(told).as_py()
        problem = _not_times(told.slice(0, SAMPLE).to_pylist())
        two = tuple(sorted(pc.unique(told).to_pylist())) if distinct == 2 else ()
        seen: Kind = "text" if problem else "time"
        return Column(name, seen, rows, rows - len(told), distinct, why_not_time=problem, two=two)
    return Column(name, "other", rows, rows if pa.types.is_null(kind) else missing, 0)


def _not_times(texts: Iterable[str]) -> str:
    """Why texts are not times; "" where all are."""
    text = None
    for text in texts:
        try:
            seconds(text)
        except ValueError:
            return f"{text[:40]!r} is not ISO 8601 (2026-03-01T06:00:00Z)"
    return "" if text else "it is empty"


def _named(columns: list[Column], name: str, option: str) -> Column:
    for column in columns:
        if column.name == name:
            return column
    raise Refused(f"{option}: no column {name!r}; there are {', '.join(c.name for c in columns)}")


def _free(columns: list[Column], made: Guess) -> list[Column]:
    """Columns without a role; the site's may be a feature as well, but is none by itself."""
    used = {column.name for column, _ in made.roles.values()}
    return [c for c in columns if c.name not in used]


def _called(role: Role, columns: Iterable[Column]) -> Column | None:
    """The first column whose name fits the role; one whose name is the plainest first."""
    fits = [c for c in columns if re.fullmatch(NAMES[role], c.name.lower().replace(" ", "_").replace("-", "_"))]
    return min(fits, key=lambda c: len(c.name), default=None) if role != "timestamp" else next(iter(fits), None)


def _timestamp(columns: list[Column]) -> tuple[Column, str] | None:
    times = [c for c in columns if c.kind == "time" and not c.missing] or [c for c in columns if c.kind == "time"]
    if found := _called("timestamp", times):
        return found, "by its name, and it holds times"
    if times:
        return times[0], "it holds times" if len(times) == 1 else "the first column that holds times"
    epochs = [c for c in columns if c.kind == "number" and not c.missing and c.low > 0 and 1e8 < c.high < 1e10]
    if found := _called("timestamp", epochs):
        return found, "by its name, and its numbers are seconds since 1970"
    return None


def _site(columns: list[Column]) -> tuple[Column, str] | None:
    few = [c for c in columns if _text_like(c) and not c.missing and 1 < c.distinct <= min(MOST_SITES, c.rows / 20)]
    found = _called("site", few)
    return (found, f"by its name; {found.distinct} sites") if found else None


def _id(columns: list[Column]) -> tuple[Column, str] | None:
    found = _called("id", [c for c in columns if _text_like(c) and c.unique])
    return (found, "by its name, and no value comes twice") if found else None


def _prediction(columns: list[Column]) -> tuple[Column, str] | None:
    found = _called("prediction", [c for c in columns if c.kind == "number" and c.distinct > 2])
    return (found, "by its name") if found else None


def _label(columns: list[Column]) -> tuple[Column, str] | None:
    numbers = [c for c in columns if c.kind == "number" and c.distinct > 1]
    if found := _called("label", [c for c in numbers if c.binary]) or _called("label", numbers):
        return found, "by its name"
    binary = [c for c in numbers if c.binary]
    if len(binary) == 1:
        return binary[0], "the only column of 0 and 1: check this"
    if len(gaps := [c for c in binary if c.missing]) == 1:
        return gaps[0], "the only column of 0 and 1 with gaps, as labels have that are not known yet: check this"
    if numbers and columns[-1] is numbers[-1]:
        return columns[-1], "the last column, for want of a telling name: check this"
    return None


_GUESS: dict[str, Any] = {
    "timestamp": _timestamp,
    "site": _site,
    "id": _id,
    "prediction": _prediction,
    "label": _label,
}


def _check(made: Guess, columns: list[Column]) -> None:
    if "timestamp" not in made.roles:
        near = _called("timestamp", columns)
        hint = f": {near.name!r} would be it by its name, but {near.why_not_time}" if near and near.why_not_time else ""
        how = "name one with --timestamp; where day and hour are in columns of their own, join them into one first"
        raise Refused(f"no column holds times{hint}; {how}")
    if "label" not in made.roles:
        near = _called("label", columns)
        hint = f": {near.name!r} would be it by its name, but {_no_label(near)}" if near else ""
        raise Refused(f"no column looks like a label{hint}; name one with --label")
    time, label = made.roles["timestamp"][0], made.roles["label"][0]
    if time.kind == "text":
        raise Refused(f"--timestamp: {time.name!r} holds no times: {time.why_not_time}")
    if time.kind == "number" and not 0 < time.high < 1e11:
        raise Refused(f"--timestamp: {time.name!r} holds no seconds since 1970 (its greatest value is {time.high:g})")
    if label.kind != "number" or label.distinct < 2 or (label.distinct == 2 and not label.binary):
        raise Refused(f"--label: {label.name!r} {_no_label(label)}")
    for role in ("site", "id"):
        if role in made.roles and (column := made.roles[role][0]).missing:
            raise Refused(f"--{role}: {column.missing:,} rows have none in {column.name!r}")
    if "id" in made.roles and not made.roles["id"][0].unique:
        raise Refused(f"--id: {made.roles['id'][0].name!r} has values that come twice")


def _no_label(column: Column) -> str:
    """Why a column is no label, and what would be one."""
    if column.two:
        one, other = column.two
        return f"is text; expected 0 and 1, or numbers: write 1 for {other!r} and 0 for {one!r}, or the other way round"
    if column.kind != "number":
        return f"is {column.kind}; expected 0 and 1, or numbers"
    if not column.distinct:
        return "is empty; expected 0 and 1, or numbers"
    least = f"{column.distinct} values from {column.low:g} to {column.high:g}"
    return f"has {least if column.distinct > 1 else 'one value'}; expected 0 and 1, or numbers"


def useless(column: Column) -> str:
    """Why a column is no feature; "" where it is one."""
    if column.kind == "other":
        return "neither numbers nor text"
    if column.kind == "time":
        return "a time; where it says when the label was known, name it as label_at"
    if column.distinct <= 1:
        return "empty" if column.distinct == 0 else "always the same"
    if column.kind == "text" and column.distinct > max(MOST_CATEGORIES, column.rows / 2):
        return ID
    if column.kind == "text" and column.distinct > MOST_CATEGORIES:
        return f"{column.distinct:,} different texts: more than {MOST_CATEGORIES} tell little one by one"
    if column.kind == "number" and column.whole and column.unique and column.high - column.low < 2 * column.rows:
        return RUNNING
    if column.kind == "number" and CODE.fullmatch(column.name) and column.whole and column.distinct > MOST_CATEGORIES:
        return f"a code with {column.distinct:,} values, by its name"
    return ""


def _taken(column: Column, names: set[str]) -> Taken:
    name = "".join(c if c.isprintable() else "_" for c in column.name).strip()[:90] or "column"
    if name in RESERVED:
        name = f"{name}_value"
    while name in names:
        name += "_"
    if column.kind == "text":
        return Taken(column, name, "category", None, f"{column.distinct} different texts")
    if column.whole and column.distinct > 2 and CODE.fullmatch(column.name):
        return Taken(column, name, "category", None, f"a code with {column.distinct} values, by its name")
    return Taken(column, name, "number", plausible(column), f"from {column.low:g} to {column.high:g}")


def plausible(column: Column) -> tuple[float, float]:
    """A range that tomorrow's values should keep to: the middle 99.8%, and half as much again on either side.

    >>> plausible(Column("age", "number", 9, 0, 9, True, 0, 103, (1, 80)))
    (0.0, 120.0)
    """
    first, last = column.inner
    if column.distinct == 2:
        return column.low, column.high
    spare = (last - first) / 2 or abs(last) or 1.0
    low, high = _rounded(first - spare, math.floor), _rounded(last + spare, math.ceil)
    return (max(low, 0.0) if column.low >= 0 else low), (min(high, 0.0) if column.high <= 0 else high)


def _rounded(value: float, away: Any) -> float:
    """To two digits, away from the middle."""
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1) if value else 1.0
    return float(f"{away(value / unit) * unit:.6g}")


def _text_like(column: Column) -> bool:
    return column.kind == "text" or (column.kind == "number" and column.whole)
