"""A rollout in its windows: who is asked when, what a freeze, a pause and a change of the fleet do to it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.triggers.samples import replace
from tests.triggers.world import DAY, HALF, LOOP, START, World, a_reference, put_candidate
from triggers import events, loop, sites
from triggers.config import Blackout, Fleet, Rollout, Site, Window
from triggers.records import SiteState, Unit, site_partition
from triggers.run import Phase

NIGHT = Window(cron="0 23 * * *", duration="3h")  # open at midnight, when the world speaks
LIMITS = replace(LOOP.rollout, max_unavailable=3, install="1h")


@pytest.fixture
def worlds(tmp_path: Path) -> Any:
    made: list[World] = []

    def build(fleet: Fleet, limits: Rollout = LIMITS) -> World:
        world = World(tmp_path / str(len(made)), a_loop=replace(LOOP, rollout=limits), fleet=fleet)
        made.append(world)
        world.begin()
        return world

    yield build
    for world in made:
        world.close()


Worlds = Callable[..., World]


def rolling(world: World, name: str = "second") -> str:
    """A candidate somebody made, through the gate and approved at noon of the first day."""
    world.half_day()
    made = put_candidate(world.blobs, a_reference(0.1), name)
    loop.submit(world.ports, "line", made, "carol", "better")
    world.pump()
    assert world.answer() == ""
    return made


def row(world: World, site: str) -> tuple[str, str]:
    found = next(r for _, r in sites.rows(world.ports, world.runs[-1].id) if r.site == site)
    return found.status, found.reason


def serving(world: World) -> list[str]:
    return [p.serves for p in world.plants.all.values()]


def test_a_site_is_asked_in_its_window_and_the_list_says_what_it_waits_for(worlds: Worlds) -> None:
    world = worlds(Fleet(sites=(Site(name="a"), Site(name="b", windows=(NIGHT,)))))
    second = rolling(world)
    assert row(world, "b") == ("waiting", "its window opens at 2026-03-01 23:00 UTC")
    assert serving(world)[1] != second
    world.half_day()
    assert serving(world) == [second] * 2
    world.until("verified")
    assert world.plants["b"].applied == [second]


def test_a_change_that_would_not_end_in_the_window_does_not_begin(worlds: Worlds) -> None:
    slow = {"link_kbps": len(a_reference(0.1)) * 8 / 1000 / 2.5 / 3600}  # 2.5 hours for a candidate, 1 to install it
    fleet = Fleet(sites=(Site(name="a"), Site(name="b", windows=(NIGHT,), **slow)))  # type: ignore[arg-type]
    world = worlds(fleet)
    second = rolling(world)
    world.days(2)
    assert row(world, "b") == ("waiting", "no window within a year is 3 h 30 min long")
    assert serving(world) == [second, world.state("a").before]
    run = world.until("rolled-back", days=8)
    assert "wave 1 was not verified in time" in run.because
    assert run.because.endswith("and nobody went on with it; 1 sites taken back")


def test_a_request_that_arrives_after_its_window_has_closed_changes_nothing(worlds: Worlds) -> None:
    fleet = Fleet(sites=(Site(name="a", windows=(Window(cron="30 0 * * *", duration="2h"),)),))
    world = worlds(fleet)
    second = rolling(world)
    world.clock.advance(timedelta(hours=12, minutes=30))
    loop.sweep(world.ports, "line")
    assert row(world, "a")[0] == "asked"
    world.clock.advance(timedelta(hours=1, seconds=1))  # an hour's change would end after the window
    world.pump()
    assert serving(world) != [second]
    world.clock.advance(DAY - timedelta(minutes=60))
    loop.sweep(world.ports, "line")
    world.pump()
    assert serving(world) == [second]


def test_a_blackout_of_the_fleet_beats_every_window(worlds: Worlds) -> None:
    no = Blackout(start=START, end=START + 2 * DAY, reason="inventory")
    world = worlds(Fleet(sites=(Site(name="a"), Site(name="b", windows=(NIGHT,))), blackouts=(no,)))
    second = rolling(world)
    world.days(1)
    assert second not in serving(world)
    assert row(world, "a") == ("waiting", "its window opens at 2026-03-03 00:00 UTC")
    world.days(0.5)
    assert serving(world) == [second] * 2


def test_no_more_sites_change_at_once_than_may_be_unavailable(worlds: Worlds) -> None:
    fleet = Fleet(sites=tuple(Site(name=n) for n in "abcdef"))
    limits = replace(LIMITS, wave_size=6, max_unavailable=2, max_concurrent=1)
    world = worlds(fleet, limits)
    second = rolling(world)
    assert serving(world).count(second) == 1
    world.plants["f"].online = False
    for n in range(1, 5):
        world.half_day()
        assert serving(world).count(second) == min(n + 1, 5)
    assert world.runs[-1].phase is Phase.ROLLING_OUT


def test_a_request_that_lags_is_counted_or_withdrawn(worlds: Worlds) -> None:
    late = Window(cron="0 13 * * *", duration="3h")
    sites_ = (Site(name="a", windows=(late,)), Site(name="b", windows=(late,)), Site(name="c"), Site(name="d"))
    world = worlds(Fleet(sites=sites_), replace(LIMITS, wave_size=4, max_unavailable=2))
    world.lags.add("deployments")
    second = rolling(world)
    assert [row(world, n)[0] for n in "abcd"] == ["waiting", "waiting", "asked", "asked"]
    world.clock.advance(timedelta(hours=1))  # and the queue of requests lags
    loop.sweep(world.ports, "line")
    world.pump()
    assert row(world, "a") == ("waiting", "as many sites as may be are unavailable")
    world.lags.clear()
    world.pump()
    assert serving(world)[2:] == [second] * 2
    assert serving(world).count(second) == 2


def test_a_request_whose_turn_has_gone_to_another_changes_nothing(worlds: Worlds) -> None:
    world = worlds(Fleet(sites=tuple(Site(name=n) for n in "ab")), replace(LIMITS, wave_size=2, max_unavailable=1))
    world.lags.add("deployments")
    second = rolling(world)
    loop.freeze(world.ports, "line/a", "ann", "inventory")
    loop.sweep(world.ports, "line")
    loop.unfreeze(world.ports, "line/a", "ann")
    world.lags.clear()
    world.pump()
    assert serving(world).count(second) == 1


def test_a_change_that_another_run_began_takes_its_place(worlds: Worlds) -> None:
    world = worlds(Fleet(sites=tuple(Site(name=n) for n in "ab")), replace(LIMITS, wave_size=1, max_unavailable=1))
    unit = Unit(world.store, site_partition("line", "b"))
    begun = replace(unit.need(sites.SITE, SiteState), run="line.2026-02-01.0", action="deploy", status="underway")
    unit.put(sites.SITE, begun)
    unit.commit()
    second = rolling(world)
    assert row(world, "a") == ("waiting", "as many sites as may be are unavailable")
    unit.put(sites.SITE, replace(unit.need(sites.SITE, SiteState), status="verified"))
    unit.commit()
    world.until("verified")
    assert serving(world) == [second] * 2


def fails_unnoticed(world: World, site: str, **more: Any) -> None:
    """A crash after the site's own record is written, before anything follows."""
    unit = Unit(world.store, site_partition("line", site))
    unit.put(sites.SITE, replace(unit.need(sites.SITE, SiteState), **{"status": "failed", "reason": "slow", **more}))
    unit.commit()


def test_a_late_failure_that_a_crash_left_is_found_by_the_sweep(worlds: Worlds) -> None:
    world = worlds(Fleet(sites=tuple(Site(name=n) for n in "ab")))
    first = serving(world)[0]
    second = rolling(world)
    world.until("verified")
    fails_unnoticed(world, "a")
    world.days(1)
    assert (world.state("a").status, serving(world)) == ("restored", [first, second])


def test_a_first_ring_that_goes_bad_during_the_question_is_found_by_the_sweep(worlds: Worlds) -> None:
    world = worlds(Fleet(sites=(Site(name="a", ring="lab"), Site(name="b", ring="plant"))))
    first = serving(world)[0]
    rolling(world)
    run = world.runs[-1]
    unit = Unit(world.store, "line")
    unit.raw(f"run/{run.id}")
    unit.put(f"run/{run.id}", replace(run, phase=Phase.AWAITING_APPROVAL))
    unit.commit()
    fails_unnoticed(world, "a")
    world.days(1)
    assert (world.runs[-1].phase, serving(world)) == (Phase.ROLLED_BACK, [first] * 2)


def test_a_way_back_that_is_underway_survives_the_loss_of_its_message(worlds: Worlds) -> None:
    world = worlds(Fleet(sites=(Site(name="a"),)))
    first = serving(world)[0]
    rolling(world)
    world.lags.add("deployments")
    run = world.runs[-1].id
    loop.ask(world.ports, run, events.RollBackAsked, "ann", "complaints")
    world.pump()
    world.bus.complete(world.bus.receive("deployments", 9))
    back = {"action": "rollback", "change": f"{run}/a/rollback", "fence": sites.fence(run, back=True)}
    fails_unnoticed(world, "a", status="underway", step="some", candidate=first, **back)
    world.lags.clear()
    loop.sweep(world.ports, "line")
    world.clock.advance(timedelta(minutes=2))
    world.pump()
    assert serving(world) == [first]


def test_offline_sites_block_others_only_beyond_what_may_be_unavailable(worlds: Worlds) -> None:
    fleet = Fleet(sites=tuple(Site(name=n) for n in "abcd"))
    world = worlds(fleet, replace(LIMITS, wave_size=4, max_unavailable=2))
    for name in "ab":
        world.plants[name].online = False
    second = rolling(world)
    world.days(1)
    assert serving(world)[2:] != [second] * 2, "two are unavailable: as many as may be"
    assert row(world, "d") == ("waiting", "as many sites as may be are unavailable")
    world.plants["a"].online = True
    world.until("verified")
    assert [serving(world)[0], *serving(world)[2:]] == [second] * 3


def test_a_site_that_never_spoke_counts_as_unavailable(worlds: Worlds) -> None:
    world = worlds(Fleet(sites=tuple(Site(name=n) for n in "abc")), replace(LIMITS, wave_size=2, max_unavailable=1))
    world.plants["c"].online = False
    second = rolling(world)
    assert second not in serving(world)
    assert row(world, "a") == ("waiting", "as many sites as may be are unavailable")
    world.plants["c"].online = True
    world.until("verified")
    assert serving(world) == [second] * 3


def test_a_fleet_that_never_spoke_is_changed_no_more_sites_at_once_than_may_be_unavailable(worlds: Worlds) -> None:
    world = worlds(Fleet(sites=tuple(Site(name=n) for n in "abcd")), replace(LIMITS, wave_size=4, max_unavailable=2))
    second = put_candidate(world.blobs, a_reference(0.1), "second")
    loop.submit(world.ports, "line", second, "carol", "better")
    world.pump()
    assert world.answer() == ""
    assert serving(world).count(second) == 2
    world.until("verified")
    assert serving(world) == [second] * 4


def test_a_site_that_fails_within_what_is_put_up_with_goes_back_at_once_and_the_others_go_on(worlds: Worlds) -> None:
    limits = replace(LIMITS, wave_size=2, max_unavailable=2, max_failed=1)
    world = worlds(Fleet(sites=tuple(Site(name=n) for n in "abcd")), limits)
    first = serving(world)[0]
    world.half_day()
    second = put_candidate(world.blobs, a_reference(0.1), "second")
    world.plants["b"].slow.add(second)
    loop.submit(world.ports, "line", second, "carol", "better")
    world.pump()
    world.answer()
    assert serving(world) == [second, second, first, first]
    world.half_day()
    assert serving(world)[:2] == [second, first], "b is back while the rollout goes on"
    assert world.runs[-1].phase is Phase.ROLLING_OUT
    world.until("verified")
    assert serving(world) == [second, first, second, second]
    assert (world.state("b").status, world.state("b").last_good) == ("restored", first)
    assert row(world, "b")[0] == "restored"
    world.days(3)
    assert serving(world)[1] == first, "and stays so"


def test_failures_add_up_although_each_site_is_back(worlds: Worlds) -> None:
    limits = replace(LIMITS, wave_size=2, max_unavailable=2, max_failed=1)
    world = worlds(Fleet(sites=tuple(Site(name=n) for n in "abcd")), limits)
    first = serving(world)[0]
    world.half_day()
    second = put_candidate(world.blobs, a_reference(0.1), "second")
    world.plants["b"].slow.add(second)
    world.plants["d"].slow.add(second)
    loop.submit(world.ports, "line", second, "carol", "better")
    world.pump()
    world.answer()
    assert "wave 2: 2 failed, 1 tolerated (b: " in world.until("rolled-back").because
    assert serving(world) == [first] * 4


def test_a_frozen_site_waits_and_the_others_go_on(worlds: Worlds) -> None:
    world = worlds(Fleet(sites=tuple(Site(name=n) for n in "abc")))
    loop.freeze(world.ports, "line/b", "ann", "inventory")
    second = rolling(world)
    world.days(1)
    assert [p == second for p in serving(world)] == [True, False, True]
    assert row(world, "b") == ("waiting", "line/b frozen by ann: inventory")
    loop.unfreeze(world.ports, "line/b", "ann")
    world.pump()
    assert serving(world) == [second] * 3


def test_a_paused_rollout_asks_nobody_until_it_is_resumed(worlds: Worlds) -> None:
    world = worlds(Fleet(sites=(Site(name="a"), Site(name="b"))), replace(LIMITS, wave_size=1))
    second = rolling(world)
    run = world.runs[-1].id
    loop.ask(world.ports, run, events.Paused, "ann", "inventory")
    world.days(6)
    assert (world.runs[-1].phase, world.runs[-1].wave) == (Phase.ROLLING_OUT, 0)
    assert serving(world)[1] != second
    loop.ask(world.ports, run, events.Resumed, "ann", "inventory is over")
    world.until("verified")
    assert serving(world) == [second] * 2


def test_a_resumed_wave_has_time_anew(worlds: Worlds) -> None:
    world = worlds(Fleet(sites=(Site(name="a"), Site(name="b"))))
    rolling(world)  # its deadline is after an hour, the soak, and twice two days
    run = world.runs[-1].id
    loop.ask(world.ports, run, events.Paused, "ann", "inventory")
    for hours in (48, 48, 12):  # the sites are mute
        world.clock.advance(timedelta(hours=hours))
        loop.sweep(world.ports, "line")
        world.pump()
    assert world.state("a").status == "applied", "nothing is decided in a pause"
    loop.ask(world.ports, run, events.Resumed, "ann", "inventory is over")
    world.pump()
    world.clock.advance(timedelta(hours=2))
    world.pump()
    assert world.runs[-1].paused is None
    world.clock.advance(timedelta(hours=107))
    world.pump()
    assert world.runs[-1].paused is not None


def test_the_way_back_needs_no_window_unless_loop_yaml_says_so(worlds: Worlds) -> None:
    fleet = Fleet(sites=(Site(name="a", windows=(NIGHT,)),))
    at_once, patient = worlds(fleet), worlds(fleet, replace(LIMITS, rollback_in_windows=True))
    for world, waits in ((at_once, False), (patient, True)):
        second = rolling(world)
        world.half_day()
        assert serving(world) == [second]
        world.clock.advance(HALF)
        loop.ask(world.ports, world.runs[-1].id, events.RollBackAsked, "ann", "complaints")
        world.pump()
        assert (serving(world) == [second]) is waits
        world.until("rolled-back", days=2)
        assert serving(world) != [second]


def test_a_site_that_joins_gets_the_candidate_in_its_rings_turn_and_one_that_leaves_is_not_waited_for(
    worlds: Worlds,
) -> None:
    lab, rest = Site(name="a", ring="lab"), tuple(Site(name=n, ring="plant") for n in "bc")
    world = worlds(Fleet(sites=(lab, *rest)))
    second = rolling(world)
    world.plants.all["new"] = type(world.plants["a"])("new", serves=world.plants["b"].serves)
    world.configs.sites = Fleet(sites=(lab, rest[0], Site(name="new", ring="plant")))
    world.until("verified")
    assert [world.plants[n].serves == second for n in ("a", "b", "c", "new")] == [True, True, False, True]
    assert row(world, "c")[0] == "removed"
    assert row(world, "new")[0] == "verified"


@pytest.mark.parametrize("during", [False, True])
def test_nobody_waits_for_the_way_back_of_a_site_that_has_left(worlds: Worlds, during: bool) -> None:
    world = worlds(Fleet(sites=tuple(Site(name=n) for n in "abc")))
    first = serving(world)[0]
    second = rolling(world)
    left = Fleet(sites=(Site(name="a"), Site(name="b")))
    world.plants["c"].online = False
    if not during:
        world.configs.sites = left
        loop.sweep(world.ports, "line")
        assert row(world, "c")[0] == "removed"
    loop.ask(world.ports, world.runs[-1].id, events.RollBackAsked, "ann", "complaints")
    world.pump()
    world.configs.sites = left
    world.days(1)
    assert (world.runs[-1].phase, serving(world)) == (Phase.ROLLED_BACK, [first, first, second])


def test_a_site_that_joins_a_rollout_that_fails_gets_the_champion(worlds: Worlds) -> None:
    lab, plant = Site(name="a", ring="lab"), Site(name="b", ring="plant")
    world = worlds(Fleet(sites=(lab, plant)))
    rolling(world)
    world.until("verified")
    champion = serving(world)[0]
    third = rolling(world, "third")
    world.plants.all["new"] = type(world.plants["a"])("new", serves=champion)
    world.plants["b"].slow.add(third)
    world.configs.sites = Fleet(sites=(lab, plant, Site(name="new", ring="plant")))
    world.until("rolled-back")
    world.days(2)
    assert serving(world) == [champion] * 3
    assert (world.state("new").status, world.state("new").last_good) == ("verified", champion)


def test_a_site_that_joins_between_rollouts_gets_the_champion(worlds: Worlds) -> None:
    world = worlds(Fleet(sites=(Site(name="a"),)))
    old = world.plants["a"].serves
    second = rolling(world)
    world.until("verified")
    world.plants.all["new"] = type(world.plants["a"])("new", serves=old)
    world.configs.sites = Fleet(sites=(Site(name="a"), Site(name="new")))
    world.days(2)
    assert world.plants["new"].serves == second
    assert (world.state("new").status, world.state("new").last_good) == ("verified", second)


def test_a_certificate_that_will_end_is_warned_of_once(worlds: Worlds) -> None:
    ends = START + 16 * DAY
    world = worlds(Fleet(sites=(Site(name="a", certificate_expires=ends), Site(name="b"))))
    world.days(1.5)
    assert not [c for c in world.board.cards.values() if c["kind"] == "certificate"]
    world.days(1)
    [card] = [c for c in world.board.cards.values() if c["kind"] == "certificate"]
    assert card["title"] == "line: the certificate of a ends"
    world.board.cards.clear()
    world.days(2)
    assert not [c for c in world.board.cards.values() if c["kind"] == "certificate"]


@pytest.mark.parametrize(
    ("limits", "shift", "ends", "why"),
    [
        ({"max_score_drift": 0.2}, 0.1, "verified", ""),
        ({"max_score_drift": 0.2}, 4.0, "rolled-back", "PSI from those in training, more than 0.2"),
        ({"max_metric_loss": 0.2}, 0.1, "verified", ""),
        ({"max_metric_loss": 0.01}, 4.0, "rolled-back", "auc is worse by"),
    ],
)
def test_what_a_wave_measures_together_is_judged(
    worlds: Worlds, limits: dict[str, float], shift: float, ends: str, why: str
) -> None:
    world = worlds(Fleet(sites=(Site(name="a"), Site(name="b"))), replace(LIMITS, **limits))
    rolling(world)
    world.shift = shift
    assert why in world.until(ends).because
