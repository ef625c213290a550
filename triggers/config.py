"""loop.yaml and fleet.yaml: what a loop is told, as frozen values.

Durations are written `90s`, `15m`, `6h`, `14d`, `2w`; rates `1 per 90 days`. Every field but those without a
default may be left out.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from drift.telemetry import Feature as DriftFeature
from drift.telemetry import Schema as DriftSchema

Duration = Annotated[str, Meta(pattern=r"^\s*\d+(\.\d+)?\s*(s|m|h|d|w)\s*$", examples=["6h", "14d"])]
Rate = Annotated[
    str, Meta(pattern=r"^\s*\d+\s+per\s+\d*\s*(hour|day|week|month|year)s?\s*$", examples=["1 per 90 days"])
]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DAYS = {"hour": 1 / 24, "day": 1.0, "week": 7.0, "month": 30.0, "year": 365.0}


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
    """A model input. `column` is its name in the user's table where that differs; `range` is what is plausible."""

    name: str
    kind: Literal["number", "category"] = "number"
    column: str | None = None
    unit: str = ""
    range: tuple[float | None, float | None] = (None, None)


class Schema(Section, frozen=True, kw_only=True):
    """The telemetry of the loop: which columns of a table are what."""

    version: str = "1"
    timestamp: str = "at"
    site: str | None = None
    id: str | None = None
    label: str | None = None
    label_at: str | None = None  # column with the time at which the label was known
    label_delay: Duration = "0s"  # where there is no such column
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
    """The beginning of the data: the first champion is trained on it, and it is not telemetry."""

    until: datetime | None = None
    fraction: Fraction = 0.2  # of the time span, where `until` is not said


class Telemetry(Section, frozen=True, kw_only=True):
    """How telemetry is cut into windows, and how late it may come."""

    window: Duration = "1d"
    lateness: Duration = "30d"  # older batches are quarantined
    settle: Duration = "6h"  # a window is assessed this long after its end
    silence: Duration = "2d"  # a site that sends nothing for so long is reported


class Quality(Section, frozen=True, kw_only=True):
    """Deterministic rules, counted apart from the false-alarm promise. Shares of a window's rows."""

    missing: Fraction = 0.2  # more than in the reference by this much
    range: Fraction = 0.02
    unseen: Fraction = 0.02
    minimum_rows: Positive = 50


class Quorum(Section, frozen=True, kw_only=True):
    """Share of sites (with telemetry) that must have moved before a scope larger than a site is said to have."""

    cohort: Fraction = 0.5
    fleet: Fraction = 0.5


class Drift(Section, frozen=True, kw_only=True):
    """What counts as drift. `false_alarms` is the promise, fleet-wide, over all statistical kinds together."""

    false_alarms: Rate = "1 per 90 days"
    bins: Annotated[int, Meta(ge=8, le=128)] = 64
    minimum_rows: Positive = 50  # fewer rows in a window are no evidence
    quality: Quality = Quality()
    quorum: Quorum = Quorum()


class Retrain(Section, frozen=True, kw_only=True):
    """When to retrain: hysteresis, cooldown, budget, enough rows."""

    on: tuple[Literal["feature", "prediction", "label", "performance"], ...] = (
        "feature",
        "prediction",
        "label",
        "performance",
    )
    confirm: Positive = 2  # checks in a row that must say drift
    cooldown: Duration = "14d"  # after the end of the last run
    budget: Rate = "3 per 30 days"
    minimum_rows: Positive = 1000
    enabled: bool = True


class Training(Section, frozen=True, kw_only=True):
    """How a candidate is trained. The newest `holdout` is left out of training: the gate needs rows unseen by both."""

    script: str | None = None  # default: the generic scikit-learn script
    window: Duration = "60d"
    holdout: Duration = "10d"
    compute: Literal["cloud", "edge", "auto"] = "auto"
    timeout: Duration = "2h"
    settings: dict[str, Any] = {}  # handed to the script as they are


class Evaluation(Section, frozen=True, kw_only=True):
    """How champion and challenger are compared."""

    script: str | None = None
    timeout: Duration = "1h"


class Gates(Section, frozen=True, kw_only=True):
    """What a candidate must show. A gain is challenger minus champion, in the direction that is better."""

    metric: Literal["auc", "log_loss", "rmse", "mae"] | None = None  # default: auc, or rmse for a regression
    minimum_gain: float = 0.0  # the lower end of the gain's interval must exceed it
    confidence: Annotated[float, Meta(gt=0.5, lt=1.0)] = 0.95
    minimum_rows: Positive = 500
    maximum_site_loss: float | None = None  # no site may lose more than this (point estimate, enough rows)
    maximum_age: Duration = "7d"  # of evidence when it is judged


class Approval(Section, frozen=True, kw_only=True):
    """Who may let a candidate through."""

    approvers: tuple[str, ...] = ()
    expires: Duration = "3d"


class Rollout(Section, frozen=True, kw_only=True):
    """How a candidate reaches the sites; rings in order, from fleet.yaml."""

    rings: tuple[str, ...] = ()  # order; default: order of first appearance in fleet.yaml
    wave_size: Annotated[int, Meta(ge=1)] | None = None  # sites at once within a ring; default: the ring
    soak: Duration = "1d"  # verified for so long before the next wave
    deadline: Duration = "3d"  # a site that has not verified by then has failed (offline ones are deferred)
    max_unavailable: int = 1
    max_failed: int = 0
    minimum_requests: Positive = 20  # fresh requests of the new candidate before a site can count as verified
    max_error_rate: Fraction = 0.02
    max_p95_ms: float | None = None


class Loop(Section, frozen=True, kw_only=True):
    """loop.yaml: one model's loop."""

    loop: Name
    task: Literal["binary", "regression"] = "binary"
    schema: Schema
    bootstrap: Bootstrap = Bootstrap()
    telemetry: Telemetry = Telemetry()
    drift: Drift = Drift()
    retrain: Retrain = Retrain()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    gates: Gates = Gates()
    approval: Approval = Approval()
    rollout: Rollout = Rollout()


class Window(Section, frozen=True, kw_only=True):
    """When a site may be changed: a cron line in the site's time zone, and how long it stays open."""

    cron: str
    duration: Duration


class Blackout(Section, frozen=True, kw_only=True):
    """When a site must not be changed, whatever its windows say."""

    start: datetime
    end: datetime
    reason: str = ""


class Key(Section, frozen=True, kw_only=True):
    """A site's public key (Ed25519, base64), and when it is valid."""

    id: str
    public: str
    not_before: datetime | None = None
    not_after: datetime | None = None
    revoked: bool = False


class InstanceType(Section, frozen=True, kw_only=True):
    name: str
    cpu: str = ""
    memory: str = ""


class Free(Section, frozen=True, kw_only=True):
    cpu: str = ""
    memory: str = ""


class Site(Section, frozen=True, kw_only=True):
    """One Arc-enabled cluster (or process) that serves the model. Only `name` is required."""

    name: str
    ring: str = "default"
    cohort: str = "default"
    labels: dict[str, str] = {}
    timezone: str = "UTC"
    windows: tuple[Window, ...] = ()
    blackouts: tuple[Blackout, ...] = ()
    link_kbps: float | None = None
    instance_types: tuple[InstanceType, ...] = ()
    free: Free | None = None
    architecture: str = ""
    executor: Literal["local", "azureml", "flux", "iotedge"] = "local"
    resource_id: str = ""
    subscription: str = ""
    data: Literal["may-leave", "stays"] = "may-leave"
    keys: tuple[Key, ...] = ()
    url: str = ""  # where the local executor reaches the site


class Fleet(Section, frozen=True, kw_only=True):
    """fleet.yaml: the sites, in the order in which their rings were meant."""

    sites: Annotated[tuple[Site, ...], Meta(min_length=1)]

    def site(self, name: str) -> Site | None:
        return next((s for s in self.sites if s.name == name), None)
