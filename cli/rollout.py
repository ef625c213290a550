"""`driftloop rollout pause|resume|rollback RUN`: hold a rollout, go on with it, or take back every site it reached."""

from __future__ import annotations

import argparse
import json
from typing import Any

from cli import app

_SAID = {"pause": "begins nothing new", "resume": "goes on", "rollback": "is told to take its sites back"}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("rollout", help="pause, resume or roll back", description=__doc__)
    parser.add_argument("what", choices=_SAID)
    parser.add_argument("id", metavar="RUN")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="for the audit trail")
    app.arguments(parser)


def run(args: argparse.Namespace) -> int:
    with app.connect(args) as here:
        done = here.do(f"runs/{args.id}/{args.what}", args.reason)
    print(json.dumps(done) if args.json else f"{done['run']} {_SAID[args.what]}")
    return 0
