"""What is done to sites, and what they are seen to do: deployment requests, observed telemetry, a run's own list.

A site's intent and state are one record beside its windows, so that telemetry and what it proves are one write. A run's
list of sites is written after it, and rebuilt from the sites' records by the sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from drift.telemetry import Batch
from triggers import codec, rollout
from triggers.config import Rollout
from triggers.errors import Conflict, Offline, Refused
from triggers.events import RollbackReported, WaveReported
from triggers.lifecycle import wave_report_id
from triggers.ports import Change, Message, Ports, Put, Underway
from triggers.records import (
    Freeze,
    RolloutRow,
    SiteState,
    Unit,
    again,
    loop_of,
    rollout_partition,
    site_partition,
)
from triggers.run import Phase, Run

replace = msgspec.structs.replace

SITE = "site"
_CHUNK = 50
_PACE = timedelta(minutes=1)
"""A change that is underway is looked at again after so long."""


def frozen(ports: Ports, loop: str, site: str = "") -> str:
    """Why nothing new may begin here; empty where it may."""
    for key in ("all", loop, f"{loop}/{site}" if site else ""):
        record = ports.store.get("driftloop", f"freeze/{key}") if key else None
        if record:
            found = codec.decode(record.value, Freeze)
            return f"{key} frozen by {found.by}: {found.reason}"
    return ""


def adopt(ports: Ports, loop: str, site: str, candidate: str) -> None:
    """A site begins with a candidate that was put there outside driftloop: it is its last known good."""

    def attempt() -> None:
        unit = Unit(ports.store, site_partition(loop, site))
        if unit.get(SITE, SiteState) is None:
            unit.put(SITE, SiteState(candidate=candidate, last_good=candidate, status="verified"))
            unit.commit()

    again(attempt)


def load_plan(ports: Ports, plan: str) -> rollout.Plan:
    """The plan that was approved: its bytes must still have their digest."""
    data = ports.blobs.get(f"plans/{plan}")
    if codec.digest(data) != plan:
        raise Refused(f"plan {plan[:12]} is not what was approved", plan=plan)
    return codec.decode(data, rollout.Plan)


def deploy_wave(ports: Ports, run: Run, wave: int) -> None:
    """Put the wave's sites on the run's list, and ask each."""
    plan = load_plan(ports, run.plan)
    _list(ports, run, wave, plan.waves[wave].sites)
    _ask(ports, [_deployment(run, wave, site, ports.clock.now()) for site in plan.waves[wave].sites])


def roll_back(ports: Ports, run: Run, through: int, reason: str, only_failed: bool = False) -> None:
    """Ask every site on the run's list to go back, newest wave first, but for those that are on their way.

    A site that was listed and not yet asked is asked, too, so that a late request finds a newer one there.
    """
    now = ports.clock.now()
    changes = []
    for _, row in reversed(rows(ports, run.id)):
        if row.wave > through or (only_failed and row.status != "failed"):
            continue
        state = state_of(ports, run.loop, row.site)
        if state.run == run.id and state.action == "rollback" and state.status != "asked":
            continue
        changes.append(
            replace(
                _deployment(run, row.wave, row.site, now),
                id=f"{run.id}/{row.site}/rollback",
                action="rollback",
                candidate=_way_back(state, run.id),
                fence=fence(run.id, back=True),
                reason=reason,
            )
        )
    _ask(ports, changes)


def ask_again(ports: Ports, run: Run) -> None:
    """Ask the sites that a freeze, a crash or a request given up on left waiting."""
    now = ports.clock.now()
    if run.phase is Phase.ROLLING_BACK:
        roll_back(ports, run, run.wave, run.because)
    if run.phase is not Phase.ROLLING_OUT:
        return
    for _, row in rows(ports, run.id):
        state = state_of(ports, run.loop, row.site)
        if row.status == "underway" and state.run == run.id and state.action != "adopt":
            _look_again(ports, _change(state, run.loop, row.site, state.action, now))
    waiting = [row for _, row in rows(ports, run.id) if row.status in ("waiting", "asked") and row.wave == run.wave]
    _ask(ports, [_deployment(run, row.wave, row.site, now) for row in waiting], suffix=f"/{now:%Y%m%dT%H%M%S}")


def _way_back(state: SiteState, run: str) -> str:
    """The candidate that a site goes back to from this run; where the run has not reached it, it stays."""
    return state.before if state.run == run else state.last_good


def fence(run_id: str, back: bool = False) -> int:
    """Later runs win over earlier ones, and a run's way back over its way out.

    >>> fence("flights.2013-04-12.7"), fence("flights.2013-04-12.7", back=True)
    (14, 15)
    """
    return 2 * int(run_id.rsplit(".", 1)[1]) + back


def _deployment(run: Run, wave: int, site: str, now: datetime) -> Change:
    return Change(
        id=f"{run.id}/{site}/deploy",
        loop=run.loop,
        site=site,
        run=run.id,
        wave=wave,
        candidate=run.candidate,
        action="deploy",
        fence=fence(run.id),
        at=now,
    )


def _list(ports: Ports, run: Run, wave: int, sites: Sequence[str]) -> None:
    partition, now = rollout_partition(run.id), ports.clock.now()

    def attempt(chunk: Sequence[str]) -> None:
        known = {r.key for r in ports.store.scan(partition, f"{wave:04}/")}
        new = [
            Put(f"{wave:04}/{s}", codec.encode(RolloutRow(site=s, wave=wave, status="waiting", at=now)))
            for s in chunk
            if f"{wave:04}/{s}" not in known
        ]
        if new:
            ports.store.commit(partition, new)

    for i in range(0, len(sites), _CHUNK):
        again(lambda i=i: attempt(sites[i : i + _CHUNK]))  # type: ignore[misc]


def _ask(ports: Ports, changes: Sequence[Change], suffix: str = "") -> None:
    for i in range(0, len(changes), _CHUNK):
        ports.topic.publish([cloud_event("requested", c, c.at, suffix=suffix) for c in changes[i : i + _CHUNK]])


def cloud_event(what: str, change: Change, at: datetime, suffix: str = "", **more: Any) -> dict[str, Any]:
    """A deployment event as others may subscribe to it."""
    return {
        "specversion": "1.0",
        "id": codec.short(f"{change.id}/{what}{suffix}"),
        "source": f"/driftloop/{change.loop}",
        "type": f"driftloop.deployment.{what}",
        "subject": change.site,
        "time": at.isoformat(),
        "datacontenttype": "application/json",
        "data": {**msgspec.to_builtins(change), **more},
    }


def deploy(ports: Ports, change: Change) -> None:
    """Perform one request at one site: intent first, then the call, then what came of it.

    A request with an older fence than the site has seen changes nothing, nor does one that its run no longer wants.
    Raises Refused for one that its run never made.
    """
    if not _wanted(ports, change):
        return
    if change.action == "deploy" and frozen(ports, change.loop, change.site):
        return  # stays waiting on the run's list: the sweep asks again when the freeze ends
    state = again(lambda: _intend(ports, change))
    if state is None:
        return
    limits, back = ports.configs.loop(change.loop).rollout, change.action == "rollback"
    shown = state.health is not None and rollout.proven(state.health, limits, ports.clock.now())
    try:
        underway = ports.executor.apply(change, back or shown)
    except Offline as problem:
        settle(ports, change, "deferred", str(problem) or "offline")
    except Refused as problem:
        settle(ports, change, "stuck" if back else "failed", f"{change.site}: {problem}")
    else:
        if underway is not None:
            _take_step(ports, change, underway)
        else:
            settle(ports, change, "restoring" if back else "applied", "")


def _take_step(ports: Ports, change: Change, underway: Underway) -> None:
    """Write where the change is, and look again; what a site shows counts from the beginning of the step."""

    def attempt() -> SiteState | None:
        unit = Unit(ports.store, site_partition(change.loop, change.site))
        state = unit.need(SITE, SiteState)
        if state.change != change.id or state.status not in ("asked", "deferred", "underway"):
            return None
        health = state.health
        if state.step != underway.step:
            health = rollout.Health(candidate=change.candidate, since=ports.clock.now())
        new = replace(state, status="underway", step=underway.step, reason=underway.reason, health=health)
        unit.put(SITE, new)
        unit.commit()
        return new

    state = again(attempt)
    if state is not None:
        _look_again(ports, change)
        follow_up(ports, change.loop, change.site, state)


def _look_again(ports: Ports, change: Change) -> None:
    """One message a minute, however many ask for it."""
    due = (ports.clock.now() + _PACE).replace(second=0, microsecond=0)
    body = msgspec.json.encode(change)
    name = codec.short(f"{change.id}/{change.fence}/{due:%Y%m%dT%H%M}")
    ports.bus.send("deployments", [Message(id=name, body=body, session=change.site, at=due)])


_OUT = (Phase.ROLLING_OUT, Phase.VERIFIED)
_BACK = (Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.VERIFIED)


def _wanted(ports: Ports, change: Change) -> bool:
    """Whether a request is what an approved run, or its way back, asks of this site now."""
    run = codec.decode(_need(ports, change.loop, f"run/{change.run}"), Run)
    _need(ports, rollout_partition(run.id), f"{change.wave:04}/{change.site}")
    back = change.action == "rollback"
    candidate = _way_back(state_of(ports, run.loop, change.site), run.id) if back else run.candidate
    if (change.candidate, change.fence) != (candidate, fence(run.id, back)):
        raise Refused(f"{run.id} does not ask for {change.candidate[:12]} at {change.site}", run=run.id)
    begun = run.phase is Phase.AWAITING_APPROVAL and bool(run.times)  # by rule; a person answers for the rest
    return run.phase in (_BACK if back else _OUT) or (begun and not back)


def _intend(ports: Ports, change: Change) -> SiteState | None:
    unit = Unit(ports.store, site_partition(change.loop, change.site))
    state = unit.get(SITE, SiteState) or SiteState()
    done = state.change == change.id and state.status not in ("asked", "deferred", "waiting", "underway")
    if state.fence > change.fence or done:
        follow_up(ports, change.loop, change.site, state)
        return None
    if state.change == change.id and state.status == "underway":
        return state
    now = ports.clock.now()
    intent = replace(
        state,
        candidate=change.candidate,
        change=change.id,
        run=change.run,
        wave=change.wave,
        action=change.action,
        fence=change.fence,
        before=_way_back(state, change.run),
        status="asked",
        reason=change.reason,
        asked=now,
        step=state.step if change.action == "rollback" or state.change == change.id else "",
        health=rollout.Health(candidate=change.candidate, since=now),
    )
    unit.put(SITE, intent)
    unit.commit()
    return intent


def settle(ports: Ports, change: Change, status: rollout.SiteStatus, reason: str) -> None:
    """Write what came of a request, unless a newer one has been there."""

    def attempt() -> SiteState | None:
        unit = Unit(ports.store, site_partition(change.loop, change.site))
        state = unit.need(SITE, SiteState)
        if state.change != change.id or state.status not in ("asked", "deferred", "underway"):
            return None
        now = ports.clock.now()
        health = rollout.Health(candidate=change.candidate, since=now)
        step = "" if status in ("applied", "restoring") else state.step
        settled = replace(state, status=status, reason=reason, health=health, step=step)
        unit.put(SITE, settled)
        unit.commit()
        return settled

    settled = again(attempt)
    if settled is not None:
        follow_up(ports, change.loop, change.site, settled)


def observe(state: SiteState, batch: Batch, limits: Rollout, now: datetime) -> SiteState:
    """What one counted batch says about its site. Only batches that end after the change are fresh.

    The site is not called updated because a request was accepted: it says so itself, here.
    """
    end = datetime.fromtimestamp(batch.end, now.tzinfo)
    if state.observed_at is None or end >= state.observed_at:
        state = replace(state, observed=batch.candidate, observed_at=end)
    health = state.health
    if health is None or batch.candidate != state.candidate or end <= health.since:
        return state
    if state.status in ("restoring", "deferred", "asked", "stuck") and state.action == "rollback" and not state.step:
        back = "its telemetry names the last known good"
        return replace(state, status="restored", reason=back, last_good=state.candidate)
    if state.status not in ("applied", "verified", "deferred", "asked", "underway") or state.action != "deploy":
        return state
    serving = batch.serving
    slow = limits.max_p95_ms is not None and serving.p95_ms > limits.max_p95_ms
    health = replace(
        health,
        last=end if health.last is None else max(end, health.last),
        requests=health.requests + serving.requests,
        errors=health.errors + serving.errors,
        slow=health.slow + serving.requests * slow,
        p95_ms=max(health.p95_ms, serving.p95_ms),
    )
    verdict = rollout.judge_site(health, limits, now)
    if verdict.outcome == "failed":
        return replace(state, health=health, status="failed", reason=f"{batch.site}: {verdict.reason}")
    if state.step:  # the last step is not taken yet
        return replace(state, health=health)
    state = replace(state, health=health, reason=verdict.reason)
    if verdict.passed:
        return replace(state, status="verified", last_good=state.candidate)
    return replace(state, status="applied") if state.status in ("deferred", "asked") else state


def returned(state: SiteState) -> bool:
    """A deferred site speaks again, and does not yet serve what it should, or not alone."""
    return state.status == "deferred" and (state.observed != state.candidate or bool(state.step))


def ask_returned(ports: Ports, loop: str, site: str, state: SiteState) -> None:
    """Ask a site that is back for its current intent, not for what was asked while it was away."""
    if state.action == "adopt" or state.observed_at is None:
        return
    change = _change(state, loop, site, state.action, ports.clock.now())
    _ask(ports, [change], suffix=f"/{state.observed_at:%Y%m%dT%H%M%S}")


def _change(state: SiteState, loop: str, site: str, action: Literal["deploy", "rollback"], at: datetime) -> Change:
    """What the site was last asked."""
    return Change(
        id=state.change,
        loop=loop,
        site=site,
        run=state.run,
        wave=state.wave,
        candidate=state.candidate,
        action=action,
        fence=state.fence,
        at=at,
        reason=state.reason,
    )


_TOLD: dict[str, str] = {
    "underway": "started",
    "applied": "started",
    "verified": "succeeded",
    "failed": "failed",
    "deferred": "deferred",
    "restored": "rolledback",
}


def follow_up(ports: Ports, loop: str, site: str, state: SiteState) -> None:
    """Carry a site's state to its run's list, tell the world, and report the wave where it is decided."""
    if not state.run:
        return
    partition, key = rollout_partition(state.run), f"{state.wave:04}/{site}"
    record = ports.store.get(partition, key)
    if record is None:
        return
    row = codec.decode(record.value, RolloutRow)
    if row.status != state.status:
        now = ports.clock.now()
        new = RolloutRow(site=site, wave=state.wave, status=state.status, reason=state.reason, at=now)
        told = _TOLD.get(state.status, "")
        if told and told != _TOLD.get(row.status):  # before it is written, so that it is told at least once
            action: Literal["deploy", "rollback"] = "rollback" if state.action == "rollback" else "deploy"
            change = _change(state, loop, site, action, state.asked or now)
            ports.topic.publish([cloud_event(told, change, now)])
        try:
            ports.store.commit(partition, [Put(key, codec.encode(new), record.version)])
        except Conflict:
            follow_up(ports, loop, site, state_of(ports, loop, site))
            return
    if state.status in ("verified", "failed", "deferred", "restored", "stuck"):
        report(ports, state.run)


def report(ports: Ports, run_id: str) -> None:
    """Tell a run how its wave, or its way back, stands, where that decides something."""
    run = codec.decode(_need(ports, loop_of(run_id), f"run/{run_id}"), Run)
    now = ports.clock.now()
    listed = [row for _, row in rows(ports, run_id)]
    event: WaveReported | RollbackReported
    if run.phase is Phase.ROLLING_OUT or (run.phase is Phase.AWAITING_APPROVAL and run.times):
        counts = rollout.count(((r.wave, r.status) for r in listed), run.wave, run.waves[run.wave].sites)
        verified, failed, deferred, pending = counts
        if pending and not failed:
            return
        because = next((r.reason for r in listed if r.status == "failed"), "")
        event = WaveReported(
            id=wave_report_id(run_id, run.wave, counts),
            run=run_id,
            at=now,
            wave=run.wave,
            verified=verified,
            failed=failed,
            deferred=deferred,
            pending=pending,
            because=because,
        )
    elif run.phase is Phase.ROLLING_BACK:
        restored, deferred, stuck, pending = _count_back(listed)
        if pending:
            return
        event = RollbackReported(
            id=f"back/{run_id}/{restored}-{deferred}-{stuck}-{pending}",
            run=run_id,
            at=now,
            restored=restored,
            deferred=deferred,
            pending=pending,
            stuck=stuck,
            because=next((r.reason for r in listed if r.status == "stuck"), ""),
        )
    else:
        if run.phase is Phase.VERIFIED and any(r.status == "failed" for r in listed):
            because = next(r.reason for r in listed if r.status == "failed")
            roll_back(ports, run, run.wave, because, only_failed=True)
        return
    ports.bus.send("runs", [Message(id=codec.short(event.id), body=codec.encode(event, "Event"), session=run_id)])


def _count_back(listed: Iterable[RolloutRow]) -> tuple[int, int, int, int]:
    """(restored, deferred, stuck, pending); a site that was never asked has nowhere to go back from."""
    statuses = [r.status for r in listed]
    restored, deferred, stuck = (statuses.count(s) for s in ("restored", "deferred", "stuck"))
    return restored, deferred, stuck, len(statuses) - restored - deferred - stuck - statuses.count("waiting")


def rows(ports: Ports, run_id: str) -> list[tuple[str, RolloutRow]]:
    """A run's own list of sites."""
    return [(r.key, codec.decode(r.value, RolloutRow)) for r in ports.store.scan(rollout_partition(run_id))]


def states(ports: Ports, loop: str) -> dict[str, SiteState]:
    """Every site of the loop's fleet."""
    return {s.name: state_of(ports, loop, s.name) for s in ports.configs.fleet(loop).sites}


def state_of(ports: Ports, loop: str, site: str) -> SiteState:
    """What one site should serve, and what it is seen to serve."""
    record = ports.store.get(site_partition(loop, site), SITE)
    return codec.decode(record.value, SiteState) if record else SiteState()


def _need(ports: Ports, partition: str, key: str) -> bytes:
    record = ports.store.get(partition, key)
    if record is None:
        raise Refused(f"{partition}: no {key}", key=key)
    return record.value
