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


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A packaged candidate in a process of its own, loaded as a site loads it.

    `error` says why it did not serve. `memory` is the process's peak in bytes, the rest is of single rows. None: not
    measured.
    """

    error: str = ""
    memory: int | None = None
    cpu_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    architecture: str = ""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation measured. Rows lie outside both training windows; `data` is the digest of those rows.

    `start` and `end` are what was asked for; `newest` is when the newest of the rows was due to have its label.
    `sites`, `cohorts` and `groups` (of a feature) are parts of the rows. In `fairness`, by feature, champion and
    challenger are how far apart the two groups are that lie furthest apart with each, and the gain is what that has
    shrunk by. `holdout` is on the frozen rows, of the file `holdout_sha256`. `trials` are by role. `new_bytes`
    is what the challenger's files have that the champion's have not. `rows_per_hour` is how many rows the busiest site
    had in its busiest hour. `schema` says in what the challenger's rows differ from the loop's. `examples` counts the
    examples tried, `missed` names those that failed. None: not measured.
    """

    champion: str
    challenger: str
    metric: str
    confidence: float
    overall: Comparison
    sites: dict[str, Comparison] = {}
    cohorts: dict[str, Comparison] = {}
    groups: dict[str, Comparison] = {}
    fairness: dict[str, Comparison] = {}
    log_loss: dict[str, float | None] = {}
    start: datetime | None = None
    end: datetime | None = None
    newest: datetime | None = None
    data: str = ""
    holdout: Comparison | None = None
    holdout_sha256: str = ""
    bytes: int = 0
    new_bytes: int | None = None
    trials: dict[str, Trial] = {}
    rows_per_hour: int = 0
    schema: str | None = None
    calibration: dict[str, float | None] = {}
    churn: float | None = None
    examples: int = 0
    missed: tuple[str, ...] = ()


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What a site has for a candidate: `sites` of them have the same, `site` is the first.

    `cpu` in cores and `memory` in bytes are free for both versions; `types` are name, cores and bytes of its instance
    types; `window_s` is its longest maintenance window. None: not said.
    """

    site: str
    sites: int = 1
    cpu: float | None = None
    memory: float | None = None
    types: tuple[tuple[str, float | None, float | None], ...] = ()
    extension: bool = False
    link_kbps: float | None = None
    window_s: float | None = None
    architecture: str = ""


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
    """Evaluation ended; `digest` is that of the stored evidence, `rooms` is what the run's sites have now."""

    evidence: Evidence
    digest: str
    rooms: tuple[Room, ...] = ()


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
