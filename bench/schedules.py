"""Histories by chance: anybody does anything, with faults at the ports; the invariants are looked at after each act.

python -m bench.schedules [--seeds N] [--first SEED] [--acts N]: one seed plays one history (tests/triggers/playing.py);
one that breaks an invariant is printed with its seed and acts.
python -m bench.schedules --steps N: so many steps of the Hypothesis state machine over the same acts.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.triggers.conftest import MEMORY
from tests.triggers.playing import Broken, play

STEPS = 50
"""Of one example of the state machine."""


def one(seed: int, acts: int) -> tuple[int, int, str]:
    """How many acts, how many calls of ports, and what broke."""
    with TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
        try:
            player = play(Path(folder), seed, acts)
        except Broken as wrong:
            return 0, 0, str(wrong)
        return len(player.told), len(player.weather.calls), ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.schedules", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--acts", type=int, default=25, help="of each history, before it is brought to its end")
    parser.add_argument("--steps", type=int, default=0, help="steps of the state machine, in place of histories")
    said = parser.parse_args(arguments)
    begun = time.monotonic()
    if said.steps:
        from tests.triggers.test_invariants import machine

        machine(examples=max(1, said.steps // STEPS), steps=STEPS)
        print(f"  at most {said.steps:,} steps, no violation, {time.monotonic() - begun:.0f} s")
        return 0
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
