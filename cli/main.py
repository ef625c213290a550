"""The `driftloop` command. Each command is a module of cli/ with `add_parser` and `run`, imported when it is asked for.

Exit status: 0 done, 1 a negative finding or a failed run, 2 wrong usage or configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from triggers.errors import DriftloopError, Misconfigured, Refused

VERSION = "0.1.0"

COMMANDS = {
    "demo": "the whole loop on a year of flights, faults and all",
    "new": "loop.yaml and fleet.yaml from a table of yours",
    "validate": "whether loop.yaml and fleet.yaml are right, and fit each other",
    "replay": "the whole loop over a table of yours",
    "status": "every loop at a glance",
    "runs": "a loop's runs",
    "show": "everything about one run",
    "explain": "a run's story",
    "approve": "let a run's candidate through",
    "reject": "refuse a run's candidate, or ask for changes",
    "check": "a drift check now",
    "retrain": "begin a run now",
    "cancel": "stop a run",
    "rollout": "pause, resume or roll back a run's rollout",
    "revoke": "let no site be asked to serve a candidate",
    "freeze": "begin nothing new at a site, in a loop, or at all",
    "unfreeze": "go on where a freeze stopped",
    "quarantine": "what was not counted, and why",
    "audit": "who decided what: the audit trail, and whether it is whole",
    "doctor": "what is wrong with an installation",
    "assess": "how far one table is from another",
    "backtest": "what the loop would have said and done on a table",
    "sketch": "a table as counts, for a site with a thin link",
    "backfill": "late history into an app's state",
    "report": "the drift report of a model, a time and a site, for a person",
    "fleet": "fleet.yaml from Azure Resource Graph",
    "plan": "the waves in which a candidate would reach the fleet",
    "simulate": "a rollout to a fleet, with faults",
    "cluster": "what stands in the way of Azure ML on a cluster",
    "host": "run the function app on this machine",
    "graph": "how a run moves, as a diagram",
    "completion": "what bash, zsh or fish need to complete all this",
}
"""In the order of --help; one whose module is not there is left out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; what it refuses is said in a line per problem."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = parser(*words[:1]).parse_args(words)
        status: int = args.module.run(args)
        sys.stdout.flush()
        return status
    except DriftloopError as e:
        print(e if "problems" in e.fields else f"driftloop: {e}", file=sys.stderr)
        return 2 if isinstance(e, Refused | Misconfigured) else 1
    except BrokenPipeError:  # whoever read along has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as e:
        print(f"driftloop: {_said(e)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _said(e: OSError) -> str:
    return f"{e.filename}: {e.strerror}" if e.filename else str(e)


def parser(*asked: str) -> argparse.ArgumentParser:
    """With the arguments of the commands that are asked for; of the others, no more than a line of help."""
    made = argparse.ArgumentParser(prog="driftloop", description="Closes the loop for models that run at the edge.")
    made.add_argument("--version", action="version", version=f"driftloop {VERSION}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        if name in asked:
            module = import_module(f"cli.{name}")
            module.add_parser(commands)
            commands.choices[name].set_defaults(module=module)
        elif find_spec(f"cli.{name}"):
            commands.add_parser(name, help=summary)
    return made


if __name__ == "__main__":
    sys.exit(main())
