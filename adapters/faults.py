"""Faults on purpose: any port, wrapped so that its calls fail as the world's do, repeatably."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast, get_args

from triggers.errors import DriftloopError, Retry
from triggers.ports import Message, Ports

T = TypeVar("T")

Fault = Literal[
    "before", "after", "hang", "delay", "duplicate", "reorder", "full", "slow", "lost", "jump",
    "crash before", "crash after",
]  # fmt: skip
"""What can happen to a call.

before: Retry, not done. after: done, then Retry. hang: a time-out passes, then Retry; done or not, who knows.
delay: it takes a while; what a bus is sent arrives later instead. duplicate: done twice, the second answer counts.
reorder: what it is given, or gives, comes in another order. full: as by ENOSPC, this and the port's next writes are
Retry and not done; reading goes on. slow: this and the port's next calls take a while each. lost: the locks of what was
received have ended: another worker gets it too, and who has it now cannot settle it. jump: a clock that goes on as much
as SKEW before or behind, until it jumps again. crash: the process is gone, before or after it was done.
"""

TIMEOUT = timedelta(seconds=30)
SKEW = timedelta(minutes=10)
SPELL = 4
"""How many calls a store is full or slow for, at most."""

UNTOUCHED = ("clock", "configs", "signatures", "people", "together", "cache")
"""Fields of Ports that are no I/O of the loop's."""

_ONLY: Mapping[Fault, frozenset[str]] = {
    "reorder": frozenset({"send", "publish", "receive", "pending"}),
    "full": frozenset({"commit", "put", "send", "publish"}),
    "lost": frozenset({"receive"}),
    "jump": frozenset({"now"}),
}
"""The methods that a fault can happen to, where those are not all; a clock's `now` does nothing but jump."""


_NO_RANDOM = Random(0)
"""Of calls without a fault, which draw nothing."""


class Crash(BaseException):
    """The process is gone, as by SIGKILL: only a test catches it, and goes on with new adapters on the same state."""


class Moves(Protocol):
    """A clock that can be told to move."""

    def now(self) -> datetime: ...
    def advance(self, by: timedelta) -> datetime: ...


class Call(NamedTuple):
    """One call of a port, and what was done to it."""

    number: int
    port: str
    method: str
    about: str
    fault: Fault | None = None

    def __str__(self) -> str:
        return f"{self.number:5} {self.port}.{self.method}({self.about})" + (f"  <- {self.fault}" if self.fault else "")


class Faults:
    """Which call has which fault: by chance from a seed, or as planned by number of the call (from 0).

    The same calls with the same seed have the same faults. `calls` is the history; printed, it is its lines.
    """

    def __init__(
        self,
        seed: int = 0,
        chances: Mapping[Fault, float] | None = None,
        plan: Mapping[int, Fault] | None = None,
        clock: Moves | None = None,
    ) -> None:
        """`chances` per call add up to at most 1. `clock` is what a hang or a delay moves."""
        self.calls: list[Call] = []
        self._seed = seed
        self._chances = dict(chances or {})
        self._plan = dict(plan or {})
        self._clock = clock
        self._made = 0
        self._drawn = Random(seed)
        self._spells: dict[tuple[str, Fault], int] = {}
        self._skew = timedelta(0)
        self._lock = threading.Lock()
        unknown = {*self._chances, *self._plan.values()} - set(get_args(Fault))
        if unknown or sum(self._chances.values()) > 1.0:
            raise ValueError(f"no such faults: {unknown}" if unknown else "chances add up to more than 1")

    def __str__(self) -> str:
        return "\n".join(map(str, self.calls))

    def stop(self) -> None:
        """From now on, nothing fails and clocks are right; calls are still noted."""
        self._chances, self._plan, self._skew = {}, {}, timedelta(0)
        self._spells.clear()

    def call(
        self,
        port: str,
        method: str,
        done: Callable[..., Any],
        args: tuple[Any, ...],
        named: Any,
        release: Callable[[Any], object] | None = None,
    ) -> Any:
        """Do one call of a port, with the fault that is its turn. `release` ends the locks of what was received."""
        with self._lock:
            number = self._made
            self._made += 1
            chance = self._by_chance(self._drawn.random())  # of every call, whatever is planned
            wanted = self._plan.get(number) or chance
            random = Random(f"{self._seed}/{number}") if wanted or self._spells else _NO_RANDOM
            fault = self._turn(port, method, wanted, random)
            if fault == "jump":
                self._skew = random.uniform(-1, 1) * SKEW
            self.calls.append(Call(number, port, method, _about(args, named), fault))
        if method == "now":
            return done() + self._skew
        if fault is None:
            return done(*args, **named)
        if fault == "lost" and release:
            done = _then(done, release)
        story = f"call {number}, {port}.{method}: {fault}"
        return self._suffer(fault, random, partial(done, **named), args, story)

    def _turn(self, port: str, method: str, fault: Fault | None, random: Random) -> Fault | None:
        """The fault that this method can have; a spell that the port is in comes first."""
        if method == "now":
            return "jump" if fault == "jump" else None
        for kind in ("full", "slow"):
            left = self._spells.get((port, kind), 0)
            if left and method in _ONLY.get(kind, {method}):
                self._spell(port, kind, left - 1)
                return kind
        if fault is None or method not in _ONLY.get(fault, {method}):
            return None
        if fault in ("full", "slow"):
            self._spell(port, fault, random.randrange(SPELL))
        return fault

    def _spell(self, port: str, fault: Fault, left: int) -> None:
        """What is over is forgotten: no call draws for it."""
        if left:
            self._spells[port, fault] = left
        else:
            self._spells.pop((port, fault), None)

    def _by_chance(self, drawn: float) -> Fault | None:
        for fault, chance in self._chances.items():
            drawn -= chance
            if drawn < 0:
                return fault
        return None

    def _suffer(self, fault: Fault, random: Random, done: Callable[..., Any], args: tuple[Any, ...], story: str) -> Any:
        if fault in ("before", "full", "crash before"):
            raise Crash(story) if fault == "crash before" else Retry(story)
        if fault == "hang":
            self._pass(TIMEOUT)
            with suppress(DriftloopError):
                if random.random() < 0.5:
                    done(*args)
            raise Retry(story)
        if fault == "slow":
            self._pass(random.random() * TIMEOUT)
        if fault == "delay":
            args = self._delayed(args, random.uniform(0, 2) * TIMEOUT)
        if fault == "reorder":
            args = tuple(_shuffled(value, random) for value in args)
        answer = done(*args)
        if fault == "duplicate":
            answer = done(*args)
        if fault in ("after", "crash after"):
            raise Retry(story) if fault == "after" else Crash(story)
        return _shuffled(answer, random) if fault == "reorder" else answer

    def _delayed(self, args: tuple[Any, ...], by: timedelta) -> tuple[Any, ...]:
        """Messages get a later time; for any other call the time passes."""
        if self._clock is None:
            return args
        if not any(_is_sequence(value) and value and isinstance(value[0], Message) for value in args):
            self._pass(by)
            return args
        now = self._clock.now()
        return tuple(
            [replace(m, at=max(m.at or now, now) + by) for m in value] if _is_sequence(value) else value
            for value in args
        )

    def _pass(self, time: timedelta) -> None:
        if self._clock is not None:
            self._clock.advance(time)


class _Faulty:
    """Whatever a port has, with its public methods under faults."""

    def __init__(self, port: Any, name: str, faults: Faults) -> None:
        self._port = port
        self._name = name
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if name.startswith("_") or not callable(found):
            return found

        release = getattr(self._port, "abandon", None)

        def call(*args: Any, **named: Any) -> Any:
            return self._faults.call(self._name, name, found, args, named, release)

        setattr(self, name, call)
        return call


def faulty(port: T, faults: Faults, name: str = "") -> T:
    """The same port, whose public methods have these faults; `name` is what the history calls it."""
    return cast(T, _Faulty(port, name or type(port).__name__, faults))


def faulty_ports(ports: Ports, faults: Faults, only: Iterable[str] = ()) -> Ports:
    """These ports, all that do I/O or `only` those named, under one history of faults."""
    there = {field.name for field in fields(ports) if getattr(ports, field.name) is not None}
    names = set(only) or there - set(UNTOUCHED)
    return replace(ports, **{name: faulty(getattr(ports, name), faults, name) for name in names})


def _then(done: Callable[..., Any], release: Callable[[Any], object]) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        answer = done(*args, **named)
        release(answer)
        return answer

    return call


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _shuffled(value: Any, random: Random) -> Any:
    return random.sample(value, len(value)) if _is_sequence(value) else value


def _about(args: tuple[Any, ...], named: Mapping[str, Any]) -> str:
    """The arguments in a few words.

    >>> _about(("p", [Message("m1", b"..."), Message("m2", b"...")], b"...."), {"limit": 3})
    "'p', [m1, m2], 4 bytes, limit=3"
    """
    return ", ".join([*map(_short, args), *(f"{name}={_short(value)}" for name, value in named.items())])


def _short(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if _is_sequence(value):
        return f"[{', '.join(map(_named, value[:8]))}{', ...' if len(value) > 8 else ''}]"
    return repr(value)[:80]


def _named(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("id", "..."))
    return str(getattr(value, "key", None) or getattr(value, "id", None) or _short(value))
