"""Contract of the port Jobs, on child processes and on Azure ML; and what the local one promises beyond: it survives
its host."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from adapters.azure.ml import AzureMlJobs, quoted, unquoted
from adapters.azure.workspace import Workspace
from adapters.faults import Faults, faulty
from adapters.local.blobs import FileBlobs
from adapters.local.child import DEPTH, Child
from adapters.local.clock import SystemClock, VirtualClock
from adapters.local.configs import FileConfigs
from adapters.local.database import Database
from adapters.local.jobs import ProcessJobs
from adapters.local.topic import SqliteTopic
from adapters.signatures import Ed25519
from edge import signing
from tests.adapters.azureml import WORKSPACE_ID, AzureMl
from triggers.errors import Retry
from triggers.ports import Job, JobStatus, Topic

ROOT = Path(__file__).parents[2]

WORKER = """
import json, os, subprocess, sys, time
from pathlib import Path

spec = json.loads(Path(sys.argv[1]).read_text())
folder = Path(spec["folder"])
out = Path(sys.argv[sys.argv.index("--out") + 1]) if "--out" in sys.argv else Path(sys.argv[1]).parent
with open(folder / "began", "a") as began:
    began.write(f"{os.getpid()}\\n")
print("working on", spec["name"])
def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.01)
def result(**values):
    (out / "result.part").write_text(json.dumps(values))
    os.replace(out / "result.part", out / "result.json")
exec(spec["do"])
"""

HOST = """
import sys, time
from adapters.faults import Faults, faulty
from adapters.local.clock import SystemClock
from adapters.local.database import Database
from adapters.local.jobs import ProcessJobs
from adapters.local.topic import SqliteTopic
from triggers.ports import Job

state, worker, do = sys.argv[1:]
clock = SystemClock()
jobs = ProcessJobs(state, SqliteTopic(Database(state + "/state.db"), clock), clock, command=(sys.executable, worker))
jobs.recover()
jobs.submit(Job("j", "train", "flights", "r1", "cloud", {"do": do, "folder": state + "/at/j"}))
print("submitted", flush=True)
time.sleep(60)
"""


WINDOW = {"from": "2026-01-01T00:00:00+00:00", "to": "2026-02-01T00:00:00+00:00", "sites": None}


class Shop:
    """Where jobs run under test; each leaves what it does in a folder that both sides know."""

    jobs: Any

    def __init__(self, state: Path) -> None:
        self.state = state

    def submit(self, do: str, name: str = "j", timeout_s: float = 60.0, **spec: Any) -> None:
        about = {**WINDOW, "do": do, "folder": str(self.folder(name)), **spec}
        self.jobs.submit(Job(name, "evaluate", "flights", "r1", "cloud", about, timeout_s))

    def done(self, name: str = "j") -> JobStatus:
        """The end of a job, without the address of its log."""
        return replace(self.ended(name), log="")

    def ended(self, name: str) -> JobStatus:
        raise NotImplementedError

    def ends(self) -> list[tuple[str, str]]:
        """What was announced: job and state, in order."""
        raise NotImplementedError

    def folder(self, name: str = "j") -> Path:
        folder = self.state / "at" / quoted(name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def began(self, name: str = "j") -> list[int]:
        """Ids of the processes that began the job."""
        path = self.folder(name) / "began"
        return [int(line) for line in path.read_text().split()] if path.exists() else []


class Workshop(Shop):
    """A state folder, and hosts of its jobs one after the other."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self.worker = state / "worker.py"
        self.worker.write_text(WORKER)
        self.database = Database(state / "state.db")
        self.clock = VirtualClock(self.database, datetime(2026, 3, 1, tzinfo=UTC))
        self.topic = SqliteTopic(self.database, self.clock)
        self._hosts = ExitStack()
        self.jobs = self.host()

    def host(self, topic: Topic | None = None, **more: Any) -> ProcessJobs:
        """Another host of the same state, after whatever came before."""
        command = (sys.executable, str(self.worker))
        self.jobs = ProcessJobs(self.state, topic or self.topic, self.clock, command=command, nice=0, **more)
        self._hosts.callback(self.jobs.close, kill=True)
        return self.jobs

    def ended(self, name: str) -> JobStatus:
        assert self.jobs.wait(20), f"{self.jobs.running()}: {self.log(name)}"
        found: JobStatus = self.jobs.status(name)
        return found

    def ends(self) -> list[tuple[str, str]]:
        return [(e["data"]["name"], e["data"]["state"]) for e in self.events()]

    def log(self, name: str = "j") -> str:
        return (self.state / "jobs" / name / "log.txt").read_text()

    def events(self) -> list[Mapping[str, Any]]:
        return list(reversed(self.topic.recent()))

    def close(self) -> None:
        self._hosts.close()
        self.database.close()


class Cloud(Shop):
    """A workspace of Azure ML, and the app's own blobs."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self.blobs = FileBlobs(state / "blobs")
        config = FileBlobs(state / "files")
        config.put("flights/loop.yaml", b"loop: flights\nschema: {features: [{name: x}]}\n")
        config.put("flights/fleet.yaml", b"sites: [{name: JFK}]\n")
        config.put("flights/worker.py", WORKER.encode())
        (state / "config").symlink_to(state / "files")
        self.server = AzureMl(state / "service", self.blobs)
        private, _ = signing.new()
        self.jobs = AzureMlJobs(
            Workspace(lambda: WORKSPACE_ID, self.server, **self.server.options()),  # type: ignore[arg-type]
            self.blobs,
            config,
            FileConfigs(state),
            Ed25519(),
            SystemClock(),
            registry_key=lambda: private,
            storage=lambda: "",
            datastore=lambda: "driftloop",
            compute=lambda: "cluster",
            module="config.worker",
        )

    def ended(self, name: str) -> JobStatus:
        assert self.server.wait(40)
        return self.jobs.status(name)

    def ends(self) -> list[tuple[str, str]]:
        self.server.wait(40)
        words = {"Completed": "succeeded", "Failed": "failed", "Canceled": "cancelled"}
        told = [e["data"] for e in self.server.events if e["type"].endswith("RunStatusChanged")]
        return [(unquoted(data["runId"]), words[data["RunStatus"]]) for data in told]

    def close(self) -> None:
        self.server.close()


@pytest.fixture(params=[Workshop, pytest.param(Cloud, marks=pytest.mark.wire)])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """The contract is what holds on each."""
    shop = request.param(tmp_path)
    yield shop
    shop.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    shop = Workshop(tmp_path)
    yield shop
    shop.close()


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.01)


def began(shop: Shop, times: int) -> None:
    until(lambda: len(shop.began()) == times)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


# --- the contract


def test_a_job_runs_and_what_it_made_is_its_result(both: Shop) -> None:
    assert both.jobs.status("j") == JobStatus("unknown")
    both.submit("wait_for('go'); result(rows=3)")
    assert both.jobs.status("j").state == "running"
    (both.folder() / "go").touch()
    assert both.done() == JobStatus("succeeded", {"rows": 3})


@pytest.mark.parametrize("depth", [DEPTH + 1, 900])
def test_a_result_that_is_nested_deeply_is_refused_whatever_is_on_the_stack(depth: int, tmp_path: Path) -> None:
    for levels, state in ((DEPTH, "succeeded"), (depth, "failed")):
        (tmp_path / "result.json").write_text('{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}")
        made = Child(tmp_path).made()
        assert made is not None
        assert made.state == state


def test_a_job_submitted_again_runs_once(both: Shop) -> None:
    for _ in range(3):
        both.submit("wait_for('go'); result()")
    (both.folder() / "go").touch()
    both.done()
    both.submit("result(another=1)")
    assert both.done() == JobStatus("succeeded", {})
    assert len(both.began()) == 1
    assert both.ends() == [("j", "succeeded")]


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ("result(error='too few rows'); sys.exit(1)", "too few rows"),
        ("sys.exit(3)", "ended without a result ("),
        ("os.kill(os.getpid(), 9)", "ended without a result ("),
        ("(out / 'result.json').write_text('{')", "result.json cannot be read"),
        ('(out / "result.json").write_text("{\\"a\\":" + "[" * 100_000)', "result.json cannot be read"),
        ("(out / 'result.json').write_text('[]')", "result.json is not an object"),
    ],
)
def test_a_job_that_fails_says_why_and_is_not_tried_again(both: Shop, do: str, reason: str) -> None:
    both.submit(do)
    status = both.done()
    assert status.state == "failed"
    assert reason in status.reason
    assert len(both.began()) == 1


WITH_A_CHILD = """
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(folder / "grandchild.part").write_text(str(grandchild.pid))
os.replace(folder / "grandchild.part", folder / "grandchild")
"""


def grandchild(shop: Shop) -> int:
    path = shop.folder() / "grandchild"
    until(path.exists)
    return int(path.read_text())


def test_a_job_that_takes_too_long_is_stopped_with_all_its_processes(both: Shop) -> None:
    both.submit(WITH_A_CHILD + "time.sleep(60)", timeout_s=4.0)
    status = both.done()
    assert status.state == "failed"
    assert status.reason.startswith("timed out after 4 s")
    until(lambda: not alive(grandchild(both)))
    assert not alive(both.began()[0])


def test_a_cancelled_job_is_stopped_with_all_its_processes(both: Shop) -> None:
    both.submit(WITH_A_CHILD + "time.sleep(60)")
    pid = grandchild(both)
    both.jobs.cancel("j")
    assert both.done().state == "cancelled"
    until(lambda: not alive(pid))
    assert both.ends() == [("j", "cancelled")]
    both.submit("result()")
    assert both.done().state == "cancelled"


def test_cancelling_what_has_ended_or_never_was_changes_nothing(both: Shop) -> None:
    both.submit("result()")
    both.done()
    for name in ("j", "unknown", "x" * 300):
        both.jobs.cancel(name)
    assert both.done().state == "succeeded"
    assert {both.jobs.status(name).state for name in ("unknown", "x" * 300)} == {"unknown"}
    assert both.ends() == [("j", "succeeded")]


def test_any_name_will_do(both: Shop) -> None:
    both.submit("result()", "../../r/1?")
    assert both.done("../../r/1?").state == "succeeded"
    assert both.ends() == [("../../r/1?", "succeeded")]


# --- on one machine


def test_what_runs_is_known_until_its_end_is_announced(shop: Workshop) -> None:
    shop.submit("wait_for('go'); result()")
    assert shop.jobs.running() == ["j"]
    (shop.folder() / "go").touch()
    shop.done()
    assert shop.jobs.running() == []
    assert shop.log() == "working on j\n"


def test_a_job_is_told_all_that_it_needs(shop: Workshop) -> None:
    shop.submit("result(spec=spec, omp=os.environ['OMP_NUM_THREADS'], group=os.getpgid(0) == os.getpid())", parent="d1")
    made = shop.done().result
    state = shop.state
    assert made["omp"] == "1"
    assert made["group"]
    assert made["spec"] == {
        **WINDOW,
        "folder": str(shop.folder()),
        "name": "j",
        "kind": "evaluate",
        "run": "r1",
        "loop": str(state / "config" / "flights" / "loop.yaml"),
        "blobs": str(state / "blobs"),
        "key": str(state / "keys" / "registry.pem"),
        "public": str(state / "keys" / "registry.pub"),
        "timeout_s": 60.0,
        "parent": "d1",
        "do": made["spec"]["do"],
    }


def test_the_end_of_a_job_is_announced_once(shop: Workshop) -> None:
    shop.submit("result()")
    shop.done()
    shop.submit("result()")
    shop.host().recover()
    [event] = shop.events()
    assert event == {
        "specversion": "1.0",
        "id": "job/j/ended",
        "source": "/driftloop/jobs",
        "type": "driftloop.job.ended",
        "subject": "j",
        "time": shop.clock.now().isoformat(),
        "data": {"name": "j", "kind": "evaluate", "loop": "flights", "run": "r1", "state": "succeeded"},
    }


def test_a_job_that_dies_takes_its_processes_along(shop: Workshop) -> None:
    shop.submit(WITH_A_CHILD + "os.kill(os.getpid(), 9)")
    assert shop.done().state == "failed"
    until(lambda: not alive(grandchild(shop)))


def test_only_so_many_jobs_run_at_once_in_order(shop: Workshop) -> None:
    shop.host(at_once=1)
    for name in ("a", "b", "c"):
        shop.submit("wait_for('go'); result()", name)
    until(lambda: shop.began("a"))
    time.sleep(0.15)
    assert shop.began("b") == shop.began("c") == []
    assert shop.jobs.status("c").state == "running"
    shop.jobs.cancel("b")
    for name in ("a", "c"):
        (shop.folder(name) / "go").touch()
    assert shop.jobs.wait(10)
    assert shop.began("b") == []
    assert [e["data"]["state"] for e in shop.events()] == ["cancelled", "succeeded", "succeeded"]


def test_names_stay_in_their_folder(shop: Workshop) -> None:
    shop.submit("result()", "../../r/1?")
    assert shop.done("../../r/1?").state == "succeeded"
    assert [event["subject"] for event in shop.events()] == ["../../r/1?"]
    assert {path.name for path in shop.state.iterdir()} <= {
        "jobs",
        "at",
        "worker.py",
        "state.db",
        "state.db-wal",
        "state.db-shm",
    }


def killed_host(shop: Workshop, do: str) -> subprocess.Popen[str]:
    """A host that submitted a job, and is still there to be killed."""
    shop.folder()
    command = [sys.executable, "-c", HOST, str(shop.state), str(shop.worker), do]
    host = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    assert host.stdout.readline() == "submitted\n"
    return host


def test_a_job_outlives_a_killed_host_and_the_next_one_adopts_it(shop: Workshop) -> None:
    with killed_host(shop, "wait_for('go'); result(rows=1)") as host:
        until(shop.began)
        host.kill()
    assert alive(shop.began()[0])
    shop.jobs.recover()
    shop.submit("result()")
    assert shop.jobs.running() == ["j"]
    (shop.folder() / "go").touch()
    assert shop.done() == JobStatus("succeeded", {"rows": 1})
    assert len(shop.began()) == 1
    assert len(shop.events()) == 1


def test_a_job_that_ended_while_no_host_was_there_is_announced_by_the_next(shop: Workshop) -> None:
    with killed_host(shop, "wait_for('go'); result(rows=1)") as host:
        until(shop.began)
        host.kill()
    (shop.folder() / "go").touch()
    until(lambda: not alive(shop.began()[0]))
    assert shop.jobs.status("j").state == "succeeded"
    assert shop.events() == []
    shop.jobs.recover()
    assert shop.done().state == "succeeded"
    assert len(shop.began()) == len(shop.events()) == 1


def test_an_adopted_job_can_be_cancelled(shop: Workshop) -> None:
    with killed_host(shop, WITH_A_CHILD + "time.sleep(60)") as host:
        pid = grandchild(shop)
        host.kill()
    shop.jobs.recover()
    shop.jobs.cancel("j")
    assert shop.done().state == "cancelled"
    until(lambda: not alive(pid))


def test_a_job_that_died_with_its_host_is_started_once_more(shop: Workshop) -> None:
    do = "wait_for('go'); result()"
    with killed_host(shop, do) as host:
        until(shop.began)
        host.kill()
    os.kill(shop.began()[0], 9)
    shop.jobs.recover()
    began(shop, 2)
    (shop.folder() / "go").touch()
    assert shop.done().state == "succeeded"


def test_a_job_that_dies_with_every_host_fails_in_the_end(shop: Workshop) -> None:
    for life in (1, 2):
        with killed_host(shop, "time.sleep(60)") as host:
            began(shop, life)
            host.kill()
        os.kill(shop.began()[-1], 9)
        until(lambda: not alive(shop.began()[-1]))
    shop.jobs.recover()
    assert shop.done() == JobStatus("failed", {}, "ended without a result")
    assert len(shop.began()) == 2


def test_only_one_living_host_takes_jobs_over(shop: Workshop) -> None:
    with killed_host(shop, "time.sleep(60)") as host:
        until(shop.began)
        shop.jobs.recover()
        assert shop.jobs.running() == []
        assert shop.jobs.status("j").state == "running"
        shop.jobs.close(kill=True)
        assert alive(shop.began()[0])
        host.kill()
    shop.host().recover()
    assert shop.jobs.running() == ["j"]


def test_a_host_that_closes_leaves_jobs_running_or_stops_them(shop: Workshop) -> None:
    shop.submit(WITH_A_CHILD + "time.sleep(60)")
    pid = grandchild(shop)
    shop.jobs.close()
    assert alive(pid)
    shop.host().recover()
    assert shop.jobs.running() == ["j"]
    shop.jobs.close(kill=True)
    until(lambda: not alive(pid))
    assert not alive(shop.began()[0])
    assert len(shop.began()) == 1
    for life in range(2, 5):
        shop.host().recover()
        began(shop, life)
        shop.jobs.close(kill=True)
    assert shop.events() == []


def test_an_end_is_announced_until_that_has_worked(shop: Workshop) -> None:
    faults = Faults(plan={0: "before", 1: "after", 2: "after"})
    shop.host(faulty(shop.topic, faults))
    shop.submit("result()")
    shop.done()
    assert [event["id"] for event in shop.events()] == ["job/j/ended"] * 3


def test_a_job_that_cannot_be_started_now_is_started_when_asked_again(shop: Workshop) -> None:
    (shop.state / "jobs").write_text("in the way")
    with pytest.raises(Retry):
        shop.submit("result()")
    (shop.state / "jobs").unlink()
    shop.submit("result()")
    assert shop.done().state == "succeeded"
