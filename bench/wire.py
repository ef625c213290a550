"""Bytes to counts: how fast each spelling of a batch is decoded and folded, and what it costs on the wire."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import numpy as np

from drift import envelope
from drift.reference import Reference
from drift.telemetry import MAX_BYTES, Batch, Feature, Rows, Schema
from drift.windows import fold, pack

FEATURES, DAY = 20, 86_400
MESSAGE, UNIT = 256_000, 64 * 1024
"""Largest message of Service Bus Standard (256 KB, headers included), and what is counted as one operation."""


def rows(n: int, features: int = FEATURES, seed: int = 0) -> Rows:
    """n rows of one day: readings with four decimals, as sensors have them."""
    rng = np.random.default_rng(seed)
    ids = [f"{seed:02d}-{i:08d}" for i in range(n)]
    at = (20_000 * DAY + np.arange(n) * DAY // n).astype(np.int64)
    columns = {f"f{i}": rng.normal(20, 5, n).round(4) for i in range(features)}
    return Rows(ids, at, rng.random(n).round(4), columns)


def batch(table: Rows, **more: object) -> Batch:
    return Batch("1", "bench", "c" * 64, "site-0001", "b1", 20_000 * DAY, 20_001 * DAY, rows=table, **more)  # type: ignore[arg-type]


def reference(features: int = FEATURES) -> Reference:
    """The profile that rows are counted against."""
    table = rows(5000, features, seed=99)
    schema = Schema("1", tuple(Feature(f"f{i}") for i in range(features)))
    return Reference.build(schema, table, (table.score > 0.5).astype(float), ["site-0001"] * 5000)


def speed(n: int, repeats: int = 15) -> dict[str, tuple[float, float]]:
    """Rows/s by spelling, (from bytes to counts, of the parser alone): medians by processor time; batches of `n` rows.
    Of JSON the parser is msgspec, typed; of Arrow sha256, which comes before any parsing."""
    profile, found = reference(), {}
    for spelling in ("rows", "columns", "arrow"):
        if _size(n, spelling, profile) > MAX_BYTES:
            continue
        payloads = [envelope.encode(batch(rows(n, seed=k)), profile.schema, spelling) for k in range(8)]  # type: ignore[arg-type]
        parser = (
            (lambda p: hashlib.sha256(p).digest())
            if spelling == "arrow"
            else envelope._types(profile.schema).decoder.decode
        )

        def ours(payload: bytes) -> None:
            fold(envelope.decode(payload, profile.schema), profile, DAY)

        found[spelling] = tuple(n / _seconds(work, payloads, repeats) for work in (ours, parser))
    return found


def _seconds(work: Callable[[bytes], object], payloads: list[bytes], repeats: int) -> float:
    """Of one payload."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        for payload in payloads:
            work(payload)
        times.append(time.process_time() - start)
    return float(np.median(times[1:])) / len(payloads)


def cost() -> dict[str, dict[str, float]]:
    """Bytes and Service Bus operations of a million rows at one site, by spelling: in messages as large as Standard
    takes, each counted as one operation a started 64 KiB, sending alone (receiving counts as much again)."""
    profile, found = reference(), {}
    for spelling in ("rows", "columns", "arrow"):
        n = 100
        while _size(n + 100, spelling, profile) <= MESSAGE:
            n += 100
        found[spelling] = _cost(_size(n, spelling, profile), n)
    per_row = 4 * (FEATURES + 2) + 8  # features, score and time as 4 bytes, an id of 8
    n = MESSAGE // per_row
    found["float32"] = _cost(n * per_row, n)
    for n in (1000, 10_000, 100_000):
        packed = pack(fold(batch(rows(n)), profile, DAY).values())
        sent = Batch("1", "bench", "c" * 64, "site-0001", "b1", 20_000 * DAY, 20_001 * DAY, sketch=packed)
        size = len(envelope.encode(sent, profile.schema))
        found[f"sketch of {n:,} rows"] = _cost(size, n)
    return found


def window() -> int:
    """Bytes of one window of 100 features and 10,000 rows, as it is stored."""
    profile = reference(100)
    (made,) = fold(batch(rows(10_000, 100)), profile, DAY).values()
    return len(made.to_bytes())


def _size(n: int, spelling: str, profile: Reference) -> int:
    return len(envelope.encode(batch(rows(n)), profile.schema, spelling))  # type: ignore[arg-type]


def _cost(size: int, n: int) -> dict[str, float]:
    messages = 1e6 / n
    return {"rows a message": n, "megabytes": size * messages / 1e6, "operations": messages * -(-size // UNIT)}
