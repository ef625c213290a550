"""loop.yaml and fleet.yaml: what a loop is told, as frozen values, checked as a whole.

Durations are written `90s`, `15m`, `6h`, `14d`, `2w`; rates `1 per 90 days`. Every field but those without a
default may be left out. A class's docstring describes its fields: the published JSON Schemas are made from it.
"""

from __future__ import annotations

import re
import unicodedata
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import cache, lru_cache
from hashlib import sha256
from inspect import cleandoc, getdoc
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from drift.telemetry import RESERVED
from drift.telemetry import Feature as DriftFeature
from drift.telemetry import Schema as DriftSchema
from triggers.reading import Document, Path, Problem, Told, Wrong

Duration = Annotated[str, Meta(pattern=r"^\s*\d{1,6}(\.\d{1,6})?\s*(s|m|h|d|w)\s*$", examples=["6h", "14d"])]
Rate = Annotated[
    str, Meta(pattern=r"^\s*\d{1,6}\s+per\s+\d{0,6}\s*(hour|day|week|month|year)s?\s*$", examples=["1 per 90 days"])
]
Quantity = Annotated[str, Meta(pattern=r"^\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$|^$", examples=["500m", "2Gi"])]
Quarter = Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):(00|15|30|45)$", examples=["20:00"])]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$", examples=["delays", "line-3"])]
Count = Positive | Annotated[str, Meta(pattern=r"^([1-9]\d?|100)%$", examples=["10%"])]
Metric = Literal["auc", "log_loss", "rmse", "mae"]

METRICS: dict[str, tuple[Metric, ...]] = {"binary": ("auc", "log_loss"), "regression": ("rmse", "mae")}
"""Metrics by task; the first is the default."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DAYS = {"hour": 1 / 24, "day": 1.0, "week": 7.0, "month": 30.0, "year": 365.0}


@lru_cache(maxsize=1024)
def duration(text: str) -> timedelta:
    """
    >>> duration("6h") + duration("1.5d")
    datetime.timedelta(days=1, seconds=64800)
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*([smhdw])\s*", text)
    if not found:
        raise ValueError(f"not a duration: {text!r} (write 90s, 15m, 6h, 14d or 2w)")
    return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])


def rate(text: str) -> tuple[int, timedelta]:
    """How many, in how long.

    >>> rate("1 per 90 days")
    (1, datetime.timedelta(days=90))
    """
    found = re.fullmatch(r"\s*(\d+)\s+per\s+(\d*)\s*(hour|day|week|month|year)s?\s*", text)
    if not found:
        raise ValueError(f"not a rate: {text!r} (write `1 per 90 days`)")
    return int(found[1]), timedelta(days=int(found[2] or 1) * _DAYS[found[3]])


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a configuration file: unknown keys are refused."""


class Feature(Section, frozen=True, kw_only=True):
    """An input of the model.

    name: what the model calls it; not id, at, score or label
    kind: number, or category (text)
    column: its column in your table, where that has another name
    unit: for people
    range: least and greatest plausible value of a number, null for open; what is outside counts as a quality finding
    """

    name: str
    kind: Literal["number", "category"] = "number"
    column: str | None = None
    unit: str = ""
    range: tuple[float | None, float | None] = (None, None)


class Schema(Section, frozen=True, kw_only=True):
    """What a row of telemetry is: which columns of a table are what.

    version: yours; raise it when the columns change
    timestamp: column with the time of the prediction, UTC where it names no zone
    site: column with the site's name; without one, every row comes from the fleet's only site
    id: column that names a row once and for all; without one, rows are numbered
    label: column with what turned out to be true; 0 or 1 for a binary task
    label_at: column with the time at which the label was known
    label_delay: how long after the prediction the label is known, where no column says so
    prediction: column with the score that was served: the probability of 1, or the value
    features: the inputs of the model
    """

    version: str = "1"
    timestamp: str = "at"
    site: str | None = None
    id: str | None = None
    label: str | None = None
    label_at: str | None = None
    label_delay: Duration = "0s"
    prediction: str | None = None
    features: Annotated[tuple[Feature, ...], Meta(min_length=1)]

    def telemetry(self, task: Literal["binary", "regression"]) -> DriftSchema:
        """The same, as drift/ wants it."""
        return DriftSchema(
            self.version,
            tuple(DriftFeature(f.name, f.kind, f.unit, f.range[0], f.range[1]) for f in self.features),
            task,
        )


class Bootstrap(Section, frozen=True, kw_only=True):
    """The beginning of the data: the first champion is trained on it, and it is not telemetry.

    until: its end
    fraction: its share of the data's time span, where `until` is not said
    """

    until: datetime | None = None
    fraction: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.2


class Upload(Section, frozen=True, kw_only=True):
    """Files of rows that sites upload when they have a link. A file counts once.

    path: container and folder of the files, with {site} and perhaps {candidate} for a folder of that name
    format: csv, parquet, jsonl, or collector (what Azure ML's data collector writes); auto: by the name's ending
    """

    path: Annotated[str, Meta(examples=["uploads/flights/{site}/"])]
    format: Literal["auto", "csv", "parquet", "jsonl", "collector"] = "auto"

    def match(self, name: str) -> dict[str, str] | None:
        """Which site and candidate the name of a file is for; None where it is none of these.

        >>> Upload(path="up/{site}/{candidate}/").match("up/lab/c0ffee/2026/01.csv")
        {'site': 'lab', 'candidate': 'c0ffee'}
        """
        pattern = re.sub(r"\\{(site|candidate)\\}", r"(?P<\1>[^/]+)", re.escape(self.path))
        found = re.fullmatch(pattern + ".+", name)
        return found.groupdict() if found else None


class Logs(Section, frozen=True, kw_only=True):
    """Telemetry in a Log Analytics workspace, read by timer. Each row that is ingested counts once.

    workspace: id of the workspace, a GUID
    query: in KQL, a table with the schema's columns; without one: how the online endpoints answered
    delay: how long after it was ingested a row can be queried for sure
    """

    workspace: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
    query: str = ""
    delay: Duration = "10m"


class Telemetry(Section, frozen=True, kw_only=True):
    """How telemetry is cut into windows, how late it may come, and where it comes from besides the sites' own batches.

    window: length of a window; drift is measured window by window
    lateness: batches that are older are put into quarantine
    settle: a window is assessed this long after its end
    silence: a site that sends nothing for so long is reported
    rate: batches that a site may send over HTTP; what comes above that is told when to come again
    report: how often sites that Azure ML, Flux or IoT Edge runs send what they saw
    uploads: files that sites upload
    logs: tables of Log Analytics workspaces
    """

    window: Duration = "1d"
    lateness: Duration = "30d"
    settle: Duration = "6h"
    silence: Duration = "2d"
    rate: Rate = "36000 per hour"
    report: Duration = "1h"
    uploads: tuple[Upload, ...] = ()
    logs: tuple[Logs, ...] = ()


class Retention(Section, frozen=True, kw_only=True):
    """What is deleted after a while; windows, decisions, runs and the audit trail stay.

    batches: raw batches, when they ended so long ago; default: never. At least training.window and training.holdout
        together; what an active run works on stays until it has ended
    quarantine: what was put aside so long ago, bytes and reason; default: never
    """

    batches: Duration | None = None
    quarantine: Duration | None = None


class Quality(Section, frozen=True, kw_only=True):
    """Deterministic rules, counted apart from the false-alarm promise. Shares are of a window's rows.

    missing: share of missing values above the reference's
    range: share of values outside a feature's range
    unseen: share of categories that the reference does not know
    minimum_rows: a window with fewer rows is not judged
    """

    missing: Fraction = 0.2
    range: Fraction = 0.02
    unseen: Fraction = 0.02
    minimum_rows: Positive = 50


class Quorum(Section, frozen=True, kw_only=True):
    """Share of the sites with telemetry that must have moved before more than a site is said to have.

    cohort: of a cohort's sites
    fleet: of all sites
    """

    cohort: Fraction = 0.5
    fleet: Fraction = 0.5


class Drift(Section, frozen=True, kw_only=True):
    """What counts as drift.

    false_alarms: the promise: how often drift is reported though nothing moved, fleet-wide, all statistical kinds
    bins: into how many bins a number is cut
    minimum_rows: a window with fewer rows is no evidence, nor ever one with fewer than 30
    quality: deterministic rules
    quorum: when many sites make it the fleet's drift
    """

    false_alarms: Rate = "1 per 90 days"
    bins: Annotated[int, Meta(ge=8, le=128)] = 64
    minimum_rows: Positive = 50
    quality: Quality = Quality()
    quorum: Quorum = Quorum()


class Follows(Section, frozen=True, kw_only=True):
    """What follows drift, by how far it reaches: retrain, or maintain (somebody has a look at each site that moved).

    site: of single sites; a broken sensor is not a changed world
    cohort: of a cohort
    fleet: of the fleet
    """

    site: Literal["retrain", "maintain"] = "maintain"
    cohort: Literal["retrain", "maintain"] = "retrain"
    fleet: Literal["retrain", "maintain"] = "retrain"


class Retrain(Section, frozen=True, kw_only=True):
    """When drift leads to a retraining: hysteresis, cooldown, budget, enough rows.

    scope: what follows drift of a site, a cohort or the fleet
    on: the kinds of drift that count; monitor is what an Azure ML monitor has found
    confirm: so many checks in a row must say drift
    cooldown: how long to wait after the end of the last run
    budget: no more retrainings than this
    minimum_rows: labelled rows without which training is not worth it
    enabled: false measures and reports, and retrains only by hand
    """

    scope: Follows = Follows()
    on: tuple[Literal["feature", "prediction", "label", "performance", "monitor"], ...] = (
        "feature",
        "prediction",
        "label",
        "performance",
        "monitor",
    )
    confirm: Positive = 2
    cooldown: Duration = "14d"
    budget: Rate = "3 per 30 days"
    minimum_rows: Positive = 1000
    enabled: bool = True


class Needs(Section, frozen=True, kw_only=True):
    """What a training takes.

    cpu: CPUs
    memory: bytes
    """

    cpu: Quantity = ""
    memory: Quantity = ""


class Cost(Section, frozen=True, kw_only=True):
    """What an hour of training costs, in your currency.

    cloud: on the cluster in the cloud
    edge: at a site
    """

    cloud: Annotated[float, Meta(ge=0.0)] | None = None
    edge: Annotated[float, Meta(ge=0.0)] | None = None


class Training(Section, frozen=True, kw_only=True):
    """How a candidate is trained.

    script: your training script, relative to loop.yaml; without one, a scikit-learn model for any table
    authors: who wrote it: names as they sign in; they do not approve what it makes (approval.self_approval)
    window: the rows of the last so many days; the holdout is the newest part of it
    holdout: left out of training, for the gate: it needs rows that neither model has seen
    compute: where it runs; auto chooses by rule and says why
    timeout: a training that takes longer has failed
    settings: handed to the script as they are
    environment: on Azure ML: azureml:NAME:VERSION, azureml://..., or a Dockerfile or conda file beside loop.yaml
    labels: on Azure ML: the labelled data asset that retraining waits for, where labels come from annotation
    needs: a site's instance type must have so much
    site_share: the largest share of the rows, in training and in evaluation, that one site may have; default: three
        times an even share
    send: a site's own data asset is sent to the cloud if its link takes no longer
    cost: the cheaper place is taken, where both will do
    """

    script: str | None = None
    authors: tuple[str, ...] = ()
    window: Duration = "60d"
    holdout: Duration = "10d"
    compute: Literal["cloud", "edge", "auto"] = "auto"
    timeout: Duration = "2h"
    settings: dict[str, Any] = {}
    environment: str | None = None
    labels: str | None = None
    needs: Needs = Needs()
    site_share: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    send: Duration = "6h"
    cost: Cost = Cost()


class Evaluation(Section, frozen=True, kw_only=True):
    """How champion and challenger are compared.

    script: your evaluation script, relative to loop.yaml
    timeout: an evaluation that takes longer has failed
    """

    script: str | None = None
    timeout: Duration = "1h"


class Slice(Section, frozen=True, kw_only=True):
    """A feature whose groups are looked at by themselves: its categories, or the parts of a number's range.

    feature: its name
    edges: a number is parted here; a value on an edge is above it
    quantiles: or into so many parts with as many rows each
    maximum_difference: groups may lie so much further apart than with the champion, in their share of positive answers
        (regression: in their mean prediction); default: that is not judged
    """

    feature: str
    edges: tuple[float, ...] = ()
    quantiles: Annotated[int, Meta(ge=2, le=20)] | None = None
    maximum_difference: Annotated[float, Meta(ge=0.0)] | None = None


class Freeze(Section, frozen=True, kw_only=True):
    """The rows that the first training freezes; their sites are left out of every training from then on.

    sites: whose rows they are
    first: of the training's window, the first so much; default: all of it
    """

    sites: Annotated[tuple[str, ...], Meta(min_length=1)]
    first: Duration | None = None


class Holdout(Section, frozen=True, kw_only=True):
    """Labelled rows that stay the same from run to run, of sites that no model is trained on: a table, or frozen rows.

    table: the file beside loop.yaml, CSV or Parquet, its columns as in your table
    freeze: or which rows are frozen by the first training (the bootstrap, or the first retraining)
    sha256: of the file; where it is said, another file is refused
    maximum_loss: the lower end of the gain's interval on these rows must lie above minus this
    """

    table: Annotated[str, Meta(min_length=1)] | None = None
    freeze: Freeze | None = None
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    maximum_loss: Annotated[float, Meta(ge=0.0)] = 0.02


class Gates(Section, frozen=True, kw_only=True):
    """What a candidate must show. A gain is challenger minus champion, in the direction that is better.

    metric: auc or log_loss for a binary task (default auc), rmse or mae for a regression (default rmse)
    minimum_gain: the lower end of the gain's interval must exceed it
    margin: instead, where retraining is wanted for other reasons than a gain: it must exceed minus this
    confidence: of the interval
    minimum_rows: fewer rows unseen by both models are inconclusive
    minimum_part_rows: a site, cohort or group with fewer is not judged
    maximum_site_loss: no site may lose more than this, where it has rows enough; not proven, it is inconclusive
    maximum_slice_loss: nor may any cohort, or group of a feature in slices
    slices: the features whose groups are looked at
    holdout: rows that never change, beside those of the last days
    threshold: from this score on the answer counts as positive; of a regression, predictions that differ by more are
        changed ones
    maximum_churn: share of the answers that may change
    maximum_calibration_error: of a binary task: mean distance of scores from what came true, in ten parts of the rows
    examples: file beside loop.yaml (CSV or Parquet, columns as in your table) of rows that must not fail: each has
        the least and the greatest score that it may get in the columns at_least and at_most, and perhaps a name
    maximum_p95_ms: 95% of single rows must be scored within so many milliseconds, measured on the site's architecture
    maximum_age: evidence that is older when it is judged does not count; it is as old as its newest labelled row, less
        schema.label_delay
    """

    metric: Metric | None = None
    minimum_gain: float = 0.0
    margin: Annotated[float, Meta(ge=0.0)] | None = None
    confidence: Annotated[float, Meta(gt=0.5, lt=1.0)] = 0.95
    minimum_rows: Positive = 500
    minimum_part_rows: Positive = 100
    maximum_site_loss: Annotated[float, Meta(ge=0.0)] | None = None
    maximum_slice_loss: Annotated[float, Meta(ge=0.0)] | None = None
    slices: tuple[Slice, ...] = ()
    holdout: Holdout | None = None
    threshold: float = 0.5
    maximum_churn: Fraction | None = None
    maximum_calibration_error: Fraction | None = None
    examples: Annotated[str, Meta(min_length=1)] | None = None
    maximum_p95_ms: Annotated[float, Meta(gt=0.0)] | None = None
    maximum_age: Duration = "7d"


class Escalate(Section, frozen=True, kw_only=True):
    """Who else may answer when nobody has.

    after: unanswered for so long
    approvers: their names as they sign in, or their object ids in Entra
    groups: object ids of Entra groups
    """

    after: Duration
    approvers: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class Quiet(Section, frozen=True, kw_only=True):
    """When nobody is to be disturbed: no card, no reminder, and no time that counts.

    timezone: of start and end
    start: from when on, each day, on a quarter of an hour
    end: until when, the next day where that is earlier
    days: days that are quiet from midnight to midnight
    """

    timezone: Annotated[str, Meta(examples=["Europe/Berlin"])] = "UTC"
    start: Quarter = "00:00"
    end: Quarter = "00:00"
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = ()


class Automatic(Section, frozen=True, kw_only=True):
    """What begins without a person, at the sites of the first ring alone: a candidate that passed its gates, with the
    schema, training code, settings, architecture and environment of the champion. A person answers for the rest.

    minimum_gain: the lower end of the gain's interval must exceed it
    """

    minimum_gain: float


class Approval(Section, frozen=True, kw_only=True):
    """Who may let a candidate through.

    approvers: their names as they sign in, or their object ids in Entra
    groups: object ids of Entra groups whose members may
    accounts: people with several accounts: who, and the names or object ids; they are one person
    needed: so many people have to approve
    self_approval: true lets those approve who asked for the run, or wrote what it trains with
    expires: unanswered for so long, the candidate is dropped; quiet hours do not count
    remind: a reminder each time that it has been unanswered for so long; quiet hours do not count
    escalate: who else may answer when nobody has
    quiet: when nobody is to be disturbed
    frozen: what counts in a freeze: reject (whoever would approve is told why not, and can later), or nothing
    automatic: what begins without a person; default: nothing
    """

    approvers: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    accounts: dict[str, tuple[str, ...]] = {}
    needed: Positive = 1
    self_approval: bool = False
    expires: Duration = "3d"
    remind: Duration | None = None
    escalate: Escalate | None = None
    quiet: Quiet | None = None
    frozen: Literal["reject", "nothing"] = "reject"
    automatic: Automatic | None = None


Notice = Literal[
    "approval",
    "began",
    "drift",
    "progress",
    "paused",
    "maintenance",
    "certificate",
    "run-verified",
    "run-rejected",
    "run-rolled-back",
    "run-failed",
    "run-expired",
    "run-cancelled",
    "run-superseded",
]
"""What people are told of."""


class Notify(Section, frozen=True, kw_only=True):
    """How often people are told, in Teams, by the webhook and on the dashboard.

    every: after a message there is none for so long; what comes meanwhile is told together, as a digest
    repeat: what was told is not told again for so long, whatever its numbers
    quiet: when nobody is to be disturbed; what comes then is told together when it is over
    urgent: what is told at once, whatever the hour; approval cards keep to the hours of `approval.quiet`
    """

    every: Duration = "15m"
    repeat: Duration = "1d"
    quiet: Quiet | None = None
    urgent: tuple[Notice, ...] = ("approval", "paused", "run-failed", "run-rolled-back")


class Rollout(Section, frozen=True, kw_only=True):
    """How a candidate reaches the sites.

    rings: in the order of the rollout, fleet.yaml's rings, or selectors of labels like region=eu,tier!=pilot; a site is
        of the first that fits it; default: the rings as they first appear in fleet.yaml
    wave_size: sites that are verified together, of a ring, or a share of the ring; default: as many as max_unavailable
    soak: a wave must have been well for so long before the next one
    deadline: a site that was asked and has not shown itself well so long after its soak is deferred: it counts as
        unavailable, and is not waited for
    max_unavailable: sites that may be down, updating or unknown at once, or their share of the rollout's sites
    max_concurrent: sites that may be updating at once; default: as many as max_unavailable
    install: how long a site takes to start a candidate that has arrived
    max_failed: failed sites that are put up with before all are taken back
    minimum_requests: requests that the new candidate must have answered at a site
    max_error_rate: share of requests that may fail
    max_p95_ms: 95% of requests must be answered within so many milliseconds
    consecutive_errors: so many batches in a row with too many errors fail a site, however few requests they tell of
    max_score_drift: PSI, beyond chance, between a wave's scores and those that the candidate gave in training
    max_metric_loss: how much worse than in its evaluation a candidate may do where labels have come
    ask: a wave that is inconclusive at its deadline is paused; nobody goes on with it for so long, it is taken back
    rollback_in_windows: true lets the way back, too, wait for the sites' windows; false: safety overrides them
    """

    rings: tuple[str, ...] = ()
    wave_size: Count | None = None
    soak: Duration = "1d"
    deadline: Duration = "3d"
    max_unavailable: Count = 1
    max_concurrent: Count | None = None
    install: Duration = "5m"
    max_failed: Annotated[int, Meta(ge=0)] = 0
    minimum_requests: Positive = 20
    max_error_rate: Fraction = 0.02
    max_p95_ms: Annotated[float, Meta(gt=0.0)] | None = None
    consecutive_errors: Positive = 3
    max_score_drift: Annotated[float, Meta(gt=0.0)] | None = None
    max_metric_loss: Annotated[float, Meta(ge=0.0)] | None = None
    ask: Duration = "2d"
    rollback_in_windows: bool = False


class Serving(Section, frozen=True, kw_only=True):
    """How Azure ML and Flux run what serves a candidate at a site.

    needs: what one takes; on Azure ML the smallest of the site's instance types that has it
    traffic: percent of the requests that a candidate pushed by Azure ML answers, step by step; each step lasts until
        the site's own telemetry has shown it well. Default: 10, 50, 100
    workload: what Flux is given: a StatefulSet, or an InferenceService of KServe
    """

    needs: Needs = Needs()
    traffic: Annotated[tuple[Annotated[int, Meta(ge=1, le=100)], ...], Meta(min_length=1)] = (10, 50, 100)
    workload: Literal["statefulset", "inferenceservice"] = "statefulset"


class Loop(Section, frozen=True, kw_only=True):
    """loop.yaml: one model's loop.

    loop: its name
    task: binary (the model gives the probability of 1), or regression
    schema: what a row of telemetry is
    bootstrap: the data that the first champion is made from
    telemetry: windows, and how late they may come
    retention: what is deleted after a while
    drift: what counts as drift
    retrain: when drift leads to a retraining
    training: how a candidate is trained
    evaluation: how candidate and champion are compared
    gates: what a candidate must show
    approval: who may let it through
    notify: how often people are told
    rollout: how it reaches the sites
    serving: how it is run there, by Azure ML and Flux
    """

    loop: Name
    task: Literal["binary", "regression"] = "binary"
    schema: Schema
    bootstrap: Bootstrap = Bootstrap()
    telemetry: Telemetry = Telemetry()
    retention: Retention = Retention()
    drift: Drift = Drift()
    retrain: Retrain = Retrain()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    gates: Gates = Gates()
    approval: Approval = Approval()
    notify: Notify = Notify()
    rollout: Rollout = Rollout()
    serving: Serving = Serving()


class Window(Section, frozen=True, kw_only=True):
    """When a site may be changed.

    cron: when it opens, in the site's time zone: minute, hour, day of month, month, day of week
    rrule: the same as a rule of RFC 5545, in place of `cron`
    duration: how long it stays open, in elapsed time
    """

    cron: Annotated[str, Meta(examples=["0 2 * * *", "30 22 * * SAT"])] = ""
    rrule: Annotated[str, Meta(examples=["FREQ=MONTHLY;BYDAY=1SU;BYHOUR=2"])] = ""
    duration: Duration


class Blackout(Section, frozen=True, kw_only=True):
    """When a site must not be changed, whatever its windows say.

    start: from when
    end: until when
    reason: for people
    """

    start: datetime
    end: datetime
    reason: str = ""


class Key(Section, frozen=True, kw_only=True):
    """A key by which a site signs its batches.

    id: what the batches call it
    public: the public key (Ed25519): 32 bytes, base64
    not_before: valid from
    not_after: valid until, by a batch's own end: with a stolen key it is dated back by up to `lateness`, so revoke it
    revoked: true refuses all that it signed from now on
    """

    id: str
    public: str
    not_before: datetime | None = None
    not_after: datetime | None = None
    revoked: bool = False


class InstanceType(Section, frozen=True, kw_only=True):
    """An instance type that the cluster knows.

    name: its name
    cpu: its CPU limit
    memory: its memory limit
    """

    name: str
    cpu: Quantity = ""
    memory: Quantity = ""


class Toleration(Section, frozen=True, kw_only=True):
    """A taint of nodes that the model may run on all the same.

    key: of the taint
    value: of the taint; empty: any
    effect: of the taint
    """

    key: Annotated[str, Meta(min_length=1)]
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class Free(Section, frozen=True, kw_only=True):
    """What a cluster has for a model.

    cpu: CPUs
    memory: bytes
    """

    cpu: Quantity = ""
    memory: Quantity = ""


class Site(Section, frozen=True, kw_only=True):
    """One cluster (or process) that serves the model. Only the name is required.

    name: unique in the fleet, whatever the case of its letters
    ring: rings are updated in the order of loop.yaml, the sites of a ring wave by wave
    cohort: sites that are alike; drift of a cohort is told from drift of the fleet
    labels: yours
    timezone: of its windows
    windows: when it may be changed; none: at any time
    blackouts: when it must not be changed
    link_kbps: bandwidth of its link, for how long a candidate takes to arrive
    instance_types: instance types that the cluster knows
    tolerations: taints of the nodes that the model may run on; at executor azureml only those that Azure ML's own pods
        tolerate (ml.azure.com/...), as a pushed deployment brings none
    free: what it has for both versions of the model side by side and, at executor azureml, the Azure ML extension
    architecture: of its nodes
    executor: how a candidate gets there: local (asked at its url), azureml (pushed), flux (pulled from Git) or iotedge;
        on one machine every site is asked at its url
    resource_id: of the connected cluster in Azure
    subscription: of Azure, of its cluster
    region: of Azure, of its cluster
    certificate_expires: when the cluster's connection to Azure ends unless it is renewed; it is warned of
    data: may-leave, or stays: sketches and evidence only, trained and evaluated at the site
    keys: by which it signs its batches; none: unsigned batches are taken
    url: where the local executor reaches it
    compute: its Kubernetes compute in the Azure ML workspace
    dataset: its own table of labelled rows: a path there, or a data asset (azureml:NAME:VERSION)
    dataset_mb: size of that table
    key_file: path there of the private key that signs what a job at the site found
    quarantined: true leaves its rows out of training and evaluation; it goes on serving and being watched
    """

    name: str
    ring: str = "default"
    cohort: str = "default"
    labels: dict[str, str] = {}
    timezone: Annotated[str, Meta(examples=["Europe/Berlin"])] = "UTC"
    windows: tuple[Window, ...] = ()
    blackouts: tuple[Blackout, ...] = ()
    link_kbps: Annotated[float, Meta(gt=0.0)] | None = None
    instance_types: tuple[InstanceType, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    free: Free | None = None
    architecture: str = ""
    executor: Literal["local", "azureml", "flux", "iotedge"] = "local"
    resource_id: str = ""
    subscription: str = ""
    region: str = ""
    certificate_expires: datetime | None = None
    data: Literal["may-leave", "stays"] = "may-leave"
    keys: tuple[Key, ...] = ()
    url: str = ""
    compute: str = ""
    dataset: str = ""
    dataset_mb: Annotated[float, Meta(gt=0.0)] | None = None
    key_file: str = ""
    quarantined: bool = False


def selected(site: Site, ring: str) -> bool:
    """Whether a site is of a ring, or fits a selector of labels.

    >>> lab = Site(name="lab", ring="first", labels={"region": "eu"})
    >>> selected(lab, "first"), selected(lab, "region=eu,tier!=pilot"), selected(lab, "region!=eu")
    (True, True, False)
    """
    if "=" not in ring:
        return site.ring == ring
    terms = (term.partition("=") for term in ring.split(","))
    return all(
        (site.labels.get(name.rstrip("! ").strip()) == value.strip()) is not name.endswith("!")
        for name, _, value in terms
    )


def endpoint_name(loop: str, site: Site) -> str:
    """What a site's endpoint is called: its label `endpoint`, or loop and site as Azure ML takes names.

    >>> endpoint_name("flights", Site(name="EWR")), endpoint_name("flights", Site(name="Werk Süd 2"))
    ('flights-ewr', 'flights-werk-s-d-2-0763ae')
    """
    if given := site.labels.get("endpoint"):
        return given
    plain = f"{loop}-{site.name}".lower()
    made = re.sub(r"-+", "-", re.sub(r"[^a-z0-9-]", "-", plain)).strip("-")
    made = made if made[:1].isalpha() else f"s-{made}"
    if made == plain and 3 <= len(made) <= 32:
        return made
    return f"{made[:25].rstrip('-')}-{sha256(f'{loop}/{site.name}'.encode()).hexdigest()[:6]}"


class Quota(Section, frozen=True, kw_only=True):
    """What Azure ML allows for the sites that are pushed to.

    profile: the limits as they are (current), or as they were and in some places still are (older)
    endpoints: online endpoints in the workspace's subscription and region that the fleet may use; default: all of the
        profile
    deployments: deployments there
    per_endpoint: without effect, as each site has an endpoint of its own with two deployments at most
    cluster_endpoints: endpoints on a cluster
    cluster_deployments: deployments on a cluster
    subscriptions: without effect, as all sites are pushed to through the app's one workspace
    """

    profile: Literal["current", "older"] = "current"
    endpoints: Positive | None = None
    deployments: Positive | None = None
    per_endpoint: Annotated[int, Meta(ge=2)] | None = None
    cluster_endpoints: Positive | None = None
    cluster_deployments: Positive | None = None
    subscriptions: tuple[str, ...] = ()


class Fleet(Section, frozen=True, kw_only=True):
    """fleet.yaml: the sites that serve a model.

    sites: in the order in which their rings are meant
    blackouts: when no site must be changed
    quota: what Azure ML allows
    """

    sites: Annotated[tuple[Site, ...], Meta(min_length=1)]
    blackouts: tuple[Blackout, ...] = ()
    quota: Quota = Quota()

    def site(self, name: str) -> Site | None:
        return next((s for s in self.sites if s.name == name), None)


def parse_loop(text: str, file: str = "loop.yaml") -> Loop:
    """Raises Wrong with every problem: `file:line: field: what is wrong; what was expected`."""
    return Document(text, file).read(Loop, _loop_problems)


def parse_fleet(text: str, file: str = "fleet.yaml") -> Fleet:
    """As `parse_loop`."""
    return Document(text, file).read(Fleet, _fleet_problems)


def parse(loop: str, fleet: str, loop_file: str = "loop.yaml", fleet_file: str = "fleet.yaml") -> tuple[Loop, Fleet]:
    """Both files, and whether they fit each other. Raises Wrong with the problems of both."""
    problems: list[Problem] = []
    try:
        a = parse_loop(loop, loop_file)
    except Wrong as e:
        problems += e.problems
    try:
        b = parse_fleet(fleet, fleet_file)
    except Wrong as e:
        problems += e.problems
    if not problems:
        problems = Document(loop, loop_file).problems((p.path, p.what) for p in check(a, b))
    if problems:
        raise Wrong(problems)
    return a, b


def check(loop: Loop, fleet: Fleet) -> list[Problem]:
    """Where the two files, each right in itself, do not fit. All are problems of loop.yaml."""
    return [Problem("loop.yaml", 0, path, what) for path, what in _pair_problems(loop, fleet)]


def json_schema(kind: type[Loop] | type[Fleet]) -> dict[str, Any]:
    """The published JSON Schema (2020-12) of loop.yaml or fleet.yaml, with what the docstrings say of each field."""
    schema = msgspec.json.schema(kind)
    for section in (s for s in Section.__subclasses__() if s.__name__ in schema["$defs"]):
        summary, fields = described(section)
        part = schema["$defs"][section.__name__]
        part["description"] = summary
        for name, value in part["properties"].items():
            value["description"] = fields[name]
    name = "loop" if kind is Loop else "fleet"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"{name}.yaml of driftloop", **schema}


def undented(schema: Any) -> Any:
    """A schema that reads the same whichever Python made it: from 3.13 on docstrings come without their indentation.

    >>> undented({"description": "One line,\\n    and another."})
    {'description': 'One line,\\nand another.'}
    """
    if isinstance(schema, dict):
        return {k: cleandoc(v) if k == "description" and isinstance(v, str) else undented(v) for k, v in schema.items()}
    return [undented(part) for part in schema] if isinstance(schema, list) else schema


def described(section: type[Section]) -> tuple[str, dict[str, str]]:
    """A section's summary, and its fields' descriptions, from its docstring.

    >>> described(Free)
    ('What a cluster has for a model.', {'cpu': 'CPUs', 'memory': 'bytes'})
    """
    summary, _, fields = (getdoc(section) or "").partition("\n\n")
    found = re.findall(r"^(\w+): (.*(?:\n .*)*)$", fields, re.MULTILINE)
    return summary.replace("\n", " "), {name: re.sub(r"\n +", " ", text) for name, text in found}


_Found = Iterator[tuple[Path, str]]

_LEAST = {
    ("telemetry", "window"): "1m",
    ("telemetry", "silence"): "1m",
    ("training", "window"): "1m",
    ("training", "holdout"): "1m",
    ("training", "timeout"): "1s",
    ("evaluation", "timeout"): "1s",
    ("gates", "maximum_age"): "1s",
    ("approval", "expires"): "1s",
    ("rollout", "deadline"): "1s",
}
_MOST = "520w"


def _loop_problems(loop: Loop, told: Told) -> _Found:
    yield from _schema_problems(loop.schema)
    for section in ("schema", "telemetry", "retrain", "training", "evaluation", "gates", "approval", "rollout"):
        part = getattr(loop, section)
        for f in msgspec.structs.fields(part):
            if f.type == Duration:
                at = (section, f.name)
                yield from _duration_problems(getattr(part, f.name), at, _LEAST.get(at, "0s"))
    yield from _rate_problems(loop.drift.false_alarms, ("drift", "false_alarms"))
    yield from _rate_problems(loop.retrain.budget, ("retrain", "budget"))
    yield from _source_problems(loop)
    training, metrics = loop.training, METRICS[loop.task]
    if ("training", "window") not in told and duration(training.holdout) >= duration(training.window):
        less = f"expected less than the window ({training.window})"
        yield ("training", "holdout"), f"{training.holdout!r} leaves nothing to train on; {less}"
    if ("task",) not in told and loop.gates.metric and loop.gates.metric not in metrics:
        fits = " or ".join(metrics)
        yield ("gates", "metric"), f"{loop.gates.metric!r} does not fit the task {loop.task}; expected {fits}"
    kept, needed = loop.retention.batches, duration(training.window) + duration(training.holdout)
    if kept is not None and duration(kept) < needed:
        wanted = f"training.window and training.holdout together, {needed.days} days"
        yield (
            ("retention", "batches"),
            f"{kept!r} would delete what the next training needs; expected at least {wanted}",
        )
    yield from _gate_problems(loop, told)
    if loop.retrain.enabled and not loop.retrain.on:
        yield ("retrain", "on"), "nothing would ever retrain; expected at least one kind, or `enabled: false`"
    traffic = loop.serving.traffic
    if list(traffic) != sorted(set(traffic)) or traffic[-1] != 100:
        yield ("serving", "traffic"), f"{list(traffic)}; expected rising percentages that end with 100"
    yield from _twice(loop.rollout.rings, ("rollout", "rings"))
    yield from _approval_problems(loop.approval)
    yield from _notify_problems(loop.notify, ("notify",))


def _approval_problems(approval: Approval) -> _Found:
    at = ("approval",)
    yield from _twice(approval.approvers, (*at, "approvers"))
    yield from _twice(approval.groups, (*at, "groups"))
    people = {_person(name, approval.accounts) for name in approval.approvers}
    if approval.needed > max(len(people), 1) and not approval.groups:
        yield (*at, "needed"), f"{approval.needed} have to approve, and {len(people)} may; expected more approvers"
    owners: dict[str, str] = {}
    for who, accounts in approval.accounts.items():
        for name in (who, *accounts):
            if owners.setdefault(_same(name), who) != who:
                yield (
                    (*at, "accounts", who),
                    f"{name!r} is an account of {owners[_same(name)]!r} too; expected one owner",
                )
    if approval.remind is not None:
        yield from _duration_problems(approval.remind, (*at, "remind"), "15m")
    if approval.escalate is not None:
        here = (*at, "escalate")
        yield from _duration_problems(approval.escalate.after, (*here, "after"), "1s")
        if not (approval.escalate.approvers or approval.escalate.groups):
            yield (*here, "approvers"), "nobody else may answer; expected approvers or groups"
    if approval.quiet is not None:
        yield from _quiet_problems(approval.quiet, (*at, "quiet"))


def _quiet_problems(quiet: Quiet, at: Path) -> _Found:
    if problem := _zone_problem(quiet.timezone):
        yield (*at, "timezone"), problem
    if len(set(quiet.days)) == 7:
        yield (*at, "days"), "are all days, so nothing would ever count; expected a day that is not quiet"


def _notify_problems(notify: Notify, at: Path) -> _Found:
    yield from _duration_problems(notify.every, (*at, "every"), "0s")
    yield from _duration_problems(notify.repeat, (*at, "repeat"), "0s")
    if notify.quiet is not None:
        yield from _quiet_problems(notify.quiet, (*at, "quiet"))


def _person(name: str, accounts: dict[str, tuple[str, ...]]) -> str:
    return next((who for who, names in accounts.items() if name == who or name in names), name)


def _gate_problems(loop: Loop, told: Told) -> _Found:
    kinds = {f.name: f.kind for f in loop.schema.features}
    for i, part in enumerate(loop.gates.slices):
        at: Path = ("gates", "slices", i)
        parted = [name for name in ("edges", "quantiles") if getattr(part, name)]
        if part.feature not in kinds:
            yield (*at, "feature"), f"{part.feature!r} is no feature; expected {_one_of(part.feature, list(kinds))}"
        elif kinds[part.feature] == "category" and parted:
            yield (*at, parted[0]), f"{part.feature} is a category: each is a group; expected it to be left out"
        elif kinds[part.feature] == "number" and len(parted) != 1:
            yield (*at, "feature"), f"{part.feature} is a number; expected edges, or quantiles, that part it"
        if any(a >= b for a, b in pairwise(part.edges)):
            yield (*at, "edges"), "do not rise; expected each edge above the one before"
    yield from _twice([part.feature for part in loop.gates.slices], ("gates", "slices"), "feature")
    yield from _holdout_problems(loop)
    if loop.gates.margin is not None and loop.gates.minimum_gain:
        yield ("gates", "margin"), "says what minimum_gain says otherwise; expected one of the two"
    if ("task",) not in told and loop.task == "regression" and loop.gates.maximum_calibration_error is not None:
        yield ("gates", "maximum_calibration_error"), "is for a binary task; expected it to be left out"


def _source_problems(loop: Loop) -> _Found:
    """Where telemetry comes from besides the sites' own batches."""
    for i, upload in enumerate(loop.telemetry.uploads):
        at: Path = ("telemetry", "uploads", i, "path")
        rest = re.sub(r"\{(site|candidate)\}", "x", upload.path)
        if not re.fullmatch(r"[a-z0-9-]{3,63}/(?!.*(//|\.\./|/\./))[^{}\\]*", rest) or not upload.path.endswith("/"):
            yield at, f"{upload.path!r}; expected a container and folders, like `uploads/{loop.loop}/{{site}}/`"
        elif max(upload.path.count("{site}"), upload.path.count("{candidate}")) > 1:
            yield at, f"{upload.path!r}; expected {{site}} and {{candidate}} once each"
        elif "{site}" not in upload.path and loop.schema.site is None:
            yield at, f"{upload.path!r} names no site, and the schema has no column for it; expected {{site}} in it"
    for i, logs in enumerate(loop.telemetry.logs):
        yield from _duration_problems(logs.delay, ("telemetry", "logs", i, "delay"), "0s")
        if logs.query and not re.search(r"\bTimeGenerated\b", logs.query) and re.search(r"\|\s*project\b", logs.query):
            yield ("telemetry", "logs", i, "query"), "projects TimeGenerated away; expected it among the columns"


def _schema_problems(schema: Schema) -> _Found:
    used: dict[str, str] = {}
    for role in ("timestamp", "site", "id", "label", "label_at", "prediction"):
        column = getattr(schema, role)
        if column in used:
            yield ("schema", role), f"{column!r} is the {used[column]} already; expected another column"
        elif column is not None:
            used[column] = role
    names: set[str] = set()
    columns: dict[str, str] = {column: role for column, role in used.items() if role != "site"}
    for i, f in enumerate(schema.features):
        at: Path = ("schema", "features", i)
        column = f.column or f.name
        yield from _name_problems(f.name, (*at, "name"), "")
        if f.name in RESERVED:
            yield (*at, "name"), f"{f.name!r} is reserved; expected another name, with `column: {f.name}` beside it"
        if unicodedata.normalize("NFC", f.name) in names:
            yield (*at, "name"), f"{f.name!r} is there already; expected every feature once"
        elif column in columns:
            yield (*at, "column" if f.column else "name"), f"{column!r} is the {columns[column]}; expected an input"
        names.add(unicodedata.normalize("NFC", f.name))
        columns[column] = f"feature {f.name!r}"
        low, high = f.range
        if f.kind == "category" and f.range != (None, None):
            yield (*at, "range"), "a category has no range; expected it to be left out, or `kind: number`"
        elif low is not None and high is not None and low >= high:
            yield (*at, "range"), f"{low:g} is not below {high:g}; expected [least, greatest]"


def _fleet_problems(fleet: Fleet, _: Told) -> _Found:
    yield from _blackout_problems(fleet.blackouts, ())
    names: dict[str, int] = {}
    owners: dict[bytes, Path] = {}
    for i, site in enumerate(fleet.sites):
        at: Path = ("sites", i)
        for name in ("name", "ring", "cohort"):
            yield from _name_problems(getattr(site, name), (*at, name), "/\\#?%")
        other = names.setdefault(_same(site.name), i)
        if other != i:
            name = fleet.sites[other].name
            yield (
                (*at, "name"),
                f"{site.name!r} is there already, as {name!r}; expected another name",
            )
        yield from _site_problems(site, at)
        yield from _key_problems(site.keys, (*at, "keys"), owners)


AMLARC = tuple(
    f"ml.azure.com/{name}" for name in ("amlarc", "amlarc-workload", "resource-group", "workspace", "compute")
)
"""Taints that Azure ML's workloads tolerate, whatever is deployed."""


def _site_problems(site: Site, at: Path) -> _Found:
    for i, toleration in enumerate(site.tolerations):
        if site.executor == "azureml" and toleration.key not in AMLARC:
            alone = f"{toleration.key!r}: Azure ML's deployments tolerate {', '.join(AMLARC)} alone"
            yield (*at, "tolerations", i, "key"), f"{alone}; expected one of them, or executor: flux"
    if what := _zone_problem(site.timezone):
        yield (*at, "timezone"), what
    for i, window in enumerate(site.windows):
        if bool(window.cron) is bool(window.rrule):
            yield (*at, "windows", i), "expected either `cron` or `rrule`"
        elif window.cron and (what := _cron_problem(window.cron)):
            yield (*at, "windows", i, "cron"), what
        elif window.rrule and (what := _rrule_problem(window.rrule)):
            yield (*at, "windows", i, "rrule"), what
        yield from _duration_problems(window.duration, (*at, "windows", i, "duration"), "1m", "4w")
    yield from _blackout_problems(site.blackouts, at)
    if site.url and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", site.url):
        yield (*at, "url"), f"{site.url!r}; expected an address like http://127.0.0.1:8080/lab"


def _blackout_problems(blackouts: Sequence[Blackout], at: Path) -> _Found:
    for i, blackout in enumerate(blackouts):
        if blackout.start >= blackout.end:
            yield (*at, "blackouts", i, "end"), f"not after its start; expected a time after {_iso(blackout.start)}"


def _key_problems(keys: Sequence[Key], at: Path, owners: dict[bytes, Path]) -> _Found:
    yield from _twice([k.id for k in keys], at, "id")
    for i, key in enumerate(keys):
        try:
            raw = b64decode(key.public, validate=True)
        except ValueError:
            raw = b""
        if len(raw) != 32:
            wanted = "expected the 32 bytes of an Ed25519 public key in base64"
            yield (*at, i, "public"), f"{key.public[:60]!r}; {wanted}"
        elif owners.setdefault(raw, at) != at:
            yield (*at, i, "public"), "another site's key, too; expected a key of its own for each site"
        if key.not_before and key.not_after and key.not_before >= key.not_after:
            yield (*at, i, "not_after"), f"not after not_before; expected a time after {_iso(key.not_before)}"


def _holdout_problems(loop: Loop) -> _Found:
    asked, at = loop.gates.holdout, ("gates", "holdout")
    if asked is None:
        return
    if (asked.table is None) == (asked.freeze is None):
        yield at, "expected a table, or which rows to freeze: one of the two"
    elif asked.freeze and asked.sha256:
        yield (*at, "sha256"), "is of a table; what is frozen is named in the lineage of what was trained beside it"


def _pair_problems(loop: Loop, fleet: Fleet) -> _Found:
    rings = list(dict.fromkeys(s.ring for s in fleet.sites))
    for i, ring in enumerate(loop.rollout.rings):
        if not any(selected(s, ring) for s in fleet.sites):
            yield ("rollout", "rings", i), f"no site is in ring {ring!r}; expected {_one_of(ring, rings)}"
    left = dict.fromkeys(s.ring for s in fleet.sites if not any(selected(s, ring) for ring in loop.rollout.rings))
    if loop.rollout.rings and left:
        yield (
            ("rollout", "rings"),
            f"the sites of {', '.join(left)} would never be updated; expected every ring of the fleet",
        )
    if loop.schema.site is None and len(fleet.sites) > 1:
        yield (
            ("schema", "site"),
            f"is missing, and the fleet has {len(fleet.sites)} sites; expected the column with the site's name",
        )
    frozen = loop.gates.holdout.freeze if loop.gates.holdout else None
    names = [s.name for s in fleet.sites]
    for i, name in enumerate(frozen.sites if frozen else ()):
        if name not in names:
            yield (
                ("gates", "holdout", "freeze", "sites", i),
                f"no site is called {name!r}; expected {_one_of(name, names)}",
            )
    if frozen and set(names) <= set(frozen.sites):
        yield ("gates", "holdout", "freeze", "sites"), "are all that there are; expected sites left to train on"


def _duration_problems(text: str, at: Path, least: str, most: str = _MOST) -> _Found:
    with suppress(ValueError):  # no duration at all: told already
        if not duration(least) <= duration(text) <= duration(most):
            yield at, f"{text!r}; expected {least} to {most}"


def _rate_problems(text: str, at: Path) -> _Found:
    count, per = rate(text)
    if not count or not per:
        yield at, f"{text!r}; expected at least one, in some time, like `1 per 90 days`"


def _name_problems(name: str, at: Path, without: str) -> _Found:
    found = [c for c in name if c in without or not c.isprintable()]
    if not name or name != name.strip() or len(name) > 100:
        yield at, f"{name[:60]!r}; expected 1 to 100 characters without blanks around them"
    elif found or set(name) == {"."}:
        yield at, f"{name!r} has {found[0] if found else '.'!r}; expected a name that may stand in an address"


def _twice(values: Sequence[str], at: Path, field: str | None = None) -> _Found:
    for i, value in enumerate(values):
        if value in values[:i]:
            yield (*at, i, *([field] if field else [])), f"{value!r} is there twice; expected it once"


@cache
def _zone_problem(name: str) -> str:
    from zoneinfo import ZoneInfo, available_timezones

    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        return f"{name!r} is no time zone; expected {_one_of(name, sorted(available_timezones()), 'Europe/Berlin')}"
    return ""


@cache
def _cron_problem(line: str) -> str:
    from cronsim import CronSim, CronSimError

    wanted = "expected minute, hour, day of month, month, day of week, like `0 2 * * SAT`"
    if len(line.split()) != 5:
        return f"{line!r} has {len(line.split())} fields; {wanted}"
    try:
        next(CronSim(line, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as e:
        return f"{line!r}: {str(e).lower()}; {wanted}"
    except StopIteration:
        return f"{line!r} never comes; {wanted}"
    return ""


@cache
def _rrule_problem(text: str) -> str:
    from dateutil.rrule import rrulestr

    wanted = "expected a rule of RFC 5545, like `FREQ=MONTHLY;BYDAY=1SU;BYHOUR=2`"
    if re.search(r"SECOND|MINUTELY|COUNT|TZID|EXDATE|RDATE|\n", text, re.IGNORECASE):
        return f"{text!r}; {wanted}, by the minute at most, in the site's own zone, without an end by count"
    try:
        next(iter(rrulestr(text, dtstart=datetime(2024, 1, 1))))  # noqa: DTZ001 (local time of whichever zone)
    except (ValueError, TypeError) as e:
        return f"{text!r}: {e}; {wanted}"
    except StopIteration:
        return f"{text!r} never comes; {wanted}"
    return ""


def _one_of(name: str, known: Sequence[str], like: str = "") -> str:
    near = get_close_matches(name, known, 1, 0.5)
    return f"{near[0]}?" if near else f"a name like {like}" if like else f"one of {', '.join(known)}"


def _same(name: str) -> str:
    """Names that differ in case or Unicode form alone are one name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
