"""`python -m edge --config edge.json`: host sites until SIGTERM. Says {"port": ...} on stdout when it is ready."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from edge.config import load
from edge.errors import Refused
from edge.server import Host


def main() -> int:
    parser = argparse.ArgumentParser(prog="edge", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="edge.json")
    parser.add_argument("--parent", type=int, help="end when this process is no longer the parent")
    asked = parser.parse_args()
    try:
        host = Host(load(asked.config))
    except (Refused, OSError) as error:
        print(f"edge: {error}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=host.stop).start())
    if asked.parent is not None:
        threading.Thread(target=_end_with, args=(asked.parent, host), daemon=True).start()
    print(json.dumps({"port": host.port, "sites": sorted(host.sites)}), flush=True)
    host.run()
    return 0


def _end_with(parent: int, host: Host) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    host.stop()


if __name__ == "__main__":
    sys.exit(main())
