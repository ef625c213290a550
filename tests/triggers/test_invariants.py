"""Anybody does anything, at any time, with faults: the 25 invariants hold. A planted bug breaks each, and is found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Part
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from drift.windows import Window
from tests.triggers import playing
from tests.triggers.conftest import MEMORY
from tests.triggers.playing import ACTS, Broken, Player, play
from tests.triggers.world import a_reference, put_candidate
from triggers import approval, asking, codec, gates, intake, lifecycle, loop, policy, records, rollout, sites, windows
from triggers import effects as do
from triggers import events as on
from triggers.lifecycle import Rule, Step
from triggers.ports import Delete, Put
from triggers.run import Phase

replace = lifecycle.replace
Patch = pytest.MonkeyPatch


class Anybody(RuleBasedStateMachine):
    """Every act on either of two loops is a rule; what must hold of both is looked at after each."""

    steps = 0
    """Made by all machines of this process."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp(dir=MEMORY if MEMORY.exists() else None))
        self.player: Player | None = None

    @initialize(seed=st.integers(0, 999))
    def begins(self, seed: int) -> None:
        """Without faults, or with those of a seed."""
        self.player = Player(self.folder / "world", seed, playing.FAULTS if seed else None, others=1)

    @rule(loop=st.integers(0, 1), name=st.sampled_from(sorted(ACTS)), seed=st.integers(0, 999))
    def act(self, loop: int, name: str, seed: int) -> None:
        assert self.player
        Anybody.steps += 1
        self.player.all[loop].act(name, Random(seed))

    @rule(seed=st.integers(0, 999))
    def time_passes(self, seed: int) -> None:
        assert self.player
        Anybody.steps += 1
        self.player.act("half a day", Random(seed))

    def teardown(self) -> None:
        try:
            if self.player:
                self.player.end()
        finally:
            if self.player:
                self.player.world.close()
            shutil.rmtree(self.folder)


def machine(examples: int, steps: int, start: int = 0, *, shrink: bool = True) -> int:
    """So many histories of so many steps each; how many steps that was."""
    before = Anybody.steps
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        seeded(start)(Anybody),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Part.generate, *([Part.shrink] if shrink else [])],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Anybody.steps - before


def test_whatever_anybody_does_the_invariants_hold() -> None:
    assert machine(examples=3, steps=12) >= 12


@pytest.mark.nightly
def test_whatever_anybody_does_for_longer_the_invariants_hold() -> None:
    assert machine(examples=40, steps=30) >= 600


def test_one_seed_plays_one_history(tmp_path: Path) -> None:
    one, two = (play(tmp_path / name, 7, acts=8) for name in ("one", "two"))
    assert one.told == two.told
    assert [str(call) for call in one.weather.calls] == [str(call) for call in two.weather.calls]
    assert any(call.fault for call in one.weather.calls)


def last_wins(unit: records.Unit) -> None:
    """As Unit.commit, without expecting what was read."""
    found = {key: unit._values[key] for key in unit._changed}
    there = [key for key in found if unit.store.get(unit.partition, key)]
    made = [Put(key, value, "*") if value is not None else Delete(key, "*") for key, value in found.items()]
    unit.store.commit(unit.partition, [change for change in made if isinstance(change, Put) or change.key in there])
    for kept in (unit._seen, unit._values, unit._changed, unit._scanned):
        kept.clear()


def broken(folder: Path, seeds: range) -> list[str]:
    """The invariants that short histories break, without faults."""
    found = []
    for seed in seeds:
        try:
            play(folder / f"{seed}", seed, acts=12, chances={})
        except Broken as wrong:
            found.append(str(wrong).split(":")[0])
    return found


def test_an_update_that_is_lost_between_workers_is_found(tmp_path: Path, monkeypatch: Patch) -> None:
    """A bug that nobody notices while one works alone."""
    monkeypatch.setattr(records.Unit, "commit", last_wins)
    beside = broken(tmp_path / "beside", range(8))
    assert beside
    assert set(beside) <= {"4", "5", "24"}
    monkeypatch.setattr(playing, "WORKERS", 1)
    assert broken(tmp_path / "alone", range(8)) == []


def test_a_decision_of_more_than_is_kept_is_found(tmp_path: Path, monkeypatch: Patch) -> None:
    """Invariant 8: what is asked twice with the same is answered twice alike."""
    actions = set()
    for seed in (3, 13):
        stored = play(tmp_path / str(seed), seed, acts=20).kept.values()
        actions |= {codec.decode(value, policy.Decision).action for value in stored}
    assert actions == {"hold", "retrain"}
    real, asked = policy.decide, count()

    def moody(*of: Any, **more: Any) -> Any:
        decision, history = real(*of, **more)
        return replace(decision, reason=f"{decision.reason}; asked {next(asked)} times before"), history

    monkeypatch.setattr(policy, "decide", moody)
    assert set(broken(tmp_path, range(1))) == {"8"}


# --- planted bugs


class Script:
    """A history that goes through most of what there is: a candidate handed in by eve, approved by bob, rolled out."""

    def __init__(self, folder: Path) -> None:
        self.player = Player(folder / "world", 0)
        self.player.busy = playing.WORKERS  # nobody else
        self.world = self.player.world

    def act(self, *names: str) -> None:
        for name in names:
            self.player.act(name, Random(0))

    def do(self, call: Callable[[Any], Any]) -> None:
        """Something in particular, judged as any act is."""
        ACTS["this"] = lambda player, random: call(player.world)
        try:
            self.act("this")
        finally:
            del ACTS["this"]

    def hand_in(self, by: str = "eve") -> None:
        made = put_candidate(self.world.blobs, a_reference(0.2), "better")
        self.do(lambda w: (loop.submit(w.ports, "line", made, by, "by hand"), w.pump()))

    def approve(self, by: str = "bob", said: str = "approve") -> None:
        self.do(lambda w: w.answer(said, by=by))

    def days(self, half: int) -> None:
        for _ in range(half):
            self.act("half a day")


def whole(script: Script) -> None:
    """To the end, with something of everything."""
    script.days(2)
    script.act("a batch again", "a timer fires twice")
    script.hand_in()
    script.approve()
    script.days(8)
    script.player.end()


def _two_at_once(patch: Patch, script: Script) -> None:
    real = records.LoopUnit.set_head

    def set_head(unit: Any, **changes: Any) -> None:
        real(unit, **{k: v for k, v in changes.items() if k != "active"})

    patch.setattr(records.LoopUnit, "set_head", set_head)
    script.world.jobs.holds = True
    script.do(lambda w: loop.retrain(w.ports, "line", "eve", "one"))
    script.do(lambda w: loop.retrain(w.ports, "line", "eve", "two"))


def _out_of_the_end(patch: Patch, script: Script) -> None:
    def advance(run: Any, event: on.Event) -> Step:
        return Step(replace(run, phase=Phase.TRAINING)) if run.phase.final else real(run, event)

    real = lifecycle.advance
    script.hand_in()
    script.approve("bob", "reject")
    patch.setattr(lifecycle, "advance", advance)
    run = script.world.runs[-1].id
    script.do(lambda w: loop.tell(w.ports, on.Cancelled(id="x", run=run, at=w.clock.now(), by="ann", reason="")))


def _falling_fence(patch: Patch, script: Script) -> None:
    real = sites.settle

    def settle(ports: Any, change: Any, *of: Any) -> None:
        real(ports, change, *of)
        unit = sites.Unit(ports.store, sites.site_partition(change.loop, change.site))
        unit.put(sites.SITE, replace(unit.need(sites.SITE, sites.SiteState), fence=-1))
        unit.commit()

    patch.setattr(sites, "settle", settle)
    script.hand_in()
    script.approve()


def _counts_twice(patch: Patch, script: Script) -> None:
    real = Window.__add__
    patch.setattr(Window, "__add__", lambda one, other: real(real(one, other), other))
    script.days(4)


PLANTED: dict[int, Callable[[Patch, Script], None]] = {1: _two_at_once, 2: _out_of_the_end, 3: _falling_fence}


def rolled(script: Script, by: str = "bob") -> None:
    script.days(2)
    script.hand_in()
    script.approve(by)
    script.days(6)


def _loses_conflicts(patch: Patch, script: Script) -> None:
    script.days(2)
    patch.setattr(intake, "_quarantine", lambda *of: "lost")
    for seed in range(8):
        script.player.act("a batch again", Random(seed))


def _loses_batches(patch: Patch, script: Script) -> None:
    patch.setattr(intake, "ingest", lambda ports, bodies: None)
    script.days(1)


def _uses_windows_again(patch: Patch, script: Script) -> None:
    script.days(6)
    real = loop._assess

    def assess(*of: Any) -> Any:
        made, unit = real(*of), of[1]
        for key, value in list(unit.scan("detector/")):
            detector = codec.decode(value, loop.Detector)
            unit.put(key, replace(detector, cursor=dict.fromkeys(detector.cursor, 0)))
        return made

    patch.setattr(loop, "_assess", assess)
    script.days(2)


def _rewrites_decisions(patch: Patch, script: Script) -> None:
    script.days(2)
    script.do(
        lambda w: [
            w.store.commit("line", [records.Put(r.key, r.value + b" ", r.version)])
            for r in list(w.store.scan("line", "decision/"))
        ]
    )


def _no_is_yes(patch: Patch, script: Script) -> None:
    patch.setitem(asking.ANSWERS, "rejected", "approve")  # type: ignore[arg-type]
    script.hand_in()
    script.approve("bob", "reject")
    script.days(2)


def _answers_twice(patch: Patch, script: Script) -> None:
    real = approval.refusal
    patch.setattr(approval, "refusal", lambda request, *of: real(replace(request, state="open"), *of))
    script.hand_in()
    script.approve()
    script.approve("ann", "reject")


def _approves_its_own(patch: Patch, script: Script) -> None:
    patch.setattr(approval, "not_impartial", lambda *of: "")
    script.hand_in("ann")
    script.approve("ann")


def _damaged(patch: Patch, script: Script) -> None:
    script.hand_in()
    script.approve()
    digest = script.world.runs[-1].candidate
    script.do(
        lambda w: w.blobs.put(
            f"candidates/{digest}/manifest.json", w.blobs.get(f"candidates/{digest}/manifest.json") + b" "
        )
    )


def _nan_passes(patch: Patch, script: Script) -> None:
    patch.setattr(lifecycle, "judge", lambda *of: gates.Verdict("passed", "fine"))
    script.world.jobs.gain = None
    script.hand_in()


def _hurries(patch: Patch, script: Script) -> None:
    patch.setattr(rollout, "count", lambda statuses, wave, of: (of, 0, 0, 0, 0))
    script.hand_in()
    script.approve()
    script.days(1)


def _all_at_once(patch: Patch, script: Script) -> None:
    patch.setattr(rollout, "at_most", lambda count, of: 99)
    patch.setattr(rollout, "_cut", lambda names, size: iter([names]))
    for site in ("a", "b", "c"):
        script.world.plants[site].steps = True
    script.world.configs.sites = replace(
        script.world.configs.sites,
        sites=tuple(replace(s, ring="lab", windows=()) for s in script.world.configs.sites.sites),
    )
    script.hand_in()
    script.approve()


def _once_intended(patch: Patch, script: Script, then: Callable[[Any, Any], None]) -> None:
    """What a worker does besides, each time that it has written what a site is to serve."""
    real = sites._intend

    def intend(ports: Any, change: Any) -> Any:
        state = real(ports, change)
        then(ports, change)
        return state

    patch.setattr(sites, "_intend", intend)
    script.hand_in()
    script.approve()


def _goes_back_to(ports: Any, change: Any, candidate: str) -> None:
    unit = sites.Unit(ports.store, sites.site_partition(change.loop, change.site))
    unit.put(sites.SITE, replace(unit.get(sites.SITE, sites.SiteState), last_good=candidate))
    unit.commit()


def _no_way_back(patch: Patch, script: Script) -> None:
    _once_intended(patch, script, lambda ports, change: _goes_back_to(ports, change, ""))


def _trusts_at_once(patch: Patch, script: Script) -> None:
    _once_intended(patch, script, lambda ports, change: _goes_back_to(ports, change, change.candidate))


def _melts(patch: Patch, script: Script) -> None:
    patch.setattr(loop.do, "GOES_ON_WHILE_FROZEN", (*do.GOES_ON_WHILE_FROZEN, do.Train))
    script.world.jobs.holds = True
    script.world.lags.add("effects")
    script.do(lambda w: loop.retrain(w.ports, "line", "eve", "x"))
    script.act("freeze or not")
    script.world.lags.clear()
    script.do(lambda w: w.pump())


def _by_day(patch: Patch, script: Script) -> None:
    patch.setattr(windows, "next_start", lambda site, now, *of: now)
    rolled(script)


def _believes(patch: Patch, script: Script) -> None:
    real = sites.settle
    patch.setattr(sites, "settle", lambda ports, change, status, why: real(ports, change, "verified", why))
    script.hand_in()
    script.approve()


def _never_done(patch: Patch, script: Script) -> None:
    patch.setattr(loop, "perform", lambda ports, key: False)
    script.hand_in()
    script.player.end(days=3)


def _never_ends(patch: Patch, script: Script) -> None:
    for kind in (on.DeadlinePassed, on.Answered):
        key = (Phase.AWAITING_APPROVAL, kind)
        patch.setitem(lifecycle.RULES, key, Rule(lambda run, event: Step(run), lifecycle.RULES[key].leads_to))  # type: ignore[index]
    script.hand_in()
    script.player.end(days=5)


def _approves_too_late(patch: Patch, script: Script) -> None:
    real = approval.refusal
    patch.setattr(
        approval, "refusal", lambda request, given, rules, now, *of: real(request, given, rules, request.asked)
    )
    script.hand_in()
    script.world.clock.advance(timedelta(days=4))
    script.approve()


def _silent_move(patch: Patch, script: Script) -> None:
    real = records.LoopUnit.note
    patch.setattr(
        records.LoopUnit,
        "note",
        lambda unit, kind, *of, **more: None if kind == "event-evaluated" else real(unit, kind, *of, **more),
    )
    script.hand_in()


def _spends(patch: Patch, script: Script) -> None:
    for name in ("_spent", "cooling", "_few"):
        patch.setattr(policy, name, lambda *of: "")
    script.world.shift = script.world.jobs.shift = 3.0
    script.world.jobs.gain = -0.05
    script.days(16)


PLANTED |= {
    4: _counts_twice,
    5: _loses_conflicts,
    6: _loses_batches,
    7: _uses_windows_again,
    8: _rewrites_decisions,
    9: _no_is_yes,
    10: _approves_its_own,
    11: _answers_twice,
    12: _damaged,
    13: _nan_passes,
    14: _hurries,
    15: _all_at_once,
    16: _no_way_back,
    17: _trusts_at_once,
    18: _melts,
    19: _by_day,
    20: _believes,
    21: _never_done,
    22: _never_ends,
    23: _approves_too_late,
    24: _silent_move,
    25: _spends,
}


def _other_than_written(patch: Patch, script: Script) -> None:
    made = put_candidate(script.world.blobs, a_reference(0.9), "no one's")
    _once_intended(patch, script, lambda ports, change: ports.executor.apply(replace(change, candidate=made)))


def _of_another_question(patch: Patch, script: Script) -> None:
    """Bound to other evidence than the run's."""
    real = approval.answered
    patch.setattr(approval, "answered", lambda *of: replace(real(*of), evidence="e" * 64))
    tell = asking.tell
    script.hand_in()
    run = script.world.runs[-1]
    patch.setattr(asking, "tell", lambda ports, asked: tell(ports, replace(asked, evidence=run.evidence)))
    script.approve()


@pytest.mark.parametrize(("number", "bug"), [(21, _other_than_written), (9, _of_another_question)])
def test_what_nobody_wrote_or_approved_is_found(number: int, bug: Any, folder: Path, monkeypatch: Patch) -> None:
    script = Script(folder)
    with pytest.raises(Broken, match=f"^{number}: "):
        bug(monkeypatch, script)
    script.world.close()


def _revives(patch: Patch, script: Script) -> None:
    """A clock that has gone back to when it was asked finds the question open again."""
    real = approval.refusal
    patch.setattr(
        approval,
        "refusal",
        lambda request, given, rules, now, *of: real(replace(request, state="open"), given, rules, request.asked, *of),
    )
    script.hand_in()
    script.days(8)
    script.approve()


def _extends(patch: Patch, script: Script) -> None:
    script.hand_in()

    def later(world: Any) -> None:
        asked, key = world.request(), f"approval/{world.runs[-1].id}"
        longer = codec.encode(replace(asked, expires=asked.expires + timedelta(minutes=1)))
        world.store.commit("line", [records.Put(key, longer, "*")])

    script.do(later)


def _begins_twice(patch: Patch, script: Script) -> None:
    real = policy.decide

    def decide(*of: Any, **more: Any) -> Any:
        made, history = real(*of, **more)
        return replace(made, action="retrain"), history

    script.days(2)
    patch.setattr(policy, "decide", decide)
    script.player.weather._chances = {"jump": 1.0}
    script.act("a timer fires twice")


@pytest.mark.parametrize(
    ("bug", "found"),
    [
        (_revives, "was withdrawn, is approved"),
        (_extends, "may be answered for longer"),
        (_begins_twice, "begins two runs"),
    ],
)
def test_what_a_jumping_clock_must_not_do_is_found(bug: Any, found: str, folder: Path, monkeypatch: Patch) -> None:
    script = Script(folder)
    with pytest.raises(Broken, match=f"^23: .*{found}"):
        bug(monkeypatch, script)
    script.world.close()


def test_the_script_of_the_planted_bugs_breaks_nothing_by_itself(folder: Path) -> None:
    script = Script(folder)
    whole(script)
    assert Phase.VERIFIED in {run.phase for run in script.world.runs}
    script.world.close()


@pytest.mark.parametrize("number", sorted(PLANTED))
def test_a_planted_bug_breaks_its_invariant_and_is_found(number: int, folder: Path, monkeypatch: Patch) -> None:
    script = Script(folder)
    with pytest.raises(Broken) as found:
        PLANTED[number](monkeypatch, script)
    assert str(found.value).startswith(f"{number}: "), str(found.value)
    script.world.close()
