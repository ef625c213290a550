"""A candidate's signature and the OpenSSF tool: each verifies what the other signed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge import candidate, signing
from edge.errors import BadCandidate
from jobs.package import Blobs, fetch

pytestmark = pytest.mark.wire

TOOL = (sys.executable, "-W", "ignore", "-m", "model_signing")


def tool(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TOOL, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture
def folder(registry: Any, make_model: Any, tmp_path: Path) -> Path:
    """A candidate's files, its manifest and its signature, and the keys beside it."""
    digest = registry.publish(make_model())
    fetch(digest, Blobs(registry.folder), registry.public.encode(), tmp_path / "it")
    (tmp_path / "registry.pem").write_bytes(registry.private)
    return tmp_path / "it"


def test_the_stock_tool_verifies_a_candidate_and_finds_a_changed_byte(folder: Path) -> None:
    asked = ("verify", "key", "--public_key", folder.parent / "registry.pub", "--signature", folder / "manifest.sig")
    assert "Verification succeeded" in tool(*asked, folder).stdout
    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    refused = tool(*asked, folder)
    assert refused.returncode == 1
    assert "model.onnx" in refused.stderr


def test_what_the_stock_tool_signed_is_accepted(folder: Path) -> None:
    manifest, public = (folder / "manifest.json").read_bytes(), (folder.parent / "registry.pub").read_bytes()
    signature = folder / "manifest.sig"
    signature.unlink()
    told = tool("sign", "key", "--private_key", folder.parent / "registry.pem", "--signature", signature, folder)
    assert "Signing succeeded" in told.stdout
    assert candidate.signed(manifest, signature.read_bytes(), public) == candidate.read(manifest)
    with pytest.raises(BadCandidate, match="names another key"):
        candidate.signed(manifest, signature.read_bytes(), signing.new()[1])
    changed = manifest.replace(b'"rows":0', b'"rows":9')
    assert json.loads(changed) != json.loads(manifest)
    with pytest.raises(BadCandidate, match=r"manifest\.json: is not the one that was signed"):
        candidate.signed(changed, signature.read_bytes(), public)
