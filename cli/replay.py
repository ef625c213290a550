"""`driftloop replay`: the whole loop over a table, from a first champion made on its beginning.

The sites are the edge program, in processes of their own; the functions are driven by their own triggers on a clock
that moves as the rows do. Killed at any moment, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import msgspec
import numpy as np
import yaml

from cli import inputs, summary, tables
from cli.browser import Page
from cli.children import JobFailed, environment, run_job, terminate
from cli.host import APP
from cli.meter import Meter
from cli.validate import text
from drift.envelope import iso
from triggers import sites
from triggers.config import Site, duration, parse_fleet, parse_loop
from triggers.errors import DriftloopError, Refused
from triggers.ports import Put, Queue

if TYPE_CHECKING:
    from adapters.local.profile import Local
    from cli.host import Host
    from triggers.run import Run

MOST_PROCESSES = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What to replay, where, and who answers: `answers` is "approve" (whatever passed its gates), "ask", or "none"."""

    loop_file: Path
    fleet_file: Path
    data: Path
    state: Path
    answers: str = "approve"
    port: int = 0
    site_faults: Mapping[str, Any] = field(default_factory=dict)
    offline: Sequence[tuple[str, datetime, datetime]] = ()
    only_labelled: bool = False
    say: Say = print


class Replay:
    """One replay on one state folder: `with Replay(options) as replay: replay.run()`."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.state = options.state
        self.loop = parse_loop(text(options.loop_file), str(options.loop_file))
        self.fleet = parse_fleet(text(options.fleet_file), str(options.fleet_file))
        self.tick = duration(self.loop.telemetry.window)
        self.meter = Meter()
        self.rows_before = 0
        self._close = contextlib.ExitStack()
        self._offline: dict[str, bool] = {}
        self._drawing: subprocess.Popen[bytes] | None = None
        self.report = Path()

    # --- setting up

    def __enter__(self) -> Self:
        from cli.host.http import Server

        Server(self.options.port, lambda *_: (503, [], b"")).server_close()  # a port that cannot be had is said first
        try:
            self._prepare()
            self._start()
        except BaseException:
            self._close.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def _prepare(self) -> None:
        from adapters.local import keys

        options = self.options
        inputs.keep(self.state, inputs.digests(options.loop_file, self.loop, options.fleet_file, options.data))
        config = self.state / "config" / self.loop.loop
        if not (config / "loop.yaml").exists():
            self._write_config(config)
        self.registry_key = keys.registry(self.state)
        for site in self.fleet.sites:
            keys.site(self.state, site.name)
        self._record()

    def _record(self) -> None:
        """Read the table once: afterwards the sites' recordings and what is known of its span are enough."""
        kept = self.state / "replay.json"
        if not kept.exists():
            data = tables.load(self.options.data, self.loop)
            if self.options.only_labelled:
                data = data.take(np.isfinite(data.table.label))
            sites = {s.name: self._site(s.name) / "rows.npz" for s in self.fleet.sites}
            kept.write_bytes(msgspec.json.encode(tables.record(data, self.loop, sites)))
        self.span = msgspec.json.decode(kept.read_bytes(), type=tables.Span)
        self.start, self.end = (datetime.fromtimestamp(at, UTC) for at in (self.span.start, self.span.end))
        if self.span.left_out:
            self.options.say(tables.in_words(self.span.left_out))

    def _write_config(self, config: Path) -> None:
        config.mkdir(parents=True, exist_ok=True)
        for name, script in inputs.scripts(self.options.loop_file, self.loop).items():
            (config / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(script, config / name)
        shutil.copy(self.options.loop_file, config / "loop.yaml")

    def _site(self, name: str) -> Path:
        return self.state / "sites" / urllib.parse.quote(name, safe="")

    def _start(self) -> None:
        os.environ.update(
            DRIFTLOOP_STATE=str(self.state),
            CheckSchedule="0 0 13 * * *" if self.tick >= timedelta(days=1) else _span(self.tick),
            SweepSchedule="0 0 1,13 * * *" if self.tick >= timedelta(days=1) else _span(self.tick),
            LogsSchedule="0 0 13 * * *" if self.tick >= timedelta(days=1) else _span(self.tick),
        )
        from adapters.local.clock import VirtualClock
        from cli.host import Host, alone, load
        from functions import host as root
        from functions import wire

        self._close.enter_context(alone(self.state))
        self._write_fleet({})
        self.local = self._profile()
        assert isinstance(self.local.clock, VirtualClock)
        self.clock = self.local.clock
        settings = {name: root.setting(name) for name in root.SETTINGS}
        self.host: Host = Host(
            load(APP),
            self.local.bus,
            self.local.topic,
            self.local.store,
            self.local.clock,
            settings,
            subscriptions=wire.SUBSCRIPTIONS,
            on_invoke=self.meter.invoked,
        )
        self.rows_before = sum(s.rows for s in sites.states(self.local.ports, self.loop.loop).values())
        server = self.host.start_http(self.options.port)
        self._close.callback(server.stop)
        self.url = f"http://127.0.0.1:{server.port}"
        self.edges = self._start_edges()
        self._write_fleet(self.edges)

    def _profile(self) -> Local:
        """What the loop runs on, with a clock that is moved."""
        from functions import host as root

        os.environ.update(DRIFTLOOP_PROFILE="local", DRIFTLOOP_CLOCK=self.start.isoformat())
        root.local.cache_clear()
        root.ports.cache_clear()
        local = root.local()
        local.jobs.recover()
        self._close.callback(local.close)
        return local

    def _write_fleet(self, urls: Mapping[str, str]) -> None:
        """The fleet as given, with each site's public key and where its process listens today."""
        from adapters.local import keys

        listed = []
        for site in self.fleet.sites:
            key = {"id": "replay", "public": keys.public(self.state, site.name)}
            known = msgspec.to_builtins(site)
            listed.append({**known, "keys": [*known["keys"], key], "url": urls.get(site.name, "")})
        path = self.state / "config" / self.loop.loop / "fleet.yaml"
        partial = path.with_suffix(".partial")
        partial.write_text(yaml.safe_dump({"sites": listed}, sort_keys=False, allow_unicode=True), "utf-8")
        partial.replace(path)

    def _start_edges(self) -> dict[str, str]:
        groups = min(MOST_PROCESSES, len(self.fleet.sites))
        found: dict[str, str] = {}
        for n in range(groups):
            group = self.fleet.sites[n::groups]
            names = [s.name for s in group]
            config = self.state / "sites" / f"edge-{n}.json"
            config.write_text(json.dumps({"port": 0, "sites": [self._edge(site) for site in group]}))
            command = [sys.executable, "-m", "edge", "--config", str(config), "--parent", str(os.getpid())]
            log = self._close.enter_context((self.state / "sites" / f"edge-{n}.log").open("ab"))
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=APP.parent, env=environment())
            self._close.callback(terminate, process)
            assert process.stdout is not None
            ready = process.stdout.readline()
            if not ready:
                raise Refused(f"the sites {', '.join(names)} did not start: see {log.name}")
            port = json.loads(ready)["port"]
            found |= {name: f"http://127.0.0.1:{port}/{urllib.parse.quote(name, safe='')}" for name in names}
        return found

    def _edge(self, site: Site) -> dict[str, Any]:
        folder = self._site(site.name)
        return {
            "name": site.name,
            "loop": self.loop.loop,
            "schema": msgspec.to_builtins(self.loop.schema.telemetry(self.loop.task)),
            "state": str(folder / "state"),
            "data": str(folder / "rows.npz"),
            "stays": site.data == "stays",
            "ingest": f"{self.url}/api/telemetry",
            "registry": str(self.state / "blobs"),
            "registry_key": str(self.state / "keys" / "registry.pub"),
            "key": str(folder / "key.pem"),
            "key_id": "replay",
            "flush": int(self.tick.total_seconds()),
            "faults": self.options.site_faults.get(site.name, {}),
        }

    # --- the first champion

    def adopt(self) -> str:
        """Train the first champion on the bootstrap, and put it on every site. Done before: it stays as it is."""
        from triggers import loop as shell

        champion = shell.head(self.local.ports, self.loop.loop).champion
        if not champion:
            champion = self.train("bootstrap", self.span.first, self.span.start)
            shell.adopt(self.local.ports, self.loop.loop, champion, "replay")
        for url in self.edges.values():
            if not call(url, "GET", "status")["candidate"]:
                call(url, "POST", "deploy", {"candidate": champion, "change": "first"})
        return str(champion)

    def train(self, name: str, start: int, end: int, settings: Mapping[str, Any] | None = None) -> str:
        """A candidate trained outside the loop, on the table's rows of [start, end), UTC seconds. Asked for again by
        the same name, it is the same candidate."""
        folder = self.state / "work" / name
        result = folder / "result.json"
        if not result.exists():
            spec = {
                "name": name,
                "kind": "train",
                "loop": str(self.state / "config" / self.loop.loop / "loop.yaml"),
                "blobs": str(self.state / "blobs"),
                "run": name,
                "from": iso(start),
                "to": iso(end),
                "parent": None,
                "sites": None if self.loop.schema.site else ["main"],
                "data": str(self.options.data.resolve()),
                "key": str(self.state / "keys" / "registry.pem"),
                "settings": dict(settings or {}),
            }
            run_job(folder, spec)
        found = json.loads(result.read_text())
        if "error" in found:
            result.unlink()
            raise JobFailed(f"{name}: {found['error']}")
        return str(found["candidate"])

    def review(self) -> dict[str, Any]:
        """What the first champion and every candidate would have scored, month by month, beside what was served."""
        from triggers import loop as shell
        from triggers.run import Phase

        runs = shell.runs(self.local.ports, self.loop.loop)
        first = runs[0].champion if runs else shell.head(self.local.ports, self.loop.loop).champion
        refused = {r.candidate for r in runs if r.phase is Phase.ROLLED_BACK}  # it left rows unscored: no metric
        folder = self.state / "work" / "review"
        spec = {
            "name": "review",
            "kind": "review",
            "loop": str(self.state / "config" / self.loop.loop / "loop.yaml"),
            "blobs": str(self.state / "blobs"),
            "from": iso(self.span.start),
            "to": iso(self.span.end),
            "champion": first,
            "candidates": sorted(({d for r in runs for d in (r.candidate, r.champion) if d} | {first}) - refused),
        }
        (folder / "result.json").unlink(missing_ok=True)
        run_job(folder, spec)
        found: dict[str, Any] = json.loads((folder / "result.json").read_text())
        if "error" in found:
            raise JobFailed(f"review: {found['error']}")
        few = {month for month, rows in found["rows"].items() if rows < 100}
        return _without(found, few)

    def _draw(self) -> None:
        """Begin to draw the report of the first run's drift, beside everything else, unless that is done."""
        from triggers import loop as shell

        if self._drawing is not None:
            return
        runs = shell.runs(self.local.ports, self.loop.loop)
        if not runs:
            return
        self.report = self.state / "blobs" / "evidently" / self.loop.loop / f"{runs[0].id}.html"
        folder = self.state / "work" / "drift-report"
        spec = {
            "name": runs[0].id,
            "loop": str(self.state / "config" / self.loop.loop / "loop.yaml"),
            "blobs": str(self.state / "blobs"),
            "reference": [iso(self.span.first), iso(self.span.start)],
            "current": [iso(int(at.timestamp())) for at in (runs[0].started - 14 * self.tick, runs[0].started)],
            "data": str(self.options.data.resolve()),
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spec.json").write_text(json.dumps(spec))
        command = [sys.executable, "-W", "ignore", "-m", "jobs.drift_report", str(folder / "spec.json")]
        if self.report.exists():
            command = [sys.executable, "-c", ""]
        with (folder / "log.txt").open("ab") as log:
            self._drawing = subprocess.Popen(
                ["nice", *command], stdout=log, stderr=log, cwd=APP.parent, env=environment()
            )
        self._close.callback(terminate, self._drawing)

    def failed(self) -> dict[str, int]:
        """What nobody will try again, by function or queue: timers of this process that raised, and dead letters."""
        found = {f.name: self.meter.errors[f.name] for f in self.host.functions if f.kind == "timer"}
        found |= {f"queue {queue}": len(self.local.bus.dead_letters(queue)) for queue in get_args(Queue)}
        found |= Counter(event.subscriber for event in self.local.topic.dead_letters())
        return {name: times for name, times in sorted(found.items()) if times}

    def drawn(self) -> Path | None:
        """Evidently's report of the first run's drift; waits for it. None where there was no run, or no report."""
        if self._drawing is None:
            return None
        self._drawing.wait()
        return self.report if self.report.exists() else None

    # --- time

    def ticks(self) -> Iterator[datetime]:
        """Move the clock, tick by tick, to the end of the data and on until the last labels are in and runs have ended.

        At each tick everything that was due has been handled, and no job is running.
        """
        gc.collect()
        gc.freeze()  # the tables stay to the end: no need to look at them again and again
        last = self.end + timedelta(days=2)
        now = max(self.clock.now(), self.start)
        if not self._whole(now):
            self._stop(now)
        while True:
            if self._whole(now):
                self._network(now)
                self._play(now)
                self.settle()
                self._draw()
                yield now
            if now >= last:
                return
            now += self.tick - (now - _EPOCH) % self.tick
            while self.clock.now() < now:
                due = self.host.next_due()
                self._stop(self.clock.set(min(now, max(due, self.clock.now()) if due else now)))

    def _whole(self, now: datetime) -> bool:
        return (now - _EPOCH) % self.tick == timedelta()

    def _stop(self, now: datetime) -> None:
        """Handle what is due now; time stands still while jobs run and people answer.

        Before a rollout moves, the sites tell what they saw until then with what they served until then. Whether they
        do is written down first: a replay that was killed here does the same again.
        """
        store = self.local.store
        kept = store.get("$replay", "stop")
        stop = msgspec.json.decode(kept.value) if kept else {}
        if stop.get("at") != now.isoformat():
            stop = {"at": now.isoformat(), "play": not self._whole(now) and self._rolling()}
            store.commit("$replay", [Put("stop", msgspec.json.encode(stop), "*")])
        if stop["play"]:
            self._play(now)
        self.host.run_due_timers()
        self.settle()

    def _rolling(self) -> bool:
        from triggers import loop as shell
        from triggers.run import Phase

        moving = (Phase.ROLLING_OUT, Phase.ROLLING_BACK)
        return any(r.phase in moving for r in shell.active_runs(self.local.ports, self.loop.loop))

    def settle(self) -> None:
        """Handle what is due, answer what is asked, and wait for jobs, until nothing moves."""
        while True:
            self.host.pump()
            if self.local.jobs.running():
                self.local.jobs.wait(0.1)
                continue
            if not self._answer() and not self.host.pump():
                return

    def _network(self, now: datetime) -> None:
        for site, start, end in self.options.offline:
            online = not start <= now < end
            if self._offline.get(site, False) is online:
                call(self.edges[site], "POST", "network", {"online": online})
                self._offline[site] = not online
                self.options.say(f"{now:%Y-%m-%d} {site} is {'back online' if online else 'offline'}")

    def _play(self, now: datetime) -> None:
        to = {"to": int(now.timestamp()) - 1}
        errors: list[BaseException] = []

        def one(url: str) -> None:
            try:
                call(url, "POST", "advance", to)
            except (OSError, DriftloopError) as problem:
                errors.append(problem)

        threads = [threading.Thread(target=one, args=(url,)) for url in self.edges.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    # --- answering

    def _answer(self) -> bool:
        """Answer what waits for a person, through the page that a person uses. True where something was answered."""
        from triggers import loop as shell
        from triggers.run import Phase

        waiting = [r for r in shell.active_runs(self.local.ports, self.loop.loop) if r.phase is Phase.AWAITING_APPROVAL]
        if not waiting or self.options.answers == "none":
            return False
        if self.options.answers == "ask":
            return self._wait_for_person(waiting[0])
        return any(self._answer_page(run) for run in waiting)

    def _answer_page(self, run: Run) -> bool:
        """False where the page does not ask us, or others have to answer too."""
        from triggers import views

        page, before = self._browser(), views.approval_request(self.local.ports, run.id)
        form = page.form(f"/api/approvals/{run.id}")
        if form is None:
            return False
        passed = run.outcome == "passed"
        reason = "passed its gates" if passed else "not proven better"
        page.post(f"/api/approvals/{run.id}", {**form, "answer": "approve" if passed else "reject", "reason": reason})
        return views.approval_request(self.local.ports, run.id) != before

    def _browser(self) -> Page:
        return Page(self.url, self.local.people.login_link(self.url))

    def _wait_for_person(self, run: Run) -> bool:
        from triggers import loop as shell

        link = self.local.people.login_link(self.url)
        self.options.say(f"waiting for your answer: {link}&next=/api/approvals/{run.id}")
        while shell.active_runs(self.local.ports, self.loop.loop) == [run]:
            time.sleep(0.2)
            if self.host.pump():
                break
        return True


def _without(found: Any, months: set[str]) -> Any:
    """A review without the months of which there are too few rows to say anything."""
    if not isinstance(found, dict):
        return found
    return {name: _without(part, months) for name, part in found.items() if name not in months}


def _span(time: timedelta) -> str:
    """A time span as timer triggers read it.

    >>> _span(timedelta(hours=12))
    '12:00:00'
    """
    seconds = int(time.total_seconds())
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def call(url: str, method: str, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One request to a site's process. Raises Refused with what it said."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=120)
    payload = None if body is None else json.dumps(body).encode()
    connection.request(method, f"{parts.path}/{what}", payload, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    if answer.status >= 400:
        raise Refused(f"{url}/{what} answered {answer.status}: {data[:300].decode('utf-8', 'replace')}")
    found: dict[str, Any] = json.loads(data or b"{}")
    return found


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """The command's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "replay", help="run the whole loop over a table of yours", description=__doc__
    )
    parser.add_argument("--loop", type=Path, required=True, help="loop.yaml")
    parser.add_argument("--fleet", type=Path, required=True, help="fleet.yaml")
    parser.add_argument("--data", type=Path, required=True, help="rows, Parquet or CSV")
    parser.add_argument("--state", type=Path, required=True, help="folder for everything that the loop keeps")
    parser.add_argument("--approve", action="store_true", help="approve what passes its gates (default: ask you)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary here")
    parser.add_argument("--port", type=int, default=7071, help="of the pages, on 127.0.0.1 (0: any)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Replay to the end of the table, and say what came of it."""
    from cli.progress import Progress

    if args.json and (args.json.is_dir() or not args.json.absolute().parent.is_dir()):
        raise Refused(f"--json {args.json}: expected a file in a folder that is there")
    with Progress(str(args.data)) as progress:
        options = Options(
            args.loop,
            args.fleet,
            args.data,
            args.state.resolve(),
            "approve" if args.approve else "ask",
            args.port,
            say=progress.say,
        )
        with Replay(options) as replay:
            progress.begin(replay)
            replay.adopt()
            for now in replay.ticks():
                progress.tick(now)
            found = summary.make(replay)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    summary.show(found)
    return summary.status(found)
