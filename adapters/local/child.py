"""One child process that does a job, and its folder: spec.json, result.json, log.txt, and how far it got."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import msgspec

from adapters.local import files
from adapters.local.blobs import unquote
from triggers.ports import JobStatus

_START = 'echo $$ >>"$0" && exec nice -n "$@"'
_STOP_S = 10.0
DEPTH = 100
"""Levels of a result. What is much deeper can be read or not, by what else is on the stack."""


class Child:
    """A job's process, its own child or one that an earlier host started. `status` is how it ended, where seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = unquote(folder.name)
        self.spec = folder / "spec.json"
        self.announced = folder / "announced"
        self.status: int | None = None
        self._ended = folder / "ended.json"
        self._lock = folder / "lock"
        self._pids = folder / "pids"
        self._process: subprocess.Popen[bytes] | None = None

    @cached_property
    def timeout_s(self) -> float:
        return float(json.loads(self.spec.read_bytes())["timeout_s"])

    def start(self, command: Sequence[str], nice: int, environment: Mapping[str, str]) -> None:
        """In a process group of its own. It writes its id down before anything else, and inherits the lock."""
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with (self.folder / "log.txt").open("ab") as log:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _START, str(self._pids), str(nice), *command, str(self.spec)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env=environment,
                    pass_fds=(lock,),
                    start_new_session=True,
                )
        finally:
            os.close(lock)

    def starts(self) -> int:
        """How often it was started."""
        return len(self._started())

    def runs(self) -> bool:
        """Whether a process holds the lock."""
        try:
            lock = os.open(self._lock, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def leaving(self) -> bool:
        """Whether its end is not yet to be seen, though it holds no lock. What it leaves behind is killed."""
        if self._process is None or self.status is not None:
            return False
        self.status = self._process.poll()
        if self.status is not None:
            _kill(self._process.pid)
        return self.status is None

    def seconds(self) -> float:
        """Since it was started last."""
        try:
            return time.time() - self._pids.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def made(self) -> JobStatus | None:
        """What it wrote as its result."""
        try:
            result = json.loads((self.folder / "result.json").read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            return JobStatus("failed", reason=f"result.json cannot be read: {error}")
        if not isinstance(result, dict):
            return JobStatus("failed", reason="result.json is not an object")
        if _deeper(result, DEPTH):
            return JobStatus("failed", reason=f"result.json cannot be read: nested deeper than {DEPTH}")
        if "error" in result:
            return JobStatus("failed", result, str(result["error"]).encode(errors="replace").decode())  # no surrogates
        return JobStatus("succeeded", result)

    def ended(self) -> JobStatus | None:
        """Its end, as it was written down: whatever it does afterwards changes nothing."""
        try:
            return JobStatus(**json.loads(self._ended.read_bytes()))
        except FileNotFoundError:
            return None

    def end(self, status: JobStatus) -> None:
        if not self._ended.exists():
            files.write_whole(self._ended, json.dumps(msgspec.to_builtins(status)).encode())

    def how(self) -> str:
        """How its process ended, in words."""
        if self.status is None:
            return ""
        if self.status < 0:
            return f" ({signal.Signals(-self.status).name})"
        return f" (exit status {self.status})"

    def kill(self) -> None:
        """Its whole process group, if it runs."""
        started = self._started()
        if self.runs() and started:
            _kill(started[-1])

    def stop(self) -> None:
        """Kill it, and wait until it is gone; where it had not ended, it counts as never started."""
        end = time.monotonic() + _STOP_S
        while self.runs() and time.monotonic() < end:
            self.kill()
            time.sleep(0.01)
        if self._process is not None:
            self.status = self._process.wait(_STOP_S)
        if not self._ended.exists():
            self._pids.unlink(missing_ok=True)

    def release(self) -> None:
        """Let it go on without us."""
        if self._process is not None and self._process.poll() is None:
            self._process.returncode = 0  # or it would be warned of as forgotten

    def _started(self) -> list[int]:
        try:
            return [int(line) for line in self._pids.read_text().split()]
        except FileNotFoundError:
            return []


def _deeper(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (not levels or any(_deeper(v, levels - 1) for v in inner))


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
