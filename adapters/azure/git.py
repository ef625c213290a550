"""A branch of a Git repository, without a git program and without a disk: what is fetched stays in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from triggers.errors import Refused, Retry
from triggers.ports import Clock

AUTHOR = b"driftloop <driftloop@localhost>"
_TIMES = 5
_RECENT = 100
"""Others' commits that may have come upon ours at once."""
_FILE, _FOLDER = 0o100644, 0o040000


@dataclass(frozen=True, slots=True)
class Commit:
    id: str
    parent: str
    at: datetime
    message: str

    def trailer(self, name: str) -> str:
        """
        >>> Commit("c", "", datetime.min, "said\\n\\nRun: line.1\\n").trailer("Run")
        'line.1'
        """
        lines = (line.partition(": ") for line in self.message.splitlines())
        return next((value for key, _, value in lines if key == name), "")


class Repository:
    """`login` gives user and password whenever the repository is reached; both may be empty.

    Everything raises Retry where the repository cannot be reached or does not let us in (a token that has expired must
    fail no rollout), and Refused where there is none.
    """

    def __init__(
        self, url: Callable[[], str], branch: Callable[[], str], login: Callable[[], tuple[str, str]], clock: Clock
    ) -> None:
        self._url, self._branch, self._login, self._clock = url, branch, login, clock
        self._lock = threading.Lock()

    def put(self, folder: str, make: Callable[[str], tuple[Mapping[str, bytes], str]]) -> str:
        """Make a folder hold some files and no others, in one commit, and push it; the head then.

        `make` gets the head, and gives the files and the commit's message. What is there already is not committed
        again. Where somebody else has pushed meanwhile, it is made anew upon theirs.
        """
        with self._lock:
            for _ in range(_TIMES):
                head = self._fetch()
                files, message = make(head)
                tree = self._with(head, folder, files)
                if head and tree == self._store[head.encode()].tree:
                    return head
                made = self._commit(tree, head, message)
                if self._push(head, made):
                    return made
        raise Retry(f"{self._url()}: others push all the time")

    def head(self) -> str:
        """Empty where nothing was ever committed."""
        with self._lock:
            return self._fetch()

    def tree(self, commit: str, folder: str) -> str:
        """What names the folder's whole content at a commit; empty where there is no such folder, or commit."""
        from dulwich.object_store import tree_lookup_path

        try:
            root = self._store[commit.encode()].tree
            return str(tree_lookup_path(self._store.__getitem__, root, folder.encode())[1].decode())
        except (KeyError, ValueError, AssertionError):
            return ""

    def files(self, commit: str, folder: str) -> dict[str, bytes]:
        tree = self.tree(commit, folder)
        if not tree:
            return {}
        found = self._store[tree.encode()].items()
        return {e.path.decode(): self._store[e.sha].data for e in found if e.mode == _FILE}

    def history(self, head: str) -> Iterator[Commit]:
        """The commits up to `head`, along first parents, newest first."""
        while head:
            found = self._store[head.encode()]
            parent = found.parents[0].decode() if found.parents else ""
            at = datetime.fromtimestamp(found.commit_time, self._clock.now().tzinfo)
            yield Commit(head, parent, at, found.message.decode(errors="replace"))
            head = parent

    @cached_property
    def _repo(self) -> Any:
        from dulwich.repo import MemoryRepo

        return MemoryRepo()

    @property
    def _store(self) -> Any:
        return self._repo.object_store

    @property
    def _ref(self) -> bytes:
        return f"refs/heads/{self._branch()}".encode()

    def _fetch(self) -> str:
        client, path = self._client()
        with _named(self._url()):
            wanted = self._ref
            found = client.fetch(path, self._repo, lambda refs, depth=None: [refs[wanted]] if wanted in refs else [])
        return str((found.refs.get(wanted) or b"").decode())

    def _push(self, old: str, new: str) -> bool:
        """Whether it was taken: the branch was still where we had seen it. Not every server says so where it was not,
        so it is looked at again."""
        client, path = self._client()
        ref, before = self._ref, old.encode() or b"0" * 40

        def update(refs: dict[bytes, bytes]) -> dict[bytes, bytes]:
            if refs.get(ref, b"0" * 40) != before:
                raise _Moved
            return {ref: new.encode()}

        with _named(self._url()):
            try:
                told = client.send_pack(path, update, self._repo.generate_pack_data)
            except _Moved:
                return False
        if any((told.ref_status or {}).values()):
            return False
        return any(c.id == new for _, c in zip(range(_RECENT), self.history(self._fetch()), strict=False))

    def _client(self) -> tuple[Any, str]:
        from dulwich.client import get_transport_and_path

        user, password = self._login()
        known = {"username": user or "driftloop", "password": password} if password else {}
        return get_transport_and_path(self._url(), **known)  # type: ignore[arg-type]

    def _with(self, head: str, folder: str, files: Mapping[str, bytes]) -> bytes:
        """The root tree at `head` with the folder in place of what it was."""
        from dulwich.object_store import commit_tree_changes
        from dulwich.objects import Blob, Tree

        inner = Tree()
        for name, data in files.items():
            blob = Blob.from_string(data)
            self._store.add_object(blob)
            inner.add(name.encode(), _FILE, blob.id)
        self._store.add_object(inner)
        root = self._store[self._store[head.encode()].tree] if head else Tree()
        self._store.add_object(root)
        return bytes(commit_tree_changes(self._store, root, [(folder.encode(), _FOLDER, inner.id)]))

    def _commit(self, tree: bytes, parent: str, message: str) -> str:
        from dulwich.objects import Commit as Object
        from dulwich.objects import ObjectID

        made = Object()
        made.tree, made.parents = ObjectID(tree), [ObjectID(parent.encode())] if parent else []
        made.author = made.committer = AUTHOR
        made.commit_time = made.author_time = int(self._clock.now().timestamp())
        made.commit_timezone = made.author_timezone = 0
        made.encoding, made.message = b"UTF-8", message.encode()
        self._store.add_object(made)
        return str(made.id.decode())


class _Moved(Exception):
    """Somebody else has pushed."""


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Errors of dulwich and of the network -> ours."""
    from dulwich.client import HTTPUnauthorized
    from dulwich.errors import GitProtocolError, NotGitRepository
    from urllib3.exceptions import HTTPError

    try:
        yield
    except NotGitRepository as error:
        raise Refused(f"{url}: {type(error).__name__}: {error}") from error
    except (HTTPUnauthorized, GitProtocolError, HTTPError, OSError) as error:
        raise Retry(f"{url}: {error}") from error
