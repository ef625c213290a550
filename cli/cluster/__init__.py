"""`driftloop cluster`: from a bare cluster to a site of Azure ML.

`check` says what in the extension's settings does not fit the cluster; `plan` and `attach` write what is to be run, as
az commands, Bicep and manifests; `verify` asks the cluster and Azure whether it worked.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cli.cluster import files, rules
from cli.cluster.extension import CLUSTER_TYPES, LEAST


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "cluster",
        help="a Kubernetes cluster as a site of Azure ML",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    check = commands.add_parser("check", help="what does not fit, before anything is installed")
    check.add_argument("--settings", type=Path, required=True, metavar="FILE", help="settings.yaml: KEY: VALUE")
    check.add_argument("--nodes", type=Path, required=True, metavar="FILE", help="kubectl get nodes -o json")
    check.add_argument("--cluster-type", choices=CLUSTER_TYPES, required=True)
    check.add_argument("--scenario", choices=LEAST, required=True)
    check.add_argument("--cluster", type=Path, metavar="FILE", help="az aks show, or az connectedk8s show")
    check.add_argument(
        "--workspace", action="append", default=[], metavar="ID", help="resource id of a workspace it is attached to"
    )
    check.add_argument("--json", action="store_true")
    check.set_defaults(command=_check)


def run(args: argparse.Namespace) -> int:
    status: int = args.command(args)
    return status


def _check(args: argparse.Namespace) -> int:
    """1 where there is an error."""
    case = files.case(args.settings, args.nodes, args.cluster_type, args.scenario, args.cluster, tuple(args.workspace))
    found = rules.check(case)
    if args.json:
        print(json.dumps({"findings": [asdict(f) for f in found]}, indent=2))
    else:
        print(
            "\n\n".join(f"{f.severity}: {f.setting}: {f.what}\n  {f.why}\n  -> {f.how}" for f in found) or "no findings"
        )
    return int(any(f.severity == "error" for f in found))
