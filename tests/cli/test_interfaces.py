"""What scripts of others hold on to: commands and options, the words of phases and rules, the fields of fleet.yaml.

Something may come to these lists; nothing may go from them or change its meaning.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import get_args

import msgspec
import pytest

from cli import main
from drift import report
from triggers.config import Free, InstanceType, Site, Window
from triggers.run import FINAL, Phase

TABLES = "--loop l.yaml --fleet f.yaml"
NO_TABLE = {"demo", "host", "graph", "completion", "cluster plan", "cluster attach"}
"""Commands that print no table: they run until told to end, or print or write files."""


@pytest.mark.parametrize(
    "command",
    [
        "demo --ask --serve --fresh",
        "new mine --data d.csv --label l --timestamp t --site s --id i --prediction p",
        f"replay {TABLES} --data d.csv --state state --approve --json summary.json",
        "assess --reference a.csv --current b.csv --loop l.yaml --fdr 0.05 --json",
        "backtest --loop l.yaml --data d.csv --retrain --json",
        f"plan {TABLES} --candidate 40MB --at 2026-03-02T06:00:00Z --json",
        f"simulate {TABLES} --days 30 --seed 1 --json",
        "simulate --loop l.yaml --sites 100 --days 30 --seed 1 --json",
        "cluster check --settings s.yaml --nodes n.json --cluster-type connectedClusters --scenario test --json",
        "cluster check --settings s.yaml --nodes n.json --cluster-type managedClusters --scenario production --json",
    ],
)
def test_a_command_takes_its_options(command: str) -> None:
    words = command.split()
    main.parser(words[0]).parse_args(words)


def leaves(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    below = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for choices in below:
        for word, inner in choices.items():
            yield from leaves(f"{name} {word}", inner)


def test_whatever_prints_a_table_prints_json() -> None:
    without = set()
    for command in main.COMMANDS:
        [commands] = [a for a in main.parser(command)._actions if isinstance(a, argparse._SubParsersAction)]
        for name, parser in leaves(command, commands.choices[command]):
            if not any("--json" in action.option_strings for action in parser._actions):
                without.add(name)
    assert without == NO_TABLE


def test_a_run_is_in_one_of_the_phases() -> None:
    final = {"verified", "rejected", "rolled-back", "failed", "cancelled", "superseded", "expired"}
    assert set(FINAL) == final
    assert set(Phase) == final | {"training", "evaluating", "awaiting-approval", "rolling-out", "rolling-back"}


def test_rules_keep_their_names() -> None:
    assert {"missing", "range", "unseen", "schema", "silence"} <= set(get_args(report.Kind))


def test_a_site_has_its_fields_and_needs_a_name_alone() -> None:
    fields = {f.name: f.required for f in msgspec.structs.fields(Site)}
    assert {name for name, required in fields.items() if required} == {"name"}
    assert fields.keys() >= {
        *("name", "ring", "cohort", "labels", "timezone", "windows", "blackouts", "link_kbps", "instance_types"),
        *("free", "architecture", "executor", "resource_id", "subscription", "data", "keys"),
    }
    for part, wanted in (
        (Window, {"cron", "duration"}),
        (InstanceType, {"name", "cpu", "memory"}),
        (Free, {"cpu", "memory"}),
    ):
        assert set(part.__struct_fields__) >= wanted
    for executor in ("local", "azureml", "flux", "iotedge"):
        msgspec.convert({"name": "a", "executor": executor}, Site)
    for data in ("may-leave", "stays"):
        msgspec.convert({"name": "a", "data": data}, Site)
