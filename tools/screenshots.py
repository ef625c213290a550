"""docs/screenshots/: the dashboard with what the demo has come to, in headless Chromium.

`python tools/screenshots.py` plays the demo until a candidate that passed its gates waits for an answer, looks at every
page, approves, looks at the rollout in its second wave, and ends there: some minutes. Needs Chromium and Node.js.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cli.demo import FLIGHTS, OFFLINE, SITE_FAULTS, Demo, flights  # noqa: E402
from cli.replay import Options  # noqa: E402
from tools import setup  # noqa: E402
from triggers import loop as shell  # noqa: E402
from triggers.run import Phase, Run  # noqa: E402

OUT = ROOT / "docs" / "screenshots"
HOME = ROOT / "build" / "screenshots"
LOOK = ROOT / "tests" / "servers" / "look.mjs"
MOST = {1440: 1300, 390: 1500}
"""Pixels of height that are kept, by width."""


class Enough(Exception):
    """Everything was looked at."""


class Shown(Demo):
    """The demo, looked at while it goes."""

    asked = ""

    def _answer_page(self, run: Run) -> bool:
        if run.outcome == "passed" and not self.asked:
            self.asked = run.id
            self.look(pages(run.id))
        return super()._answer_page(run)

    def act(self, now: Any, say: Any) -> None:
        """Look at a rollout whose first wave is verified."""
        super().act(now, say)
        for run in shell.active_runs(self.local.ports, self.loop.loop):
            if run.phase is Phase.ROLLING_OUT and run.wave == 1:
                self.look({"rollouts": "#/rollouts"})
                raise Enough

    def look(self, paths: dict[str, str]) -> None:
        """Chromium asks while the host answers: its server has threads of its own."""
        cookie = self._browser().headers["Cookie"].split("=", 1)
        spec = {
            "chromium": shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"),
            "profile": str(HOME / "profile"),
            "node": str(setup.NODE),
            "cookie": dict(zip(("name", "value"), cookie, strict=True)),
            "pages": [
                {
                    "url": f"{self.url}{path if path.startswith('/') else f'/api/ui/{path}'}",
                    "width": width,
                    "dark": dark,
                    "high": MOST[width],
                    "picture": str(OUT / f"{name}-{width}{'-dark' * dark}.webp"),
                }
                for name, path in paths.items()
                for width, dark in ((1440, False), (390, name == "fleet"))
            ],
        }
        (HOME / "spec.json").write_text(json.dumps(spec))
        subprocess.run(["node", str(LOOK), str(HOME / "spec.json")], check=True, stdout=subprocess.DEVNULL)


def pages(run: str) -> dict[str, str]:
    """Every page, by the name of its picture."""
    return {
        "fleet": "#/fleet",
        "site": "#/fleet/site/LGA",
        "drift": "#/drift/flights?days=90",
        "feature": "#/drift/flights/JFK/temp?days=90",
        "runs": "#/runs",
        "run": f"#/runs/{run}",
        "approvals": "#/approvals",
        "approval": f"/api/approvals/{run}",
        "quarantine": "#/quarantine",
        "audit": "#/audit",
        "costs": "#/costs",
    }


def main() -> int:
    setup.node()
    shutil.rmtree(HOME, ignore_errors=True)
    shutil.rmtree(OUT, ignore_errors=True)
    HOME.mkdir(parents=True)
    OUT.mkdir(parents=True)
    files = FLIGHTS / "loop.yaml", FLIGHTS / "fleet.yaml", flights(HOME), HOME / "state"
    try:
        with Shown(Options(*files, "approve", 0, SITE_FAULTS, OFFLINE, only_labelled=True)) as demo:
            demo.adopt()
            for now in demo.ticks():
                demo.act(now, print)
    except Enough:
        size = sum(file.stat().st_size for file in OUT.iterdir())
        print(f"{len(list(OUT.iterdir()))} pictures, {size / 1e6:.2f} MB in {OUT.relative_to(ROOT)}")
        return 0
    print("no candidate passed its gates: nothing to show")
    return 1


if __name__ == "__main__":
    sys.exit(main())
