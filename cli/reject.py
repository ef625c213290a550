"""`driftloop reject RUN --reason TEXT`: answer no to what is asked about a run's candidate, or ask for changes.

As `driftloop approve`, it is bound to the digests that are shown. The run ends and no site changes.
"""

from __future__ import annotations

import argparse
from typing import Any

from cli import approve


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "reject",
        help="refuse a run's candidate, or ask for changes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    approve.arguments(parser)
    parser.add_argument("--reason", required=True, metavar="TEXT", help="for the audit trail and who asked")
    parser.add_argument("--changes", action="store_true", help="ask for changes: the words go to whoever asked")


def run(args: argparse.Namespace) -> int:
    return approve.answer(args, "changes" if args.changes else "reject", args.reason)
