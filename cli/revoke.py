"""`driftloop revoke CANDIDATE`: no site is asked to serve it from now on, on no way out or back. It is for good. What
serves it already goes on: `driftloop rollout rollback` takes back what is rolling out.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from cli import app


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("revoke", help="let no site be asked to serve a candidate", description=__doc__)
    parser.add_argument("candidate", metavar="CANDIDATE", help="its digest, as `driftloop show RUN` says it")
    parser.add_argument("--loop", metavar="NAME", help="the loop's name (default: the only one)")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="for the audit trail")
    app.arguments(parser)


def run(args: argparse.Namespace) -> int:
    with app.connect(args) as here:
        done = here.do(f"loops/{here.loop(args.loop)}/revoke", args.reason, target=args.candidate)
    print(json.dumps(done) if args.json else f"{done['revoked']} is revoked")
    return 0
