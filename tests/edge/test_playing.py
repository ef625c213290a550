"""A site that plays a recording: offline and back, killed and back, every row told once."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drift import envelope
from drift.telemetry import Batch, Feature, Schema
from edge.buffer import Buffer, Faults
from edge.config import load
from edge.errors import Refused, Unreachable
from edge.link import Answer, Backoff
from edge.player import Player, Recording
from edge.site import Site
from edge.state import State

SCHEMA = Schema("1", (Feature("distance"), Feature("carrier", "category")))
DAY = 86_400
START = 1_357_000_000 // DAY * DAY
END = START + 12 * DAY


class Process:
    """`python -m edge`, and what it answers."""

    def __init__(self, config: Path, *more: str) -> None:
        command = [sys.executable, "-m", "edge", "--config", str(config), *more]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}, text=True
        )
        assert self.process.stdout is not None
        self.port = json.loads(self.process.stdout.readline())["port"]

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with closing(connection):
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1000

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> int:
        self.process.terminate()
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def start(settings: Any) -> Iterator[Callable[..., Process]]:
    begun: list[Process] = []

    def begin(*more: str) -> Process:
        begun.append(Process(settings.path, *more))
        return begun[-1]

    yield begin
    for process in begun:
        if process.process.poll() is None:
            process.kill()


def decoded(ingest: Any) -> list[Batch]:
    return [envelope.decode(body, SCHEMA) for body in ingest.by_id().values()]


def assert_complete(ingest: Any, days: int = 10, per_day: int = 30) -> None:
    """Every row once, every label once, each within its batch's period."""
    batches = decoded(ingest)
    rows = [i for batch in batches if batch.rows for i in batch.rows.ids]
    labels = [i for batch in batches if batch.labels for i in batch.labels.ids]
    assert sorted(rows) == sorted(f"JFK-{i}" for i in range(days * per_day))
    assert sorted(labels) == sorted(f"JFK-{i}" for i in range(days * per_day) if i % 5)
    assert all(batch.refused == () for batch in batches)
    assert sum(batch.serving.requests for batch in batches) == days * per_day


def test_a_process_plays_goes_offline_and_comes_back(
    settings: Any, registry: Any, ingest: Any, make_model: Any, start: Any
) -> None:
    settings.plays()
    first, second = registry.publish(make_model()), registry.publish(make_model(unseen=9, weight=2.0))
    edge = start()
    assert edge.ask("POST", "/JFK/advance", {"to": START})[0] == 409  # no candidate yet
    assert edge.ask("POST", "/JFK/deploy", {"candidate": first, "change": "c1"}) == (202, {"candidate": first})
    status, played = edge.ask("POST", "/JFK/advance", {"to": START + 3 * DAY - 1})
    assert (status, played) == (200, {"rows": 90, "sent": len(ingest.bodies), "buffered": 0})
    edge.ask("POST", "/JFK/network", {"online": False})
    before = len(ingest.bodies)
    assert edge.ask("POST", "/JFK/deploy", {"candidate": second})[0] == 503
    _, played = edge.ask("POST", "/JFK/advance", {"to": START + 5 * DAY - 1})
    assert (played["rows"], played["sent"], len(ingest.bodies)) == (60, 0, before)
    assert played["buffered"] == edge.ask("GET", "/JFK/status")[1]["buffered"] > 0
    edge.ask("POST", "/JFK/network", {"online": True})
    assert edge.ask("POST", "/JFK/deploy", {"candidate": second})[0] == 202
    _, played = edge.ask("POST", "/JFK/advance", {"to": END})
    assert (played["rows"], played["buffered"]) == (150, 0)
    assert edge.ask("POST", "/JFK/advance", {"to": END})[1] == {"rows": 0, "sent": 0, "buffered": 0}
    assert edge.memory_mb() < 120
    assert edge.end() == 0
    assert_complete(ingest)
    by = {batch.candidate: batch for batch in decoded(ingest) if batch.rows}
    assert sorted(by) == sorted([first, second])
    served = by[second].serving
    assert 0 < served.p50_ms <= served.p95_ms


def test_killed_in_the_middle_it_goes_on_with_the_same_batches(
    settings: Any, registry: Any, ingest: Any, make_model: Any, start: Any
) -> None:
    settings.record(days=20, per_day=60)
    settings.plays(flush=12 * 3600)
    edge = start()
    edge.ask("POST", "/JFK/deploy", {"candidate": registry.publish(make_model())})
    for kill_after in (0, 5, 40):
        asking = threading.Thread(target=lambda edge=edge: _quietly(edge, START + 22 * DAY))
        asking.start()
        while len(ingest.bodies) < kill_after:
            time.sleep(0.005)
        edge.kill()
        asking.join()
        edge = start()
    while edge.ask("POST", "/JFK/advance", {"to": START + 22 * DAY})[1]["buffered"]:
        pass
    assert_complete(ingest, days=20, per_day=60)


def _quietly(edge: Process, to: int) -> None:
    with suppress(OSError, http.client.HTTPException):  # killed
        edge.ask("POST", "/JFK/advance", {"to": to})


def test_a_site_answers_tells_and_refuses_what_it_does_not_know(
    settings: Any, registry: Any, ingest: Any, make_model: Any, start: Any
) -> None:
    settings.site(flush=1)
    edge = start()
    assert edge.ask("GET", "/") == (200, {"sites": ["JFK"]})
    assert edge.ask("POST", "/JFK/score", {"rows": [{}]})[0] == 409
    assert edge.ask("POST", "/JFK/deploy", {"candidate": "f" * 64})[0] == 422
    assert edge.ask("POST", "/JFK/deploy", b"{")[0] == 400
    assert edge.ask("POST", "/JFK/deploy", {"digest": "x"})[0] == 400
    assert edge.ask("POST", "/JFK/deploy", b"[" * 100_000)[0] == 400
    assert edge.ask("POST", "/JFK/deploy", {"candidate": "f" * 64}, Origin="http://x")[0] == 403
    assert edge.ask("POST", "/EWR/deploy", {})[0] == 404
    assert edge.ask("POST", "/JFK/advance", {"to": 1})[0] == 404
    assert edge.ask("POST", "/JFK/network", {"online": False})[0] == 404
    assert edge.ask("POST", "/JFK/score", b"x", **{"Content-Length": str(9 << 20)})[0] == 413
    digest = registry.publish(make_model())
    assert edge.ask("POST", "/JFK/deploy", {"candidate": digest})[0] == 202
    status, answer = edge.ask("POST", "/JFK/score", {"rows": [{"id": "a", "distance": 0, "carrier": "AA"}]})
    assert (status, answer) == (200, {"candidate": digest, "ids": ["a"], "scores": [0.5], "refused": {}})
    assert edge.ask("POST", "/JFK/labels", {"labels": [{"id": "a", "at": START, "label": 1}]})[0] == 202
    deadline = time.monotonic() + 60
    while len(ingest.bodies) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    told = {batch.rows is None: batch for batch in decoded(ingest)}
    assert list(told[False].rows.ids) == list(told[True].labels.ids) == ["a"]
    while edge.ask("GET", "/JFK/status")[1]["buffered"]:  # until the site has read the last answer
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert edge.end() == 0


def test_a_wrong_configuration_ends_with_words(settings: Any) -> None:
    for text, reason in (("{", "truncated"), ('{"sites":[]}', "length >= 1"), ('{"hosts":1}', "hosts")):
        settings.path.write_text(text)
        with pytest.raises(Refused, match=reason):
            load(settings.path)
    command = [sys.executable, "-m", "edge", "--config", str(settings.path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, "hosts" in ended.stderr) == (2, True)


def test_a_demo_s_faults_lose_nothing(settings: Any, registry: Any, ingest: Any, make_model: Any) -> None:
    config = settings.plays(faults={"seed": 3, "duplicate": 0.3, "reorder": 0.4, "malformed": 5})
    with closing(Site(config)) as site:
        site.deploy(registry.publish(make_model()))
        player = Player(site, Recording(Path(config.data), SCHEMA.names))
        for day in range(12):
            player.advance(START + (day + 1) * DAY)
        while player.advance(END).buffered:
            pass
    names = [json.loads(body)["batch"] for body in ingest.bodies]
    numbers = [int(name.split("-")[4]) for name in names]
    assert len(set(names)) < len(names)
    assert numbers != sorted(numbers)
    damaged = next(body for body in ingest.bodies if b"-5-damaged" in body)
    with pytest.raises(envelope.BadBatch, match="values, `id` has"):
        envelope.decode(damaged, SCHEMA)
    assert envelope.signed_part(damaged)[1] is not None
    ingest.bodies = [body for body in ingest.bodies if body != damaged]
    assert_complete(ingest)


def test_what_the_ingest_refuses_is_set_aside_and_the_rest_goes_on(
    settings: Any, registry: Any, ingest: Any, make_model: Any
) -> None:
    config = settings.plays()
    state = {"down": False}

    def answer(body: bytes) -> int:
        return 503 if state["down"] else 400 if json.loads(body)["batch"].endswith("-2") else 202

    ingest.answer = answer
    with closing(Site(config)) as site:
        site.deploy(registry.publish(make_model()))
        player = Player(site, Recording(Path(config.data), SCHEMA.names))
        state["down"] = True
        for code in (503, 429):
            ingest.answer = lambda body, code=code: code
            assert player.advance(START + 5 * DAY).sent == 0
            assert site.status()["problem"] == f"{code}: words"
        state["down"] = False
        ingest.answer = answer
        assert player.advance(END).buffered == 0
        assert [(r["batch"][-2:], r["reason"]) for r in site.status()["refused"]] == [("-2", "400: words")]
    ids = {json.loads(body)["batch"] for body in ingest.taken()}
    assert len(ids) == site_batches(config) - 1


def site_batches(config: Any) -> int:
    with closing(State(Path(config.state))) as state:
        return int(state.get("batches"))


def test_the_buffer_keeps_within_its_bound_and_says_what_it_dropped(tmp_path: Path) -> None:
    with closing(State(tmp_path)) as state:
        buffer = Buffer(state, 1000, Faults())
        for i in range(5):
            buffer.add(f"b{i}", b"x" * 200)
        assert (buffer.waiting, buffer.dropped) == (5, 0)
        buffer.add("b5", b"x" * 200)
        assert (buffer.waiting, buffer.dropped) == (5, 1)
        assert buffer.send(lambda body: Answer(400, "no")) == 0
        buffer.add("b6", b"x" * 900)  # those set aside go first
        assert (buffer.waiting, len(buffer.refused()), buffer.dropped) == (1, 0, 6)
        seen: list[bytes] = []
        assert buffer.send(lambda body: seen.append(body) or Answer(202, "")) == 1  # type: ignore[func-returns-value]
        assert seen == [b"x" * 900]
        buffer.add("b7", b"x" * 2000)  # the newest stays whatever its size
        assert buffer.waiting == 1
        assert state.get("outbox_bytes") == 2000


def test_a_pause_that_the_ingest_asks_for_is_kept() -> None:
    backoff = Backoff()
    assert backoff.due
    backoff.note(reached=False, at_least=100.0)
    assert not backoff.due
    backoff.note(reached=True)
    assert backoff.due


def test_an_offline_buffer_tries_once_and_waits(tmp_path: Path) -> None:
    def away(body: bytes) -> Answer:
        raise Unreachable("nobody there")

    with closing(State(tmp_path)) as state:
        buffer = Buffer(state, 1000, Faults())
        buffer.add("b0", b"x")
        assert buffer.send(away) == 0
        assert (buffer.waiting, buffer.problem, buffer.backoff.due) == (1, "nobody there", False)


def test_a_recording_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(Refused, match="is not a recording"):
        Recording(path, ("distance",))
    np.savez(path, id=np.array(["a"]), at=np.array([1]))
    with pytest.raises(Refused, match="has no distance, label, label_at"):
        Recording(path, ("distance",))
    np.savez(path, id=np.array(["a"], dtype=object), at=[1], label=[1], label_at=[1], distance=[1])
    with pytest.raises(Refused, match="is not a recording"):
        Recording(path, ("distance",))


def test_a_recording_out_of_order_is_put_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(
        path,
        id=np.array(["b", "a", "c"]),
        at=np.array([20, 10, 30]),
        label=np.array([1.0, 0.0, np.nan]),
        label_at=np.array([25.0, 40.0, 50.0]),
        distance=np.array([2.0, 1.0, 3.0]),
    )
    recording = Recording(path, ("distance",))
    assert recording.rows(slice(0, 3), np.zeros(3)).ids == ["a", "b", "c"]
    assert recording.labels(slice(0, 9)).ids == ["b", "a"]
    assert recording.known_at.tolist() == [25, 40]
    assert (recording.next(0, 0), recording.next(2, 0), recording.next(3, 2)) == (10, 25, None)


def test_it_lives_with_its_parent_and_a_site_may_have_any_name(settings: Any, start: Any) -> None:
    settings.site(name="Zürich / 1")
    edge = start("--parent", str(os.getpid()))
    assert edge.ask("GET", "/Z%C3%BCrich%20%2F%201/status")[1]["site"] == "Zürich / 1"
    assert edge.end() == 0
    orphan = start("--parent", "1")
    assert orphan.process.wait(20) == 0
    orphan.end()
