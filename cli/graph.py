"""`driftloop graph`: how a run moves, as a diagram and a table, written from lifecycle.RULES.

`python -m cli.graph` writes docs/lifecycle.md anew, and the diagram in docs/loop.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from inspect import getdoc
from pathlib import Path
from typing import Any

from triggers import lifecycle
from triggers.run import FINAL, Phase

DOCS = Path(__file__).parents[1] / "docs"
FILE, LOOP = DOCS / "lifecycle.md", DOCS / "loop.md"

_BEGINNING = """\
# How a run moves

Written by `driftloop graph` from `RULES` in triggers/lifecycle.py, the only place where a run changes. A fact that
has no rule in its phase is refused and put into quarantine. A fact that was told before, or that reaches a run in a
final phase, changes nothing.
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("graph", help="how a run moves, as a diagram", description=__doc__)
    where = "default: docs/lifecycle.md, and the diagram in docs/loop.md; - prints"
    parser.add_argument("--out", type=Path, metavar="FILE", help=where)


def run(args: argparse.Namespace) -> int:
    """Always 0."""
    if str(args.out) == "-":
        print(page(), end="")
        return 0
    pages = {args.out: page()} if args.out else {FILE: page(), LOOP: drawn(LOOP.read_text("utf-8"))}
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")
    return 0


def page() -> str:
    """docs/lifecycle.md as it must be."""
    return f"{_BEGINNING}\n{_fenced()}\n{table()}"


def drawn(text: str) -> str:
    """A page with its Mermaid diagram as it must be.

    >>> drawn("a\\n```mermaid\\nold\\n```\\nb") == f"a\\n```mermaid\\n{diagram()}```\\nb"
    True
    """
    return re.sub(r"^```mermaid\n.*?^```\n", _fenced(), text, count=1, flags=re.DOTALL | re.MULTILINE)


def _fenced() -> str:
    return f"```mermaid\n{diagram()}```\n"


def diagram() -> str:
    """A Mermaid state diagram. A rule that may leave a run where it is has no arrow for that."""
    lines = ["stateDiagram-v2", "    direction LR"]
    lines += [f'    state "{phase}" as {phase.name}' for phase in Phase]
    lines += [
        f"    [*] --> {Phase.TRAINING.name}: drift, or a person",
        f"    [*] --> {Phase.EVALUATING.name}: a candidate handed in",
    ]
    for (phase, event), rule in lifecycle.RULES.items():
        lines += [f"    {phase.name} --> {to.name}: {event.__name__}" for to in rule.leads_to]
    lines += [f"    {phase.name} --> [*]" for phase in Phase if phase in FINAL]
    return "\n".join(lines) + "\n"


def table() -> str:
    """Every rule: phase, event, the phases it may lead to, and what it means."""
    rows = ["| phase | event | leads to | meaning |", "| --- | --- | --- | --- |"]
    for (phase, event), rule in lifecycle.RULES.items():
        leads = ", ".join(rule.leads_to) or "stays"
        meaning = getdoc(rule.apply) or getdoc(event) or ""
        rows.append(f"| {phase} | {event.__name__} | {leads} | {meaning.splitlines()[0]} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="driftloop")
    add_parser(parser.add_subparsers())
    sys.exit(run(parser.parse_args(["graph", *sys.argv[1:]])))
