"""Histories by chance: anybody does anything, with faults at the ports; the invariants are looked at after each act.

python -m bench.schedules [--seeds N] [--first SEED] [--acts N]: one seed plays one history (tests/triggers/playing.py);
one that breaks an invariant is printed with its seed and acts.
python -m bench.schedules --steps N [--first SEED]: so many steps of the Hypothesis state machine over the same acts.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.triggers.conftest import MEMORY
from tests.triggers.playing import Broken, play

STEPS, EXAMPLES = 50, 40
"""Of one example of the state machine; of one seed of it."""

MOST = 10
"""Seeds that break, after which no other is begun."""


def one(seed: int, acts: int) -> tuple[int, int, str]:
    """How many acts, how many calls of ports, and what broke."""
    with TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
        try:
            player = play(Path(folder), seed, acts)
        except Broken as wrong:
            return 0, 0, str(wrong)
        return len(player.told), len(player.weather.calls), ""


def stepped(seed: int) -> tuple[int, str]:
    """How many steps, and what broke."""
    from tests.triggers.test_invariants import Anybody, machine

    told, before = io.StringIO(), Anybody.steps
    try:
        with redirect_stdout(told):
            return machine(EXAMPLES, STEPS, seed, shrink=False), ""
    except Exception as wrong:  # noqa: BLE001 - whatever it is, it is looked for
        notes = [told.getvalue(), *getattr(wrong, "__notes__", ())]
        return Anybody.steps - before, f"{type(wrong).__name__}: {wrong}\nseed {seed}: {' '.join(notes)}"


def steps(most: int, first: int) -> int:
    begun, done, wrong, seed = time.monotonic(), 0, 0, first
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        waiting = {pool.submit(stepped, seed + n) for n in range(os.cpu_count() or 1)}
        seed += len(waiting)
        while waiting:
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for made, broken in (future.result() for future in ended):
                done, wrong = done + made, wrong + bool(broken)
                if broken:
                    print(f"  {broken}", flush=True)
                if made and done + len(waiting) * EXAMPLES * STEPS < most and wrong < MOST:
                    waiting.add(pool.submit(stepped, seed))
                    seed += 1
            print(f"  {done:,} of {most:,} steps", file=sys.stderr, flush=True)
    took = time.monotonic() - begun
    print(f"  {done:,} steps, seeds {first} to {seed - 1}, {wrong} violations, {took:.0f} s")
    return int(wrong > 0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.schedules", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--acts", type=int, default=25, help="of each history, before it is brought to its end")
    parser.add_argument("--steps", type=int, default=0, help="steps of the state machine, in place of histories")
    said = parser.parse_args(arguments)
    if said.steps:
        return steps(said.steps, said.first)
    begun = time.monotonic()
    done = acts = calls = wrong = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        seeds = range(said.first, said.first + said.seeds)
        for told, called, broken in pool.map(partial(one, acts=said.acts), seeds, chunksize=5):
            done, acts, calls, wrong = done + 1, acts + told, calls + called, wrong + bool(broken)
            if broken:
                print(f"  {broken}", flush=True)
            if done % 100 == 0:
                print(f"  {done:,} of {said.seeds:,}", file=sys.stderr, flush=True)
    took = time.monotonic() - begun
    print(f"  {done:,} schedules, {acts:,} acts, {calls:,} calls of ports, {wrong} violations, {took:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
