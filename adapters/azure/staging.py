"""What a job is sent: the program, the loop's own files, and where it runs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from triggers.errors import Refused
from triggers.ports import Blobs

ROOT = Path(__file__).parents[2]
PROGRAM = ("jobs", "edge", "drift", "triggers")
IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:latest"
"""What a conda file is installed on."""


class Files:
    """The files of a loop: loop.yaml, the scripts and environments beside it."""

    def __init__(self, config: Blobs, loop: str) -> None:
        """`config` holds them as <loop>/<file>."""
        self._config = config
        self._prefix = f"{loop}/"

    def read(self, name: str) -> bytes:
        """Raises NotFound."""
        return self._config.get(self._prefix + name)

    def all(self) -> dict[str, bytes]:
        """By name, but for the fleet: no job needs to know it."""
        found = (name for name in self._config.names(self._prefix) if not name.endswith("/fleet.yaml"))
        return {name.removeprefix(self._prefix): self._config.get(name) for name in found}


@contextmanager
def program(files: Files, public: bytes) -> Iterator[Path]:
    """A folder with the job's program, and in config/ the loop's files and the registry's public key; the same files
    make the same snapshot."""
    with TemporaryDirectory(prefix="snapshot-") as name:
        folder = Path(name) / "driftloop"
        for package in PROGRAM:
            wanted = shutil.ignore_patterns("__pycache__", "*.pyc", "README.md", "Dockerfile")
            shutil.copytree(ROOT / package, folder / package, ignore=wanted)
        for path, data in {**files.all(), "registry.pub": public}.items():
            target = (folder / "config" / path).resolve()
            if not target.is_relative_to(folder):
                raise Refused(f"a file of the loop may not be called {path!r}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        yield folder


def digest_of(folder: Path) -> str:
    """sha256 of names and bytes of all files: the code's version."""
    made = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        made.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        made.update(path.read_bytes())
    return made.hexdigest()


def environment(loop: str, wanted: str | None, files: Files, blobs: Blobs, storage: str) -> Any:
    """What the job runs in, as azure.ai.ml takes it: a name of the workspace's or a registry's, or an environment made
    of a conda file or a Dockerfile, which the workspace builds. Its version is the digest of what it is made of.

    A Dockerfile's build context is the loop's files, put where `storage` (the container's address) says.
    """
    from azure.ai.ml.entities import BuildContext, Environment

    if wanted and wanted.startswith("azureml:"):
        return wanted
    made = (ROOT / "jobs" / "conda.yaml").read_bytes() if wanted is None else files.read(wanted)
    if made.lstrip().startswith((b"FROM", b"ARG", b"#syntax", b"# syntax")):
        context = files.all()
        version = hashlib.sha256(b"".join(f"{n}\0".encode() + d for n, d in sorted(context.items()))).hexdigest()[:16]
        for name, data in context.items():
            blobs.put(f"contexts/{loop}/{version}/{name}", data)
        where = f"{storage}/contexts/{loop}/{version}/"
        return Environment(
            name=f"driftloop-{loop}", version=version, build=BuildContext(path=where, dockerfile_path=wanted)
        )
    import yaml

    version = hashlib.sha256(IMAGE.encode() + made).hexdigest()[:16]
    return Environment(name=f"driftloop-{loop}", version=version, image=IMAGE, conda_file=yaml.safe_load(made))
