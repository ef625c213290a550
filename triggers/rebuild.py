"""What was kept gives what is stored again.

Of the audit trail alone: a loop's runs, its champions, what is revoked. Folded, it is the store.

An entry `run-began` holds the run as it began, each `event-*` the event that moved it, whole; so the lifecycle gives
the same runs again, and whatever the store says otherwise was not written by driftloop.

Of what each decision was made of, which is kept beside it, with the configurations of then: the same decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from triggers import codec, lifecycle, policy
from triggers import events as on
from triggers.config import Fleet, Loop
from triggers.ports import Blobs
from triggers.records import AuditEntry, Head
from triggers.run import Phase, Run


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


def remember(blobs: Blobs, config: Loop | Fleet) -> str:
    """Keep a configuration under the digest of its bytes; returns the digest."""
    data = msgspec.json.encode(config, order="deterministic")
    digest = codec.digest(data)
    if not blobs.exists(name := remembered(digest)):
        blobs.put(name, data)
    return digest


def remembered(digest: str) -> str:
    """The blob's name."""
    return f"configs/{digest}.json"


def unlike(decision: policy.Decision, weighed: policy.Weighed, configs: Mapping[str, bytes]) -> str:
    """What is wrong with a decision, by what it was made of; empty where it comes to the same. `configs`: bytes by
    the digest that they were kept under. Raises msgspec.ValidationError for one that a newer version kept."""
    for digest in (weighed.loop, weighed.fleet):
        if codec.digest(data := configs.get(digest, b"")) != digest:
            return f"the configuration {digest[:12]} that it was made with is {'another' if data else 'not there'}"
    loop = msgspec.json.decode(configs[weighed.loop], type=Loop)
    fleet = msgspec.json.decode(configs[weighed.fleet], type=Fleet)
    again, _ = policy.weigh(decision.findings, decision.at, weighed, loop, fleet)
    if codec.encode(again) == codec.encode(decision):
        return ""
    fields = [f for f in policy.Decision.__struct_fields__ if getattr(again, f) != getattr(decision, f)]
    return f"computed again it has another {', '.join(fields)} than is stored"
