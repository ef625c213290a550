"""Sites as Azure has them: what asks an online endpoint at a plant, and Flux in a cluster."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from adapters.azure.flux import CONFIGURATION, folder_of
from cli.children import environment, terminate
from cli.host import APP
from cli.replay import call
from edge.player import Recording
from tests.adapters.azureml import AzureMl
from tests.servers.git import Bare

ROWS = 10
"""In one request."""


class Machines:
    """What asks a site's endpoint over https: recorded rows, and what became of them when that is known. Then the
    deployments that have answered are asked to report."""

    def __init__(self, server: AzureMl, endpoint: str, rows: Path, features: tuple[str, ...]) -> None:
        address = urlsplit(f"{server.url}/score/{endpoint}")
        trusted = ssl.create_default_context(cafile=str(server.ca))
        self._connection = HTTPSConnection(str(address.hostname), address.port, timeout=60, context=trusted)
        self._path, self._recording = address.path, Recording(rows, features)
        self._row = self._label = 0
        self.answered: dict[str, int] = {}
        """Rows, by candidate."""

    def play(self, to: int) -> None:
        """Everything up to `to` (UTC seconds)."""
        whole, asked = self._recording, set()
        until = int(np.searchsorted(whole.at, to, "right"))
        for start in range(self._row, until, ROWS):
            rows = whole.rows(slice(start, min(start + ROWS, until)), np.empty(0))
            columns = {name: list(values) for name, values in rows.columns.items()}
            cells = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            told = zip(rows.ids, rows.at.tolist(), cells, strict=True)
            answer = self._ask({"rows": [{"id": name, "at": at, **row} for name, at, row in told]})
            self.answered[answer["candidate"]] = self.answered.get(answer["candidate"], 0) + len(answer["scores"])
            asked.add(answer["candidate"])
        self._row = until
        known = int(np.searchsorted(whole.known_at, to, "right"))
        if known > self._label:
            labels = whole.labels(slice(self._label, known))
            truth = zip(labels.ids, labels.at.tolist(), labels.label.tolist(), strict=True)
            answer = self._ask({"labels": [{"id": name, "at": at, "label": label} for name, at, label in truth]})
            assert answer == {"labels": known - self._label}
            self._label = known
            asked.add(self._ask({})["candidate"])
        for candidate in sorted(asked):
            status = self._ask({"report": True}, f"c-{candidate[:12]}")
            assert status["buffered"] == 0, status

    def close(self) -> None:
        self._connection.close()

    def _ask(self, said: Any, deployment: str = "") -> dict[str, Any]:
        headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
        if deployment:
            headers["azureml-model-deployment"] = deployment
        self._connection.request("POST", self._path, json.dumps(said), headers)
        answer = self._connection.getresponse()
        found: dict[str, Any] = json.loads(answer.read())
        assert answer.status == 200, found
        assert "error" not in found, found
        return found


@dataclass
class Flux:
    """Flux in a cluster: brings a site's folder of the repository onto the disk of the site's program, which it starts
    and which plays `rows`; the cluster's fluxConfiguration says how far it is.

    What a pod has of its own (its network, its volumes) is here a free port and `folder`.
    """

    bare: Bare
    server: AzureMl
    cluster: str
    loop: str
    site: str
    folder: Path
    rows: Path
    url: str = ""
    _seen: str = ""
    _close: ExitStack = field(default_factory=ExitStack)

    def work(self, now: datetime) -> None:
        """Pull, and report."""
        path = f"{self.cluster}/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/{CONFIGURATION}"
        new = {"id": path, "name": CONFIGURATION, "properties": {"suspend": False, "sourceSyncedCommitId": ""}}
        said = self.server.resources.setdefault(path, new)["properties"]
        said["statusUpdatedAt"] = now.isoformat()
        head = self.bare.head
        if head and head != self._seen:
            self._bring(self.bare.files(folder_of(self.loop, self.site)))
            self._seen = head
        said["sourceSyncedCommitId"] = f"main@sha1:{head}" if head else ""
        said["complianceState"] = "Compliant"

    def close(self) -> None:
        self._close.close()

    def _bring(self, files: dict[str, bytes]) -> None:
        if not files:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            partial = self.folder / f"{name}.partial"
            partial.write_bytes(data)
            partial.replace(self.folder / name)
        if not self.url:
            self._start(json.loads(files["edge.json"]))
        wanted = json.loads(files["wanted.json"])["candidate"]
        end = time.monotonic() + 30
        while (status := call(self.url, "GET", "status"))["candidate"] != wanted:
            assert time.monotonic() < end, status
            time.sleep(0.05)

    def _start(self, told: dict[str, Any]) -> None:
        [site] = told["sites"]
        site |= {"state": "state", "wanted": "wanted.json", "data": str(self.rows)}
        config = self.folder / "pod.json"
        config.write_text(json.dumps({"host": "127.0.0.1", "port": 0, "sites": [site]}))
        log = self._close.enter_context((self.folder / "log.txt").open("ab"))
        command = [sys.executable, "-m", "edge", "--config", str(config)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=APP.parent, env=environment())
        self._close.callback(terminate, process)
        assert process.stdout is not None
        self.url = f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}/{self.site}"
