"""`driftloop cancel RUN`: stop a run; one that is rolling out is taken back."""

from __future__ import annotations

import argparse
import json
from typing import Any

from cli import app


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("cancel", help="stop a run", description=__doc__)
    parser.add_argument("id", metavar="RUN")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="for the audit trail")
    app.arguments(parser)


def run(args: argparse.Namespace) -> int:
    with app.connect(args) as here:
        done = here.do(f"runs/{args.id}/cancel", args.reason)
    print(json.dumps(done) if args.json else f"{done['run']} is told to stop")
    return 0
