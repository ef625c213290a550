"""What the azure profile is told: one table of app settings, typed, each validated when it is first used."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar, overload
from urllib.parse import urlsplit

from triggers.errors import Misconfigured

T = TypeVar("T")


def text(value: str) -> str:
    return value


def https(value: str) -> str:
    """An address, without a slash at its end."""
    parts = urlsplit(value)
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("an https:// address")
    return value.rstrip("/")


def host(value: str) -> str:
    """The name of a host, in lower case."""
    if not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", value):
        raise ValueError("the name of a host")
    return value.lower()


def guid(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", value):
        raise ValueError("a GUID")
    return value.lower()


def table_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{2,62}", value):
        raise ValueError("3 to 63 letters and digits, a letter first")
    return value


def container_name(value: str) -> str:
    if not re.fullmatch(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*", value):
        raise ValueError("3 to 63 lower-case letters, digits and single hyphens")
    return value


def yes(value: str) -> bool:
    """As App Service writes it."""
    if value.lower() not in ("true", "false", "1", "0"):
        raise ValueError("true or false")
    return value.lower() in ("true", "1")


def words(value: str) -> frozenset[str]:
    """Separated by commas."""
    return frozenset(word.strip() for word in value.split(",") if word.strip())


NOBODY: frozenset[str] = frozenset()


def workflow(value: str) -> str:
    """The URL of a Teams workflow; its query holds the secret."""
    parts = urlsplit(value)
    if (parts.hostname or "").endswith("webhook.office.com"):
        raise ValueError(
            "the URL of a workflow but of an Office 365 connector: those are retired, and cards sent there are lost; "
            "make a workflow `Post to a channel when a webhook request is received` in Teams"
        )
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("an https:// address")
    return value


def hook(value: str) -> str:
    """An https address, or a port of this machine."""
    parts = urlsplit(value)
    here = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if (parts.scheme != "https" and not here) or not parts.hostname or parts.username or parts.fragment:
        raise ValueError("an https:// address without a name and password in it")
    return value


class WorkspaceId(NamedTuple):
    subscription: str
    group: str
    name: str

    def __str__(self) -> str:
        provider = "Microsoft.MachineLearningServices"
        group = f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
        return f"{group}/providers/{provider}/workspaces/{self.name}"


def workspace_id(value: str) -> WorkspaceId:
    part = "([^/]+)"
    wanted = str(WorkspaceId(part, part, part))
    found = re.fullmatch(wanted, value.rstrip("/"), re.IGNORECASE)
    if found is None:
        raise ValueError("the resource id of an Azure ML workspace")
    return WorkspaceId(*found.groups())


class Setting(Generic[T]):
    """One app setting: read as an attribute of Settings, it is its value.

    Without a default it is needed by whatever reads it. What is wrong is said with the setting's name and what it is
    for; a secret's value is never said.
    """

    def __init__(
        self,
        name: str,
        purpose: str,
        parse: Callable[[str], T],
        default: T | None = None,
        *,
        example: str = "",
        secret: bool = False,
    ) -> None:
        self.name, self.purpose, self.default = name, purpose, default
        self.example, self.secret = example, secret
        self._parse = parse

    @overload
    def __get__(self, settings: None, owner: type) -> Setting[T]: ...
    @overload
    def __get__(self, settings: Settings, owner: type) -> T: ...
    def __get__(self, settings: Settings | None, owner: type) -> Setting[T] | T:
        if settings is None:
            return self
        said = settings.environment.get(self.name, "").strip()
        if not said and self.default is not None:
            return self.default
        if not said:
            example = f", for example {self.example}" if self.example else ""
            raise Misconfigured(f"the app setting {self.name} is missing: {self.purpose}{example}", setting=self.name)
        try:
            return self._parse(said)
        except ValueError as wrong:
            shown = "what it says" if self.secret else repr(said[:200])
            why = f"the app setting {self.name}: {shown} is not {wrong}; it is for: {self.purpose}"
        raise Misconfigured(why, setting=self.name)


class Settings:
    """The app settings of the azure profile.

    `<Name>__...` with an identity is what a deployed app has; a connection string or key is for an emulator.
    """

    client_id = Setting("AZURE_CLIENT_ID", "the user-assigned identity that the app acts as", guid, "")
    storage = Setting(
        "Storage", "connection string of the storage emulator, instead of Storage__...", text, "", secret=True
    )
    tables = Setting(
        "Storage__tableServiceUri",
        "where runs, windows, outbox, approvals and audit are kept",
        https,
        example="https://ACCOUNT.table.core.windows.net",
    )
    blobs = Setting(
        "Storage__blobServiceUri",
        "where batches, candidates, reports and the configuration are kept",
        https,
        example="https://ACCOUNT.blob.core.windows.net",
    )
    table = Setting("StateTable", "the table of the loop's state", table_name, "driftloop")
    container = Setting(
        "StateContainer", "the blob container of batches, candidates and reports", container_name, "driftloop"
    )
    config = Setting(
        "ConfigContainer", "the blob container of <loop>/loop.yaml and fleet.yaml", container_name, "config"
    )
    keys = Setting(
        "KeyContainer",
        "the blob container of the registry's key and the forms' key: the app's alone",
        container_name,
        "keys",
    )
    workspace = Setting(
        "AzureMLWorkspace",
        "the Azure ML workspace in which models are trained",
        workspace_id,
        example="/subscriptions/ID/resourceGroups/GROUP/providers/Microsoft.MachineLearningServices/workspaces/NAME",
    )
    compute = Setting("AzureMLCompute", "the workspace's compute cluster for training in the cloud", text)
    datastore = Setting(
        "AzureMLDatastore", "the workspace's datastore that is the container of StateContainer", text, "driftloop"
    )
    service_bus = Setting(
        "ServiceBus", "connection string of a Service Bus emulator, instead of ServiceBus__...", text, "", secret=True
    )
    namespace = Setting(
        "ServiceBus__fullyQualifiedNamespace",
        "the namespace of the queues",
        host,
        example="NAME.servicebus.windows.net",
    )
    telemetry_queue = Setting("TelemetryQueue", "the queue of batches", text, "telemetry")
    runs_queue = Setting("RunsQueue", "the queue of run events, with sessions", text, "runs")
    effects_queue = Setting("EffectsQueue", "the queue of effects", text, "effects")
    deployments_queue = Setting("DeploymentsQueue", "the queue of deployments, with sessions", text, "deployments")
    site_ingest = Setting(
        "SiteIngest",
        "where sites that Azure ML, Flux or IoT Edge runs send their batches; empty: to the queue of batches",
        text,
        "",
        example="https://APP.azurewebsites.net/api/telemetry",
    )
    git = Setting(
        "GitUrl",
        "the repository from which Flux brings candidates to sites",
        https,
        example="https://dev.azure.com/ORG/PROJECT/_git/fleet",
    )
    git_branch = Setting("GitBranch", "the branch of it that Flux reads", text, "main")
    git_token = Setting(
        "GitToken",
        "a token that may push there; empty: the app's identity, as Azure DevOps takes it",
        text,
        "",
        secret=True,
    )
    hub = Setting(
        "IotHub",
        "the IoT hub of sites that are devices; empty: there are none",
        text,
        "",
        example="NAME.azure-devices.net",
    )
    image = Setting("SiteImage", "what devices run as the program at a site", text, "driftloop-edge:0.1.0")
    teams = Setting(
        "TeamsWorkflowUrl",
        "the workflow that posts cards to a Teams channel; empty: only the dashboard shows them",
        workflow,
        "",
        secret=True,
    )
    webhook = Setting(
        "WebhookUrl",
        "where every notice is posted as a CloudEvent, besides; empty: nowhere",
        hook,
        "",
        example="https://example.org/driftloop",
        secret=True,
    )
    webhook_secret = Setting(
        "WebhookSecret", "signs them, as Standard Webhooks says (whsec_...); empty: unsigned", text, "", secret=True
    )
    public_url = Setting("PublicUrl", "where people reach the app, in the links of cards", https, "")
    runbooks = Setting(
        "Runbooks",
        "where docs/runbooks.md is to be read: each card links its part of it; empty: none does",
        https,
        "",
        example="https://github.com/ORG/REPO/blob/main/docs/runbooks.md",
    )
    host_name = Setting("WEBSITE_HOSTNAME", "App Service says here what the app is called", text, "localhost")
    topic = Setting(
        "EventGrid__topicEndpointUri",
        "the topic of deployment and job events",
        https,
        example="https://NAME.REGION-1.eventgrid.azure.net/api/events",
    )
    uploads = Setting(
        "UploadsBlobServiceUri", "the account to which sites upload files, where it is not the app's own", https, ""
    )
    logs = Setting("LogsEndpoint", "where Log Analytics is queried", https, "https://api.loganalytics.io")
    topic_key = Setting("EventGridKey", "the topic's key, where no identity will do", text, "", secret=True)
    sign_in = Setting(
        "WEBSITE_AUTH_ENABLED", "App Service says here that its sign-in (Easy Auth) is in front of the app", yes, False
    )
    tenant = Setting("TenantId", "the tenant whose people may sign in; needed where TokenAudience is set", guid, "")
    audience = Setting(
        "TokenAudience",
        "the app's own id (and api:// address) for which bearer tokens are taken; empty: none is",
        words,
        NOBODY,
        example="api://ID, ID",
    )
    authority = Setting("Authority", "who issues them", https, "https://login.microsoftonline.com")
    read_roles = Setting(
        "ReadRoles", "app roles or group ids whose people may look; empty: everybody who signs in", words, NOBODY
    )
    approve_roles = Setting(
        "ApproveRoles", "app roles or group ids whose people may approve", words, frozenset({"approve"})
    )
    operate_roles = Setting(
        "OperateRoles", "app roles or group ids whose people may operate", words, frozenset({"operate"})
    )

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment

    @property
    def ingest(self) -> str:
        """Where sites send their batches."""
        return self.site_ingest or f"servicebus://{self.namespace}/{self.telemetry_queue}"

    @property
    def registry(self) -> str:
        """Where sites read candidates."""
        return f"blob://{self.blobs.removeprefix('https://')}/{self.container}"

    @property
    def origin(self) -> str:
        """Where people reach the app."""
        return self.public_url or f"https://{self.host_name}"


def table_of_settings() -> list[Setting[Any]]:
    """All of them, in order."""
    return [found for found in vars(Settings).values() if isinstance(found, Setting)]
