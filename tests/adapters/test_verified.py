"""Before a request leaves for a site, its candidate is what the registry signed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from adapters.local import keys
from adapters.local.blobs import FileBlobs
from adapters.verified import Verified
from drift.telemetry import Feature, Schema
from edge import candidate, signing
from triggers.errors import Refused
from triggers.ports import Change
from triggers.sites import fence

RUN = "line.2026-03-10.1"


class Asked:
    """Port Executor: remembers what reached it."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def apply(self, change: Change, proven: bool = False) -> None:
        self.changes.append(change)

    def finish(self, change: Change) -> None:
        self.changes.append(change)


def change(digest: str, **more: Any) -> Change:
    about: dict[str, Any] = {"id": f"{RUN}/a/deploy", "loop": "line", "site": "a", "run": RUN, "wave": 0}
    at = datetime(2026, 3, 10, tzinfo=UTC)
    return Change(candidate=digest, fence=fence(RUN), at=at, **{**about, "action": "deploy", **more})


@pytest.fixture
def published(tmp_path: Path) -> str:
    """A candidate in a registry on this disk; nothing here opens its model."""
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"a model")
    (folder / "reference.bin").write_bytes(b"its reference")
    about: dict[str, Any] = {"lineage": candidate.Lineage(), "created": ""}
    manifest = candidate.build(folder, loop="line", schema=Schema("1", (Feature("x"),)), **about)
    signature = candidate.sign(manifest, keys.registry(tmp_path).read_bytes())
    return candidate.publish(folder, manifest, signature, FileBlobs(tmp_path / "blobs").put)


@pytest.mark.attack
def test_any_byte_flipped_in_the_registry_stops_the_deployment(published: str, tmp_path: Path) -> None:
    """Without adapters.verified the request would leave, and the site alone would be between the bytes and the line."""
    blobs, files = FileBlobs(tmp_path / "blobs"), [p for p in (tmp_path / "blobs").rglob("*") if p.is_file()]
    names = {path.relative_to(tmp_path / "blobs").parts[0] for path in files}
    assert (len(files), names) == (4, {"candidates", "layers"})
    for path in files:
        whole = path.read_bytes()
        for i in range(0, len(whole), 1 if len(whole) < 100 else 29):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
            asked = Asked()
            with pytest.raises(Refused, match=f"candidate {published[:12]} is not deployed"):
                Verified(asked, blobs, lambda: keys.registry_public(tmp_path)).apply(change(published))
            assert asked.changes == []
        path.write_bytes(whole)
    asked = Asked()
    Verified(asked, blobs, lambda: keys.registry_public(tmp_path)).apply(change(published))
    assert [c.candidate for c in asked.changes] == [published]


@pytest.mark.attack
def test_what_another_registry_signed_is_not_deployed_but_the_way_back_is_open(published: str, tmp_path: Path) -> None:
    asked = Asked()
    executor = Verified(asked, FileBlobs(tmp_path / "blobs"), lambda: signing.new()[1])
    with pytest.raises(Refused, match="names another key"):
        executor.apply(change(published))
    with pytest.raises(Refused, match="is not deployed"):
        executor.apply(change("0" * 64))
    executor.apply(change(published, action="rollback"))
    executor.finish(change(published))
    assert [c.action for c in asked.changes] == ["rollback", "deploy"]
