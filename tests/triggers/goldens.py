"""One value of everything that is stored or sent, as this version would write it.

`python -m tests.triggers.goldens` writes the files that are not there yet; what is there was written by an older
version, and is never written anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tests.triggers.samples import DAY, HOUR, NEW, NOW, OLD, a_comparison, a_loop, a_run, an_event, evidence, replace
from triggers import approval, codec, policy, ports, records, rollout, sites, sources
from triggers import effects as do
from triggers import events as on
from triggers.config import Fleet, Retrain, Rollout, Site
from triggers.loop import Detector
from triggers.notices import Notices
from triggers.run import Pause, Phase

FOLDER = Path(__file__).parent / "golden" / "v1"
RULED = FOLDER.parent / f"rules-{policy.RULES}.json"
"""Decisions by these rules, with what they were made of."""
RUN = "line.2026-03-10.1"


class Golden(NamedTuple):
    """A value, and the type and the name by which the codec reads it; without a name it is plain JSON."""

    value: Any
    as_type: Any
    kind: str = ""


EFFECTS: tuple[do.Effect, ...] = (
    do.Train(job=f"{RUN}-train", start=NOW - 60 * DAY, end=NOW, sites=("a", "b"), compute="edge", parent=OLD),
    do.Evaluate(
        job=f"{RUN}-evaluate", champion=OLD, challenger=NEW, start=NOW - DAY, end=NOW, sites=None, compute="cloud"
    ),
    do.CancelJob(job=f"{RUN}-train"),
    do.AskApproval(candidate=NEW, evidence="e1", outcome="inconclusive", verdict="too few rows", expires=NOW + DAY),
    do.Remind(at=NOW, escalated=True),
    do.WithdrawApproval(reason="expired"),
    do.DeployWave(wave=1, candidate=NEW),
    do.RollBack(through=1, reason="b: 9 errors"),
    do.Announce(kind="run-verified", title="line: verified", text="verified at 3 sites"),
    do.SetDeadline(phase="rolling-out/1", at=NOW + 4 * DAY),
)
FINDING = policy.Finding(
    kind="feature", statistical=True, scope="cohort", sites=("a", "b"), features=("x",), reason="x moved at a, b"
)
DECISION = policy.Decision(
    loop="line",
    at=NOW,
    action="retrain",
    scope="cohort:press",
    sites=("a", "b"),
    compute="edge",
    reason="cohort:press: x moved at a, b",
    findings=(FINDING,),
)
WEIGHED = policy.Weighed(
    findings=(FINDING,),
    loop="c" * 64,
    fleet="d" * 64,
    history=policy.History(streak={"fleet": 1}, starts=(NOW - DAY,), ended=NOW),
    active=(RUN,),
    rows=1200,
    frozen="inventory",
    fresh=True,
    unlabelled="version 2 of labels has not come",
    rules=1,
)
HEALTH = rollout.Health(candidate=NEW, since=NOW - HOUR, last=NOW, requests=100, errors=1, slow=20, p95_ms=12.5)
SITE = records.SiteState(
    candidate=NEW,
    change=f"{RUN}/a/deploy",
    run=RUN,
    wave=1,
    action="deploy",
    fence=2,
    status="applied",
    reason="1 errors in 100 requests; soaking for 1d",
    asked=NOW - HOUR,
    health=HEALTH,
    observed=NEW,
    observed_at=NOW,
    last_good=OLD,
    before=OLD,
    batches=12,
    duplicates=1,
    rows=600,
)
CHANGE = ports.Change(
    id=f"{RUN}/a/rollback",
    loop="line",
    site="a",
    run=RUN,
    wave=1,
    candidate=OLD,
    action="rollback",
    fence=3,
    at=NOW,
    reason="b: 9 errors",
)
ENTRY = records.AuditEntry(
    seq=2,
    at=NOW,
    kind="answered",
    subject=RUN,
    actor="ann",
    text="approve by ann",
    data={"plan": "p1", "waves": [["lab", 1]], "rows": 10, "share": 0.5, "none": None},
    previous="f" * 64,
)

TRIAL = on.Trial(memory=80 << 20, cpu_ms=0.3, p50_ms=0.3, p95_ms=0.4, architecture="x86_64")
WHOLE = evidence(
    cohorts={"press": a_comparison()},
    groups={"x < 1": a_comparison()},
    fairness={"x": a_comparison()},
    holdout=a_comparison(),
    holdout_sha256="e" * 64,
    new_bytes=120_000,
    trials={"champion": TRIAL, "challenger": replace(TRIAL, error="has no inputs")},
    rows_per_hour=36,
    schema="it lacks y (number)",
    calibration={"champion": 0.1, "challenger": 0.2},
    churn=0.05,
    examples=3,
    missed=("row 1 scored 0.2, at least 0.5",),
)
ROOM = on.Room(
    site="a",
    sites=2,
    cpu=4.0,
    memory=2.0**33,
    types=(("small", 0.5, 2.0**31),),
    extension=True,
    link_kbps=512.0,
    window_s=3600.0,
    architecture="amd64",
)

STORED: tuple[Any, ...] = (
    DECISION,
    WEIGHED,
    SITE,
    records.Head(
        champion=OLD,
        scoped={"a": NEW},
        active={"fleet": RUN},
        counter=1,
        history=policy.History(streak={"fleet": 1}, starts=(NOW - DAY,), ended=NOW),
        audit=2,
        audit_hash="f" * 64,
    ),
    replace(ENTRY, hash=records.chain(ENTRY)),
    records.RolloutRow(site="a", wave=1, status="deferred", reason="no connection", at=NOW),
    records.BatchRecord(digest="b" * 64, rows=100, refused=2, at=NOW),
    records.Quarantined(
        at=NOW,
        loop="line",
        site="a",
        batch="b1",
        reason="2 rows of the batch could not be read",
        blob="batches/line/a/2026-03-10/b1",
        rows=((3, "x", "is no number"),),
    ),
    records.Orphans(ids=["r1", "r2"], at=[1_773_000_000, 1_773_000_060], label=[0.0, 1.0]),
    records.MaintenanceEvent(
        at=NOW,
        sites=(policy.Maintenance(site="b", kinds=("feature",), features=("x",), reason="x moved at b"),),
        told=True,
    ),
    records.Freeze(by="ann", at=NOW, reason="inventory"),
    records.Revoked(by="zoe", at=NOW, reason="it leaks"),
    records.WaitingModel(
        at=NOW, model="azureml:line:7", by="ben", trained=("2026-01-01", "2026-02-01"), authors=("ben",)
    ),
    sources.Counted(name="line/a/day.jsonl", etag="e1", bytes=512, digest="b" * 64, rows=4, at=NOW),
    sources.Watermark(until=NOW),
    Notices(last=NOW, told={"0123456789abcdef": NOW - HOUR}),
    Detector(state=b"\x00DLS1", cursor={"a": 1_773_014_400}),
    approval.Request(
        run=RUN,
        loop="line",
        candidate=NEW,
        evidence="e1",
        plan="p1",
        outcome="passed",
        verdict="better",
        asked=NOW,
        expires=NOW + DAY,
        state="approved",
        by="ann",
        answered=NOW + HOUR,
        reason="looks right",
    ),
    rollout.Plan(
        loop="line",
        candidate=NEW,
        waves=(rollout.PlannedWave("lab", ("lab",)), rollout.PlannedWave("plant", ("a", "b"))),
        limits=Rollout(rings=("lab", "plant"), wave_size=2, max_p95_ms=50.0),
    ),
)


def _all() -> dict[str, Golden]:
    made = {type(value).__name__: Golden(value, type(value), type(value).__name__) for value in STORED}
    for phase in Phase:
        run = a_run(phase, ended=NOW if phase.final else None, seen=frozenset({"job/1", "answer/1"}))
        made[f"Run-{phase}"] = Golden(run, type(run), "Run")
    paused = a_run(Phase.ROLLING_OUT, paused=Pause(by="ann", at=NOW, reason="inventory"))
    made["Run-paused"] = Golden(paused, type(paused), "Run")
    for kind in on.EVENTS:
        made[f"Event-{kind.__name__}"] = Golden(an_event(kind), on.AnyEvent, "Event")
    early = evidence(trials={}, schema=None)
    made["Event-Evaluated"] = Golden(an_event(on.Evaluated, evidence=early), on.AnyEvent, "Event")
    made["Event-Evaluated-whole"] = Golden(an_event(on.Evaluated, evidence=WHOLE, rooms=(ROOM,)), on.AnyEvent, "Event")
    for effect in EFFECTS:
        made[f"Outbox-{type(effect).__name__}"] = Golden(
            records.Outbox(run=RUN, effect=effect), records.Outbox, "Outbox"
        )
    made["Request-open"] = Golden(
        approval.Request(
            run=RUN,
            loop="line",
            candidate=NEW,
            evidence="e1",
            plan="p1",
            outcome="passed",
            verdict="better",
            asked=NOW,
            expires=NOW + DAY,
            requested_by=("eve", "7f"),
            authors=("cem",),
            escalates=NOW + HOUR,
            consents=(approval.Consent(by="ann", id="8e", entry="group 1d", at=NOW, reason="fine"),),
        ),
        approval.Request,
        "Request",
    )
    made["Change"] = Golden(CHANGE, ports.Change)
    made["CloudEvent"] = Golden(sites.cloud_event("requested", CHANGE, NOW), dict[str, Any])
    answer = approval.Answer(answer="reject", by="ann", reason="no", candidate=NEW, evidence="e1", plan="p1")
    made["Answer"] = Golden(answer, approval.Answer)
    return made


def ruled() -> dict[str, list[str]]:
    """A decision for each thing that `decide` can say, as it is stored."""
    fleet = Fleet(
        sites=(
            Site(name="a", cohort="press"),
            Site(name="b", cohort="press"),
            Site(name="c", cohort="oven", data="stays"),
        )
    )
    often = Retrain(confirm=1, minimum_rows=100, cooldown="7d", budget="2 per 30 days")
    fleetwide = replace(FINDING, scope="fleet", sites=("a", "b", "c"), reason="x moved at 3 sites")
    sensor = replace(FINDING, kind="quality", statistical=False, scope="site", sites=("b",), reason="x is missing at b")
    begun = policy.History(starts=(NOW - 20 * DAY, NOW - 10 * DAY))
    found: list[tuple[list[policy.Finding], dict[str, Any], dict[str, Any]]] = [
        ([], {}, {}),
        ([], {"fresh": False}, {}),
        ([fleetwide], {"rows": 5000}, {}),
        ([FINDING], {"rows": 5000}, {}),
        ([FINDING, sensor], {"rows": 5000}, {}),
        ([sensor], {}, {}),
        ([replace(fleetwide, covered=False)], {"rows": 5000}, {}),
        ([fleetwide], {"rows": 5000}, {"retrain": replace(often, confirm=2)}),
        (
            [fleetwide],
            {"rows": 5000, "history": policy.History(streak={"fleet": 1})},
            {"retrain": replace(often, confirm=2)},
        ),
        ([fleetwide], {"rows": 5000, "frozen": "inventory"}, {}),
        ([fleetwide], {"rows": 5000, "active": (RUN,)}, {}),
        ([fleetwide], {"rows": 5000}, {"retrain": replace(often, enabled=False)}),
        ([fleetwide], {"rows": 5000, "history": policy.History(ended=NOW - DAY)}, {}),
        ([fleetwide], {"rows": 5000, "history": begun}, {}),
        ([fleetwide], {"rows": 20}, {}),
        ([fleetwide], {"rows": 5000, "unlabelled": "version 2 of labels has not come"}, {}),
    ]
    decisions, kept = list[str](), dict[str, str]()
    for findings, changes, configured in found:
        configs = [codec.encode(of).decode() for of in (a_loop(**{"retrain": often, **configured}), fleet)]
        loop, its_fleet = (codec.digest(text.encode()) for text in configs)
        of = policy.Weighed(
            findings=tuple(findings),
            **{"loop": loop, "fleet": its_fleet, "history": policy.History(), "rules": policy.RULES, **changes},
        )
        decision, _ = policy.weigh(NOW, of, a_loop(**{"retrain": often, **configured}), fleet)
        texts = [*configs, codec.encode(of).decode()]
        kept |= {codec.digest(text.encode()): text for text in texts}
        decisions.append(codec.encode(replace(decision, weighed=codec.digest(texts[-1].encode()))).decode())
    return {"decisions": decisions, "kept": list(kept.values())}


GOLDENS: Mapping[str, Golden] = _all()


def written(golden: Golden) -> bytes:
    """As this version would write it."""
    if golden.kind:
        return codec.encode(golden.value, golden.kind)
    return msgspec.json.encode(golden.value)


def read(golden: Golden, data: bytes) -> Any:
    """As this version reads it."""
    if golden.kind:
        return codec.decode_as(data, golden.as_type, golden.kind)
    return msgspec.json.decode(data, type=golden.as_type)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, golden in GOLDENS.items():
        path = FOLDER / f"{name}.json"
        if not path.exists():
            path.write_bytes(written(golden))
            print(f"wrote {path}")
    if not RULED.exists():
        RULED.write_bytes(msgspec.json.format(msgspec.json.encode(ruled())))
        print(f"wrote {RULED}")
