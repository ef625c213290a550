"""What `driftloop new --azure` adds: a script and an environment of one's own, gates and rollout spelt out, and what
fleet.yaml may say of sites that are clusters."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

TRAINING = """training:  # by train.py, as a job of Azure ML and here alike
  script: train.py
  environment: environment.yaml  # registered and built by the workspace; its version is the digest of the file
  compute: {compute}"""

COMPUTE = {
    "cloud": "cloud  # the workspace's cluster (AzureMLCompute)",
    "edge": "auto  # at the site where its data stays (fleet.yaml), else in the cloud; the decision says why",
}

GATES = """\
  confidence: 0.95  # of that interval
  maximum_age: 7d  # evidence that is older when it is judged does not count
  # maximum_slice_loss: 0.02  # no cohort, and no group of a feature in slices, may lose more
  # maximum_churn: 0.2  # share of the answers that may change
  # maximum_p95_ms: 20  # for a row, on the sites' architecture
  # examples: must.csv  # rows that must not fail: docs/schemas/loop.schema.json, gates.examples"""

ROLLOUT = """\
  deadline: 3d  # a site that has not shown itself well so long after its soak is deferred
  install: 5m  # how long a site takes to start what has arrived
  minimum_requests: 20  # that a site must have answered with the candidate
  max_error_rate: 0.02
  max_failed: 0  # failed sites that are put up with before all are taken back"""

CLUSTER = """\
    # executor: azureml  # or flux: docs/push-or-pull.md
    # resource_id: /subscriptions/ID/resourceGroups/GROUP/providers/Microsoft.Kubernetes/connectedClusters/NAME
    # compute: NAME  # what the workspace calls it: driftloop cluster attach
    # instance_types: [{name: half, cpu: "1", memory: 2Gi}]  # of cluster.yaml: driftloop cluster plan
    # windows: [{cron: "0 2 * * SUN", duration: 4h}]  # when it may be changed
    # link_kbps: 2000"""

STAYS = """\
    # data: stays  # no row leaves: sketches, candidates and signed evidence do
    # dataset: /mnt/line/labelled.parquet  # the labelled rows, on a volume of the cluster
    # key_file: /mnt/line/site.pem  # signs what a job at the site finds"""


def files() -> dict[str, str]:
    """By name: what lies beside loop.yaml."""
    conda = (ROOT / "jobs" / "conda.yaml").read_text("utf-8").partition("\n")[2]
    made = "# What train.py runs in on Azure ML. Add what it needs; the pins are those that driftloop is tried with.\n"
    return {"train.py": (ROOT / "cli" / "templates" / "train.py").read_text("utf-8"), "environment.yaml": made + conda}


def loop(text: str, place: str) -> str:
    """loop.yaml with what was added; `place` is cloud or edge."""
    text = re.sub(r"^training:.*$", TRAINING.format(compute=COMPUTE[place]), text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^(gates:\n(?:  .*\n)+)", lambda found: f"{found[1]}{GATES}\n", text, count=1, flags=re.MULTILINE)
    return text.rstrip("\n") + ("\n" if "\nrollout:" in text else "\n\nrollout:\n") + ROLLOUT + "\n"


def fleet(text: str, place: str) -> str:
    """fleet.yaml: under each site, what may be said of it."""
    more = CLUSTER + (f"\n{STAYS}" if place == "edge" else "")
    first, *sites = re.split(r"^(?=  - )", text, flags=re.MULTILINE)
    return first + "".join(site.rstrip("\n") + f"\n{more}\n" for site in sites)
