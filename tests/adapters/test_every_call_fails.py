"""Each request of each adapter beside the storage's, failed in every way: the same outcome, or an error with a name
after which the same comes of asking again.

Which requests there are is not listed here: a proxy counts those of an undisturbed call, and then fails each.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from adapters.azure import arm, eventgrid, monitor, push, teams, tokens
from adapters.azure.eventgrid import EventGridTopic
from adapters.azure.graph import ResourceGraph
from adapters.azure.identity import Identity
from adapters.azure.ml import AzureMlJobs
from adapters.azure.monitor import MonitorLogs
from adapters.azure.people import EntraPeople
from adapters.azure.settings import Settings
from adapters.azure.teams import TeamsNotifier
from adapters.azure.tokens import Tokens
from adapters.azure.workspace import Workspace
from adapters.local.blobs import FileBlobs
from adapters.local.clock import SystemClock, VirtualClock
from adapters.local.configs import FileConfigs
from adapters.local.database import Database
from adapters.local.store import SqliteStore
from adapters.local.topic import SqliteTopic
from adapters.signatures import Ed25519
from edge import signing
from tests.adapters.azureml import WORKSPACE_ID, AzureMl, Token
from tests.adapters.fields import FIELDS, Through, fleet
from tests.adapters.test_executors import Sites, Time
from tests.adapters.test_graph import Graph
from tests.adapters.test_monitor import ROW, START, WORKSPACE, answer
from tests.adapters.test_topic import event
from tests.conftest import Authority
from tests.servers import eventgrid as grids
from tests.servers import https, issuer, loganalytics
from tests.servers.faults import FAULTS, Faults
from tests.triggers.world import LOOP, Configs, put_candidate
from triggers.errors import Misconfigured, Offline, Retry
from triggers.ports import Job

pytestmark = pytest.mark.wire

HANG_S, PATIENCE_S = 1.2, 0.6
QUICK = {"retry_backoff_factor": 0.01, "read_timeout": PATIENCE_S}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for patience in (arm.RETRIES, eventgrid._PATIENCE, monitor._PATIENCE):
        for name, value in QUICK.items():
            monkeypatch.setitem(patience, name, value)  # type: ignore[misc]
    for module, name in ((teams, "_TIMEOUT_S"), (tokens, "_TIMEOUT_S"), (push, "TIMEOUT_S")):
        monkeypatch.setattr(module, name, PATIENCE_S)


def insist(call: Callable[[], Any], times: int = 12) -> Any:
    """As a queue does, or a timer: what raises Retry, Offline or Misconfigured comes again. Whatever else is no answer
    to a fault."""
    for _ in range(times):
        try:
            return call()
        except (Retry, Offline, Misconfigured):
            continue
    raise AssertionError("it never worked")


Act = Callable[[], Any]
"""What is done, and what came of it."""


class Here:
    """One try: a folder of its own, and what stands between the adapter and its service."""

    def __init__(self, folder: Path, authority: Authority, identity: Any, faults: Faults, close: ExitStack) -> None:
        self.folder, self.authority, self.identity, self.faults, self.close = folder, authority, identity, faults, close
        self.through = Through(authority, faults, close)
        self.certificate = str(authority.cert), str(authority.key)

    def database(self) -> Database:
        found = Database(self.folder / "state.db")
        self.close.callback(found.close)
        return found

    def settings(self, **said: str) -> Settings:
        return Settings({**os.environ, **said})


def topic(here: Here) -> Act:
    grid = here.close.enter_context(grids.running(*here.certificate, here.identity.tokens))
    database = here.database()
    grid.topic = SqliteTopic(database, VirtualClock(database, datetime(2026, 3, 1, tzinfo=UTC)))
    settings = here.settings(EventGrid__topicEndpointUri=here.through(grid.url))
    publisher = EventGridTopic(settings, Identity(settings))

    def act() -> Any:
        publisher.publish([event(f"{n}", data={"text": "x" * 500_000}) for n in range(3)])
        return sorted({e["id"] for e in grid.topic.recent()})  # type: ignore[union-attr]

    return act


def logs(here: Here) -> Act:
    service = here.close.enter_context(loganalytics.running(*here.certificate, here.identity.tokens))
    service.answers.append(answer(ROW, ROW))
    settings = here.settings(LogsEndpoint=here.through(service.url))
    reader = MonitorLogs(settings, Identity(settings))
    return lambda: reader.query(WORKSPACE, "T", START, START + timedelta(hours=1))


def cards(here: Here) -> Act:
    posted = []

    class Workflow(https.Handler):
        def do_POST(self) -> None:  # noqa: N802
            posted.append(self.read())
            self.answer(202, b"{}")

    url = here.through(here.close.enter_context(https.serving(Workflow, *here.certificate)))
    store = SqliteStore(here.database())
    notifier = TeamsNotifier(here.settings(TeamsWorkflowUrl=f"{url}/workflows/1?sig=x"), store, lambda _: None)

    def act() -> Any:
        for title in ("one", "two"):
            notifier.tell({"id": title, "kind": "progress", "title": title})
        return set(posted)

    return act


def people(here: Here) -> Act:
    entra = here.close.enter_context(issuer.running(*here.certificate))
    settings = Settings({**entra.settings, "Authority": here.through(entra.url)})
    who = EntraPeople(settings, lambda: b"key", Tokens(settings))
    token = entra.token(iss=f"{settings.authority}/{issuer.TENANT}/v2.0")
    return lambda: who.identify({"Authorization": f"Bearer {token}"})


def graph(here: Here) -> Act:
    service = Graph()

    class Service(https.Handler):
        def do_POST(self) -> None:  # noqa: N802
            self.answer(200, json.dumps(service.answer(json.loads(self.read()))).encode())

    url = here.through(here.close.enter_context(https.serving(Service, *here.certificate)))
    found = ResourceGraph(arm.Arm(Token, url, connection_verify=str(here.authority.ca)), ["s1"])
    return lambda: found.sites("line")


def jobs(here: Here) -> Act:
    """A training that is asked for, asked about and cancelled."""
    for name, text in (("loop.yaml", LOOP_YAML), ("fleet.yaml", "sites: [{name: north}]")):
        FileBlobs(here.folder / "config").put(f"line/{name}", text.encode())
    blobs = FileBlobs(here.folder / "blobs")
    server = AzureMl(here.folder / "service", blobs, authority=here.authority)
    here.close.callback(server.close)
    server.pretends, server.shown = True, here.through(server.url)
    private, _ = signing.new()
    workspace = Workspace(lambda: WORKSPACE_ID, server, **server.options(), **QUICK)  # type: ignore[arg-type]
    adapter = AzureMlJobs(
        workspace,
        blobs,
        FileBlobs(here.folder / "config"),
        FileConfigs(here.folder),
        Ed25519(),
        SystemClock(),
        registry_key=lambda: private,
        storage=lambda: "https://account.blob.core.windows.net/driftloop",
        datastore=lambda: "driftloop",
        compute=lambda: "cluster",
    )
    spec = {"sites": None, "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}
    job = Job("line.2026-03-01.1-train", "train", "line", "line.2026-03-01.1", "cloud", spec, 90.0, "")

    def act() -> Any:
        adapter.submit(job)
        began = adapter.status(job.name).state
        adapter.cancel(job.name)
        return began in ("running", "cancelled"), adapter.status(job.name).state, server.submissions, [*server.runs]

    return act


LOOP_YAML = "loop: line\nschema: {features: [{name: x}]}\n"


PATIENT = replace(LOOP, rollout=replace(LOOP.rollout, max_p95_ms=None))
"""How fast answers are is not what is tried here."""


def executor(kind: str) -> Callable[[Here], Act]:
    """A candidate takes the place of another, step by step, and the site goes back."""

    def prepared(here: Here) -> Act:
        blobs, clock = FileBlobs(here.folder / "blobs"), Time()
        plan, here.faults.plan = here.faults.plan, {}
        opened = FIELDS[kind](here.folder, blobs, Configs(PATIENT, fleet(kind)), clock, through=here.through)
        sites = Sites(here.close.enter_context(opened), clock, kind)
        for name in ("old", "new"):
            digest = put_candidate(blobs, b"reference", name)
            blobs.put(f"candidates/{digest}/manifest.sig", b"signature")
            setattr(sites, name, digest)
        sites.carry_on(sites.change(sites.old, run=0))
        here.faults.begin(plan)

        def act() -> Any:
            for change in (sites.change(sites.new), sites.change(sites.old, back=True)):
                insist(lambda change=change: sites.carry_on(change))  # type: ignore[misc]
                insist(lambda change=change: sites.field.executor.finish(change))  # type: ignore[misc]
            return sites.field.shares("a")

        return act

    return prepared


SMALL: dict[str, Callable[[Here], Act]] = {
    "topic": topic,
    "logs": logs,
    "cards": cards,
    "people": people,
    "graph": graph,
}
LARGE = {"jobs": jobs, **{kind: executor(kind) for kind in ("azureml", "flux", "iotedge")}}
"""Of many requests, of which each by day has one of the faults in turn."""


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
@pytest.mark.parametrize("all_of_them", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["some", "all"])
def test_a_request_that_fails_leaves_the_outcome_or_a_named_error(
    name: str, all_of_them: bool, tmp_path: Path, authority: Authority, identity: Any
) -> None:
    scenario = {**SMALL, **LARGE}[name]

    def tried(number: int, faults: Faults) -> Any:
        folder = tmp_path / f"{number}"
        folder.mkdir()
        with ExitStack() as close:
            act = scenario(Here(folder, authority, identity, faults, close))
            found = insist(act)
        shutil.rmtree(folder, ignore_errors=True)
        return found

    whole = Faults()
    wanted = tried(0, whole)
    began = whole.began
    requests = len(whole.seen) - began
    assert requests
    each = len(FAULTS) if all_of_them or name in SMALL else 1
    plans = [
        Faults({n: FAULTS[(each * n + k) % len(FAULTS)]}, hang_s=HANG_S) for n in range(requests) for k in range(each)
    ]
    with ThreadPoolExecutor(4) as threads:
        for faults, found in zip(plans, threads.map(tried, range(1, len(plans) + 1), plans), strict=True):
            assert found == wanted, str(faults)
            assert any(fault for _, fault in faults.seen), "nothing failed"
