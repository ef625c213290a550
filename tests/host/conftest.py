"""A host on the real SQLite bus and topic, with the small app beside this file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from adapters.local.bus import SqliteBus
from adapters.local.clock import SystemClock, VirtualClock
from adapters.local.database import Database
from adapters.local.store import SqliteStore
from adapters.local.topic import SqliteTopic
from cli.host.app import AppError, load
from cli.host.host import Host
from triggers.ports import Message, Queue

APP = Path(__file__).parent / "app" / "function_app.py"
SETTINGS = {"RunsQueue": "runs", "CheckSchedule": "0 0 6 * * *"}
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Here:
    """One state, and the host that runs on it; `restart` is a new process on the same file."""

    path: Path
    virtual: bool = True
    settings: Mapping[str, str] = field(default_factory=lambda: SETTINGS)
    options: dict[str, Any] = field(default_factory=dict)
    source: Path = APP
    lock: timedelta = timedelta(seconds=60)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.database = Database(self.path)
        self.clock: Any = VirtualClock(self.database, START) if self.virtual else SystemClock()
        self.bus = SqliteBus(self.database, self.clock, lock=self.lock)
        self.topic = SqliteTopic(self.database, self.clock)
        self.app: ModuleType = load(self.source)
        parts = self.bus, self.topic, SqliteStore(self.database), self.clock
        try:
            self.host = Host(self.app, *parts, self.settings, **self.options)
        except AppError:
            self.database.close()
            raise

    def restart(self) -> None:
        self.database.close()
        self.open()

    def send(self, queue: Queue, *bodies: str, session: str = "s", at: datetime | None = None) -> None:
        at_queue = session if queue == "runs" else ""
        self.bus.send(queue, [Message(f"{session}-{b}", b.encode("latin-1"), at_queue, at) for b in bodies])

    def seen(self, what: str) -> list[tuple[Any, ...]]:
        return [s[1:] for s in self.app.seen if s[0] == what]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Here]]:
    opened: list[Here] = []

    def begin(**said: Any) -> Here:
        opened.append(Here(tmp_path / "state.db", **said))
        return opened[-1]

    yield begin
    for here in opened:
        here.database.close()


@pytest.fixture
def here(start: Callable[..., Here]) -> Here:
    return start()
