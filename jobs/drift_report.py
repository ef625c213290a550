"""`python -m jobs.drift_report SPEC.json`: the full report that a person reads, drawn by Evidently from samples.

Off the hot path: Evidently takes many seconds to import alone. Methods are pinned (PSI), because its automatic choice
changes with the number of rows. The page goes into the blob store as `evidently/<loop>/<name>.html`, and begins with
what a domain classifier makes of the same samples.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift.telemetry import Schema
from jobs import sample
from jobs import table as tables
from jobs.multivariate import Apart, told_apart
from jobs.table import BadTable, Table
from triggers.config import Loop, parse_loop

ROWS = 2000
"""Of each side, at most."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """`reference` and `current` are [from, to); the reference is of the table `data` where that is said. `sites` null
    means all of them; with `candidate`, current rows are of that model alone."""

    name: str
    loop: str
    blobs: str
    reference: tuple[datetime, datetime]
    current: tuple[datetime, datetime]
    data: str | None = None
    sites: list[str] | None = None
    candidate: str = ""


def main(argv: list[str]) -> int:
    """0, and a line of JSON that says where the report is; 1 where there is nothing to draw."""
    spec = msgspec.json.decode(Path(argv[0]).read_bytes(), type=Spec)
    loop = parse_loop(Path(spec.loop).read_text("utf-8"), spec.loop)
    schema = loop.schema.telemetry(loop.task)
    try:
        sides = [_rows(spec, loop, "reference"), _rows(spec, loop, "current")]
    except BadTable as problem:
        print(json.dumps({"error": str(problem)}))
        return 1
    for name, side in zip(("reference", "current"), sides, strict=True):
        if not len(side.table()):
            start, end = getattr(spec, name)
            where = "" if spec.sites is None else f" of {', '.join(spec.sites)}"
            print(json.dumps({"error": f"{name}: no rows{where} are kept from {start:%Y-%m-%d} to {end:%Y-%m-%d}"}))
            return 1
    then, now = (side.table() for side in sides)
    apart = told_apart(schema, then.columns, now.columns)
    told = f"{now_of(spec)} Drawn from {len(now):,} of {sides[1].seen:,} rows and {len(then):,} of {sides[0].seen:,}."
    target = Path(spec.blobs) / "evidently" / loop.loop / f"{spec.name}.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_text(draw(then, now, schema, f"{told} Multivariate: {apart.reason}."), "utf-8")
    partial.replace(target)
    print(json.dumps({"report": f"evidently/{loop.loop}/{spec.name}.html", "multivariate": _told(apart)}))
    return 0


def now_of(spec: Spec) -> str:
    """What the report is of, in words."""
    model = f" served by {spec.candidate[:12]}" if spec.candidate else ""
    sites = "all sites" if spec.sites is None else ", ".join(spec.sites)
    (a, b), (c, d) = spec.current, spec.reference
    return f"{sites}{model}, {a:%Y-%m-%d} to {b:%Y-%m-%d}, against {c:%Y-%m-%d} to {d:%Y-%m-%d}."


def _told(apart: Apart) -> dict[str, Any]:
    return {"drifted": apart.drifted, "auc": apart.auc, "low": apart.low, "high": apart.high, "reason": apart.reason}


def _rows(spec: Spec, loop: Loop, side: str) -> sample.Reservoir:
    start, end = (int(moment.timestamp()) for moment in getattr(spec, side))
    schema = loop.schema.telemetry(loop.task)
    if side == "current" or spec.data is None:
        candidate = spec.candidate if side == "current" else ""
        return sample.stored(
            Path(spec.blobs), loop.loop, schema, (start, end), rows=ROWS, sites=spec.sites, candidate=candidate
        )
    whole = tables.read(Path(spec.data), loop)[0]
    kept = sample.Reservoir(ROWS, schema)
    inside = whole.between(start, end)
    if spec.sites is not None and loop.schema.site is not None:
        inside &= np.isin(whole.site.astype(str), spec.sites)
    kept.add(whole.take(inside))
    return kept


def draw(reference: Table, current: Table, schema: Schema, words: str = "") -> str:
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
    return page.replace("<body>", f"<body><p>{escape(words)}</p>", 1) if words else page


def _known(column: NDArray[Any]) -> bool:
    return any(v is not None for v in column) if column.dtype == object else bool(np.isfinite(column).any())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
