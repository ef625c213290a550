"""The evaluation script that works from loop.yaml alone: two candidates on the same labelled rows.

`python -m jobs.evaluate --data rows.parquet --loop loop.yaml --champion DIR --challenger DIR --out evidence.json`.
What could not be measured is null, never a number: one row that a candidate refused makes its metric null.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.light import without_pandas
from jobs.metrics import Compared, compare, log_loss
from jobs.model import Model
from jobs.table import Table, load
from triggers.config import METRICS, Loop, parse_loop


@dataclass(frozen=True)
class Comparison:
    """Labelled rows, and what both candidates make of them; a user's script may add to `evidence`."""

    rows: Table
    champion: NDArray[np.float64]
    challenger: NDArray[np.float64]
    loop: Loop
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        return self.loop.gates.metric or METRICS[self.loop.task][0]

    def on(self, which: NDArray[Any]) -> dict[str, Any]:
        """The comparison on some of the rows, by mask or index: rows, champion, challenger, gain, gain_low,
        gain_high."""
        rows = self.rows.take(which)
        confidence = self.loop.gates.confidence
        return asdict(
            compare(self.metric, rows.label, self.champion[which], self.challenger[which], rows.at, confidence)
        )

    def measured(self) -> dict[str, Any]:
        """The comparison over all sites, and at each."""
        scores = {"champion": self.champion, "challenger": self.challenger}
        binary = self.loop.task == "binary"
        return {
            **_headline(self.loop, self.on(np.arange(len(self.rows)))),
            "log_loss": {n: log_loss(self.rows.label, s)[0] for n, s in scores.items()} if binary else None,
            "unscored": {n: int(np.isnan(s).sum()) for n, s in scores.items()},
            "sites": {site: self.on(self.rows.site == site) for site in self.rows.sites()},
        }

    @classmethod
    @contextmanager
    def from_arguments(cls, argv: Sequence[str] | None = None) -> Iterator[Comparison]:
        """The comparison that the command line asks for; what its `evidence` holds in the end is written."""
        parser = argparse.ArgumentParser(description="Compare two candidates.")
        for name in ("data", "loop", "champion", "challenger", "out"):
            parser.add_argument(f"--{name}", type=Path, required=True)
        args = parser.parse_args(argv)
        loop = parse_loop(args.loop.read_text(), str(args.loop))
        schema = loop.schema.telemetry(loop.task)
        rows = load(args.data, schema).labelled
        champion, challenger = (Model(folder / "model.onnx", schema) for folder in (args.champion, args.challenger))
        found = cls(rows, champion.score(rows), challenger.score(rows), loop)
        found.evidence.update(found.measured())
        yield found
        args.out.write_text(json.dumps(finite(found.evidence), allow_nan=False))
        print(f"compared on {len(rows):,} rows")


def nothing(loop: Loop) -> dict[str, Any]:
    """The evidence of no rows."""
    return {**_headline(loop, asdict(Compared(0))), "log_loss": None, "sites": {}}


def _headline(loop: Loop, compared: dict[str, Any]) -> dict[str, Any]:
    values = {f"{name}_value": compared.pop(name) for name in ("champion", "challenger")}
    metric = loop.gates.metric or METRICS[loop.task][0]
    return {"metric": metric, "confidence": loop.gates.confidence, **compared, **values}


def finite(value: Any) -> Any:
    """The value for JSON: what is not a finite number is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


def main(argv: Sequence[str] | None = None) -> None:
    with Comparison.from_arguments(argv):
        pass


if __name__ == "__main__":
    without_pandas()
    main()
