"""The fleet at a glance, and where one looks next: a site, a distribution, what happened, what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain, pairwise
from typing import Any, Literal
from urllib.parse import quote

from triggers import candidates, codec, loop, rollout, sites, views
from triggers.config import Fleet, Loop, Site, duration, rate
from triggers.errors import NotFound
from triggers.policy import Decision
from triggers.ports import Ports
from triggers.records import AuditEntry, Freeze, RolloutRow, SiteState, rollout_partition, site_partition
from triggers.run import Phase, Run
from triggers.views import Check, LoopView, RunView, Sentence, SiteView, View

Tone = Literal["good", "info", "warn", "bad", "neutral"]
_TONES: Mapping[str, Tone] = {
    "verified": "good",
    "restored": "good",
    "asked": "info",
    "applied": "info",
    "underway": "info",
    "deferred": "warn",
    "restoring": "warn",
    "failed": "bad",
    "stuck": "bad",
}


class Want(View, frozen=True, kw_only=True):
    """What wants a person: what is so, what to do about it, and where on the dashboard."""

    tone: Tone
    what: str
    do: str
    link: str


class Ring(View, frozen=True, kw_only=True):
    """How many sites of a ring or cohort there are, by tone."""

    name: str
    sites: int
    tones: dict[str, int]


class Cells(View, frozen=True, kw_only=True):
    """Every site of the fleet, in columns: `ring` and `cohort` index `rings` and `cohorts`, `word` indexes `words`."""

    name: list[str]
    ring: list[int]
    cohort: list[int]
    word: list[int]


class Word(View, frozen=True, kw_only=True):
    """How a site is, and how serious that is."""

    word: str
    tone: Tone


class Frozen(View, frozen=True, kw_only=True):
    """What is frozen: "all", a loop, or "loop/site"."""

    target: str
    by: str
    at: datetime
    reason: str


class Glance(View, frozen=True, kw_only=True):
    """A loop's whole fleet in one answer, small enough for thousands of sites. `noted`: entries of the audit trail."""

    now: datetime
    loop: LoopView
    wants: list[Want]
    rings: list[Ring]
    cohorts: list[Ring]
    words: list[Word]
    cells: Cells
    frozen: list[Frozen]
    decision: Decision | None
    noted: int
    waiting: list[RunView]
    quarantined: int


class WindowView(View, frozen=True, kw_only=True):
    """What one site sent of one period."""

    start: datetime
    candidate: str
    rows: int
    labels: int
    requests: int
    errors: int
    p95_ms: float


class Distance(View, frozen=True, kw_only=True):
    """How far one feature of a site was from its reference at the last check."""

    feature: str
    value: float | None


class Reached(View, frozen=True, kw_only=True):
    """How a run stands at a site."""

    run: str
    phase: Phase
    status: str
    reason: str
    at: datetime


class SiteDetail(View, frozen=True, kw_only=True):
    """One site: what it serves, when it may be changed, what it sent, what drifted, which runs reached it."""

    now: datetime
    loop: str
    site: SiteView
    executor: str
    timezone: str
    windows: list[str]
    opens: datetime | None
    blocked: str
    sent: list[WindowView]
    check: Check | None
    drift: list[Distance]
    runs: list[Reached]


class Sites(View, frozen=True, kw_only=True):
    """A page of a fleet's sites, in the order of fleet.yaml; `next` is the cursor of the one that follows."""

    now: datetime
    total: int
    sites: list[SiteView]
    next: str | None


class Period(View, frozen=True, kw_only=True):
    """The shares of a feature's bins in one window of a site."""

    start: datetime
    rows: int
    shares: list[float]


class Distribution(View, frozen=True, kw_only=True):
    """One feature at one site over time: the shares of `bins` in the reference, and in each window, oldest first."""

    now: datetime
    loop: str
    site: str
    feature: str
    kind: str
    unit: str
    candidate: str
    bins: list[str]
    reference: list[float]
    reference_rows: int
    windows: list[Period]


class Entry(Sentence, frozen=True, kw_only=True):
    """A sentence of the audit trail, with its number, what it is about and the hash that chains it."""

    seq: int
    subject: str
    hash: str


class Log(View, frozen=True, kw_only=True):
    """What happened to a loop, newest first, a page of it."""

    now: datetime
    loop: str
    entries: list[Entry]
    next: str | None


class Budget(View, frozen=True, kw_only=True):
    """How many retrainings there may be, how many began in that time, and when the next one may."""

    allowed: int
    period: str
    used: int
    free: datetime | None
    cooldown: str
    cooling: datetime | None
    enabled: bool


class Spent(View, frozen=True, kw_only=True):
    """What a run took, from its begin to the end of its training: `hours` by the loop's clock, `cost` by loop.yaml's
    price of an hour."""

    run: str
    phase: Phase
    started: datetime
    compute: str
    hours: float | None
    cost: float | None


class Costs(View, frozen=True, kw_only=True):
    """The retrain budget and what training took; prices are those of loop.yaml, None where it names none."""

    now: datetime
    loop: str
    budget: Budget
    cloud: float | None
    edge: float | None
    runs: list[Spent]
    hours: float
    cost: float | None


# --- the whole fleet


def glance(ports: Ports, name: str) -> Glance:
    """A loop's fleet. Raises NotFound."""
    config, fleet = ports.configs.loop(name), ports.configs.fleet(name)
    about, stopped = views.loop_view(ports, name), freezes(ports)
    waiting = [r for r in about.active if r.phase is Phase.AWAITING_APPROVAL]
    quarantined = sum(1 for _ in ports.store.scan(name, "quarantine/"))
    rings = list(rollout.rings(fleet, config.rollout))
    cohorts = list(dict.fromkeys(site.cohort for site in fleet.sites))
    at = [rollout.ring_of(site, rings) for site in fleet.sites]
    parts = [fleet.sites[i : i + _AT_ONCE] for i in range(0, len(fleet.sites), _AT_ONCE)]
    states = ports.together(lambda part: [sites.state_of(ports, name, site.name) for site in part], parts)
    seen = [
        (_word(ports, config, site, state, stopped), state)
        for site, state in zip(fleet.sites, chain.from_iterable(states), strict=True)
    ]
    words = list(dict.fromkeys(word for word, _ in seen))
    decided = views.decisions(ports, name, 1).decisions
    return Glance(
        now=ports.clock.now(),
        loop=about,
        wants=[*_wants(about, config, fleet, seen), *_quarantine_wants(about.name, quarantined)],
        rings=_counted(rings, at, seen),
        cohorts=_counted(cohorts, [s.cohort for s in fleet.sites], seen),
        words=[Word(word=word, tone=tone) for word, tone in words],
        cells=Cells(
            name=[s.name for s in fleet.sites],
            ring=_indexed(rings, at),
            cohort=_indexed(cohorts, [s.cohort for s in fleet.sites]),
            word=_indexed(words, [word for word, _ in seen]),
        ),
        frozen=[f for f in stopped.values() if f.target in ("all", name) or f.target.startswith(f"{name}/")],
        decision=decided[0] if decided else None,
        noted=loop.head(ports, name).audit,
        waiting=waiting,
        quarantined=quarantined,
    )


_AT_ONCE = 128
"""Sites whose states are read one after the other, where services are asked at the same time."""

_Seen = tuple[tuple[str, Tone], SiteState]


def _word(ports: Ports, config: Loop, site: Site, state: SiteState, stopped: Mapping[str, Frozen]) -> tuple[str, Tone]:
    """How a site is, the most serious first."""
    tone = _TONES.get(state.status, "neutral")
    if tone == "bad":
        return state.status, tone
    if _silent(ports, config, state):
        return "silent", "bad"
    if f"{config.loop}/{site.name}" in stopped:
        return "frozen", "warn"
    if not state.candidate:
        return "no model", "neutral"
    return state.status, tone


def _silent(ports: Ports, config: Loop, state: SiteState) -> bool:
    heard = state.observed_at
    return heard is not None and ports.clock.now() - heard > duration(config.telemetry.silence)


def _indexed(names: Sequence[Any], values: Iterable[Any]) -> list[int]:
    place = {name: i for i, name in enumerate(names)}
    return [place.get(value, 0) for value in values]


def _counted(names: Sequence[str], of: Sequence[str], seen: Sequence[_Seen]) -> list[Ring]:
    tones: dict[str, Counter[str]] = {name: Counter() for name in names}
    for name, ((_, tone), _) in zip(of, seen, strict=True):
        tones.setdefault(name, Counter())[tone] += 1
    return [Ring(name=name, sites=found.total(), tones=dict(found)) for name, found in tones.items() if found]


def freezes(ports: Ports) -> dict[str, Frozen]:
    """Everything that is frozen, by target."""
    found = ports.store.scan("driftloop", "freeze/")
    decoded = ((r.key.removeprefix("freeze/"), codec.decode(r.value, Freeze)) for r in found)
    return {target: Frozen(target=target, by=f.by, at=f.at, reason=f.reason) for target, f in decoded}


# --- what wants a person


def _wants(about: LoopView, config: Loop, fleet: Fleet, seen: Sequence[_Seen]) -> Iterator[Want]:
    for run in about.active:
        yield from _run_wants(run)
    by: dict[tuple[str, str], list[str]] = {}
    for site, ((word, tone), state) in zip(fleet.sites, seen, strict=True):
        if tone == "bad":
            by.setdefault((word, state.reason if word != "silent" else ""), []).append(site.name)
    for (word, reason), names in by.items():
        where = f"#/fleet/site/{quote(names[0], safe='')}" if len(names) == 1 else f"#/fleet?word={quote(word)}"
        who = f"{names[0]} is {word}" if len(names) == 1 else f"{len(names):,} sites are {word} ({_named(names)})"
        said = f"{who}: {reason}" if reason else who
        yield Want(tone="bad", what=said, do=_REMEDIES[word].format(config.telemetry.silence), link=where)
    if about.frozen:
        yield Want(
            tone="warn",
            what=f"Nothing new begins: {about.frozen}",
            do="Unfreeze it when what it was frozen for is over",
            link="#/fleet",
        )
    if not about.champion:
        yield Want(
            tone="info", what="No model yet", do="Bring a first champion: driftloop replay, or retrain", link="#/runs"
        )


_REMEDIES = {
    "silent": "Nothing heard for more than {}: see whether the site has power, network and a running program",
    "failed": "See what it said; it keeps its last known good, or take the rollout back",
    "stuck": "It could not go back: look at the site, then hand in a candidate that it can serve",
}


def _run_wants(run: RunView) -> Iterator[Want]:
    link = f"#/runs/{quote(run.id, safe='')}"
    if run.phase is Phase.AWAITING_APPROVAL:
        what, do = f"A new model waits for an answer: {run.verdict}", "Look at what is asked, then approve or reject"
        yield Want(tone="warn", what=what, do=do, link="#/approvals")
    elif run.phase is Phase.ROLLING_BACK:
        what = f"{run.id} is taking its sites back: {run.because}"
        yield Want(tone="bad", what=what, do="Watch that every site is back; nothing is asked of you", link=link)
    elif run.next.startswith("a person"):
        what = f"{run.id} is paused: it waits for {run.next}"
        yield Want(tone="warn", what=what, do="Resume the rollout, or take it back", link=link)


def _quarantine_wants(name: str, number: int) -> Iterator[Want]:
    if number:
        what = f"{number:,} {'batch' if number == 1 else 'batches'} in quarantine"
        do = "See why; replay those whose reason is mended"
        yield Want(tone="info", what=what, do=do, link="#/quarantine")


def _named(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


# --- sites


def page(ports: Ports, name: str, cursor: str = "", limit: int = 100) -> Sites:
    """Some sites of a fleet. Raises NotFound."""
    config, fleet = ports.configs.loop(name), ports.configs.fleet(name)
    first = next((i + 1 for i, s in enumerate(fleet.sites) if s.name == cursor), 0) if cursor else 0
    shown = fleet.sites[first : first + limit]
    revoked = candidates.all_revoked(ports, name)
    return Sites(
        now=ports.clock.now(),
        total=len(fleet.sites),
        sites=[views.site_view(ports, config, site, revoked) for site in shown],
        next=shown[-1].name if first + limit < len(fleet.sites) else None,
    )


_SENT = 14
"""Windows of a site that are shown."""
_LOOKED_AT = 10
"""Runs in whose lists a site is looked up."""


def site(ports: Ports, name: str, site_name: str) -> SiteDetail:
    """One site. Raises NotFound."""
    config, fleet = ports.configs.loop(name), ports.configs.fleet(name)
    of = _site(fleet, name, site_name)
    view = views.site_view(ports, config, of, candidates.all_revoked(ports, name))
    checks = views.drift(ports, name, 30).checks
    hold = rollout.Hold(fleet, config.rollout, lambda _: 0, lambda _: sites.frozen(ports, name, site_name))
    now = ports.clock.now()
    return SiteDetail(
        now=now,
        loop=name,
        site=view,
        executor=of.executor,
        timezone=of.timezone,
        windows=[f"{w.rrule or w.cron} for {w.duration}" for w in of.windows],
        opens=hold.start(of, now),
        blocked=hold.why(of, now),
        sent=_sent(ports, name, view),
        check=checks[-1] if checks else None,
        drift=_distances(ports, name, site_name, checks),
        runs=list(_reached(ports, name, site_name)),
    )


def _site(fleet: Fleet, name: str, site_name: str) -> Site:
    of = fleet.site(site_name)
    if of is None:
        raise NotFound(f"{name} has no site {site_name[:100]!r}")
    return of


def _windows(ports: Ports, name: str, site_name: str, candidate: str, since: datetime) -> Iterator[Any]:
    from drift.windows import Window

    prefix = f"window/{candidate}/"
    for record in ports.store.scan(site_partition(name, site_name), prefix, f"{prefix}{int(since.timestamp()):012}"):
        yield Window.from_bytes(record.value)


def _sent(ports: Ports, name: str, view: SiteView) -> list[WindowView]:
    since = ports.clock.now() - timedelta(days=60)
    found = [
        WindowView(
            start=datetime.fromtimestamp(w.start, since.tzinfo),
            candidate=candidate,
            rows=w.rows,
            labels=w.outcomes.labels,
            requests=w.serving.requests,
            errors=w.serving.errors,
            p95_ms=w.serving.p95_ms,
        )
        for candidate in {view.intent, view.observed, view.last_good} - {""}
        for w in _windows(ports, name, view.name, candidate, since)
    ]
    return sorted(found, key=lambda w: w.start, reverse=True)[:_SENT]


def _distances(ports: Ports, name: str, site_name: str, checks: Sequence[Check]) -> list[Distance]:
    if not checks:
        return []
    found = views.distances(ports, name, checks[-1].id, "psi", site_name)
    made = [Distance(feature=feature, value=value) for feature, value in found.items()]
    return sorted(made, key=lambda d: -1.0 if d.value is None else d.value, reverse=True)


def _reached(ports: Ports, name: str, site_name: str) -> Iterator[Reached]:
    for run in loop.runs(ports, name)[: -_LOOKED_AT - 1 : -1]:
        row = _listed(ports, run, site_name)
        if row is not None:
            yield Reached(run=run.id, phase=run.phase, status=row.status, reason=row.reason, at=row.at)


def _listed(ports: Ports, run: Run, site_name: str) -> RolloutRow | None:
    for wave in range(len(run.times)):
        record = ports.store.get(rollout_partition(run.id), f"{wave:04}/{site_name}")
        if record is not None:
            return codec.decode(record.value, RolloutRow)
    return None


# --- distributions

_BARS = 16


def distribution(ports: Ports, name: str, site_name: str, feature: str, days: int = 30) -> Distribution:
    """One feature at one site, window by window, against what its model was trained on there. Raises NotFound."""
    fleet = ports.configs.fleet(name)
    _site(fleet, name, site_name)
    state = sites.state_of(ports, name, site_name)
    candidate = state.observed or state.candidate or loop.head(ports, name).champion_of(site_name)
    if not candidate:
        raise NotFound(f"{site_name} serves no model that driftloop knows")
    known = candidates.reference(ports, candidate)
    if feature not in known.names:
        raise NotFound(f"the model at {site_name} has no feature {feature[:100]!r}")
    index = known.names.index(feature)
    column, pooled = known.columns[index], known.pooled[index]
    labels, group = bars(column, pooled)
    counts = known.counts[known.sites.index(site_name), index] if site_name in known.sites else pooled
    about = next((f for f in known.schema.features if f.name == feature), None)
    now = ports.clock.now()
    return Distribution(
        now=now,
        loop=name,
        site=site_name,
        feature=feature,
        kind=column.kind,
        unit=about.unit if about else "",
        candidate=candidate,
        bins=labels,
        reference=_shares(counts, group, len(labels)),
        reference_rows=int(counts.sum()),
        windows=[
            Period(
                start=datetime.fromtimestamp(w.start, now.tzinfo),
                rows=w.rows,
                shares=_shares(w.sketch.counts[index], group, len(labels)),
            )
            for w in _windows(ports, name, site_name, candidate, now - timedelta(days=days))
        ],
    )


def bars(column: Any, counts: Any) -> tuple[list[str], list[int]]:
    """A column's bins as at most 16 bars of about as many reference rows, and strangers and missing apart: their names,
    and the bar of each slot."""
    from drift.bins import EXTRA, MISSING, OTHER, UNSEEN

    width, labels, group = len(counts), [], [0] * len(counts)
    if column.kind == "number":
        labels = _ranges(column, counts, group)
    else:
        named = column.categories[: _BARS - 1]
        labels = list(named)
        for slot in range(len(column.categories)):
            group[slot] = min(slot, len(named))
        if len(column.categories) > len(named):
            labels.append("others")
    for slot, word in ((OTHER, "others"), (UNSEEN, "unseen"), (MISSING, "missing")):
        if word in labels:
            group[width + slot] = labels.index(word)
        elif word == "missing" or (column.kind == "category" and (word == "unseen" or counts[slot])):
            group[width + slot] = len(labels)
            labels.append(word)
    for slot in range(column.bins, width - EXTRA):
        group[slot] = 0  # slots that this column has no use for
    return labels, group


def _ranges(column: Any, counts: Any, group: list[int]) -> list[str]:
    """Neighbouring bins joined until each bar has its part of the reference."""
    each, held, starts = max(float(counts[: column.bins].sum()) / _BARS, 1.0), 0.0, [0]
    for slot in range(column.bins):
        if held >= each and slot < column.bins - 1 and len(starts) < _BARS:
            starts.append(slot)
            held = 0.0
        group[slot] = len(starts) - 1
        held += float(counts[slot])
    edges = [f"{e:.4g}" for e in column.edges]
    if len(starts) == 1:
        return ["all values"]
    inner = [f"{edges[a - 1]} to {edges[b - 1]}" for a, b in pairwise(starts[1:])]
    return [f"below {edges[starts[1] - 1]}", *inner, f"{edges[starts[-1] - 1]} and more"]


def _shares(counts: Any, group: Sequence[int], bars_: int) -> list[float]:
    import numpy as np

    found = np.bincount(group, weights=counts, minlength=bars_)
    return [round(float(v), 5) for v in found / max(float(found.sum()), 1.0)]


# --- what happened


def log(ports: Ports, name: str, cursor: str = "", limit: int = 50) -> Log:
    """The audit trail as sentences, newest first: those before `cursor`. Raises NotFound."""
    ports.configs.loop(name)
    end = int(cursor) if cursor.isdecimal() else loop.head(ports, name).audit + 1
    entries = list(_back(ports, name, end, limit))
    more = str(entries[-1].seq) if entries and entries[-1].seq > 1 else None
    return Log(now=ports.clock.now(), loop=name, entries=[_entry(e) for e in entries], next=more)


def _back(ports: Ports, name: str, end: int, limit: int) -> Iterator[AuditEntry]:
    """The `limit` entries before number `end`, newest first."""
    first = max(end - limit, 1)
    records = ports.store.scan(name, "audit/", f"audit/{first - 1:012}", max(end - first, 1))
    found = [codec.decode(r.value, AuditEntry) for r in records]
    yield from (e for e in reversed(found) if e.seq < end)


def _entry(entry: AuditEntry) -> Entry:
    told = views.sentence(entry)
    return Entry(
        at=told.at,
        kind=told.kind,
        actor=told.actor,
        text=told.text,
        seq=entry.seq,
        subject=entry.subject,
        hash=entry.hash,
    )


# --- what it costs


def costs(ports: Ports, name: str) -> Costs:
    """The retrain budget, and what trainings took. Raises NotFound."""
    config, now = ports.configs.loop(name), ports.clock.now()
    ended = _trained(ports, name)
    price = config.training.cost
    spent = [
        _spent(run, ended.get(run.id), price.edge if run.compute == "edge" else price.cloud)
        for run in loop.runs(ports, name)
    ]
    priced = [s.cost for s in spent if s.cost is not None]
    return Costs(
        now=now,
        loop=name,
        budget=_budget(ports, config),
        cloud=price.cloud,
        edge=price.edge,
        runs=spent[::-1],
        hours=round(sum(s.hours or 0.0 for s in spent), 3),
        cost=round(sum(priced), 2) if priced else None,
    )


_ENDS = ("event-trained", "event-job-failed", "event-cancelled")


def _trained(ports: Ports, name: str) -> dict[str, datetime]:
    """When the training of each run came to an end, by the audit trail."""
    found: dict[str, datetime] = {}
    for entry in loop.story(ports, name):
        if entry.kind in _ENDS:
            found.setdefault(entry.subject, entry.at)
    return found


def _spent(run: Run, end: datetime | None, price: float | None) -> Spent:
    hours = (end - run.started).total_seconds() / 3600 if end else None
    return Spent(
        run=run.id,
        phase=run.phase,
        started=run.started,
        compute=run.compute,
        hours=None if hours is None else round(hours, 3),
        cost=None if hours is None or price is None else round(hours * price, 2),
    )


def _budget(ports: Ports, config: Loop) -> Budget:
    number, period = rate(config.retrain.budget)
    history, now = loop.head(ports, config.loop).history, ports.clock.now()
    recent = [at for at in history.starts if at > now - period]
    cooling = history.ended + duration(config.retrain.cooldown) if history.ended else None
    return Budget(
        allowed=number,
        period=config.retrain.budget,
        used=len(recent),
        free=recent[-number] + period if len(recent) >= number else None,
        cooldown=config.retrain.cooldown,
        cooling=cooling if cooling and cooling > now else None,
        enabled=config.retrain.enabled,
    )
