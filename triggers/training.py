"""Jobs are submitted for a run, and their end becomes the run's event."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from triggers import candidates, codec, gates
from triggers import effects as do
from triggers import events as on
from triggers.config import Fleet, duration
from triggers.errors import Refused
from triggers.ports import Job, Ports
from triggers.records import LoopUnit, hand_on, loop_of
from triggers.run import Run


def train(ports: Ports, run: Run, effect: do.Train) -> None:
    """Submit the job that makes a run's candidate, on rows that may leave their site or at one site."""
    spec: dict[str, Any] = {
        "from": effect.start.isoformat(),
        "to": effect.end.isoformat(),
        "parent": effect.parent,
        "sites": _may_leave(ports, run, effect.sites),
    }
    if effect.data:
        spec["data"] = effect.data
    if effect.model:
        spec["model"] = effect.model
    if effect.authors:
        spec["authors"] = list(effect.authors)
    if frozen := (candidates.manifest(ports, effect.parent).get("lineage") or {}).get("holdout"):
        spec["holdout"] = frozen
    if effect.trained:
        spec["trained_from"], spec["trained_to"] = effect.trained
    _submit(ports, run, effect, "train", spec, run.limits.training.timeout)


def evaluate(ports: Ports, run: Run, effect: do.Evaluate) -> None:
    """Submit the job that compares champion and challenger on the rows of the holdout."""
    loop = ports.configs.loop(run.loop)
    spec: dict[str, Any] = {
        "champion": effect.champion,
        "challenger": effect.challenger,
        "from": effect.start.isoformat(),
        "to": effect.end.isoformat(),
        "sites": _may_leave(ports, run, effect.sites),
        "confidence": run.limits.gates.confidence,
        "metric": run.limits.gates.metric or ("auc" if loop.task == "binary" else "rmse"),
    }
    if run.limits.gates.maximum_slice_loss is not None:
        spec["cohorts"] = {site.name: site.cohort for site in ports.configs.fleet(run.loop).sites}
    _submit(ports, run, effect, "evaluate", spec, run.limits.evaluation_timeout)


def _submit(
    ports: Ports,
    run: Run,
    effect: do.Train | do.Evaluate,
    kind: Literal["train", "evaluate"],
    spec: dict[str, Any],
    timeout: str,
) -> None:
    """At a site, a job works on the site's own table, and what it finds is signed there."""
    seconds = duration(timeout).total_seconds()
    name = run.sites[0] if effect.compute == "edge" and run.sites else ""
    site = ports.configs.fleet(run.loop).site(name)
    if site is not None:
        spec["sites"] = [site.name]
        if site.dataset:
            spec["data"] = site.dataset
        if site.key_file:
            key = next((k.id for k in site.keys if not k.revoked), "")
            spec.update(site_key=site.key_file, site_key_id=key)
    spec.update(_distrusted(ports.configs.fleet(run.loop)))
    ports.jobs.submit(Job(effect.job, kind, run.loop, run.id, effect.compute, spec, seconds, name))


def _distrusted(fleet: Fleet) -> dict[str, Any]:
    """Sites and keys whose rows no candidate is made of, or judged by; nothing where there are none."""
    untrusted = {site.name: "it is quarantined" for site in fleet.sites if site.quarantined}
    revoked = {site.name: [key.id for key in site.keys if key.revoked] for site in fleet.sites}
    out = {
        site.name: "all of its keys are revoked"
        for site in fleet.sites
        if len(revoked[site.name]) == len(site.keys) > 0
    }
    found = {"untrusted": {**out, **untrusted}, "revoked": {site: ids for site, ids in revoked.items() if ids}}
    return {name: value for name, value in found.items() if value}


def _may_leave(ports: Ports, run: Run, wanted: Sequence[str] | None) -> list[str] | None:
    fleet = ports.configs.fleet(run.loop)
    if all(s.data == "may-leave" for s in fleet.sites):
        return None if wanted is None else list(wanted)
    return [s.name for s in fleet.sites if s.data == "may-leave" and (wanted is None or s.name in wanted)]


def job_ended(ports: Ports, name: str) -> None:
    """Turn the end of a job into the event of its run; a job that still runs is left alone."""
    status = ports.jobs.status(name)
    if status.state in ("unknown", "running"):
        return
    run_id, kind = name.rsplit("-", 1)
    event: on.Event
    common: dict[str, Any] = {"id": f"job/{name}", "run": run_id, "at": ports.clock.now()}
    if status.state != "succeeded":
        said = f" (log: {status.log})" if status.log else ""
        event = on.JobFailed(**common, job=name, reason=f"{status.reason or status.state}{said}")
    else:
        try:
            event = (
                _trained(ports, common, status.result) if kind == "train" else _evidence(ports, common, status.result)
            )
        except (KeyError, AttributeError, TypeError, ValueError, RecursionError, msgspec.ValidationError) as problem:
            event = on.JobFailed(**common, job=name, reason=f"what it wrote cannot be read: {problem}")
    hand_on(ports.bus, event)


def _trained(ports: Ports, common: dict[str, Any], result: Mapping[str, Any]) -> on.Trained | on.JobFailed:
    made = {"type": "trained", **common, "candidate": result["candidate"], "rows": result["rows"]}
    event = msgspec.convert(made, on.Trained)
    try:
        why = candidates.revoked(ports, loop_of(event.run), event.candidate)
    except Refused as problem:  # no digest, but a name longer than any
        why = str(problem)
    return on.JobFailed(**common, job=f"{event.run}-train", reason=f"what it made is refused: {why}") if why else event


def _evidence(ports: Ports, common: dict[str, Any], result: Mapping[str, Any]) -> on.Evaluated:
    """What the evaluation wrote, kept whole under its digest. What is no number becomes None, and fails the gate.

    Raises KeyError, AttributeError, TypeError, ValueError, RecursionError or ValidationError where it is no evidence.
    """
    data = msgspec.json.encode(_finite(dict(result)), order="deterministic")
    name = codec.digest(data)
    ports.blobs.put(f"evidence/{name}.json", data)

    def compared(part: Mapping[str, Any], suffix: str = "") -> dict[str, Any]:
        return {
            "rows": int(part.get("rows") or 0),
            "champion": part.get(f"champion{suffix}"),
            "challenger": part.get(f"challenger{suffix}"),
            "gain": part.get("gain"),
            "gain_low": part.get("gain_low"),
            "gain_high": part.get("gain_high"),
        }

    found = msgspec.json.decode(data)
    frozen, examples = found.get("holdout") or {}, found.get("examples") or {}
    evidence = {
        "champion": found["champion"],
        "challenger": found["challenger"],
        "metric": found["metric"],
        "confidence": found["confidence"],
        "overall": compared(found, "_value"),
        **{
            kind: {name: compared(part) for name, part in (found.get(kind) or {}).items()}
            for kind in ("sites", "cohorts", "groups", "fairness")
        },
        "log_loss": found.get("log_loss") or {},
        "start": _time(found.get("from")),
        "end": _time(found.get("to")),
        "newest": _time(found.get("newest")),
        "data": found.get("data") or "",
        "holdout": compared(frozen) if frozen else None,
        "holdout_sha256": frozen.get("sha256") or "",
        "bytes": int(found.get("bytes") or 0),
        "new_bytes": found.get("new_bytes"),
        "trials": found.get("trials") or {},
        "rows_per_hour": int(found.get("rows_per_hour") or 0),
        "schema": found.get("schema"),
        "calibration": found.get("calibration") or {},
        "churn": found.get("churn"),
        "examples": int(examples.get("tried") or 0),
        "missed": examples.get("missed") or [],
    }
    run = LoopUnit(ports.store, loop_of(common["run"]), common["at"]).run(common["run"])
    rooms = gates.rooms(ports.configs.fleet(run.loop), run.sites)
    return on.Evaluated(**common, evidence=msgspec.convert(evidence, on.Evidence), digest=name, rooms=rooms)


def _time(text: str | None) -> datetime | None:
    """UTC where it names no offset."""
    if not text:
        return None
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list) else value
