"""The azure profile: every port on Azure's services, from typed settings."""

from __future__ import annotations

import logging
from typing import Any

from adapters.azure import iotedge
from adapters.azure.arm import Arm
from adapters.azure.blobs import BlobStore
from adapters.azure.configs import BlobConfigs
from adapters.azure.eventgrid import EventGridTopic
from adapters.azure.flux import FluxExecutor
from adapters.azure.git import Repository
from adapters.azure.identity import Identity
from adapters.azure.iotedge import IotEdgeExecutor
from adapters.azure.keys import Keys
from adapters.azure.ml import AzureMlJobs
from adapters.azure.monitor import MonitorLogs
from adapters.azure.people import EntraPeople
from adapters.azure.program import Addresses
from adapters.azure.push import PushExecutor
from adapters.azure.servicebus import ServiceBusBus
from adapters.azure.settings import Settings
from adapters.azure.tables import TableStore
from adapters.azure.teams import Everywhere, TeamsNotifier
from adapters.azure.uploads import BlobUploads
from adapters.azure.workspace import Workspace
from adapters.executors import Executors
from adapters.local.clock import SystemClock
from adapters.local.notify import StoreNotifier
from adapters.local.sites import HttpExecutor
from adapters.signatures import Ed25519
from adapters.together import Threads
from adapters.verified import Verified
from adapters.webhook import WebhookNotifier
from triggers.errors import Refused
from triggers.ports import Clock, Configs, Ports

AZURE_DEVOPS = "499b84ac-1321-427f-aa17-267ca6975798/.default"
"""The scope by which Azure DevOps knows an identity."""


class Azure:
    """All the adapters of one function app.

    Nothing is imported of an SDK, and no setting is read, before a port is first used: what is missing is said by
    what needs it. An adapter takes `settings` and `identity`, and makes its client at its first call. `cloud` goes to
    the workspace's client: another cloud than the public one.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None, **cloud: Any) -> None:
        logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)  # at DEBUG it tells whole addresses, SAS too
        self.settings = settings
        self.identity = Identity(settings)
        self.blobs = BlobStore(settings, self.identity, lambda: settings.container)
        self.files = BlobStore(settings, self.identity, lambda: settings.config)
        self.keys = Keys(BlobStore(settings, self.identity, lambda: settings.keys), self.blobs)
        self.workspace = Workspace(lambda: settings.workspace, self.identity, **cloud)
        store = TableStore(settings, self.identity)
        configs, signatures, clock = BlobConfigs(self.files), Ed25519(), clock or SystemClock()
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
            executor=Verified(self._executor(configs, clock), self.blobs, lambda: self.keys.public),
            notifier=Everywhere(
                TeamsNotifier(settings, store),
                WebhookNotifier(lambda: settings.webhook, lambda: settings.webhook_secret, store, clock),
                StoreNotifier(store, clock),
            ),
            signatures=signatures,
            people=EntraPeople(settings, lambda: self.keys.forms),
            clock=clock,
            configs=configs,
            uploads=BlobUploads(settings, self.identity),
            logs=MonitorLogs(settings, self.identity),
            together=Threads(),
        )

    def _executor(self, configs: Configs, clock: Clock) -> Executors:
        settings, arm = self.settings, self.workspace.arm

        def addresses() -> Addresses:
            return Addresses(ingest=settings.ingest, registry=settings.registry)

        def public_key() -> bytes:
            return self.keys.public.encode()

        def login() -> tuple[str, str]:
            return "driftloop", settings.git_token or self.identity.credential.get_token(AZURE_DEVOPS).token

        def hub_url() -> str:
            if not settings.hub:
                raise Refused("the app setting IotHub is missing: the hub of sites that are devices", setting="IotHub")
            return f"https://{settings.hub}"

        hub = Arm(lambda: self.identity.credential, hub_url, iotedge.SCOPE)
        git = Repository(lambda: settings.git, lambda: settings.git_branch, login, clock)
        return Executors(
            configs,
            local=HttpExecutor(configs),
            azureml=PushExecutor(
                self.workspace,
                self.blobs,
                configs,
                clock,
                addresses=addresses,
                public_key=public_key,
                datastore=lambda: settings.datastore,
            ),
            flux=FluxExecutor(configs, arm, git, clock, addresses, public_key),
            iotedge=IotEdgeExecutor(configs, hub, clock, lambda: settings.image),
        )
