"""What windows say against a reference: numbers, evidence, findings, and a reason for each in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, reduce
from itertools import accumulate
from operator import add
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from drift import performance
from drift.bins import EXTRA, UNSEEN
from drift.compare import measure
from drift.detectors import ENDS, RECENT, State, detector, named
from drift.performance import Outcomes
from drift.reference import Reference
from drift.sketch import OtherReference
from drift.streams import LEAST_ROWS, WEEK, Layout, model
from drift.telemetry import LEAST_PERIODS
from drift.windows import Window

Kind = Literal[
    "feature", "prediction", "label", "performance", "missing", "range", "unseen", "type", "schema", "silence"
]
Scope = Literal["site", "cohort", "fleet"]
Asked = Literal["quality", "feature", "prediction", "label", "realised", "estimated", "multivariate"]

KINDS: tuple[Kind, ...] = ("feature", "prediction", "label", "performance")
"""Kinds under the false-alarm promise; all others are rules, counted apart."""

_SMALL_FLEET = 8
_SPENT = 10
"""Calibration periods that levels and variances take: only those after them carry a promise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What counts as drift: loop.yaml's Drift, Quality and Quorum, in plain numbers.

    At most `false_alarms` in `per_seconds`, over the whole fleet and all statistical kinds. `missing`, `range` and
    `unseen` are shares of a window's rows (missing: above the reference's own), `refused` of rows that could not be
    read. `cohorts` maps every site that serves the candidate to its cohort. `until`: UTC seconds up to which
    telemetry should be complete, for silence; 0: the end of the newest window.
    """

    false_alarms: int = 1
    per_seconds: float = 90 * 86_400.0
    window_seconds: int = 86_400
    minimum_rows: int = 50
    missing: float = 0.2
    range: float = 0.02
    unseen: float = 0.02
    refused: float = 0.02
    quality_rows: int = 50
    silence_seconds: int = 172_800
    cohort_quorum: float = 0.5
    fleet_quorum: float = 0.5
    cohorts: Mapping[str, str] = field(default_factory=dict)
    until: int = 0

    @property
    def evidence(self) -> float:
        """What the evidence must reach for an alarm: windows between two false alarms, at least 2."""
        return max(self.per_seconds / self.window_seconds / self.false_alarms, 2.0)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that has moved, and where. `value` is held against `limit`; `statistical` ones are under the promise.

    `sites` are those that moved, `features` what moved there, strongest first ("score" for the prediction); `cohorts`
    names the cohorts of a cohort's scope. `covered` is False for an alarm of a reference that promises nothing.
    """

    kind: Kind
    statistical: bool
    scope: Scope
    sites: tuple[str, ...]
    features: tuple[str, ...]
    value: float
    limit: float
    reason: str
    cohorts: tuple[str, ...] = ()
    covered: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one question. `drifted` is None where there is nothing to judge by, or it was not asked."""

    kind: Asked
    drifted: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class Performance:
    """How the model did at a site: `realised` from labels, `expected` from the reference, `estimated` without labels
    (NaN where unknown). `metric` is auc, or rmse for a regression; `log_loss` is NaN for the latter."""

    site: str
    metric: str
    labels: int
    realised: float
    expected: float
    estimated: float
    log_loss: float
    label_mean: float


@dataclass(frozen=True, slots=True)
class Coverage:
    """Whether the promise holds: windows between false alarms `asked` for, and what the calibration can carry."""

    asked: float
    kept: float
    why: str

    @property
    def held(self) -> bool:
        return self.kept >= self.asked


@dataclass(frozen=True, slots=True)
class Heatmap:
    """Distances [sites, features] of the windows from each site's own reference rows; NaN where rows were too few.

    `values` by name: ks and wasserstein on all bins; psi, js, chi2, hellinger and tv on at most 16 groups of them.
    Beside ks the most that it can be for the values themselves (ks_bound), beside psi what chance adds (psi_bias).
    """

    sites: tuple[str, ...]
    features: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. `start` and `end` are UTC seconds of the windows assessed; `evidence` is held against
    `limit`; `verdicts` answer every kind of question, each with its reason."""

    start: int
    end: int
    windows: int
    rows: int
    sites: tuple[str, ...]
    findings: tuple[Finding, ...]
    evidence: float
    limit: float
    coverage: Coverage
    distances: Heatmap
    performance: tuple[Performance, ...]
    reason: str
    verdicts: tuple[Verdict, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; NaN as None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def assess(
    reference: Reference, windows: Sequence[Window], state: State | None, limits: Limits
) -> tuple[Report, State]:
    """What the windows not yet assessed, of all sites that serve a candidate, say against its reference, and the
    state for the next check. The order of `windows` does not matter; deltas of one window are added first.

    Raises OtherReference where windows or state were made against another reference.
    """
    whole = _merged(reference, windows)
    if state is not None and state.reference != reference.version:
        raise OtherReference(reference.version, state.reference)
    before = state if state is not None else State.new(reference)
    after = before.joined([*limits.cohorts, *(w.site for w in whole)])
    groups, heatmap = _measured(reference, whole, limits)
    for period in sorted({w.start for w in whole}):
        index = [i for i, w in enumerate(whole) if w.start == period]
        after = _step(reference, [whole[i] for i in index], groups[index], after, limits)
    by_site: dict[str, list[Window]] = defaultdict(list)
    for w in whole:
        by_site[w.site].append(w)
    after = _seen(after, whole)
    limit = limits.evidence
    after, evidence, weights = detector(reference).judged(after, limit)
    value = float((evidence * weights).sum())
    coverage = _coverage(reference, limits)
    drifted = _statistical(reference, after, evidence, weights, coverage, limits) if after.alarm else ()
    findings = (*drifted, *_quality(reference, by_site, limits), *_silent(after, whole, limits))
    report = Report(
        min((w.start for w in whole), default=0),
        max((w.end for w in whole), default=0),
        len(whole),
        sum(w.rows for w in whole),
        tuple(sorted(by_site)),
        findings,
        value,
        limit,
        coverage,
        heatmap,
        _performance(reference, by_site),
        _reason(findings, value, limit, whole, coverage),
        _verdicts(reference, by_site, findings, evidence * weights, limits),
    )
    return report, after


def _merged(reference: Reference, windows: Sequence[Window]) -> list[Window]:
    whole: dict[tuple[str, int], Window] = {}
    for w in windows:
        if w.sketch.reference != reference.version:
            raise OtherReference(reference.version, w.sketch.reference)
        key = (w.site, w.start)
        whole[key] = whole[key] + w if key in whole else w
    return [whole[k] for k in sorted(whole)]


def _step(
    reference: Reference, windows: Sequence[Window], groups: NDArray[np.float32], state: State, limits: Limits
) -> State:
    m = model(reference)
    sites = [w.site for w in windows]
    outcomes = [w.outcomes for w in windows]
    labels = m.by_group(np.array([o.counts for o in outcomes]))
    sums = m.sums(groups, labels, np.array([o.sums for o in outcomes], np.float64))
    period = windows[0].start // reference.seconds
    scores, memory = m.scores(sums, sites, period)
    few = np.array([w.rows < limits.minimum_rows for w in windows])
    scores[few, :-3] = np.nan
    few = np.array([o.labels < limits.minimum_rows for o in outcomes])
    scores[few, -3:] = np.nan
    return detector(reference).step(state, sites, (scores, memory), period, limits.evidence)


def _seen(state: State, windows: Sequence[Window]) -> State:
    seen = dict(zip(state.sites, state.seen, strict=True))
    for w in windows:
        if w.rows:
            seen[w.site] = max(seen[w.site], w.end)
    until = max([state.until, *(w.end for w in windows)])
    return replace(state, seen=tuple(seen[s] for s in state.sites), until=until)


def _statistical(
    reference: Reference, state: State, evidence: Any, weights: Any, coverage: Coverage, limits: Limits
) -> tuple[Finding, ...]:
    """One finding per kind: what moved, and at which sites."""
    layout = model(reference).layout
    limit, value = limits.evidence, float((evidence * weights).sum())
    promise = f"one false alarm in {limit:.0f} windows" if coverage.held else f"not covered: {coverage.why}"
    hit = named(evidence, weights, limit)
    made = []
    for k, kind in enumerate(KINDS):
        mine = hit & (layout.kinds == k)
        if not mine.any():
            continue
        sites = _moved(state, mine, evidence * weights, layout)
        streams = np.flatnonzero(mine.any(axis=0))
        strength = (evidence * weights)[:, streams].sum(axis=0)
        ranked = [int(streams[i]) for i in np.argsort(-strength, kind="stable")]
        columns = [layout.column(s) for s in ranked]
        features = tuple(dict.fromkeys(reference.names[c] for c in columns if c >= 0))
        aspects = tuple(dict.fromkeys(layout.aspect(s) for s in ranked))
        scope, cohorts = _scope(sites, state.sites, limits)
        what = ", ".join(features[:5]) or kind
        reason = (
            f"{kind} drift in {what} ({', '.join(aspects)}) at {_places(scope, sites, cohorts, state.sites)}: "
            f"{_held(value, limit)} ({promise})"
        )
        covered = coverage.kept > 0
        made.append(Finding(kind, True, scope, sites, features, value, limit, reason, cohorts, covered))
    return tuple(made)


def _held(value: float, limit: float) -> str:
    """An alarm's evidence against its limit; an alarm that has begun lasts until half of it.

    >>> _held(7.5, 12.9)
    'evidence 7.5, alarm since it passed 12.9 (ends below 6.45)'
    """
    if value >= limit:
        return f"evidence {value:.3g} >= {limit:.3g}"
    return f"evidence {value:.3g}, alarm since it passed {limit:.3g} (ends below {limit * ENDS:.3g})"


def _moved(state: State, hit: NDArray[np.bool_], part: NDArray[np.float64], layout: Layout) -> tuple[str, ...]:
    """The sites that moved, at least one: named by their own evidence; and where the fleet's mean says more than they
    do, those that lean its way. Of many sites half lean either way by chance, so as many are taken off as lean
    against, and as many again as chance alone may add; where that leaves none, the one that leans most."""
    leaning = state.scores[RECENT, 1:] * np.where(state.scores[RECENT, 0] < 0, -1, 1)
    moved = set(np.flatnonzero(hit[1:].any(axis=1)).tolist())
    columns = np.array([layout.column(s) for s in range(layout.streams)])
    for stream in np.flatnonzero(hit[0]).tolist():
        same = columns == columns[stream]
        if (part[1:, same] * hit[1:, same]).sum() > part[0, same].sum():
            continue
        recent = leaning[:, stream]
        order = np.argsort(-recent, kind="stable")
        if len(recent) >= _SMALL_FLEET:
            count = np.count_nonzero(recent > 0) - np.count_nonzero(recent < 0) - np.sqrt(len(recent))
            moved.update(order[: max(int(count), 0)].tolist())
        else:
            moved.update(order[recent[order] >= max(recent.max() / 2, 1)].tolist())
    if not moved:
        moved.add(int(leaning[:, np.where(hit[0], part[0], -1.0).argmax()].argmax()))
    return tuple(sorted(state.sites[i] for i in moved))


def _scope(moved: Sequence[str], sites: Sequence[str], limits: Limits) -> tuple[Scope, tuple[str, ...]]:
    """How far it reaches, by quorum: of the fleet's sites, or of every cohort that has moved sites in it."""
    if len(moved) >= max(limits.fleet_quorum * len(sites), 1) and (len(moved) > 1 or len(sites) == 1):
        return "fleet", ()
    cohort = {s: limits.cohorts.get(s, "default") for s in sites}
    size, hit = Counter(cohort.values()), Counter(cohort[s] for s in moved)
    reached = tuple(sorted(c for c in hit if hit[c] > 1 and hit[c] >= limits.cohort_quorum * size[c]))
    if reached and sum(hit[c] for c in reached) == len(moved):
        return "cohort", reached
    return "site", ()


def _places(scope: Scope, moved: Sequence[str], cohorts: Sequence[str], sites: Sequence[str]) -> str:
    if scope == "fleet":
        return f"{len(moved)} of {len(sites)} sites (fleet)"
    if scope == "cohort":
        return f"{len(moved)} sites of {', '.join(cohorts)}"
    return ", ".join(moved[:5]) + (f" and {len(moved) - 5} more" if len(moved) > 5 else "")


def _quality(reference: Reference, by_site: Mapping[str, list[Window]], limits: Limits) -> list[Finding]:
    """The deterministic rules, over all rows of a site in this check."""
    enough = [s for s in sorted(by_site) if sum(w.rows for w in by_site[s]) >= limits.quality_rows]
    made: list[Finding] = []
    if enough:
        counts = np.array([_total(by_site[s])[:, UNSEEN:] for s in enough])
        outside = np.array([sum(w.outside for w in by_site[s]) for s in enough])
        rows = np.array([sum(w.rows for w in by_site[s]) for s in enough])[:, None]
        ordinary = _usually_missing(reference, enough)
        rules: tuple[tuple[Kind, Any, float, str], ...] = (
            ("missing", counts[:, :, 1] / rows - ordinary, limits.missing, "more missing than in training"),
            ("range", outside / rows, limits.range, "out of the plausible range"),
            ("unseen", counts[:, :, 0] / rows, limits.unseen, "in categories that training never saw"),
        )
        for kind, share, limit, words in rules:
            made += _broken(kind, share, limit, words, enough, reference.names, by_site, limits)
    made += _refused(by_site, limits)
    return made


def _broken(
    kind: Kind,
    share: NDArray[np.float64],
    limit: float,
    words: str,
    sites: Sequence[str],
    names: Sequence[str],
    by_site: Mapping[str, list[Window]],
    limits: Limits,
) -> Iterable[Finding]:
    for column in np.flatnonzero((share > limit).any(axis=0)).tolist():
        index = np.flatnonzero(share[:, column] > limit)
        moved = tuple(sites[i] for i in index.tolist())
        worst = float(share[index, column].max())
        scope, cohorts = _scope(moved, sorted(by_site), limits)
        where = _places(scope, moved, cohorts, sorted(by_site))
        reason = f"{names[column]}: {worst:.1%} of rows {words} at {where} (limit {limit:.1%})"
        yield Finding(kind, False, scope, moved, (names[column],), worst, limit, reason, cohorts)


def _refused(by_site: Mapping[str, list[Window]], limits: Limits) -> Iterable[Finding]:
    refused: dict[str, dict[str, float]] = defaultdict(dict)
    schemas: dict[str, dict[str, int]] = defaultdict(dict)
    told = {s: windows for s, windows in by_site.items() if any(w.refused or w.schemas for w in windows)}
    for site, windows in sorted(told.items()):
        rows = sum(w.rows for w in windows)
        for name, n in sum((Counter(w.refused) for w in windows), Counter()).items():
            if n / (rows + n) > limits.refused and rows + n >= limits.quality_rows:
                refused[name][site] = n / (rows + n)
        for version, n in sum((Counter(w.schemas) for w in windows), Counter()).items():
            schemas[version][site] = n
    for name, found in sorted(refused.items()):
        sites, worst = tuple(found), max(found.values())
        scope, cohorts = _scope(sites, sorted(by_site), limits)
        where = _places(scope, sites, cohorts, sorted(by_site))
        reason = f"{name}: {worst:.1%} of rows could not be read at {where} (limit {limits.refused:.1%})"
        yield Finding("type", False, scope, sites, (name,), worst, limits.refused, reason, cohorts)
    for version, counted in sorted(schemas.items()):
        sites, rows = tuple(counted), sum(counted.values())
        scope, cohorts = _scope(sites, sorted(by_site), limits)
        where = _places(scope, sites, cohorts, sorted(by_site))
        reason = f"{rows} rows of schema {version!r} at {where}, not the reference's"
        yield Finding("schema", False, scope, sites, (), float(rows), 0.0, reason, cohorts)


def _silent(state: State, windows: Sequence[Window], limits: Limits) -> Iterable[Finding]:
    """Sites of the fleet whose newest window is too old; a site never heard of is silent since the first window."""
    until = limits.until or state.until
    seen = dict(zip(state.sites, state.seen, strict=True))
    first = min([s for s in (*state.seen, *(w.start for w in windows)) if s > 0], default=until)
    quiet = {s: until - (seen.get(s) or first) for s in limits.cohorts}
    quiet = {s: gap for s, gap in quiet.items() if gap >= limits.silence_seconds > 0}
    if quiet:
        sites, longest = tuple(sorted(quiet)), max(quiet.values())
        scope, cohorts = _scope(sites, sorted(limits.cohorts), limits)
        where = _places(scope, sites, cohorts, sorted(limits.cohorts))
        reason = f"nothing heard for {longest / 86_400:.1f} days from {where}"
        value, limit = float(longest), float(limits.silence_seconds)
        yield Finding("silence", False, scope, sites, (), value, limit, reason, cohorts)


def _usually_missing(reference: Reference, sites: Sequence[str]) -> NDArray[np.float64]:
    """The share of missing values in each site's reference rows, [sites, C]."""
    m = model(reference)
    index = np.array([m.index.get(s, len(m.index)) for s in sites])
    missing = np.concatenate((m.groups[:, :, -1], m.groups[:, :, -1].sum(axis=0)[None]))[index]
    rows = np.concatenate((m.groups[:, 0].sum(axis=1), [m.groups[:, 0].sum()]))[index]
    return np.asarray(missing / np.maximum(rows, 1)[:, None])


def _measured(reference: Reference, windows: Sequence[Window], limits: Limits) -> tuple[NDArray[np.float32], Heatmap]:
    """(counts by group of every window [n, C, GROUPS], the distances of every site's windows together)."""
    rows = Counter[str]()
    for w in windows:
        rows[w.site] += w.rows
    number = Counter(w.site for w in windows)
    known = {s: i for i, s in enumerate(reference.sites)}
    held = np.array([known.get(s, len(known)) for s in rows], np.intp)
    groups, found = measure([w.sketch.counts for w in windows], list(accumulate(number.values())), held, reference)
    few = np.array([n < limits.minimum_rows for n in rows.values()], np.bool_)
    values = {name: np.where(few[:, None], np.nan, v.astype(np.float64)) for name, v in found.items()}
    return groups, Heatmap(tuple(rows), reference.names, values)


def _total(windows: Sequence[Window]) -> NDArray[np.int64]:
    counts = windows[0].sketch.counts
    for w in windows[1:]:
        counts = counts + w.sketch.counts
    return counts


@lru_cache(maxsize=8)
def _expected(reference: Reference) -> dict[str, float]:
    """How the model does on each site's own reference rows; by "" on those of all."""
    known = dict(zip(("", *reference.sites), (reference.expected, *reference.outcomes), strict=True))
    return dict(zip(known, _realised(reference, list(known.values())).tolist(), strict=True))


def _realised(reference: Reference, outcomes: Sequence[Outcomes]) -> NDArray[np.float64]:
    if reference.schema.task == "binary":
        return performance.auc(np.array([o.counts for o in outcomes])[:, :-EXTRA])
    return np.array([performance.rmse(o, reference.unit) for o in outcomes])


def _performance(reference: Reference, by_site: Mapping[str, list[Window]]) -> tuple[Performance, ...]:
    if not by_site:
        return ()
    task, unit = reference.schema.task, reference.unit
    metric, sites = ("auc" if task == "binary" else "rmse"), sorted(by_site)
    now = [reduce(add, (w.outcomes for w in by_site[s])) for s in sites]
    realised, expected = _realised(reference, now), _expected(reference)
    estimated = reference.estimated(np.array([_total(by_site[s])[-1] for s in sites]))
    return tuple(
        Performance(
            site,
            metric,
            o.labels,
            float(realised[i]),
            expected.get(site, expected[""]),
            float(estimated[i]),
            performance.log_loss(o) if task == "binary" else float("nan"),
            performance.label_mean(o, task, unit),
        )
        for i, (site, o) in enumerate(zip(sites, now, strict=True))
    )


def _coverage(reference: Reference, limits: Limits) -> Coverage:
    """What the calibration can carry, as simulations showed it (docs/drift.md): 25 windows between false alarms for
    each calibration period after the tenth, far fewer where a period resembles the one before, nothing below 14."""
    m, link = model(reference), detector(reference).resemblance
    each = 25.0 * ((1 - link) / (1 + link)) ** 3
    days = m.days_of_evidence
    kept = each * (days - _SPENT) if days >= LEAST_PERIODS else 0.0
    carried = f"one false alarm in {kept:.0f} windows" if kept else "no promise"
    needed = max(LEAST_PERIODS, _SPENT + int(np.ceil(limits.evidence / each)))
    more = f", {needed} would carry one in {limits.evidence:.0f}" if kept < limits.evidence else ""
    thin = "" if days == m.days else f" of {m.days} ({LEAST_ROWS:.0f} rows of a site in one window are the least)"
    why = [f"{days} calibration periods{thin} carry {carried}{more}"]
    if link > 0:
        why.append(f"a period resembles the one before (correlation {link:.2f})")
    if m.phases == 1 and limits.window_seconds < WEEK:
        why.append("the season of the week is not covered: not every place in it was seen four times")
    return Coverage(limits.evidence, min(limits.evidence, kept), "; ".join(why))


def _reason(
    findings: Sequence[Finding], value: float, limit: float, windows: Sequence[Window], coverage: Coverage
) -> str:
    if findings:
        return "; ".join(f.reason for f in findings)
    if not windows:
        return "no windows to assess"
    promise = "" if coverage.held else f"; promise not covered: {coverage.why}"
    return f"no drift: evidence {value:.3g} < {limit:.3g} in {len(windows)} windows{promise}"


def _verdicts(
    reference: Reference,
    by_site: Mapping[str, list[Window]],
    findings: Sequence[Finding],
    evidence: NDArray[np.float64],
    limits: Limits,
) -> tuple[Verdict, ...]:
    """One verdict for each question; `evidence` [rows, streams] is weighted."""
    windows = [w for of_site in by_site.values() for w in of_site]
    rows, labels = sum(w.rows for w in windows), sum(w.outcomes.labels for w in windows)
    rules = [f.reason for f in findings if not f.statistical]
    verdicts = [Verdict("quality", bool(rules), "; ".join(rules) or f"{rows:,} rows, and no rule broken")]
    of_kind = model(reference).layout.kinds
    for k, (kind, asked) in enumerate(_ASKED.items()):
        found = "; ".join(f.reason for f in findings if f.kind == kind)
        needs, held = ("labels", labels) if asked in ("label", "realised") else ("rows", rows)
        if not found and not model(reference).active[of_kind == k].any():
            verdicts.append(Verdict(asked, None, f"the reference has too few {needs} to judge by"))
        elif not found and not held:
            verdicts.append(Verdict(asked, None, f"no {needs} in these windows"))
        else:
            part = evidence[:, of_kind == k].sum()
            said = found or f"evidence {part:.3g} of the {limits.evidence:.3g} that all kinds share"
            how = f"; {_realised_in_words(reference, windows)}" if asked == "realised" and labels else ""
            verdicts.append(Verdict(asked, bool(found), said + how))
    moved = any(f.kind == "prediction" for f in findings)
    verdicts.append(_estimate(reference, windows, moved))
    verdicts.append(Verdict("multivariate", None, "not asked: a drift report, or `driftloop assess --multivariate`"))
    return tuple(verdicts)


_ASKED: Mapping[Kind, Asked] = {
    "feature": "feature",
    "prediction": "prediction",
    "label": "label",
    "performance": "realised",
}


def _realised_in_words(reference: Reference, windows: Sequence[Window]) -> str:
    whole = reduce(add, (w.outcomes for w in windows))
    found = float(_realised(reference, [whole])[0])
    metric = "auc" if reference.schema.task == "binary" else "rmse"
    return f"{metric} {found:.3f} on {whole.labels:,} labels, {_expected(reference)['']:.3f} in the reference"


def _estimate(reference: Reference, windows: Sequence[Window], moved: bool) -> Verdict:
    """Performance without labels: it has moved where the scores have, and what they promise is less than it was."""
    then = float(reference.estimated(reference.pooled[-1]))
    if np.isnan(then) or not windows:
        return Verdict("estimated", None, "no calibration map: it needs a binary task and labels in the reference")
    now = float(reference.estimated(sum(w.sketch.counts[-1] for w in windows)))
    if np.isnan(now):
        return Verdict("estimated", None, "no scores in these windows")
    return Verdict("estimated", moved and now < then, f"auc {now:.3f} by the scores alone, {then:.3f} in the reference")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
