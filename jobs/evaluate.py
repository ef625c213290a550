"""The evaluation script that works from loop.yaml alone: two candidates on the same labelled rows.

`python -m jobs.evaluate --data rows.parquet --loop loop.yaml --champion DIR --challenger DIR --out evidence.json`.
What could not be measured is null, never a number: one row that a candidate refused makes its metric null.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.light import without_pandas
from jobs.metrics import Compared, compare, log_loss
from jobs.model import Model
from jobs.table import Table, load
from triggers.config import METRICS, Loop, parse_loop


def evidence(
    table: Table, champion: NDArray[np.float64], challenger: NDArray[np.float64], loop: Loop
) -> dict[str, Any]:
    """The comparison on labelled rows, over all sites and each, from the scores [n] of both."""
    metric = loop.gates.metric or METRICS[loop.task][0]
    confidence = loop.gates.confidence

    def compared(which: NDArray[Any]) -> dict[str, Any]:
        rows = table.take(which)
        return asdict(compare(metric, rows.label, champion[which], challenger[which], rows.at, confidence))

    overall = compared(np.arange(len(table)))
    overall |= {f"{name}_value": overall.pop(name) for name in ("champion", "challenger")}
    losses = {"champion": champion, "challenger": challenger}
    return {
        "metric": metric,
        "confidence": confidence,
        **overall,
        "log_loss": {n: _log_loss(table, s) for n, s in losses.items()} if loop.task == "binary" else None,
        "unscored": {n: int(np.isnan(s).sum()) for n, s in losses.items()},
        "sites": {site: compared(np.flatnonzero(table.site == site)) for site in table.sites()},
    }


def nothing(loop: Loop) -> dict[str, Any]:
    """The evidence of no rows."""
    empty = Compared(0)
    return {
        "metric": loop.gates.metric or METRICS[loop.task][0],
        "confidence": loop.gates.confidence,
        "rows": 0,
        "champion_value": empty.champion,
        "challenger_value": empty.challenger,
        "gain": empty.gain,
        "gain_low": empty.gain_low,
        "gain_high": empty.gain_high,
        "log_loss": None,
        "sites": {},
        "latency_ms": {"p50": None, "p95": None},
    }


def _log_loss(table: Table, score: NDArray[np.float64]) -> float:
    return log_loss(table.label, score)[0] if len(table) else math.nan


def finite(value: Any) -> Any:
    """The value for JSON: what is not a finite number is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare two candidates.")
    for name in ("data", "loop", "champion", "challenger", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args(argv)
    loop = parse_loop(args.loop.read_text(), str(args.loop))
    schema = loop.schema.telemetry(loop.task)
    table = load(args.data, schema).labelled
    champion, challenger = (Model(folder / "model.onnx", schema) for folder in (args.champion, args.challenger))
    found = evidence(table, champion.score(table), challenger.score(table), loop)
    found["latency_ms"] = challenger.latency(table)
    args.out.write_text(json.dumps(finite(found), allow_nan=False))
    print(f"compared on {len(table):,} rows")


if __name__ == "__main__":
    without_pandas()
    main()
