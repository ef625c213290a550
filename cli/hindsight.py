"""What a loop would have done on the history in a table: its checks, its decisions, its models.

Every period is folded once for each champion that reads it, all policies are taken over the periods side by side, and
what two of them have in common (a champion, its windows, an assessment, a training) is made once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cli.children import JobFailed, run_job
from cli.tables import Data
from drift.detectors import State
from drift.envelope import iso
from drift.history import History
from drift.reference import Reference
from drift.report import Limits, Report, assess
from drift.windows import Window
from triggers import gates, policy
from triggers.config import METRICS, Fleet, Loop, duration
from triggers.errors import Misconfigured, Refused
from triggers.events import Comparison, Evidence, Trial
from triggers.loop import drift_limits

Say = Callable[[str], None]
Mask = NDArray[np.bool_]


SCOPES = ("site", "cohort", "fleet")
FEW = 100
"""Labelled rows without which a month says nothing of a model."""


@dataclass(eq=False)
class Champion:
    """A model, or the same model against a newer reference. `score` [n] is of the live rows, NaN where nobody asked;
    `start` and `end` (UTC seconds) are the training window's."""

    name: str
    reference: Reference
    score: NDArray[np.float64]
    start: int
    end: int
    digest: str = ""
    _at: int = -1
    _windows: list[Window] = field(default_factory=list)
    _ahead: Iterator[tuple[int, list[Window]]] = field(default_factory=lambda: iter(()))

    def windows(self, history: History, period: int, end: int, seconds: int, patience: int) -> list[Window]:
        """Every site's window of a period; each is folded once, while periods are asked for in their order."""
        if self._at != period:
            if self._at != period - seconds:
                scored = replace(history, rows=replace(history.rows, score=self.score))
                self._ahead = scored.folded(self.reference, self.name, period, end, seconds, patience)
            self._at, self._windows = next(self._ahead)
        return self._windows


class Workshop:
    """Where models are trained, by the loop's own script, in a process of its own; asked for again, one is there."""

    def __init__(self, folder: Path, loop_file: Path, loop: Loop, data: Path) -> None:
        self.folder, self.loop_file, self.loop, self.data = folder, loop_file, loop, data
        self.key = folder / "registry.pem"
        if not self.key.exists():
            from edge import signing

            folder.mkdir(parents=True, exist_ok=True)
            self.key.write_bytes(signing.new()[0])

    def train(self, name: str, start: int, end: int, sites: Sequence[str] | None) -> tuple[str, Path]:
        """(digest, folder with its files) of a candidate trained on [start, end). Raises JobFailed."""
        from jobs.package import Blobs, fetch

        folder = self.folder / "jobs" / name
        if not (folder / "result.json").exists():
            spec = {
                "name": name,
                "kind": "train",
                "loop": str(self.loop_file.resolve()),
                "blobs": str(self.folder / "blobs"),
                "run": name,
                "from": iso(start),
                "to": iso(end),
                "sites": sites if sites or self.loop.schema.site else ["main"],
                "data": str(self.data.resolve()),
                "key": str(self.key),
            }
            run_job(folder, spec)
        found = json.loads((folder / "result.json").read_text())
        if "error" in found:
            (folder / "result.json").unlink()
            raise JobFailed(f"training on {iso(start)[:10]} to {iso(end)[:10]} failed: {found['error']}")
        files = folder / "candidate"
        if not files.exists():
            fetch(found["candidate"], Blobs(self.folder / "blobs"), None, files)
        return str(found["candidate"]), files


class World:
    """The history that all policies look back on, and the champions that they share."""

    def __init__(self, data: Data, loop: Loop, fleet: Fleet, workshop: Workshop, retrain: bool) -> None:
        """Raises Refused where there is too little of anything."""
        self.loop, self.fleet, self.workshop, self.retrain = loop, fleet, workshop, retrain
        self.seconds = int(duration(loop.telemetry.window).total_seconds())
        self.settle = int(duration(loop.telemetry.settle).total_seconds())
        self.start = data.start_of_telemetry(loop)
        self.bootstrap, live = data.between(data.first, self.start), data.between(self.start, data.last + 1)
        if not len(live) or not len(self.bootstrap):
            raise Refused(
                f"the bootstrap ends at {iso(self.start)}: {len(self.bootstrap):,} rows come before and {len(live):,} "
                "after it; expected some of both: set bootstrap in loop.yaml"
            )
        self.live = live.table
        names, site = np.unique(self.live.site.astype(str), return_inverse=True)
        if stray := sorted(set(names.tolist()) - {s.name for s in fleet.sites}):
            raise Refused(f"the data has sites that fleet.yaml does not name: {', '.join(stray[:10])}")
        rows = self.live.rows(self.live.score)
        self.history = History(rows, tuple(names.tolist()), site.astype(np.int64), self.live.label, live.label_at)
        self.leaves = np.isin(self.live.site.astype(str), [s.name for s in fleet.sites if s.data == "may-leave"])
        self.end = data.last - data.last % self.seconds + self.seconds
        self.served = loop.schema.prediction is not None
        self._champions: dict[str, Champion] = {}

    @property
    def periods(self) -> range:
        """The starts of all periods with telemetry, and of those between."""
        return range(self.start - self.start % self.seconds, self.end, self.seconds)

    def champion(self, name: str, start: int, end: int, sites: Sequence[str] | None) -> Champion:
        """A champion of the rows of [start, end), made once. Raises JobFailed."""
        if name not in self._champions:
            made = self._trained(name, start, end, sites) if self.retrain else self._renewed(name, start, end)
            self._champions[name] = made
        return self._champions[name]

    def begin(self) -> Champion:
        """The first champion: of the bootstrap. Its scores are those in the table, where they are said to be."""
        if "first" not in self._champions:
            self._champions["first"] = self._first()
        return self._champions["first"]

    def _first(self) -> Champion:
        table, known = self.bootstrap.table, self.bootstrap.label_at <= self.start
        start = self.bootstrap.first
        if self.served:
            column = self.loop.schema.prediction
            for part, where in ((table, "bootstrap"), (self.live, "rest of the table")):
                if not np.isfinite(part.score).any():
                    raise Refused(
                        f"loop.yaml: schema.prediction: column {column} has no value in the {where}; expected the "
                        "scores that were served, or no schema.prediction: a first model is then trained"
                    )
            reference = self._reference(table, table.score, known)
            return Champion("first", reference, self.live.score, start, self.start)
        return self._trained("first", start, self.start, None)

    def _trained(self, name: str, start: int, end: int, sites: Sequence[str] | None) -> Champion:
        from edge.candidate import MODEL, REFERENCE
        from jobs.model import Model

        digest, files = self.workshop.train(name, start, end, sites)
        score = np.full(len(self.live), np.nan)
        asked = self.live.at >= end
        model = Model(files / MODEL, self.loop.schema.telemetry(self.loop.task))
        score[asked] = model.score(self.live.take(asked))
        reference = Reference.from_bytes((files / REFERENCE).read_bytes())
        return Champion(name, reference, score, start, end, digest)

    def _renewed(self, name: str, start: int, end: int) -> Champion:
        """The first model, against the rows that it would have been trained on."""
        first = self._champions["first"]
        part = self.live.between(start, end)
        reference = self._reference(self.live.take(part), first.score[part], self.history.known_at[part] <= end)
        return Champion(name, reference, first.score, start, end, first.digest)

    def _reference(self, table: Any, score: NDArray[np.float64], known: Mask) -> Reference:
        labels = np.where(known, table.label, np.nan)
        schema, bins = self.loop.schema.telemetry(self.loop.task), self.loop.drift.bins
        return Reference.build(
            schema, table.rows(score), labels, table.site.tolist(), bins=bins, window_seconds=self.seconds
        )

    def labelled(self, start: int, end: int, now: int, sites: Sequence[str] | None) -> Mask:
        """Live rows of [start, end) whose label was known at `now` and which may leave their site."""
        of = np.ones(len(self.live), np.bool_) if sites is None else np.isin(self.live.site.astype(str), sites)
        known = np.isfinite(self.live.label) & (self.history.known_at <= now)
        return self.live.between(start, end) & known & self.leaves & of

    def training(self, loop: Loop, now: int) -> tuple[int, int]:
        """From when to when a training that begins now trains."""
        end = now - int(duration(loop.training.holdout).total_seconds())
        return max(end - int(duration(loop.training.window).total_seconds()), self.start), end

    def compared(self, a: NDArray[np.float64], b: NDArray[np.float64], on: Mask, loop: Loop) -> Any:
        """Two models' scores on some of the live rows: jobs.metrics.Compared."""
        from jobs.metrics import compare

        metric = loop.gates.metric or METRICS[loop.task][0]
        return compare(metric, self.live.label[on], a[on], b[on], self.live.at[on], loop.gates.confidence)

    def gate(self, loop: Loop, champion: Champion, challenger: Champion, now: int) -> gates.Verdict:
        """What the gates say of a challenger, on the rows that neither was trained on."""
        on = self.labelled(max(challenger.end, champion.end), now, now, None)
        on &= np.isfinite(champion.score)

        def told(rows: Mask) -> Comparison:
            found = self.compared(champion.score, challenger.score, rows, loop)
            return Comparison(found.rows, found.champion, found.challenger, found.gain, found.gain_low, found.gain_high)

        evidence = Evidence(
            champion=champion.name,
            challenger=challenger.name,
            metric=loop.gates.metric or METRICS[loop.task][0],
            confidence=loop.gates.confidence,
            overall=told(on),
            sites={s: told(on & (self.history.site == i)) for i, s in enumerate(self.history.sites)},
            end=utc(now),
            trials={"challenger": Trial()},  # it was opened and has scored every row
            schema="",  # by the loop's features
        )
        return gates.judge(evidence, challenger.name, champion.name, loop.gates, utc(now))


@dataclass(eq=False)
class Hindsight:
    """One policy, taken over the periods. `serving` is the score of what each live row would have met, [n]."""

    world: World
    loop: Loop
    named: Mapping[str, Any]
    champion: Champion
    drift_key: bytes = b""
    scoped: dict[str, Champion] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    history: policy.History = field(default_factory=policy.History)
    windows: int = 0
    alarms: list[dict[str, Any]] = field(default_factory=list)
    maintenance: list[dict[str, Any]] = field(default_factory=list)
    retrains: list[dict[str, Any]] = field(default_factory=list)
    covered: dict[str, Any] = field(default_factory=dict)
    serving: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    _open: dict[tuple[str, ...], tuple[int, set[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.serving = self.champion.score.copy()
        self.drift_key = msgspec.json.encode((self.loop.drift, self.loop.telemetry))

    def check(self, period: int, shared: dict[Any, tuple[Report, State]], say: Say) -> None:
        """The check that assesses one period, its decision, and the model that may follow."""
        world, fleet = self.world, self.world.fleet
        now = period + world.seconds + world.settle
        reports, findings = [], []
        for name, (champion, here) in self._by_champion().items():
            windows = champion.windows(world.history, period, world.end, world.seconds, world.settle)
            windows = [w for w in windows if w.site in here]
            report, state = self._assessed(shared, champion, here, windows, period)
            self.states[name] = state
            reports.append(report)
            findings += [f for f in report.findings if report.windows or not f.statistical]
        told = [
            policy.Finding(
                kind=f.kind,
                statistical=f.statistical,
                scope=f.scope,
                sites=f.sites,
                features=f.features,
                reason=f.reason,
                covered=f.covered,
            )
            for f in findings
        ]
        self.windows += sum(r.windows for r in reports)
        self._cover(reports)
        self._ring(told, now)
        start, end = world.training(self.loop, now)
        rows = int(world.labelled(start, end, now, None).sum()) if told else 0
        decision, self.history = policy.decide(
            told, self.history, utc(now), self.loop, fleet, rows=rows, fresh=any(r.windows for r in reports)
        )
        self.maintenance += [{"at": iso(now), **msgspec.to_builtins(m)} for m in decision.maintenance]
        if decision.action == "retrain":
            self._retrain(decision, start, end, now, say)

    def _by_champion(self) -> dict[str, tuple[Champion, list[str]]]:
        found: dict[str, tuple[Champion, list[str]]] = {}
        for site in self.world.fleet.sites:
            champion = self.scoped.get(site.name, self.champion)
            found.setdefault(champion.name, (champion, []))[1].append(site.name)
        return found

    def _assessed(
        self,
        shared: dict[Any, tuple[Report, State]],
        champion: Champion,
        here: list[str],
        windows: list[Window],
        period: int,
    ) -> tuple[Report, State]:
        """The report; policies that asked the same of the same state share it."""
        before = self.states.get(champion.name)
        key = (champion.name, tuple(here), id(before), self.drift_key)
        if key not in shared:
            limits: Limits = drift_limits(self.loop, self.world.fleet, here, period)
            shared[key] = assess(champion.reference, windows, before, limits)
        return shared[key]

    def _cover(self, reports: Sequence[Report]) -> None:
        """The promise is as long as the shortest that any reference can carry."""
        for report in reports:
            found = report.coverage
            if not self.covered or found.kept < self.covered["kept"]:
                self.covered = {"asked": found.asked, "kept": found.kept, "held": found.held, "why": found.why}

    def _ring(self, findings: Sequence[policy.Finding], now: int) -> None:
        """Alarms: when something begins, spreads to further sites, or reaches a wider scope."""
        by_key: dict[tuple[str, ...], list[policy.Finding]] = {}
        for f in findings:
            by_key.setdefault(("statistical",) if f.statistical else (f.kind, *f.features), []).append(f)
        for key in [k for k in self._open if k not in by_key]:
            del self._open[key]
        for key, found in by_key.items():
            sites = {s for f in found for s in f.sites}
            rank = max(SCOPES.index(f.scope) for f in found)
            known = self._open.get(key)
            if known is not None and rank <= known[0] and (sites <= known[1] or rank == len(SCOPES) - 1):
                continue
            self._open[key] = (rank, sites | (known[1] if known else set()))
            self.alarms.append(
                {
                    "at": iso(now),
                    "kind": key[0],
                    "scope": SCOPES[rank],
                    "sites": sorted(sites),
                    "features": list(dict.fromkeys(x for f in found for x in f.features)),
                    "reason": "; ".join(f.reason for f in found),
                    "kinds": list(dict.fromkeys(f.kind for f in found)),
                    "onset": known is None,
                }
            )

    def _retrain(self, decision: policy.Decision, start: int, end: int, now: int, say: Say) -> None:
        """What follows a decision to retrain: a new model where models are made, else a new reference."""
        world = self.world
        self.history = msgspec.structs.replace(self.history, ended=utc(now))
        told: dict[str, Any] = {"at": iso(now), "scope": decision.scope, "reason": decision.reason}
        self.retrains.append(told)
        sites = list(decision.sites) if decision.sites is not None else None
        before = self.scoped.get(sites[0], self.champion) if sites else self.champion
        name = f"{start}-{end}-{decision.scope.replace(':', '-')}"
        say(f"{iso(now)[:10]} {'retraining' if world.retrain else 'would retrain'} for {decision.scope}")
        try:
            made = world.champion(name, start, end, sites)
        except (Refused, Misconfigured, JobFailed) as problem:
            told |= {"outcome": "failed", "verdict": str(problem)}
            return
        if world.retrain:
            verdict = world.gate(self.loop, before, made, now)
            told |= {"outcome": verdict.outcome, "verdict": verdict.reason, "candidate": made.digest}
            if not verdict.passed:
                return
        concerned = [s.name for s in world.fleet.sites] if sites is None else sites
        if sites is None:
            self.champion, self.scoped = made, {}
        else:
            self.scoped |= dict.fromkeys(sites, made)
        self.states.pop(name, None)
        later = (world.live.at >= now) & np.isin(world.live.site.astype(str), concerned)
        self.serving[later] = made.score[later]

    def result(self) -> dict[str, Any]:
        """As `driftloop backtest --json` prints it."""
        return {
            "windows": self.windows,
            "alarms": self.alarms,
            "maintenance": self.maintenance,
            "retrains": self.retrains,
            "covered": self.covered,
            "performance": self._performance(),
        }

    def _performance(self) -> dict[str, Any]:
        """By month, on the rows whose label came: the first model left alone, and beside it the loop where it made
        models. `gain` is the loop's over both, on all rows, with its interval."""
        from jobs.evaluate import finite
        from jobs.metrics import METRICS as MEASURES
        from jobs.review import months

        world, loop = self.world, self.loop
        metric = loop.gates.metric or METRICS[loop.task][0]
        first, live = world.begin().score, world.live
        told = np.isfinite(live.label) & np.isfinite(first)
        scores = {"static": first, "loop": self.serving} if world.retrain else {"static": first}
        made: dict[str, Any] = {"metric": metric, "rows": {}} | {name: {} for name in scores}
        for month, of in months(live.at):
            on = of & told
            if on.sum() < FEW:
                continue
            made["rows"][month] = int(on.sum())
            for name, score in scores.items():
                made[name][month] = MEASURES[metric](live.label[on], score[on])[0]
        if world.retrain:
            found = world.compared(first, self.serving, told, loop)
            made["gain"] = {"mean": found.gain, "low": found.gain_low, "high": found.gain_high, "rows": found.rows}
        return finite(made)


def look_back(
    world: World, policies: Sequence[tuple[Mapping[str, Any], Loop]], tick: Callable[[int], None], say: Say
) -> list[Hindsight]:
    """All policies over all periods, in one pass. `tick` is called with each period's start."""
    first = world.begin()
    looking = [Hindsight(world, loop, named, first) for named, loop in policies]
    for period in world.periods:
        shared: dict[Any, tuple[Report, State]] = {}
        for one in looking:
            one.check(period, shared, say)
        tick(period)
    return looking


def utc(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC)
