"""The templates, run from their parameters: what they make is what the code needs, no more and no less."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.azure.settings import Setting, Settings, table_of_settings
from adapters.queues import SESSIONS
from cli.cluster.plan import ATTACH
from cli.host.app import load
from functions import host, wire
from tests.infra import bicep
from tests.infra.bicep import BicepError, Resource, Template

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
NAMES = json.loads((INFRA / "names.json").read_text())
ENVIRONMENTS = ("dev", "test", "prod")
ROLES = {"dev": ["all"], "test": ["ingest", "control", "deploy"], "prod": ["ingest", "control", "deploy"]}
TEMPLATES = sorted(INFRA.rglob("*.bicep"))


@pytest.fixture(scope="module")
def made() -> Mapping[str, tuple[list[Resource], dict[str, Any]]]:
    """What each environment's parameters make, with every option that a person may give."""
    found = {}
    for name in ENVIRONMENTS:
        template, given = bicep.parameters(INFRA / f"main.{name}.bicepparam")
        given |= {"teamsWorkflowUrl": "https://example.com/workflow", "publicUrl": "https://loop.example.com"}
        given |= {"signInClientId": "11111111-2222-3333-4444-555555555555", "uploadsId": UPLOADS}
        given |= {"clusterIds": [CLUSTER], "gitUrl": "https://git.example.com/fleet", "gitToken": "token"}
        given |= {"runbooks": "https://git.example.com/runbooks.md", "readRoles": "look"}
        given |= {"webhookUrl": "https://example.com/hook", "webhookSecret": "whsec_c2VjcmV0"}
        given |= {"iotHubId": HUB, "siteImage": "registry.example.com/driftloop-edge:1"}
        found[name] = template.run(given)
    return found


SHARED = "/subscriptions/00000000-0000-0000-0000-00000000000a/resourceGroups/shared/providers"
UPLOADS = f"{SHARED}/Microsoft.Storage/storageAccounts/uploads"
HUB = f"{SHARED}/Microsoft.Devices/IotHubs/devices"
CLUSTER = f"{SHARED}/Microsoft.Kubernetes/connectedClusters/south"


# --- templates are sound


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.name)
def test_a_template_defines_nothing_that_it_does_not_use(path: Path) -> None:
    assert Template(path).unused() == set()


@pytest.mark.parametrize("name", [*ENVIRONMENTS, ""])
def test_parameters_fit_their_template(name: str) -> None:
    template, given = bicep.parameters(INFRA / f"main{'.' * bool(name)}{name}.bicepparam")
    resources, outputs = template.run(given)
    ids = [r.id for r in resources if not r.existing]
    assert len(ids) == len(set(ids)), sorted(i for i in ids if ids.count(i) > 1)
    assert Template(INFRA / "subscriptions.bicep").run(outputs["subscriptions"])


@pytest.mark.parametrize("wrong", [{"apps": "two"}, {"location": 3}, {"unheard": "of"}, {"closed": "yes"}])
def test_parameters_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    template, given = bicep.parameters(INFRA / "main.dev.bicepparam")
    with pytest.raises(BicepError):
        template.run({**given, **wrong})


def test_what_is_there_already_is_pointed_at_and_not_made() -> None:
    template, given = bicep.parameters(INFRA / "main.test.bicepparam")
    there = {
        "vaultId": f"{SHARED}/Microsoft.KeyVault/vaults/kv",
        "insightsId": f"{SHARED}/Microsoft.Insights/components/appi",
        "logsId": f"{SHARED}/Microsoft.OperationalInsights/workspaces/log",
        "registryId": f"{SHARED}/Microsoft.ContainerRegistry/registries/cr",
        "workspaceStorageId": f"{SHARED}/Microsoft.Storage/storageAccounts/stml",
    }
    resources, _ = template.run({**given, **there})
    kinds = {r.type for r in resources if not r.existing}
    assert not kinds & {"/".join(id.split("/")[-3:-1]) for name, id in there.items() if name != "workspaceStorageId"}
    [workspace] = [r for r in resources if r.type.endswith("/workspaces") and "Learning" in r.type and not r.existing]
    about = workspace.body["properties"]
    assert [about[k] for k in ("keyVault", "applicationInsights", "containerRegistry", "storageAccount")] == [
        there[k] for k in ("vaultId", "insightsId", "registryId", "workspaceStorageId")
    ]
    more = {"workspaceId": f"{SHARED}/Microsoft.MachineLearningServices/workspaces/ml", "computeName": "cpu"}
    resources, outputs = template.run({**given, **there, **more})
    assert not [r for r in resources if "MachineLearning" in r.type and not r.existing]
    assert outputs["subscriptions"]["workspaceId"] == more["workspaceId"]
    assert settings_of(resources, "control")["AzureMLCompute"] == "cpu"


def test_a_private_environment_leaves_nothing_open_but_the_apps(made: Any) -> None:
    resources, _ = made["prod"]
    doors = {
        (r.type, r.body["properties"]["publicNetworkAccess"])
        for r in resources
        if "publicNetworkAccess" in r.body.get("properties", {})
    }
    assert {kind for kind, open_ in doors if open_ == "Enabled"} == {"Microsoft.Web/sites"}
    endpoints = [r for r in resources if r.type == "Microsoft.Network/privateEndpoints"]
    groups = [r.body["properties"]["privateLinkServiceConnections"][0]["properties"]["groupIds"][0] for r in endpoints]
    blobs = ["blob"] * 5  # the state, the snapshots, and the host of each app
    assert sorted(groups) == ["amlworkspace", *blobs, "namespace", "registry", "table", "topic", "vault"]
    assert not [r for r in made["test"][0] if r.type == "Microsoft.Network/privateEndpoints"]


def test_nobody_gets_in_by_a_key(made: Any) -> None:
    resources, _ = made["prod"]
    for r in resources:
        about = r.body.get("properties", {})
        if r.existing or not isinstance(about, dict):
            continue
        if r.type == "Microsoft.Storage/storageAccounts":
            assert (about["allowSharedKeyAccess"], about["allowBlobPublicAccess"]) == (False, False)
            assert (about["minimumTlsVersion"], about["supportsHttpsTrafficOnly"]) == ("TLS1_2", True)
        if r.type in ("Microsoft.ServiceBus/namespaces", "Microsoft.EventGrid/topics"):
            assert about["disableLocalAuth"] is True
        if r.type == "Microsoft.Web/sites":
            assert (about["httpsOnly"], about["siteConfig"]["ftpsState"]) == (True, "Disabled")
        if r.type.endswith("basicPublishingCredentialsPolicies"):
            assert about["allow"] is False


LOGGED = {
    "Microsoft.Storage/storageAccounts/blobServices",
    "Microsoft.Storage/storageAccounts/tableServices",
    "Microsoft.ServiceBus/namespaces",
    "Microsoft.EventGrid/topics",
    "Microsoft.KeyVault/vaults",
    "Microsoft.ContainerRegistry/registries",
    "Microsoft.MachineLearningServices/workspaces",
    "Microsoft.Web/sites",
}


def test_every_secret_says_what_it_is() -> None:
    """What CKV_AZURE_114 asks for, which infra/checkov.yaml leaves out."""
    vault = (INFRA / "modules" / "vault.bicep").read_text()
    secrets = re.findall(r"^resource \w+ 'Microsoft.KeyVault/vaults/secrets@.*?^}", vault, re.MULTILINE | re.DOTALL)
    assert len(secrets) == vault.count("vaults/secrets@")
    assert all(re.search(r"^    contentType: '", s, re.MULTILINE) for s in secrets)


def test_everything_that_can_tell_tells(made: Any) -> None:
    told = [r.body["scope"] for r in made["test"][0] if r.type == "Microsoft.Insights/diagnosticSettings"]
    assert {r.type for r in told} == LOGGED


def test_every_alert_links_its_runbook(made: Any) -> None:
    """That each has one, and each card too, tests/docs says."""
    rules = [r for r in made["prod"][0] if r.type.endswith(("/metricAlerts", "/scheduledQueryRules"))]
    assert len(rules) == 6
    for r in rules:
        runbook = r.body["properties"]["description"].removeprefix("What to do: https://git.example.com/runbooks.md#")
        assert r.body["name"].endswith(f"-{runbook}")


# --- one source of names


def test_queues_events_and_containers_have_one_source() -> None:
    by_setting = {s.name: s.default for s in table_of_settings()}
    assert {q["name"]: q["sessions"] for q in NAMES["queues"]} == {q: q in SESSIONS for q in wire_queues()}
    assert {q["setting"]: q["name"] for q in NAMES["queues"]} == {
        k: v for k, v in by_setting.items() if k.endswith("Queue")
    }
    assert (NAMES["table"], NAMES["datastore"]) == (by_setting["StateTable"], by_setting["AzureMLDatastore"])
    assert [NAMES["containers"][k] for k in ("state", "config", "keys")] == [
        by_setting[k] for k in ("StateContainer", "ConfigContainer", "KeyContainer")
    ]
    assert NAMES["schedules"] == {k: v for k, v in host.SETTINGS.items() if k.endswith("Schedule")}
    subscribed: dict[str, list[str]] = {}
    for s in NAMES["subscriptions"]:
        subscribed.setdefault(s["function"], []).extend(s["types"])
    assert {k: tuple(v) for k, v in subscribed.items()} == wire.SUBSCRIPTIONS


def wire_queues() -> set[str]:
    return {str(s.default) for s in table_of_settings() if s.name.endswith("Queue")}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_queues_and_subscriptions_are_made_as_they_are_named(made: Any, environment: str) -> None:
    resources, outputs = made[environment]
    queues = [r for r in resources if r.type.endswith("/queues") and not r.existing]
    assert {r.body["name"]: r.body["properties"]["requiresSession"] for r in queues} == {
        q["name"]: q["sessions"] for q in NAMES["queues"]
    }
    assert all(r.body["properties"]["requiresDuplicateDetection"] for r in queues)
    told, _ = Template(INFRA / "subscriptions.bicep").run(outputs["subscriptions"])
    sent: dict[str, set[str]] = {}
    for r in told:
        if r.type.endswith("/eventSubscriptions"):
            about = r.body["properties"]
            app, _, function = about["destination"]["properties"]["resourceId"].rpartition("/functions/")
            assert app in outputs["subscriptions"]["apps"].values()
            assert function in functions_of(app.rpartition("-")[2])
            assert about["eventDeliverySchema"] == "CloudEventSchemaV1_0"
            dead = about["deadLetterWithResourceIdentity"]["deadLetterDestination"]["properties"]
            assert dead["blobContainerName"] == NAMES["containers"]["deadLetters"]
            sent.setdefault(function, set()).update(about["filter"]["includedEventTypes"])
    assert sent == {k: set(v) for k, v in wire.SUBSCRIPTIONS.items()}


# --- what each app registers


def app_of(role: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRIFTLOOP_ROLE", role)
        return load(ROOT / "function_app.py").app


_BINDINGS: dict[str, dict[str, list[dict[str, Any]]]] = {}


def functions_of(role: str) -> dict[str, list[dict[str, Any]]]:
    """Bindings by function, as Azure would index them."""
    if role not in _BINDINGS:
        found = app_of(role).get_functions()
        _BINDINGS[role] = {f.get_function_name(): [b.get_dict_repr() for b in f.get_bindings()] for f in found}
    return _BINDINGS[role]


def test_each_function_belongs_to_one_role_and_an_app_for_all_has_them_all() -> None:
    parts = [set(functions_of(role)) for role in ("ingest", "control", "deploy")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(functions_of("all"))
    assert parts[0] == {"accept_telemetry"}
    assert parts[2] == {"deploy_to_site", "forward_deployment"}


def test_a_role_that_there_is_not_is_refused() -> None:
    with pytest.raises(Exception, match="DRIFTLOOP_ROLE is 'site': it is all, ingest, control, deploy"):
        app_of("site")


# --- settings: in the templates = read by the code

PLATFORM = {
    *("AzureWebJobsStorage__accountName", "AzureWebJobsStorage__credential", "AzureWebJobsStorage__clientId"),
    *("ServiceBus__credential", "ServiceBus__clientId"),
}
"""Read by the Functions host alone."""

ADAPTERS = {
    "ingest": {"servicebus", "blobs", "identity"},
    "deploy": {"servicebus", "blobs", "identity", "tables", "configs", "eventgrid", "workspace", "sites"},
}
"""Of the adapters, those whose ports a role's functions use; an app that controls uses them all."""

PORTS = {
    "configs": {"config"},
    "blobs": {"blobs", "container"},
    "tables": {"tables"},
    "workspace": {"workspace"},
    "sites": {"site_ingest", "datastore", "git", "git_branch", "git_token", "hub", "image"},
}
"""What profile.py and rest.py of adapters/azure hand to an adapter, which does not read the settings itself."""

LEFT = {
    *("Storage", "ServiceBus", "EventGridKey"),  # for emulators
    *("WEBSITE_HOSTNAME", "WEBSITE_AUTH_ENABLED"),  # said by App Service
    *("DRIFTLOOP_STATE", "DRIFTLOOP_CLOCK"),  # of the local profile
    *("LogsEndpoint", "Authority"),  # of other clouds
}


def attributes() -> dict[str, Setting[Any]]:
    return {k: v for k, v in vars(Settings).items() if isinstance(v, Setting)}


def read_by(role: str) -> set[str]:
    """Names of the settings that a role's functions and adapters read."""
    told = {s.name: s for s in table_of_settings()}
    if role in ("control", "all"):
        others = {
            "SiteIngest",
            "GitUrl",
            "GitBranch",
            "GitToken",
            "IotHub",
            "SiteImage",
        }  # what brings candidates to sites
        return {*told, *host.SETTINGS} - (others if role == "control" else set())
    found = set()
    for module in ADAPTERS[role]:
        path = ROOT / "adapters" / "azure" / f"{module}.py"
        used = set(re.findall(r"(?:settings|\bs)\.(\w+)", path.read_text())) if path.exists() else set()
        used |= PORTS.get(module, set())
        found |= {s.name for k, s in attributes().items() if k in used}
    general = {"DRIFTLOOP_PROFILE", "DRIFTLOOP_ROLE"} | {k for k in host.SETTINGS if k.startswith("APPLICATION")}
    return found | general | named_by_triggers(role)


def named_by_triggers(role: str) -> set[str]:
    words = json.dumps(functions_of(role), default=str)
    queues = set(re.findall(r'"%(\w+)%"', words))
    return queues | ({"ServiceBus__fullyQualifiedNamespace"} if '"ServiceBus"' in words else set())


def settings_of(resources: list[Resource], role: str) -> dict[str, str]:
    [app] = [r for r in resources if r.type == "Microsoft.Web/sites" and r.name.endswith(f"-{role}")]
    pairs = app.body["properties"]["siteConfig"]["appSettings"]
    found = {p["name"]: p["value"] for p in pairs}
    assert len(found) == len(pairs)
    return found


EACH = [(e, role) for e in ENVIRONMENTS for role in ROLES[e]]


@pytest.mark.parametrize(("environment", "role"), EACH)
def test_an_app_is_told_what_its_code_needs_and_nothing_that_it_does_not_read(
    made: Any, environment: str, role: str
) -> None:
    told, read = settings_of(made[environment][0], role), read_by(role)
    needed = {s.name for s in table_of_settings() if s.default is None} & read
    assert (needed | named_by_triggers(role)) - set(told) == set(), "the code needs them"
    assert set(told) - read - PLATFORM == set(), "nothing reads them"
    assert told["DRIFTLOOP_ROLE"] == role


def test_every_setting_that_the_code_reads_can_be_said_by_the_templates(made: Any) -> None:
    told = set(settings_of(made["dev"][0], "all"))
    assert {*(s.name for s in table_of_settings()), *host.SETTINGS} - told == LEFT
    split = [set(settings_of(made["test"][0], role)) for role in ROLES["test"]]
    assert set.union(*split) == told


@pytest.mark.parametrize(("environment", "role"), EACH)
def test_the_code_can_read_what_it_is_told(made: Any, environment: str, role: str) -> None:
    told = settings_of(made[environment][0], role)
    known = {k: v for k, v in told.items() if "<" not in v}
    for attribute, setting in attributes().items():
        if setting.name in known and not setting.secret:
            getattr(Settings(known), attribute)
    assert told["APPLICATIONINSIGHTS_AUTHENTICATION_STRING"].endswith("Authorization=AAD")


def test_a_secret_is_named_and_not_said(made: Any) -> None:
    for environment, role in EACH:
        told = settings_of(made[environment][0], role)
        for setting in table_of_settings():
            if setting.secret and setting.name in told:
                assert told[setting.name].startswith("@Microsoft.KeyVault(")


# --- rights: of each identity = what its code does

BUILT_IN = {
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "writes blobs",
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": "reads blobs",
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "owns blobs",
    "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": "writes entities",
    "69a216fc-b8fb-44d8-bc22-1f3c2cd27a39": "sends",
    "4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0": "receives",
    "d5a91429-5739-47e2-a06b-3470a27159e7": "publishes",
    "4633458b-17de-408a-b874-0445c86b69e6": "reads secrets",
    "73c42c96-874c-492b-b04d-ab87d138a893": "reads logs",
    "4fc6c259-987e-4a07-842e-c321cc9d413f": "changes devices",
    "3913510d-42f4-4e42-8a64-420c390055eb": "tells",
}

SENDS = {"ingest": {"telemetry"}, "control": {"telemetry", "runs", "effects", "deployments"}, "deploy": {"runs"}}
SENDS["deploy"] |= {"deployments"}
STATE, CONFIG, KEYS = (NAMES["containers"][k] for k in ("state", "config", "keys"))
TOGETHER = {("host", "owns blobs"), ("insights", "tells")}
RIGHTS: dict[str, set[tuple[str, str]]] = {
    "ingest": {(STATE, "writes blobs: claims/*")},
    "control": {
        *((STATE, "writes blobs"), (CONFIG, "reads blobs"), (KEYS, "writes blobs"), ("table", "writes entities")),
        *(("topic", "publishes"), ("vault", "reads secrets"), ("logs", "reads logs"), ("uploads", "reads blobs")),
        *(("workspace", "driftloop trainer"), ("snapshots", "writes blobs")),
    },
    "deploy": {
        *(
            (STATE, "writes blobs: claims/*, quarantine/*, models/*"),
            (CONFIG, "reads blobs"),
            ("table", "writes entities"),
        ),
        *(("topic", "publishes"), ("workspace", "driftloop deployer"), ("cluster", "driftloop deployer")),
        *(("snapshots", "writes blobs"), ("vault", "reads secrets"), ("hub", "changes devices")),
    },
}
"""What the adapters of each role do, beside queues, which are read from its triggers and from what it sends."""

KINDS = {
    "Microsoft.Storage/storageAccounts/tableServices/tables": "table",
    "Microsoft.EventGrid/topics": "topic",
    "Microsoft.KeyVault/vaults": "vault",
    "Microsoft.OperationalInsights/workspaces": "logs",
    "Microsoft.Insights/components": "insights",
    "Microsoft.MachineLearningServices/workspaces": "workspace",
    "Microsoft.Kubernetes/connectedClusters": "cluster",
    "Microsoft.Devices/IotHubs": "hub",
}


def what(on: Resource) -> str:
    """An account is the app's own for its host, the workspace's for snapshots, or that of uploads."""
    if on.type in KINDS:
        return KINDS[on.type]
    if on.type == "Microsoft.Storage/storageAccounts":
        return {"uploads": "uploads"}.get(on.name) or ("snapshots" if on.name.startswith("stml") else "host")
    return on.name.rpartition("/")[2]


def rights(resources: list[Resource]) -> Iterator[tuple[str, str, str]]:
    """Who, on what, may do what."""
    names = {role_id(r): r.body["properties"]["roleName"] for r in resources if r.type.endswith("/roleDefinitions")}
    for r in resources:
        if r.type == "Microsoft.Authorization/roleAssignments":
            about, on = r.body["properties"], r.body["scope"]
            role = about["roleDefinitionId"].rpartition("/")[2]
            may = BUILT_IN.get(role) or names[role].partition(" (")[0]
            if "condition" in about:
                may += ": " + ", ".join(re.findall(r"StringLike '([^']+)'", about["condition"]))
            yield str(about["principalId"]), what(on), may


def role_id(definition: Resource) -> str:
    return str(definition.body["name"])


def expected(role: str) -> set[tuple[str, str]]:
    bindings = [b for bs in functions_of(role).values() for b in bs]
    settings = {q["setting"]: q["name"] for q in NAMES["queues"]}
    received = {settings[b["queueName"].strip("%")] for b in bindings if b["type"] == "serviceBusTrigger"}
    return {*RIGHTS[role], *TOGETHER, *((q, "receives") for q in received), *((q, "sends") for q in SENDS[role])}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_each_identity_has_the_rights_that_its_code_uses_and_no_other(made: Any, environment: str) -> None:
    found: dict[str, set[tuple[str, str]]] = {}
    for who, on, may in rights(made[environment][0]):
        found.setdefault(who, set()).add((on, may))
    apps = {
        r: next(v for k, v in found.items() if k.endswith(f"-{r}.properties.principalId>")) for r in ROLES[environment]
    }
    if environment == "dev":
        every = set.union(*(expected(role) for role in ("ingest", "control", "deploy")))
        assert apps["all"] == {(on, may) for on, may in every if "/*" not in may}
    else:
        assert apps == {role: expected(role) for role in ROLES[environment]}
    others = {k: v for k, v in found.items() if v not in apps.values()}
    assert sorted(map(sorted, others.values())) == [
        [(NAMES["containers"]["deadLetters"], "writes blobs")],
        [(STATE, "writes blobs"), ("snapshots", "writes blobs")],
    ]


def test_what_is_sent_is_known() -> None:
    code = [p for folder in ("functions", "triggers") for p in (ROOT / folder).glob("*.py")]
    sent = {q for p in code for q in re.findall(r"bus\.send\(\s*\"(\w+)\"", p.read_text())}
    assert sent == set.union(*SENDS.values())


def test_apps_of_different_roles_share_no_identity_and_no_account(made: Any) -> None:
    resources, _ = made["prod"]
    apps = [r.body for r in resources if r.type == "Microsoft.Web/sites"]
    assert len({str(a["identity"]["userAssignedIdentities"]) for a in apps}) == 3
    assert len({a["properties"]["functionAppConfig"]["deployment"]["storage"]["value"] for a in apps}) == 3


# --- role definitions: every call allowed, and nothing that is never called

CALLS = json.loads((INFRA / "calls.json").read_text())
ML = "Microsoft.MachineLearningServices/"
DEFINITIONS = {d["name"]: d for d in (json.loads(p.read_text()) for p in sorted((INFRA / "roles").glob("*.json")))}
VERBS = {"GET": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}


def action(call: str) -> str:
    """The action that Resource Manager asks for: the type, and what the method does to it."""
    method, _, kind = call.partition(" ")
    whole = kind if kind.startswith("Microsoft.") else ML + kind
    return f"{whole}/action" if method == "POST" else f"{whole}/{VERBS[method]}"


def allows(pattern: str, wanted: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), wanted, re.IGNORECASE) is not None


@pytest.mark.parametrize("role", [r for r in CALLS if r != "about"])
def test_a_role_of_the_loop_allows_each_recorded_call_and_nothing_that_is_never_called(role: str) -> None:
    wanted = [action(c) for c in CALLS[role]["calls"]] + [f"{ML}workspaces/{a}" for a in CALLS[role]["behind"]]
    patterns = DEFINITIONS[role]["actions"]
    assert [w for w in wanted if not any(allows(p, w) for p in patterns)] == []
    assert [p for p in patterns if not any(allows(p, w) for w in wanted)] == []


WORKSPACE = f"{ML}workspaces"
MAY: dict[str, dict[str, bool]] = {
    "driftloop data scientist": {"jobs/write": True, "computes/write": False, "onlineEndpoints/write": False},
    "driftloop trainer": {
        "jobs/write": True,
        "models/versions/write": True,
        "onlineEndpoints/deployments/write": False,
    },
    "driftloop deployer": {"onlineEndpoints/deployments/write": True, "jobs/write": False, "computes/write": False},
    "driftloop approver": {"models/versions/read": True, "jobs/write": False, "models/versions/write": False},
    "driftloop operator": {"jobs/cancel/action": True, "jobs/write": False, "onlineEndpoints/write": False},
    "driftloop reader": {"jobs/read": True, "jobs/cancel/action": False, "datastores/listsecrets/action": False},
}


@pytest.mark.parametrize("role", DEFINITIONS)
def test_who_may_do_what(role: str) -> None:
    patterns = DEFINITIONS[role]["actions"]
    asked = {**MAY[role], "write": False, "delete": False, "computes/delete": False, "listKeys/action": False}
    asked |= {"datastores/listsecrets/action": False}
    assert {a: any(allows(p, f"{WORKSPACE}/{a}") for p in patterns) for a in asked} == asked
    assert not any(allows(p, "Microsoft.Authorization/roleAssignments/write") for p in patterns)
    assert not any(p in ("*", "*/read") for p in patterns)


def test_the_page_says_who_may_do_what() -> None:
    text = (ROOT / "docs" / "roles.md").read_text()
    assert [name for name in DEFINITIONS if f"| {name} |" not in text] == []


# --- versions, pipelines and scripts


def test_every_resource_type_is_listed_with_its_source(tmp_path: Path) -> None:
    (tmp_path / "attach.bicep").write_text(ATTACH)
    used = {s.type for p in (*TEMPLATES, tmp_path / "attach.bicep") for s in Template(p).of("resource").values()}
    plan = (ROOT / "cli" / "cluster" / "plan.py").read_text()
    used |= set(re.findall(r"[\"'](Microsoft\.[\w./]+@\d{4}-[\w-]+)[\"']", plan))
    listed = json.loads((INFRA / "resources.json").read_text())["types"]
    assert used == set(listed)
    for name, about in listed.items():
        kind, _, version = name.partition("@")
        assert about["reference"].lower().endswith(f"/{version}/{kind.partition('/')[2]}".lower())


def test_one_version_of_each_type() -> None:
    kinds: dict[str, set[str]] = {}
    for name in json.loads((INFRA / "resources.json").read_text())["types"]:
        kinds.setdefault(name.partition("@")[0], set()).add(name.partition("@")[2])
    assert {k: v for k, v in kinds.items() if len(v) > 1} == {}


def test_azd_publishes_an_app_for_each_role(made: Any) -> None:
    services = yaml.safe_load((ROOT / "azure.yaml").read_text())["services"]
    tagged = {r.body["tags"]["azd-service-name"] for r in made["test"][0] if r.type == "Microsoft.Web/sites"}
    assert set(services) == tagged


PIPELINES = ROOT / ".github" / "workflows"


def test_pipelines_go_through_dev_and_test_to_prod_from_main_alone() -> None:
    flow = yaml.safe_load((PIPELINES / "infra.yml").read_text())
    assert flow[True]["push"]["branches"] == ["main"]
    jobs = flow["jobs"]
    order = {"dev": "validate", "test": "deploy-dev", "prod": "deploy-test"}
    for name, before in order.items():
        job = jobs[f"deploy-{name}"]
        assert before in job["needs"]
        assert job["environment"] == name
        assert "refs/heads/main" in job["if"]
    models = yaml.safe_load((PIPELINES / "loops.yml").read_text())
    assert not set(flow[True]["push"]["paths"]) & set(models[True]["push"]["paths"]), "two tracks"
    assert [j["environment"] for j in models["jobs"].values() if "environment" in j] == ["dev", "test", "prod"]


def test_a_pipeline_tells_deploy_what_the_parameters_read() -> None:
    flow = yaml.safe_load((PIPELINES / "infra.yml").read_text())
    for name in ("dev", "test", "prod"):
        read = re.findall(r"readEnvironmentVariable\('(\w+)'", (INFRA / f"main.{name}.bicepparam").read_text())
        [told] = [s["env"] for s in flow["jobs"][f"deploy-{name}"]["steps"] if "deploy.sh" in s.get("run", "")]
        assert set(read) <= set(told), name


def test_pipelines_name_files_that_are_there() -> None:
    for path in PIPELINES.glob("*.yml"):
        for name in set(re.findall(r"infra/[\w./-]+\.(?:bicep|sh)\b", path.read_text())):
            assert (ROOT / name).is_file(), name


def test_what_was_put_out_becomes_the_parameters_of_the_subscriptions(made: Any, tmp_path: Path) -> None:
    given = made["test"][1]["subscriptions"]
    az = tmp_path / "az"
    az.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/asked"\n')
    az.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "subscriptions": json.dumps(given)}
    subprocess.run(["sh", str(INFRA / "subscribe.sh"), "test", "westeurope"], env=env, check=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    said = json.loads(asked[asked.index("--parameters") + 1])
    assert {k: v["value"] for k, v in said.items()} == given
    assert asked[asked.index("--resource-group") + 1] == "rg-driftloop-test"
