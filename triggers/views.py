"""What an operator looks at: pure reading over the ports, in the shapes that the HTTP surface answers with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, TypeVar

import msgspec

from triggers import approval, candidates, codec, lifecycle, loop, policy, quota, rebuild, rollout, sites
from triggers import events as on
from triggers import quarantine as kept
from triggers.config import Approval, Fleet, Loop, Site, duration
from triggers.errors import Misconfigured, NotFound, Refused, Retry
from triggers.policy import Decision, Finding
from triggers.ports import Ports
from triggers.records import AuditEntry, Freeze, LoopUnit, Quarantined, RolloutRow, SiteState, loop_of, site_partition
from triggers.run import Phase, Run

T = TypeVar("T")

METRICS = ("psi", "js", "ks", "wasserstein", "chi2", "hellinger", "tv")
RECENT = timedelta(days=7)
_PAGE_BYTES = 4 << 20
_STAMP = "%Y-%m-%dT%H%M%S"


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Part of an answer."""


class WaveView(View, frozen=True, kw_only=True):
    """One wave of a run: which ring, how many sites, and when it was verified."""

    ring: str
    sites: int
    started: datetime | None = None
    verified: datetime | None = None
    deferred: int = 0


class RunView(View, frozen=True, kw_only=True):
    """One attempt to replace a model. `because` is why it is where it is, `cause` why it began."""

    id: str
    loop: str
    phase: Phase
    final: bool
    because: str
    cause: str
    scope: str
    started: datetime
    ended: datetime | None
    champion: str
    candidate: str
    rows: int
    outcome: str
    verdict: str
    approved_by: str
    wave: int
    waves: list[WaveView]
    next: str


class LoopView(View, frozen=True, kw_only=True):
    """A loop at a glance. `frozen`: why nothing new begins, or empty; `next`: what it waits for, in words."""

    name: str
    task: str
    champion: str
    sites: int
    active: list[RunView]
    frozen: str
    next: str


class Unreadable(View, frozen=True, kw_only=True):
    """A loop whose loop.yaml or fleet.yaml is wrong: nothing is done for it until it is put right."""

    name: str
    problem: str


class Loops(View, frozen=True, kw_only=True):
    """Every loop; `frozen_all`: why all are stopped, or empty."""

    now: datetime
    loops: list[LoopView]
    unreadable: list[Unreadable]
    frozen_all: str


class Recent(View, frozen=True, kw_only=True):
    """What was counted into windows in the last days."""

    days: int
    rows: int
    labels: int


class SiteView(View, frozen=True, kw_only=True):
    """What one site should serve (`intent`), what its newest telemetry says it serves (`observed`), and the way back.

    `requests`, `errors`, `p95_ms` (worst batch): since the last change there. `silent`: nothing heard for too long.
    `revoked`: who revoked what it serves, and why, or empty.
    """

    name: str
    ring: str
    cohort: str
    data: str
    intent: str
    observed: str
    status: str
    reason: str
    run: str
    heard: datetime | None
    silent: bool
    last_good: str
    requests: int
    errors: int
    p95_ms: float
    recent: Recent
    frozen: str
    revoked: str = ""


class Ring(View, frozen=True, kw_only=True):
    """Sites that are updated together, in the order in which rings are."""

    name: str
    sites: list[SiteView]


class Detector(View, frozen=True, kw_only=True):
    """What the last check of one candidate said: an alarm when `evidence` reaches `limit`."""

    at: datetime
    candidate: str
    evidence: float | None
    limit: float | None
    windows: int
    reason: str
    promise: str


class FleetView(View, frozen=True, kw_only=True):
    """One loop: its fleet by ring, its last decision and what its detectors say."""

    now: datetime
    loop: LoopView
    rings: list[Ring]
    decision: Decision | None
    detectors: list[Detector]
    waiting: list[RunView]
    quarantined: int


class Check(View, frozen=True, kw_only=True):
    """One check of one candidate, and what was found. `id` names it."""

    id: str
    at: datetime
    candidate: str
    evidence: float | None
    limit: float | None
    reason: str
    findings: list[Finding]


class DriftView(View, frozen=True, kw_only=True):
    """The checks of the last days, oldest first."""

    now: datetime
    loop: str
    metrics: list[str]
    checks: list[Check]


class HeatMap(Check, frozen=True, kw_only=True):
    """A check's distances `values` [sites][features] from each site's own reference (None: too few rows), the sites
    that moved most first. `typical`: the median of each feature over all sites; `total`: how many sites there are;
    `next`: the cursor of those that follow."""

    metric: str
    sites: list[str]
    features: list[str]
    values: list[list[float | None]]
    typical: list[float | None]
    total: int
    next: str | None


class SiteRow(View, frozen=True, kw_only=True):
    """How one site of a run's plan stands. `blocked`: what keeps it from being changed now, of a run that goes on."""

    site: str
    status: str
    reason: str
    at: datetime | None
    blocked: str = ""


class PlanWave(View, frozen=True, kw_only=True):
    """A wave with its sites. Before the answer: when it is expected to start and to be verified, the bytes, and what
    holds it back."""

    ring: str
    started: datetime | None
    verified: datetime | None
    sites: list[SiteRow]
    start: datetime | None = None
    end: datetime | None = None
    bytes: int = 0
    held: str = ""


class ApprovalView(approval.Request, frozen=True, kw_only=True):
    """What is asked of people, bound to three digests; who may answer now, how many have to approve, and the answer.
    `frozen`: why nobody's approval counts now, or empty."""

    approvers: list[str]
    groups: list[str]
    needed: int
    frozen: str
    link: str


class RunDetail(View, frozen=True, kw_only=True):
    """A run with everything that was decided about it. `evidence` is as the evaluation wrote it, `lineage` as the
    candidate's manifest says; `may`: what a person can ask of it now; `quota`: sites that Azure has no room for;
    `revoked`: who revoked its candidate, and why, or empty."""

    now: datetime
    run: RunView
    decision: Decision | None
    waves: list[PlanWave]
    limits: dict[str, Any]
    approval: ApprovalView | None
    evidence: dict[str, Any] | None
    lineage: dict[str, Any] | None
    reports: list[str]
    may: list[str]
    quota: list[str] = []
    revoked: str = ""


class Sentence(View, frozen=True, kw_only=True):
    """One thing that happened."""

    at: datetime
    kind: str
    actor: str
    text: str


class Anchor(View, frozen=True, kw_only=True):
    """Where the chain ended on some day, as it was kept apart from it."""

    day: str
    seq: int
    hash: str


class Audit(View, frozen=True, kw_only=True):
    """Links of the chain after `after`; `head` is the newest link's number and hash. `anchors`: only with its
    beginning."""

    loop: str
    anchors: list[Anchor]
    entries: list[AuditEntry]
    next: int | None
    head: int
    head_hash: str


class Stored(View, frozen=True, kw_only=True):
    """What the store says that the audit trail up to entry `head` says too: runs whole, as they are stored."""

    loop: str
    head: int
    champion: str
    scoped: dict[str, str]
    active: dict[str, str]
    runs: list[dict[str, Any]]
    revoked: list[str]


class Weighed(View, frozen=True, kw_only=True):
    """Decisions of checks, oldest first, a page of them. `kept`: what they were made of, their loop.yaml and fleet.yaml
    with it, as it was kept: JSON text by the digest of its bytes. `unreadable`: those that cannot be read."""

    loop: str
    decisions: list[Decision]
    kept: dict[str, str]
    unreadable: list[str]
    next: str | None


class Runs(View, frozen=True, kw_only=True):
    """Newest first, a page of them; `next` is the cursor of the one that follows."""

    now: datetime
    runs: list[RunView]
    next: str | None


class Decisions(View, frozen=True, kw_only=True):
    """Newest first, a page of them."""

    now: datetime
    decisions: list[Decision]
    next: str | None


class Held(Quarantined, frozen=True, kw_only=True):
    """One of them, with the id by which it is read or replayed."""

    id: str


class Quarantine(View, frozen=True, kw_only=True):
    """Newest first, a page of them: what was not counted, and why. `total` counts all."""

    now: datetime
    total: int
    quarantined: list[Held]
    next: str | None


# --- loops and fleets


def loops(ports: Ports) -> Loops:
    """Every loop at a glance; one that cannot be read hides none of the others."""
    found, unreadable = [], []
    for name in ports.configs.loops():
        try:
            found.append(loop_view(ports, name))
        except (Refused, Misconfigured) as e:
            unreadable.append(Unreadable(name=name, problem=str(e)))
    return Loops(now=ports.clock.now(), loops=found, unreadable=unreadable, frozen_all=_freeze(ports, "all"))


def loop_view(ports: Ports, name: str) -> LoopView:
    """Raises NotFound."""
    config, fleet, head = ports.configs.loop(name), ports.configs.fleet(name), loop.head(ports, name)
    active = [run_view(r) for r in loop.active_runs(ports, name)]
    frozen = sites.frozen(ports, name)
    return LoopView(
        name=name,
        task=config.task,
        champion=head.champion,
        sites=len(fleet.sites),
        active=active,
        frozen=frozen,
        next=active[0].next if active else _idle(ports, config, head.history.ended, head.champion),
    )


def fleet(ports: Ports, name: str) -> FleetView:
    """One loop's fleet. Raises NotFound."""
    config, of_loop = ports.configs.loop(name), ports.configs.fleet(name)
    about, latest = loop_view(ports, name), _last(decisions(ports, name, 1).decisions)
    return FleetView(
        now=ports.clock.now(),
        loop=about,
        rings=_rings(ports, config, of_loop),
        decision=latest,
        detectors=_detectors(ports, name, latest),
        waiting=[r for r in about.active if r.phase is Phase.AWAITING_APPROVAL],
        quarantined=sum(1 for _ in ports.store.scan(name, "quarantine/")),
    )


def _rings(ports: Ports, config: Loop, of_loop: Fleet) -> list[Ring]:
    revoked = candidates.all_revoked(ports, config.loop)
    views = [site_view(ports, config, site, revoked) for site in of_loop.sites]
    names = rollout.rings(of_loop, config.rollout)
    at = [rollout.ring_of(site, names) for site in of_loop.sites]
    by = {ring: [v for v, where in zip(views, at, strict=True) if where == ring] for ring in names}
    return [Ring(name=ring, sites=found) for ring, found in by.items() if found]


def site_view(ports: Ports, config: Loop, site: Site, revoked: Mapping[str, str]) -> SiteView:
    state = sites.state_of(ports, config.loop, site.name)
    health, heard = state.health, state.observed_at
    return SiteView(
        name=site.name,
        ring=site.ring,
        cohort=site.cohort,
        data=site.data,
        intent=state.candidate,
        observed=state.observed,
        status=state.status,
        reason=state.reason,
        run=state.run,
        heard=heard,
        silent=heard is not None and ports.clock.now() - heard > duration(config.telemetry.silence),
        last_good=state.last_good,
        requests=health.requests if health else 0,
        errors=health.errors if health else 0,
        p95_ms=health.p95_ms if health else 0.0,
        recent=_recent(ports, config.loop, site.name, state),
        frozen=_freeze(ports, f"{config.loop}/{site.name}"),
        revoked=revoked.get(state.observed or state.candidate, ""),
    )


def _recent(ports: Ports, name: str, site: str, state: SiteState) -> Recent:
    from drift.windows import Window

    rows = labels = 0
    since = int((ports.clock.now() - RECENT).timestamp())
    for candidate in {state.candidate, state.observed, state.last_good} - {""}:
        prefix = f"window/{candidate}/"
        for record in ports.store.scan(site_partition(name, site), prefix, f"{prefix}{since:012}"):
            window = Window.from_bytes(record.value)
            rows, labels = rows + window.rows, labels + window.outcomes.labels
    return Recent(days=RECENT.days, rows=rows, labels=labels)


def _freeze(ports: Ports, target: str) -> str:
    record = ports.store.get("driftloop", f"freeze/{target}")
    if record is None:
        return ""
    found = codec.decode(record.value, Freeze)
    return f"frozen by {found.by}: {found.reason}"


def _idle(ports: Ports, config: Loop, ended: datetime | None, champion: str) -> str:
    if not champion:
        return "a first champion: no site serves a model that driftloop knows"
    if ended is not None and (rest := ended + duration(config.retrain.cooldown)) > ports.clock.now():
        return f"the next drift check; no retraining before {_when(rest)} (cooldown)"
    return "the next drift check"


def _when(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


# --- drift


def drift(ports: Ports, name: str, days: int) -> DriftView:
    """The checks of the last `days` days. Raises NotFound."""
    ports.configs.loop(name)
    now = ports.clock.now()
    begin = f"{now - timedelta(days=days):{_STAMP}}"
    checks = [_check(blob, report, Check) for blob, report in _reports(ports, name, begin)]
    return DriftView(now=now, loop=name, metrics=list(METRICS), checks=checks)


def heat(ports: Ports, name: str, check: str, metric: str, cursor: str = "", limit: int = 100) -> HeatMap:
    """The distances of one check, a page of sites. Raises NotFound."""
    ports.configs.loop(name)
    report, found = _matrix(ports, name, check, metric)
    values = found.values
    worst = sorted(
        range(len(found.sites)), key=lambda i: (-max((v for v in values[i] if v is not None), default=-1), i)
    )
    first = int(cursor) if cursor.isdecimal() else 0
    shown = worst[first : first + limit]
    return _check(
        f"{check}.json",
        report,
        HeatMap,
        metric=metric,
        sites=[found.sites[i] for i in shown],
        features=found.features,
        values=[[_rounded(v) for v in values[i]] for i in shown],
        typical=[_median([row[f] for row in values]) for f in range(len(found.features))],
        total=len(worst),
        next=str(first + limit) if first + limit < len(worst) else None,
    )


def distances(ports: Ports, name: str, check: str, metric: str, site: str) -> dict[str, float | None]:
    """How far each feature of one site was, at a check. Raises NotFound."""
    _, found = _matrix(ports, name, check, metric)
    row = found.values[found.sites.index(site)] if site in found.sites else []
    return {feature: _rounded(value) for feature, value in zip(found.features, row, strict=False)}


_CHECK = re.compile(r"[0-9T-]{17}-[0-9a-f]{12}")
_Values = list[list[float | None]]


class _Distances(msgspec.Struct):
    sites: list[str]
    features: list[str]
    values: _Values


class _Summary(msgspec.Struct):
    """A stored report without its distances."""

    evidence: float | None
    limit: float | None
    reason: str
    windows: int
    coverage: dict[str, Any]
    findings: list[Finding]


def _matrix(ports: Ports, name: str, check: str, metric: str) -> tuple[_Summary, _Distances]:
    """One metric of a stored check; the others are passed over unread. An earlier version had fewer metrics."""
    if not _CHECK.fullmatch(check):
        raise NotFound(f"{name}: no check {check[:100]!r}")
    blob = f"reports/{name}/{check}.json"
    found = msgspec.json.decode(ports.blobs.get(blob), type=_of_metric(metric)).distances
    empty: _Values = [[None] * len(found.features)] * len(found.sites)
    values = getattr(found.values, metric) or empty
    return _decoded(ports, blob), _Distances(found.sites, found.features, values)


@cache
def _of_metric(metric: str) -> Any:
    values = msgspec.defstruct("Values", [(metric, _Values | None, None)])
    found = msgspec.defstruct("Found", [("sites", list[str]), ("features", list[str]), ("values", values)])
    return msgspec.defstruct("Report", [("distances", found)])


C = TypeVar("C", bound=Check)


def _reports(ports: Ports, name: str, after: str) -> Iterator[tuple[str, _Summary]]:
    """The checks since `after`, oldest first: where each is stored, and what it says."""
    prefix = f"reports/{name}/"
    for blob in sorted(b for b in ports.blobs.names(prefix) if b[len(prefix) :] >= after and b.endswith(".json")):
        yield blob, _decoded(ports, blob)


_KEPT = 512


def _decoded(ports: Ports, blob: str) -> _Summary:
    known: dict[str, _Summary] = ports.cache.setdefault("reports", {})  # each is written once: what was read stays true
    if blob not in known:
        while len(known) >= _KEPT:
            known.pop(next(iter(known)), None)
        known[blob] = msgspec.json.decode(ports.blobs.get(blob), type=_Summary)
    return known[blob]


def _check(blob: str, report: _Summary, kind: type[C], **more: Any) -> C:
    name = blob.rpartition("/")[2].removesuffix(".json")
    stamp, _, candidate = name.rpartition("-")
    return kind(
        id=name,
        at=_stamped(stamp),
        candidate=candidate,
        evidence=report.evidence,
        limit=report.limit,
        reason=report.reason,
        findings=report.findings,
        **more,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _median(values: Sequence[float | None]) -> float | None:
    known = sorted(v for v in values if v is not None)
    return _rounded(known[len(known) // 2]) if known else None


def _stamped(stamp: str) -> datetime:
    """
    >>> _stamped("2013-04-12T060000").isoformat()
    '2013-04-12T06:00:00+00:00'
    """
    return datetime.strptime(f"{stamp}+0000", f"{_STAMP}%z")


def _detectors(ports: Ports, name: str, latest: Decision | None) -> list[Detector]:
    if latest is None:
        return []
    return [
        Detector(
            at=latest.at,
            candidate=blob.removesuffix(".json").rpartition("-")[2],
            evidence=report.evidence,
            limit=report.limit,
            windows=report.windows,
            reason=report.reason,
            promise=report.coverage["why"],
        )
        for blob, report in _reports(ports, name, f"{latest.at:{_STAMP}}")
    ]


def decisions(ports: Ports, name: str, limit: int = 30, cursor: str = "") -> Decisions:
    """The last decisions of a loop, those before `cursor`. Raises NotFound; ValueError where it is no cursor."""
    ports.configs.loop(name)
    found = [codec.decode(r.value, Decision) for r in _tail(ports, name, limit + 1, cursor)]
    more = f"{found[limit - 1].at:{_STAMP}}" if len(found) > limit else None
    return Decisions(now=ports.clock.now(), decisions=found[:limit], next=more)


def weighed(ports: Ports, name: str, limit: int = 100, cursor: str = "") -> Weighed:
    """Decisions after the cursor, with what they were made of; fewer than `limit` where that is much. Raises NotFound;
    ValueError where it is no cursor."""
    ports.configs.loop(name)
    after = f"decision/{_stamped(cursor):{_STAMP}}" if cursor else ""
    found, kept, unreadable, size = list[Decision](), dict[str, str](), list[str](), 0
    for record in ports.store.scan(name, "decision/", after):
        if len(found) == limit or size > _PAGE_BYTES:
            return Weighed(loop=name, decisions=found, kept=kept, unreadable=unreadable, next=cursor)
        key = record.key.removeprefix("decision/")
        try:
            decision = codec.decode(record.value, Decision)
        except Refused as problem:
            unreadable.append(f"{key}: {problem}")
            continue
        if f"{decision.at:{_STAMP}}" != key:
            unreadable.append(f"{key}: it is of {decision.at:{_STAMP}}")
            continue
        cursor = key
        found.append(decision)
        more = _made_of(ports, decision.weighed, kept)
        size += len(record.value) + sum(map(len, more.values()))
        kept |= more
    return Weighed(loop=name, decisions=found, kept=kept, unreadable=unreadable, next=None)


def _made_of(ports: Ports, digest: str, known: Mapping[str, str]) -> dict[str, str]:
    """What a decision was made of that is not known yet; what is not there is left out."""
    found = {digest: _kept(ports, digest)} if digest and digest not in known else {}
    try:
        made_of = codec.decode(found[digest].encode(), policy.Weighed)
    except (KeyError, Refused, Retry):
        return found
    return found | {of: _kept(ports, of) for of in (made_of.loop, made_of.fleet) if of not in known}


def _kept(ports: Ports, digest: str) -> str:
    """Empty where it is not there."""
    try:
        return ports.blobs.get(rebuild.kept_as(digest)).decode()
    except (NotFound, Refused, UnicodeDecodeError):
        return ""


def _tail(ports: Ports, name: str, limit: int, cursor: str) -> list[Any]:
    """The newest decisions, newest first: keys are times, so the last days are tried first."""
    end = f"decision/{cursor}" if cursor else ""
    newest = _stamped(cursor) if cursor else ports.clock.now()
    for days in (limit, 32 * limit, None):
        after = "" if days is None else f"decision/{newest - timedelta(days=days):{_STAMP}}"
        found = [r for r in ports.store.scan(name, "decision/", after) if not end or r.key < end]
        if len(found) >= limit:
            break
    return found[: -limit - 1 : -1]


def quarantine(ports: Ports, name: str, limit: int = 100, cursor: str = "") -> Quarantine:
    """What of a loop was not counted, and what no loop would own. Raises NotFound."""
    ports.configs.loop(name)
    found = [Held(id=i, **msgspec.structs.asdict(q)) for i, q in kept.listed(ports, name)]
    found.sort(key=lambda q: (q.at, q.id), reverse=True)
    shown, more = _page(found, lambda q: q.id, cursor, limit)
    return Quarantine(now=ports.clock.now(), total=len(found), quarantined=shown, next=more)


def _page(found: list[T], name: Callable[[T], str], cursor: str, limit: int) -> tuple[list[T], str | None]:
    """So many of them from the one after `cursor` on, and the cursor of what follows; one that is gone begins anew."""
    first = next((i + 1 for i, one in enumerate(found) if cursor and name(one) == cursor), 0)
    shown = found[first : first + limit]
    return shown, name(shown[-1]) if first + limit < len(found) else None


# --- runs


def runs(ports: Ports, name: str, limit: int = 200, cursor: str = "") -> Runs:
    """A loop's runs. Raises NotFound."""
    ports.configs.loop(name)
    shown, more = _page(loop.runs(ports, name)[::-1], lambda r: r.id, cursor, limit)
    return Runs(now=ports.clock.now(), runs=[run_view(r) for r in shown], next=more)


def run_view(run: Run) -> RunView:
    """A run as a line of a list."""
    return RunView(
        id=run.id,
        loop=run.loop,
        phase=run.phase,
        final=run.phase.final,
        because=run.because,
        cause=run.cause,
        scope=run.scope,
        started=run.started,
        ended=run.ended,
        champion=run.champion,
        candidate=run.candidate,
        rows=run.rows,
        outcome=run.outcome,
        verdict=run.verdict,
        approved_by=run.approved_by,
        wave=run.wave,
        waves=[_wave(run, i, wave) for i, wave in enumerate(run.waves)],
        next=_next(run),
    )


def _wave(run: Run, i: int, wave: on.Wave) -> WaveView:
    if i >= len(run.times):
        return WaveView(ring=wave.ring, sites=wave.sites)
    times = run.times[i]
    return WaveView(
        ring=wave.ring, sites=wave.sites, started=times.started, verified=times.verified, deferred=times.deferred
    )


def _next(run: Run) -> str:
    waits = {
        Phase.TRAINING: "training to end",
        Phase.EVALUATING: "the comparison with the champion",
        Phase.AWAITING_APPROVAL: "a person's answer",
        Phase.ROLLING_BACK: "the sites to be back at their last known good",
    }
    if run.phase is Phase.ROLLING_OUT:
        wave = run.waves[run.wave]
        ring = f"wave {run.wave + 1} of {len(run.waves)} ({wave.ring}, {wave.sites} site{'s' * (wave.sites != 1)})"
        if run.paused:
            return f"a person to resume it, or to roll it back; paused by {run.paused.by}: {run.paused.reason}"
        return f"{ring} to verify by its own telemetry"
    return waits.get(run.phase, "")


def stored_run(ports: Ports, run_id: str) -> Run:
    """Raises NotFound."""
    name = loop_of(run_id)
    ports.configs.loop(name)
    if len(run_id) > 200:  # longer than any is made, and than a store takes
        raise NotFound(f"no run {run_id[:100]!r}")
    return LoopUnit(ports.store, name, ports.clock.now()).run(run_id)


def run(ports: Ports, run_id: str) -> RunDetail:
    """Everything about one run. Raises NotFound."""
    found = stored_run(ports, run_id)
    request = approval_request(ports, run_id)
    rules = ports.configs.loop(found.loop).approval
    return RunDetail(
        now=ports.clock.now(),
        run=run_view(found),
        decision=cause(ports, found),
        waves=_plan(ports, found, request),
        limits=msgspec.to_builtins(found.limits.rollout),
        approval=_approval(ports, request, rules) if request else None,
        evidence=evidence(ports, found.evidence),
        lineage=lineage(ports, found.candidate),
        reports=reports(ports, found),
        may=[what for what, event in ASKED.items() if _may(found, event)],
        quota=list(quota.planned(ports.configs.fleet(found.loop)).problems),
        revoked=candidates.all_revoked(ports, found.loop).get(found.candidate, ""),
    )


ASKED: dict[str, loop.Asked] = {
    "cancel": on.Cancelled,
    "rollback": on.RollBackAsked,
    "pause": on.Paused,
    "resume": on.Resumed,
}


def _may(run: Run, event: type[on.Event]) -> bool:
    if event in (on.Paused, on.Resumed) and (run.paused is None) is (event is on.Resumed):
        return False
    return lifecycle.heeds(run, event) and bool(lifecycle.RULES[run.phase, event].leads_to)


def cause(ports: Ports, run: Run) -> Decision | None:
    """The decision that a run began with; None where a person asked for it."""
    record = ports.store.get(run.loop, f"decision/{run.started:{_STAMP}}")
    found = codec.decode(record.value, Decision) if record else None
    return found if found and found.action == "retrain" and found.reason == run.cause else None


def approval_request(ports: Ports, run_id: str) -> approval.Request | None:
    """What was asked about a run, where it was."""
    record = ports.store.get(loop_of(run_id), f"approval/{run_id}")
    return codec.decode(record.value, approval.Request) if record else None


def _approval(ports: Ports, request: approval.Request, rules: Approval) -> ApprovalView:
    people, groups = approval.approvers(request, rules, ports.clock.now())
    return ApprovalView(
        **msgspec.structs.asdict(request),
        approvers=list(people),
        groups=list(groups),
        needed=rules.needed,
        frozen=sites.frozen(ports, request.loop) if request.state == "open" else "",
        link=f"/api/approvals/{request.run}",
    )


def _plan(ports: Ports, run: Run, request: approval.Request | None) -> list[PlanWave]:
    digest = run.plan or (request.plan if request else "")
    if not digest:
        return []
    plan = sites.load_plan(ports, digest)
    rows = {row.site: row for _, row in sites.rows(ports, run.id)}
    times = dict(enumerate(run.times))
    why = _blocks(ports, run)
    found = [
        PlanWave(
            ring=wave.ring,
            started=times[i].started if i in times else None,
            verified=times[i].verified if i in times else None,
            sites=[_row(site, rows.get(site), why) for site in wave.sites],
        )
        for i, wave in enumerate(plan.waves)
    ]
    if run.phase is not Phase.AWAITING_APPROVAL:
        return found
    expected = rollout.forecast(plan, sites.hold_of(ports, run), ports.clock.now())
    return [
        wave
        if wave.started
        else msgspec.structs.replace(wave, start=then.start, end=then.end, bytes=then.bytes, held=then.held)
        for wave, then in zip(found, expected, strict=True)
    ]


_OPEN = ("waiting", "deferred")
_MOST_BLOCKED = 500
"""Sites of a run for which it is worked out what keeps them."""


def _blocks(ports: Ports, run: Run) -> Callable[[str], str]:
    """What keeps a site from being changed by a run now: a freeze, its windows, a blackout."""
    if run.phase not in (Phase.ROLLING_OUT, Phase.AWAITING_APPROVAL):
        return lambda site: ""
    hold, now, left = sites.hold_of(ports, run), ports.clock.now(), iter(range(_MOST_BLOCKED))
    known = {site.name: site for site in hold.fleet.sites}

    def why(site: str) -> str:
        if site not in known:
            return "it is no longer of the fleet"
        return hold.why(known[site], now) if next(left, None) is not None else ""

    return why


def _row(site: str, row: RolloutRow | None, blocks: Callable[[str], str]) -> SiteRow:
    if row is None:
        return SiteRow(site=site, status="planned", reason="", at=None, blocked=blocks(site))
    reason = row.reason if row.status == "failed" or not row.failed else f"{row.failed}; {row.reason}".rstrip("; ")
    blocked = blocks(site) if row.status in _OPEN else ""
    return SiteRow(site=site, status=row.status, reason=reason, at=row.at, blocked=blocked)


def evidence(ports: Ports, digest: str) -> dict[str, Any] | None:
    """What an evaluation wrote; None where there is none. Raises Refused where the bytes are not what was judged."""
    if not digest:
        return None
    data = ports.blobs.get(f"evidence/{digest}.json")
    if codec.digest(data) != digest:
        raise Refused(f"evidence {digest[:12]} is not what was judged", evidence=digest)
    found: dict[str, Any] = msgspec.json.decode(data)
    return found


def lineage(ports: Ports, candidate: str) -> dict[str, Any] | None:
    """Where a candidate comes from; None where there is none yet, or it is gone."""
    if not candidate:
        return None
    try:
        found: dict[str, Any] | None = candidates.manifest(ports, candidate).get("lineage")
    except NotFound:
        return None
    return found


def reports(ports: Ports, run: Run) -> list[str]:
    """Links to the stored reports of a run's data, as a person reads them, newest first."""
    marks = (run.id, f"{run.started:{_STAMP}}")
    names = [n for n in ports.blobs.names(f"evidently/{run.loop}/") if any(m in n for m in marks)]
    return [f"/api/reports/{name}" for name in sorted(names, reverse=True)]


# --- what happened


def steps(entries: Iterable[AuditEntry]) -> list[Sentence]:
    """Entries of the audit trail about a run as sentences."""
    return [sentence(entry) for entry in _moving(entries)]


def _moving(entries: Iterable[AuditEntry]) -> Iterator[AuditEntry]:
    """Without what came when it was over long since, and moved nothing: deadlines, newer models."""
    phase = ""
    for entry in entries:
        moved, phase = entry.data.get("phase", phase) != phase, entry.data.get("phase", phase)
        if moved or entry.kind not in ("event-deadline-passed", "event-superseded"):
            yield entry


_BEGINS = {
    "run-began": "Began",
    "held": "Held",
    "check-asked": "A check was asked for",
    "maintenance": "Maintenance wanted",
    "backfilled": "Backfilled",
    "replayed": "Replayed",
    "model-waits": "A registered model waits",
    "model-refused": "A registered model was refused",
    "adopted": "Adopted",
    "frozen": "Frozen",
    "unfrozen": "Unfrozen",
    "revoked": "Revoked",
    "approval-asked": "Asked for an answer",
    "approval-withdrawn": "The question was withdrawn",
    "answered": "Answered",
    "answer-refused": "An answer did not count",
    "event-trained": "Training ended",
    "event-job-failed": "A job failed",
    "event-evaluated": "Compared with the champion",
    "event-answered": "The answer reached the run",
    "event-wave-reported": "A wave reported",
    "event-rollback-reported": "The way back reported",
    "event-cancelled": "Cancelled",
    "event-rollback-asked": "The way back was asked for",
    "event-superseded": "Superseded",
}


def sentence(entry: AuditEntry) -> Sentence:
    """One entry of the audit trail in words."""
    begins = _BEGINS.get(entry.kind, entry.kind)
    if entry.kind == "event-deadline-passed":
        phase, wave = [*entry.data["event"]["phase"].split("/"), ""][:2]
        begins = f"The time for {phase}{f', wave {int(wave) + 1},' if wave.isdecimal() else ''} was over"
    text = f"{begins}: {entry.text}." if entry.text else f"{begins}."
    return Sentence(at=entry.at, kind=entry.kind, actor=entry.actor, text=text)


def audit(ports: Ports, name: str, after: int, limit: int) -> Audit:
    """The audit trail, a page of it. Raises NotFound."""
    ports.configs.loop(name)
    head = loop.head(ports, name)
    records = ports.store.scan(name, "audit/", f"audit/{after:012}", limit)
    entries = [codec.decode(r.value, AuditEntry) for r in records]
    more = entries[-1].seq if entries and entries[-1].seq < head.audit else None
    anchors = [] if after else _anchors(ports, f"anchors/{name}/")
    return Audit(loop=name, entries=entries, next=more, head=head.audit, head_hash=head.audit_hash, anchors=anchors)


def stored(ports: Ports, name: str) -> Stored:
    """As it was in one moment. Raises NotFound; Retry where it changes faster than it can be read."""
    ports.configs.loop(name)
    for _ in range(5):
        head = loop.head(ports, name)
        runs = [msgspec.to_builtins(run) for run in loop.runs(ports, name)]
        revoked = sorted(candidates.all_revoked(ports, name))
        if loop.head(ports, name).audit == head.audit:
            return Stored(
                loop=name,
                head=head.audit,
                champion=head.champion,
                scoped=head.scoped,
                active=head.active,
                runs=runs,
                revoked=revoked,
            )
    raise Retry(f"{name} changes while it is read")


def _anchors(ports: Ports, prefix: str) -> list[Anchor]:
    parts = [name[len(prefix) :].replace("/", "-").rsplit("-", 2) for name in sorted(ports.blobs.names(prefix))]
    return [Anchor(day=day, seq=int(seq), hash=digest) for day, seq, digest in parts]


def _last(found: list[Decision]) -> Decision | None:
    return found[0] if found else None
