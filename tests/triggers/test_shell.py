"""Whole stories through the shell, on the real local store, bus and topic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace as changed
from datetime import timedelta
from random import Random
from typing import Any

import msgspec
import pytest

from drift.telemetry import Serving
from tests.triggers.world import DAY, LOOP, START, World, a_fleet, a_reference, put_candidate
from triggers import codec, events, intake, loop, sites, training
from triggers.config import Follows
from triggers.errors import NotFound, Refused, Retry
from triggers.lifecycle import IllegalTransition
from triggers.ports import Change, Job, Message, Put
from triggers.records import MaintenanceEvent, verify
from triggers.run import Phase

replace = msgspec.structs.replace
MINUTE = timedelta(minutes=1)
Worlds = Callable[..., World]
Patch = pytest.MonkeyPatch


def drifted(world: World) -> World:
    """Two quiet days, then x moves everywhere."""
    world.days(2)
    world.shift = world.jobs.shift = 3.0
    return world


def handed_in(world: World, name: str = "better", reference: bytes = b"") -> str:
    """A candidate of somebody else's, up to the person's answer."""
    candidate = put_candidate(world.blobs, reference or a_reference(), name)
    loop.submit(world.ports, "line", candidate, "eve", "made by hand")
    world.pump()
    return candidate


def kinds(world: World, subject: str) -> list[str]:
    return [e.kind for e in loop.story(world.ports, "line", subject)]


def settled(world: World) -> None:
    """Nothing is left undone, and the trail holds."""
    assert world.waiting() == []
    assert [q for q in ("runs", "effects", "deployments", "telemetry") if world.bus.pending(q)] == []
    end = loop.head(world.ports, "line")
    assert verify(loop.story(world.ports, "line"), (end.audit, end.audit_hash)) == ""
    again = loop.runs(world.ports, "line")
    loop.sweep(world.ports, "line")
    world.pump()
    assert loop.runs(world.ports, "line") == again, "one more tick changes nothing"


# --- from drift to verified


def test_drift_leads_by_training_gate_and_a_person_to_a_verified_rollout(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    drifted(world)
    run = world.until("awaiting-approval")
    assert run.cause.startswith("fleet: feature drift in x (")
    assert run.cause.endswith("; 2 checks in a row; 1,080 labelled rows; compute cloud")
    train, evaluate = world.jobs.jobs.values()
    assert (train.name, train.kind, train.compute) == (f"{run.id}-train", "train", "cloud")
    now = world.clock.now()
    assert train.spec == {
        "from": (now - 9 * DAY).isoformat(),
        "to": (now - DAY).isoformat(),
        "parent": first,
        "sites": None,
    }
    assert evaluate.spec == {
        "champion": first,
        "challenger": run.candidate,
        "from": (now - DAY).isoformat(),
        "to": now.isoformat(),
        "sites": None,
        "confidence": 0.95,
        "metric": "auc",
    }
    assert [p.serves for p in world.plants.all.values()] == [first] * 3, "nothing is deployed before the answer"
    assert world.board.cards[f"approval/{run.id}"]["facts"]["approvers"] == ["ann", "bob"]

    assert world.answer() == ""
    assert [p.serves for p in world.plants.all.values()] == [run.candidate, first, first], "the lab first"
    world.half_day()
    assert [p.serves for p in world.plants.all.values()] == [run.candidate] * 3
    run = world.until("verified")
    assert run.because == "verified at 3 sites by their own telemetry"
    assert [(t.sites, t.deferred) for t in run.times] == [(1, 0), (2, 0)]
    assert (run.approved_by, run.champion) == ("ann", first)
    assert loop.head(world.ports, "line").champion == run.candidate
    for site in "abc":
        state = world.state(site)
        assert (state.status, state.observed, state.last_good) == ("verified", run.candidate, run.candidate)
    assert kinds(world, run.id) == [
        "run-began",
        "event-trained",
        "event-evaluated",
        "approval-asked",
        "answered",
        "event-answered",
        "event-deadline-passed",
        "event-deadline-passed",
        "event-wave-reported",
        "event-wave-reported",
    ]
    said = [(e["type"].rpartition(".")[2], e["subject"]) for e in reversed(world.topic.recent())]
    assert said == [
        ("requested", "a"),
        ("started", "a"),
        ("succeeded", "a"),
        ("requested", "b"),
        ("requested", "c"),
        ("started", "b"),
        ("started", "c"),
        ("succeeded", "b"),
        ("succeeded", "c"),
    ]
    settled(world)
    world.days(2)
    assert len(world.runs) == 1, "the new champion is not blamed for what the old one saw"


def checks(world: World, order: Random | None = None) -> list[tuple[Any, ...]]:
    """What each check of four days found and decided; x moves on the third. Where there is an `order`, a day's batches
    come by chance: in any order, some twice, in groups of any size."""
    found = []
    for day in range(4):
        world.shift = 3.0 if day > 1 else 0.0
        told = []
        for _ in range(2):
            world.clock.advance(DAY / 2)
            for whole in map(world.batch, "abc"):
                told.append(changed(whole, id=f"{whole.id}-rows", labels=None))
                told.append(changed(whole, id=f"{whole.id}-labels", rows=None, serving=Serving()))
        payloads = [world.payload(batch) for batch in told]
        if order:
            payloads += order.sample(payloads, 4)
            order.shuffle(payloads)
        while payloads:
            group = order.randint(1, 7) if order else len(payloads)
            intake.ingest(world.ports, payloads[:group])
            del payloads[:group]
        said = loop.check(world.ports, "line")
        reports = {c: msgspec.json.encode(report.to_dict()) for c, report in said.reports.items()}
        found.append((said.decision, said.run, reports, loop.head(world.ports, "line").history))
    return found


def test_batches_in_any_order_lead_to_the_same_decision(worlds: Worlds) -> None:
    ways = []
    for order in (None, Random(1), Random(2)):
        world = worlds()
        world.begin()
        ways.append(checks(world, order))
    for decision, *_ in ways[0]:
        assert decision.weighed, "the digest of all that it was made of"
    assert [d.action for d, *_ in ways[0]].count("retrain") == 1
    assert all(way == ways[0] for way in ways[1:])


def only_b_moves(world: World) -> None:
    speak = world.batch

    def moved(site: str, **more: Any) -> Any:
        world.shift = 3.0 if site == "b" else 0.0
        return speak(site, **more)

    world.batch = moved  # type: ignore[method-assign]


def test_a_site_that_drifts_alone_is_for_a_technician_who_hears_of_it_once(world: World) -> None:
    world.days(2)
    only_b_moves(world)
    world.days(6)
    assert world.runs == []
    (card,) = [c for c in world.board.cards.values() if c["kind"] == "maintenance"]
    assert card["title"] == "line: 1 site to look at"
    assert card["text"].startswith("b: feature drift in x")
    (entry,) = [e for e in loop.story(world.ports, "line") if e.kind == "maintenance"]
    assert entry.data["sites"] == ["b"]
    world.topic.subscribe("late", [loop.MAINTENANCE])
    (record,) = world.store.scan("line", "maintenance/")
    untold = replace(codec.decode(record.value, MaintenanceEvent), told=False)
    world.store.commit("line", [Put(record.key, codec.encode(untold), record.version)])
    loop.sweep(world.ports, "line")  # a crash came between the write and the telling
    (handout,) = world.topic.pending("late")
    assert (handout.event["subject"], handout.event["data"]["site"]) == ("line/b", "b")
    loop.sweep(world.ports, "line")
    assert len(list(world.topic.pending("late"))) <= 1


def test_a_site_that_drifts_alone_gets_a_model_of_its_own_where_the_policy_says_so(worlds: Worlds) -> None:
    alone = replace(LOOP.retrain, minimum_rows=10, scope=Follows(site="retrain"))
    world = worlds(a_loop=replace(LOOP, retrain=alone))
    first = world.begin()
    world.days(2)
    only_b_moves(world)
    run = world.until("awaiting-approval")
    assert (run.scope, run.sites) == ("site:b", ("b",))
    assert world.jobs.jobs[f"{run.id}-train"].spec["sites"] == ["b"]
    world.answer()
    world.until("verified")
    head = loop.head(world.ports, "line")
    assert (head.champion, head.scoped) == (first, {"b": run.candidate})
    assert [p.serves for p in world.plants.all.values()] == [first, run.candidate, first]
    settled(world)


def test_a_candidate_that_is_worse_is_rejected_and_deployed_nowhere(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    world.jobs.gain = -0.05
    drifted(world)
    run = world.until("rejected")
    assert (
        run.because
        == "auc 0.6500 against 0.7000 on 1,000 rows, gain -0.0500 [-0.0700, -0.0300] at 95%: not above +0.0000"
    )
    assert [p.serves for p in world.plants.all.values()] == [first] * 3
    world.days(2)
    assert "cooldown of 5d ends in 3.0 days" in world.decisions[-1]
    settled(world)


@pytest.mark.parametrize(
    ("evidence", "phase", "why"),
    [
        ({"gain": math.nan}, "rejected", "auc is not a number"),
        ({"challenger_value": math.inf}, "rejected", "auc is not a number"),
        ({"rows": 0}, "awaiting-approval", "0 labelled rows outside both training windows, fewer than 500"),
        ({"to": None}, "awaiting-approval", "evidence does not say from when it is"),
        ({"to": "2026-01-01T00:00:00+00:00"}, "awaiting-approval", "evidence is 59 days old, more than 7d"),
        ({"to": "2026-01-01"}, "awaiting-approval", "evidence is 59 days old, more than 7d"),
        ({"confidence": 0.5}, "awaiting-approval", "the interval is at 50% confidence, not 95%"),
        ({"challenger": "2" * 64}, "rejected", f"evidence is about {'2' * 12} against "),
    ],
)
def test_evidence_that_proves_nothing_never_passes(
    world: World, evidence: dict[str, Any], phase: str, why: str
) -> None:
    world.jobs.evidence = evidence
    handed_in(world)
    run = world.runs[-1]
    assert (run.phase, run.outcome == "passed") == (phase, False)
    assert run.because.startswith(why)


def test_a_candidate_with_a_name_longer_than_any_ends_the_run_in_words(world: World, monkeypatch: Patch) -> None:
    monkeypatch.setattr(world.jobs, "_trained", lambda job: {"candidate": "c" * 500, "rows": 5000})
    loop.retrain(world.ports, "line", "eve", "new sensors")
    world.pump()
    run = world.runs[-1]
    assert (run.phase, run.outcome) == (Phase.FAILED, "")
    assert "what it made is refused: a key of " in run.because
    settled(world)


@pytest.mark.parametrize(
    "evidence",
    [
        {"champion": None},
        {"metric": 5},
        {"confidence": "high"},
        {"gain": "better"},
        {"rows": "many"},
        {"to": "yesterday"},
        {"to": 5},
        {"sites": {"a": 5}},
        {"log_loss": [1]},
        {"more": msgspec.json.decode(b"[" * 500 + b"]" * 500)},
    ],
)
def test_evidence_that_cannot_be_read_ends_the_run_in_words(world: World, evidence: dict[str, Any]) -> None:
    world.jobs.evidence = evidence
    handed_in(world)
    run = world.runs[-1]
    assert (run.phase, run.outcome) == (Phase.FAILED, "")
    assert run.because.startswith(f"{run.id}-evaluate: what it wrote cannot be read: ")
    settled(world)


# --- the way back


def test_a_failed_wave_takes_the_model_back_to_the_last_known_good_of_before_the_run(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    second = handed_in(world)
    world.plants["c"].slow.add(second)
    world.answer()
    run = world.until("rolled-back")
    why = "wave 2: 1 failed, 0 tolerated (c: p95 above 50 ms for 60 of 60 requests (worst 200.0 ms))"
    assert run.because == f"{why}; 3 sites taken back"
    assert [p.applied for p in world.plants.all.values()] == [[second, first]] * 3
    for site in "abc":
        state = world.state(site)
        assert (state.status, state.candidate, state.last_good) == ("restored", first, first)
    assert loop.head(world.ports, "line").champion == first
    settled(world)


def test_a_site_that_refuses_the_candidate_stops_the_rollout(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    second = handed_in(world)
    world.plants["a"].refuses.add(second)
    world.answer()
    run = world.until("rolled-back")
    assert run.because == "wave 1: 1 failed, 0 tolerated (a: no such bytes); 1 sites taken back"
    assert [p.applied for p in world.plants.all.values()] == [[], [], []]
    assert world.state("a").last_good == first
    settled(world)


def test_a_tolerated_failure_is_taken_back_alone(worlds: Worlds) -> None:
    world = worlds(a_loop=replace(LOOP, rollout=replace(LOOP.rollout, max_failed=1)))
    first = world.begin()
    second = handed_in(world)
    world.plants["c"].slow.add(second)
    world.answer()
    world.until("verified")
    world.days(1)
    assert [p.serves for p in world.plants.all.values()] == [second, second, first]
    assert world.state("c").status == "restored"
    settled(world)


def test_a_site_that_says_nothing_in_time_is_no_success(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    second = handed_in(world)
    world.answer()
    assert world.plants["a"].serves == second
    for _ in range(6):  # a is up, but mute
        world.clock.advance(DAY / 2)
        loop.sweep(world.ports, "line")
        world.pump()
    assert (world.state("a").status, world.state("a").reason) == ("deferred", "not well within 2d: silent")
    assert world.runs[-1].because == "wave 1: 0 verified, 1 deferred, 0 pending; nobody has verified it"
    for _ in range(8):
        world.clock.advance(DAY / 2)
        loop.sweep(world.ports, "line")
        world.pump()
    run = world.runs[-1]
    assert run.phase is Phase.ROLLED_BACK
    assert "nobody has verified it), and nobody went on with it; " in run.because
    assert world.plants["a"].serves == first
    world.half_day()
    assert world.runs[-1].phase is Phase.ROLLED_BACK
    settled(world)


def test_a_site_that_never_says_that_it_is_back_does_not_keep_the_run_open(world: World) -> None:
    second = handed_in(world)
    world.plants["a"].slow.add(second)
    world.answer()
    world.half_day()
    assert world.runs[-1].phase is Phase.ROLLING_BACK
    for _ in range(5):
        world.clock.advance(DAY / 2)
        loop.sweep(world.ports, "line")
        world.pump()
    run = world.runs[-1]
    assert run.phase is Phase.ROLLED_BACK
    assert run.because.endswith("; not every site has said in time that it is back")
    settled(world)


def test_a_site_that_refuses_the_way_back_ends_the_run_and_is_named(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    second = handed_in(world)
    world.plants["b"].slow.add(second)
    world.answer()
    world.half_day()
    world.plants["c"].refuses.add(first)
    run = world.until("rolled-back")
    assert run.because.endswith("; 2 sites taken back, 1 refused the way back: c: no such bytes")
    assert (world.state("c").status, world.plants["c"].serves) == ("stuck", second)
    settled(world)


def test_the_way_back_is_asked_for_again_where_it_got_lost(world: World) -> None:
    second = handed_in(world)
    world.plants["a"].slow.add(second)
    world.answer()
    world.clock.advance(DAY / 2)
    world.plants.retries = 10  # the message is tried that often, then it is a dead letter
    world.speak()
    assert world.bus.dead_letters("deployments")
    assert world.runs[-1].phase is Phase.ROLLING_BACK
    world.until("rolled-back", days=1.5)
    assert world.plants["a"].serves != second
    settled(world)


def test_a_person_takes_a_rollout_back(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    second = handed_in(world)
    world.answer()
    assert world.plants["a"].serves == second
    loop.ask(world.ports, world.runs[-1].id, events.RollBackAsked, "bob", "complaints")
    world.pump()
    assert world.plants["a"].serves == first
    run = world.until("rolled-back")
    assert run.because == "taken back by bob: complaints; 1 sites taken back"
    settled(world)


def test_the_way_back_needs_no_plan(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    second = handed_in(world)
    world.plants["a"].slow.add(second)
    world.answer()
    world.blobs.delete(f"plans/{world.request().plan}")
    world.until("rolled-back")
    assert world.plants["a"].serves == first


# --- sites that are away


def test_an_offline_site_is_deferred_and_gets_the_candidate_when_it_returns(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    world.half_day()
    second = handed_in(world)
    world.plants["c"].online = False
    world.answer()
    run = world.until("verified")
    assert run.because == "verified at 2 sites by their own telemetry"
    assert [t.deferred for t in run.times] == [0, 1]
    state = world.state("c")
    assert (state.status, state.observed, state.last_good, state.candidate) == ("deferred", first, first, second)
    world.days(1)
    world.plants["c"].online = True
    world.half_day()
    assert world.plants["c"].serves == second
    world.half_day()
    assert (world.state("c").status, world.state("c").last_good) == ("verified", second)
    assert [row.status for _, row in sites.rows(world.ports, run.id)] == ["verified"] * 3
    settled(world)


def test_a_request_of_the_run_before_begins_nothing_while_another_is_at_work(world: World) -> None:
    """Its site would be changed beside those that the other run asks: one more than `max_unavailable` counts."""
    first = loop.head(world.ports, "line").champion
    world.half_day()
    second = handed_in(world, "second")
    world.plants["c"].online = False
    world.answer()
    run = world.until("verified")
    world.days(1)
    world.plants["c"].online = True
    world.lags.add("deployments")
    world.half_day()
    handed_in(world, "third")
    world.lags.clear()
    world.pump()  # now the request to c arrives
    assert world.plants["c"].serves == first
    loop.ask(world.ports, world.runs[-1].id, events.Cancelled, "ann", "enough")
    world.days(1)
    assert world.plants["c"].serves == second
    assert [row.status for _, row in sites.rows(world.ports, run.id)][-1] in ("applied", "soaking", "verified")


def test_a_site_that_returns_converges_to_the_current_intent_not_to_a_queued_one(world: World) -> None:
    second = handed_in(world, "second")
    world.plants["c"].online = False
    world.answer()
    world.until("verified")
    third = handed_in(world, "third")
    assert third != second
    world.answer()
    world.until("verified", days=3)
    assert len(world.runs) == 2
    world.plants["c"].online = True
    world.days(1.5)
    assert world.plants["c"].applied == [third]
    assert world.state("c").status == "verified"
    settled(world)


def test_a_site_that_was_away_for_a_good_run_and_there_for_a_bad_one_gets_the_champion(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    second = handed_in(world, "second")
    world.plants["c"].online = False
    world.answer()
    world.until("verified")
    third = handed_in(world, "third")
    world.plants["c"].slow.add(third)
    loop.freeze(world.ports, "line/b", "ann", "the wave stays open")
    world.answer()
    world.days(1)
    world.plants["c"].online = True
    world.until("rolled-back")
    loop.unfreeze(world.ports, "line/b", "ann")
    assert first in world.plants["c"].applied
    world.days(2)
    assert [p.serves for p in world.plants.all.values()] == [second] * 3
    state = world.state("c")
    assert (state.status, state.candidate, state.last_good) == ("verified", second, second)
    settled(world)
    fourth = handed_in(world, "fourth")
    world.answer()
    world.until("verified")
    assert [p.serves for p in world.plants.all.values()] == [fourth] * 3


def test_a_site_that_was_away_during_the_way_back_goes_back_when_it_returns(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    second = handed_in(world)
    world.plants["b"].slow.add(second)
    world.answer()
    world.half_day()
    assert world.plants["c"].serves == second
    world.plants["c"].online = False
    run = world.until("rolled-back")
    assert run.because.endswith("; 2 sites taken back, 1 offline follow when they return")
    assert world.plants["c"].serves == second
    world.plants["c"].online = True
    world.days(1)
    assert world.plants["c"].serves == first
    assert (world.state("c").status, world.state("c").last_good) == ("restored", first)
    settled(world)


def test_a_deferred_site_that_never_got_the_candidate_needs_no_way_back(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    second = handed_in(world)
    world.plants["b"].slow.add(second)
    world.plants["c"].online = False
    world.answer()
    world.until("rolled-back")
    world.plants["c"].online = True
    world.days(1)
    assert world.plants["c"].applied == []
    assert (world.state("c").status, world.state("c").candidate) == ("restored", first)
    settled(world)


# --- freezes


def test_a_freeze_holds_the_next_wave_until_it_ends(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    second = handed_in(world)
    world.answer()
    loop.freeze(world.ports, "line", "ann", "inventory")
    world.half_day()
    assert world.runs[-1].wave == 1
    assert [p.serves for p in world.plants.all.values()] == [second, first, first]
    world.half_day()
    assert [p.serves for p in world.plants.all.values()] == [second, first, first]
    run = world.runs[-1].id
    assert world.waiting() == [f"outbox/{run}/wave/{run}/0/1-0-0-0-0-0-0/0"]
    world.clock.advance(MINUTE)
    loop.unfreeze(world.ports, "line", "ann")
    world.pump()
    assert [p.serves for p in world.plants.all.values()] == [second] * 3
    world.until("verified")
    settled(world)


def test_a_freeze_stops_training_evaluation_and_approval(world: World) -> None:
    drifted(world)
    world.days(1.5)
    loop.freeze(world.ports, "all", "bob", "power cut")
    world.days(1)
    assert world.runs == []
    assert world.decisions[-1].endswith("held: frozen (all frozen by bob: power cut)")
    with pytest.raises(Refused, match="all frozen by bob: power cut"):
        handed_in(world)
    with pytest.raises(Refused, match="all frozen by bob: power cut"):
        loop.retrain(world.ports, "line", "eve", "now")
    loop.unfreeze(world.ports, "all", "bob")
    handed_in(world)
    loop.freeze(world.ports, "line", "bob", "power cut")
    assert world.answer() == "line frozen by bob: power cut"
    assert world.answer("reject") == "", "a rejection begins nothing"


@pytest.mark.parametrize("what", ["train", "evaluate"])
def test_a_job_that_is_submitted_while_somebody_freezes_does_not_run_on(world: World, what: str) -> None:
    """The look at the freeze was before it."""
    submit = world.jobs.submit

    def meanwhile(job: Job) -> None:
        if job.kind == what:
            world.jobs.holds = True
            loop.freeze(world.ports, "line", "bob", "power cut")
        submit(job)

    world.jobs.submit = meanwhile  # type: ignore[method-assign]
    world.ports = changed(world.ports, jobs=world.jobs)
    run = loop.retrain(world.ports, "line", "ann", "now")
    world.pump()
    assert world.jobs.cancelled == [f"{run}-{what}"]
    assert world.runs[-1].because == "cancelled by driftloop: line frozen by bob: power cut"


@pytest.mark.parametrize("target", ["all", "line"])
def test_a_freeze_cancels_the_job_that_runs(world: World, target: str) -> None:
    world.jobs.holds = True
    run = loop.retrain(world.ports, "line", "ann", "now")
    world.pump()
    loop.freeze(world.ports, "line/b", "bob", "only there")
    assert world.jobs.cancelled == []
    loop.freeze(world.ports, target, "bob", "power cut")
    world.pump()
    assert world.jobs.cancelled == [f"{run}-train"]
    assert world.runs[-1].because == f"cancelled by driftloop: {target} frozen by bob: power cut"


def test_what_a_freeze_could_not_cancel_is_cancelled_by_the_sweep(world: World) -> None:
    world.jobs.holds = True
    run = loop.retrain(world.ports, "line", "ann", "now")
    world.pump()
    status, world.ports.jobs.status = world.ports.jobs.status, away
    loop.freeze(world.ports, "line", "bob", "power cut")
    world.ports.jobs.status = status
    loop.sweep(world.ports, "line")
    world.pump()
    assert world.jobs.cancelled == [f"{run}-train"]


def away(name: str) -> Any:
    raise Retry(f"nobody knows of {name} now")


def test_the_way_back_goes_on_during_a_freeze(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    second = handed_in(world)
    world.plants["a"].slow.add(second)
    world.answer()
    loop.freeze(world.ports, "all", "ann", "inventory")
    world.until("rolled-back")
    assert world.plants["a"].serves == first
    settled(world)


def test_a_frozen_site_waits_alone(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    second = handed_in(world)
    loop.freeze(world.ports, "line/c", "ann", "audit")
    world.answer()
    world.days(1)
    assert [p.serves for p in world.plants.all.values()] == [second, second, first]
    assert world.runs[-1].phase is Phase.ROLLING_OUT
    world.clock.advance(MINUTE)
    loop.unfreeze(world.ports, "line/c", "ann")
    world.pump()
    assert world.plants["c"].serves == second
    world.until("verified")
    settled(world)


def test_a_site_whose_request_was_cut_off_by_a_freeze_is_asked_again(world: World) -> None:
    second = handed_in(world)
    world.plants.retries = 3
    asked = world.plants.apply

    def freezing(change: Change, proven: bool = False) -> None:
        loop.freeze(world.ports, "line", "ann", "now")
        asked(change, proven)

    world.plants.apply = freezing  # type: ignore[method-assign]
    world.restart()
    world.answer()
    assert world.plants["a"].applied == []
    world.plants.retries = 0
    loop.sweep(world.ports, "line")
    world.pump()
    world.plants.apply = asked  # type: ignore[method-assign]
    world.restart()
    loop.unfreeze(world.ports, "line", "ann")
    world.clock.advance(timedelta(minutes=11))
    loop.sweep(world.ports, "line")
    world.pump()
    assert world.plants["a"].applied == [second]


# --- what a person answers


def test_only_one_answer_counts(world: World) -> None:
    handed_in(world)
    assert world.answer("reject", "bob") == ""
    assert world.answer("approve", "ann") == "already rejected by bob"
    assert world.answer("reject", "bob") == "", "told again by the same person, it is the same answer"
    run = world.runs[-1]
    assert (run.phase, run.because) == (Phase.REJECTED, "rejected by bob")
    assert kinds(world, run.id).count("answered") == 1
    assert kinds(world, run.id).count("answer-refused") == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"by": "eve"}, "eve is not on the list of approvers"),
        ({"candidate": "2" * 64}, "candidate, evidence or plan are not the ones that were shown"),
        ({"plan": "2" * 64}, "candidate, evidence or plan are not the ones that were shown"),
    ],
)
def test_an_answer_that_does_not_count_is_on_record(world: World, changes: dict[str, str], why: str) -> None:
    handed_in(world)
    assert world.answer(**changes) == why
    run = world.runs[-1]
    assert run.phase is Phase.AWAITING_APPROVAL
    entry = loop.story(world.ports, "line", run.id)[-1]
    assert (entry.kind, entry.text) == ("answer-refused", f"approve by {changes.get('by', 'ann')}; refused: {why}")


def test_an_answer_that_comes_too_late_does_not_count(world: World) -> None:
    handed_in(world)
    world.clock.advance(3 * DAY)
    assert world.answer() == "expired at 2026-03-04 00:00 UTC"
    run = world.runs[-1]
    assert (run.phase, run.because) == (Phase.EXPIRED, "nobody answered in time")
    assert world.request().state == "withdrawn"
    assert world.answer() == "already withdrawn"
    settled(world)


@pytest.mark.attack
@pytest.mark.parametrize(
    "what",
    ["plans/{.plan}", "evidence/{.evidence}.json", "candidates/{.candidate}/manifest.json"],
    ids=["plan", "evidence", "candidate"],
)
def test_nothing_is_approved_that_was_changed_or_is_gone_since_it_was_shown(world: World, what: str) -> None:
    first = loop.head(world.ports, "line").champion
    handed_in(world)
    name = what.format(world.request())
    shown = world.blobs.get(name)
    world.blobs.put(name, shown.replace(b'"', b"'", 1))
    why = world.answer()
    assert " is not " in why, "what was judged"
    world.blobs.delete(name)
    assert "no blob" in world.answer(reason="again")
    assert world.runs[-1].phase is Phase.AWAITING_APPROVAL
    assert [p.serves for p in world.plants.all.values()] == [first] * 3
    assert loop.story(world.ports, "line", world.runs[-1].id)[-2].text.endswith(why)
    world.blobs.put(name, shown)
    assert world.answer(reason="at last") == ""
    world.until("verified")
    settled(world)


def test_a_plan_that_is_changed_once_it_was_approved_is_not_carried_out(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    handed_in(world)
    asked = world.request()
    send, world.bus.send = world.bus.send, lambda *_: None  # type: ignore[method-assign]
    world.ports = changed(world.ports, bus=world.bus)
    assert world.answer() == ""
    world.bus.send = send  # type: ignore[method-assign]
    world.blobs.put(f"plans/{asked.plan}", world.blobs.get(f"plans/{asked.plan}").replace(b'"lab"', b'"LAB"'))
    loop.sweep(world.ports, "line")
    world.pump()
    assert [p.serves for p in world.plants.all.values()] == [first] * 3
    run = world.runs[-1]
    assert (run.phase, run.because) == (Phase.REJECTED, "the plan is not the one that was shown, or names no site")
    settled(world)


def test_an_answer_whose_event_got_lost_is_found_by_the_sweep(world: World) -> None:
    handed_in(world)
    send, world.bus.send = world.bus.send, lambda *_: None  # type: ignore[method-assign]
    world.ports = changed(world.ports, bus=world.bus)
    world.answer()
    assert world.runs[-1].phase is Phase.AWAITING_APPROVAL
    world.bus.send = send  # type: ignore[method-assign]
    loop.sweep(world.ports, "line")
    world.pump()
    assert world.runs[-1].phase is Phase.ROLLING_OUT


# --- jobs


def test_the_end_of_a_job_whose_event_got_lost_is_found_by_the_sweep(world: World) -> None:
    world.jobs.holds = True
    loop.retrain(world.ports, "line", "eve", "new sensors")
    world.pump()
    assert world.runs[-1].phase is Phase.TRAINING
    world._told.update({f"{world.runs[-1].id}-train", f"{world.runs[-1].id}-evaluate"})
    world.jobs.holds = False
    for _ in range(2):
        loop.sweep(world.ports, "line")
        world.pump()
    assert world.runs[-1].phase is Phase.AWAITING_APPROVAL


def test_a_job_that_takes_too_long_is_cancelled(world: World) -> None:
    world.jobs.holds = True
    loop.retrain(world.ports, "line", "eve", "new sensors")
    world.pump()
    world.clock.advance(timedelta(hours=2))
    world.pump()
    run = world.runs[-1]
    assert (run.phase, run.because) == (Phase.FAILED, "training took too long")
    assert world.jobs.cancelled == [f"{run.id}-train"]
    assert loop.head(world.ports, "line").active == {}
    settled(world)


def test_an_end_that_no_job_ever_had_changes_nothing(world: World) -> None:
    world.jobs.holds = True
    loop.retrain(world.ports, "line", "eve", "new sensors")
    world.pump()
    before = world.runs
    for name in (f"{before[0].id}-train", f"{before[0].id}-evaluate", "line.2026-03-01.9-train", "nonsense", ""):
        training.job_ended(world.ports, name)
    world.pump()
    assert world.runs == before


def test_the_last_effects_of_a_run_are_performed_though_it_has_ended(world: World) -> None:
    world.jobs.holds = True
    loop.retrain(world.ports, "line", "eve", "new sensors")
    world.pump()
    run = world.runs[-1]
    event = events.Cancelled(id="c1", run=run.id, at=world.clock.now(), by="ann", reason="wrong month")
    loop._tell(world.ports, event)  # and then the process is gone, and its message with it
    assert len(world.waiting()) == 2
    loop.sweep(world.ports, "line")
    world.pump()
    assert world.jobs.cancelled == [f"{run.id}-train"]
    world.clock.advance(timedelta(minutes=16))  # so soon after the run's begin it waits for a digest
    loop.sweep(world.ports, "line")
    assert f"{run.id}/run-cancelled" in world.board.cards
    settled(world)


# --- one run at a time


def test_a_check_that_comes_twice_is_one_check(world: World) -> None:
    drifted(world)
    world.days(1.5)
    world.half_day()
    before = world.decisions
    checked = loop.check(world.ports, "line")
    assert world.decisions == before
    assert checked.decision.reason == before[-1]
    assert len(world.runs) == 1


def test_two_workers_that_check_at_once_begin_one_run(world: World) -> None:
    drifted(world)
    world.days(1.5)
    raced: list[str] = []
    real = world.store.commit

    def commit(partition: str, changes: Any) -> None:
        if partition == "line" and not raced and any(c.key.startswith("decision/") for c in changes):
            raced.append("now")
            other = changed(world.ports, store=world.store)
            world.store.commit = real  # type: ignore[method-assign]
            raced.append(loop.check(other, "line").run)
        real(partition, changes)

    world.store.commit = commit  # type: ignore[method-assign]
    world.ports = changed(world.ports, store=world.store)
    world.half_day()
    assert len(raced) == 2
    assert [r.id for r in world.runs] == [raced[1]]
    assert list(world.jobs.jobs) == [f"{raced[1]}-train", f"{raced[1]}-evaluate"]


def test_a_second_run_waits_for_the_end_of_the_first(worlds: Worlds) -> None:
    world = worlds(a_loop=replace(LOOP, approval=replace(LOOP.approval, expires="9d")))
    world.begin()
    handed_in(world)
    run = world.runs[-1].id
    with pytest.raises(Refused, match=f"{run} has not ended"):
        handed_in(world, "other")
    with pytest.raises(Refused, match=f"{run} has not ended"):
        loop.retrain(world.ports, "line", "eve", "now")
    drifted(world)
    world.days(2)
    assert f"held: {run} has not ended" in world.decisions[-1]
    assert len(world.runs) == 1


def test_what_does_not_exist_is_refused(world: World) -> None:
    with pytest.raises(NotFound):
        loop.submit(world.ports, "line", "2" * 64, "eve", "guess")
    with pytest.raises(NotFound):
        loop.retrain(world.ports, "other", "eve", "now")
    with pytest.raises(NotFound):
        loop.ask(world.ports, "line.2026-03-01.9", events.Cancelled, "ann", "no")
    assert world.runs == []


def test_a_run_is_cancelled_and_a_run_that_has_ended_is_not(world: World) -> None:
    handed_in(world)
    run = world.runs[-1].id
    with pytest.raises(Refused, match=f"{run} is awaiting-approval: nothing to take back"):
        loop.ask(world.ports, run, events.RollBackAsked, "ann", "no")
    loop.ask(world.ports, run, events.Cancelled, "ann", "wrong month")
    world.pump()
    assert world.runs[-1].because == "cancelled by ann: wrong month"
    assert world.request().state == "withdrawn"
    with pytest.raises(Refused, match=f"{run} has ended: cancelled"):
        loop.ask(world.ports, run, events.Cancelled, "ann", "again")
    settled(world)


def test_a_site_that_spoke_before_it_was_adopted_has_a_way_back(worlds: Worlds) -> None:
    world = worlds()
    first = put_candidate(world.blobs, a_reference(), "bootstrap")
    for plant in world.plants.all.values():
        plant.serves = first
    world.clock.advance(DAY / 2)
    world.send(world.payload(world.batch("a")))
    world.pump()
    assert (world.state("a").observed, world.state("a").candidate) == (first, "")
    world.begin()
    assert (world.state("a").last_good, world.state("a").batches) == (first, 1)
    second = handed_in(world)
    world.plants["a"].slow.add(second)
    world.answer()
    world.until("rolled-back")
    assert world.plants["a"].applied == [second, first]


def test_the_first_champion_is_adopted_once(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    loop.adopt(world.ports, "line", first, "ann")
    assert kinds(world, first) == ["adopted"]
    other = put_candidate(world.blobs, a_reference(), "other")
    with pytest.raises(Refused, match="line has a champion already"):
        loop.adopt(world.ports, "line", other, "ann")
    with pytest.raises(NotFound):
        loop.adopt(world.ports, "line", "2" * 64, "ann")


# --- poison


@pytest.mark.parametrize(
    ("event", "refused"),
    [
        (events.DeadlinePassed(id="e", run="line.2026-03-01.9", at=START, phase="training"), NotFound),
        (events.DeadlinePassed(id="e", run="other.2026-03-01.9", at=START, phase="training"), NotFound),
        (events.DeadlinePassed(id="e", run="", at=START, phase="training"), NotFound),
        (
            events.RollbackReported(id="e", run="line.2026-03-01.1", at=START, restored=1, deferred=0, pending=0),
            IllegalTransition,
        ),
        (events.Trained(id="e", run="line.2026-03-01.1", at=START, candidate="2" * 64, rows=5), IllegalTransition),
    ],
)
def test_an_event_that_cannot_be_true_changes_nothing(
    world: World, event: events.Event, refused: type[Exception]
) -> None:
    handed_in(world)
    before = world.runs, loop.story(world.ports, "line")
    with pytest.raises(refused):
        loop.tell(world.ports, event)
    assert (world.runs, loop.story(world.ports, "line")) == before


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"\xff", b'{"v":1,"kind":"Event","body":{"type":"approved"}}'])
def test_bytes_that_are_no_event_are_put_aside_and_hold_nobody_up(world: World, body: bytes) -> None:
    run = loop.retrain(world.ports, "line", "eve", "now")
    world.bus.send("runs", [Message(id="poison", body=body, session=run)])
    world.pump()
    assert world.runs[-1].phase is Phase.AWAITING_APPROVAL
    assert len(world.quarantine) == 1
    assert world.bus.dead_letters("runs") == []


@pytest.mark.parametrize(
    "key", ["", "x", "outbox/", "outbox/line.2026-03-01.1", "outbox/none/e/0", "run/line.1", "a" * 500]
)
def test_a_key_that_is_no_effect_is_refused_or_was_performed_before(world: World, key: str) -> None:
    if key.startswith("outbox/") and key != "outbox/":
        assert loop.perform(world.ports, key) is False
    else:
        with pytest.raises(Refused):
            loop.perform(world.ports, key)


def test_a_request_for_a_site_that_no_run_made_changes_nothing(world: World) -> None:
    """Whoever can put an event on the topic cannot deploy by it."""
    first = loop.head(world.ports, "line").champion
    second = handed_in(world)
    world.answer()
    world.half_day()
    good = sites._deployment(world.runs[-1], 1, "b", world.clock.now())
    assert world.plants["b"].serves == second
    planted = put_candidate(world.blobs, a_reference(), "planted")
    for forged in (
        replace(good, id="x", candidate=planted),
        replace(good, id="x", candidate=planted, fence=999),
        replace(good, id="x", candidate=planted, action="rollback", fence=999),
        replace(good, id="x", run="line.2026-03-01.9", candidate=planted, fence=99),
        replace(good, id="x", run="nonsense", candidate=planted, fence=99),
        replace(good, id="x", loop="other", candidate=planted, fence=99),
    ):
        with pytest.raises(Refused):
            sites.deploy(world.ports, forged)
        assert world.plants["b"].serves == second
        assert world.state("b").candidate == second
    assert first != second


def test_a_wave_that_arrives_after_the_way_back_began_deploys_nothing(world: World) -> None:
    second = handed_in(world)
    world.answer()
    run = world.runs[-1]
    late = sites._deployment(run, 1, "c", world.clock.now())
    loop.ask(world.ports, run.id, events.RollBackAsked, "ann", "no")
    world.pump()
    sites._list(world.ports, run, 1, ("c",))
    sites.deploy(world.ports, late)
    assert world.plants["c"].serves != second
    assert world.plants["c"].applied == []


def test_long_names_reach_their_queues(worlds: Worlds) -> None:
    name, site = "l" * 63, "s" * 100
    a_loop = replace(LOOP, loop=name)
    world = worlds(a_loop=a_loop, fleet=a_fleet(site))
    first = put_candidate(world.blobs, a_reference(), "bootstrap")
    loop.adopt(world.ports, name, first, "ann")
    run = loop.submit(world.ports, name, put_candidate(world.blobs, a_reference(), "second"), "eve", "made by hand")
    world.pump()
    asked = world.store.get(name, f"approval/{run}")
    assert asked
    loop.ask(world.ports, run, events.Cancelled, "ann", "enough")
    world.pump()
    assert loop.runs(world.ports, name)[0].phase is Phase.CANCELLED
    assert [r.key for r in world.store.scan(name, "outbox/")] == []


# --- time goes by


def test_what_cannot_come_again_is_forgotten(world: World) -> None:
    world.days(2)
    held = [r.key for r in world.store.scan("line/a")]
    assert any(k.startswith("batch/") for k in held)
    loop.forget(world.ports, "line")
    assert [r.key for r in world.store.scan("line/a")] == held
    world.clock.advance(25 * DAY)
    loop.forget(world.ports, "line")
    left = [r.key for r in world.store.scan("line/a")]
    assert [k for k in left if k.startswith(("batch/", "predictions/", "orphans/"))] == []
    assert [k for k in held if k.startswith(("window/", "site"))] == left


def test_the_champions_reference_is_read_once(world: World) -> None:
    world.days(1)
    reads: list[str] = []
    get = world.blobs.get
    world.blobs.get = lambda name: reads.append(name) or get(name)  # type: ignore[method-assign,func-returns-value]
    world.days(1)
    assert [r for r in reads if r.startswith("layers/")] == []
