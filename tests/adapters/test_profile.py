"""Configurations, notices, and the profile as a whole."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapters.local.clock import SystemClock, VirtualClock
from adapters.local.configs import FileConfigs
from adapters.local.notify import NOTICES, StoreNotifier
from adapters.local.profile import Local
from adapters.local.store import SqliteStore
from triggers.errors import Misconfigured, NotFound
from triggers.ports import Message, Put

ROOT = Path(__file__).parents[2]
START = datetime(2013, 1, 1, tzinfo=UTC)


def write(path: Path, text: str) -> None:
    """As an editor does, with a time of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def loop(version: str) -> str:
    return f"loop: flights\nschema: {{version: '{version}', features: [{{name: distance}}]}}\n"


def test_configurations_are_read_and_read_again_when_they_change(tmp_path: Path) -> None:
    configs = FileConfigs(tmp_path)
    assert configs.loops() == []
    for name in ("flights", "boats"):
        write(tmp_path / "config" / name / "loop.yaml", loop("1"))
    write(tmp_path / "config/flights/fleet.yaml", "sites: [{name: EWR}]")
    assert configs.loops() == ["boats", "flights"]
    assert configs.loop("flights").schema.version == "1"
    assert configs.loop("flights") is configs.loop("flights")
    assert [site.name for site in configs.fleet("flights").sites] == ["EWR"]
    write(tmp_path / "config/flights/loop.yaml", loop("2"))
    assert configs.loop("flights").schema.version == "2"


def test_a_file_that_turns_wrong_is_complained_of_and_the_last_right_one_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configs = FileConfigs(tmp_path)
    path = tmp_path / "config/flights/loop.yaml"
    write(path, "loop: [")
    with pytest.raises(Misconfigured):
        configs.loop("flights")
    write(path, loop("1"))
    assert configs.loop("flights").schema.version == "1"
    write(path, "loop: flights\nnonsense: 1\n")
    with caplog.at_level(logging.ERROR):
        assert configs.loop("flights").schema.version == "1"
        assert configs.loop("flights").schema.version == "1"
    assert len([record for record in caplog.records if "nonsense" in record.getMessage()]) == 1
    path.write_bytes(b"\xff\xfe")
    assert configs.loop("flights").schema.version == "1"


@pytest.mark.parametrize("name", ["none", "", ".", "..", "../config/flights", "/etc", "flights/../flights"])
def test_a_loop_that_is_not_there_is_not_found(tmp_path: Path, name: str) -> None:
    write(tmp_path / "config/flights/loop.yaml", loop("1"))
    configs = FileConfigs(tmp_path)
    with pytest.raises(NotFound):
        configs.loop(name)
    with pytest.raises(NotFound):
        configs.fleet("flights")


def test_notices_are_kept_the_newest_first(store: SqliteStore, clock: VirtualClock) -> None:
    notifier = StoreNotifier(store, clock)
    for n in range(3):
        for _ in range(2):
            notifier.tell({"kind": "approval", "title": f"{n}"})
        clock.advance(timedelta(hours=1))
    assert [notice["title"] for notice in notifier.recent()] == ["2", "1", "0"]
    [newest] = notifier.recent(1)
    assert newest["kind"] == "approval"
    assert datetime.fromisoformat(newest["at"]) == clock.now() - timedelta(hours=1)
    assert len(list(store.scan(NOTICES))) == 3


def test_a_state_folder_is_a_profile_and_keeps_everything(tmp_path: Path) -> None:
    local = Local(tmp_path / "state", START)
    local.ports.store.commit("p", [Put("k", b"v")])
    local.ports.bus.send("effects", [Message("m", b"")])
    local.ports.blobs.put("b", b"")
    local.clock.advance(timedelta(days=3))  # type: ignore[attr-defined]
    local.close()
    again = Local(tmp_path / "state")
    assert again.ports.clock.now() == START + timedelta(days=3)
    assert again.ports.store.get("p", "k") is not None
    assert [delivery.id for delivery in again.bus.receive("effects")] == ["m"]
    assert list(again.ports.blobs.names()) == ["b"]
    again.close()


def test_without_a_virtual_start_the_time_is_real(tmp_path: Path) -> None:
    local = Local(tmp_path)
    assert isinstance(local.clock, SystemClock)
    local.close()


def test_the_profile_imports_nothing_heavy() -> None:
    heavy = "pandas pyarrow sklearn scipy onnxruntime evidently azure http.client cryptography asyncio"
    script = (
        f"import sys, adapters.local.profile, adapters.faults; print([m for m in {heavy.split()} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
