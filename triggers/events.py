"""Facts that reach a run. They carry evidence, never verdicts; an id that was seen before changes nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec


class Comparison(msgspec.Struct, frozen=True):
    """Champion and challenger on the same rows; `gain` is oriented so that positive is better. None: not measured."""

    rows: int
    champion: float | None = None
    challenger: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation measured. Rows lie outside both training windows; `data` is the digest of those rows."""

    champion: str
    challenger: str
    metric: str
    confidence: float
    overall: Comparison
    sites: dict[str, Comparison] = {}
    log_loss: dict[str, float | None] = {}
    start: datetime | None = None
    end: datetime | None = None
    data: str = ""
    latency_ms: dict[str, float | None] = {}
    bytes: int = 0


class Wave(msgspec.Struct, frozen=True):
    """One wave of a plan as a run remembers it: which ring, and how many sites."""

    ring: str
    sites: int


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """`at` is when it happened, UTC."""

    id: str
    run: str
    at: datetime


class Trained(Event, frozen=True, kw_only=True, tag="trained"):
    """Training ended with a candidate."""

    candidate: str
    rows: int


class JobFailed(Event, frozen=True, kw_only=True, tag="job-failed"):
    """A training or an evaluation ended without a result."""

    job: str
    reason: str


class Evaluated(Event, frozen=True, kw_only=True, tag="evaluated"):
    """Evaluation ended; `digest` is that of the stored evidence."""

    evidence: Evidence
    digest: str


class Answered(Event, frozen=True, kw_only=True, tag="answered"):
    """The question is answered; the digests are those of what was shown. `through`: so many waves may begin, and the
    question is asked again for the others (None: all may)."""

    answer: Literal["approve", "reject", "changes"]
    by: str
    reason: str
    candidate: str
    evidence: str
    plan: str
    waves: tuple[Wave, ...]
    through: int | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a wave's sites measured together of the candidate; None: not known.

    `score_drift` is PSI beyond chance between its scores and those in training; `metric_loss` how much worse than in
    its evaluation it does on so many `labels`.
    """

    rows: int = 0
    score_drift: float | None = None
    labels: int = 0
    metric: str = ""
    metric_loss: float | None = None


class WaveReported(Event, frozen=True, kw_only=True, tag="wave-reported"):
    """How a wave's sites stand, by their own fresh telemetry; `failed` counts earlier waves' sites that went bad, and
    `removed` those that are no longer of the fleet."""

    wave: int
    verified: int
    failed: int
    deferred: int
    pending: int
    removed: int = 0
    because: str = ""
    measured: Measured = Measured()


class RollbackReported(Event, frozen=True, kw_only=True, tag="rollback-reported"):
    """How far the way back is; a deferred site goes back when it returns, a stuck one has refused to."""

    restored: int
    deferred: int
    pending: int
    stuck: int = 0
    because: str = ""


class DeadlinePassed(Event, frozen=True, kw_only=True, tag="deadline-passed"):
    """The time given to a phase is over."""

    phase: str


class Cancelled(Event, frozen=True, kw_only=True, tag="cancelled"):
    """A person stopped the run."""

    by: str
    reason: str


class RollBackAsked(Event, frozen=True, kw_only=True, tag="rollback-asked"):
    """A person wants the way back."""

    by: str
    reason: str


class Paused(Event, frozen=True, kw_only=True, tag="paused"):
    """A person wants nothing new to begin in a rollout."""

    by: str
    reason: str


class Resumed(Event, frozen=True, kw_only=True, tag="resumed"):
    """A person wants a paused rollout to go on."""

    by: str
    reason: str


class Superseded(Event, frozen=True, kw_only=True, tag="superseded"):
    """A newer run takes this one's place."""

    by: str


AnyEvent = (
    Trained
    | JobFailed
    | Evaluated
    | Answered
    | WaveReported
    | RollbackReported
    | DeadlinePassed
    | Cancelled
    | RollBackAsked
    | Paused
    | Resumed
    | Superseded
)
EVENTS: tuple[type[Event], ...] = (
    Trained,
    JobFailed,
    Evaluated,
    Answered,
    WaveReported,
    RollbackReported,
    DeadlinePassed,
    Cancelled,
    RollBackAsked,
    Paused,
    Resumed,
    Superseded,
)
