"""`driftloop quarantine`: what was not counted, and why; its bytes; and once more, when what was in the way is mended.

`replay` lets a batch come in as if its site had sent it again: it counts, or is back with the reason of today. What was
counted before is not counted again. Times are UTC.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from cli import app


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "quarantine",
        help="what was not counted, and why",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    actions = {
        "list": "what is there, newest first",
        "show": "the bytes of one, as they came, on standard output",
        "replay": "one batch once more",
    }
    for name, summary in actions.items():
        of = what.add_parser(name, help=summary, description=f"driftloop quarantine {name}: {summary}.")
        if name != "list":
            of.add_argument("id", metavar="ID", help="as `list` says")
        if name == "replay":
            of.add_argument("--reason", required=True, metavar="TEXT", help="for the audit trail")
        of.add_argument("--loop", metavar="NAME", help="the loop's name (default: the only one)")
        app.arguments(of)


def run(args: argparse.Namespace) -> int:
    with app.connect(args) as here:
        path = f"loops/{here.loop(args.loop)}/quarantine"
        if args.action == "show":
            body = here.read(f"{path}/{args.id}")
            sys.stdout.flush()
            sys.stdout.buffer.write(body)
            return 0
        if args.action == "replay":
            done = here.do(f"{path}/{args.id}/replay", args.reason)
            print(json.dumps(done) if args.json else f"{done['batch'] or args.id} is in the queue again")
            return 0
        found = here.get(path)
    if args.json:
        print(json.dumps(found))
    else:
        _show(found)
    return 0


def _show(found: dict[str, Any]) -> None:
    app.show_table(("at", "site", "batch", "id", "reason"), (_row(one) for one in found["quarantined"]))
    if (more := found["total"] - len(found["quarantined"])) > 0:
        print(f"and {more:,} more")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    reason = one["reason"] + "".join(f"\nrow {row}: {field}: {why}" for row, field, why in one["rows"][:3])
    return app.when(one["at"]), one["site"], one["batch"], one["id"], reason
