"""`driftloop approve RUN`: answer yes to what is asked about a run's candidate.

The answer is bound to the digests of candidate, evidence and plan that are shown, and counts for no others. On a
terminal they are shown and you are asked; in a script --candidate says which one was looked at before: at least 12
digits of the digest that `driftloop show` prints. Who answers is who you are signed in as; on a state folder that is
--as NAME (default: your login name), because whoever may write the state may be anybody there.

Exit status 1 where the answer does not count, with why.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from cli import app, show
from triggers.errors import Refused

_WORDS = {"approve": "approved", "reject": "rejected", "changes": "sent back for changes"}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "approve",
        help="let a run's candidate through",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments(parser)
    parser.add_argument("--reason", default="", metavar="TEXT", help="for the audit trail")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="RUN")
    parser.add_argument("--candidate", default="", metavar="DIGEST", help="the candidate that was looked at")
    app.arguments(parser)
    parser.add_argument("--as", dest="name", default="", metavar="NAME", help="who answers, on a state folder")


def run(args: argparse.Namespace) -> int:
    return answer(args, "approve", args.reason)


def answer(args: argparse.Namespace, word: str, reason: str) -> int:
    """0 where it counts, 1 where it does not."""
    with app.connect(args) as here:
        found = here.get(f"runs/{args.id}")
        asked = found["approval"]
        if asked is None or asked["state"] != "open":
            state = "nothing is asked" if asked is None else f"the question is {asked['state']}"
            raise Refused(f"{args.id}: {state}")
        _look(args, found, word)
        try:
            done = here.answer(args.id, word, reason, {k: asked[k] for k in ("candidate", "evidence", "plan")})
        except Refused as problem:
            print(f"driftloop: it does not count: {problem}", file=sys.stderr)
            return 1
    if args.json:
        print(json.dumps(done))
    elif done["state"] == "open":
        print(f"{args.id}: {_WORDS[word]} by {done['by']}; more people have to approve")
    else:
        print(f"{args.id}: {_WORDS[word]} by {done['by']}")
    return 0


def _look(args: argparse.Namespace, found: dict[str, Any], word: str) -> None:
    """That who answers has seen what the answer is bound to. Raises Refused."""
    asked = found["approval"]
    if args.candidate:
        if len(args.candidate) < 12 or not asked["candidate"].startswith(args.candidate):
            raise Refused(f"what is asked is about candidate {asked['candidate'][:12]}, not {args.candidate[:64]}")
        return
    if not sys.stdin.isatty():
        raise Refused(f"--candidate: say which one was looked at; what is asked is about {asked['candidate']}")
    print("\n".join(show.lines(found)))
    print(f"evidence  {asked['evidence']}\nplan      {asked['plan']}")
    if input(f"{word} this candidate at these sites? (yes/no) ").strip().lower() != "yes":
        raise Refused("nothing was answered")
