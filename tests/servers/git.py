"""A bare Git repository on a disk, over smart HTTP."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from dulwich.object_store import commit_tree_changes
from dulwich.objects import Blob, Commit
from dulwich.repo import Repo
from dulwich.server import DictBackend
from dulwich.web import make_wsgi_chain


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        return


@dataclass
class Bare:
    """`before` is called with each request's path first: it may push, wait, or raise."""

    url: str
    folder: Path
    before: list[Callable[[str], None]] = field(default_factory=list)

    def files(self, path: str) -> dict[str, bytes]:
        """What is committed below a path."""
        with Repo(str(self.folder)) as repo:
            store = repo.object_store
            root = repo[repo.refs[b"refs/heads/main"]].tree
            found = {}
            for entry in store.iter_tree_contents(root):
                name = entry.path.decode()
                if name.startswith(path):
                    found[name.removeprefix(path).lstrip("/")] = store[entry.sha].data
            return found

    def messages(self) -> list[str]:
        """Of all commits, newest first."""
        with Repo(str(self.folder)) as repo:
            walk = repo.get_walker(include=[repo.refs[b"refs/heads/main"]], order="topo")
            return [entry.commit.message.decode() for entry in walk]

    def commit(self, path: str, data: bytes) -> None:
        """As if somebody had pushed."""
        with Repo(str(self.folder)) as repo:
            blob = Blob.from_string(data)
            repo.object_store.add_object(blob)
            head = repo.refs[b"refs/heads/main"]
            tree = commit_tree_changes(repo.object_store, repo[head].tree, [(path.encode(), 0o100644, blob.id)])
            made = Commit()
            made.tree, made.parents, made.message = tree, [head], b"of another"
            made.author = made.committer = b"other <other@localhost>"
            made.commit_time = made.author_time = made.commit_timezone = made.author_timezone = 0
            repo.object_store.add_object(made)
            repo.refs[b"refs/heads/main"] = made.id

    @property
    def commits(self) -> int:
        with Repo(str(self.folder)) as repo:
            there = b"refs/heads/main" in repo.refs
        return len(self.messages()) if there else 0

    @property
    def head(self) -> str:
        """Empty where nothing was ever pushed."""
        branch = self.folder / "refs" / "heads" / "main"
        return branch.read_text().strip() if branch.exists() else ""


@contextmanager
def serving(folder: Path, cert: str = "", key: str = "") -> Iterator[Bare]:
    """With a certificate, over https."""
    Repo.init_bare(str(folder), mkdir=True, default_branch=b"main").close()
    repo = Repo(str(folder))
    backend = DictBackend({"/fleet.git": repo})
    chain = make_wsgi_chain(backend)
    bare = Bare("", folder)

    def app(environ: Any, respond: Any) -> Any:
        for each in list(bare.before):
            each(environ["PATH_INFO"])
        return chain(environ, respond)

    server = make_server("127.0.0.1", 0, app, WSGIServer, _Quiet)
    if cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    bare.url = f"http{'s' * bool(cert)}://127.0.0.1:{server.server_port}/fleet.git"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield bare
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        repo.close()
