"""The operator's commands: with the same words on a state folder, and on an app by its address."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from cli.main import main
from triggers import codec, loop, views
from triggers.ports import Delete, Put
from triggers.records import AuditEntry, LoopUnit


@pytest.fixture(params=["state", "app"])
def where(request: pytest.FixtureRequest, stage: Any) -> list[str]:
    if request.param == "state":
        return ["--state", str(stage.state)]
    return ["--app", stage.local.people.login_link(stage.origin, "anna")]


@pytest.fixture
def told(stage: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command prints; one that opens the state itself does so while no host has it."""

    def run(*command: str, status: int = 0) -> str:
        capsys.readouterr()
        if here := "--state" in command:
            stage.__exit__()
        assert main(command) == status
        if here:
            stage.__enter__()
        said = capsys.readouterr()
        return said.err if status == 2 else said.out

    return run


def test_status_says_what_wants_a_person(where: list[str], stage: Any, run: str, told: Callable[..., str]) -> None:
    said = told("status", *where, status=1)
    assert f"flights: 3 sites serve {stage.champion[:12]}" in said
    assert f"! {run} waits for an answer: driftloop show {run}" in said
    found = json.loads(told("status", "--json", *where, status=1))
    assert (found["wanting"], len(found["fleets"])) == ([f"{run} waits for an answer: driftloop show {run}"], 1)


def test_runs_show_and_explain_tell_of_a_run(where: list[str], stage: Any, run: str, told: Callable[..., str]) -> None:
    assert run in told("runs", *where)
    said = told("show", run, *where)
    assert said.startswith(f"{run}: awaiting-approval\nbecause   ")
    assert f"candidate {stage.challenger}" in said
    assert "waits for a person's answer" in said
    assert json.loads(told("show", run, "--json", *where))["run"]["id"] == run
    story = told("explain", run, *where)
    assert story.splitlines()[0] == "Why then"
    for sentence in (
        "On 1,800 rows that neither model was trained on, from 2013-04-03 to 2013-04-13, auc was 0.6981 against the",
        "That is a gain of +0.0571, between +0.0361 and +0.0761 at 95% confidence.",
        "It was the 3rd check in a row that found it.",
        "It has not ended: it is awaiting-approval",
        "wind at ",
    ):
        assert sentence in story
    assert "Compared with the champion" not in story
    assert "2013-04-13 06:30  Compared with the champion: " in told("explain", run, "--steps", *where)
    found = json.loads(told("explain", run, "--json", *where))
    assert [c["title"] for c in found["chapters"]][:2] == ["Why then", "What had moved"]


def _anna(where: list[str]) -> list[str]:
    return [*where, "--as", "anna"] if "--state" in where else where


def test_a_candidate_is_approved_by_the_digest_that_was_looked_at(
    where: list[str], stage: Any, run: str, told: Callable[..., str]
) -> None:
    assert "--candidate: say which one was looked at" in told("approve", run, *_anna(where), status=2)
    other = f"{stage.champion[:12]}"
    assert "not " + other in told("approve", run, "--candidate", other, *_anna(where), status=2)
    assert views.approval_request(stage.ports, run).state == "open"
    said = told("approve", run, "--candidate", stage.challenger[:12], *_anna(where))
    assert said == f"{run}: approved by anna\n"
    request = views.approval_request(stage.ports, run)
    assert (request.state, request.by, request.candidate) == ("approved", "anna", stage.challenger)
    assert "the question is approved" in told("approve", run, "--candidate", stage.challenger, *_anna(where), status=2)
    stage.host.pump()
    story = told("explain", run, *where)
    assert f"The answer is bound to candidate {stage.challenger[:12]}, evidence {request.evidence[:12]}" in story


def test_a_candidate_is_rejected_with_a_reason(
    where: list[str], stage: Any, run: str, told: Callable[..., str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["reject", run, "--candidate", stage.challenger, *_anna(where)])
    assert refused.value.code == 2
    reason = ("--reason", "not in the storm season")
    said = told("reject", run, "--candidate", stage.challenger, *reason, "--json", *_anna(where))
    assert json.loads(said) == {"run": run, "state": "rejected", "by": "anna"}
    stage.host.pump()
    assert "anna rejected it on 2013-04-13 06:30, saying: not in the storm season." in told("explain", run, *where)


def test_who_is_not_on_the_list_is_told_that_the_answer_does_not_count(
    stage: Any, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    link = stage.local.people.login_link(stage.origin, "eve")
    assert main(["approve", run, "--candidate", stage.challenger, "--app", link]) == 1
    assert "it does not count" in capsys.readouterr().err
    assert views.approval_request(stage.ports, run).state == "open"


def test_a_check_is_made_by_hand_and_noted(where: list[str], stage: Any, told: Callable[..., str]) -> None:
    stage.local.clock.advance(timedelta(hours=1))
    assert told("check", "--reason", "curious", *where) == "flights: hold: no new windows to assess\n"
    noted = [e for e in loop.story(stage.ports, "flights") if e.kind == "check-asked"]
    assert [e.text for e in noted] == ["curious"]


def test_a_candidate_is_revoked_and_that_is_said(
    where: list[str], stage: Any, run: str, told: Callable[..., str]
) -> None:
    for candidate in (stage.champion, stage.challenger):
        assert told("revoke", candidate, "--reason", "it leaks", *where) == f"{candidate} is revoked\n"
    assert f"serves {stage.champion[:12]}, revoked by " in told("status", *where, status=1)
    said = told("show", run, *where)
    assert f"candidate {stage.challenger}\nrevoked   by " in said
    assert "no candidate '0123'" in told("revoke", "0123", "--reason", "it leaks", *where, status=2)


def test_a_run_is_stopped_and_another_begun(where: list[str], stage: Any, run: str, told: Callable[..., str]) -> None:
    assert told("cancel", run, "--reason", "not now", *where) == f"{run} is told to stop\n"
    stage.host.pump()
    begun = json.loads(told("retrain", "--reason", "now", "--json", *where))["run"]
    assert [r.id for r in loop.active_runs(stage.ports, "flights")] == [begun]
    assert told("retrain", "--reason", "and now", *where, status=2) == f"driftloop: {begun} has not ended\n"
    newer = json.loads(told("retrain", "--reason", "once more", "--supersede", "--json", *where))["run"]
    assert f"superseded by {newer}" in told("show", begun, *where)
    begun = newer


def test_what_was_quarantined_is_read_and_comes_in_again_once_it_can(
    where: list[str], stage: Any, told: Callable[..., str]
) -> None:
    before = stage.get("/api/loops/flights").json()["quarantined"]
    fleet = stage.state / "config" / "flights" / "fleet.yaml"
    whole = fleet.read_text()
    fleet.write_text("".join(line for line in whole.splitlines(keepends=True) if "LGA" not in line))
    batch = {"schema": "1", "loop": "flights", "candidate": stage.champion, "site": "LGA", "batch": "new"}
    now = stage.ports.clock.now()
    batch |= {"from": f"{now:%Y-%m-%d}T00:00:00Z", "to": f"{now:%Y-%m-%d}T01:00:00Z", "rows": []}
    stage.ask("POST", "/api/telemetry", json.dumps(batch).encode())
    stage.host.pump()
    (one,) = json.loads(told("quarantine", "list", "--json", *where))["quarantined"]
    assert (one["site"], one["batch"], one["reason"]) == ("LGA", "new", "unknown site 'LGA'")
    assert json.loads(told("quarantine", "show", one["id"], *where)) == batch
    again = ("quarantine", "replay", one["id"], "--reason", "the site is back", *where)
    told(*again)
    stage.host.pump()
    assert one["id"] in told("quarantine", "list", *where), "still unknown: it is put back"
    fleet.write_text(whole)
    told(*again)
    stage.host.pump()
    assert one["id"] not in told("quarantine", "list", *where)
    assert stage.get("/api/loops/flights").json()["quarantined"] == before
    assert "nothing in quarantine" in told(*again, status=2)
    kinds = [e["kind"] for e in stage.get("/api/loops/flights/audit").json()["entries"]]
    assert kinds.count("replayed") == 2


def test_nobody_reads_quarantined_bytes_without_signing_in(stage: Any) -> None:
    assert stage.get("/api/loops/flights/quarantine/x").status == 401


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status", "--app", "ftp://x"], "expected an address like"),
        (["status", "--state", "nowhere"], "no state.db there"),
        (["status", "--app", "http://127.0.0.1:1"], "http://127.0.0.1:1: "),
    ],
)
def test_where_there_is_no_app_the_command_says_so(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) in (1, 2)
    assert said in capsys.readouterr().err


def test_the_audit_trail_is_shown_and_verified(
    where: list[str], stage: Any, run: str, told: Callable[..., str]
) -> None:
    assert "approval-asked" in told("audit", "show", "--run", run, *where)
    found = json.loads(told("audit", "verify", "--json", *where))
    assert (found["wrong"], found["anchors"] > 3) == ("", True)
    assert f"holds, {found['entries']} entries" in told("audit", "verify", "--head", found["head"], *where)


@pytest.mark.attack
def test_the_store_is_rebuilt_from_the_trail_alone(
    where: list[str], stage: Any, run: str, told: Callable[..., str]
) -> None:
    found = json.loads(told("audit", "rebuild", "--json", *where))
    assert (found["runs"], found["unknown"], found["wrong"]) == (1, [], [])
    assert "the store says the same" in told("audit", "rebuild", *where)
    record = stage.ports.store.get("flights", f"run/{run}")
    changed = record.value.replace(b'"approved_by":""', b'"approved_by":"eve"')
    stage.ports.store.commit("flights", [Put(record.key, changed, record.version)])
    assert f"{run}: the store has another approved_by than the trail" in told("audit", "rebuild", *where, status=1)


def test_decisions_are_computed_again(where: list[str], stage: Any, told: Callable[..., str]) -> None:
    found = json.loads(told("audit", "decisions", "--json", *where))
    assert (found["same"] > 1, found["unknown"], found["wrong"]) == (True, {}, [])
    assert f"of {found['same']} decisions, {found['same']} come again" in told("audit", "decisions", *where)
    first, *_, last = list(stage.ports.store.scan("flights", "decision/"))
    older = re.sub(rb'"weighed":"[^"]*"', b'"weighed":""', first.value)
    stage.ports.store.commit("flights", [Put(first.key, older, first.version)])
    assert "1 not compared: made by a version that kept nothing" in told("audit", "decisions", *where)
    changed = re.sub(rb'"reason":"[^"]*","findings"', b'"reason":"eve said so","findings"', last.value, count=1)
    stage.ports.store.commit("flights", [Put(last.key, changed, last.version)])
    assert "another reason than is stored" in told("audit", "decisions", *where, status=1)


def test_a_trail_that_was_tampered_with_is_found_out(stage: Any, run: str, told: Callable[..., str]) -> None:
    where = ("--state", str(stage.state))
    head = json.loads(told("audit", "verify", "--json", *where))["head"]
    newest = list(stage.ports.store.scan("flights", "audit/"))[-1]
    stage.ports.store.commit("flights", [Delete(newest.key, newest.version)])
    assert "not with entry" in told("audit", "verify", *where, status=1)
    unit = LoopUnit(stage.ports.store, "flights", stage.ports.clock.now())
    before = codec.decode(list(stage.ports.store.scan("flights", "audit/"))[-1].value, AuditEntry)
    unit.set_head(audit=before.seq, audit_hash=before.hash)
    unit.commit()
    told("audit", "verify", *where)
    assert "was anchored and is not there" in told("audit", "verify", "--head", head, *where, status=1)
    assert "expected a number and a hash" in told("audit", "verify", "--head", "x", *where, status=2)
    stage.ports.blobs.put(f"anchors/flights/2999-01-01/{before.seq:012}-{before.hash}", b"")
    told("audit", "verify", *where)
    forged = f"{before.seq}:{'0' * 64}"
    assert "was anchored twice, differently" in told("audit", "verify", "--head", forged, *where, status=1)


def test_a_target_is_frozen_and_goes_on(where: list[str], stage: Any, told: Callable[..., str]) -> None:
    for target in ("flights/JFK", "flights", "all"):
        assert told("freeze", target, "--reason", "inventory", *where) == f"{target} is frozen\n"
        assert told("unfreeze", target, "--reason", "it is over", *where) == f"{target} goes on\n"
    assert "no loop or site 'elsewhere'" in told("freeze", "elsewhere", "--reason", "x", *where, status=2)


def test_what_does_not_roll_out_is_not_paused_or_taken_back(
    where: list[str], stage: Any, run: str, told: Callable[..., str]
) -> None:
    said = told("rollout", "pause", run, "--reason", "inventory", *where, status=2)
    assert f"{run} is awaiting-approval: nothing to pause" in said
    assert "nothing to resume" in told("rollout", "resume", run, "--reason", "it is over", *where, status=2)
    assert "nothing to take back" in told("rollout", "rollback", run, "--reason", "x", *where, status=2)


def test_a_rollout_is_paused_resumed_and_taken_back_by_hand(
    where: list[str], stage: Any, run: str, told: Callable[..., str]
) -> None:
    told("approve", run, "--candidate", stage.challenger, *_anna(where))
    stage.host.pump()
    for what, said in (("pause", "begins nothing new"), ("resume", "goes on")):
        assert told("rollout", what, run, "--reason", "inventory", *where) == f"{run} {said}\n"
        stage.host.pump()
    said = told("rollout", "rollback", run, "--reason", "a bad feeling", *where)
    assert said == f"{run} is told to take its sites back\n"
    stage.host.pump()
    assert loop.runs(stage.ports, "flights")[0].because.partition(";")[0].endswith(": a bad feeling")


def test_status_of_many_sites_counts_them_by_ring(stage: Any, told: Callable[..., str]) -> None:
    fleet = stage.state / "config" / "flights" / "fleet.yaml"
    more = "\n".join(f"  - {{name: S{n}, ring: coast}}" for n in range(120))
    fleet.write_text(f"{fleet.read_text().rstrip()}\n{more}\n")
    stage.local.clock.advance(timedelta(days=3))
    said = told("status", "--state", str(stage.state), status=1)
    assert "flights: 123 sites serve" in said
    coast = next(line for line in said.splitlines() if line.startswith("coast"))
    assert coast.split() == ["coast", "122", "0", "0", "0", "2", "120"]
    assert "! flights: 3 sites are silent (EWR, JFK, LGA): Nothing heard for more than 2d" in said
    found = json.loads(told("status", "--json", "--state", str(stage.state), status=1))
    assert len(found["glances"][0]["cells"]["name"]) == 123
