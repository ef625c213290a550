"""Queues, events and timers on virtual time: what is due happens at its own time, in order, and survives a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

HOUR = timedelta(hours=1)


def an_event(kind: str, n: int = 1) -> dict[str, Any]:
    return {"specversion": "1.0", "id": f"e{n}", "source": "test", "type": kind, "subject": "x", "data": {"n": n}}


def test_a_session_keeps_its_order_and_handlers_get_library_objects(here: Any) -> None:
    here.send("runs", "a1", "a2", "a3", session="a")
    here.send("runs", "b1", "b2", session="b")
    assert here.host.pump() == 5
    assert [s for s in here.seen("run") if s[0] == "a"] == [("a", f"a{n}", 1) for n in (1, 2, 3)]
    assert [s for s in here.seen("run") if s[0] == "b"] == [("b", "b1", 1), ("b", "b2", 1)]
    assert here.host.pump() == 0


def test_many_messages_arrive_as_lists_no_longer_than_host_json_says(here: Any) -> None:
    here.send("telemetry", "0", "1", "2", "3", "4", "\xff\x00")
    here.host.pump()
    assert here.seen("batch") == [(b"0", b"1", b"2", b"3"), (b"4", b"\xff\x00")]


def test_properties_and_ids_reach_the_handler(here: Any) -> None:
    from triggers.ports import Message

    here.bus.send("effects", [Message("effect-1", b"{}", properties={"kind": "train"})])
    here.host.pump()
    assert here.seen("effect") == [("effect-1", {"kind": "train"})]


def test_what_fails_is_delivered_again_and_is_a_dead_letter_after_ten(
    here: Any, caplog: pytest.LogCaptureFixture
) -> None:
    here.app.broken.add("poison")
    here.send("runs", "before", "poison", "after", session="a")
    with caplog.at_level(logging.ERROR, "driftloop.host"):
        assert here.host.pump() == 12
    assert [s[1] for s in here.seen("run")] == ["before", *["poison"] * 10, "after"]
    assert [s[2] for s in here.seen("run")] == [1, *range(1, 11), 1]
    assert [(d.id, d.count) for d in here.bus.dead_letters("runs")] == [("a-poison", 10)]
    assert "in_order failed (message a-poison, delivery 10): ValueError: poison" in caplog.text


def test_a_failing_batch_is_delivered_again_as_a_whole(here: Any) -> None:
    here.app.broken.add("bad")
    here.send("telemetry", "good", "bad")
    here.host.pump(max_rounds=1)
    here.app.broken.clear()
    here.host.pump()
    assert here.seen("batch") == [(b"good", b"bad")] * 2


def test_events_are_tried_again_later_and_filtered_by_type(start: Callable[..., Any]) -> None:
    here = start(options={"subscriptions": {"on_event": ["driftloop.deployment", "Microsoft."]}})
    here.app.broken.add("Microsoft.X")
    here.topic.publish([an_event("driftloop.deployment.requested", 1), an_event("driftloop.other", 2)])
    here.topic.publish([an_event("Microsoft.X", 3)])
    here.host.pump()
    assert [s[0] for s in here.seen("event")] == ["driftloop.deployment.requested", "Microsoft.X"]
    assert here.seen("event")[0] == ("driftloop.deployment.requested", "x", {"n": 1})
    here.app.broken.clear()
    assert here.host.pump() == 0
    before = here.clock.now()
    here.host.advance(before + timedelta(seconds=10))
    assert [s[0] for s in here.seen("event")][2:] == ["Microsoft.X"]


def test_whatever_is_due_on_the_way_happens_at_its_own_time(start: Callable[..., Any]) -> None:
    times: list[tuple[str, datetime]] = []
    here = start(options={"on_invoke": lambda name, seconds, error: times.append((name, here.clock.now()))})
    noon = here.clock.now()
    here.send("runs", "later", at=noon + 3 * HOUR)
    here.send("runs", "latest", at=noon + 30 * HOUR)
    assert here.host.next_timer() == noon + 8 * HOUR
    handled = here.host.advance(noon + 24 * HOUR)
    expected = [("in_order", 3), ("often", 8), ("often", 16), ("daily", 18), ("often", 24)]
    assert times == [(name, noon + hours * HOUR) for name, hours in expected]
    assert (handled, here.clock.now()) == (5, noon + 24 * HOUR)


def test_a_timer_that_fails_waits_for_its_next_occurrence(here: Any) -> None:
    here.app.broken.add("daily")
    here.host.advance(here.clock.now() + 48 * HOUR)
    assert here.seen("daily") == [(False,), (False,)]


def test_a_restart_neither_skips_nor_doubles_a_timer(here: Any) -> None:
    noon = here.clock.now()
    here.host.advance(noon + 18 * HOUR)
    assert here.seen("daily") == [(False,)]
    here.restart()
    assert (here.host.run_due_timers(), here.seen("daily")) == (0, [])
    here.clock.set(noon + 4 * 24 * HOUR)  # down, while time goes on
    here.restart()
    assert here.host.run_due_timers() == 2
    assert (here.seen("daily"), here.seen("often")) == ([(True,)], [(True,)])
    assert here.host.run_due_timers() == 0
    assert here.host.next_timer() == noon + 4 * 24 * HOUR + 8 * HOUR


def test_a_clock_that_falls_back_fires_no_timer_twice(start: Callable[..., Any]) -> None:
    here = start()
    here.host.advance(here.clock.now() + 19 * HOUR)
    here.database.write(lambda c: c.execute("update clock set now = now - 7200000000"))
    here.restart()
    here.host.advance(here.clock.now() + 2 * HOUR)
    assert here.seen("daily") == []


def test_a_leap_day_and_new_year_are_days_like_others(start: Callable[..., Any]) -> None:
    here = start(settings={"RunsQueue": "runs", "CheckSchedule": "0 59 23 * * *"})
    here.clock.set(datetime(2028, 2, 28, 12, tzinfo=UTC))
    here.restart()
    here.host.run_due_timers()
    here.app.seen.clear()
    here.host.advance(datetime(2028, 3, 1, 12, tzinfo=UTC))
    assert here.seen("daily") == [(False,), (False,)]


def test_a_timer_that_runs_on_startup_runs_at_every_start(tmp_path: Path, start: Callable[..., Any]) -> None:
    source = tmp_path / "function_app.py"
    source.write_text(
        "import azure.functions as func\napp = func.FunctionApp()\n"
        "@app.timer_trigger(arg_name='t', schedule='0 0 6 * * *', run_on_startup=True)\ndef f(t): ..."
    )
    here = start(source=source)
    assert (here.host.run_due_timers(), here.host.run_due_timers()) == (1, 0)
    here.restart()
    assert (here.host.run_due_timers(), here.host.run_due_timers()) == (1, 0)
