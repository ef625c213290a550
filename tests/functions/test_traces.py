"""What we tell of ourselves: a trace for each run, only where somebody wants to hear it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

STEPS = """
import contextlib, logging, sys
from functions import traces
with traces.step("advance_run", "flights.2013-04-12.1"): pass
with contextlib.suppress(ValueError), traces.step("perform_effect", "flights.2013-04-12.1"): raise ValueError
with traces.step("advance_run", "other"): pass
logging.getLogger("driftloop").warning("a word")
print([name for name in sys.modules if name.startswith(("opentelemetry", "azure.monitor"))] == [])
if "opentelemetry" in sys.modules:
    from opentelemetry import metrics, trace
    trace.get_tracer_provider().force_flush()
    metrics.get_meter_provider().force_flush()
"""


def steps(connection: str) -> str:
    env = {**os.environ, "APPLICATIONINSIGHTS_CONNECTION_STRING": connection, "NO_PROXY": "127.0.0.1"}
    env["APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL"] = "true"
    done = subprocess.run([sys.executable, "-c", STEPS], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_nothing_is_imported_where_nobody_listens() -> None:
    assert steps("") == "True"


@pytest.mark.wire
def test_the_steps_of_a_run_are_one_trace() -> None:
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found = json.loads(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            told.extend(found)
            said = json.dumps({"itemsReceived": len(found), "itemsAccepted": len(found), "errors": []}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f"http://127.0.0.1:{server.server_port}/"
        steps(f"InstrumentationKey=11111111-2222-3333-4444-555555555555;IngestionEndpoint={where};LiveEndpoint={where}")
        server.shutdown()
    spans = [item for item in told if item["data"]["baseType"] in ("RemoteDependencyData", "RequestData")]
    runs: dict[str, set[str]] = {}
    for span in spans:
        runs.setdefault(span["tags"]["ai.operation.id"], set()).add(span["data"]["baseData"]["name"])
    assert sorted(map(sorted, runs.values())) == [["advance_run"], ["advance_run", "perform_effect"]]
    kinds = {item["data"]["baseType"] for item in told}
    assert {"MessageData", "MetricData"} <= kinds
