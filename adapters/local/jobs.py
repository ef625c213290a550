"""Training and evaluation as child processes that outlive this one."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from adapters.local import files
from adapters.local.blobs import quote
from adapters.local.child import Child
from triggers.errors import Retry
from triggers.ports import Clock, Job, JobStatus, Topic

COMMAND = (sys.executable, "-m", "jobs")
JOB_ENDED = "driftloop.job.ended"
TICK_S = 0.05
STARTS = 2
"""A job that was found dead is started once more."""

FILE_NAME = 255
"""Bytes of a file's name; no job has a longer one."""

_ROOT = Path(__file__).parents[2]
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

log = logging.getLogger("driftloop.jobs")


class ProcessJobs:
    """Port Jobs: `jobs/<name>/` in the state folder is all there is to know about a job.

    A running child holds a lock in its folder and lets go of it only by ending, however it ends. So a restarted
    host knows what still runs, and nothing runs twice at once. An end is written down, then published as a CloudEvent
    with id `job/<name>/ended`, again where a crash came between.
    """

    def __init__(
        self,
        state: Path | str,
        topic: Topic,
        clock: Clock,
        *,
        command: Sequence[str] = COMMAND,
        threads: int = 1,
        nice: int = 5,
        at_once: int = 2,
    ) -> None:
        """`command` is called with the path of spec.json; `threads` is what its numeric libraries may use."""
        self._state = Path(state).resolve()
        self._topic = topic
        self._clock = clock
        self._command = tuple(command)
        self._threads = threads
        self._nice = nice
        self._at_once = at_once
        self._open: dict[str, Child] = {}
        self._changed = threading.Condition(threading.RLock())
        self._watcher: threading.Thread | None = None
        self._closed = False
        self._hosting: int | None = None

    def submit(self, job: Job) -> None:
        """Raises Retry where no process can be started now; submitted again, it is then."""
        child = self._child(job.name)
        with self._changed:
            try:
                if not child.spec.exists():
                    files.make(child.folder)
                    files.write_whole(child.spec, self._spec(job))
                self._watch(child)
            except OSError as error:
                raise Retry(f"job {job.name} cannot be started: {error}", job=job.name) from error

    def status(self, name: str) -> JobStatus:
        """What runs is watched from now on, where no other host does so."""
        child = self._child(name)
        if len(child.folder.name) > FILE_NAME or not child.spec.exists():
            return JobStatus("unknown")
        found = child.ended() or (None if child.runs() else child.made())
        if found is None and name not in self._open:
            with self._changed:
                if self._take_over():
                    self._watch(child)
        return found or JobStatus("running")

    def cancel(self, name: str) -> None:
        """Kills the job's process group. What has ended, or was never submitted, stays what it is."""
        with self._changed:
            if self.status(name).state == "running":
                child = self._child(name)
                child.end(JobStatus("cancelled", reason="cancelled"))
                child.kill()
                self._watch(child)

    def newest(self, asset: str) -> str:
        """There are no data assets on one machine."""
        return ""

    def author(self, model: str) -> str:
        """Nor does anybody register models."""
        return ""

    def recover(self) -> None:
        """Take over what an earlier host began: watch what runs, announce what ended, start again what died.

        Nothing, where another host that still lives has done so.
        """
        with self._changed:
            if not self._take_over():
                return
            specs = sorted(self._state.glob("jobs/*/spec.json"), key=lambda spec: spec.stat().st_mtime_ns)
            for spec in specs:
                child = Child(spec.parent)
                if not child.announced.exists():
                    self._watch(child)

    def running(self) -> list[str]:
        """Names of the jobs whose end is not yet announced, as they were submitted."""
        with self._changed:
            return [child.name for child in self._open.values()]

    def wait(self, timeout_s: float) -> bool:
        """Until nothing is running any more; False where that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout_s)

    def close(self, kill: bool = False) -> None:
        """Stop watching. Where `kill`, stop the children too: after `recover` they begin anew."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._watcher is not None:
            self._watcher.join()
        for child in self._open.values():
            if kill:
                child.stop()
            child.release()
        self._open.clear()
        if self._hosting is not None:
            os.close(self._hosting)
            self._hosting = None

    def _take_over(self) -> bool:
        if self._hosting is None:
            files.make(self._state / "jobs")
            lock = os.open(self._state / "jobs" / "host.lock", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._hosting = lock
        return True

    def _child(self, name: str) -> Child:
        child = self._open.get(name)
        return child if child is not None else Child(self._state / "jobs" / quote(name))

    def _spec(self, job: Job) -> bytes:
        return msgspec.json.encode(
            {
                **job.spec,
                "name": job.name,
                "kind": job.kind,
                "run": job.run,
                "loop": str(self._state / "config" / job.loop / "loop.yaml"),
                "blobs": str(self._state / "blobs"),
                "key": str(self._state / "keys" / "registry.pem"),
                "public": str(self._state / "keys" / "registry.pub"),
                "timeout_s": job.timeout_s,
            }
        )

    def _watch(self, child: Child) -> None:
        if child.announced.exists():
            return
        self._open.setdefault(child.name, child)
        self._look(child)
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watching, name="jobs", daemon=True)
            self._watcher.start()
        self._changed.notify_all()

    def _watching(self) -> None:
        with self._changed:
            while not self._closed:
                for child in list(self._open.values()):
                    try:
                        self._look(child)
                    except (OSError, Retry) as error:
                        log.warning("job %s: %s; looking again", child.name, error)
                self._changed.wait(TICK_S if self._open else None)

    def _look(self, child: Child) -> None:
        """Take a job as far as it can go now."""
        ended = child.ended()
        if child.runs():
            if ended is not None:
                child.kill()
            elif child.seconds() > child.timeout_s:
                child.end(JobStatus("failed", reason=f"timed out after {child.timeout_s:g} s"))
                child.kill()
            return
        if child.leaving():
            return
        ended = ended or child.made()
        if ended is None and child.status is None and child.starts() < STARTS:
            if sum(other.runs() for other in self._open.values()) < self._at_once:
                self._start(child)
            return
        child.end(ended or JobStatus("failed", reason=f"ended without a result{child.how()}"))
        self._announce(child)

    def _start(self, child: Child) -> None:
        python_path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        numeric = dict.fromkeys(_THREADS, str(self._threads))
        child.start(self._command, self._nice, {**os.environ, **numeric, "PYTHONPATH": python_path})

    def _announce(self, child: Child) -> None:
        ended = child.ended()
        assert ended is not None
        spec = json.loads(child.spec.read_bytes())
        self._topic.publish(
            [
                {
                    "specversion": "1.0",
                    "id": f"job/{child.name}/ended",
                    "source": "/driftloop/jobs",
                    "type": JOB_ENDED,
                    "subject": child.name,
                    "time": self._clock.now().isoformat(),
                    "data": {
                        "name": child.name,
                        "kind": spec["kind"],
                        "loop": Path(spec["loop"]).parent.name,
                        "run": spec["run"],
                        "state": ended.state,
                    },
                }
            ]
        )
        child.announced.touch()
        del self._open[child.name]
        self._changed.notify_all()
