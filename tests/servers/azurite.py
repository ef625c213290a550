"""Azurite, the storage emulator: blobs and tables over https, with keys and with tokens, in memory."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import process
from tools import setup

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # everybody's
FLAGS = ("--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--oauth", "basic")


@dataclass(frozen=True)
class Azurite:
    """Where the emulator listens."""

    blobs: str
    tables: str

    @property
    def settings(self) -> dict[str, str]:
        """What an app on it is told."""
        return {"Storage__blobServiceUri": self.blobs, "Storage__tableServiceUri": self.tables}

    def connection_string(self) -> str:
        said = {
            "DefaultEndpointsProtocol": "https",
            "AccountName": ACCOUNT,
            "AccountKey": KEY,
            "BlobEndpoint": self.blobs,
            "TableEndpoint": self.tables,
        }
        return ";".join(f"{name}={value}" for name, value in said.items())


@contextmanager
def running(folder: Path, cert: Path, key: Path) -> Iterator[Azurite]:
    """Azurite on free ports of 127.0.0.1, with this certificate."""
    if shutil.which("node") is None:
        pytest.skip("no Node.js")
    setup.node()
    command = [str(setup.NODE / "node_modules/.bin/azurite"), *FLAGS, "--cert", str(cert), "--key", str(key)]
    command += ["--blobPort", "0", "--queuePort", "0", "--tablePort", "0"]
    with process.running(command, folder) as lines:
        found: dict[str, str] = {}
        for line in lines:
            if match := re.search(r"Azurite (\w+) service is successfully listening at (\S+)", line):
                found[match[1]] = f"{match[2]}/{ACCOUNT}"
            if len(found) == 3:
                break
        threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()
        yield Azurite(found["Blob"], found["Table"])
