"""`driftloop doctor`, on state folders with something wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.local.bus import SqliteBus
from adapters.local.profile import Local
from cli.main import main
from triggers.ports import Message

LOOP = "loop: line\nschema: {features: [{name: x}]}\napproval: {approvers: [anna]}\n"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    (folder / "config" / "line").mkdir(parents=True)
    (folder / "config" / "line" / "loop.yaml").write_text(LOOP)
    (folder / "config" / "line" / "fleet.yaml").write_text("sites: [{name: a}]\n")
    Local(folder).close()
    return folder


def found(capsys: pytest.CaptureFixture[str], state: Path, status: int) -> dict[str, tuple[str, str]]:
    capsys.readouterr()
    assert main(["doctor", "--state", str(state), "--json"]) == status
    return {f["what"]: (f["severity"], f["found"]) for f in json.loads(capsys.readouterr().out)["findings"]}


def test_what_is_well_is_said_to_be_so(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = found(capsys, state, 0)
    assert said["state.db"] == ("ok", "ok")
    assert said["queue telemetry"] == ("ok", "0 waiting, 0 dead letters")
    assert said["host"][0] == "warning"


def test_each_fault_is_found_with_what_to_do(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "config" / "line" / "loop.yaml").write_text("loop: [")
    key = state / "keys" / "registry.pem"
    key.write_text("secret")
    key.chmod(0o644)
    local = Local(state)
    bus: SqliteBus = local.bus
    bus.send("effects", [Message(id="1", body=b"x")])
    bus.dead_letter(bus.receive("effects")[0], "MaxDeliveryCountExceeded", "refused")
    local.close()
    said = found(capsys, state, 1)
    assert said["loop line"][0] == "error"
    assert said["keys"] == ("error", f"{key} can be read by others")
    assert said["queue effects"][1].endswith("1 dead letters, the last for: MaxDeliveryCountExceeded refused")
    assert main(["doctor", "--state", str(state)]) == 1
    assert f"chmod 600 {key}" in capsys.readouterr().out


def test_without_a_state_folder_it_says_how_to_get_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(capsys, tmp_path / "nowhere", 1)["state"][0] == "error"
    assert not (tmp_path / "nowhere").exists()


def test_missing_settings_of_azure_are_named_with_what_they_are_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRIFTLOOP_PROFILE", "azure")
    monkeypatch.delenv("Storage__tableServiceUri", raising=False)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "ERROR setting Storage__tableServiceUri: the app setting Storage__tableServiceUri is missing" in said
    assert "ERROR table storage: " in said
