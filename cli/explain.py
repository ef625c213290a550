"""`driftloop explain RUN`: what happened to a run, and why, in sentences from the audit trail. Times are UTC."""

from __future__ import annotations

import argparse
import json
from typing import Any

from cli import app


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("explain", help="a run's story", description=__doc__)
    parser.add_argument("id", metavar="RUN")
    app.arguments(parser)


def run(args: argparse.Namespace) -> int:
    with app.connect(args) as here:
        found = here.get(f"runs/{args.id}/story")
    if args.json:
        print(json.dumps(found))
        return 0
    for told in found["sentences"]:
        by = f" ({told['actor']})" if told["actor"] not in ("", "driftloop") else ""
        print(f"{app.when(told['at'])}  {told['text']}{by}")
    return 0
