"""How two candidates are compared: the script that loop.yaml names. Copy it to begin your own.

It is called as `evaluate.py --data rows.parquet --loop loop.yaml --champion DIR --challenger DIR --out evidence.json`.
The rows are labelled, and neither candidate was trained on them. What the gate reads is the metric of both, the gain
with its interval, and the same by site; whatever else is written is kept with the evidence.
"""

from __future__ import annotations

import numpy as np

from jobs.evaluate import Comparison
from jobs.light import without_pandas


def main() -> None:
    with Comparison.from_arguments() as found:
        precip = found.rows.columns["precip"]
        found.evidence["weather"] = {"wet": found.on(precip > 0), "dry": found.on(~(np.nan_to_num(precip) > 0))}


if __name__ == "__main__":
    without_pandas()  # faster; leave this out where you use it
    main()
