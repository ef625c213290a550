"""`driftloop audit`: the audit trail of a loop, each entry chained to the one before it by its hash.

`verify` computes the hashes anew, here, whoever stores the trail, and says the first broken link. That its end was not
cut off shows by the head, by the anchors that the app keeps apart from it each day, and by --head, the number and hash
that an earlier `verify` has printed. `rebuild` makes every run, the champions and the revocations anew from the trail
alone, here, and compares them with what the app has stored. `decisions` computes each decision of a check anew, here,
from what it was made of (findings, history, rows, active runs, freeze, loop.yaml and fleet.yaml as they were), and
looks for it in the trail. Exit status 1: it does not hold. Times are UTC.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import Any

import msgspec

from cli import app
from triggers.errors import Refused, Retry
from triggers.lifecycle import IllegalTransition
from triggers.policy import Decision
from triggers.rebuild import differences, rebuild, unlike, untold
from triggers.records import AuditEntry, Head, verify
from triggers.run import Run


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("audit", help="the audit trail, and whether it is whole", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in (
        ("verify", "whether it is whole"),
        ("rebuild", "whether the runs that it gives again are those that are stored"),
        ("decisions", "whether each decision comes of what it was made of"),
        ("show", "its entries"),
    ):
        action = actions.add_parser(name, help=summary)
        action.add_argument("--loop", metavar="NAME", help="the loop's name (default: the only one)")
        app.arguments(action)
        if name == "verify":
            action.add_argument("--head", metavar="N:HASH", help="where it ended when it was verified before")
        elif name == "show":
            action.add_argument("--run", metavar="RUN", help="the entries of one run")


def run(args: argparse.Namespace) -> int:
    with app.connect(args) as here:
        loop = here.loop(args.loop)
        if args.action == "rebuild":
            return _rebuild(args, loop, here)
        if args.action == "decisions":
            return _decisions(args, loop, here)
        entries, first, last = _fetch(here, loop)
    return _verify(args, loop, entries, first, last) if args.action == "verify" else _show(args, entries)


def _fetch(here: app.App, loop: str) -> tuple[list[AuditEntry], dict[str, Any], dict[str, Any]]:
    """The whole trail, and its first and last page; what was added while it was fetched is left out."""
    first = page = here.get(f"loops/{loop}/audit")
    found = list(page["entries"])
    while page["next"] is not None:
        page = here.get(f"loops/{loop}/audit", after=page["next"])
        found += page["entries"]
    entries = [msgspec.convert(entry, AuditEntry) for entry in found]
    return [entry for entry in entries if entry.seq <= page["head"]], first, page


def _verify(
    args: argparse.Namespace, loop: str, entries: list[AuditEntry], first: dict[str, Any], last: dict[str, Any]
) -> int:
    anchors = [(anchor["seq"], anchor["hash"]) for anchor in first["anchors"]]
    if args.head:
        number, _, digest = args.head.partition(":")
        if not number.isdigit() or not digest:
            raise Refused(f"--head {args.head}: expected a number and a hash, like 120:9f86d0...")
        anchors.append((int(number), digest))
    wrong = verify(entries, (last["head"], last["head_hash"]), anchors)
    head = f"{last['head']}:{last['head_hash']}"
    if args.json:
        found = {"loop": loop, "entries": len(entries), "anchors": len({*anchors}), "head": head, "wrong": wrong}
        print(json.dumps(found))
    elif wrong:
        print(f"{loop}: the audit trail does not hold: {wrong}")
    else:
        print(f"{loop}: the audit trail holds, {len(entries):,} entries, {len({*anchors}):,} anchors, head {head}")
    return 1 if wrong else 0


def _rebuild(args: argparse.Namespace, loop: str, here: app.App) -> int:
    stored = here.get(f"loops/{loop}/stored")
    entries = [entry for entry in _fetch(here, loop)[0] if entry.seq <= stored["head"]]
    wrong = [problem] if (problem := verify(entries)) else []
    try:
        found = rebuild(entries)
    except (IllegalTransition, msgspec.ValidationError, KeyError) as error:
        print(f"{loop}: the audit trail cannot be followed: {error}")
        return 1
    head = Head(champion=stored["champion"], scoped=stored["scoped"], active=stored["active"])
    runs = {run["id"]: msgspec.convert(run, Run) for run in stored["runs"]}
    wrong += differences(found, head, runs, stored["revoked"])
    said = {"loop": loop, "entries": len(entries), "events": found.events, "runs": len(found.runs)}
    if args.json:
        print(json.dumps({**said, "unknown": sorted(found.unknown), "wrong": wrong}))
    else:
        print(f"{loop}: {len(entries):,} entries give {len(found.runs):,} runs again, moved by {found.events:,} events")
        if found.unknown:
            print(f"{len(found.unknown):,} runs began under a version that did not keep their beginning: not compared")
        print("\n".join(wrong) or "the store says the same")
    return 1 if wrong else 0


def _decisions(args: argparse.Namespace, loop: str, here: app.App) -> int:
    decisions, kept, wrong = list[Decision](), dict[str, bytes](), list[str]()
    same, unknown = 0, Counter[str]()
    entries, _, last = _fetch(here, loop)
    cursor: str | None = ""
    while cursor is not None:
        page = here.get(f"loops/{loop}/weighed", cursor=cursor)
        kept |= {digest: text.encode() for digest, text in page["kept"].items()}
        decisions += [msgspec.convert(item, Decision) for item in page["decisions"]]
        wrong += page["unreadable"]
        cursor = page["next"]
    since = next((n for n, decision in enumerate(decisions) if decision.weighed), len(decisions))
    for n, decision in enumerate(decisions):
        try:
            if n < since:
                unknown["made by a version that kept nothing of what they were made of"] += 1
            elif problem := unlike(decision, kept):
                wrong.append(f"{decision.at:%Y-%m-%d %H:%M:%S}: {problem}")
            else:
                same += 1
        except Retry as other:
            unknown[str(other)] += 1
    if problem := verify(entries, (last["head"], last["head_hash"])):
        wrong.append(f"the audit trail does not hold: {problem}")
    if entries:  # what was decided since they were fetched they cannot have
        until = max(entry.at for entry in entries)
        wrong += untold([decision for decision in decisions if decision.at <= until], entries)
    if args.json:
        print(json.dumps({"loop": loop, "same": same, "unknown": dict(unknown), "wrong": wrong}))
    else:
        print(f"{loop}: of {len(decisions):,} decisions, {same:,} come again of what they were made of")
        print("".join(f"{count:,} not compared: {why}\n" for why, count in unknown.items()), end="")
        print("\n".join(wrong) or "the trail says the same")
    return 1 if wrong else 0


def _show(args: argparse.Namespace, entries: list[AuditEntry]) -> int:
    shown = [entry for entry in entries if not args.run or entry.subject == args.run]
    if args.json:
        print(msgspec.json.encode(shown).decode())
        return 0
    rows = ((str(e.seq), f"{e.at:%Y-%m-%d %H:%M}", e.kind, e.subject, e.actor, e.text) for e in shown)
    app.show_table(("entry", "at", "kind", "of", "by", "what"), rows)
    return 0
