"""`driftloop cluster`: from a bare cluster to a site of Azure ML.

`check` says what in the extension's settings does not fit the cluster; `plan` and `attach` write what is to be run, as
az commands, Bicep and manifests; `verify` asks the cluster and Azure whether it worked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cli.cluster import files, nodes, plan, rules, verify
from cli.cluster.extension import CLUSTER_TYPES, LEAST, PRESETS
from triggers.errors import Refused


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
    planned = commands.add_parser("plan", help="write what is to be run, as az commands, Bicep and manifests")
    planned.add_argument("--cluster", required=True, metavar="ID", help="resource id of the AKS or Arc cluster")
    planned.add_argument("--preset", choices=PRESETS, help="the settings of a documented scenario")
    planned.add_argument("--settings", type=Path, metavar="FILE", help="settings.yaml; wins over --preset")
    planned.add_argument("--extension", default="azureml", metavar="NAME")
    planned.add_argument("--nodes", type=Path, metavar="FILE", help="kubectl get nodes -o json: checked, and sized")
    planned.add_argument("--scenario", choices=LEAST, default="production")
    planned.add_argument("--flux", metavar="URL", help="a Git repository that the site is to be kept like")
    planned.add_argument("--flux-branch", default="main", metavar="NAME")
    planned.add_argument("--flux-path", default="./", metavar="PATH")
    planned.set_defaults(command=_plan)
    attach = commands.add_parser("attach", help="the same, for a cluster that has the extension")
    attach.add_argument("--cluster", required=True, metavar="ID", help="resource id of the AKS or Arc cluster")
    attach.set_defaults(command=_plan, settings=None, preset=None, extension="", nodes=None, flux=None)
    verified = commands.add_parser("verify", help="whether it worked")
    verified.add_argument("--kubeconfig", type=Path, metavar="FILE", help="asks the cluster")
    verified.add_argument("--context", default="", metavar="NAME", help="of the kubeconfig; else its current one")
    verified.add_argument("--cluster", metavar="ID", help="its resource id: asks Azure")
    verified.add_argument("--arm", default=verify.ARM, metavar="URL", help="Resource Manager, in another cloud")
    verified.add_argument("--extension", default="azureml", metavar="NAME")
    verified.add_argument("--preset", choices=PRESETS, help="what the extension was given")
    verified.add_argument("--settings", type=Path, metavar="FILE")
    verified.add_argument("--score", metavar="URL", help="an endpoint's scoring URL: asks it")
    verified.add_argument("--body", type=Path, metavar="FILE", help="what it is asked")
    verified.add_argument(
        "--key-from", default="SCORING_KEY", metavar="VARIABLE", help="environment variable of its key"
    )
    verified.add_argument("--json", action="store_true")
    verified.set_defaults(command=_verify)
    for parser in (planned, attach, verified):
        parser.add_argument(
            "--attach",
            action="append",
            default=[],
            required=parser is attach,
            metavar="ID[,namespace=N][,name=C]",
            help="a workspace that is to have it; again for another, or for another namespace",
        )
    for parser in (planned, attach):
        parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write; else everything is printed")


def run(args: argparse.Namespace) -> int:
    status: int = args.command(args)
    return status


def _check(args: argparse.Namespace) -> int:
    """1 where there is an error."""
    case = files.case(args.settings, args.nodes, args.cluster_type, args.scenario, args.cluster, tuple(args.workspace))
    found = rules.check(case)
    print(json.dumps({"findings": [asdict(f) for f in found]}, indent=2) if args.json else _in_words(found))
    return int(any(f.severity == "error" for f in found))


def _in_words(found: list[rules.Finding]) -> str:
    return "\n\n".join(f"{f.severity}: {f.setting}: {f.what}\n  {f.why}\n  -> {f.how}" for f in found) or "no findings"


def _plan(args: argparse.Namespace) -> int:
    """1 where the settings do not fit the nodes: nothing is written then."""
    cluster = plan.resource(args.cluster, *CLUSTER_TYPES.values())
    settings, seen = _settings(args), nodes.read(files.read_json(args.nodes)) if args.nodes else []
    if not settings and args.extension:
        raise Refused("say which settings: --preset, --settings, or both")
    attachments = [plan.attachment(text, cluster.name) for text in args.attach]
    flux = plan.Flux(args.flux, args.flux_branch, args.flux_path) if args.flux else None
    made = plan.through_arc(plan.Plan(cluster, args.extension, settings, attachments, flux, seen))
    if seen:
        found = rules.check(rules.Case(settings, seen, made.cluster_type, args.scenario))
        if any(f.severity == "error" for f in found):
            print(_in_words(found), file=sys.stderr)
            return 1
    for name, text in plan.files(made).items():
        if args.out is None:
            print(f"==> {name} <==\n{text}")
            continue
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / name).write_text(text)
        print(args.out / name)
    return 0


def _settings(args: argparse.Namespace) -> dict[str, str]:
    """Those of the preset, and over them those of the file. Raises Refused for a file with more than settings."""
    told, twice, nested = files.read_settings(args.settings) if args.settings else ({}, [], [])
    if twice or nested:
        raise Refused(
            f"{args.settings}: {', '.join(twice + nested)}: each setting once, flat (driftloop cluster check)"
        )
    return {**(PRESETS[args.preset][1] if args.preset else {}), **told}


def _verify(args: argparse.Namespace) -> int:
    """1 where something is not as it should be."""
    if not (args.kubeconfig or args.cluster or args.score):
        raise Refused("say whom to ask: --kubeconfig, --cluster, --score")
    cluster = plan.resource(args.cluster, *CLUSTER_TYPES.values()) if args.cluster else None
    checks: list[verify.Check] = []
    if cluster:
        attached = [plan.attachment(text, cluster.name) for text in args.attach]
        checks += verify.in_azure(verify.arm(args.arm), cluster, args.extension, attached)
    if args.kubeconfig:
        arc = bool(cluster and cluster.type == CLUSTER_TYPES["connectedClusters"])
        checks += verify.in_cluster(verify.kube(args.kubeconfig, args.context), _settings(args), args.extension, arc)
    if args.score:
        body = args.body.read_bytes() if args.body else b"{}"
        checks.append(verify.scoring(args.score, body, os.environ.get(args.key_from, "")))
    if args.json:
        print(json.dumps({"checks": [asdict(c) for c in checks]}, indent=2))
    else:
        print("\n".join(f"{'ok    ' if c.ok else 'failed'} {c.name}: {c.what}{_remedy(c)}" for c in checks))
    return int(not all(c.ok for c in checks))


def _remedy(check: verify.Check) -> str:
    return f"\n       -> {check.how}" if check.how else ""
