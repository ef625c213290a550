"""Contract of the port Blobs."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.local.blobs import FileBlobs, quote, unquote
from triggers.errors import NotFound, Refused
from triggers.ports import Blobs

ROOT = Path(__file__).parents[2]

HOSTILE = [
    *("..", "../..", "/etc/passwd", "../../etc/passwd", "a/../../b", "./a", "//", "/", "a//b", "a/", ".", "~", "$HOME"),
    *(".unfinished", ".unfinished/x", "C:\\x", "\\\\host\\share", "con", "NUL.txt", "aux", "com1.tar.gz", "a.", "a "),
    *(" ", "%", "%2e%2e", "a%2fb", "\x00", "a\nb", "?#*:|<>\"'", "ä", "a\u0308", "ﬁ", "🛩", "A", "\u202e", "-rf"),
    *("é" * 150, "%" * 300, "." * 300, "x" * 199 + "%%%", "x" * 600 + "/y"),
]


def test_what_was_put_is_got(blobs: Blobs) -> None:
    blobs.put("candidates/1/model.onnx", b"\x00bytes")
    assert blobs.get("candidates/1/model.onnx") == b"\x00bytes"
    assert blobs.exists("candidates/1/model.onnx")
    blobs.put("candidates/1/model.onnx", b"")
    assert blobs.get("candidates/1/model.onnx") == b""


@pytest.mark.parametrize("name", ["none", "folder", "folder/blob/below", "folder/none"])
def test_what_is_not_there_is_not_found(blobs: Blobs, name: str) -> None:
    blobs.put("folder/blob", b"")
    with pytest.raises(NotFound) as missing:
        blobs.get(name)
    assert missing.value.fields["name"] == name
    assert not blobs.exists(name)
    blobs.delete(name)
    assert list(blobs.names()) == ["folder/blob"]


def test_a_delete_may_be_repeated_and_leaves_the_name_free(blobs: Blobs) -> None:
    blobs.put("a/b", b"1")
    blobs.delete("a/b")
    blobs.delete("a/b")
    assert not blobs.exists("a/b")
    blobs.put("a", b"2")
    assert list(blobs.names()) == ["a"]


def test_names_are_sorted_and_start_with_the_prefix(blobs: Blobs) -> None:
    names = ["b", "a/b", "a-b", "a/b-c", "a0", "a/c/d", "B", "ä/x", "\U0001f6e9"]
    for name in names:
        blobs.put(name, b"")
    assert list(blobs.names()) == sorted(names)
    assert list(blobs.names("a/")) == ["a/b", "a/b-c", "a/c/d"]
    assert list(blobs.names("a/b")) == ["a/b", "a/b-c"]
    assert list(blobs.names("a/c/d")) == ["a/c/d"]
    assert list(blobs.names("none/")) == []
    assert list(blobs.names("ä")) == ["ä/x"]


def test_hostile_names_are_only_names(blobs: Blobs, tmp_path: Path) -> None:
    before = outside(tmp_path)
    for name in HOSTILE:
        blobs.put(name, name.encode())
        assert blobs.get(name) == name.encode()
        assert list(blobs.names()) == [name]
        blobs.delete(name)
        assert list(blobs.names()) == []
    assert outside(tmp_path) == before


@pytest.mark.parametrize("name", ["", "x" * 1025, "\ud800", "\U0001f6e9" * 1024])
def test_names_that_cannot_be_are_refused(blobs: Blobs, name: str) -> None:
    with pytest.raises(Refused):
        blobs.put(name, b"")
    assert list(blobs.names()) == []


def test_in_files_a_name_is_a_blob_or_a_folder(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    blobs.put("a", b"")
    with pytest.raises(Refused):
        blobs.put("a/b", b"")
    blobs.put("c/d", b"")
    with pytest.raises(Refused):
        blobs.put("c", b"")
    assert list(blobs.names()) == ["a", "c/d"]


def test_readers_see_the_old_bytes_or_the_new_ones(blobs: Blobs) -> None:
    values = [bytes([65 + n]) * 200_000 for n in range(4)]
    blobs.put("x", values[0])
    with ThreadPoolExecutor(4) as threads:
        writes = [threads.submit(blobs.put, "x", values[n % 4]) for n in range(40)]
        while not all(write.done() for write in writes):
            assert blobs.get("x") in values
        for write in writes:
            write.result()
    assert list(blobs.names()) == ["x"]


def outside(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if "blobs" not in path.parts}


@given(st.lists(st.text(min_size=1, max_size=60), unique=True, max_size=12), st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_names_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], fold: bool
) -> None:
    flat = [name.replace("/", ":") for name in names]
    folder = tmp_path_factory.mktemp("blobs")
    if fold:
        (folder / ".UNFINISHED").mkdir()
    blobs = FileBlobs(folder)
    kept = {name: name.encode() for name in flat}
    for name, data in kept.items():
        blobs.put(name, data)
    assert {name: blobs.get(name) for name in blobs.names()} == kept
    for name in blobs.names():
        assert next(blobs.names(name)) == name
    written = [path.name for path in folder.rglob("*") if path.name[0] != "."]
    assert len({name.lower() for name in written}) == len(written) or not fold


@given(st.text(), st.booleans())
def test_a_quoted_name_is_safe_everywhere(name: str, fold: bool) -> None:
    quoted = quote(name, fold)
    assert unquote(quoted) == name
    assert quoted.isascii()
    assert not set(quoted) & set('/\\:*?"<>| \x00')
    assert quoted[0] != "."
    assert quoted[-1] != "."
    assert not fold or quoted == quoted.lower()


PUTTER = """
import os, sys
from adapters.local.blobs import FileBlobs

blobs = FileBlobs(sys.argv[1])
for n in range(1_000_000):
    blobs.put(f"new/{n % 10}/{n}", b"x" * 100_000)
    blobs.put("same", str(n).encode() * 10_000)
    os.write(1, f"{n}\\n".encode())
"""


def test_a_killed_writer_leaves_whole_blobs_and_all_that_it_acknowledged(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PUTTER, str(tmp_path / "blobs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        acknowledged = [child.stdout.readline().strip()]
        time.sleep(0.15)
        child.kill()
        acknowledged += [line.strip() for line in child.stdout if line.endswith("\n")]
    blobs = FileBlobs(tmp_path / "blobs")
    assert {f"new/{int(n) % 10}/{n}" for n in acknowledged} <= set(blobs.names())
    assert {len(blobs.get(name)) for name in blobs.names("new/")} == {100_000}
    same = blobs.get("same").decode()
    last = int(same[: len(same) // 10_000])
    assert same == str(last) * 10_000
    assert last >= int(acknowledged[-1])
