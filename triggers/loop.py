"""The shell: load, decide, save, send. The core decides; this asks the ports to remember it and to do it.

State and outbox are one write, and what is sent is sent after it; whatever a crash leaves unsent, the next call or the
sweep sends. What computes with numpy is imported where it is used: most invocations do without.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from triggers import approval, asking, candidates, codec, intake, lifecycle, notices, policy, rebuild, sites, training
from triggers import effects as do
from triggers import events as on
from triggers.compute import choose
from triggers.config import Fleet, Loop, duration, rate
from triggers.errors import Conflict, Misconfigured, NotFound, Refused, Retry
from triggers.ports import Message, Ports, Put
from triggers.records import (
    AuditEntry,
    BatchRecord,
    Freeze,
    Head,
    LoopUnit,
    MaintenanceEvent,
    Outbox,
    Revoked,
    Unit,
    WaitingModel,
    again,
    hand_on,
    loop_of,
    site_partition,
)
from triggers.run import Limits, Phase, Run

if TYPE_CHECKING:
    from drift.report import Limits as DriftLimits
    from drift.report import Report

replace = msgspec.structs.replace

MAINTENANCE = "driftloop.site.maintenance"
"""The type of the event that says that somebody should have a look at a site."""


class Detector(msgspec.Struct, frozen=True, kw_only=True):
    """Drift evidence so far for one candidate, and up to which window of each site it has been used."""

    state: bytes = b""
    cursor: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found: the report per candidate, and what was decided."""

    reports: Mapping[str, Report]
    decision: policy.Decision
    run: str = ""


# --- the drift check


def check(ports: Ports, loop_name: str) -> Checked:
    """Assess what was not yet assessed, decide, and save both in one write with the run that may follow."""
    intake.join(ports, loop_name)
    checked = again(lambda: _check(ports, loop_name))
    if checked.run:
        flush(ports, checked.run)
    if checked.decision.maintenance:
        tell_maintenance(ports, loop_name)
    _tell_held(ports, checked.decision)
    _anchor(ports, loop_name)
    return checked


def _tell_held(ports: Ports, decision: policy.Decision) -> None:
    """Drift that began nothing, and why not."""
    what, _, why = decision.reason.partition("; held: ")
    if not why:
        return
    card = {
        "id": f"drift/{decision.loop}/{decision.at:%Y%m%dT%H%M%S}",
        "kind": "drift",
        "loop": decision.loop,
        "title": f"{decision.loop}: drift, and no retraining",
        "text": f"{why}; {notices.plain(what)}",
        "facts": {"scope": decision.scope},
        "link": "/api/ui/",
    }
    with suppress(Retry, Refused, Misconfigured):  # the dashboard says it too
        notices.tell(ports, decision.loop, card)


def note_check(ports: Ports, loop_name: str, by: str, reason: str) -> None:
    """That somebody asked for a check."""

    def attempt() -> None:
        unit = LoopUnit(ports.store, loop_name, ports.clock.now())
        unit.note("check-asked", loop_name, reason, by)
        unit.commit()

    again(attempt)


def _anchor(ports: Ports, loop_name: str) -> None:
    """Keep where the audit trail ends apart from it, once for each check: a blob's name says it all."""
    end = head(ports, loop_name)
    if end.audit:
        ports.blobs.put(f"anchors/{loop_name}/{ports.clock.now():%Y-%m-%d}/{end.audit:012}-{end.audit_hash}", b"")


def _check(ports: Ports, loop_name: str) -> Checked:
    loop, fleet, now = ports.configs.loop(loop_name), ports.configs.fleet(loop_name), ports.clock.now()
    unit = LoopUnit(ports.store, loop_name, now)
    stamp = f"{now:%Y-%m-%dT%H%M%S}"
    if made := unit.get(f"decision/{stamp}", policy.Decision):
        return Checked({}, made)  # a timer that came twice
    reports, findings = _assess(ports, unit, loop, fleet)
    told = [codec.decode(value, policy.Finding) for _, value in unit.scan("signal/")]
    findings += told
    labels = _labels(unit)
    may_begin = findings and not unit.head.active and not policy.cooling(unit.head.history, now, loop)
    weighed = policy.Weighed(
        findings=tuple(findings),
        loop=rebuild.keep(ports.blobs, loop),
        fleet=rebuild.keep(ports.blobs, fleet),
        history=unit.head.history,
        active=tuple(sorted(unit.head.active.values())),
        rows=_labelled_rows(ports, loop, fleet, now) if may_begin else 0,
        frozen=sites.frozen(ports, loop_name),
        fresh=bool(told) or any(report.windows for report in reports.values()),
        unlabelled=_unlabelled(loop, labels),
        rules=policy.RULES,
    )
    decision, history = policy.weigh(now, weighed, loop, fleet)
    decision = replace(decision, weighed=rebuild.keep(ports.blobs, weighed))
    for key, _ in list(unit.scan("signal/")):
        unit.delete(key)
    unit.put(f"decision/{stamp}", decision)
    unit.set_head(history=history)
    for candidate, report in reports.items():
        ports.blobs.put(f"reports/{loop_name}/{stamp}-{candidate[:12]}.json", msgspec.json.encode(report.to_dict()))
    run = ""
    if decision.action == "retrain":
        run = _begin(unit, decision, loop, data=_use_labels(unit, loop, labels))
    elif decision.findings:
        if (why := _unlabelled(loop, labels)) and decision.reason.endswith(f"held: {why}"):
            _keep_labels(unit, {**labels, "waiting": decision.reason})
        unit.note("held", loop_name, decision.reason, scope=decision.scope, weighed=decision.weighed)
    if decision.maintenance:
        unit.put(f"maintenance/{stamp}", MaintenanceEvent(at=now, sites=decision.maintenance))
        unit.note(
            "maintenance", loop_name, _in_words(decision.maintenance), sites=[m.site for m in decision.maintenance]
        )
    unit.commit()
    return Checked(reports, decision, run)


def tell_maintenance(ports: Ports, loop_name: str) -> None:
    """Publish and tell what somebody should look at and was not told of; told twice, it bears the same id."""
    for record in list(ports.store.scan(loop_name, "maintenance/")):
        found = codec.decode(record.value, MaintenanceEvent)
        if found.told:
            continue
        name = f"maintenance/{loop_name}/{found.at:%Y%m%dT%H%M%S}"
        ports.topic.publish(
            [
                {
                    "specversion": "1.0",
                    "id": f"{name}/{wanted.site}",
                    "source": "/driftloop/checks",
                    "type": MAINTENANCE,
                    "subject": f"{loop_name}/{wanted.site}",
                    "time": found.at.isoformat(),
                    "data": {"loop": loop_name, "at": found.at.isoformat(), **msgspec.to_builtins(wanted)},
                }
                for wanted in found.sites
            ]
        )
        count = len(found.sites)
        notices.tell(
            ports,
            loop_name,
            {
                "id": name,
                "kind": "maintenance",
                "loop": loop_name,
                "title": f"{loop_name}: {count} site{'s' * (count > 1)} to look at",
                "text": _in_words(found.sites),
                "facts": {"sites": [m.site for m in found.sites[:20]]},
                "link": "/api/ui/",
            },
        )
        with suppress(Conflict):
            ports.store.commit(loop_name, [Put(record.key, codec.encode(replace(found, told=True)), record.version)])


def _in_words(wanted: Sequence[policy.Maintenance], most: int = 5) -> str:
    more = f"; and {len(wanted) - most} more sites" if len(wanted) > most else ""
    return "; ".join(f"{m.site}: {m.reason}" for m in wanted[:most]) + more


def _assess(ports: Ports, unit: LoopUnit, loop: Loop, fleet: Fleet) -> tuple[dict[str, Report], list[policy.Finding]]:
    """One report per champion that sites serve; each window is evidence once."""
    from drift.detectors import State
    from drift.report import assess
    from drift.windows import Window

    settled = unit.now - duration(loop.telemetry.settle) - duration(loop.telemetry.window)
    reports: dict[str, Report] = {}
    findings: list[policy.Finding] = []
    for candidate in sorted({unit.head.champion, *unit.head.scoped.values()} - {""}):
        key = f"detector/{candidate}"
        detector = unit.get(key, Detector) or Detector()
        cursor, windows = dict(detector.cursor), []
        for site in fleet.sites:
            if unit.head.champion_of(site.name) != candidate:
                continue
            prefix = f"window/{candidate}/"
            after = f"{prefix}{cursor.get(site.name, -1):012}" if site.name in cursor else prefix
            for record in ports.store.scan(site_partition(loop.loop, site.name), prefix, after):
                window = Window.from_bytes(record.value)
                if window.start > settled.timestamp():
                    break
                cursor[site.name] = window.start
                windows.append(window)
        here = [s.name for s in fleet.sites if unit.head.champion_of(s.name) == candidate]
        limits = drift_limits(loop, fleet, here, int(settled.timestamp()))
        state = State.from_bytes(detector.state) if detector.state else None
        report, after_state = assess(candidates.reference(ports, candidate), windows, state, limits)
        unit.put(key, Detector(state=after_state.to_bytes(), cursor=cursor))
        reports[candidate] = report
        findings += [
            policy.Finding(
                kind=f.kind,
                statistical=f.statistical,
                scope=f.scope,
                sites=tuple(f.sites),
                features=tuple(f.features),
                reason=f.reason,
                covered=f.covered,
            )
            for f in report.findings
            if report.windows or not f.statistical
        ]
    return reports, findings


def drift_limits(loop: Loop, fleet: Fleet, sites_: Sequence[str], until: int) -> DriftLimits:
    """loop.yaml's drift section, as drift/ wants it; `until` is up to when telemetry should be complete."""
    from drift.report import Limits as DriftLimits

    alarms, per = rate(loop.drift.false_alarms)
    return DriftLimits(
        false_alarms=alarms,
        per_seconds=per.total_seconds(),
        minimum_rows=loop.drift.minimum_rows,
        missing=loop.drift.quality.missing,
        range=loop.drift.quality.range,
        unseen=loop.drift.quality.unseen,
        quality_rows=loop.drift.quality.minimum_rows,
        cohort_quorum=loop.drift.quorum.cohort,
        fleet_quorum=loop.drift.quorum.fleet,
        silence_seconds=int(duration(loop.telemetry.silence).total_seconds()),
        cohorts={s.name: s.cohort for s in fleet.sites if s.name in sites_},
        until=until,
        window_seconds=int(duration(loop.telemetry.window).total_seconds()),
    )


def _labelled_rows(ports: Ports, loop: Loop, fleet: Fleet, now: datetime) -> int:
    """How many labelled rows a training that began now could use: those that may leave their sites, or, where none
    may, those of the site that has most."""
    from drift.windows import Window

    end = now - duration(loop.training.holdout)
    start = end - duration(loop.training.window)
    found: dict[str, int] = {}
    leaving = [s for s in fleet.sites if s.data == "may-leave"]
    for site in leaving or fleet.sites:
        for record in ports.store.scan(site_partition(loop.loop, site.name), "window/"):
            at = int(record.key.rsplit("/", 1)[1])
            if start.timestamp() <= at < end.timestamp():
                found[site.name] = found.get(site.name, 0) + Window.from_bytes(record.value).outcomes.labels
    return sum(found.values()) if leaving else max(found.values(), default=0)


# --- runs


def _begin(
    unit: LoopUnit,
    decision: policy.Decision,
    loop: Loop,
    candidate: str = "",
    requested_by: tuple[str, ...] = (),
    **train: Any,
) -> str:
    """`train`: what the first job works on, where that is not what the sites sent."""
    number = unit.head.counter + 1
    run_id = f"{loop.loop}.{decision.at:%Y-%m-%d}.{number}"
    champion = unit.head.champion_of(decision.sites[0]) if decision.sites else unit.head.champion
    limits = Limits(
        training=loop.training,
        gates=loop.gates,
        rollout=loop.rollout,
        approval=loop.approval,
        evaluation_timeout=loop.evaluation.timeout,
    )
    if candidate:
        step = lifecycle.enter(decision, run_id, champion, candidate, limits, requested_by)
    else:
        step = lifecycle.begin(decision, run_id, champion, limits, requested_by=requested_by, **train)
    unit.set_head(counter=number, active={**unit.head.active, decision.scope: run_id})
    unit.put(f"run/{run_id}", step.run)
    title = f"{loop.loop}: {'a run was asked for' if requested_by else 'drift, and a retraining begins'}"
    told = do.Announce(kind="began", title=title, text=notices.plain(decision.reason))
    unit.post(run_id, "begin", (*step.effects, told))
    began = {"champion": champion, "candidate": candidate, "run": msgspec.to_builtins(step.run)}
    began |= {"weighed": decision.weighed} if decision.weighed else {}
    unit.note("run-began", run_id, decision.reason, scope=decision.scope, **began)
    return run_id


def submit(ports: Ports, loop_name: str, candidate: str, by: str, reason: str) -> str:
    """A candidate that somebody else made enters at the gate. Raises Refused while another run is active, and where
    it is revoked."""
    candidates.manifest(ports, candidate)
    _refuse_revoked(ports, loop_name, candidate)
    return _start(ports, loop_name, reason, by, candidate)


def retrain(ports: Ports, loop_name: str, by: str, reason: str, account: str = "", *, supersede: bool = False) -> str:
    """A person wants a retraining now: hysteresis, cooldown and budget are theirs to judge. `account`: their id.

    With `supersede` it takes the place of runs that nobody has answered and that have reached no site, in the same
    write. Raises Refused where another run is active that it may not, or was not asked to, take the place of.
    """
    return _start(ports, loop_name, reason, by, account=account, supersede=supersede)


def _start(
    ports: Ports,
    loop_name: str,
    reason: str,
    by: str,
    candidate: str = "",
    account: str = "",
    supersede: bool = False,
    **train: Any,
) -> str:
    loop = ports.configs.loop(loop_name)
    ended: list[str] = []

    def attempt() -> str:
        unit = LoopUnit(ports.store, loop_name, ports.clock.now())
        model = train.get("model", "")
        known, waiting = (f"{kind}/{codec.short(model)}" for kind in ("model", "waiting"))
        if model and (begun := unit.raw(known)):
            return begun.decode()
        ended[:] = sorted(unit.head.active.values()) if supersede else []
        why = _in_the_way(unit, supersede) or sites.frozen(ports, loop_name)
        if why and model:
            if unit.raw(waiting) is None:
                unit.put(waiting, WaitingModel(at=unit.now, by=by, **train))
                unit.note("model-waits", model, why, by)
                unit.commit()
            return ""
        choice = choose(None, loop, ports.configs.fleet(loop_name))
        if why := why or ("" if choice.where else choice.reason):
            if model:
                unit.delete(waiting)
                unit.note("model-refused", model, why, by)
                unit.commit()
            raise Refused(why, loop=loop_name)
        words = f"asked for by {by}: {reason}"
        decision = policy.Decision(loop=loop_name, at=unit.now, action="retrain", reason=words)
        if choice.where == "edge":
            decision = policy.placed(decision, choice)
        begun_with = train if candidate or train else {"data": _use_labels(unit, loop, _labels(unit))}
        requested_by = tuple(filter(None, (by, account)))
        run_id = _begin(unit, decision, loop, candidate, requested_by, **begun_with)
        for old in ended:
            _supersede(unit, old, run_id)
        if model:
            unit.put_raw(known, run_id.encode())
            unit.delete(waiting)
            _drop_older(unit, model)
        unit.commit()
        return run_id

    run_id = again(attempt)
    for each in (*ended, *filter(None, [run_id])):
        flush(ports, each)
    if not run_id:
        _make_way(ports, loop_name, train["model"])
    return run_id


def _in_the_way(unit: LoopUnit, supersede: bool) -> str:
    """Which active run keeps another from beginning; empty where none does."""
    for run_id in sorted(unit.head.active.values()):
        if not supersede:
            return f"{run_id} has not ended"
        run, request = unit.run(run_id), unit.get(f"approval/{run_id}", approval.Request)
        if run.times or not lifecycle.gives_way(run):
            return f"{run_id} is {run.phase} and has reached sites: take it back, or let it end"
        if request is not None and request.state in asking.ANSWERS:
            return f"{run_id} has been answered: cancel it, or let it end"
    return ""


def _supersede(unit: LoopUnit, run_id: str, by: str) -> None:
    """A run ends in favour of another, and its question is closed in the same write: no answer comes in between."""
    event = on.Superseded(id=f"superseded/{run_id}", run=run_id, at=unit.now, by=by)
    request = unit.get(f"approval/{run_id}", approval.Request)
    if request is not None and request.state == "open":
        unit.put(f"approval/{run_id}", replace(request, state="withdrawn", reason="superseded"))
        unit.note("approval-withdrawn", run_id, "superseded")
    _move(unit, event)


def _make_way(ports: Ports, loop_name: str, model: str) -> None:
    """A run for an older version of a registered model ends for the newer one that waits: until a person has let it
    roll out, the registry's newest version is what they should be asked about. Any other run goes on."""
    if sites.frozen(ports, loop_name):
        return
    for run in active_runs(ports, loop_name):
        if run.model and newer(model, run.model) and lifecycle.gives_way(run):
            event = on.Superseded(
                id=f"superseded/{run.id}/{len(run.times)}", run=run.id, at=ports.clock.now(), by=model
            )
            hand_on(ports.bus, event)


def _drop_older(unit: LoopUnit, model: str) -> None:
    """Older versions that wait will never be asked about."""
    for key, value in list(unit.scan("waiting/")):
        waiting = codec.decode(value, WaitingModel)
        if newer(model, waiting.model):
            unit.delete(key)
            unit.note("model-refused", waiting.model, f"superseded by {model}")


def newer(model: str, other: str) -> bool:
    """Whether a registered model is a later version than another; what has no number is as new as it comes.

    >>> newer("azureml:line:10", "azureml:line:9"), newer("azureml:line:9", "azureml:line:10")
    (True, False)
    """
    versions = [name.rpartition(":")[2] for name in (model, other)]
    if all(version.isdecimal() for version in versions):
        return int(versions[0]) > int(versions[1])
    return model != other


def registered(
    ports: Ports,
    loop_name: str,
    model: str,
    by: str,
    trained: tuple[str, str] | None = None,
    authors: tuple[str, ...] = (),
) -> str:
    """A model that somebody else registered (`model`: azureml:NAME:VERSION) becomes a candidate and goes to the gate,
    once. Rows within `trained` are no test of it; where nothing is said, no row is.

    While another run is active, or the loop is frozen, it waits, and the sweep lets it in; a run for an older version
    that nobody has let roll out ends for it. Raises Refused where there is no place to make a candidate of it. Either
    is in the audit trail.
    """
    return _start(ports, loop_name, f"{model} was registered", by, model=model, trained=trained, authors=authors)


def breached(ports: Ports, loop_name: str, event_id: str, reason: str) -> None:
    """A monitor of the training service says that something moved: evidence for the next check, once."""
    finding = policy.Finding(kind="monitor", statistical=False, scope="fleet", sites=(), features=(), reason=reason)

    def attempt() -> None:
        unit = LoopUnit(ports.store, loop_name, ports.clock.now())
        seen = f"signalled/{codec.short(event_id)}"
        if unit.raw(seen) is None:
            unit.put_raw(seen, b"1")
            unit.put(f"signal/{codec.short(event_id)}", finding)
            unit.note("monitor", loop_name, reason)
            unit.commit()

    again(attempt)


def labelled(ports: Ports, loop_name: str, version: str) -> str:
    """A new version of the labelled data asset that a loop waits for; the run that begins, where one was due."""
    loop = ports.configs.loop(loop_name)

    def attempt() -> str:
        unit = LoopUnit(ports.store, loop_name, ports.clock.now())
        labels = _labels(unit)
        if labels.get("version") == version:
            return ""
        waiting = labels.pop("waiting", "")
        _keep_labels(unit, {**labels, "version": version})
        unit.note("labels", loop_name, f"version {version} of {loop.training.labels} has come")
        unit.commit()
        return waiting

    if not (waiting := again(attempt)):
        return ""
    return _start(ports, loop_name, f"version {version} of {loop.training.labels} has come; {waiting}", "driftloop")


def _labels(unit: LoopUnit) -> dict[str, str]:
    """`version` of the labelled data asset that came last, the one `used` last, what is `waiting` for the next."""
    found: dict[str, str] = msgspec.json.decode(unit.raw("labels") or b"{}")
    return found


def _keep_labels(unit: LoopUnit, labels: Mapping[str, str]) -> None:
    unit.put_raw("labels", msgspec.json.encode(labels))


def _unlabelled(loop: Loop, labels: Mapping[str, str]) -> str:
    if loop.training.labels is None or labels.get("version", "") != labels.get("used", ""):
        return ""
    last = f" after {labels['used']}" if labels.get("used") else ""
    return f"waiting for a version of the labelled data asset {loop.training.labels}{last}"


def _use_labels(unit: LoopUnit, loop: Loop, labels: Mapping[str, str]) -> str:
    """The labelled data asset to train on, noted as used; empty where labels come from telemetry."""
    if loop.training.labels is None or not labels.get("version"):
        return ""
    _keep_labels(unit, {"version": labels["version"], "used": labels["version"]})
    return f"azureml:{loop.training.labels}:{labels['version']}"


def adopt(ports: Ports, loop_name: str, candidate: str, by: str) -> None:
    """The first champion: what the sites serve before driftloop has made anything."""
    candidates.manifest(ports, candidate)
    _refuse_revoked(ports, loop_name, candidate)

    def attempt() -> None:
        unit = LoopUnit(ports.store, loop_name, ports.clock.now())
        if unit.head.champion in ("", candidate):
            unit.set_head(champion=candidate)
            unit.note("adopted", candidate, "the first champion", by)
            unit.commit()
        else:
            raise Refused(f"{loop_name} has a champion already", champion=unit.head.champion)

    if LoopUnit(ports.store, loop_name, ports.clock.now()).head.champion != candidate:
        again(attempt)
    for site in ports.configs.fleet(loop_name).sites:
        sites.adopt(ports, loop_name, site.name, candidate)


def _refuse_revoked(ports: Ports, loop_name: str, candidate: str) -> None:
    if why := candidates.revoked(ports, loop_name, candidate):
        raise Refused(why, candidate=candidate)


def tell(ports: Ports, event: on.Event) -> Run:
    """Move one run by one event: load, advance, save with its effects in one write, send."""
    run = again(lambda: _tell(ports, event))
    flush(ports, event.run)
    if run.phase is Phase.VERIFIED:
        sites.report(ports, run.id)
        sites.finish(ports, run.id, [row.site for _, row in sites.rows(ports, run.id) if row.status == "verified"])
    return run


def _tell(ports: Ports, event: on.Event) -> Run:
    unit = LoopUnit(ports.store, loop_of(event.run), ports.clock.now())
    run = _move(unit, event)
    unit.commit()
    return run


def _move(unit: LoopUnit, event: on.Event) -> Run:
    """The run of an event moved by it, with its effects, if it moves."""
    before = unit.run(event.run)
    step = lifecycle.advance(before, event)
    if step.run == before:
        return before
    unit.put(f"run/{event.run}", step.run)
    unit.post(event.run, event.id, step.effects)
    unit.note(
        f"event-{event.__struct_config__.tag}",
        event.run,
        step.run.because,
        getattr(event, "by", "driftloop"),
        event=msgspec.to_builtins(event),
        phase=str(step.run.phase),
    )
    if step.run.phase.final:
        _end(unit, step.run)
    return step.run


def _end(unit: LoopUnit, run: Run) -> None:
    active = {scope: r for scope, r in unit.head.active.items() if r != run.id}
    unit.set_head(active=active, history=replace(unit.head.history, ended=unit.now))
    if run.phase is not Phase.VERIFIED:
        return
    if run.sites is None:
        unit.set_head(champion=run.candidate, scoped={})
    else:
        unit.set_head(scoped={**unit.head.scoped, **dict.fromkeys(run.sites, run.candidate)})


def flush(ports: Ports, run_id: str, mark: str = "") -> int:
    """Send what is in a run's outbox and not yet performed; a message sent twice is performed once.

    A queue drops what it was sent a while ago; with another `mark` it does not.
    """
    keys = [r.key for r in ports.store.scan(loop_of(run_id), f"outbox/{run_id}/")]
    if keys:
        ports.bus.send("effects", [Message(id=codec.short(key + mark), body=key.encode()) for key in keys])
    return len(keys)


def _unsent(ports: Ports, loop_name: str) -> list[str]:
    """The runs with something in the outbox, ended ones too."""
    return sorted({r.key.split("/")[1] for r in ports.store.scan(loop_name, "outbox/")})


# --- effects


def perform(ports: Ports, key: str) -> bool:
    """Perform one effect of an outbox, unless it is done, no longer wanted, or held by a freeze or by quiet hours.
    Raises Refused."""
    kind, _, rest = key.partition("/")
    run_id = rest.split("/", maxsplit=1)[0]
    if kind != "outbox" or not run_id:
        raise Refused(f"{key[:200]!r} is not the key of an effect")
    loop_name = loop_of(run_id)
    record = ports.store.get(loop_name, key)
    if record is None:
        return False
    effect = codec.decode(record.value, Outbox).effect
    run = LoopUnit(ports.store, loop_name, ports.clock.now()).run(run_id)
    if _wanted(run, effect):
        if not isinstance(effect, do.GOES_ON_WHILE_FROZEN) and _frozen(ports, run):
            return False
        if _PERFORM[type(effect)](ports, run, effect) is False:
            return False
        run = LoopUnit(ports.store, loop_name, ports.clock.now()).run(run_id)
    if isinstance(effect, do.Train | do.Evaluate):  # while it was being submitted, the run may have ended, or be frozen
        if run.phase.final:
            ports.jobs.cancel(effect.job)
        with suppress(Retry, Misconfigured):  # the sweep does it
            _cancel_frozen(ports, loop_name)
    try:
        unit = Unit(ports.store, loop_name)
        unit.delete(key)
        unit.commit()
    except Conflict:
        return False
    return True


def _frozen(ports: Ports, run: Run) -> str:
    """Why nothing new begins for a run: it, or the one site that it is for, is frozen."""
    return sites.frozen(ports, run.loop, run.sites[0] if run.sites and len(run.sites) == 1 else "")


_ONLY_IN: Mapping[type[do.Effect], tuple[Phase, ...]] = {
    do.Train: (Phase.TRAINING,),
    do.Evaluate: (Phase.EVALUATING,),
    do.AskApproval: (Phase.AWAITING_APPROVAL,),
    do.Remind: (Phase.AWAITING_APPROVAL,),
    do.DeployWave: (Phase.ROLLING_OUT,),
    do.RollBack: (Phase.ROLLING_BACK, Phase.ROLLED_BACK),  # its time may be over before anybody could be asked
}


def _wanted(run: Run, effect: do.Effect) -> bool:
    """An effect that waited (a freeze, a crash) may have been overtaken."""
    if run.phase not in _ONLY_IN.get(type(effect), (run.phase,)):
        return False
    return not isinstance(effect, do.DeployWave) or effect.wave == run.wave


def _cancel_job(ports: Ports, run: Run, effect: do.CancelJob) -> None:
    ports.jobs.cancel(effect.job)


def _deploy_wave(ports: Ports, run: Run, effect: do.DeployWave) -> None:
    until = sites.deploy_wave(ports, run, effect.wave)
    _set_deadline(ports, run, do.SetDeadline(phase=lifecycle.wave_deadline(run), at=until))
    sites.report(ports, run.id)


def _roll_back(ports: Ports, run: Run, effect: do.RollBack) -> None:
    sites.roll_back(ports, run, effect.through, effect.reason)
    sites.report(ports, run.id)


def _announce(ports: Ports, run: Run, effect: do.Announce) -> None:
    notices.tell(
        ports,
        run.loop,
        {
            "id": f"{run.id}/{effect.kind}",
            "kind": effect.kind,
            "loop": run.loop,
            "title": effect.title,
            "text": effect.text,
            "facts": {"run": run.id},
            "link": f"/api/runs/{run.id}",
        },
    )


def _set_deadline(ports: Ports, run: Run, effect: do.SetDeadline) -> None:
    event = on.DeadlinePassed(
        id=f"deadline/{run.id}/{effect.phase}/{effect.at:%Y%m%dT%H%M%S}", run=run.id, at=effect.at, phase=effect.phase
    )
    hand_on(ports.bus, event, effect.at)


_PERFORM: Mapping[type[do.Effect], Callable[[Ports, Run, Any], bool | None]] = {
    do.Train: training.train,
    do.Evaluate: training.evaluate,
    do.CancelJob: _cancel_job,
    do.AskApproval: asking.ask,
    do.Remind: asking.remind,
    do.WithdrawApproval: asking.withdraw,
    do.DeployWave: _deploy_wave,
    do.RollBack: _roll_back,
    do.Announce: _announce,
    do.SetDeadline: _set_deadline,
}


# --- what an operator does


def freeze(ports: Ports, target: str, by: str, reason: str) -> None:
    """Begin nothing new at `target`: "all", a loop, or "loop/site"."""
    _note_everywhere(ports, target, "frozen", reason, by)

    def attempt() -> None:
        unit = Unit(ports.store, "driftloop")
        unit.raw(f"freeze/{target}")
        unit.put(f"freeze/{target}", Freeze(by=by, at=ports.clock.now(), reason=reason))
        unit.commit()

    again(attempt)
    for name in ports.configs.loops():
        with suppress(Retry, Misconfigured):  # the sweep does it
            _cancel_frozen(ports, name)


def _cancel_frozen(ports: Ports, loop_name: str) -> None:
    """Cancel the runs whose jobs are at work although they, or the one site that they are for, are frozen."""
    for run in active_runs(ports, loop_name):
        if run.phase not in (Phase.TRAINING, Phase.EVALUATING):
            continue
        why = _frozen(ports, run)
        if why and ports.jobs.status(lifecycle.job(run)).state == "running":
            event = on.Cancelled(id=f"frozen/{run.id}", run=run.id, at=ports.clock.now(), by="driftloop", reason=why)
            hand_on(ports.bus, event)


def unfreeze(ports: Ports, target: str, by: str) -> None:
    """Go on where the freeze stopped: what waited is sent now."""
    _note_everywhere(ports, target, "unfrozen", "", by)

    def attempt() -> None:
        unit = Unit(ports.store, "driftloop")
        unit.delete(f"freeze/{target}")
        unit.commit()

    again(attempt)
    for name in ports.configs.loops():
        for run_id in _unsent(ports, name):
            flush(ports, run_id, f"/{ports.clock.now():%Y%m%dT%H%M%S}")
        for run in active_runs(ports, name):
            sites.carry_on(ports, run)


def revoke(ports: Ports, loop_name: str, candidate: str, by: str, reason: str) -> None:
    """No site of the loop is asked to serve this candidate from now on, on no way out or back; for good. What serves
    it already goes on. Raises NotFound."""
    if not _DIGEST.fullmatch(candidate) or not ports.blobs.exists(f"candidates/{candidate}/manifest.json"):
        raise NotFound(f"{loop_name}: no candidate {candidate[:100]!r}; expected the 64 digits of its digest")

    def attempt() -> None:
        unit = LoopUnit(ports.store, loop_name, ports.clock.now())
        if unit.raw(key := f"revoked/{candidate}") is None:
            unit.put(key, Revoked(by=by, at=unit.now, reason=reason))
            unit.note("revoked", candidate, reason, by)
            unit.commit()

    again(attempt)


_DIGEST = re.compile(r"[0-9a-f]{64}")


def _note_everywhere(ports: Ports, target: str, kind: str, text: str, by: str) -> None:
    names = ports.configs.loops() if target == "all" else [target.split("/", maxsplit=1)[0]]
    for name in names:

        def attempt(name: str = name) -> None:
            unit = LoopUnit(ports.store, name, ports.clock.now())
            unit.note(kind, target, text, by)
            unit.commit()

        again(attempt)


Asked = type[on.Cancelled] | type[on.RollBackAsked] | type[on.Paused] | type[on.Resumed]
"""What a person may want of a run."""


def ask(ports: Ports, run_id: str, what: Asked, by: str, reason: str) -> None:
    """A person cancels a run, wants the way back, or has a rollout paused or resumed."""
    run = LoopUnit(ports.store, loop_of(run_id), ports.clock.now()).run(run_id)
    if run.phase.final:
        raise Refused(f"{run_id} has ended: {run.phase}", run=run_id)
    if not lifecycle.heeds(run, what):
        wanted = {on.RollBackAsked: "take back", on.Paused: "pause", on.Resumed: "resume"}.get(what, "cancel")
        raise Refused(f"{run_id} is {run.phase}: nothing to {wanted}", run=run_id)
    now = ports.clock.now()
    event = what(id=f"{what.__name__}/{run_id}/{now:%Y%m%dT%H%M%S.%f}", run=run_id, at=now, by=by, reason=reason)
    hand_on(ports.bus, event)


# --- the sweep


def sweep(ports: Ports, loop_name: str) -> None:
    """Whatever a crash or a lost message left undone: unsent effects, lost job ends, sites' states not yet reported;
    labelled data of which nobody heard; a registered model that waited."""
    for run_id in _unsent(ports, loop_name):
        flush(ports, run_id)
    tell_maintenance(ports, loop_name)
    notices.flush(ports, loop_name)
    for run in active_runs(ports, loop_name):
        if run.phase in (Phase.TRAINING, Phase.EVALUATING):
            training.job_ended(ports, lifecycle.job(run))
        if run.phase in (Phase.ROLLING_OUT, Phase.ROLLING_BACK, Phase.AWAITING_APPROVAL):
            sites.mend(ports, run)
            sites.carry_on(ports, run)
            sites.report(ports, run.id)
        if run.phase is Phase.AWAITING_APPROVAL:
            asking.tell_again(ports, run)
    _cancel_frozen(ports, loop_name)
    if verified := [r for r in runs(ports, loop_name) if r.phase is Phase.VERIFIED]:
        sites.mend(ports, verified[-1])  # a site may fail late
        sites.report(ports, verified[-1].id)
    _converge(ports, loop_name)
    _warn_of_certificates(ports, loop_name)
    wanted = ports.configs.loop(loop_name).training.labels
    if wanted and (version := ports.jobs.newest(wanted)):
        labelled(ports, loop_name, version)
    waiting = [codec.decode(r.value, WaitingModel) for r in ports.store.scan(loop_name, "waiting/")]
    if waiting:
        first = min(waiting, key=lambda w: (any(newer(x.model, w.model) for x in waiting), w.at))
        registered(ports, loop_name, first.model, first.by, first.trained, first.authors)


_NOTICE = timedelta(days=14)
"""How long before the end of a cluster's certificate it is warned of; Azure lets it be renewed for 90 days."""


def _warn_of_certificates(ports: Ports, loop_name: str) -> None:
    """A cluster whose certificate has ended must be connected anew: somebody is told in time, once."""
    now = ports.clock.now()
    for site in ports.configs.fleet(loop_name).sites:
        end = site.certificate_expires
        if end is None or end - now > _NOTICE:
            continue
        key = f"warned/certificate/{site.name}/{end:%Y-%m-%d}"
        if ports.store.get(loop_name, key):
            continue
        notices.tell(
            ports,
            loop_name,
            {
                "id": f"{loop_name}/{key}",
                "kind": "certificate",
                "loop": loop_name,
                "title": f"{loop_name}: the certificate of {site.name} {'ends' if end > now else 'has ended'}",
                "text": f"on {end:%Y-%m-%d}: a cluster that is offline until then has to be connected to Azure anew",
                "facts": {"site": site.name, "cluster": site.resource_id},
                "link": "/api/ui/",
            },
        )
        with suppress(Conflict):
            ports.store.commit(loop_name, [Put(key, b"1")])


def _converge(ports: Ports, loop_name: str) -> None:
    """Between rollouts, sites that have joined the fleet or were away get what the others have."""
    now = head(ports, loop_name)
    if now.active or not now.champion:
        return
    made = [r for r in runs(ports, loop_name) if r.phase is Phase.VERIFIED and r.sites is None]
    run = made[-1] if made and made[-1].candidate == now.champion else None
    sites.take_in(ports, loop_name, now.champion, run, now.scoped)
    if run:
        sites.carry_on(ports, run, now.scoped)


def forget(ports: Ports, loop_name: str) -> None:
    """Drop what cannot come again: records of batches and predictions older than telemetry may be late, twice over."""
    loop, now = ports.configs.loop(loop_name), ports.clock.now()
    before = now - 2 * duration(loop.telemetry.lateness)
    for site in ports.configs.fleet(loop_name).sites:
        partition = site_partition(loop_name, site.name)
        old = [r.key for r in ports.store.scan(partition, "batch/") if codec.decode(r.value, BatchRecord).at < before]
        for kind in ("predictions/", "orphans/"):
            for record in ports.store.scan(partition, kind):
                if int(record.key.split("/")[1]) >= before.timestamp():
                    break
                old.append(record.key)
        for i in range(0, len(old), 90):
            unit = Unit(ports.store, partition)
            for key in old[i : i + 90]:
                unit.delete(key)
            unit.commit()


# --- reading


def active_runs(ports: Ports, loop_name: str) -> list[Run]:
    """The runs that have not ended."""
    unit = LoopUnit(ports.store, loop_name, ports.clock.now())
    return [unit.run(run_id) for run_id in sorted(unit.head.active.values())]


def runs(ports: Ports, loop_name: str) -> list[Run]:
    """Every run of a loop, by start."""
    found = [codec.decode(r.value, Run) for r in ports.store.scan(loop_name, "run/")]
    return sorted(found, key=lambda r: int(r.id.rsplit(".", 1)[1]))


def story(ports: Ports, loop_name: str, subject: str = "", after: int = 0) -> list[AuditEntry]:
    """The audit trail of a loop, or of one run, from the entry after `after` on."""
    begin = f"audit/{after:012}" if after else ""
    entries = (codec.decode(r.value, AuditEntry) for r in ports.store.scan(loop_name, "audit/", begin))
    return [e for e in entries if not subject or e.subject == subject]


def head(ports: Ports, loop_name: str) -> Head:
    """Champion, active runs and counters of a loop."""
    return LoopUnit(ports.store, loop_name, ports.clock.now()).head
