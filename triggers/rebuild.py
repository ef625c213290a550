"""What was kept gives what is stored again.

Of the audit trail alone: a loop's runs, its champions, what is revoked. Folded, it is the store.

An entry `run-began` holds the run as it began, each `event-*` the event that moved it, whole; so the lifecycle gives
the same runs again, and whatever the store says otherwise was not written by driftloop.

Of what each decision was made of, which is kept under a digest that it names, with the configurations of then: the
same decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from triggers import codec, lifecycle, policy
from triggers import events as on
from triggers.config import Fleet, Loop
from triggers.errors import Refused, Retry
from triggers.ports import Blobs
from triggers.records import AuditEntry, Head
from triggers.run import Phase, Run

T = TypeVar("T")


@dataclass
class Rebuilt:
    """`unknown`: runs whose beginning was not kept whole, by an older version; nothing is said of them."""

    runs: dict[str, Run] = field(default_factory=dict)
    champion: str = ""
    scoped: dict[str, str] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    events: int = 0

    @property
    def active(self) -> dict[str, str]:
        return {run.scope: run.id for run in self.runs.values() if not run.phase.final}


def rebuild(entries: Iterable[AuditEntry]) -> Rebuilt:
    """Fold a trail, from its first entry on. Raises IllegalTransition for a trail that no run can have taken."""
    found = Rebuilt()
    for entry in entries:
        if entry.kind == "adopted":
            found.champion = entry.subject
        elif entry.kind == "revoked":
            found.revoked.add(entry.subject)
        elif entry.kind == "run-began":
            _began(found, entry)
        elif entry.kind.startswith("event-") and entry.subject in found.runs:
            _moved(found, entry)
    return found


def _began(found: Rebuilt, entry: AuditEntry) -> None:
    if "run" not in entry.data:
        found.unknown.add(entry.subject)
        return
    found.runs[entry.subject] = msgspec.convert(entry.data["run"], Run)


def _moved(found: Rebuilt, entry: AuditEntry) -> None:
    event = msgspec.convert(entry.data["event"], on.AnyEvent)
    run = found.runs[entry.subject] = lifecycle.advance(found.runs[entry.subject], event).run
    found.events += 1
    if run.phase is not Phase.VERIFIED:
        return
    if run.sites is None:
        found.champion, found.scoped = run.candidate, {}
    else:
        found.scoped = {**found.scoped, **dict.fromkeys(run.sites, run.candidate)}


def differences(found: Rebuilt, head: Head, runs: Mapping[str, Run], revoked: Iterable[str]) -> list[str]:
    """Where the store says something else than the trail, in words; empty where fold(trail) is the store."""
    wrong = [f"{run} is in the store, and not in the trail" for run in runs if run not in {*found.runs, *found.unknown}]
    for name, run in found.runs.items():
        stored = runs.get(name)
        if stored is None:
            wrong.append(f"{name} is in the trail, and not in the store")
        elif codec.encode(stored) != codec.encode(run):
            fields = [f for f in Run.__struct_fields__ if getattr(stored, f) != getattr(run, f)]
            wrong.append(f"{name}: the store has another {', '.join(fields)} than the trail")
    if set(revoked) != found.revoked:
        wrong.append(f"revoked: {sorted(set(revoked) ^ found.revoked)} in one, and not in the other")
    if found.unknown:
        return wrong
    said = {"champion": head.champion, "scoped": head.scoped, "active": head.active}
    for name, stored_value in said.items():
        if stored_value != (told := getattr(found, name)):
            wrong.append(f"{name}: {stored_value} in the store, {told} by the trail")
    return wrong


# --- decisions


def keep(blobs: Blobs, made_of: policy.Weighed | Loop | Fleet) -> str:
    """Keep what a decision was made of under the digest of its bytes; returns the digest."""
    data = codec.encode(made_of)
    digest = codec.digest(data)
    if not blobs.exists(name := kept_as(digest)):
        blobs.put(name, data)
    return digest


def kept_as(digest: str) -> str:
    """The blob's name."""
    return f"weighed/{digest}.json"


def read(kept: Mapping[str, bytes], digest: str, as_type: type[T]) -> T:
    """What was kept. Raises Refused where it is not there, or is something else; Retry where a newer version kept
    it."""
    if codec.digest(data := kept.get(digest, b"")) != digest:
        found = "another" if data else "not there"
        raise Refused(f"the {as_type.__name__} {digest[:12]} that it was made of is {found}")
    return codec.decode(data, as_type)


def unlike(decision: policy.Decision, kept: Mapping[str, bytes]) -> str:
    """What is wrong with a decision, by what it was made of; empty where it comes to the same. `kept`: bytes by the
    digests of `keep`. Raises Retry where this version cannot know: other rules, or something newer."""
    if not decision.weighed:
        return "what it was made of is not named: an older version made it, or somebody took it out"
    try:
        weighed = read(kept, decision.weighed, policy.Weighed)
        if weighed.rules < 1:
            return f"made by rules {weighed.rules}: there are none"
        if weighed.rules != policy.RULES:
            raise Retry(f"made by rules {weighed.rules}; this version has {policy.RULES}")
        loop, fleet = read(kept, weighed.loop, Loop), read(kept, weighed.fleet, Fleet)
    except Refused as problem:
        return str(problem)
    again, _ = policy.weigh(decision.at, weighed, loop, fleet)
    again = msgspec.structs.replace(again, weighed=decision.weighed)
    if codec.encode(again) == codec.encode(decision):
        return ""
    fields = [f for f in policy.Decision.__struct_fields__ if getattr(again, f) != getattr(decision, f)]
    return f"computed again it has another {', '.join(fields)} than is stored"


def untold(decisions: Iterable[policy.Decision], entries: Iterable[AuditEntry]) -> list[str]:
    """Where a loop's decisions, all of them, and its trail do not say the same: a decision that found anything is in
    the trail, with the digest of what it was made of, and what the trail says was held was decided."""
    told = {(e.at, e.text): e for e in entries if e.kind in ("held", "run-began")}
    wrong = []
    for decision in decisions:
        entry = told.pop((decision.at, decision.reason), None)
        found, due = entry.kind if entry else "", _told_as(decision)
        if found != due:
            wrong.append(f"{decision.at:%Y-%m-%d %H:%M:%S}: the trail has {found or 'nothing'}, not {due or 'nothing'}")
        elif entry and entry.data.get("weighed", decision.weighed) != decision.weighed:
            wrong.append(f"{decision.at:%Y-%m-%d %H:%M:%S}: made of something else, says the trail")
    alone = [e for e in told.values() if e.kind == "held" or "weighed" in e.data]  # others began without a check
    return wrong + [f"{e.at:%Y-%m-%d %H:%M:%S}: {e.kind}, says the trail, and there is no such decision" for e in alone]


def _told_as(decision: policy.Decision) -> str:
    """The kind of its entry in the trail."""
    return "run-began" if decision.action == "retrain" else "held" if decision.findings else ""
