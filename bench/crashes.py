"""Every pair of faults in the stories of tests/triggers/crashing.py: the process dies, or is told of an error though it
was done, at one call, and again at a later one of the same story, while it recovers or after.

Where rows, messages, sites, jobs and what people were told are as without faults again before the second, that one is
played alone, once for all.

Not tried: two kinds of fault in one story (both are before, or after, or an error); and a second one beyond the number
of calls that the story has without faults: one with a fault makes more, and its last calls get none.

python -m bench.crashes [--minutes M] [--seed S]: first faults in an order by chance, until the time is over (default:
all of them).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tests.triggers.conftest import MEMORY
from tests.triggers.crashing import STORIES, Played

HOW = ("before", "after", "error")


@cache
def story(folder: str, name: str) -> Played:
    """Played once in each process."""
    return Played(name, Path(folder, str(os.getpid()), str([*STORIES].index(name))))


def calls(folder: str, name: str) -> int:
    return story(folder, name).calls


def tried(pairs: Sequence[tuple[int, int, str]], folder: str, name: str, until: float) -> tuple[int, list[str]]:
    """How many were tried before that time of the monotonic clock, and which had another end, a line each."""
    wrong: list[str] = []
    for done, (a, b, how) in enumerate(pairs):
        if time.monotonic() > until:
            return done, wrong
        if different := story(folder, name).different([a, b], how):
            wrong.append(f"  {name}: faults at calls {a} and {b}, {how}: {', '.join(different)} differ")
    return len(pairs), wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.crashes", description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.0, help="how long for each story; default: until it is done")
    parser.add_argument("--seed", type=int, default=1)
    said = parser.parse_args(arguments)
    wrong = 0
    memory = MEMORY if MEMORY.exists() else None
    with TemporaryDirectory(dir=memory) as folder, ProcessPoolExecutor(os.cpu_count()) as pool:
        for name in STORIES:
            last = pool.submit(calls, folder, name).result()
            # the farthest second one first: it shows by when the first has healed
            parts = [[(a, b, how) for how in HOW for b in range(last, a, -1)] for a in range(1, last)]
            Random(said.seed).shuffle(parts)
            pairs = sum(map(len, parts))
            begun, done, others = time.monotonic(), 0, 0
            until = begun + 60 * said.minutes if said.minutes else float("inf")
            for some, found in pool.map(partial(tried, folder=folder, name=name, until=until), parts):
                done, others = done + some, others + len(found)
                for line in found:
                    print(line, flush=True)
                print(f"  {name}: {done:,} of {pairs:,}", file=sys.stderr, flush=True)
            took = time.monotonic() - begun
            print(f"  {name}: {done:,} of {pairs:,} pairs, {others} with another end, {took:.0f} s", flush=True)
            wrong += others
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
