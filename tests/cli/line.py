"""A small loop with a story: two plants whose machines run hotter one day, and what makes scrap turns round."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

DAYS, BEFORE, A_DAY = 60, 30, 60
"""Days in all and of bootstrap; rows of a day from each plant."""

START = datetime(2024, 1, 1, tzinfo=UTC)

LOOP = """
loop: line
schema:
  timestamp: time
  site: plant
  id: piece
  label: scrap
  features: [{{name: heat}}, {{name: load}}, {{name: tool, kind: category}}]
bootstrap: {{until: {until}}}
drift: {{minimum_rows: 30}}
retrain: {{confirm: 2, cooldown: 10d, minimum_rows: {minimum_rows}}}
training: {{window: 20d, holdout: {holdout}}}
gates: {{minimum_rows: 100, confidence: 0.8}}
approval: {{approvers: [operator]}}
rollout: {{rings: [first, rest], minimum_requests: 20}}
"""
FLEET = "sites: [{name: north, ring: first}, {name: south, ring: rest}]\n"


def write(
    folder: Path,
    start: datetime = START,
    days: int = DAYS,
    changes: int = 6,
    holdout: str = "4d",
    minimum_rows: int = 300,
    plants: Sequence[str] = ("north", "south"),
) -> Path:
    """rows.csv, loop.yaml and fleet.yaml; so many days after the bootstrap the world changes."""
    random = np.random.default_rng(3)
    lines = ["piece,time,plant,heat,load,tool,scrap"]
    for day in range(days):
        for plant in plants:
            changed = day >= BEFORE + changes
            heat = random.normal(3.0 * changed, 1.0, A_DAY)
            load = random.normal(0.0, 1.0, A_DAY)
            wrong = random.random(A_DAY) < 1 / (1 + np.exp(-(-2.0 if changed else 2.0) * load))
            tool = random.choice(["drill", "mill"], A_DAY)
            for i in range(A_DAY):
                at = int(start.timestamp()) + day * 86_400 + i * (86_400 // A_DAY)
                row = f"{plant}-{day}-{i},{at},{plant},{heat[i]:.3f},{load[i]:.3f},{tool[i]},{int(wrong[i])}"
                lines.append(row)
    (folder / "rows.csv").write_text("\n".join(lines))
    until = (start + timedelta(days=BEFORE)).isoformat().replace("+00:00", "Z")
    (folder / "loop.yaml").write_text(LOOP.format(until=until, holdout=holdout, minimum_rows=minimum_rows))
    (folder / "fleet.yaml").write_text(FLEET)
    return folder
