"""Fuzzing: valid input and the attacks of a corpus, mutated by a seed, into every decoder and every HTTP endpoint.

A decoder may refuse with the errors that its docstring names, and nothing else; an endpoint may answer anything but 5xx
other than 501 and 503; whoever takes longer than a second hangs. Inputs that once broke something are files of
tests/corpus, which every run begins with.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bench.mutate import mutated
from triggers import codec

CORPUS = Path(__file__).parents[1] / "tests" / "corpus"
BROKE = Path(__file__).parents[1] / "build" / "fuzz"
SLOW_S = 1.0
HANG_S = 60
"""By the wall, on which another program may have the machine; the processor's time is judged by SLOW_S."""

Run = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """What is given input; `refuses`: the errors that it may end with; `weight`: its share of the cases."""

    name: str
    run: Run
    refuses: tuple[type[BaseException], ...]
    seeds: Sequence[bytes]
    weight: float = 1.0
    mutate: Callable[[Random, Sequence[bytes]], bytes] = mutated


@dataclass(frozen=True)
class Crash:
    target: str
    error: str
    data: bytes


@dataclass
class Result:
    """`slowest`: seconds, target and bytes of the case that took longest."""

    cases: int = 0
    seconds: float = 0.0
    by_target: dict[str, int] = field(default_factory=dict)
    crashes: list[Crash] = field(default_factory=list)
    hangs: int = 0
    slowest: tuple[float, str, bytes] = (0.0, "", b"")


# --- running


class Hang(BaseException):
    """A case did not end."""


def _hung(*_: object) -> None:
    raise Hang


def fuzz(targets: Sequence[Target], cases: int, seed: int = 0, minutes: float = 600.0) -> Result:
    """So many cases, or as many as `minutes` allow, targets in turn by their weights; the same seed gives the same
    cases."""
    random, found = Random(seed), Result()
    drawn = random.choices(targets, [t.weight for t in targets], k=cases)
    began = time.perf_counter()
    with _alarmed():
        for target in targets:
            for data in kept(target.name):
                _one(target, data, found)
        for target in drawn:
            if time.perf_counter() - began > 60 * minutes:
                break
            _one(target, target.mutate(random, target.seeds), found)
    found.seconds = time.perf_counter() - began
    return found


@contextmanager
def _alarmed() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _hung)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _one(target: Target, data: bytes, found: Result) -> None:
    found.cases += 1
    found.by_target[target.name] = found.by_target.get(target.name, 0) + 1
    signal.alarm(HANG_S)
    began = time.process_time()
    try:
        target.run(data)
    except target.refuses:
        pass
    except Hang:
        found.hangs += 1
        found.crashes.append(Crash(target.name, f"did not end within {HANG_S} s", data))
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        found.crashes.append(Crash(target.name, f"{type(error).__name__}: {error}"[:300], data))
    signal.alarm(0)
    took = time.process_time() - began
    if took > found.slowest[0]:
        found.slowest = took, target.name, data
    if took > SLOW_S:
        found.hangs += 1
        found.crashes.append(Crash(target.name, f"took {took:.1f} s", data))


def kept(target: str) -> list[bytes]:
    """What once broke this target."""
    return [path.read_bytes() for path in sorted((CORPUS / target.replace("/", "-")).glob("*"))]


# --- the command


def run(cases: int, seed: int = 0, minutes: float = 600.0) -> Result:
    """Decoders and endpoints, half of the cases each by weight."""
    from bench import targets

    with targets.endpoints() as http:
        return fuzz([*targets.decoders(), *http], cases, seed, minutes)


def show(found: Result) -> list[str]:
    took, name, data = found.slowest
    return [
        f"{found.cases:,} cases at {len(found.by_target)} targets, {found.cases / found.seconds:,.0f} cases/s",
        f"{len(found.crashes) - found.hangs} unhandled exceptions, {found.hangs} hangs over {SLOW_S:g} s (asked: none)",
        f"slowest: {1000 * took:.0f} ms, {name}, {len(data):,} bytes",
        *(f"{crash.target}: {crash.error}: {_keep(crash)}" for crash in _distinct(found.crashes)[:20]),
    ]


def _keep(crash: Crash) -> Path:
    """Where its input is, whole: to be looked at, and moved into the corpus."""
    kept = BROKE / crash.target.replace("/", "-") / codec.digest(crash.data)[:12]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(crash.data)
    return kept


def _distinct(crashes: Sequence[Crash]) -> list[Crash]:
    """The shortest input of each error."""
    found: dict[tuple[str, str], Crash] = {}
    for crash in sorted(crashes, key=lambda c: len(c.data)):
        found.setdefault((crash.target, crash.error[:60]), crash)
    return list(found.values())
