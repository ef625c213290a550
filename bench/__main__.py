"""python -m bench [NAME ...]: every benchmark, or those named; --long for those that take an hour."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from bench import alarms, check, delay, estimate, first, fold, start


def _fold() -> None:
    for name, speed in fold.run().items():
        print(f"  {name:22s} {speed:6.1f} million values/s")


def _check() -> None:
    for bins in (64, 128):
        found = check.run(1000, 100, bins)
        print(
            f"  1,000 sites x 100 features x {bins} bins: median {found['median']:.2f} s, best {found['best']:.2f} s,"
        )
        print(f"  the first (makes the reference's model) {found['first']:.2f} s, state {found['state_kb']:.0f} KB")


def _first() -> None:
    print(f"  a fresh process, one batch of 500 rows: {first.run():.2f} s")


def _start() -> None:
    for name, value in start.run().items():
        print(f"  {name:28s} {value:6.2f}" + ("" if name == "ratio" else " s"))


def _estimate() -> None:
    for row in estimate.run():
        print("  " + ", ".join(f"{name} {value:.4f}" for name, value in row.items()))


def _delay() -> None:
    for name, by in delay.run().items():
        print(f"  {name:42s} " + ", ".join(f"{m} {v:.0f}" for m, v in by.items()))


def _alarms() -> None:
    shape = {"sites": 10, "features": 6, "rows": 150}
    for limit in (30.0, 90.0, 365.0):
        print(f"  {alarms.run(limit, 12, 400, **shape)}")


def _alarms_long() -> None:
    for limit in (30.0, 90.0, 365.0):
        print(f"  {alarms.run(limit, int(limit / 3), 300)}", flush=True)


BENCHES: dict[str, Callable[[], None]] = {
    "fold": _fold,
    "check": _check,
    "first": _first,
    "start": _start,
    "estimate": _estimate,
    "alarms": _alarms,
    "delay": _delay,
}
LONG: dict[str, Callable[[], None]] = {"alarms-long": _alarms_long}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join((*BENCHES, *LONG)))
    parser.add_argument("--long", action="store_true")
    said = parser.parse_args()
    every = BENCHES | LONG
    names = said.names or [*BENCHES, *(LONG if said.long else ())]
    if unknown := [n for n in names if n not in every]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(every)}")
    for name in names:
        print(name, flush=True)
        every[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
