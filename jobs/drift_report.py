"""`python -m jobs.drift_report SPEC.json`: the full report that a person reads, drawn by Evidently from samples.

Off the hot path: Evidently takes many seconds to import alone. Methods are pinned (PSI), because its automatic choice
changes with the number of rows. The page goes into the blob store as `evidently/<loop>/<name>.html`.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift.telemetry import Schema
from jobs import table as tables
from jobs.assemble import assemble
from jobs.table import Table
from triggers.config import Loop, parse_loop

ROWS = 2000
"""Of each side; an even sample over its time."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """`reference` and `current` are [from, to); the reference is of the table `data` where that is said."""

    name: str
    loop: str
    blobs: str
    reference: tuple[datetime, datetime]
    current: tuple[datetime, datetime]
    data: str | None = None
    sites: list[str] | None = None


def main(argv: list[str]) -> int:
    spec = msgspec.json.decode(Path(argv[0]).read_bytes(), type=Spec)
    loop = parse_loop(Path(spec.loop).read_text("utf-8"), spec.loop)
    schema = loop.schema.telemetry(loop.task)
    page = draw(_rows(spec, loop, spec.reference, spec.data), _rows(spec, loop, spec.current, None), schema)
    target = Path(spec.blobs) / "evidently" / loop.loop / f"{spec.name}.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_text(page, "utf-8")
    partial.replace(target)
    print(json.dumps({"report": f"evidently/{loop.loop}/{spec.name}.html"}))
    return 0


def _rows(spec: Spec, loop: Loop, span: tuple[datetime, datetime], data: str | None) -> Table:
    start, end = (int(moment.timestamp()) for moment in span)
    if data is None:
        schema = loop.schema.telemetry(loop.task)
        found = assemble(Path(spec.blobs), loop.loop, schema, start, end, spec.sites).table
    else:
        whole, *_ = tables.read(Path(data), loop)
        found = whole.take(whole.between(start, end))
    return found.take(np.linspace(0, len(found) - 1, min(len(found), ROWS)).astype(np.intp))


def draw(reference: Table, current: Table, schema: Schema) -> str:
    """The report as one HTML page. Columns that are empty on a side are left out: Evidently cannot compare them."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    kept = [f for f in schema.features if _known(reference.columns[f.name]) and _known(current.columns[f.name])]
    of_kind = {kind: [f.name for f in kept if f.kind == kind] for kind in ("number", "category")}
    both = [np.isfinite(side.score).any() for side in (reference, current)]
    scored = ["score"] if all(both) else []
    definition = DataDefinition(numerical_columns=of_kind["number"] + scored, categorical_columns=of_kind["category"])

    def dataset(side: Table) -> Any:
        columns: dict[str, NDArray[Any]] = {f.name: side.columns[f.name] for f in kept}
        if scored:
            columns["score"] = side.score
        return Dataset.from_pandas(pd.DataFrame(columns), data_definition=definition)

    report = Report([DataDriftPreset(method="psi")]).run(dataset(current), dataset(reference))
    page: str = report.get_html_str(as_iframe=False)
    return page


def _known(column: NDArray[Any]) -> bool:
    return any(v is not None for v in column) if column.dtype == object else bool(np.isfinite(column).any())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
