"""Microsoft's own worker library (Python >= 3.13) indexes the app and invokes each of its functions."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


class Message(SimpleNamespace):
    """A protocol message: what it was made with, and nothing for the rest."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "TypedData":
            raise AttributeError(name)
        return None

    def WhichOneof(self, _: str) -> str | None:  # noqa: N802 - as protobuf calls it
        return next(iter(vars(self)), None)


class Protos:
    """The host's protocol, of which the library only makes messages."""

    class BindingInfo(Message):
        inout, out, undefined, string, binary, stream = 2, 1, 0, 1, 2, 3

    class StatusResult(Message):
        Failure, Success = 0, 1

    def __getattr__(self, name: str) -> Any:
        return type(name, (Message,), {})


def given(binding: dict[str, Any]) -> Message:
    """Something that such a trigger might bring, none of it any good."""
    if binding["type"] == "httpTrigger":
        http = {"method": "POST", "url": "http://localhost/api/x", "headers": {}, "query": {}}
        params = dict.fromkeys(re.findall(r"\{(\w+)", binding.get("route") or ""), "none")
        return Message(http=Message(**http, params=params, body=Message(bytes=b"{")))
    if binding["type"] == "timerTrigger":
        return Message(json=json.dumps({"IsPastDue": False}))
    if binding["type"] == "eventGridTrigger":
        event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": "s", "data": {}}
        return Message(json=json.dumps({**event, "time": "2026-01-01T00:00:00Z"}))
    if binding.get("cardinality", "").lower() == "many":
        return Message(collection_bytes=Message(bytes=[b"poison"]))
    return Message(bytes=b"poison")


def about(binding: dict[str, Any]) -> dict[str, Message]:
    """What the host tells of a Service Bus message besides."""
    if binding["type"] != "serviceBusTrigger":
        return {}
    if binding.get("cardinality", "").lower() == "many":
        ids = Message(collection_string=Message(string=["1"]))
        return {"MessageIdArray": ids, "UserPropertiesArray": Message(json="[{}]")}
    return {"MessageId": Message(string="1"), "UserProperties": Message(json="{}")}


def invoke_all() -> None:
    """Runs in a process of its own: the library keeps the app for good."""
    from azure_functions_runtime import handle_event as library

    async def run() -> dict[str, str]:
        init = Message(capabilities={}, function_app_directory=str(ROOT))
        request = Message(request=Message(worker_init_request=init), properties={"host": "", "protos": Protos()})
        begun = await library.worker_init_request(request)
        assert begun.result.status == Protos.StatusResult.Success, begun.result.exception
        found = (await library.functions_metadata_request(request)).function_metadata_results
        ended = {}
        for function in found:
            [binding] = [b for b in map(json.loads, function.raw_bindings) if b["type"].endswith("Trigger")]
            invocation = Message(
                invocation_id="1",
                function_id=function.function_id,
                input_data=[Message(name=binding["name"], rpc_data=0, data=given(binding))],
                trigger_metadata=about(binding),
                trace_context=Message(),
                retry_context=Message(),
            )
            invocation.input_data[0].WhichOneof = lambda _: "data"
            answer = await library.invocation_request(Message(request=Message(invocation_request=invocation)))
            failed = answer.result.status != Protos.StatusResult.Success
            ended[function.name] = answer.result.exception.message if failed else ""
        return ended

    print(json.dumps(asyncio.run(run())))


def test_every_function_is_indexed_and_invoked(tmp_path: Path) -> None:
    pytest.importorskip("azure_functions_runtime", reason="azure-functions-runtime needs Python >= 3.13")
    code = "from tests.functions.test_runtime import invoke_all; invoke_all()"
    env = {**os.environ, "DRIFTLOOP_PROFILE": "local", "DRIFTLOOP_STATE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ended = json.loads(done.stdout.splitlines()[-1])
    import function_app

    assert set(ended) == {f.get_function_name() for f in function_app.app.get_functions()}
    assert not any(ended.values()), ended
