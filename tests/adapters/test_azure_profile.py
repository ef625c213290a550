"""What the azure profile keeps in its containers: configurations and keys."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from adapters.azure.configs import FRESH_S, BlobConfigs
from adapters.azure.keys import Keys
from adapters.azure.profile import Azure
from adapters.azure.settings import Settings
from edge import signing
from tests.servers.azurite import KEY as AZURITE_KEY
from tests.servers.azurite import Azurite
from tests.servers.eventgrid import EventGrid
from tests.servers.identity import Identity
from triggers.errors import DriftloopError, Misconfigured, NotFound
from triggers.ports import Message, Put

if TYPE_CHECKING:
    from tests.servers.servicebus import Found

pytestmark = pytest.mark.wire


def loop(version: str) -> bytes:
    return f"loop: flights\nschema: {{version: '{version}', features: [{{name: distance}}]}}\n".encode()


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_configurations_are_read_and_read_again_when_they_change(
    azure: Azure, caplog: pytest.LogCaptureFixture
) -> None:
    time = Time()
    configs = BlobConfigs(azure.files, time)
    assert configs.loops() == []
    azure.files.put("flights/loop.yaml", b"loop: [")
    with pytest.raises(Misconfigured):
        configs.loop("flights")
    azure.files.put("flights/loop.yaml", loop("1"))
    azure.files.put("flights/fleet.yaml", b"sites: [{name: EWR}]")
    azure.files.put("flights/train.py", b"")
    assert configs.loops() == ["flights"]
    first = configs.loop("flights")
    assert first.schema.version == "1"
    assert [site.name for site in configs.fleet("flights").sites] == ["EWR"]
    time.now += FRESH_S
    assert configs.loop("flights") is first
    azure.files.put("flights/loop.yaml", loop("2"))
    assert configs.loop("flights") is first
    time.now += FRESH_S
    assert configs.loop("flights").schema.version == "2"
    azure.files.put("flights/loop.yaml", b"nonsense: 1")
    time.now += FRESH_S
    with caplog.at_level(logging.ERROR):
        assert configs.loop("flights").schema.version == "2"
    assert "flights/loop.yaml is wrong" in caplog.text


@pytest.mark.parametrize("name", ["none", "", ".", "..", "../config/flights", "/etc", "flights/../flights"])
def test_a_loop_that_is_not_there_is_not_found(azure: Azure, name: str) -> None:
    with pytest.raises(NotFound):
        azure.ports.configs.loop(name)


def test_of_processes_that_make_a_key_at_once_one_wins(azure: Azure) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: Keys(azure.keys._blobs, azure.blobs).registry, range(8)))
    assert len(set(made)) == 1
    assert signing.verify(signing.sign("m", {"a": "0" * 64}, made[0]), azure.keys.public) == {"a": "0" * 64}
    assert azure.blobs.get("registry.pub").decode() == azure.keys.public  # for who may not read the other half
    assert azure.ports.people.check("form", azure.ports.people.sign("form"))


def test_an_emulator_needs_no_identity(azurite: Azurite) -> None:
    own = {"StateTable": f"t{uuid4().hex}", "StateContainer": uuid4().hex}
    by_key = Azure(Settings({"Storage": azurite.connection_string(), **own}))
    by_key.ports.store.commit("p", [Put("k", b"v")])
    by_key.ports.blobs.put("b", b"v")
    assert (by_key.ports.blobs.get("b"), [r.value for r in by_key.ports.store.scan("p")]) == (b"v", [b"v"])
    assert "credential" not in vars(by_key.identity)


def test_no_log_has_a_secret(
    azurite: Azurite, identity: Identity, service_bus: Found, event_grid: EventGrid, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything that the app and its SDKs say at their most talkative, of what went well and of what did not."""
    teams = "https://prod-1.westeurope.logic.azure.com:443/workflows/x/triggers/manual/paths/invoke?sig=teams-secret"
    own = {"StateTable": f"t{uuid4().hex}", "StateContainer": uuid4().hex, "KeyContainer": uuid4().hex}
    own |= {"ServiceBus": service_bus.connection_string, "EventGrid__topicEndpointUri": event_grid.url}
    by_token = {**os.environ, **azurite.settings, **own, "TeamsWorkflowUrl": teams, "EventGridKey": "the-grid-secret"}
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
    with caplog.at_level(logging.DEBUG):
        for settings in (by_token, {**by_token, "Storage": azurite.connection_string()}):
            azure = Azure(Settings(settings))
            azure.ports.store.commit("p", [Put("k", b"", "*")])
            azure.ports.blobs.put("b", b"")
            azure.ports.people.sign(azure.keys.public)
            azure.ports.bus.send("effects", [Message("m", b"")])
            for wrong in (
                lambda azure=azure: azure.ports.store.commit("p", [Put("k", b"")]),
                lambda azure=azure: azure.ports.blobs.get("none"),
                lambda azure=azure: azure.ports.topic.publish([event]),
            ):
                with pytest.raises(DriftloopError) as failed:
                    wrong()
                logging.getLogger("driftloop").error("%s", failed.value, exc_info=failed.value)
            azure.ports.bus.close()  # type: ignore[attr-defined]
    service_bus.clear()
    secrets = [*identity.tokens, AZURITE_KEY, "SAS_KEY_VALUE", "the-grid-secret", "teams-secret"]
    secrets += [azure.keys.forms.hex(), *azure.keys.registry.decode().splitlines()[1:-1]]
    assert [secret for secret in secrets if secret in caplog.text] == []
    assert len(caplog.records) > 50


def test_rows_blobs_and_tokens_need_no_sdk(azurite: Azurite) -> None:
    """In a process of its own: what the first batch asks of storage imports nothing that takes long."""
    code = """
import os, sys
from adapters.azure.profile import Azure
from adapters.azure.settings import Settings
from triggers.ports import Put
azure = Azure(Settings(os.environ))
azure.ports.store.commit("p", [Put("k", b"row")])
azure.blobs.put("a/b", b"blob")
assert azure.ports.store.get("p", "k").value == b"row" and azure.blobs.get("a/b") == b"blob"
assert list(azure.blobs.names()) == ["a/b"] and not azure.blobs.exists("none")
heavy = ("azure.core", "azure.storage", "azure.data", "azure.identity", "msal", "pandas", "pyarrow")
print([name for name in sys.modules if name.startswith(heavy)])
"""
    own = {name: f"t{uuid4().hex}" for name in ("StateTable", "StateContainer", "ConfigContainer", "KeyContainer")}
    env = {**os.environ, **azurite.settings, **own}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
