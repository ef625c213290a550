"""`driftloop new`: looks at a table, and writes a loop.yaml and a fleet.yaml for it that run as they are."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cli import scaffold
from cli.guess import Guess, Role, Taken, guess, look, read
from drift.telemetry import LEAST_PERIODS
from triggers.config import Bootstrap, Loop, parse, parse_loop
from triggers.errors import Refused

if TYPE_CHECKING:
    from cli.tables import Data

ROLES: tuple[Role, ...] = ("timestamp", "site", "id", "label", "prediction")
YEAR = 365.0
SHARES = (0.2, 0.3, 0.4, 0.5)
HOURS = (168, 24, 12, 6, 3, 1)
ENOUGH = 30
"""Rows that the smallest site needs in a window that is shorter than usual."""

WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


@dataclass(frozen=True, slots=True)
class Cut:
    """How the data is cut: the bootstrap's share of the time, the hours of a window, the windows of the bootstrap."""

    share: float
    hours: int
    periods: int

    @property
    def problem(self) -> str:
        """Why no alarm can be covered; "" where it can."""
        if self.periods >= LEAST_PERIODS:
            return ""
        return (
            f"half of the data has fewer than {LEAST_PERIODS} windows with enough rows to tell anything: "
            "drift will be shown, but retrains nothing; more data would cover it"
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of the data, from which the lengths and limits of the loop follow."""

    rows: int
    days: float
    labelled: int
    sites: dict[str, int]
    cut: Cut

    def scaled(self, days: float) -> str:
        """A length that suits a year of data, for as much as there is."""
        hours = days * 24 * min(1.0, self.days / YEAR)
        return f"{round(hours / 24)}d" if hours >= 36 else f"{max(1, round(hours))}h"

    @property
    def least_rows(self) -> int:
        """Rows below which a window is no evidence: half of what the smallest site has in one, and 50 at most."""
        return max(5, min(50, round(min(self.sites.values()) / max(self.days, 1.0) * self.cut.hours / 48)))

    @property
    def retraining_rows(self) -> int:
        """Labelled rows before a retraining: as many windows of them as cover the next model's alarms."""
        a_window = self.labelled / self.days * self.cut.hours / 24
        return max(50, min(1000, self.rows // 20), round(a_window * LEAST_PERIODS))

    @property
    def training(self) -> str:
        """How far back a training looks: never so short that the next model's alarms are not covered."""
        return max(self.scaled(60), _length(30 * self.cut.hours), key=_days)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("new", help="start a loop from a table", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="of the loop, and of the folder that it is written to")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="rows, CSV or Parquet")
    for role in ROLES:
        parser.add_argument(f"--{role}", metavar="COLUMN", help=f"the {role}'s column (default: guessed)")
    parser.add_argument(
        "--azure",
        choices=("cloud", "edge"),
        help="also a script and an environment for Azure ML, gates and rollout spelt out",
    )
    parser.add_argument("--force", action="store_true", help="write over what is there")
    parser.add_argument("--json", action="store_true", help="print what was guessed as JSON")


def run(args: argparse.Namespace) -> int:
    """Write NAME/loop.yaml and NAME/fleet.yaml, and show what was guessed and why."""
    folder, beside = Path(args.name), scaffold.files() if args.azure else {}
    files = [folder / name for name in ("loop.yaml", "fleet.yaml", *beside)]
    if (there := [f for f in files if f.exists()]) and not args.force:
        raise Refused(f"{there[0]} is there already; --force writes over it")
    made, said, loop, fleet = begin(folder.name, args.data, {role: getattr(args, role) for role in ROLES})
    if args.azure:
        loop, fleet = scaffold.loop(loop, args.azure), scaffold.fleet(fleet, args.azure)
        parse(loop, fleet, str(files[0]), str(files[1]))
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in zip(files, (loop, fleet, *beside.values()), strict=True):
        file.write_text(text, "utf-8")
    if args.json:
        about = {"name": folder.name, "task": made.task, "files": [str(f) for f in files], "said": said}
        print(json.dumps({**about, **_json(made)}))
    else:
        _show(made, files, args.data, said)
    return 0


def begin(name: str, data: Path, said: dict[Role, str | None]) -> tuple[Guess, list[str], str, str]:
    """What was guessed, what must be said of the data at once, and the texts of loop.yaml and fleet.yaml. Raises
    Refused."""
    from cli import tables

    made = guess(look(read(data)), said)
    loop = parse_loop(_bare_loop(name, made), f"{name}/loop.yaml")
    rows = tables.load(data, loop)
    if rows.first == rows.last:
        raise Refused(f"{data}: all rows have one time; a loop needs rows over time")
    days, labelled = (rows.last - rows.first) / 86400, len(rows.table.labelled)
    shape = Shape(len(rows), days, labelled, rows.table.sites(), cut(rows, loop))
    span = [datetime.fromtimestamp(at, UTC) for at in (rows.first, rows.last)]
    texts = loop_yaml(name, data.name, made, shape, span), fleet_yaml(shape)
    parse(*texts, f"{name}/loop.yaml", f"{name}/fleet.yaml")
    return made, [line for line in (tables.in_words(rows.left_out), shape.cut.problem) if line], *texts


def cut(rows: Data, loop: Loop) -> Cut:
    """The shortest bootstrap whose windows cover the alarms of the first model. A window is a day; or a week, where a
    site's day has too few rows to tell anything; or shorter, where half of the data has too few days, and it still has
    rows enough. Raises Refused."""
    least = bootstrap(rows, loop)
    hourly = min(rows.table.sites().values()) / max((rows.last - rows.first) / 3600, 24.0)
    usual = 24 if 24 * hourly >= 50 or rows.last - rows.first < 70 * 86400 else 168
    windows = [h for h in HOURS if h == usual or (h < usual and h * hourly >= ENOUGH)]
    shares = [s for s in SHARES if s >= least]
    for share, hours in sorted(product(shares, windows), key=lambda c: (c[1] < 24, c[0], -c[1])):
        periods = len(np.unique(_beginning(rows, loop, share).table.at // (3600 * hours)))
        if periods >= LEAST_PERIODS:
            return Cut(share, hours, periods)
    return Cut(least, usual, 0)


def _beginning(rows: Data, loop: Loop, share: float) -> Data:
    asked = msgspec.structs.replace(loop, bootstrap=Bootstrap(fraction=share))
    return rows.between(rows.first, rows.start_of_telemetry(asked))


def bootstrap(rows: Data, loop: Loop) -> float:
    """The least share of the time, of a few, in which a first model can be trained. Raises Refused."""
    for share in SHARES:
        labels = _beginning(rows, loop, share).table.labelled.label
        if len(set(labels.tolist())) > 1:
            return share
    raise Refused(
        f"the first half of the data has {len(labels)} labels"
        + (f", all of them {labels[0]:g}" if len(labels) else "")
        + ": no first model can be trained on it; expected both, or different ones"
    )


def _bare_loop(name: str, made: Guess) -> str:
    """Enough of loop.yaml to read the table by."""
    roles = "".join(f"  {role}: {_q(made.roles[role][0].name)}\n" for role in ROLES if role in made.roles)
    return f"loop: {_q(name)}\ntask: {made.task}\nschema:\n{roles}  features:\n" + "".join(map(_feature, made.features))


def loop_yaml(name: str, source: str, made: Guess, shape: Shape, span: Sequence[datetime]) -> str:
    """loop.yaml, commented."""
    return "\n".join(_loop_lines(name, source, made, shape, span)) + "\n"


def _loop_lines(name: str, source: str, made: Guess, shape: Shape, span: Sequence[datetime]) -> Iterator[str]:
    yield f"# Written by `driftloop new` from {source}: {shape.rows:,} rows, {span[0]:%Y-%m-%d} to {span[1]:%Y-%m-%d}."
    yield "# What is a guess says why. Every field and its default: docs/schemas/loop.schema.json."
    yield f"loop: {_q(name)}"
    two = "the label is 0 or 1" if made.task == "binary" else "the label is a number"
    yield f"task: {made.task}  # {two}"
    yield ""
    yield "schema:"
    for role in ROLES:
        if role in made.roles:
            column, why = made.roles[role]
            yield f"  {role}: {_q(column.name)}  # {why}"
        else:
            yield f"  # {role}: {_WITHOUT[role]}"
    yield "  label_delay: 0s  # how long after its time a row's label is known; or label_at: the column that says when"
    yield "  features:"
    yield from (_feature(taken).rstrip("\n") for taken in made.features)
    for column, why in made.left:
        yield f"    # left out: {_q(column.name)}: {why}"
    yield ""
    yield "bootstrap:"
    said = shape.cut.problem or f"{shape.cut.periods} windows cover its alarms"
    yield f"  fraction: {shape.cut.share}  # of the time span: the first model is trained on it; {said}"
    yield ""
    yield "telemetry:"
    yield f"  window: {_length(shape.cut.hours)}  # drift is measured over so much at a time"
    yield f"  silence: {_length(max(shape.cut.hours, 24) + 24)}  # a site that sends nothing for so long is reported"
    yield ""
    yield "drift:"
    yield "  false_alarms: 1 per 90 days  # over all sites and features together"
    yield f"  minimum_rows: {shape.least_rows}  # a site's window with fewer is no evidence"
    yield f"  quality: {{minimum_rows: {shape.least_rows}}}"
    yield ""
    yield "retrain:"
    yield f"  cooldown: {shape.scaled(14)}  # at least so long between two"
    yield "  budget: 3 per 30 days"
    yield f"  minimum_rows: {shape.retraining_rows}  # labelled: {LEAST_PERIODS} windows cover the next model's alarms"
    yield ""
    yield "training:  # by a scikit-learn model that needs no code; script: train.py for your own"
    yield f"  window: {shape.training}  # the newest rows, of which"
    yield f"  holdout: {shape.scaled(10)}  # are left out, to judge the candidate by"
    yield ""
    yield "gates:"
    metric = "auc" if made.task == "binary" else "rmse"
    yield f"  metric: {metric}"
    yield "  minimum_gain: 0.0  # the lower end of the gain's interval must exceed it"
    rows = max(30, min(500, round(shape.rows / shape.days * _days(shape.scaled(10)) / 2)))
    yield f"  minimum_rows: {rows}"
    if made.task == "binary" and len(shape.sites) > 1:
        yield f"  minimum_part_rows: {min(100, rows)}  # of a site; with fewer it is not judged"
        yield "  maximum_site_loss: 0.05  # where a site has rows enough; what is not proven is for you to judge"
    yield ""
    yield "approval:"
    yield "  approvers: [operator]  # who may approve, by the name they sign in with; on one machine that is operator"
    yield "  self_approval: true  # also what they asked for themselves; false where several people may approve"
    if len(shape.sites) > 1:
        yield ""
        yield "rollout:"
        yield "  rings: [first, rest]  # of fleet.yaml, in order"
        yield f"  max_unavailable: {max(1, len(shape.sites) // 5)}"
        yield f"  soak: {shape.scaled(1)}  # a ring must be well for so long before the next"


_WITHOUT: dict[Role, str] = {
    "timestamp": "",
    "site": "no column found; every row is from the one site of fleet.yaml",
    "id": "no column found; rows are numbered",
    "label": "",
    "prediction": "no column found; where the table has scores that were served, name it",
}


def fleet_yaml(shape: Shape) -> str:
    """fleet.yaml, commented: the sites of the table, the smallest one first in line."""
    lines = [
        "# The sites that serve the model. Every field and its default: docs/schemas/fleet.schema.json.",
        "sites:",
    ]
    first = min(shape.sites, key=lambda s: (shape.sites[s], s))
    for site, rows in shape.sites.items():
        lines.append(f"  - name: {_q(site)}  # {rows:,} rows")
        if len(shape.sites) > 1:
            lines.append(f"    ring: {'first  # the fewest rows: the least harm' if site == first else 'rest'}")
    return "\n".join(lines) + "\n"


def _feature(taken: Taken) -> str:
    column = f", column: {_q(taken.column.name)}" if taken.name != taken.column.name else ""
    span = f", range: [{taken.range[0]:g}, {taken.range[1]:g}]" if taken.range else ""
    missing = f"; {taken.column.missing / taken.column.rows:.1%} missing" if taken.column.missing else ""
    return f"    - {{name: {_q(taken.name)}, kind: {taken.kind}{column}{span}}}  # {taken.why}{missing}\n"


def _length(hours: int) -> str:
    return f"{hours // 24}d" if hours % 24 == 0 else f"{hours}h"


def _days(text: str) -> float:
    return float(text[:-1]) / (24 if text.endswith("h") else 1)


def _q(text: str) -> str:
    """A text as YAML: quoted where it might be read as something else."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", text) and text.lower() not in WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def _rows(made: Guess) -> Iterator[tuple[str, str, str]]:
    """(column, what it is taken for, why), roles first."""
    for role in ROLES:
        if role in made.roles:
            column, why = made.roles[role]
            yield column.name, role, why
    for taken in made.features:
        yield taken.column.name, taken.kind, taken.why
    for column, why in made.left:
        yield column.name, "left out", why


def _json(made: Guess) -> dict[str, Any]:
    return {"columns": [{"column": column, "as": what, "why": why} for column, what, why in _rows(made)]}


def _show(made: Guess, files: Sequence[Path], data: Path, said: Sequence[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{data.name}: {made.task}", title_justify="left")
    for heading in ("column", "taken as", "why"):
        table.add_column(heading, overflow="fold")
    colours = {"left out": "dim", "number": "default", "category": "default"}
    for column, what, why in _rows(made):
        table.add_row(escape(column), what, escape(why), style=colours.get(what, "bold"))
    console = Console()
    console.print(table)
    for line in said:
        console.print(line, style="bold", markup=False, highlight=False)
    console.print(f"wrote {' and '.join(map(str, files))}; look them through, then try them:", highlight=False)
    loop, fleet, state = (*files[:2], files[0].parent / "state")
    history = ["driftloop", "backtest", "--loop", loop, "--data", data, "--retrain"]
    whole = ["driftloop", "replay", "--loop", loop, "--fleet", fleet, "--data", data, "--state", state, "--approve"]
    for words in (history, whole):
        console.print("  " + escape(shlex.join(map(str, words))), highlight=False, soft_wrap=True)
