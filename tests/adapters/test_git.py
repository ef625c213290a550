"""The Git repository of a fleet, over HTTP, against a bare one on a disk."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapters.azure.git import Repository
from tests.servers.git import Bare, serving
from triggers.errors import DriftloopError, Refused, Retry

pytestmark = pytest.mark.wire
NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Time:
    def now(self) -> datetime:
        return NOW


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bare]:
    with serving(tmp_path / "fleet.git") as bare:
        yield bare


def repository(url: str) -> Repository:
    return Repository(lambda: url, lambda: "main", lambda: ("", ""), Time())


def test_a_folder_is_committed_as_a_whole_and_the_others_are_left_alone(bare: Bare) -> None:
    mine, other = repository(bare.url), repository(bare.url)
    first = mine.put("sites/a", lambda head: ({"x": b"1", "y": b"2"}, "first\n\nRun: r1\n"))
    other.put("sites/b", lambda head: ({"x": b"b"}, "of another"))
    third = mine.put("sites/a", lambda head: ({"x": b"3"}, "third"))
    assert bare.files("sites") == {"a/x": b"3", "b/x": b"b"}
    assert [m.splitlines()[0] for m in bare.messages()] == ["third", "of another", "first"]
    assert mine.put("sites/a", lambda head: ({"x": b"3"}, "nothing new")) == third
    assert mine.files(first, "sites/a") == {"x": b"1", "y": b"2"}
    assert mine.tree(first, "sites/b") == ""
    assert [c.trailer("Run") for c in mine.history(third)] == ["", "", "r1"]


def test_a_race_ends_with_both_commits(bare: Bare) -> None:
    mine, other = repository(bare.url), repository(bare.url)
    mine.put("sites/a", lambda head: ({"x": b"0"}, "begin"))
    seen: list[str] = []

    def make(head: str) -> tuple[dict[str, bytes], str]:
        seen.append(head)
        if len(seen) < 3:
            other.put("sites/b", lambda head: ({"x": str(len(seen)).encode()}, f"other {len(seen)}"))
        return {"x": b"mine"}, "mine"

    mine.put("sites/a", make)
    assert len(set(seen)) == 3
    assert bare.files("sites") == {"a/x": b"mine", "b/x": b"2"}
    assert bare.messages() == ["mine", "other 2", "other 1", "begin"]


def test_a_race_that_the_other_end_decides_ends_with_both_commits(bare: Bare) -> None:
    mine = repository(bare.url)
    mine.put("sites/a", lambda head: ({"x": b"0"}, "begin"))

    def meanwhile(path: str) -> None:
        if path.endswith("/git-receive-pack"):
            bare.before.clear()
            bare.commit("sites/b/x", b"other")

    bare.before.append(meanwhile)
    mine.put("sites/a", lambda head: ({"x": b"mine"}, "mine"))
    assert bare.files("sites") == {"a/x": b"mine", "b/x": b"other"}
    assert bare.messages() == ["mine", "of another", "begin"]


def test_a_race_that_never_ends_is_left_for_later(bare: Bare) -> None:
    mine, other = repository(bare.url), repository(bare.url)
    n = iter(range(100))

    def make(head: str) -> tuple[dict[str, bytes], str]:
        other.put("sites/b", lambda head: ({"x": str(next(n)).encode()}, "other"))
        return {"x": b"mine"}, "mine"

    with pytest.raises(Retry, match="others push all the time"):
        mine.put("sites/a", make)


def test_what_real_git_says_of_it(bare: Bare, tmp_path: Path) -> None:
    mine = repository(bare.url)
    mine.put("sites/line/a", lambda head: ({"x": b"1"}, "first\n\nDriftloop-Run: r1\n"))
    head = mine.put("sites/line/b", lambda head: ({"x": b"1"}, "second\n\nDriftloop-Run: r2\n"))
    git = shutil.which("git")
    if git is None:  # then the repository was read by dulwich alone, above
        return
    said = subprocess.run(
        [git, "-C", str(bare.folder), "fsck", "--strict"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    form = "%H %(trailers:key=Driftloop-Run,valueonly)"
    log = [git, "-C", str(bare.folder), "log", "main", f"--format={form}", "--", "sites/line/b"]
    assert subprocess.run(log, capture_output=True, text=True, check=True).stdout.split() == [head, "r2"]
    clone = [git, "clone", "-q", "--branch", "main", bare.url, str(tmp_path / "clone")]
    subprocess.run(clone, capture_output=True, check=True)
    assert (tmp_path / "clone/sites/line/a/x").read_bytes() == b"1"


@pytest.mark.parametrize(("url", "error"), [("http://127.0.0.1:1/fleet.git", Retry), ("{other}/nothing.git", Refused)])
def test_a_repository_that_is_not_there(bare: Bare, url: str, error: type[DriftloopError]) -> None:
    with pytest.raises(error):
        repository(url.format(other=bare.url.rsplit("/", 1)[0])).head()
