"""The local profile: every port on one machine, in one state folder."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from adapters.azure.settings import Settings
from adapters.azure.teams import Everywhere, TeamsNotifier
from adapters.local import keys
from adapters.local.blobs import FileBlobs
from adapters.local.bus import SqliteBus
from adapters.local.clock import SystemClock, VirtualClock
from adapters.local.configs import FileConfigs
from adapters.local.database import Database
from adapters.local.jobs import ProcessJobs
from adapters.local.notify import StoreNotifier
from adapters.local.people import LocalPeople
from adapters.local.sites import HttpExecutor
from adapters.local.store import SqliteStore
from adapters.local.topic import SqliteTopic
from adapters.local.uploads import FileUploads
from adapters.signatures import Ed25519
from adapters.together import Threads
from adapters.verified import Verified
from adapters.webhook import WebhookNotifier
from triggers.ports import Clock, Ports, in_turn


class Local:
    """All the adapters of one state folder.

    Where a virtual start was ever given, its clock is virtual from then on, and one thing happens after the other.
    Nothing begins before it is asked for: who hosts the app lets `jobs` recover.
    """

    def __init__(self, state: Path | str, virtual: datetime | None = None, environment: Mapping[str, str] = {}) -> None:
        """`environment`: the settings of Teams and the webhook, where people are told there as well."""
        self.state = Path(state)
        self.state.mkdir(parents=True, exist_ok=True)
        self.database = Database(self.state / "state.db")
        self.clock: Clock = _clock(self.database, virtual)
        self.store = SqliteStore(self.database)
        self.bus = SqliteBus(self.database, self.clock)
        self.topic = SqliteTopic(self.database, self.clock)
        self.blobs = FileBlobs(self.state / "blobs")
        self.jobs = ProcessJobs(self.state, self.topic, self.clock)
        self.people = LocalPeople(self.state / "keys" / "people.key")
        configs, self._threads = FileConfigs(self.state), Threads()
        settings = Settings(environment)
        self.ports = Ports(
            store=self.store,
            blobs=self.blobs,
            bus=self.bus,
            topic=self.topic,
            jobs=self.jobs,
            executor=Verified(HttpExecutor(configs), self.blobs, lambda: keys.registry_public(self.state)),
            notifier=Everywhere(
                TeamsNotifier(settings, self.store),
                WebhookNotifier(lambda: settings.webhook, lambda: settings.webhook_secret, self.store, self.clock),
                StoreNotifier(self.store, self.clock),
            ),
            signatures=Ed25519(),
            people=self.people,
            clock=self.clock,
            configs=configs,
            uploads=FileUploads(self.state / "uploads"),
            together=self._threads if isinstance(self.clock, SystemClock) else in_turn,
        )

    def close(self) -> None:
        self._threads.close()
        self.jobs.close(kill=True)
        self.database.close()


def _clock(database: Database, virtual: datetime | None) -> Clock:
    if virtual is not None:
        return VirtualClock(database, virtual)
    return VirtualClock.resumed(database) or SystemClock()
