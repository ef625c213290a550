"""python -m bench [NAME ...]: every benchmark, or those named; --full for what takes hours.

chaos, soak, load, fuzz and disk run when they are named: they prove what docs/guarantees.md promises, and exit with 1
where that does not hold.

Where Evidently, NannyML and river are needed they are installed once, into build/bench-peers; where they cannot be had,
that is said and the rest goes on.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from bench import (
    accuracy,
    alarms,
    check,
    extra,
    first,
    fold,
    growth,
    intake,
    layers,
    page,
    radius,
    rollout,
    start,
    wire,
    world,
)

Proof = Callable[[argparse.Namespace], tuple[list[str], bool]]


def _fold(full: bool) -> None:
    for name, speed in fold.run().items():
        print(f"  {name:22s} {speed:6.1f} million values/s (asked: 50)")


def _check(full: bool) -> None:
    for bins in (64, 128):
        found = check.run(1000, 100, bins)
        print(f"  1,000 sites x 100 features x {bins} bins: median {found['median']:.2f} s (asked: 0.5),")
        print(f"  best {found['best']:.2f} s, the first, which makes the reference's model, {found['first']:.2f} s")


def _decode(full: bool) -> None:
    asked = {"rows": 250_000, "columns": 400_000, "arrow": 1_000_000}
    for n in (300, 2500, 5000):
        print(f"  batches of {n:,} rows (1 MiB takes 2,500 of JSON rows, 5,000 of the others), 20 features, to counts")
        for spelling, (speed, alone) in wire.speed(n).items():
            parser = "sha256" if spelling == "arrow" else "msgspec"
            said = f"(asked: {asked[spelling]:,}); {parser} alone {alone:,.0f}"
            print(f"  {spelling:8s} {speed:10,.0f} rows/s {said}")


def _bytes(full: bool) -> None:
    for name, found in wire.cost().items():
        print(f"  {name:22s} " + ", ".join(f"{value:,.1f} {unit}" for unit, value in found.items()) + " a million rows")
    print(f"  a window of 100 features and 10,000 rows: {wire.window():,} bytes (asked: 16,384)")


def _versus(full: bool) -> None:
    found = extra.run("bench.versus", "1000", "10000", "100", "5")
    ours = found["ours"]
    print(
        f"  1,000 sites x 10,000 rows x 100 features: fold {ours['fold']:.1f} s + check {ours['check']:.2f} s = "
        f"{ours['both']:.1f} s, at most {ours['peak_mb']:.0f} MB; one site, times 1,000, by rows of the reference:"
    )
    asked = {"evidently report": 1000, "evidently psi": 40, "nannyml": 15}
    for name, seconds in found["theirs"].items():
        said = f" (asked: {asked[name.split(',')[0]]})" if name.split(",")[0] in asked else ""
        print(f"  {name:32s} {seconds:7.2f} s a site, {found['times'][name]:7.1f} times as long{said}")


def _growth(full: bool) -> None:
    found = growth.run()
    for row in found:
        print(f"  {row['rows']:>9,} rows: check {row['check']:.1f} ms, fold {row['fold']:.1f} ms")
    growth.PLOT.write_text(growth.plot(found))
    print(f"  drawn in {growth.PLOT}")


def _first(full: bool) -> None:
    print(f"  driftloop: {first.run():.2f} s in a fresh process, one batch of 500 rows (asked: 1)")
    for name, seconds in first.peers(extra.python()).items():
        print(f"  {name}: {seconds:.2f} s for the same rows")


def _start(full: bool) -> None:
    for run in (start.run, start.on_azure):
        for name, value in run().items():
            print(f"  {name:34s} {value:6.2f}" + ("" if name == "ratio" else " s"))


def _distances(full: bool) -> None:
    for feature, found in accuracy.flights().items():
        said = ", ".join(f"{name} {ours:.4f} / {theirs:.4f}" for name, (ours, theirs) in found.items())
        print(f"  flights, {feature}: ours / Evidently's: {said}")
    for row in accuracy.outlier():
        print(f"  psi, last of 10,000 values {row['last value']:.4g}: {row['driftloop']:.3f} / {row['evidently']:.3f}")
    for name, value in accuracy.binning().items():
        print(f"  {name}: {value:.4f}")


def _estimate(full: bool) -> None:
    for row in extra.run("bench.estimate"):
        print("  AUC " + ", ".join(f"{name} {value:.4f}" for name, value in row.items()) + " (asked: within 0.02)")


def _alarms(full: bool) -> None:
    shape = alarms.FULL if full else alarms.SMALL
    print("  " + ", ".join(f"{value} {name}" for name, value in shape.items()) + f", {alarms.DAYS} days of calibration")
    _rates(alarms.full() if full else alarms.run())
    for draws, days in ((30, 60), (12, 28), (8, 14)) if full else ((2, 60),):
        print(f"  days of real flights, {days} of them for calibration")
        _rates(alarms.flights(draws, days))


def _rates(found: list[dict[str, float]]) -> None:
    for row in found:
        print(
            f"  one in {row['limit']:.0f}: {row['alarms']:.0f} alarms, {row['expected']:.0f} asked for: "
            f"{row['ratio']:.2f}, 95% below {row['upper']:.2f} (asked: 1.2, with at least 100 asked for)"
        )


def _delay(full: bool) -> None:
    world.keep_flights()
    size = ("5", "400") if full else ("2", "150")  # fleets, and quiet windows of each
    for name, more in (("made up", ()), ("the flights", ("flights",))):
        print(f"  {name}:")
        _delays(extra.run("bench.delay", *size, *more))


def _delays(found: dict[str, Any]) -> None:
    quiet = found["quiet"]
    print(f"  on {quiet['windows']} quiet windows they rang {quiet['rang']} at {quiet['threshold']}")
    better = even = one = worse = 0
    calm = found["found"]["nothing"]  # where a method "finds" that, it has rung all along
    quiet_ones = [
        m
        for m, n in quiet["rang"].items()
        if m != "driftloop" and n <= quiet["rang"]["driftloop"] and calm[m] >= calm["driftloop"]
    ]
    for name, by in found["found"].items():
        print(f"  {name:38s} " + ", ".join(f"{m} {v:g}" for m, v in by.items()))
        ours, best = by["driftloop"], min(by[m] for m in quiet_ones)
        if name != "nothing":
            better, even = better + (ours < best), even + (ours == best)
            one, worse = one + (best < ours <= best + 1), worse + (ours > best + 1)
    print(f"  before the best that kept quiet {better}, with it {even}, one window after {one}, later {worse}")


def _rollout(full: bool) -> None:
    found = rollout.speed()
    print(
        f"  plan 10,000 sites, {found['waves']:.0f} waves, {found['zones']:.0f} zones: {found['plan']:.2f} s (asked: 2)"
    )
    print(f"  simulate {found['days']:.0f} days of it: {found['simulate']:.1f} s (asked: 60)")
    back = rollout.way_back()
    print(f"  from a bad batch to the decision to roll back: {back['decision']:.2f} s of the clock (asked: 1),")
    print(f"  the way back at {back['sites']:,.0f} sites after {back['requests']:.1f} s more (asked: 30)")
    blast = radius.blast(10_000 if full else 500, os.cpu_count() or 1)
    ends = ", ".join(f"{value:,} {name}" for name, value in sorted(blast["phases"].items()))
    print(f"  {blast['fleets']:,} random fleets ({ends}), {blast['starts']:,} changes, {blast['deaths']:,} deaths of")
    print(f"  the process, judged by what arrives at sites: {len(blast['wrong'])} violations (asked: 0)")
    for wrong in blast["wrong"][:10]:
        print(f"    {wrong}")


def _intake(full: bool) -> None:
    for clock, speed in intake.run().items():
        print(f"  {speed:8,.0f} rows/s by {clock} (asked: 20,000), {intake.ROWS} rows and labels a batch")


def _layers(full: bool) -> None:
    for name, moved in layers.run().items():
        print(f"  {name:36s} {moved:>13,} bytes")


def _page(full: bool) -> None:
    found = page.run()
    for name, (seconds, cpu, size) in found["api"].items():
        print(f"  5,000 sites, {name:32s} {1000 * seconds:6.0f} ms ({1000 * cpu:5.0f} of CPU), {size:8,} bytes")
    if found["browser"] is None:
        print("  not measured: Chromium and Node.js are needed to draw the page")
        return
    for name, seconds in found["browser"].items():
        print(f"  5,000 sites, in Chromium, {name:24s} {seconds:6.2f} s after the navigation (asked: 1)")


BENCHES: dict[str, Callable[[bool], None]] = {
    "fold": _fold,
    "decode": _decode,
    "check": _check,
    "versus": _versus,
    "first": _first,
    "start": _start,
    "intake": _intake,
    "layers": _layers,
    "growth": _growth,
    "bytes": _bytes,
    "distances": _distances,
    "estimate": _estimate,
    "alarms": _alarms,
    "delay": _delay,
    "rollout": _rollout,
    "page": _page,
}


# --- proofs: the lines to print, and whether the promise holds


def _chaos(said: argparse.Namespace) -> tuple[list[str], bool]:
    from bench import chaos

    found = chaos.run(said.kills, said.seed, said.minutes)
    return chaos.show(found), not found["wrong"]


def _soak(said: argparse.Namespace) -> tuple[list[str], bool]:
    from bench import soak

    found = soak.run(said.minutes, said.seed)
    return soak.show(found), not (found["wrong"] or found["grew"])


def _load(said: argparse.Namespace) -> tuple[list[str], bool]:
    from bench import load

    found = load.run(said.pace, said.seconds)
    return load.show(found), not found["wrong"]


def _fuzz(said: argparse.Namespace) -> tuple[list[str], bool]:
    from bench import fuzz

    found = fuzz.run(said.cases, said.seed, said.minutes)
    return fuzz.show(found), not found.crashes


def _disk(said: argparse.Namespace) -> tuple[list[str], bool]:
    from bench import disk

    found = disk.run()
    return disk.show(found), not found["wrong"]


PROOFS: dict[str, Proof] = {"chaos": _chaos, "soak": _soak, "load": _load, "fuzz": _fuzz, "disk": _disk}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join([*BENCHES, *PROOFS]))
    parser.add_argument("--full", action="store_true", help="the whole of alarms, delay and rollout: hours")
    parser.add_argument("--seed", type=int, default=0, help="of chaos, soak and fuzz")
    parser.add_argument("--kills", type=int, default=1000, help="of chaos")
    parser.add_argument("--minutes", type=float, default=60.0, help="of soak, and the most that chaos and fuzz take")
    parser.add_argument("--pace", type=float, default=200.0, help="of load: batches a second")
    parser.add_argument("--seconds", type=float, default=600.0, help="of load")
    parser.add_argument("--cases", type=int, default=1_000_000, help="of fuzz")
    said = parser.parse_args()
    if unknown := [n for n in said.names if n not in BENCHES and n not in PROOFS]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join([*BENCHES, *PROOFS])}")
    warnings.simplefilter("ignore")
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}, "
        f"numpy {version('numpy')}; processor time"
    )
    holds = True
    for name in said.names or BENCHES:
        print(name, flush=True)
        if name in PROOFS:
            lines, held = PROOFS[name](said)
            print("\n".join(f"  {line}" for line in lines), flush=True)
            holds = holds and held
            continue
        try:
            BENCHES[name](said.full)
        except extra.Missing as missing:
            print(f"  not measured: {missing}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
