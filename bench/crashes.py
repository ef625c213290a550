"""Every pair of faults in the stories of tests/triggers/crashing.py: the process dies, or is told of an error though it
was done, at one call, and again at a later one of the same story, while it recovers or after.

python -m bench.crashes [--minutes M] [--seed S]: in an order by chance, until the time is over (default: all of them).
"""

from __future__ import annotations

import argparse
import sys
import time
from random import Random

from tests.triggers.crashing import STORIES, played

HOW = ("before", "after", "error")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.crashes", description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.0, help="how long for each story; default: until it is done")
    parser.add_argument("--seed", type=int, default=1)
    said = parser.parse_args(arguments)
    wrong = 0
    for name in STORIES:
        with played(name) as story:
            pairs = [(a, b, how) for a in range(1, story.calls) for b in range(a + 1, story.calls + 1) for how in HOW]
            Random(said.seed).shuffle(pairs)
            begun, done = time.monotonic(), 0
            for a, b, how in pairs:
                if said.minutes and time.monotonic() - begun > 60 * said.minutes:
                    break
                if different := story.different([a, b], how):
                    wrong += 1
                    print(f"  {name}: faults at calls {a} and {b}, {how}: {', '.join(different)} differ")
                done += 1
                if done % 1000 == 0:
                    print(f"  {name}: {done:,} of {len(pairs):,}", file=sys.stderr, flush=True)
            took = time.monotonic() - begun
            print(f"  {name}: {done:,} of {len(pairs):,} pairs, {wrong} with another end, {took:.0f} s", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
