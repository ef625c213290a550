"""Reports + history + now -> hold or retrain, and why, with the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from triggers.compute import Choice, choose
from triggers.config import Fleet, Loop, duration, rate


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a report found, as a decision remembers it. `covered` is False for an alarm of a reference that
    promises nothing about false alarms."""

    kind: str
    statistical: bool
    scope: str  # "site", "cohort" or "fleet"
    sites: tuple[str, ...]
    features: tuple[str, ...]
    reason: str
    covered: bool = True


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided before. `streak` counts the checks in a row that found drift, by scope."""

    streak: dict[str, int] = {}
    maintenance: dict[str, int] = {}  # the checks in a row that found something for maintenance, by site
    starts: tuple[datetime, ...] = ()  # of runs, newest last; as far back as the budget looks
    ended: datetime | None = None  # of the last run


class Maintenance(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody should have a look at a site: what is wrong there is no reason to train."""

    site: str
    kinds: tuple[str, ...]
    features: tuple[str, ...]
    reason: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Hold or retrain. `scope` is "fleet", "cohort:<name>" or "site:<name>"; `sites` None means the whole fleet.
    `weighed`: the digest of what a check made it of."""

    loop: str
    at: datetime
    action: Literal["hold", "retrain"]
    scope: str = "fleet"
    sites: tuple[str, ...] | None = None
    compute: Literal["cloud", "edge"] = "cloud"
    reason: str
    findings: tuple[Finding, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    weighed: str = ""


RULES = 1
"""Raised with each change of what `decide` makes of the same arguments, be it a word of its reason."""


class Weighed(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision was made of, besides its time. `loop` and `fleet` are the digests of their configurations; the
    rest are arguments of `decide`. `rules`: those of then."""

    findings: tuple[Finding, ...] = ()
    loop: str
    fleet: str
    history: History
    active: tuple[str, ...] = ()
    rows: int = 0
    frozen: str = ""
    fresh: bool = True
    unlabelled: str = ""
    rules: int


def weigh(now: datetime, weighed: Weighed, loop: Loop, fleet: Fleet) -> tuple[Decision, History]:
    """`decide`, of what is kept: called again with the same it gives the same decision."""
    return decide(
        weighed.findings,
        weighed.history,
        now,
        loop,
        fleet,
        active=weighed.active,
        rows=weighed.rows,
        frozen=weighed.frozen,
        fresh=weighed.fresh,
        unlabelled=weighed.unlabelled,
    )


def decide(
    findings: Sequence[Finding],
    history: History,
    now: datetime,
    loop: Loop,
    fleet: Fleet,
    *,
    active: Sequence[str] = (),
    rows: int = 0,
    frozen: str = "",
    fresh: bool = True,
    unlabelled: str = "",
) -> tuple[Decision, History]:
    """Hysteresis, then what forbids a run (no promise, freeze, active run, cooldown, budget, rows), then scope and
    compute; and maintenance of sites with something wrong that no training answers, each time that begins and is
    confirmed.

    `rows` is how many labelled rows a training could use now; `active` names the runs that have not ended. A check that
    is not `fresh` had no new window to assess: an alarm that persists confirms nothing. `unlabelled` says which labels
    from annotation a training waits for.
    """
    moved = [f for f in findings if f.kind in loop.retrain.on and not _maintained(f, loop)]
    decision = Decision(loop=loop.loop, at=now, action="hold", reason="", findings=tuple(findings))
    if fresh:
        history, wanted = _maintenance(findings, history, loop)
        decision = msgspec.structs.replace(decision, maintenance=wanted)
    if not fresh:
        others = _said([f for f in findings if f not in moved])
        return _hold(decision, "; ".join(filter(None, ("no new windows to assess", others)))), history
    promised = [f for f in moved if f.covered]
    widest = _widest(promised or moved, fleet)
    kept = msgspec.structs.replace(history, streak=_streak(history, moved, fleet))
    if widest is None:
        return _hold(decision, _quiet(findings)), kept
    scope, sites = widest
    choice = choose(sites, loop, fleet)
    found = f"{scope}: {_said([f for f in moved if _scope(f, fleet)[0] == scope])}"
    run_of_checks = kept.streak.get(scope, 0)
    for forbidden in (
        "" if promised else "what is not covered retrains nothing",
        _unconfirmed(run_of_checks, loop),
        f"frozen ({frozen})" if frozen else "",
        f"{active[0]} has not ended" if active else "",
        "retraining is switched off" if not loop.retrain.enabled else "",
        cooling(history, now, loop),
        _spent(history, now, loop),
        unlabelled or ("" if loop.training.labels else _few(rows, loop)),
        "" if choice.where else choice.reason,
    ):
        if forbidden:
            return _hold(decision, f"{found}; held: {forbidden}", scope, sites), kept
    reason = f"{found}; {_checks(run_of_checks)} in a row; {rows:,} labelled rows"
    started = msgspec.structs.replace(kept, starts=(*_recent(history, now, loop), now), streak={})
    chosen = msgspec.structs.replace(decision, action="retrain", scope=scope, sites=sites, reason=reason)
    return placed(chosen, choice), started


def _maintained(finding: Finding, loop: Loop) -> bool:
    """Whether it asks for maintenance: what the policy says of its reach, and any rule that single sites break."""
    if finding.kind not in loop.retrain.on:
        return finding.scope == "site"
    follows = {"site": loop.retrain.scope.site, "cohort": loop.retrain.scope.cohort, "fleet": loop.retrain.scope.fleet}
    return finding.kind != "monitor" and follows[finding.scope] == "maintain"


def _maintenance(findings: Sequence[Finding], history: History, loop: Loop) -> tuple[History, tuple[Maintenance, ...]]:
    """The history with the sites that want maintenance, and those of them that this check confirms."""
    by_site: dict[str, list[Finding]] = {}
    for finding in findings:
        for site in finding.sites if _maintained(finding, loop) else ():
            by_site.setdefault(site, []).append(finding)
    in_a_row = {site: history.maintenance.get(site, 0) + 1 for site in sorted(by_site)}
    wanted = tuple(
        Maintenance(
            site=site,
            kinds=tuple(sorted({f.kind for f in by_site[site]})),
            features=tuple(sorted({name for f in by_site[site] for name in f.features})),
            reason=_said(sorted(by_site[site], key=lambda f: (f.kind, f.reason))),
        )
        for site, checks in in_a_row.items()
        if checks == loop.retrain.confirm
    )
    return msgspec.structs.replace(history, maintenance=in_a_row), wanted


def placed(decision: Decision, choice: Choice) -> Decision:
    """The decision at the place that was chosen; what trains at a site is for that site."""
    reason = f"{decision.reason}; {choice.reason}"
    if choice.where != "edge":
        return msgspec.structs.replace(decision, compute="cloud", reason=reason)
    here = {"scope": f"site:{choice.site}", "sites": (choice.site,)}
    return msgspec.structs.replace(decision, compute="edge", reason=reason, **here)


def _hold(decision: Decision, reason: str, scope: str = "fleet", sites: tuple[str, ...] | None = None) -> Decision:
    return msgspec.structs.replace(decision, reason=reason, scope=scope, sites=sites)


def _quiet(findings: Sequence[Finding]) -> str:
    if not findings:
        return "nothing moved more than it does by itself"
    return f"nothing that retraining answers: {_said(findings)}"


def _said(findings: Sequence[Finding], most: int = 3) -> str:
    more = f" and {len(findings) - most} more" if len(findings) > most else ""
    return "; ".join(f.reason for f in findings[:most]) + more


def _scope(finding: Finding, fleet: Fleet) -> tuple[str, tuple[str, ...] | None]:
    if finding.scope == "fleet":
        return "fleet", None
    if finding.scope == "cohort":
        cohorts = {s.cohort for s in fleet.sites if s.name in finding.sites}
        name = min(cohorts) if cohorts else "default"
        return f"cohort:{name}", tuple(s.name for s in fleet.sites if s.cohort == name)
    return f"site:{finding.sites[0]}", finding.sites[:1]


def _widest(moved: Sequence[Finding], fleet: Fleet) -> tuple[str, tuple[str, ...] | None] | None:
    order = {"fleet": 0, "cohort": 1, "site": 2}
    scopes = sorted((_scope(f, fleet) for f in moved), key=lambda s: (order[s[0].split(":")[0]], s[0]))
    return scopes[0] if scopes else None


def _streak(history: History, moved: Sequence[Finding], fleet: Fleet) -> dict[str, int]:
    """A fleet that moved keeps its sites' streaks going, not the other way round."""
    scopes = {_scope(f, fleet)[0] for f in moved}
    if "fleet" in scopes:
        scopes |= set(history.streak)
    return {s: history.streak.get(s, 0) + 1 for s in sorted(scopes)}


def _unconfirmed(checks: int, loop: Loop) -> str:
    if checks >= loop.retrain.confirm:
        return ""
    return f"seen in {_checks(checks)} in a row, {loop.retrain.confirm} confirm it"


def _checks(number: int) -> str:
    return f"{number} check{'s' * (number != 1)}"


def cooling(history: History, now: datetime, loop: Loop) -> str:
    """What is left of the cooldown, in words; empty where it is over."""
    if history.ended is None:
        return ""
    rest = history.ended + duration(loop.retrain.cooldown) - now
    if rest.total_seconds() <= 0:
        return ""
    return f"cooldown of {loop.retrain.cooldown} ends in {rest.total_seconds() / 86400:.1f} days"


def _recent(history: History, now: datetime, loop: Loop) -> tuple[datetime, ...]:
    return tuple(t for t in history.starts if now - t < rate(loop.retrain.budget)[1])


def _spent(history: History, now: datetime, loop: Loop) -> str:
    allowed, _ = rate(loop.retrain.budget)
    used = len(_recent(history, now, loop))
    return f"budget of {loop.retrain.budget} is spent ({used})" if used >= allowed else ""


def _few(rows: int, loop: Loop) -> str:
    if rows >= loop.retrain.minimum_rows:
        return ""
    return f"{rows:,} labelled rows for training, fewer than {loop.retrain.minimum_rows:,}"
