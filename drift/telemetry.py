"""Telemetry as the rest of driftloop sees it: schema, batch, rows, labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["number", "category"]
Task = Literal["binary", "regression"]

MAX_BYTES = 1 << 20
"""A batch is at most so long on the wire."""

LEAST_PERIODS = 14
"""Windows of training time without which a reference promises nothing about false alarms."""

RESERVED = frozenset({"id", "at", "score", "label"})
"""Names of a row that are not features."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One input of the model. `low` and `high` bound what is plausible; outside is a data-quality finding."""

    name: str
    kind: Kind = "number"
    unit: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Schema:
    """What rows of one loop look like."""

    version: str
    features: tuple[Feature, ...]
    task: Task = "binary"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.features)


@dataclass(frozen=True, slots=True)
class Rows:
    """Scored rows, by column; every column has the same length n.

    `at` is UTC seconds since 1970 as int64 [n]; `score` float64 [n]. A number column is float64 [n] with NaN
    for missing; a category column is a sequence of n `str | None`.
    """

    ids: Sequence[str]
    at: NDArray[np.int64]
    score: NDArray[np.float64]
    columns: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Labels:
    """What turned out to be true: `ids` of predictions, `at` int64 [n] the time of each, `label` float64 [n]."""

    ids: Sequence[str]
    at: NDArray[np.int64]
    label: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Serving:
    """How the model server did while it made the rows of a batch; latencies are milliseconds a request."""

    requests: int = 0
    errors: int = 0
    p50_ms: float = 0.0
    p95_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row that was not counted, and why."""

    row: int
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Telemetry from one site for one candidate; `id` is unique per site, and the batch is counted once.

    `start` and `end` are UTC seconds. Exactly one of `rows` and `sketch` is set where there were predictions;
    `labels` may come alone. `refused` lists the rows that could not be read; they are not in `rows`.
    """

    schema: str
    loop: str
    candidate: str
    site: str
    id: str
    start: int
    end: int
    rows: Rows | None = None
    sketch: bytes | None = None
    labels: Labels | None = None
    serving: Serving = Serving()
    key: str = ""
    refused: tuple[Refusal, ...] = ()
