"""`driftloop runs`: the attempts to replace a loop's model, newest first. Times are UTC."""

from __future__ import annotations

import argparse
import json
from typing import Any

from cli import app


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("runs", help="a loop's runs", description=__doc__)
    parser.add_argument("--loop", metavar="NAME", help="the loop's name (default: the only one)")
    app.arguments(parser)


def run(args: argparse.Namespace) -> int:
    with app.connect(args) as here:
        found = here.all(f"loops/{here.loop(args.loop)}/runs", "runs")
    if args.json:
        print(json.dumps(found))
        return 0
    head = ("run", "began", "ended", "phase", "candidate", "because")
    app.show_table(head, (_row(one) for one in found["runs"]))
    return 0


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    times = app.when(one["started"]), app.when(one["ended"])
    return one["id"], *times, one["phase"], one["candidate"][:12], one["because"]
