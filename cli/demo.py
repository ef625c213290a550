"""`driftloop demo`: the whole loop on every flight that left New York in 2013, on one machine, faults and all.

Three airports are three sites. A model trained on January and February meets the rest of the year: telemetry comes
twice, out of order, late; a site goes offline; the loop retrains, gates, asks, rolls out. In a second act two planted
candidates show the brakes. Killed at any moment, the same command goes on; a finished demo starts over.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cli import summary
from cli.host import APP
from cli.progress import Progress
from cli.replay import Options, Replay
from triggers import loop as shell
from triggers.config import duration

FLIGHTS = APP.parent / "examples" / "flights"
HOME = Path("build") / "demo"


@dataclass(frozen=True, slots=True)
class Act:
    """A candidate that somebody brings to the gate on some day, and what it is made with."""

    name: str
    day: datetime
    settings: dict[str, Any]
    words: str


TABLE = "<table>"
"""Where the settings of an act name the whole table."""

ACTS = (
    Act(
        "planted-damaged-labels",
        datetime(2013, 11, 4, tzinfo=UTC),
        {"damage": "labels"},
        "second act: somebody brings a model trained on damaged labels",
    ),
    Act(
        "planted-refuses-rows",
        datetime(2013, 11, 12, tzinfo=UTC),
        {"refuse": TABLE},
        "second act: somebody brings a model that is good on paper and refuses rows at the sites",
    ),
)
OFFLINE = (("JFK", datetime(2013, 5, 2, tzinfo=UTC), datetime(2013, 5, 7, tzinfo=UTC)),)
SITE_FAULTS = {
    "EWR": {"seed": 1, "duplicate": 0.05},
    "JFK": {"seed": 2, "duplicate": 0.02, "reorder": 0.05},
    "LGA": {"seed": 3, "reorder": 0.05, "malformed": 1},
}


class Demo(Replay):
    """A replay with a second act."""

    def act(self, now: datetime, say: Any) -> None:
        """Bring the planted candidates to the gate, each once, when its day has come and no run is active."""
        ports, name = self.local.ports, self.loop.loop
        for act in ACTS:
            if now < act.day or shell.head(ports, name).active:
                continue
            if any(act.name in r.cause for r in shell.runs(ports, name)):
                continue
            settings = {k: str(self.options.data) if v == TABLE else v for k, v in act.settings.items()}
            candidate = self.train(f"{act.name}-{now:%m-%d}", *self._recent(now), settings)
            say(f"{now:%Y-%m-%d %H:%M}  {act.words}")
            shell.submit(ports, name, candidate, "somebody", act.name)
            self.settle()

    def _recent(self, day: datetime) -> tuple[int, int]:
        """From when to when a retraining on that day would have trained."""
        end = day - duration(self.loop.training.holdout)
        return int((end - duration(self.loop.training.window)).timestamp()), int(end.timestamp())


def flights(folder: Path) -> Path:
    """The table, made once."""
    spec = importlib.util.spec_from_file_location("flights_data", FLIGHTS / "data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["flights_data"] = module
    spec.loader.exec_module(module)
    made: Path = module.write(folder / "flights.parquet")
    return made


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """The command's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo", help="the whole loop on a year of flights, faults and all", description=__doc__
    )
    parser.add_argument("--ask", action="store_true", help="wait for you at the approval page")
    parser.add_argument("--serve", action="store_true", help="keep the page up when the year is over")
    parser.add_argument("--fresh", action="store_true", help="start over, even where a demo is unfinished")
    parser.add_argument("--port", type=int, default=7071, help="of the pages, on 127.0.0.1 (0: any)")
    parser.add_argument("--home", type=Path, default=HOME, help=f"folder for everything it makes ({HOME})")
    return parser


def run(args: argparse.Namespace) -> int:
    """The year, the second act, the summary."""
    home = args.home.resolve()
    state, finished = home / "state", home / "finished"
    if args.fresh or finished.exists():
        shutil.rmtree(state, ignore_errors=True)
        finished.unlink(missing_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    with Progress("flights") as progress:
        progress.say("goes on where it was" if state.exists() else "a year of flights from three airports")
        options = Options(
            FLIGHTS / "loop.yaml",
            FLIGHTS / "fleet.yaml",
            flights(home),
            state,
            "ask" if args.ask else "approve",
            args.port,
            SITE_FAULTS,
            OFFLINE,
            only_labelled=True,
            say=progress.say,
        )
        with Demo(options) as demo:
            progress.begin(demo)
            demo.adopt()
            for now in demo.ticks():
                demo.act(now, progress.say)
                progress.tick(now)
            found = summary.make(demo)
            (home / "summary.json").write_text(json.dumps(found, indent=2) + "\n")
            finished.touch()
            summary.show(found)
            progress.say(f"summary: {_shown(home / 'summary.json')}")
            if args.serve:
                serve(demo, progress)
    return summary.status(found)


def serve(demo: Demo, progress: Progress) -> None:
    """Keep the page up until interrupted."""
    progress.say(f"the page stays at {demo.url}/ (sign in: {demo.local.people.login_link(demo.url)}); Ctrl-C ends it")
    while True:
        demo.host.pump()
        time.sleep(0.2)


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
