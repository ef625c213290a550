"""An app is indexed as the worker would, or refused with what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.host.app import AppError, index, load, read_host_json

HEAD = "import azure.functions as func\napp = func.FunctionApp()\n"
TIMER = "@app.timer_trigger(arg_name='t', schedule='0 0 6 * * *')\n"
QUEUE = "@app.service_bus_queue_trigger(arg_name='m', queue_name='{}', connection='C', is_sessions_enabled={})\n"


def test_every_function_is_there_with_its_trigger(here: Any) -> None:
    said = {f.name: f for f in here.host.functions}
    assert list(said) == [
        *("in_order", "in_batches", "in_turn", "on_event", "daily", "often"),
        *("echo", "numbered", "rest", "cookies", "secret", "slow"),
    ]
    assert (said["in_order"].queue, said["in_order"].sessions, said["in_order"].many) == ("runs", True, False)
    assert (said["in_batches"].many, said["in_batches"].binary) == (True, True)
    assert (said["daily"].schedule, said["often"].schedule) == ("0 0 6 * * *", "08:00:00")
    assert (said["secret"].route, said["secret"].methods) == ("secret", ("GET", "DELETE"))
    assert (here.host.json.batch, here.host.json.route_prefix) == (4, "api")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import no_such_thing", r"does not import.*no_such_thing.*function_app.py:1"),
        ("x = 1", "no `app`"),
        (HEAD, "declares no function"),
        (HEAD + TIMER + "def f(t: str): ...\n" + TIMER + "def f(t): ...", "does not index.*unique"),
        (HEAD + TIMER + "def f(x): ...", r"f: takes \['x'\], bound is 't'"),
        (HEAD + TIMER + "def f(t: func.HttpRequest): ...", "f: t: the worker takes no"),
        (HEAD + QUEUE.format("runs", False) + "def f(m: list[func.ServiceBusMessage]): ...", "takes no list"),
        (HEAD + QUEUE.format("%Q%", False) + "def f(m): ...", "app setting Q is not set"),
        (HEAD + "@app.blob_trigger(arg_name='b', path='p', connection='C')\ndef f(b): ...", "blobTrigger"),
        (HEAD + "@app.service_bus_queue_output(arg_name='o', queue_name='q', connection='C')\n" + TIMER
         + "def f(t, o): ...", r"not \['o'\]"),
    ],
)  # fmt: skip
def test_an_app_that_would_have_no_functions_is_refused(tmp_path: Path, source: str, why: str) -> None:
    path = tmp_path / "function_app.py"
    path.write_text(source)
    with pytest.raises(AppError, match=why):
        index(load(path), {})


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"RunsQueue": "nowhere", "CheckSchedule": "0 0 6 * * *"}, "in_order: no such queue"),
        ({"RunsQueue": "effects", "CheckSchedule": "0 0 6 * * *"}, "in_order: queue effects: sessions"),
        ({"RunsQueue": "runs", "CheckSchedule": "at dawn"}, "daily: not a schedule"),
    ],
)
def test_what_the_bus_or_a_schedule_cannot_be_is_refused(
    start: Callable[..., Any], settings: dict[str, str], why: str
) -> None:
    with pytest.raises(AppError, match=why):
        start(settings=settings)


@pytest.mark.parametrize("text", ["[]", "{", '{"extensions": {"serviceBus": {"maxMessageBatchSize": 0}}}'])
def test_a_wrong_host_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "host.json"
    path.write_text(text)
    with pytest.raises(AppError, match=r"host\.json"):
        read_host_json(path)


def test_a_missing_app_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="no such file"):
        load(tmp_path / "function_app.py")
