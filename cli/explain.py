"""`driftloop explain RUN`: why a run began, what was proven, who decided and what each site did, in plain sentences
with their numbers. Times are UTC.

Everything comes from what was kept: the audit trail, the decision, the evidence and the run's list of sites.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from cli import app


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "explain",
        help="a run's story",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("id", metavar="RUN")
    parser.add_argument("--steps", action="store_true", help="each entry of the audit trail as well")
    app.arguments(parser)


def run(args: argparse.Namespace) -> int:
    with app.connect(args) as here:
        found = here.get(f"runs/{args.id}/story")
    if args.json:
        print(json.dumps(found))
        return 0
    for chapter in found["chapters"]:
        app.show_chapter(chapter["title"], chapter["text"])
    if args.steps:
        app.show_chapter("Step by step", map(_step, found["sentences"]))
    return 0


def _step(told: dict[str, Any]) -> str:
    by = f" ({told['actor']})" if told["actor"] not in ("", "driftloop") else ""
    return f"{app.when(told['at'])}  {told['text']}{by}"
