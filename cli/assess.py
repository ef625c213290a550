"""`driftloop assess`: how far one table is from another, column by column.

Two tables have no calibration windows, so this is a two-sample test on the counts, with the false discovery rate held
over all columns, and distances beside it. A promise over time belongs to windows: `driftloop backtest`.

Without --loop, columns are matched by name: numbers as numbers, texts as categories; times, ids and running numbers
are left out, and named. With it, the features of loop.yaml are compared, and the score and the label where both have
them. Exit status: 0 nothing differs, 1 something does, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import guess
from drift.telemetry import Feature, Kind, Schema
from triggers.errors import Refused

if TYPE_CHECKING:
    from drift.two_tables import Comparison, Difference
    from triggers.config import Loop

Columns = dict[str, Any]
_BY_NAME = "(no --loop: columns are matched by name)"


@dataclass(frozen=True, slots=True)
class Pair:
    """What is compared: the features, the score and label where there are any, and what is left out, and why."""

    features: tuple[Feature, ...]
    extra: Mapping[str, str]
    left_out: Mapping[str, str]
    then: Columns
    now: Columns
    rows: tuple[int, int]

    @property
    def schema(self) -> Schema:
        return Schema("", (*self.features, *(Feature(name) for name in self.extra)))


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "assess",
        help="how far one table is from another",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--reference", type=Path, required=True, metavar="FILE", help="rows as they were (CSV, Parquet)"
    )
    parser.add_argument("--current", type=Path, required=True, metavar="FILE", help="rows as they are now")
    parser.add_argument("--loop", type=Path, metavar="FILE", help="loop.yaml, whose features are compared")
    parser.add_argument(
        "--fdr",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="expected share of false names among those named (%(default)s)",
    )
    parser.add_argument("--multivariate", action="store_true", help="also ask whether a model can tell the rows apart")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0 where nothing differs, 1 where something does."""
    if not 0 < args.fdr < 1:
        raise Refused(f"--fdr {args.fdr:g}: expected a share above 0 and below 1, such as 0.05")
    from drift.two_tables import compare_tables

    pair = read(args.reference, args.current, args.loop)
    found = compare_tables(pair.schema, pair.then, pair.now, args.fdr)
    told = as_json(found, pair)
    if args.multivariate:
        if not args.json:
            print("training a model to tell the rows apart ...", file=sys.stderr, flush=True)
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads would wait for busy cores
        from jobs.multivariate import told_apart

        told["multivariate"] = told_apart(Schema("", pair.features), pair.then, pair.now).to_dict()
    if args.json:
        print(json.dumps(told, allow_nan=False))
    else:
        _show(told, found, args)
    return 1 if found.drifted or told.get("multivariate", {}).get("drifted") else 0


def as_json(found: Comparison, pair: Pair) -> dict[str, Any]:
    """What --json prints; a distance that is no number is null."""
    from jobs.evaluate import finite

    extra = {name: asdict(found.features[name]) | {"drifted": name in found.drifted} for name in pair.extra}
    return finite(
        {
            "features": {f.name: asdict(found.features[f.name]) for f in pair.features},
            "drifted": [name for name in found.drifted if name not in pair.extra],
            "reason": found.reason,
            **{pair.extra[name]: difference for name, difference in extra.items()},
            "rows": {"reference": pair.rows[0], "current": pair.rows[1]},
            "left_out": dict(pair.left_out),
        }
    )


def read(reference: Path, current: Path, loop: Path | None) -> Pair:
    """Both tables, as far as they can be compared. Raises Refused with the file, the column and what was expected."""
    tables = [_read(path) for path in (reference, current)]
    if loop is None:
        return _by_name(reference, current, *tables)
    from cli.validate import text
    from triggers.config import parse_loop

    return _by_loop((reference, current), tables, parse_loop(text(loop), str(loop)))


def _read(path: Path) -> Any:
    table = guess.read(path)
    if not table.num_rows:
        raise Refused(f"{path}: has no rows; expected at least one")
    return table


def _by_loop(paths: tuple[Path, Path], tables: list[Any], loop: Loop) -> Pair:
    wanted = {f.name: f.column or f.name for f in loop.schema.features}
    for path, table in zip(paths, tables, strict=True):
        if missing := [c for c in wanted.values() if c not in table.column_names]:
            raise Refused(
                f"{path}: no column {', '.join(missing)}, which loop.yaml names; say schema.features[].column"
            )
    named = {"score": ("prediction", loop.schema.prediction), "label": ("label", loop.schema.label)}
    extra = {n: (kind, c) for n, (kind, c) in named.items() if c and all(c in t.column_names for t in tables)}
    features = loop.schema.telemetry(loop.task).features
    then, now = (
        {f.name: _values(table, wanted[f.name], f.kind, path) for f in features}
        | {name: _values(table, column, "number", path) for name, (_, column) in extra.items()}
        for path, table in zip(paths, tables, strict=True)
    )
    rows = (tables[0].num_rows, tables[1].num_rows)
    return Pair(features, {name: kind for name, (kind, _) in extra.items()}, {}, then, now, rows)


def _by_name(reference: Path, current: Path, then: Any, now: Any) -> Pair:
    looked = [{c.name: c for c in guess.look(table)} for table in (then, now)]
    left = {name: f"only in {reference}" for name in looked[0] if name not in looked[1]}
    left |= {name: f"only in {current}" for name in looked[1] if name not in looked[0]}
    features: list[Feature] = []
    sides: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name in (n for n in looked[0] if n in looked[1]):
        a, b = looked[0][name], looked[1][name]
        if why := _left_out(a, b):
            left[name] = why
            continue
        kind: Kind = "number" if "number" in (a.kind, b.kind) else "category"
        features.append(Feature(name, kind))
        for side, table, path in ((sides[0], then, reference), (sides[1], now, current)):
            side[name] = _values(table, name, kind, path)
    if not features:
        said = "; ".join(f"{name}: {why}" for name, why in left.items())
        raise Refused(f"no column of {reference} and {current} can be compared ({said}) {_BY_NAME}")
    return Pair(tuple(features), {}, left, *sides, (then.num_rows, now.num_rows))


def _left_out(a: guess.Column, b: guess.Column) -> str:
    """Why two columns of one name are not compared; "" where they are. An empty column is what the other one is."""
    if a.missing == a.rows or b.missing == b.rows:
        return "" if {a.kind, b.kind} & {"number", "text"} else "empty"
    if a.kind != b.kind:
        return f"{a.kind} in one, {b.kind} in the other"
    if a.kind in ("time", "other"):
        return "a time" if a.kind == "time" else "neither numbers nor text"
    why = guess.useless(a)
    return why if why == guess.useless(b) and why in (guess.ID, guess.RUNNING) else ""


def _values(table: Any, column: str, kind: str, path: Path) -> Any:
    from jobs import table as tables

    try:
        values = table.column(column)
        return tables.texts(values).tolist() if kind == "category" else tables.numbers(values, column)
    except tables.BadTable as problem:
        raise Refused(f"{path}: {problem}; loop.yaml says {kind}") from problem


def _show(told: Mapping[str, Any], found: Comparison, args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    out = Console()
    table = Table(title=f"{args.current} against {args.reference}", title_justify="left")
    table.add_column("Column", overflow="fold")
    for name in ("p", "psi", "ks", "wasserstein", "missing"):
        table.add_column(name, justify="right")
    table.add_column("")
    for name in sorted(found.features, key=lambda n: (n not in found.drifted, found.features[n].p)):
        table.add_row(name, *_cells(found.features[name]), "drifted" if name in found.drifted else "")
    out.print(table)
    out.print(f"{found.reason}.", markup=False, soft_wrap=True)
    if "multivariate" in told:
        out.print(f"{told['multivariate']['reason']}.", markup=False, soft_wrap=True)
    for name, why in told["left_out"].items():
        out.print(f"left out: {name} ({why})", markup=False, soft_wrap=True)


def _cells(d: Difference) -> list[str]:
    far = ["-" if x is None else f"{x:.3f}" for x in (d.ks, d.wasserstein)]
    return [f"{d.p:.2g}", f"{d.psi:.3f}", *far, f"{d.missing:+.1%}"]
