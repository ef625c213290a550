"""What is done to sites, and what they are seen to do: deployment requests, observed telemetry, a run's own list.

A site's intent and state are one record beside its windows, so that telemetry and what it proves are one write. A run's
list of sites is written after it, and rebuilt from the sites' records by the sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import isnan
from typing import Any, Literal

import msgspec

from drift.telemetry import Batch
from triggers import candidates, codec, rollout, windows
from triggers.config import Fleet, Rollout, Site, duration, undented
from triggers.errors import Conflict, Offline, Refused
from triggers.events import Measured, RollbackReported, WaveReported
from triggers.lifecycle import wave_report_id
from triggers.ports import Change, Message, Ports, Put, Underway
from triggers.records import (
    Freeze,
    Head,
    RolloutRow,
    SiteState,
    Unit,
    again,
    hand_on,
    loop_of,
    rollout_partition,
    site_partition,
)
from triggers.run import Phase, Run

replace = msgspec.structs.replace

SITE = "site"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHUNK = 50
_PACES = tuple(timedelta(minutes=m) for m in (15, 5, 2, 1))
"""A change that is underway is looked at again so often: the longer its step lasts, the less."""


def frozen(ports: Ports, loop: str, site: str = "") -> str:
    """Why nothing new may begin here; empty where it may."""
    for key in ("all", loop, f"{loop}/{site}" if site else ""):
        record = ports.store.get("driftloop", f"freeze/{key}") if key else None
        if record:
            return _frozen_by(key, record.value)
    return ""


def _frozen_by(target: str, record: bytes) -> str:
    found = codec.decode(record, Freeze)
    return f"{target} frozen by {found.by}: {found.reason}"


def adopt(ports: Ports, loop: str, site: str, candidate: str) -> None:
    """A site begins with a candidate that was put there outside driftloop: it is its last known good."""

    def attempt() -> None:
        unit = Unit(ports.store, site_partition(loop, site))
        state = unit.get(SITE, SiteState) or SiteState()  # it may have spoken before
        if not state.candidate:
            unit.put(SITE, replace(state, candidate=candidate, last_good=candidate, status="verified"))
            unit.commit()

    again(attempt)


def load_plan(ports: Ports, plan: str) -> rollout.Plan:
    """The plan that was approved: its bytes must still have their digest."""
    data = ports.blobs.get(f"plans/{plan}")
    if codec.digest(data) != plan:
        raise Refused(f"plan {plan[:12]} is not what was approved", plan=plan)
    return codec.decode(data, rollout.Plan)


def deploy_wave(ports: Ports, run: Run, wave: int) -> datetime:
    """Put the wave's sites on the run's list, and ask those whose turn it is; returns by when it should be decided."""
    plan, hold = load_plan(ports, run.plan), hold_of(ports, run)
    joined = plan.members(wave, hold.fleet) if run.sites is None else plan.waves[wave].sites
    _list(ports, run, wave, joined)
    expected = rollout.forecast_wave(plan, wave, hold, ports.clock.now()).end
    ask_waiting(ports, run)
    return expected + 2 * duration(plan.limits.deadline)  # a site has one of its own, from when it is asked


def hold_of(ports: Ports, run: Run) -> rollout.Hold:
    """What keeps sites from being changed by this run now."""
    frozen = {r.key.removeprefix("freeze/"): r.value for r in ports.store.scan("driftloop", "freeze/")}

    def why(site: str) -> str:
        targets = [t for t in ("all", run.loop, f"{run.loop}/{site}") if t in frozen]
        return _frozen_by(targets[0], frozen[targets[0]]) if targets else ""

    size = missing(ports, run.loop, run.candidate)
    return rollout.Hold(ports.configs.fleet(run.loop), run.limits.rollout, size, why)


def missing(ports: Ports, loop: str, candidate: str) -> Callable[[Site], int]:
    """The bytes of a candidate that a site has to fetch."""
    known: dict[frozenset[str], int] = {}

    def size(site: Site) -> int:
        state = state_of(ports, loop, site.name)
        kept = frozenset((state.candidate, state.observed, state.last_good)) - {"", candidate}
        if kept not in known:
            held = {layer for of in kept for layer in candidates.layers(ports, of)}
            known[kept] = candidates.layers_missing(candidates.layers(ports, candidate), held)
        return known[kept]

    return size


def ask_waiting(ports: Ports, run: Run, scoped: Collection[str] = ()) -> None:
    """Ask the sites on the run's list whose turn it is, and write down what the others wait for; those of `scoped` have
    a champion of their own.

    What was asked and did not arrive (a crash, a request given up on) is asked again.
    """
    listed = {row.site: (key, row) for key, row in rows(ports, run.id)}
    open_ = ("waiting", "asked", "deferred", *_TRYING)
    if run.paused or not any(row.status in open_ for _, row in listed.values()):
        return
    now, hold = ports.clock.now(), hold_of(ports, run)
    state = states(ports, run.loop)
    mine = {name for name, s in state.items() if s.run == run.id and s.action == "deploy"}
    updating = {name for name, s in state.items() if s.status in rollout.UPDATING or _goes_on(s)}  # for whatever run
    silence = duration(ports.configs.loop(run.loop).telemetry.silence)
    down = {name for name, s in state.items() if name not in updating and not _well(s, silence, now)}
    waiting, again_, back = [], [], set()
    for site in hold.fleet.sites:
        row, seen = listed[site.name][1] if site.name in listed else None, state[site.name]
        if row is None:
            continue
        if site.name not in mine:
            overtaken = run.phase is Phase.VERIFIED and seen.action == "rollback"  # by a run that has failed since
            asks = row.status in ("waiting", "asked") or (overtaken and row.status in ("deferred", *_TRYING))
            waiting += [site] if asks and not row.failed and site.name not in scoped else []
        elif _as_before(seen):
            waiting.append(site)
            back.add(site.name)
        elif (seen.status == "asked" or _goes_on(seen)) and not hold.why(site, now):
            again_.append(site.name)
    waiting.sort(key=lambda site: (not _is_asked(listed[site.name][1]), listed[site.name][0]))
    room = rollout.room(run.limits.rollout, sum(w.sites for w in run.waves), len(updating), len(down))
    turn = hold.turn(waiting, now, room, down, updating)
    _mark(ports, run, [listed[name] for name in turn.now if name not in back], "asked", {})
    _mark(ports, run, [listed[name] for name in turn.held if name not in back], "waiting", turn.held)
    reasons = {**dict.fromkeys(turn.now, _AGAIN), **turn.held}
    _mark(ports, run, [listed[name] for name in back], "deferred", reasons)
    asked = [
        _deployment(run, listed[name][1].wave, name, now, _fence(run, state[name])) for name in (*turn.now, *again_)
    ]
    _ask(ports, asked, suffix=f"/{now:%Y%m%dT%H%M%S}")


_AGAIN = "back, and asked again"


def _is_asked(row: RolloutRow) -> bool:
    """Whether its request may still be on the way."""
    return row.status == "asked" or (row.status == "deferred" and row.reason == _AGAIN)


def _well(state: SiteState, silence: timedelta, now: datetime) -> bool:
    """Whether a site counts as available: its telemetry is fresh, and it is not down, or back since."""
    if rollout.unknown(state.observed_at, silence, now):
        return False
    return state.status not in rollout.DOWN or _as_before(state)


def _as_before(state: SiteState) -> bool:
    """A site that was not to be reached is back, and the change has not begun there."""
    return state.action == "deploy" and returned(state) and _spoke(state) and not state.step


def _goes_on(state: SiteState) -> bool:
    """A site at which a change had begun is back."""
    return state.action == "deploy" and returned(state) and _spoke(state) and bool(state.step)


def _spoke(state: SiteState) -> bool:
    """Since it was asked, and since the last that it is known to have done."""
    if state.observed_at is None or state.asked is None:
        return False
    return state.observed_at > max(state.asked, state.health.since if state.health else state.asked)


def _mark(
    ports: Ports,
    run: Run,
    listed: Sequence[tuple[str, RolloutRow]],
    status: rollout.SiteStatus,
    reasons: Mapping[str, str],
) -> None:
    """Write a status and its reason on the run's list, where they are new and the site has said nothing since."""
    partition, now = rollout_partition(run.id), ports.clock.now()
    new = [(key, row, replace(row, status=status, reason=reasons.get(row.site, ""))) for key, row in listed]
    new = [(key, row, marked) for key, row, marked in new if marked != row]

    def attempt(part: Sequence[tuple[str, RolloutRow, RolloutRow]]) -> None:
        unit = Unit(ports.store, partition)
        for key, row, marked in part:
            if unit.get(key, RolloutRow) == row:
                unit.put(key, replace(marked, at=now))
        unit.commit()

    for i in range(0, len(new), _CHUNK):
        again(lambda i=i: attempt(new[i : i + _CHUNK]))  # type: ignore[misc]


def roll_back(ports: Ports, run: Run, through: int, reason: str, only_failed: bool = False) -> None:
    """Ask every site on the run's list, or those that failed, to go back, newest wave first, but for those that are on
    their way.

    A site that has not answered yet is asked, too, so that a late request finds a newer one there.
    """
    now, fleet = ports.clock.now(), ports.configs.fleet(run.loop)
    here = {s.name: s for s in fleet.sites}
    known = here if run.limits.rollout.rollback_in_windows else {}
    changes = []
    for _, row in reversed(rows(ports, run.id)):
        if row.wave > through or row.status == "removed" or (only_failed and not (row.failed and row.site in here)):
            continue
        if row.site in known and not windows.open_at(known[row.site], now, fleet.blackouts):
            continue
        state = state_of(ports, run.loop, row.site)
        if state.run != run.id and (row.status == "waiting" or only_failed):
            continue  # it was not asked for anything, or has been since
        if state.run == run.id and state.action == "rollback" and state.status != "asked":
            continue
        changes.append(
            replace(
                _deployment(run, row.wave, row.site, now),
                id=f"{run.id}/{row.site}/rollback",
                action="rollback",
                candidate=_way_back(ports, state, run),
                fence=_fence(run, state, back=True),
                reason=row.failed if only_failed else reason,
            )
        )
    _ask(ports, changes)


def carry_on(ports: Ports, run: Run, scoped: Collection[str] = ()) -> None:
    """What a window, a freeze, a crash, a late site or a changed fleet has left to be done for a run's sites."""
    _drop_removed(ports, run)
    if run.phase is Phase.ROLLING_BACK:
        roll_back(ports, run, run.wave, run.because)
    _look_at_underway(ports, run)
    if run.phase in _OUT or _begun(run):
        _defer_late(ports, run)
        ask_waiting(ports, run, scoped)


def mend(ports: Ports, run: Run) -> None:
    """Carry to a run's list what a crash has left at its sites."""
    fleet = {s.name for s in ports.configs.fleet(run.loop).sites}
    for _, row in rows(ports, run.id):
        state = state_of(ports, run.loop, row.site)
        if state.run == run.id and state.status != row.status and (row.status != "removed" or row.site in fleet):
            follow_up(ports, run.loop, row.site, state)


def _look_at_underway(ports: Ports, run: Run) -> None:
    """What its executor has begun goes on."""
    now = ports.clock.now()
    for row in (row for _, row in rows(ports, run.id) if row.status == "underway"):
        state = state_of(ports, run.loop, row.site)
        if state.run == run.id and state.action != "adopt":
            _look_again(ports, _change(state, run.loop, row.site, state.action, now), state)


def _drop_removed(ports: Ports, run: Run) -> None:
    """Nobody waits for sites that are no longer of the fleet."""
    fleet = {s.name for s in ports.configs.fleet(run.loop).sites}
    back = run.phase is Phase.ROLLING_BACK
    settled = ("restored", "stuck", "removed") if back else ("verified", "failed", "restored", "removed")
    gone = [(k, row) for k, row in rows(ports, run.id) if row.site not in fleet and row.status not in settled]
    _mark(ports, run, gone, "removed", {row.site: "no longer of the fleet" for _, row in gone})


def _defer_late(ports: Ports, run: Run) -> None:
    """A site that took the candidate and has not shown itself well in time is not waited for: silence is no proof."""
    if run.paused:
        return
    now, hold = ports.clock.now(), hold_of(ports, run)
    for _, row in rows(ports, run.id):
        site = hold.fleet.site(row.site) if row.status in _TRYING else None
        if site is None:
            continue
        needed = hold.needed(site)

        def attempt(name: str = row.site, needed: timedelta = needed) -> SiteState | None:
            unit = Unit(ports.store, site_partition(run.loop, name))
            state = unit.get(SITE, SiteState)
            if state is None or state.run != run.id or state.status not in _TRYING or state.asked is None:
                return None
            if not rollout.late(state.asked, needed, run.limits.rollout, now):
                return None
            why = f"not well within {run.limits.rollout.deadline}: {state.reason or 'silent'}"
            unit.put(SITE, deferred := replace(state, status="deferred", reason=why))
            unit.commit()
            return deferred

        if deferred := again(attempt):
            follow_up(ports, run.loop, row.site, deferred)


_TRYING: tuple[rollout.SiteStatus, ...] = ("underway", "applied", "soaking")


def take_in(ports: Ports, loop: str, champion: str, run: Run | None, scoped: Collection[str]) -> None:
    """Sites that have joined the fleet get the loop's champion by the `run` that made it, and go back, where it does
    badly there, to what that run took the place of; where none made it, it is taken to be there. Those `scoped` have a
    champion of their own."""
    fleet = ports.configs.fleet(loop)
    listed = {row.site for _, row in rows(ports, run.id)} if run else set()
    for site in fleet.sites:
        if site.name in listed or site.name in scoped:
            continue
        if run is None:
            adopt(ports, loop, site.name, champion)
        else:
            _list(ports, run, _wave_of(run, fleet, site), [site.name])


def _wave_of(run: Run, fleet: Fleet, site: Site) -> int:
    """The last wave of a site's ring, or of all."""
    ring = rollout.ring_of(site, rollout.rings(fleet, run.limits.rollout))
    return max((i for i, wave in enumerate(run.waves) if wave.ring == ring), default=len(run.waves) - 1)


def _way_back(ports: Ports, state: SiteState, run: Run) -> str:
    """The candidate that a site goes back to from this run; where the run has not reached it, it stays. What an earlier
    run was taken back from is none: it is what that run took the place of. A site that has just joined gets what the
    others go back to."""
    if state.run == run.id:
        found = state.before
    elif state.action == "rollback":
        found = state.candidate
    elif state.run and _taken_back(ports, state.run):
        found = state.before
    else:
        found = state.last_good
    return found or run.champion


def _taken_back(ports: Ports, run_id: str) -> bool:
    record = ports.store.get(loop_of(run_id), f"run/{run_id}")
    return record is not None and codec.decode(record.value, Run).phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)


def fence(run_id: str, back: bool = False) -> int:
    """Later runs win over earlier ones, and a run's way back over its way out. Two above are for who converges.

    >>> fence("flights.2013-04-12.7"), fence("flights.2013-04-12.7", back=True)
    (28, 29)
    """
    return 4 * int(run_id.rsplit(".", 1)[1]) + back


def _fence(run: Run, state: SiteState, back: bool = False) -> int:
    """Of a run at a site: its own; but where a later run has taken the site back, what was verified before passes it,
    and stays below the next."""
    own = fence(run.id, back)
    if state.run == run.id:
        return max(own, state.fence & ~1 | back)
    if back or run.phase is not Phase.VERIFIED or state.action != "rollback" or state.fence < own:
        return own
    return state.fence & ~3 | 2


def _deployment(run: Run, wave: int, site: str, now: datetime, over: int = 0) -> Change:
    return Change(
        id=f"{run.id}/{site}/deploy",
        loop=run.loop,
        site=site,
        run=run.id,
        wave=wave,
        candidate=run.candidate,
        action="deploy",
        fence=over or fence(run.id),
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


TOLD = ("requested", "started", "succeeded", "failed", "deferred", "rolledback")
"""What is told of a change at a site: asked for, begun, verified by the site's telemetry, failed, put off until the
site is back, back to what was before."""


def event_schema() -> dict[str, Any]:
    """The published JSON Schema (2020-12) of these events."""
    change = undented(msgspec.json.schema(Change)["$defs"]["Change"])
    given = {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "description": "the same when it is told again"},
        "source": {"type": "string", "pattern": "^/driftloop/"},
        "type": {"enum": [f"driftloop.deployment.{what}" for what in TOLD]},
        "subject": {"type": "string", "description": "the site"},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"const": "application/json"},
        "data": change,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "deployment events of driftloop",
        "type": "object",
        "properties": given,
        "required": list(given),
    }


def deploy(ports: Ports, change: Change) -> None:
    """Perform one request at one site: intent first, then the call, then what came of it.

    What is finished with is removed only where the site is seen to serve what took its place, and nothing is frozen.
    A request with an older fence than the site has seen changes nothing, nor does one that its run no longer wants.
    Raises Refused for one that its run never made.
    """
    if change.action == "finish":
        now = state_of(ports, change.loop, change.site)
        served = now.status in ("verified", "restored") and now.candidate == now.last_good == change.candidate
        if served and not frozen(ports, change.loop, change.site):
            ports.executor.finish(change)
        return
    if not _wanted(ports, change):
        return
    if change.action == "deploy" and _held(ports, change):
        return  # stays on the run's list: the sweep asks again when it may
    state = again(lambda: _intend(ports, change))
    if state is None:
        return
    limits, back = ports.configs.loop(change.loop).rollout, change.action == "rollback"
    shown = state.health is not None and rollout.proven(state.health, limits, ports.clock.now())
    try:
        if why := candidates.revoked(ports, change.loop, change.candidate):
            raise Refused(why)
        if not back and frozen(ports, change.loop, change.site):
            return  # since it was written; what goes on after the freeze asks again
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
        _look_again(ports, change, state)
        follow_up(ports, change.loop, change.site, state)


def _look_again(ports: Ports, change: Change, state: SiteState) -> None:
    """At the next even time of the pace: one message, however many ask for it."""
    now = ports.clock.now()
    lasts = now - state.health.since if state.health else timedelta(0)
    pace = next((p for p in _PACES if p <= lasts / 8), _PACES[-1])
    due = now - (now - _EPOCH) % pace + pace
    body = msgspec.json.encode(change)
    name = codec.short(f"{change.id}/{change.fence}/{due:%Y%m%dT%H%M}")
    ports.bus.send("deployments", [Message(id=name, body=body, session=change.site, at=due)])


def finish(ports: Ports, run_id: str, names: Sequence[str]) -> None:
    """Nobody goes back on these sites' change: what it took the place of may go."""
    loop, now = loop_of(run_id), ports.clock.now()
    for site in names:
        change = replace(_change(state_of(ports, loop, site), loop, site, "deploy", now), action="finish")
        name = codec.short(f"{change.id}/finish")
        ports.bus.send("deployments", [Message(id=name, body=msgspec.json.encode(change), session=site)])


_OUT = (Phase.ROLLING_OUT, Phase.VERIFIED)
_BACK = (Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.VERIFIED)


def _wanted(ports: Ports, change: Change) -> bool:
    """Whether a request is what an approved run, or its way back, asks of this site now."""
    run = _run(ports, change.run)
    row = codec.decode(_need(ports, rollout_partition(run.id), f"{change.wave:04}/{change.site}"), RolloutRow)
    back = change.action == "rollback"
    state = state_of(ports, run.loop, change.site)
    candidate = _way_back(ports, state, run) if back else run.candidate
    fences = {fence(run.id, back)}
    if state.run == run.id or _head(ports, run.loop).champion == run.candidate:
        fences.add(_fence(run, state, back))
    if state.change == change.id:
        fences.add(state.fence)
    late = run.phase is Phase.VERIFIED and change.fence < state.fence  # changes nothing
    if change.candidate != candidate or not (change.fence in fences or late):
        raise Refused(f"{run.id} does not ask for {change.candidate[:12]} at {change.site}", run=run.id)
    out = run.phase in _OUT or _begun(run)
    return run.phase in _BACK or (out and bool(row.failed)) if back else out and not row.failed


def _head(ports: Ports, loop: str) -> Head:
    record = ports.store.get(loop, "head")
    return codec.decode(record.value, Head) if record else Head()


def _begun(run: Run) -> bool:
    """By rule; a person answers for the rest."""
    return run.phase is Phase.AWAITING_APPROVAL and bool(run.times)


def _held(ports: Ports, change: Change) -> str:
    """Why a deployment must not begin now: since it was asked for, a window may have closed, or a freeze begun."""
    run = codec.decode(_need(ports, change.loop, f"run/{change.run}"), Run)
    hold = hold_of(ports, run)
    site = hold.fleet.site(change.site)
    if site is None:
        return f"{change.site} is no longer of the fleet"
    if run.paused:
        return run.paused.reason
    state = state_of(ports, change.loop, change.site)
    row = codec.decode(_need(ports, rollout_partition(run.id), f"{change.wave:04}/{change.site}"), RolloutRow)
    if row.status == "waiting" if state.run != run.id else _as_before(state) and not _is_asked(row):
        return f"it is no longer asked: {row.reason}"  # its turn has gone to another site
    if state.change == change.id and state.status == "underway":
        return hold.frozen(change.site)  # what has begun is not left half done when a window closes
    begun = state.change == change.id and state.status == "deferred" and state.step
    if begun or run.phase is Phase.VERIFIED:
        if _full(ports, run, change.site):
            return "as many sites as may be are being changed"  # its place has gone to another while it was away
        if not begun and _head(ports, run.loop).active:
            return "another run is at work"  # which counts those that it asks: this one is asked again after it
    return hold.why(site, ports.clock.now())


def _full(ports: Ports, run: Run, site: str) -> bool:
    """Whether others take every place among the sites that change at once, or have been asked to. Who waits to go on,
    as this one does, takes none."""
    state = states(ports, run.loop)
    others = {name for name, s in state.items() if s.status in rollout.UPDATING}
    for _, row in rows(ports, run.id):
        if row.status == "asked" or (_is_asked(row) and row.site in state and _as_before(state[row.site])):
            others.add(row.site)
    total = sum(w.sites for w in run.waves)
    return not rollout.room(run.limits.rollout, total, len(others - {site}), 0).at_once


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
        before=_way_back(ports, state, _run(ports, change.run)),
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
    if (
        state.status not in ("asked", "underway", "applied", "soaking", "verified", "deferred")
        or state.action != "deploy"
    ):
        return state
    health = health.heard(end, batch.serving.requests, batch.serving.errors, batch.serving.p95_ms, limits)
    verdict = rollout.judge_site(health, limits, now)
    if verdict.outcome == "failed":
        return replace(state, health=health, status="failed", reason=f"{batch.site}: {verdict.reason}")
    if state.step:  # the last step is not taken yet
        return replace(state, health=health)
    state = replace(state, health=health, reason=verdict.reason)
    if verdict.passed:
        return replace(state, status="verified", last_good=state.candidate)
    return state if state.status == "verified" else replace(state, status="soaking")


def returned(state: SiteState) -> bool:
    """A deferred site speaks again, and does not yet serve what it should, or not alone."""
    return state.status == "deferred" and (state.observed != state.candidate or bool(state.step))


def ask_returned(ports: Ports, loop: str, site: str, state: SiteState) -> None:
    """Ask a site that speaks again to go on with what has begun there, or back; what has not, begins in its turn."""
    if state.action == "adopt" or state.observed_at is None or _as_before(state):
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
        failed = row.failed or (state.reason or "failed" if state.status == "failed" else "")
        new = replace(row, status=state.status, reason=state.reason, failed=failed, at=now)
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
        if state.status == "restored" or (
            state.status == "verified" and _run(ports, state.run).phase is Phase.VERIFIED
        ):
            finish(ports, state.run, [site])
    if state.status in ("verified", "failed", "deferred", "restored", "stuck"):
        report(ports, state.run)


def report(ports: Ports, run_id: str) -> None:
    """Tell a run how its wave, or its way back, stands, where that decides something; sites that failed go back, also
    where the rollout goes on without them."""
    run, now = _run(ports, run_id), ports.clock.now()
    listed = [row for _, row in rows(ports, run_id)]
    because = next((r.failed for r in listed if r.failed), "")
    if because and (run.phase in _OUT or _begun(run)):
        roll_back(ports, run, run.wave, because, only_failed=True)
    event: WaveReported | RollbackReported
    if run.phase is Phase.ROLLING_OUT or _begun(run):
        counts = rollout.count(((r.wave, r.counted) for r in listed), run.wave, run.waves[run.wave].sites)
        verified, failed, deferred, pending, removed = counts
        if pending and not failed:
            return
        measured = _measured(ports, run, [r.site for r in listed if r.wave == run.wave])
        event = WaveReported(
            id=wave_report_id(run_id, run.wave, (*counts, measured.rows, measured.labels)),
            run=run_id,
            at=now,
            wave=run.wave,
            verified=verified,
            failed=failed,
            deferred=deferred,
            pending=pending,
            removed=removed,
            because=because,
            measured=measured,
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
        return
    hand_on(ports.bus, event)


def _measured(ports: Ports, run: Run, wave: Sequence[str]) -> Measured:
    """What the wave's sites show of the candidate together, where the limits ask for it."""
    limits = run.limits.rollout
    if limits.max_score_drift is None and limits.max_metric_loss is None:
        return Measured()
    from drift.showing import shown
    from drift.windows import Window

    evidence: dict[str, Any] = msgspec.json.decode(ports.blobs.get(f"evidence/{run.evidence}.json"))
    metric, expected = evidence["metric"], evidence["challenger_value"]
    found = [
        Window.from_bytes(record.value)
        for site in wave
        for record in ports.store.scan(site_partition(run.loop, site), f"window/{run.candidate}/")
    ]
    now = shown(candidates.reference(ports, run.candidate), found, metric)
    loss = None if expected is None else (expected - now.value if metric == "auc" else now.value - expected)
    return Measured(
        rows=now.rows,
        score_drift=None if isnan(now.score_drift) else now.score_drift,
        labels=now.labels,
        metric=metric,
        metric_loss=None if loss is None or isnan(loss) else loss,
    )


def _count_back(listed: Iterable[RolloutRow]) -> tuple[int, int, int, int]:
    """(restored, deferred, stuck, pending); a site that was never asked has nowhere to go back from, and nobody waits
    for one that is no longer of the fleet."""
    statuses = [r.status for r in listed if r.status not in ("waiting", "removed")]
    restored, deferred, stuck = (statuses.count(s) for s in ("restored", "deferred", "stuck"))
    return restored, deferred, stuck, len(statuses) - restored - deferred - stuck


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


def _run(ports: Ports, run_id: str) -> Run:
    return codec.decode(_need(ports, loop_of(run_id), f"run/{run_id}"), Run)


def _need(ports: Ports, partition: str, key: str) -> bytes:
    record = ports.store.get(partition, key)
    if record is None:
        raise Refused(f"{partition}: no {key}", key=key)
    return record.value
