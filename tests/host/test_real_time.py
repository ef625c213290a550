"""Real time: threads, sessions side by side, and a process that is killed in the middle of a handler."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cli.host.app import AppError
from cli.host.host import alone

CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from conftest import Here
here = Here(Path({state!r}), virtual=False)
print("ready", flush=True)
here.host.serve_forever(port=0)
print("ended", flush=True)
"""


IN_PIECES = """
from cli.host.host import give_back

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

pieces = [b"x" * 1000 + bytes([n % 256]) for n in range(100_000)]
full, pieces = held(), pieces[::50]
freed = held()
give_back()
print(full - freed, full - held())
"""


def until(what: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def a_process(tmp_path: Path) -> subprocess.Popen[str]:
    tests = Path(__file__).parent
    code = CHILD.format(root=str(tests.parents[1]), tests=str(tests), state=str(tmp_path / "state.db"))
    env = {**os.environ, "SEEN": str(tmp_path / "seen")}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    return child


def test_sessions_run_side_by_side_each_in_order(start: Callable[..., Any]) -> None:
    here = start(virtual=False)
    for session in "abcd":
        here.send("runs", *(f"{session}{n}" for n in range(10)), session=session)
    here.send("telemetry", *map(str, range(10)))
    server = threading.Thread(target=here.host.serve_forever, kwargs={"port": 0})
    server.start()
    until(lambda: len(here.seen("run")) == 40 and sum(map(len, here.seen("batch"))) == 10)
    here.host.stop()
    server.join()
    for session in "abcd":
        assert [s[1] for s in here.seen("run") if s[0] == session] == [f"{session}{n}" for n in range(10)]
    assert here.bus.pending("runs") == here.bus.pending("telemetry") == 0


def test_what_was_in_hand_when_the_process_was_killed_comes_again(tmp_path: Path, start: Callable[..., Any]) -> None:
    here = start(virtual=False)
    here.send("runs", "kill me", "next")
    here.database.close()
    seen = tmp_path / "seen"
    first = a_process(tmp_path)
    until(lambda: seen.exists() and seen.read_text() == "1\n")
    first.kill()
    first.communicate()
    second = a_process(tmp_path)
    until(lambda: seen.read_text() == "1\n1\n")  # being killed is no try
    second.send_signal(signal.SIGTERM)
    assert second.communicate(timeout=60)[0] == "ended\n"
    here.open()
    here.host.pump()
    assert here.bus.pending("runs") == 0
    assert [s[:2] for s in here.seen("run")] in ([], [("s", "next")])


def test_a_handler_that_outlasts_the_lock_keeps_its_message(start: Callable[..., Any]) -> None:
    here = start(virtual=False, lock=timedelta(seconds=1.5))
    here.send("runs", "slow", "next")
    server = threading.Thread(target=here.host.serve_forever, kwargs={"port": 0})
    server.start()
    until(lambda: here.bus.pending("runs") == 0)
    here.host.stop()
    server.join()
    assert here.seen("run") == [("s", "slow", 1), ("s", "next", 1)]


def test_a_state_has_one_host(tmp_path: Path) -> None:
    with alone(tmp_path / "state"), pytest.raises(AppError, match="another host"), alone(tmp_path / "state"):
        pass
    with alone(tmp_path / "state"):
        pass


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc is asked to")
def test_free_memory_goes_back_to_the_system() -> None:
    root = Path(__file__).parents[2]
    told = subprocess.run([sys.executable, "-c", IN_PIECES], capture_output=True, text=True, check=True, cwd=root)
    by_itself, asked = map(float, told.stdout.split())
    assert by_itself < 20
    assert asked > 60
