"""Live progress of a replay: the date, what came in, drift by site, the run, its waves."""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from triggers import codec, sites, views
from triggers import loop as shell
from triggers.policy import Decision
from triggers.records import loop_of

if TYPE_CHECKING:
    from cli.replay import Replay


QUIET = {"held", "approval-asked", "answered", "event-deadline-passed"}
"""What the trail says again in the entry that follows, or every day."""


class Progress:
    """A panel that is redrawn on a terminal; lines for what happens, where it is not one."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or Console()
        self._live = Live(Text(title), console=self.console, refresh_per_second=4, transient=True)
        self._audit = 0
        self._replay: Replay | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._live.is_started:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, replay: Replay) -> None:
        """What is replayed; the page is live from here on. A login link is for a terminal, not for a log."""
        self._replay = replay
        self._audit = shell.head(replay.local.ports, replay.loop.loop).audit
        link = replay.local.people.login_link(replay.url)
        self.say(f"page: {replay.url}/" + (f"   sign in: {link}" if self.console.is_terminal else ""))

    def tick(self, now: datetime) -> None:
        """Tell what the audit trail has got since the last tick, and redraw."""
        assert self._replay is not None
        ports, name = self._replay.local.ports, self._replay.loop.loop
        for entry in shell.story(ports, name, after=self._audit):
            self._audit = entry.seq
            if entry.kind not in QUIET:
                about = f"  {entry.subject}" if loop_of(entry.subject) == name else ""
                text = views.sentence(entry).text
                self.say(f"{entry.at:%Y-%m-%d %H:%M}{about}  {text if len(text) < 240 else text[:237] + '...'}")
        if self._live.is_started:
            self._live.update(self._panel(now))

    def _panel(self, now: datetime) -> Group:
        replay = self._replay
        assert replay is not None
        ports, name = replay.local.ports, replay.loop.loop
        total = (replay.end - replay.start).total_seconds()
        done = (now - replay.start).total_seconds()
        table = Table.grid(padding=(0, 2))
        states = sites.states(ports, name)
        rows = sum(s.rows for s in states.values())
        table.add_row("date", f"{now:%Y-%m-%d}", ProgressBar(total, min(done, total), width=40))
        table.add_row("telemetry", f"{rows:,} rows")
        for site, state in states.items():
            table.add_row(site, f"{state.observed[:12]} {state.status}", state.reason[:90])
        for run in shell.active_runs(ports, name):
            waves = f"wave {run.wave + 1} of {len(run.waves)}" if run.waves else ""
            table.add_row("run", f"{run.id} {run.phase} {waves}", run.because[:90])
        latest = list(ports.store.scan(name, "decision/", f"decision/{now - replay.tick:%Y-%m-%dT%H%M%S}"))
        if latest:
            table.add_row("check", "", codec.decode(latest[-1].value, Decision).reason[:110])
        return Group(Text(self.title, style="bold"), table)
