"""`driftloop backtest`: what a loop would have said and done on the history in a table, and when.

The bootstrap of loop.yaml makes the first champion's reference; the rest is cut into windows and checked as the loop
would have checked it, with the labels known by then. Scores are those of the prediction column; without one, a first
model is trained on the bootstrap. After a retraining the loop looks at the rows that it would have trained on; with
--retrain the model is really trained, by the loop's own script, judged by the gates, and taken where it passes: the
performance of the first model left alone then stands beside the loop's. Rollouts take no time here.

--sweep compares policies in one pass, for instance --sweep false_alarms="1 per 30 days,1 per 90 days" --sweep
cooldown=14d,42d: every value of a field of loop.yaml's drift or retrain with every value of the others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from cli.validate import text
from triggers.config import Drift, Fleet, Loop, Retrain, Site, parse_fleet, parse_loop
from triggers.errors import Refused

if TYPE_CHECKING:
    from cli.hindsight import Hindsight, World

MOST = 64
SHORT = {"quorum": "drift.quorum.fleet", "minimum_rows": "drift.minimum_rows"}
"""Names that a sweep may use for fields that would be ambiguous."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "backtest",
        help="what the loop would have said and done on a table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--loop", type=Path, required=True, metavar="FILE", help="loop.yaml: the policy")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="the history (CSV, Parquet)")
    parser.add_argument(
        "--fleet", type=Path, metavar="FILE", help="fleet.yaml, for cohorts (default: the data's sites)"
    )
    parser.add_argument("--retrain", action="store_true", help="train at each would-be retraining")
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="FIELD=A,B", help="compare policies; may be given several times"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep trained models here; they are found again")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0, whatever was found."""
    from cli import tables
    from cli.hindsight import Workshop, World, look_back

    loop = parse_loop(text(args.loop), str(args.loop))
    policies = sweep(loop, args.sweep)
    with ExitStack() as stack:
        folder = args.work or Path(stack.enter_context(TemporaryDirectory(prefix="backtest-")))
        tick, say = stack.enter_context(_progress())
        say(f"reading {args.data}")
        data = tables.load(args.data, loop)
        fleet = parse_fleet(text(args.fleet), str(args.fleet)) if args.fleet else _fleet(data.table.sites())
        world = World(data, loop, fleet, Workshop(folder, args.loop, loop, args.data), args.retrain)
        del data
        if not world.served:
            say("training the first model on the bootstrap")
        world.begin()
        quiet = len(policies) > 1
        found = look_back(world, policies, lambda at: tick(at, world), (lambda _: None) if quiet else say)
    if args.json:
        results = [one.result() for one in found]
        told = {"policies": [{"policy": o.named, **r} for o, r in zip(found, results, strict=True)]}
        print(json.dumps(told if args.sweep else results[0], allow_nan=False))
    elif args.sweep:
        _compare(found)
    else:
        _show(found[0])
    return 0


def _fleet(sites: Mapping[str, int]) -> Fleet:
    return Fleet(sites=tuple(Site(name=name) for name in sites))


# --- policies


def sweep(loop: Loop, said: Sequence[str]) -> list[tuple[dict[str, Any], Loop]]:
    """Every combination of the values said, `field=a,b`, each with its loop. Raises Refused with what was expected."""
    axes: dict[str, list[Any]] = {}
    for words in said:
        name, equals, values = words.partition("=")
        if not equals or not values.strip():
            raise Refused(f"--sweep {words!r}: expected FIELD=A,B such as cooldown=14d,42d")
        axes[_field(name.strip())] = [yaml.safe_load(v) for v in values.split(",")]
    combined = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    if len(combined) > MOST:
        raise Refused(f"--sweep: {len(combined)} policies; expected at most {MOST} at once")
    return [(named, _changed(loop, named)) for named in combined]


def _field(name: str) -> str:
    """The dotted path of a field of loop.yaml's drift or retrain section."""
    paths = [p for p in _paths(msgspec.to_builtins({"drift": Drift(), "retrain": Retrain()})) if p != "drift.bins"]
    found = [p for p in paths if name in (p, SHORT.get(p)) or p == SHORT.get(name)]
    found = found or [p for p in paths if p.endswith(f".{name}")]
    if len(found) != 1:
        words = f"is one of {', '.join(found)}" if found else f"expected one of {', '.join(paths)}"
        raise Refused(f"--sweep {name}: {words}")
    return found[0]


def _paths(section: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _changed(loop: Loop, named: Mapping[str, Any]) -> Loop:
    whole = msgspec.to_builtins(loop)
    for path, value in named.items():
        *sections, last = path.split(".")
        at = whole
        for section in sections:
            at = at[section]
        at[last] = value
    try:
        return msgspec.convert(whole, Loop)
    except msgspec.ValidationError as problem:
        said = ", ".join(f"{k}={v}" for k, v in named.items())
        raise Refused(f"--sweep {said}: {problem}") from problem


# --- for people


@contextmanager
def _progress() -> Iterator[tuple[Callable[[int, World], None], Callable[[str], None]]]:
    """On a terminal a bar; elsewhere a line for each thing that happens. Both on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    from drift.envelope import iso

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("windows", total=None)

        def tick(at: int, world: World) -> None:
            bar.update(task, total=len(world.periods), advance=1, description=iso(at)[:10])

        def say(words: str) -> None:
            if console.is_terminal:
                bar.console.print(words, markup=False, highlight=False)
            else:
                print(words, file=sys.stderr, flush=True)

        yield tick, say


def _show(one: Hindsight) -> None:
    from rich.console import Console

    out, found = Console(), one.result()
    out.print("[bold]What it would have said[/]" if found["alarms"] else "It would have said nothing.")
    for a in found["alarms"]:
        if a["kind"] == "statistical":
            _line(out, a["at"], f"{'' if a['onset'] else 'further: '}{_short(a['reason'])}")
    for rule, of in _by_rule(found["alarms"]).items():
        out.print(f"  rule {rule}: broken {len(of)} times, first {of[0]['at'][:10]}, last {of[-1]['at'][:10]}")
    for m in found["maintenance"]:
        _line(out, m["at"], f"maintenance at {m['site']}: {_short(m['reason'])}")
    out.print("[bold]When it would have retrained[/]" if found["retrains"] else "It would not have retrained.")
    for r in found["retrains"]:
        _line(out, r["at"], _short(r["reason"]))
        if "outcome" in r:
            out.print(f"    {r['outcome']}: {r['verdict']}", markup=False, highlight=False, soft_wrap=True)
    _show_performance(out, found["performance"])
    if any("outcome" in r for r in found["retrains"]) and not any(r["outcome"] == "passed" for r in found["retrains"]):
        out.print("No new model passed its gates: the first one would have stayed.")
    covered = found["covered"]
    held = "covered" if covered["held"] else f"not covered beyond one false alarm in {covered['kept']:.0f} windows"
    out.print(
        f"{found['windows']:,} windows; one false alarm in {covered['asked']:.0f}: {held} ({covered['why']})",
        markup=False,
        soft_wrap=True,
    )


def _by_rule(alarms: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for a in alarms:
        if a["kind"] != "statistical":
            found.setdefault(" ".join((a["kind"], *a["features"])), []).append(a)
    return found


def _line(out: Any, at: str, words: str) -> None:
    out.print(f"  {at[:10]}  {words}", markup=False, highlight=False, soft_wrap=True)


def _show_performance(out: Any, performance: Mapping[str, Any]) -> None:
    from rich.table import Table

    looped = "loop" in performance
    table = Table(title=f"Performance ({performance['metric']})", title_justify="left")
    for name in ("Month", "rows", "static", *(("loop",) if looped else ())):
        table.add_column(name, justify="right")
    for month, rows in performance["rows"].items():
        cells = [performance[n][month] for n in ("static", *(("loop",) if looped else ()))]
        table.add_row(month, f"{rows:,}", *("-" if c is None else f"{c:.3f}" for c in cells))
    out.print(table)
    gain = performance.get("gain")
    if gain and gain["mean"]:
        words = "helped" if gain["low"] > 0 else "did harm" if gain["high"] < 0 else "cannot be told from luck"
        out.print(
            f"Retraining {words}: gain {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}] over all rows"
        )


def _compare(found: Sequence[Hindsight]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Policies on the same windows", title_justify="left")
    fields = list(found[0].named)
    for name in (*fields, "alarms", "by rules", "retrains", "first alarm", "promise", "gain"):
        table.add_column(name.removeprefix("drift.").removeprefix("retrain."), justify="right", overflow="fold")
    for one in found:
        result = one.result()
        mine = [a for a in result["alarms"] if a["kind"] == "statistical"]
        onsets, covered = [a for a in mine if a["onset"]], result["covered"]
        gain = result["performance"].get("gain") or {"mean": None}
        table.add_row(
            *(str(v) for v in one.named.values()),
            str(len(onsets)),
            str(len(result["alarms"]) - len(mine)),
            str(len(result["retrains"])),
            onsets[0]["at"][:10] if onsets else "-",
            "covered" if covered["held"] else f"to {covered['kept']:.0f}",
            "-" if gain["mean"] is None else f"{gain['mean']:+.4f}",
        )
    Console().print(table)


def _short(words: str, most: int = 200) -> str:
    return words if len(words) <= most else f"{words[: most - 3]}..."
