"""What an environment uses in a month, idle and for each million batches; and what that costs, at prices of yours.

`python tools/costs.py --environment prod --prices prices.json`: prices.json is {meter: price of one}, in your currency,
from your price sheet. A meter without a price is shown as a quantity alone. docs/costs.md says what is in which meter.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOURS = 730
"""Of a month."""

TIMERS = 30 + 30 * 24 * 12 + 30 * 24 * 4
"""Runs of the three timers in a month: daily, every 5 and every 15 minutes."""

BATCH = 128
"""Batches that one run of a function takes from the queue (host.json)."""

UNIT_KB = 64
"""Of a message, for the queue's billing."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What the templates make of an environment's parameters."""

    apps: int
    closed: bool
    always_ready: int
    endpoints: int
    zones: int
    alerts: int


ENVIRONMENTS: Mapping[str, Environment] = {
    "dev": Environment(1, False, 0, 0, 0, 0),
    "test": Environment(3, False, 0, 0, 0, 0),
    "prod": Environment(3, True, 1, 11, 7, 6),
}


@dataclass(frozen=True, slots=True)
class Use:
    """What a person has to say: of a batch, its size and the seconds of a function that takes it and counts it; of
    logs, MB a million batches; of an app, its memory."""

    kb: float = 60.0
    take_s: float = 0.05
    count_s: float = 0.02
    timer_s: float = 2.0
    log_mb: float = 200.0
    memory_gb: float = 2.0


def idle(at: Environment, use: Use) -> dict[str, float]:
    """Quantities by meter, of a month in which nothing comes."""
    found = {
        "functions: runs": float(TIMERS),
        "functions: GB-seconds": TIMERS * use.timer_s * use.memory_gb,
        "storage: table and blob operations": TIMERS * 20.0,
        "storage: GB": 1.0,
        "logs: GB": 0.5,
    }
    if at.closed:
        found |= {
            "queues: Premium unit-hours": float(HOURS),
            "private endpoints: hours": float(at.endpoints * HOURS),
            "private DNS: zones": float(at.zones),
            "registry: Premium days": 30.0,
        }
    else:
        found |= {"queues: Standard months": 1.0, "registry: Basic days": 30.0}
    if at.always_ready:
        found["functions: always-ready GB-seconds"] = at.always_ready * at.apps * HOURS * 3600 * use.memory_gb
    if at.alerts:
        found["alerts: rules"] = float(at.alerts)
    return found


def of_batches(at: Environment, use: Use, millions: float) -> dict[str, float]:
    """Quantities by meter that come on top, for batches over HTTP.

    Each is taken by one run and sent; one run counts 32 of them: for each, a window, a record and the bundle's share.
    """
    batches = millions * 1e6
    units = max(-(-use.kb // UNIT_KB), 1)
    found = {
        "functions: runs": batches * (1 + 1 / BATCH),
        "functions: GB-seconds": batches * (use.take_s + use.count_s) * use.memory_gb,
        "storage: table and blob operations": batches * 3,
        "storage: GB": batches * use.kb / 1024**2,
        "logs: GB": millions * use.log_mb / 1024,
    }
    return found if at.closed else {**found, "queues: Standard operations": batches * units * 3}


def table(parts: Mapping[str, Mapping[str, float]], prices: Mapping[str, float]) -> str:
    """Quantities, and what they cost where the price is known."""
    lines = []
    for title, quantities in parts.items():
        lines += [title, "-" * len(title)]
        for meter, amount in quantities.items():
            price = prices.get(meter)
            cost = f"{amount * price:12,.2f}" if price is not None else f"{'price?':>12}"
            lines.append(f"{meter:40}{amount:18,.1f}{cost}")
        known = sum(amount * prices[meter] for meter, amount in quantities.items() if meter in prices)
        lines += [f"{'together, of what has a price':58}{known:12,.2f}", ""]
    return "\n".join(lines).rstrip("\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", choices=ENVIRONMENTS, default="dev")
    parser.add_argument("--prices", type=Path, metavar="FILE")
    parser.add_argument("--millions", type=float, default=1.0, help="of batches")
    for name, default in vars_of(Use()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default)
    args = parser.parse_args(argv)
    prices: dict[str, float] = json.loads(args.prices.read_text("utf-8")) if args.prices else {}
    at, use = ENVIRONMENTS[args.environment], Use(**{name: getattr(args, name) for name in vars_of(Use())})
    parts = {
        f"{args.environment}, idle, a month": idle(at, use),
        f"and for {args.millions:g} million batches": of_batches(at, use, args.millions),
    }
    if unknown := set(prices) - {meter for part in parts.values() for meter in part} - METERS:
        print(f"no such meter: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    print(table(parts, prices))
    return 0


def vars_of(use: Use) -> dict[str, float]:
    return {name: getattr(use, name) for name in Use.__slots__}


METERS = frozenset(
    meter for at in ENVIRONMENTS.values() for part in (idle(at, Use()), of_batches(at, Use(), 1)) for meter in part
)

if __name__ == "__main__":
    sys.exit(main())
