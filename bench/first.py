"""The first check in a fresh process: import, reference, one batch of 500 rows, fold, assess."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.extra import SILENT
from bench.world import World

_CHILD = """
import sys
import numpy as np
from drift.reference import Reference
from drift.report import Limits, assess
from drift.telemetry import Batch, Rows
from drift.windows import fold
reference = Reference.from_bytes(open(sys.argv[1], "rb").read())
x = np.random.default_rng(0).normal(size=(500, 20))
rows = Rows([str(i) for i in range(500)], np.full(500, 60 * 86400), x[:, 0], {f"f{i}": x[:, i] for i in range(20)})
batch = Batch("1", "l", "m", "s0000", "b", 60 * 86400, 61 * 86400, rows=rows)
report, state = assess(reference, list(fold(batch, reference, 86400).values()), None, Limits())
assert report.rows == 500
"""


def run(repeats: int = 5) -> float:
    """Median seconds of a whole process, for 3 sites, 20 features and 60 calibration days."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.bin"
        path.write_bytes(World(0, sites=3, features=20).reference(60).to_bytes())
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", _CHILD, str(path)], check=True)
            times.append(time.perf_counter() - start)
    return float(np.median(times))


_EVIDENTLY = """
import numpy as np, pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
then, now = (pd.DataFrame(np.random.default_rng(i).normal(size=(500, 20))).add_prefix("f") for i in (0, 1))
Report([DataDriftPreset()]).run(now, then).dict()
"""
_NANNYML = """
import numpy as np, pandas as pd, nannyml
then, now = (pd.DataFrame(np.random.default_rng(i).normal(size=(500, 20))).add_prefix("f") for i in (0, 1))
nannyml.UnivariateDriftCalculator(list(then.columns), chunk_size=500).fit(then).calculate(now)
"""


def peers(python: Path, repeats: int = 3) -> dict[str, float]:
    """Median seconds of a whole process of the others', for as many rows."""
    found = {}
    for name, code in (("evidently", _EVIDENTLY), ("nannyml", _NANNYML)):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            command = [str(python), "-W", "ignore", "-c", code]
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, **SILENT})
            times.append(time.perf_counter() - start)
        found[name] = float(np.median(times))
    return found
