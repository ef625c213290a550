"""Every state that two runs can get into, as bench/model.py says how.

python -m bench.explore: the shape that is asked for, and others with more of what may go wrong, each whole, breadth
first, and how much that was; with --workers N --runs N ..., that shape; after it small ones with what else may happen,
but with --small 0. A violation is printed with a shortest history that leads to it; in the end, which of
`lifecycle.RULES` nothing has taken.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from bench.model import (
    ASKED,
    Explorer,
    Row,
    Shape,
    Site,
    State,
    Violation,
    is_changing,
    is_updating,
    put,
    rolls,
    swapped_workers,
)
from triggers import events as on
from triggers import lifecycle, rollout
from triggers.run import Phase


@dataclass
class Found:
    """What an exploration saw."""

    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    quiet: int = 0
    phases: dict[str, int] = field(default_factory=dict)
    space: Any = field(default=None, repr=False)
    keys: Any = field(default=None, repr=False)  # of all states
    ends: Any = field(default=None, repr=False)


# --- all states at once: a state is a number, and what may happen next is looked up for arrays of them

Numbers = Any
"""An array of int64."""

_SITE = 12  # bits of a site's number
_CORE = 16  # of a core's, where requests at sites are several steps
_VIEW = 10  # of how all of them stand there
_ROW = 4  # bits of how a site stands in the list of a run


class Table:
    """What `made` says of a key, for arrays of keys: facts, and moves, in columns. It is asked once of each key."""

    def __init__(self, made: Callable[[int], tuple[Row, list[Row]]], facts: int = 0, moves: int = 0) -> None:
        self._made = made
        self._where = np.zeros(0, np.int32)  # of each key: its place, from 1
        self._ends = np.zeros(1, np.int64)
        self._facts, self._moves = [_none()] * facts, [_none()] * moves

    def find(self, keys: Numbers) -> Numbers:
        """Where each key is."""
        if len(keys) and (top := int(keys.max()) + 1) > len(self._where):
            more = np.zeros(max(top, 2 * len(self._where)), np.int32)
            more[: len(self._where)] = self._where
            self._where = more
        at = self._where[keys]
        if at.all():
            return at
        self._learn(keys, _unique(keys[at == 0]))
        return self._where[keys]

    def facts(self, at: Numbers) -> list[Numbers]:
        return [column[at - 1] for column in self._facts]

    def told(self, keys: Numbers) -> Numbers:
        return self.facts(self.find(keys))[0]

    def moves(self, at: Numbers) -> tuple[Numbers, list[Numbers]]:
        """Of which of them, and the move."""
        first = self._ends[at - 1]
        count = self._ends[at] - first
        which = np.repeat(np.arange(len(at)), count)
        index = np.arange(len(which)) + np.repeat(first - np.cumsum(count) + count, count)
        return which, [column[index] for column in self._moves]

    def _learn(self, keys: Numbers, new: Numbers) -> None:
        facts, moves, counts = [], [], []
        for key in new.tolist():
            try:
                fact, rows = self._made(key)
            except Violation as wrong:
                wrong.at = int(np.argmax(keys == key))
                raise
            facts.append(fact)
            moves += rows
            counts.append(len(rows))
        self._where[new] = np.arange(len(self._ends), len(self._ends) + len(new))
        self._ends = np.concatenate([self._ends, self._ends[-1] + np.cumsum(counts)])
        self._facts = _longer(self._facts, facts)
        self._moves = _longer(self._moves, moves)


def _longer(columns: list[Numbers], rows: list[Row]) -> list[Numbers]:
    if not rows:
        return columns
    more = np.array(rows, np.int64).T
    return [np.concatenate([old, new]) for old, new in zip(columns, more, strict=True)]


def _none() -> Numbers:
    return np.zeros(0, np.int64)


def _unique(keys: Numbers) -> Numbers:
    keys = np.sort(keys)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


class Space:
    """States as numbers: that of the core (all but the sites), then those of the sites.

    A core's moves depend on how the sites stand in the list of the run that rolls out or back, and on nothing else of
    them; a site's on phases, pauses, the questions and the freeze. So each is worked out once, by `Explorer`.
    """

    def __init__(self, e: Explorer) -> None:
        self.e, self.wide = e, e.shape.sites
        self._cores: dict[State, int] = {}
        self.cores: list[State] = []
        self.sites: list[Site] = []
        self._numbers: dict[Any, int] = {}
        self._grounds: list[State] = []
        self._changes: list[tuple[tuple[int, int], int]] = []
        self._rows: list[str] = []
        self._views: list[int] = []
        self._begins: dict[int, int] = {}
        self._about: list[tuple[int, int, int, int]] = []
        self._abouts = np.empty((0, 4), np.int64)
        self.change(((0, 0), -1))
        self.row("")
        self.at_core = Table(self._core_moves, moves=3)
        self.at_rows = Table(self._row_moves, moves=1)
        self.seen = Table(self._site_facts, facts=6)
        self.at_site = Table(self._site_moves, moves=1)
        self.at_both = Table(self._work, moves=3)
        self.changed = Table(self._changed, facts=1)
        self.listed = Table(lambda key: ([self.row(self.sites[key >> 4].rows[key & 15])], []), facts=1)
        self.view = Table(lambda key: ([self._number(key, self._views)], []), facts=1)
        self.rooms = Table(lambda key: (e.rooms(key >> 8, key & 255), []), facts=3)

    # numbers of values

    def _number(self, value: Any, among: list[Any]) -> int:
        key = (id(among), value)
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(among)
            among.append(value)
        return found

    def change(self, value: tuple[tuple[int, int], int]) -> int:
        return self._number(value, self._changes)

    def row(self, status: str) -> int:
        return self._number(status, self._rows)

    def site(self, place: Site) -> int:
        found = self._number(place, self.sites)
        if found >= 1 << _SITE:
            raise OverflowError("more kinds of sites than have a number")
        return found

    def core(self, s: State) -> int:
        """Of the core of a state, which is tidy; with what sites and checks see of it."""
        s = s._replace(sites=(), todo=(0, 0))
        found = self._cores.get(s)
        if found is not None:
            return found
        found = self._cores[s] = len(self.cores)
        if self.e.shape.steps and found >= 1 << _CORE:
            raise OverflowError("more cores than have a number")
        self.cores.append(s)
        values = [self.e.values[n] for n in s.runs]
        over = tuple(self.e.over_with(s, n) for n in range(self.e.shape.runs))
        phases = tuple(v and (v.phase, bool(v.paused), bool(v.times)) for v in values)
        seen = (phases, s.asked, s.frozen, s.champion, over)
        ground = self._numbers.get(seen)
        if ground is None:
            ground = self._numbers[seen] = len(self._grounds)
            self._grounds.append(s)
        rolling = next((n for n, v in enumerate(values) if v and rolls(v)), -1)
        self._about.append((ground, rolling, self.e.quiet(s), 0))
        other = s._replace(workers=swapped_workers(s.workers))
        self._about[found] = (*self._about[found][:3], found if other == s else self.core(other))
        return found

    def about(self, core: Numbers, column: int) -> Numbers:
        """0: what sites see of it; 1: the run that rolls, or -1; 2: whether it is quiet; 3: with sites swapped."""
        if len(self._abouts) < len(self._about):
            self._abouts = np.array(self._about, np.int64)
        return self._abouts[core, column]

    def pack(self, core: Numbers, places: Sequence[Numbers]) -> Numbers:
        if self.wide > 2 and not self.e.shape.steps:
            first, one, other = places
            places = [first, np.minimum(one, other), np.maximum(one, other)]
        here = _packed(core, places)
        if self.wide < 3 or not self.e.shape.steps:
            return here
        return np.minimum(here, _packed(self.about(core, 3), [places[0], places[2], places[1], *places[3:]]))

    def unpack(self, keys: Numbers) -> tuple[Numbers, list[Numbers]]:
        low = (1 << _SITE) - 1
        return keys >> _SITE * self.wide, [keys >> _SITE * n & low for n in range(self.wide)]

    def number(self, s: State) -> int:
        return int(self.pack(np.array([self.core(s)]), [np.array([self.site(p)]) for p in s.sites])[0])

    def state(self, key: int) -> State:
        core, places = self.unpack(np.array([key]))
        return self.cores[int(core[0])]._replace(sites=tuple(self.sites[int(p[0])] for p in places))

    # what tables are made of

    def _core_moves(self, core: int) -> tuple[Row, list[Row]]:
        s = self.cores[core]
        self.e.check_core(s)
        moves: list[Row] = []
        for _, fault, after in self.e.core_moves(s):
            after = self.e.tidy(after)
            to = self.core(after)
            new = after.todo != (0, 0) or self._about[to][0] != self._about[core][0]
            moves.append((to, self.change((after.todo, self._about[to][0])) if new else 0, fault))
            if wave := self.e.begins_wave(s, after):
                self._begins[core] = wave
        return (), moves

    def _row_moves(self, key: int) -> tuple[Row, list[Row]]:
        """After `_core_moves`, which says whether a wave begins."""
        core, view = key >> _VIEW, self._views[key & (1 << _VIEW) - 1]
        s, run = self.cores[core], self._about[core][1]
        rows = [self._rows[view >> _ROW * n & 15] for n in range(self.wide)]
        blank = ("",) * self.e.shape.runs
        s = s._replace(sites=tuple(Site(rows=put(blank, run, row)) for row in rows))
        if core in self._begins:
            self.e.check_wave(s, run, self._begins[core])
        return (), [(self.core(self.e.tidy(after)),) for _, _, after in self.e.row_moves(s)]

    def _site_facts(self, key: int) -> tuple[Row, list[Row]]:
        """Whether it takes a place, whether it is down, the room it needs, the site once it is asked (-1: not to be),
        whether it is being changed, whether no request is on its way."""
        s, place = self._grounds[key >> _SITE + 1], self.sites[key & (1 << _SITE) - 1]
        self.e.check_site(s, key >> _SITE & 1, place)
        run = self.e.asks(s)
        how, asked = self.e.turn(place, run)
        to = -1 if asked == place else self.site(self.e.changed(s, 0, asked))
        down = place.status in rollout.DOWN
        return (is_updating(place, run), down, how, to, is_changing(place), not place.mail), []

    def _site_moves(self, key: int) -> tuple[Row, list[Row]]:
        s, place = self._grounds[key >> _SITE + 2], self.sites[key & (1 << _SITE) - 1]
        s = self._among(s, 0, place, key >> _SITE & 3)
        return (), [(self.site(self.e.changed(s, 0, after)),) for _, after in self.e.site_moves(s, 0, place)]

    def _among(self, s: State, n: int, place: Site, updating: int) -> State:
        """One site, of all, and so many others that are being changed."""
        blank = ("",) * self.e.shape.runs
        others = (*(Site(status="asked", rows=blank),) * updating, *(Site(rows=blank),) * (self.wide - 1 - updating))
        return s._replace(sites=(*others[:n], place, *others[n:]))

    def _work(self, key: int) -> tuple[Row, list[Row]]:
        """What workers do at one site."""
        place, n, updating, core = (
            self.sites[key >> _CORE + 4],
            key >> _CORE + 2 & 3,
            key >> _CORE & 3,
            key & (1 << _CORE) - 1,
        )
        s = self._among(self.cores[core], n, place, updating)
        made = ((self.e.tidy(after), fault) for _, fault, after in self.e.work_at(s, n))
        return (), [
            (self.core(after), self.site(self.e.changed(after, n, after.sites[n])), fault) for after, fault in made
        ]

    def _changed(self, key: int) -> tuple[Row, list[Row]]:
        (todo, ground), n = self._changes[key >> _SITE + 1], key >> _SITE & 1
        place = self.sites[key & (1 << _SITE) - 1]
        return (self.site(self.e.changed(self._grounds[ground], n, place, todo)),), []

    # moves

    def after(self, keys: Numbers, faults: bool = True) -> Iterator[tuple[Numbers, Numbers]]:
        """Of which of these states, and what then is. Raises Violation."""
        core, places = self.unpack(keys)
        facts = self._facts(core, places)
        self._check(keys, core, facts)
        yield self._core_after(core, places, faults)
        yield self._rows_after(core, places)
        updating, ground = sum(f[0] for f in facts), self.about(core, 0)
        rooms = self.rooms.facts(self.rooms.find(updating << 8 | sum(f[1] for f in facts)))
        for n in range(self.wide):
            own, _, how, asked, _, _ = facts[n]
            others = updating - own
            which, (to,) = self.at_site.moves(self.at_site.find((ground << 2 | others) << _SITE | places[n]))
            asks = np.flatnonzero((asked >= 0) & (np.choose(how, rooms) > 0))
            which, to = np.concatenate([which, asks]), np.concatenate([to, asked[asks]])
            if n == 2:
                other = (places[1] != places[2]) | (self.about(core, 3) != core)
                which, to = which[other[which]], to[other[which]]
            yield which, self.pack(core[which], put([place[which] for place in places], n, to))
            if self.e.shape.steps:
                key = (places[n] << 4 | n << 2 | others) << _CORE | core
                which, moves = self.at_both.moves(self.at_both.find(key))
                which, (to, there) = _but_faults(which, moves, faults)
                yield which, self.pack(to, put([place[which] for place in places], n, there))

    def _facts(self, core: Numbers, places: list[Numbers]) -> list[list[Numbers]]:
        """Only what is approved by rule differs by the wave."""
        ground, rule = self.about(core, 0) << _SITE + 1, self.e.shape.rule
        return [self.seen.facts(self.seen.find(ground | min(n, rule) << _SITE | p)) for n, p in enumerate(places)]

    def _core_after(self, core: Numbers, places: list[Numbers], faults: bool) -> tuple[Numbers, Numbers]:
        which, moves = self.at_core.moves(self.at_core.find(core))
        which, (to, change) = _but_faults(which, moves, faults)
        new = [place[which] for place in places]
        some = np.flatnonzero(change)
        for n, place in enumerate(new):
            place[some] = self.changed.told((change[some] << 1 | min(n, 1)) << _SITE | place[some])
        return which, self.pack(to, new)

    def _rows_after(self, core: Numbers, places: list[Numbers]) -> tuple[Numbers, Numbers]:
        run = self.about(core, 1)
        rolls = np.flatnonzero(run >= 0)
        core, run, places = core[rolls], run[rolls], [place[rolls] for place in places]
        view = core * 0
        for n, place in enumerate(places):
            view |= self.listed.told(place << 4 | run) << _ROW * n
        which, (to,) = self.at_rows.moves(self.at_rows.find(core << _VIEW | self.view.told(view)))
        return rolls[which], self.pack(to, [place[which] for place in places])

    def _check(self, keys: Numbers, core: Numbers, facts: list[list[Numbers]]) -> None:
        changing = sum(f[4] for f in facts)
        if (changing > self.e.at_most).any():
            raise _of(int(np.argmax(changing)), f"15: {changing.max()} sites are being changed at once")
        for n in np.flatnonzero(self._quiet(core, facts)):
            try:
                self.e.check(self.state(int(keys[n])))
            except Violation as wrong:
                raise _of(int(n), str(wrong)) from None

    def _quiet(self, core: Numbers, facts: list[list[Numbers]]) -> Numbers:
        return (self.about(core, 2) > 0) & np.all([f[5] > 0 for f in facts], axis=0)

    def quiet(self, keys: Numbers) -> Numbers:
        """Which of these states are ends."""
        core, places = self.unpack(keys)
        return self._quiet(core, self._facts(core, places))


class Seen:
    """A set of numbers: sorted arrays, each at least twice as long as the next."""

    def __init__(self) -> None:
        self._parts: list[Numbers] = []

    def new(self, keys: Numbers) -> Numbers:
        """Those that are not in it."""
        for part in self._parts:
            if len(keys):
                keys = keys[part[np.minimum(np.searchsorted(part, keys), len(part) - 1)] != keys]
        return keys

    def add(self, keys: Numbers) -> None:
        while self._parts and len(self._parts[-1]) < 2 * len(keys):
            keys = np.sort(np.concatenate([self._parts.pop(), keys]), kind="stable")
        self._parts.append(keys)

    def all(self) -> Numbers:
        while len(self._parts) > 1:
            self._parts.append(np.sort(np.concatenate([self._parts.pop(), self._parts.pop()]), kind="stable"))
        return self._parts[0]


def explore(shape: Shape, explorer: Explorer | None = None, told: Callable[[str], None] | None = None) -> Found:
    """Every state that can be reached. Raises Violation with a shortest history."""
    e = explorer or Explorer(shape)
    begun, space = time.monotonic(), Space(e)
    found = Found(space=space)
    edge = np.array([space.number(e.canonical(e.start()))])
    levels, seen = [], Seen()
    while len(edge):
        seen.add(edge)
        levels.append(edge)
        parts = []
        for here in _chunks(edge):
            try:
                to = [keys for _, keys in space.after(here)]
            except Violation as wrong:
                raise Violation(f"{wrong}\n{history(space, levels, int(here[wrong.at]))}") from None
            found.transitions += sum(map(len, to))
            parts.append(seen.new(_unique(np.concatenate(to))))
        found.states += len(edge)
        edge = _unique(np.concatenate(parts))
        if told:
            took = time.monotonic() - begun
            told(f"depth {len(levels)}, {found.states:,} states, {found.transitions:,} transitions, {took:.0f} s")
    found.depth = len(levels) - 1
    ends = np.concatenate([here[space.quiet(here)] for level in levels for here in _chunks(level)])
    found.keys = seen.all()
    dead = _cannot_reach(space, levels, found.keys, ends)
    if dead is not None:
        raise Violation(f"22: from here no end can be reached\n{history(space, levels, dead)}")
    found.ends, found.quiet, found.seconds = ends, len(ends), time.monotonic() - begun
    cores, counts = np.unique(space.unpack(ends)[0], return_counts=True)
    for core, count in zip(cores, counts, strict=True):
        phases = " + ".join(str(e.values[run].phase) for run in space.cores[core].runs)
        found.phases[phases] = found.phases.get(phases, 0) + int(count)
    return found


def _cannot_reach(space: Space, levels: list[Numbers], all_: Numbers, ends: Numbers) -> int | None:
    """A first state from which none of the ends is reached: what leads to one that does, does."""
    reached = np.zeros(len(all_), bool)
    reached[np.searchsorted(all_, ends)] = True
    left = [level[~reached[np.searchsorted(all_, level)]] for level in levels]
    moved = True
    while moved and any(map(len, left)):
        moved = False
        for n in reversed(range(len(left))):
            still = []
            for here in _chunks(left[n]):
                good = np.zeros(len(here), bool)
                for which, keys in space.after(here, faults=False):
                    good[which[reached[np.searchsorted(all_, keys)]]] = True
                reached[np.searchsorted(all_, here[good])] = True
                moved = moved or bool(good.any())
                still.append(here[~good])
            left[n] = np.concatenate(still) if still else left[n]
    return next((int(level[0]) for level in left if len(level)), None)


def history(space: Space, levels: list[Numbers], to: int) -> str:
    """The moves that lead to a state, one a line."""
    path = [to]
    depth = next(n for n, level in enumerate(levels) if (level == to).any())
    for level in reversed(levels[:depth]):
        path.append(next(n for n in (_leads(space, here, path[-1]) for here in _chunks(level)) if n is not None))
    path.reverse()
    lines = []
    for before, after in pairwise(path):
        moves = space.e.moves(space.state(before))
        lines.append(next(words for words, _, state in moves if space.number(state) == after))
    return "\n".join(f"  {n + 1:2} {line}" for n, line in enumerate(lines))


def _leads(space: Space, keys: Numbers, to: int) -> int | None:
    for which, after in space.after(keys):
        if (after == to).any():
            return int(keys[which[np.argmax(after == to)]])
    return None


_CHUNK = 1 << 20


def _chunks(keys: Numbers) -> Iterator[Numbers]:
    return (keys[n : n + _CHUNK] for n in range(0, len(keys), _CHUNK))


def _but_faults(which: Numbers, moves: list[Numbers], faults: bool) -> tuple[Numbers, list[Numbers]]:
    """A move's last column says whether it is one."""
    *moves, fault = moves
    if faults:
        return which, moves
    good = fault == 0
    return which[good], [column[good] for column in moves]


def _packed(core: Numbers, places: Sequence[Numbers]) -> Numbers:
    for place in reversed(places):
        core = core << _SITE | place
    return core


def _of(at: int, words: str) -> Violation:
    wrong = Violation(words)
    wrong.at = at
    return wrong


SHAPES = (
    ASKED,
    ASKED._replace(cancels=1, freezes=1),
    Shape(runs=1, cancels=1, freezes=1, steps=1),
    Shape(workers=1, runs=1, cancels=1, freezes=1, steps=1, reads=1),
    Shape(workers=1, rule=1),
)
"""What is asked for, and with more of what may go wrong."""

_SMALL = Shape(workers=1, runs=1, sites=2, people=1)
SMALL = (
    _SMALL._replace(workers=2, cancels=1, freezes=1, pauses=1, backs=1),
    _SMALL._replace(steps=1, pauses=1, backs=1),
    _SMALL._replace(sites=1, crashes=0, reads=1, pauses=1, backs=1),
    _SMALL._replace(runs=2, pauses=1, backs=1),
    _SMALL._replace(workers=2, runs=2, supersedes=1, fails=1),
    _SMALL._replace(runs=2, crashes=0, reads=1, supersedes=1),
    _SMALL._replace(workers=2, runs=2, people=2, needed=2),
    _SMALL._replace(workers=2, people=2, cancels=1, freezes=1, reads=1, needed=2),
    _SMALL._replace(workers=2, cancels=1, freezes=1, pauses=1, backs=1, supersedes=1, rule=1),
    _SMALL._replace(crashes=0, reads=1, backs=1, supersedes=1, rule=1),
    _SMALL._replace(crashes=0, reads=1, pauses=1, rule=1),
)
"""With people who pause, resume and take back; with newer runs; with two who have to approve; with a wave by rule."""


@dataclass
class Taken:
    """What became of `lifecycle.RULES` in some explorations."""

    taken: set[tuple[Phase, type[on.Event]]] = field(default_factory=set)
    tried: set[tuple[Phase, type[on.Event]]] = field(default_factory=set)

    def add(self, e: Explorer) -> None:
        self.taken |= {rule for rule, count in e.taken.items() if count}
        self.tried |= {rule for rule, count in e.tried.items() if count}

    def never(self) -> set[tuple[Phase, type[on.Event]]]:
        return set(lifecycle.RULES) - self.taken - self.tried

    def lines(self) -> list[str]:
        tried = self.tried - self.taken
        return [
            f"rules taken: {len(self.taken)} of {len(lifecycle.RULES)}",
            f"rules that do nothing wherever they may be taken: {_listed(tried)}",
            f"rules never taken: {_listed(self.never())}",
        ]


def _listed(rules: set[tuple[Phase, type[on.Event]]]) -> str:
    return ", ".join(sorted(f"{phase} {kind.__name__}" for phase, kind in rules)) or "none"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.explore", description=__doc__)
    parser.add_argument("--small", type=int, default=1, help="0: without the small ones")
    for name, value in ASKED._asdict().items():
        parser.add_argument(f"--{name}", type=int, help=f"default: {value}")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    small = SMALL if given.pop("small") else ()
    taken = Taken()
    worst = max(_explored(shape, taken) for shape in (*((Shape(**given),) if given else SHAPES), *small))
    for line in taken.lines():
        print(f"  {line}")
    return worst


def _explored(shape: Shape, taken: Taken) -> int:
    e = Explorer(shape)
    words = (f"{value} {name}" for name, value in shape._asdict().items() if value)
    print("  " + ", ".join(words), flush=True)
    try:
        found = explore(shape, e, told=lambda words: print(f"  {words}", file=sys.stderr, flush=True))
    except Violation as wrong:
        print(f"  violated: {wrong}")
        return 1
    finally:
        taken.add(e)
    print(
        f"  {found.states:,} states, {found.transitions:,} transitions, depth {found.depth}, {found.seconds:.0f} s; "
        f"no violation; each reaches one of {found.quiet:,} ends"
    )
    for phases, count in sorted(found.phases.items()):
        print(f"  {count:>9,} ends: {phases}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
