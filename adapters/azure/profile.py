"""The azure profile: every port on Azure's services, from typed settings."""

from __future__ import annotations

from adapters.azure.blobs import BlobStore
from adapters.azure.configs import BlobConfigs
from adapters.azure.eventgrid import EventGridTopic
from adapters.azure.identity import Identity
from adapters.azure.keys import Keys
from adapters.azure.ml import AzureMlJobs
from adapters.azure.monitor import MonitorLogs
from adapters.azure.people import EntraPeople
from adapters.azure.servicebus import ServiceBusBus
from adapters.azure.settings import Settings
from adapters.azure.tables import TableStore
from adapters.azure.teams import Everywhere, TeamsNotifier
from adapters.azure.uploads import BlobUploads
from adapters.azure.workspace import Workspace
from adapters.local.clock import SystemClock
from adapters.local.notify import StoreNotifier
from adapters.local.sites import HttpExecutor
from adapters.signatures import Ed25519
from triggers.ports import Ports


class Azure:
    """All the adapters of one function app.

    Nothing is imported of an SDK, and no setting is read, before a port is first used: what is missing is said by
    what needs it. An adapter takes `settings` and `identity`, and makes its client at its first call.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.identity = Identity(settings)
        self.blobs = BlobStore(settings, self.identity, lambda: settings.container)
        self.files = BlobStore(settings, self.identity, lambda: settings.config)
        self.keys = Keys(BlobStore(settings, self.identity, lambda: settings.keys))
        self.workspace = Workspace(lambda: settings.workspace, self.identity)
        store = TableStore(settings, self.identity)
        configs, signatures, clock = BlobConfigs(self.files), Ed25519(), SystemClock()
        self.ports = Ports(
            store=store,
            blobs=self.blobs,
            bus=ServiceBusBus(settings, self.identity, self.blobs, clock),
            topic=EventGridTopic(settings, self.identity),
            jobs=AzureMlJobs(
                self.workspace,
                self.blobs,
                self.files,
                configs,
                signatures,
                clock,
                registry_key=lambda: self.keys.registry,
                storage=lambda: f"{settings.blobs}/{settings.container}",
                datastore=lambda: settings.datastore,
                compute=lambda: settings.compute,
            ),
            executor=HttpExecutor(configs),
            notifier=Everywhere(TeamsNotifier(settings), StoreNotifier(store, clock)),
            signatures=signatures,
            people=EntraPeople(settings, lambda: self.keys.forms),
            clock=clock,
            configs=configs,
            uploads=BlobUploads(settings, self.identity),
            logs=MonitorLogs(settings, self.identity),
        )
