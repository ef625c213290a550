"""The status API: what an operator sees is what the shell has stored."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from triggers import candidates, glance, intake, loop, views
from triggers.records import AuditEntry

NOW = datetime(2013, 4, 13, tzinfo=UTC)

SECURITY = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def test_loops_say_who_is_champion_what_runs_and_what_is_waited_for(stage: Any, run: str) -> None:
    said = stage.get("/api/loops").json()
    assert said["now"] == stage.ports.clock.now().isoformat().replace("+00:00", "Z")
    (about,) = said["loops"]
    assert (about["name"], about["champion"], about["sites"]) == ("flights", stage.champion, 3)
    assert [(r["id"], r["phase"]) for r in about["active"]] == [(run, "awaiting-approval")]
    assert (about["next"], about["frozen"], said["frozen_all"]) == ("a person's answer", "", "")


def test_a_loop_that_cannot_be_read_is_listed_with_its_problem_and_hides_no_other(stage: Any) -> None:
    bad = stage.state / "config" / "bad"
    bad.mkdir()
    (bad / "loop.yaml").write_text("loop: [")
    said = stage.get("/api/loops").json()
    assert [about["name"] for about in said["loops"]] == ["flights"]
    (unreadable,) = said["unreadable"]
    assert unreadable["name"] == "bad"
    assert unreadable["problem"].startswith("config/bad/loop.yaml:2: not YAML")


def test_a_fleet_is_shown_by_ring_with_what_each_site_should_and_does_serve(stage: Any) -> None:
    said = stage.get("/api/loops/flights").json()
    assert [(r["name"], [s["name"] for s in r["sites"]]) for r in said["rings"]] == [
        ("lab", ["EWR"]),
        ("coast", ["JFK", "LGA"]),
    ]
    ewr = said["rings"][0]["sites"][0]
    assert (ewr["intent"], ewr["observed"], ewr["last_good"]) == (stage.champion,) * 3
    assert (ewr["status"], ewr["silent"], ewr["heard"]) == ("verified", False, "2013-04-13T00:00:00Z")
    assert ewr["recent"] == {"days": 7, "rows": 360, "labels": 360}
    assert said["decision"]["action"] == "retrain"
    assert [d["candidate"] for d in said["detectors"]] == [stage.champion[:12]]
    assert said["detectors"][0]["evidence"] >= said["detectors"][0]["limit"]
    assert len(said["waiting"]) == 1


def test_a_site_that_says_nothing_for_too_long_is_silent(stage: Any) -> None:
    stage.local.clock.advance(timedelta(days=3))
    sites = [s for r in stage.get("/api/loops/flights").json()["rings"] for s in r["sites"]]
    assert all(s["silent"] for s in sites)


def test_drift_is_checks_and_each_a_heat_map_by_site_and_feature(stage: Any) -> None:
    said = stage.get("/api/loops/flights/drift?days=5").json()
    assert [c["at"][:10] for c in said["checks"]] == [f"2013-04-{d:02}" for d in range(8, 14)]
    last = said["checks"][-1]
    assert any("wind" in f["features"] for f in last["findings"])
    heat = stage.get(f"/api/loops/flights/drift/{last['id']}?metric=ks").json()
    assert heat["metric"] == "ks"
    assert sorted(heat["sites"]) == ["EWR", "JFK", "LGA"]
    assert heat["features"] == ["distance", "dep_hour", "wind", "carrier", "score"]
    assert all(row[2] > 0.5 for row in heat["values"])
    worst = [max(v for v in row if v is not None) for row in heat["values"]]
    assert worst == sorted(worst, reverse=True)
    assert heat["typical"][2] == sorted(row[2] for row in heat["values"])[1]


def test_a_heat_map_comes_in_pages(stage: Any) -> None:
    check = stage.get("/api/loops/flights/drift?days=5").json()["checks"][-1]["id"]
    path = f"/api/loops/flights/drift/{check}?limit=2"
    first = stage.get(path).json()
    then = stage.get(f"{path}&cursor={first['next']}").json()
    assert (first["total"], len(first["sites"]), len(then["sites"]), then["next"]) == (3, 2, 1, None)
    assert {*first["sites"], *then["sites"]} == {"EWR", "JFK", "LGA"}


def test_a_glance_holds_every_site_and_what_wants_a_person(stage: Any, run: str) -> None:
    said = stage.get("/api/loops/flights/glance").json()
    assert said["cells"]["name"] == ["EWR", "JFK", "LGA"]
    assert [said["rings"][i]["name"] for i in said["cells"]["ring"]] == ["lab", "coast", "coast"]
    assert [(c["name"], c["sites"]) for c in said["cohorts"]] == [("default", 1), ("sea", 2)]
    assert [w["word"] for w in said["words"]] == ["verified"]
    (want,) = said["wants"]
    assert want["what"].startswith("A new model waits for an answer")
    assert want["link"] == "#/approvals"
    stage.local.clock.advance(timedelta(days=3))
    stage.sign_in("anna")
    stage.operate("/api/freeze", {"reason": "storm", "target": "flights/JFK"})
    silent = stage.get("/api/loops/flights/glance").json()
    assert [w["what"] for w in silent["wants"] if w["tone"] == "bad"] == ["3 sites are silent (EWR, JFK, LGA)"]
    assert "see whether the site has power" in silent["wants"][-1]["do"]
    assert [(f["target"], f["by"], f["reason"]) for f in silent["frozen"]] == [("flights/JFK", "anna", "storm")]


def test_a_site_says_what_it_serves_sent_and_may(stage: Any) -> None:
    said = stage.get("/api/loops/flights/sites/JFK").json()
    assert (said["site"]["intent"], said["blocked"], said["timezone"]) == (stage.champion, "", "UTC")
    assert said["sent"][0] == {
        **said["sent"][0],
        "start": "2013-04-12T00:00:00Z",
        "rows": 60,
        "labels": 60,
        "requests": 60,
        "errors": 0,
        "p95_ms": 8.5,
    }
    assert said["drift"][0]["feature"] == "wind"
    assert said["drift"][0]["value"] == max(d["value"] for d in said["drift"])


def test_sites_come_in_pages(stage: Any) -> None:
    names, cursor = [], ""
    while cursor is not None:
        page = stage.get(f"/api/loops/flights/sites?limit=2&cursor={cursor}").json()
        names += [site["name"] for site in page["sites"]]
        cursor = page["next"]
    assert names == ["EWR", "JFK", "LGA"]


def test_a_distribution_sets_each_window_against_the_reference(stage: Any) -> None:
    said = stage.get("/api/loops/flights/sites/JFK/features/wind?days=8").json()
    assert (said["kind"], said["candidate"], said["bins"][-1]) == ("number", stage.champion, "missing")
    assert said["reference_rows"] == 2400
    assert sum(said["reference"]) == pytest.approx(1, abs=1e-3)
    assert len({len(w["shares"]) for w in said["windows"]} | {len(said["bins"]), len(said["reference"])}) == 1
    assert all(sum(w["shares"]) == pytest.approx(1, abs=1e-3) for w in said["windows"])
    upper = slice(len(said["bins"]) // 2, -1)
    assert sum(said["windows"][-1]["shares"][upper]) > sum(said["reference"][upper]) + 0.3  # the wind has risen
    words = stage.get("/api/loops/flights/sites/JFK/features/carrier").json()
    assert words["bins"][-2:] == ["unseen", "missing"]
    assert {"AA", "B6", "DL", "UA"} < set(words["bins"])


def test_bars_hold_every_slot_of_a_column_once(stage: Any) -> None:
    known = candidates.reference(stage.ports, stage.champion)
    for column, counts in zip(known.columns, known.pooled, strict=True):
        labels, group = glance.bars(column, counts)
        assert len(group) == known.width
        assert len(labels) <= 19
        assert len(set(labels)) == len(labels)
        assert {*group[: column.bins]} | {group[-1]} <= set(range(len(labels)))


def test_the_log_goes_back_page_by_page_to_the_beginning(stage: Any) -> None:
    seen, cursor = [], ""
    while cursor is not None:
        page = stage.get(f"/api/loops/flights/log?limit=3&cursor={cursor}").json()
        seen += [entry["seq"] for entry in page["entries"]]
        cursor = page["next"]
    assert seen == list(range(stage.get("/api/loops/flights/audit").json()["head"], 0, -1))


def test_costs_say_what_of_the_budget_is_used_and_when_it_is_free(stage: Any, run: str) -> None:
    said = stage.get("/api/loops/flights/costs").json()
    assert said["budget"] == {
        **said["budget"],
        "allowed": 3,
        "used": 1,
        "free": None,
        "cooling": None,
        "enabled": True,
    }
    assert [(r["run"], r["hours"], r["cost"]) for r in said["runs"]] == [(run, 0.0, None)]
    path = stage.state / "config" / "flights" / "loop.yaml"
    path.write_text(path.read_text() + "training: {cost: {cloud: 3.5}}\n")
    assert stage.get("/api/loops/flights/costs").json()["runs"][0]["cost"] == 0.0


def test_what_has_not_changed_is_304_whatever_the_time(stage: Any, run: str) -> None:
    for path in ("loops", "loops/flights/glance", "loops/flights/runs", f"runs/{run}/story", "loops/flights/log"):
        first = stage.get(f"/api/{path}")
        stage.local.clock.advance(timedelta(seconds=7))
        again = stage.get(f"/api/{path}", {"If-None-Match": first.headers["etag"]})
        assert (again.status, again.body) == (304, b""), path
        assert again.headers.get("driftloop-now") == (None if "story" in path else stage.ports.clock.now().isoformat())
        assert again.headers["cache-control"] == "no-store"
    stage.sign_in("anna")
    before = stage.get("/api/loops/flights/glance").headers["etag"]
    stage.operate("/api/freeze", {"reason": "storm", "target": "flights"})
    assert stage.get("/api/loops/flights/glance", {"If-None-Match": before}).status == 200


def test_a_query_that_means_nothing_is_refused_in_words(stage: Any) -> None:
    for query in ("days=x", "days=-1", "days=401", "days=%D9%A3", "metric=no", "days=1e9", "days=" + 99 * "9"):
        check = "2013-04-13T063000-000000000000" if query.startswith("metric") else ""
        got = stage.get(f"/api/loops/flights/drift{check and '/'}{check}?{query}")
        assert got.status == 400, query
        assert got.headers["content-type"].startswith("application/problem+json")
        assert " is " in got.json()["detail"]


def test_a_run_is_shown_with_waves_question_evidence_and_lineage(stage: Any, run: str) -> None:
    said = stage.get(f"/api/runs/{run}").json()
    assert said["run"]["candidate"] == stage.challenger
    assert [(w["ring"], [s["site"] for s in w["sites"]]) for w in said["waves"]] == [
        ("lab", ["EWR"]),
        ("coast", ["JFK", "LGA"]),
    ]
    assert said["approval"]["state"] == "open"
    assert said["approval"]["approvers"] == ["anna", "ben"]
    assert said["evidence"]["sites"]["EWR"]["rows"] == 600
    assert said["lineage"]["parent"] == stage.champion
    assert said["decision"]["reason"] == said["run"]["cause"]
    assert said["may"] == ["cancel"]


def test_a_story_is_told_in_sentences(stage: Any, run: str) -> None:
    told = [s["text"] for s in stage.get(f"/api/runs/{run}/story").json()["sentences"]]
    assert [t.split(":")[0] for t in told] == [
        "Began",
        "Training ended",
        "Compared with the champion",
        "Asked for an answer",
    ]
    assert all(t.endswith(".") for t in told)


def test_the_audit_trail_comes_in_pages_and_names_its_head(stage: Any) -> None:
    everything = stage.get("/api/loops/flights/audit").json()
    assert everything["entries"][-1]["hash"] == everything["head_hash"]
    later = stage.get("/api/loops/flights/audit?after=3").json()["entries"]
    assert later == everything["entries"][3:]


def test_decisions_come_newest_first(stage: Any) -> None:
    found = stage.get("/api/loops/flights/decisions?limit=3").json()["decisions"]
    assert [d["action"] for d in found] == ["retrain", "hold", "hold"]
    assert "held: " in found[1]["reason"]


def test_decisions_come_in_pages_and_a_cursor_of_nobody_is_refused(stage: Any) -> None:
    seen, cursor = [], ""
    while cursor is not None:
        page = stage.get(f"/api/loops/flights/decisions?limit=4&cursor={cursor}").json()
        seen += [d["at"] for d in page["decisions"]]
        cursor = page["next"]
    assert len(seen) == len(set(seen)) > 8
    assert seen == sorted(seen, reverse=True)
    assert stage.get("/api/loops/flights/decisions?cursor=" + 9 * "0").status == 400


def test_quarantine_says_why(stage: Any) -> None:
    intake.ingest(stage.ports, [b'{"nonsense"'])
    said = stage.get("/api/loops/flights/quarantine").json()
    assert said["total"] == 1
    assert said["quarantined"][0]["reason"].startswith("not JSON")


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ("training", "The time for training was over."),
        ("rolling-out/0", "The time for rolling-out, wave 1, was over."),
        ("rolling-out/0/1", "The time for rolling-out, wave 1, was over."),
        ("awaiting-approval/remind", "The time for awaiting-approval was over."),
    ],
)
def test_the_story_counts_waves_from_1(phase: str, said: str) -> None:
    kind = "event-deadline-passed"
    entry = AuditEntry(seq=1, at=NOW, kind=kind, subject="x", actor="", text="", data={"event": {"phase": phase}})
    assert views.sentence(entry).text == said


def test_what_is_not_an_envelope_is_taken_then_quarantined_and_logged(
    stage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "driftloop"):
        assert stage.ask("POST", "/api/telemetry", b"garbage").status == 202
        stage.host.pump()
    (said,) = stage.get("/api/loops/flights/quarantine").json()["quarantined"]
    assert said["reason"].startswith("not JSON")
    assert f"quarantined a batch of / '' (7 bytes, {said['blob'][-64:][:12]}): not JSON" in caplog.text


def test_a_report_runs_its_scripts_in_a_sandbox_without_our_cookies(stage: Any) -> None:
    stage.ports.blobs.put("evidently/flights/a b.html", b"<script>1</script>")
    got = stage.get("/api/reports/evidently/flights/a%20b.html")
    assert (got.status, got.body) == (200, b"<script>1</script>")
    policy = got.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in policy
    assert "connect-src" not in policy
    assert "default-src 'none'" in policy


@pytest.mark.attack
def test_only_stored_reports_are_served_as_reports(stage: Any) -> None:
    for name in (
        "candidates/x/manifest.json",
        "batches/flights/EWR/x.html",
        "evidently/../state.html",
        "evidently/%2e%2e/%2e%2e/config/flights/loop.yaml",
        "evidently/..%2f..%2fconfig/x.html",
        "evidently/nothing.html",
        "evidently/" + 2000 * "x" + ".html",
        "",
    ):
        assert stage.get(f"/api/reports/{name}").status in (400, 404), name


@pytest.mark.attack
def test_only_the_dashboard_s_own_files_are_served(stage: Any) -> None:
    for name in ("../people.py", "%2e%2e/people.py", "..%2fpeople.py", "openapi.json", "x", "/etc/passwd", "%00"):
        assert stage.get(f"/api/ui/{name}").status in (400, 404), name


def test_the_dashboard_is_served_under_a_policy_without_inline_script(stage: Any) -> None:
    for path in ("/api/ui", "/api/ui/", "/api/ui/app.js", "/api/ui/style.css", "/api/ui/icon.svg"):
        got = stage.get(path)
        assert got.status == 200, path
        policy = got.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy


def test_the_dashboard_has_no_markup_that_its_policy_forbids() -> None:
    web = Path(__file__).parents[2] / "functions" / "web"
    assert not re.search(r"<script>|<style|\son\w+=|\sstyle=", (web / "index.html").read_text())
    for script in web.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|document.write", script.read_text())


def test_what_does_not_exist_is_404_in_words(stage: Any) -> None:
    for path in (
        *("loops/nothing", "loops/nothing/runs", "loops/nothing/drift", "loops/nothing/audit", "loops/%20"),
        *("runs/nothing", "runs/flights.2013-01-01.9", "runs/flights", "runs/nothing/story"),
    ):
        got = stage.get(f"/api/{path}")
        assert (got.status, got.json()["title"]) == (404, "Not found"), path


def test_everything_carries_the_security_headers(stage: Any, run: str) -> None:
    for path in ("loops", "loops/flights", f"runs/{run}", f"approvals/{run}", "login?token=x", "loops/none", "session"):
        headers = stage.get(f"/api/{path}").headers
        assert {k: headers[k] for k in SECURITY} == SECURITY, path
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert "access-control-allow-origin" not in headers


def test_an_empty_state_is_shown_as_one(empty: Any) -> None:
    assert empty.get("/api/loops").json()["loops"] == []
    assert empty.get("/api/health").json()["loops"] == 0
    empty.configure()
    said = empty.get("/api/loops/flights").json()
    assert (said["decision"], said["detectors"], said["waiting"]) == (None, [], [])
    assert empty.get("/api/loops/flights/drift").json()["checks"] == []
    assert said["loop"]["next"].startswith("a first champion")


def test_answers_hold_numbers_that_json_knows(stage: Any, run: str) -> None:
    for path in ("loops/flights", "loops/flights/drift?days=400", f"runs/{run}"):
        json.loads(stage.get(f"/api/{path}").body, parse_constant=pytest.fail)


def test_a_wave_that_waits_is_named_with_its_ring(stage: Any, run: str) -> None:
    stage.sign_in("anna")
    assert stage.answer(run, {**stage.form(run), "answer": "approve"}).status == 303
    stage.host.pump()
    (active,) = loop.active_runs(stage.ports, "flights")
    assert stage.get("/api/loops").json()["loops"][0]["next"] == (
        "wave 1 of 2 (lab, 1 site) to verify by its own telemetry"
    )
    assert active.id == run
