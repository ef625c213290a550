"""What a run is: one attempt to replace a model, small whatever the number of sites."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

import msgspec

from triggers.config import Approval, Gates, Rollout, Training
from triggers.events import Wave


class Phase(StrEnum):
    """Where a run stands."""

    TRAINING = "training"
    EVALUATING = "evaluating"
    AWAITING_APPROVAL = "awaiting-approval"
    ROLLING_OUT = "rolling-out"
    ROLLING_BACK = "rolling-back"
    VERIFIED = "verified"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled-back"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset(
    {
        Phase.VERIFIED,
        Phase.REJECTED,
        Phase.ROLLED_BACK,
        Phase.FAILED,
        Phase.CANCELLED,
        Phase.SUPERSEDED,
        Phase.EXPIRED,
    }
)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of loop.yaml that bind a run, as they were when it began.

    `unknown` names what a newer version wrote among them and this one does not know: no run passes by itself then.
    """

    training: Training = Training()
    gates: Gates = Gates()
    rollout: Rollout = Rollout()
    approval: Approval = Approval()
    evaluation_timeout: str = "1h"
    unknown: tuple[str, ...] = ()


class WaveTimes(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one wave."""

    started: datetime
    verified: datetime | None = None
    sites: int
    deferred: int = 0


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing new begins in a rollout; `by` is "driftloop" where a wave was inconclusive at its deadline."""

    by: str
    at: datetime
    reason: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """`scope` is "fleet", "cohort:<name>" or "site:<name>"; `sites` names them (None: the whole fleet).

    `requested_by`: names and ids of the person who asked for it; empty where drift did. `model`: what somebody else
    registered, of which the candidate is made. `expires`: how long the
    question is open. `through`: so many waves may begin before it is asked again (None: all). `resumed`: how
    often it was. `seen` holds the ids of events that may still come again: all but those of waves already judged.
    """

    id: str
    loop: str
    scope: str
    sites: tuple[str, ...] | None
    cause: str
    phase: Phase
    because: str
    started: datetime
    ended: datetime | None = None
    champion: str
    candidate: str = ""
    compute: Literal["cloud", "edge"] = "cloud"
    model: str = ""
    data_start: datetime | None = None
    data_end: datetime | None = None
    holdout_end: datetime | None = None
    rows: int = 0
    evidence: str = ""
    outcome: str = ""
    verdict: str = ""
    requested_by: tuple[str, ...] = ()
    expires: datetime | None = None
    approved_by: str = ""
    through: int | None = None
    plan: str = ""
    waves: tuple[Wave, ...] = ()
    wave: int = 0
    times: tuple[WaveTimes, ...] = ()
    paused: Pause | None = None
    resumed: int = 0
    limits: Limits
    seen: frozenset[str] = frozenset()


_UNKNOWN = re.compile(r"Object contains unknown field `(.+)` - at `\$(.*)`")


def set_apart(body: Any) -> Any:
    """A stored run whose limits hold only what this version knows; the rest is named in `unknown`.

    While an app is upgraded, workers of both versions read what either wrote.
    """
    limits: Any = body.get("limits") if isinstance(body, dict) else None
    unknown = list(limits.get("unknown", ())) if isinstance(limits, dict) else []
    while True:
        try:
            msgspec.convert(limits, Limits)
        except msgspec.ValidationError as problem:
            found = _UNKNOWN.fullmatch(str(problem))
            if found is None or "..." in found[2]:  # below a key that is not named
                return body
            name, path = found[1], found[2]
            part: Any = limits
            for step in re.findall(r"[^.\[\]]+", path):
                part = part[int(step)] if isinstance(part, list) else part[step]
            del part[name]
            unknown.append(f"{path}.{name}".removeprefix("."))
        else:
            return {**body, "limits": {**limits, "unknown": unknown}}
