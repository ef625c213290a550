"""Batches folded into windows, one per candidate, site and period: exact counts that add up in any order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift import binary
from drift.performance import Outcomes
from drift.reference import Reference
from drift.sketch import OtherReference, Sketch, sketch
from drift.telemetry import Batch, Rows

_KIND = b"DLW1"
_PACKED = 64 << 20


@dataclass(frozen=True, slots=True)
class Serving:
    """How a site's model server did: counts, and latencies in whole microseconds, weighted by requests."""

    requests: int = 0
    errors: int = 0
    p50_us: int = 0
    p95_us: int = 0
    worst_us: int = 0

    def __add__(self, other: Serving) -> Serving:
        return Serving(
            self.requests + other.requests,
            self.errors + other.errors,
            self.p50_us + other.p50_us,
            self.p95_us + other.p95_us,
            max(self.worst_us, other.worst_us),
        )

    @property
    def p50_ms(self) -> float:
        """Mean over requests of their batch's median."""
        return self.p50_us / 1000 / self.requests if self.requests else 0.0

    @property
    def p95_ms(self) -> float:
        """Mean over requests of their batch's 95th percentile."""
        return self.p95_us / 1000 / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Window:
    """What one site sent for one candidate in [start, start + seconds) UTC, as counts. `a + b` adds two of the same.

    `rows` are counted rows; `refused` counts, by field, rows that could not be read; `schemas` counts rows by schema
    version where that is not the reference's; `outcomes` are labelled predictions of this period.
    """

    candidate: str
    site: str
    start: int
    seconds: int
    sketch: Sketch
    outcomes: Outcomes
    refused: Mapping[str, int] = field(default_factory=dict)
    schemas: Mapping[str, int] = field(default_factory=dict)
    serving: Serving = Serving()

    @property
    def rows(self) -> int:
        return self.sketch.rows

    @property
    def end(self) -> int:
        return self.start + self.seconds

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self.candidate, self.site, self.start, self.seconds

    @property
    def outside(self) -> NDArray[np.int64]:
        """Values out of the plausible range, by column."""
        return self.sketch.outside

    def __add__(self, other: Window) -> Window:
        if other.key != self.key:
            raise ValueError(f"windows of {self.key} and {other.key} are not the same one")
        return Window(
            *self.key,
            self.sketch + other.sketch,
            self.outcomes + other.outcomes,
            _sum(self.refused, other.refused),
            _sum(self.schemas, other.schemas),
            self.serving + other.serving,
        )

    def to_bytes(self) -> bytes:
        """As stored: packed quickly, because it is written again with each batch."""
        return pack((self,), level=1)

    @classmethod
    def from_bytes(cls, data: bytes) -> Window:
        """Raises ValueError."""
        found = unpack(data)
        if len(found) != 1:
            raise ValueError(f"{len(found)} windows where one was expected")
        return found[0]


def empty(candidate: str, site: str, start: int, seconds: int, reference: Reference) -> Window:
    """A window in which nothing has happened: what outcomes alone are added to."""
    return Window(candidate, site, start, seconds, Sketch.empty(reference), Outcomes.empty(reference.width))


def settled(
    candidate: str, site: str, seconds: int, reference: Reference, outcomes: Mapping[int, Outcomes]
) -> dict[int, Window]:
    """What `Predictions.settle` found, as window deltas by period start."""
    blank = Sketch.empty(reference)
    return {start: Window(candidate, site, start, seconds, blank, o) for start, o in outcomes.items()}


def fold(batch: Batch, reference: Reference, seconds: int) -> dict[int, Window]:
    """The deltas of one batch, by period start. Rows go where their own time says; refusals, requests and latencies,
    which have no time of their own, to the period of the batch's start. Labels are settled elsewhere.

    A batch that carries a sketch yields the windows packed in it; raises OtherReference where they were made against
    another reference, ValueError where they are not this batch's.
    """
    made = _sketched(batch, reference, seconds) if batch.sketch is not None else {}
    if batch.rows is not None and len(batch.rows):
        made = {
            start: Window(batch.candidate, batch.site, start, seconds, s, Outcomes.empty(reference.width))
            for start, s in sketches(batch.rows, reference, seconds).items()
        }
    if batch.schema != reference.schema.version:
        made = {k: replace(w, schemas=_sum(w.schemas, {batch.schema: w.rows})) for k, w in made.items()}
    refused = Counter(r.field for r in batch.refused)
    served = batch.serving
    if refused or served.requests:
        home = period(batch.start, seconds)
        window = made.get(home) or empty(batch.candidate, batch.site, home, seconds, reference)
        p50, p95 = (round(max(ms, 0.0) * 1000) for ms in (served.p50_ms, served.p95_ms))
        n = served.requests
        serving = Serving(n, served.errors, n * p50, n * p95, p95 if n else 0)
        made[home] = replace(window, refused=_sum(window.refused, refused), serving=window.serving + serving)
    return made


def sketches(rows: Rows, reference: Reference, seconds: int) -> dict[int, Sketch]:
    """The sketch of each period that the rows touch."""
    first, last = (period(int(at), seconds) for at in (rows.at.min(), rows.at.max()))
    if first == last:
        return {first: sketch(rows, reference)}
    starts = rows.at - rows.at % seconds
    found = np.unique(starts).tolist()
    return {start: sketch(_take(rows, np.flatnonzero(starts == start)), reference) for start in found}


def pack(windows: Iterable[Window], *, level: int = 6) -> bytes:
    """Windows as bytes: what a site on a thin link sends in place of rows."""
    heads, arrays = [], []
    for w in windows:
        s, serving = w.sketch, w.serving
        arrays += [s.counts, s.tails, s.outside, w.outcomes.counts]
        heads.append(
            {
                "key": w.key,
                "reference": s.reference,
                "sums": [str(n) for n in w.outcomes.sums],
                "conflicts": w.outcomes.conflicts,
                "refused": dict(w.refused),
                "schemas": dict(w.schemas),
                "serving": [serving.requests, serving.errors, serving.p50_us, serving.p95_us, serving.worst_us],
            }
        )
    return binary.pack(_KIND, {"windows": heads}, arrays, level=level)


def unpack(data: bytes) -> tuple[Window, ...]:
    """The windows of `pack`. Raises ValueError where the bytes are not that."""
    header, arrays = binary.unpack(_KIND, data, limit=_PACKED)
    try:
        heads = header["windows"]
        if len(arrays) != 4 * len(heads):
            raise ValueError(f"{len(heads)} windows need four arrays each, not {len(arrays)}")
        return tuple(_window(h, arrays[4 * i : 4 * i + 4]) for i, h in enumerate(heads))
    except (KeyError, TypeError, AttributeError, OverflowError, ValueError) as error:
        raise ValueError(f"damaged DLW record: {error}") from error


def period(at: int, seconds: int) -> int:
    """Start of the period that holds `at`; periods are cut from 1970 on, in UTC.

    >>> period(90_000, 86_400)
    86400
    """
    return at - at % seconds


def watermark(now: int, lateness: int, seconds: int) -> int:
    """Start of the oldest period that still takes batches: later ones may come `lateness` seconds after its end.

    >>> watermark(now=10 * 86_400, lateness=2 * 86_400, seconds=86_400) // 86_400
    7
    """
    oldest = now - lateness
    return -(-oldest // seconds) * seconds - seconds


def too_late(start: int, now: int, lateness: int, seconds: int) -> bool:
    """Whether the period that holds `start` is closed for good."""
    return period(start, seconds) < watermark(now, lateness, seconds)


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {k: a.get(k, 0) + b.get(k, 0) for k in sorted({*a, *b})}


def _take(rows: Rows, index: NDArray[np.intp]) -> Rows:
    columns = {
        name: values[index] if isinstance(values, np.ndarray) else [values[i] for i in index.tolist()]
        for name, values in rows.columns.items()
    }
    return Rows([rows.ids[i] for i in index.tolist()], rows.at[index], rows.score[index], columns)


def _sketched(batch: Batch, reference: Reference, seconds: int) -> dict[int, Window]:
    made: dict[int, Window] = {}
    for w in unpack(batch.sketch or b""):
        if w.sketch.reference != reference.version:
            raise OtherReference(reference.version, w.sketch.reference)
        if w.key != (batch.candidate, batch.site, w.start, seconds) or w.start != period(w.start, seconds):
            raise ValueError(f"the sketch is of {w.key}, the batch of {(batch.candidate, batch.site)}, {seconds} s")
        if w.start < period(batch.start, seconds) or w.start > batch.end:
            raise ValueError(f"the sketch is of {w.start}, the batch of {batch.start} to {batch.end}")
        if w.sketch.counts.shape != (len(reference.columns), reference.width):
            raise ValueError(f"the sketch has the shape {w.sketch.counts.shape}")
        if len(w.outcomes.counts) != reference.width:
            raise ValueError(f"the sketch has {len(w.outcomes.counts)} score bins")
        made[w.start] = made[w.start] + w if w.start in made else w
    return made


def _window(head: Mapping[str, Any], arrays: list[NDArray[Any]]) -> Window:
    candidate, site, start, seconds = head["key"]
    if not (isinstance(candidate, str) and isinstance(site, str)):
        raise ValueError("a window has a candidate and a site")
    if seconds <= 0:
        raise ValueError("a window is longer than 0 s")
    counts = arrays[3]
    if counts.ndim != 2 or counts.shape[1] != 2 or counts.dtype != np.int64 or (counts < 0).any():
        raise ValueError("outcomes are counts by score bin and label")
    a, b, c, d = (int(s[:60]) for s in head["sums"])
    return Window(
        candidate,
        site,
        int(start),
        int(seconds),
        Sketch.checked(head["reference"], arrays[:3]),
        Outcomes(counts, (a, b, c, d), _whole(head["conflicts"])),
        {str(k): _whole(n) for k, n in head["refused"].items()},
        {str(k): _whole(n) for k, n in head["schemas"].items()},
        Serving(*(_whole(n) for n in head["serving"])),
    )


def _whole(n: Any) -> int:
    if type(n) is not int or n < 0:
        raise ValueError(f"{n!r} is not a count")
    return n
