"""Values that the tests of the core begin from: one run per phase, one event per kind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from triggers import events as on
from triggers.config import Feature as LoopFeature
from triggers.config import Fleet, Loop, Retrain, Schema, Site
from triggers.run import Limits, Phase, Run, WaveTimes

NOW = datetime(2026, 3, 10, 6, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OLD, NEW = "0" * 64, "1" * 64

replace = msgspec.structs.replace


def a_loop(**changes: Any) -> Loop:
    fields: dict[str, Any] = {
        "loop": "line",
        "schema": Schema(timestamp="at", site="site", label="y", features=(LoopFeature(name="x"),)),
        "retrain": Retrain(confirm=1, minimum_rows=100),
    }
    return Loop(**{**fields, **changes})


def a_fleet(*names: str, **common: Any) -> Fleet:
    return Fleet(sites=tuple(Site(name=n, **common) for n in names or ("a", "b", "c")))


def a_comparison(**changes: Any) -> on.Comparison:
    told = on.Comparison(1000, champion=0.70, challenger=0.75, gain=0.05, gain_low=0.03, gain_high=0.07)
    return replace(told, **changes)


def evidence(**changes: Any) -> on.Evidence:
    told = on.Evidence(
        champion=OLD,
        challenger=NEW,
        metric="auc",
        confidence=0.95,
        overall=a_comparison(),
        start=NOW - 10 * DAY,
        end=NOW - HOUR,
        data="d" * 64,
        trials={"challenger": on.Trial()},
        schema="",
    )
    return replace(told, **changes)


def a_run(phase: Phase = Phase.TRAINING, **changes: Any) -> Run:
    """A fleet-wide run as it stands in `phase`: two waves, the first begun an hour ago where it rolls out."""
    fields: dict[str, Any] = {
        "id": "line.2026-03-10.1",
        "loop": "line",
        "scope": "fleet",
        "sites": None,
        "cause": "x moved",
        "phase": phase,
        "because": "x moved",
        "started": NOW,
        "champion": OLD,
        "data_start": NOW - 60 * DAY,
        "data_end": NOW - 10 * DAY,
        "holdout_end": NOW,
        "limits": Limits(),
    }
    order = list(Phase)
    if order.index(phase) >= order.index(Phase.EVALUATING):
        fields |= {"candidate": NEW, "rows": 5000}
    if order.index(phase) >= order.index(Phase.AWAITING_APPROVAL):
        fields |= {"evidence": "e1", "outcome": "passed", "verdict": "better"}
    if phase in (Phase.ROLLING_OUT, Phase.ROLLING_BACK, Phase.VERIFIED, Phase.ROLLED_BACK):
        waves = (on.Wave("lab", 1), on.Wave("plant", 2))
        times = (WaveTimes(started=NOW - HOUR, sites=1),)
        fields |= {"approved_by": "ann", "plan": "p1", "waves": waves, "wave": 0, "times": times}
    return Run(**{**fields, **changes})


_MORE: dict[type[on.Event], dict[str, Any]] = {
    on.Trained: {"candidate": NEW, "rows": 5000},
    on.JobFailed: {"job": "line.2026-03-10.1-train", "reason": "exit status 1"},
    on.Evaluated: {"evidence": evidence(), "digest": "e1"},
    on.Answered: {
        "answer": "approve",
        "by": "ann",
        "reason": "looks right",
        "candidate": NEW,
        "evidence": "e1",
        "plan": "p1",
        "waves": (on.Wave("lab", 1), on.Wave("plant", 2)),
    },
    on.WaveReported: {"wave": 0, "verified": 1, "failed": 0, "deferred": 0, "pending": 0},
    on.RollbackReported: {"restored": 1, "deferred": 0, "pending": 0, "stuck": 0, "because": ""},
    on.DeadlinePassed: {"phase": "training"},
    on.Cancelled: {"by": "ann", "reason": "wrong month"},
    on.RollBackAsked: {"by": "ann", "reason": "complaints"},
    on.Paused: {"by": "ann", "reason": "inventory"},
    on.Resumed: {"by": "ann", "reason": "inventory is over"},
    on.Superseded: {"by": "line.2026-03-11.2"},
}


def an_event(kind: type[on.Event], id: str = "e", **changes: Any) -> Any:
    return kind(**{"id": id, "run": "line.2026-03-10.1", "at": NOW, **_MORE[kind], **changes})
