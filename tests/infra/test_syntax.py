"""Bicep by a grammar that is not ours (tree-sitter-bicep); Bicep, manifests and Dockerfile by Checkov's rules."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_bicep

from cli import main
from cli.cluster.extension import PRESETS
from tests.infra.test_infra import ROOT, SHARED, TEMPLATES

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bicep.language()))


def faults(text: str) -> list[int]:
    """The lines at which the grammar is left, or misses something."""

    def wrong(node: tree_sitter.Node) -> Iterator[int]:
        if node.is_error or node.is_missing:
            yield node.start_point.row + 1
        else:
            for child in node.children:
                yield from wrong(child)

    return list(wrong(PARSER.parse(text.encode()).root_node))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.name)
def test_a_template_is_bicep(path: Path) -> None:
    text = path.read_text("utf-8")
    assert faults(text) == []
    assert faults(text.replace("}", "", 1)) != [] or "}" not in text, "the grammar notices a brace that is gone"


def test_parameters_are_bicep() -> None:
    """The grammar knows no `using` and no assignment of a parameter: as a variable it is the same expression."""
    for path in sorted((ROOT / "infra").glob("*.bicepparam")):
        text = re.sub(r"^using '.*'$", "", path.read_text("utf-8"), flags=re.MULTILINE)
        assert faults(re.sub(r"^param ", "var ", text, flags=re.MULTILINE)) == [], path.name


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_cluster_s_plan_writes_is_bicep(tmp_path: Path, preset: str) -> None:
    kind = (
        "ContainerService/managedClusters"
        if PRESETS[preset][0] == "managedClusters"
        else "Kubernetes/connectedClusters"
    )
    workspace = f"{SHARED}/Microsoft.MachineLearningServices/workspaces/ml"
    words = ["--cluster", f"{SHARED}/Microsoft.{kind}/south", "--preset", preset, "--attach", workspace]
    words += ["--flux", "https://git.example.com/sites.git", "--out", str(tmp_path)]
    assert main.main(["cluster", "plan", *words]) == 0
    assert faults((tmp_path / "onboard.bicep").read_text()) == []


UNREAD = ("main.bicep", "modules/grants.bicep", "modules/roles.bicep")
"""Checkov's parser does not read them: they make modules, role assignments and role definitions, and a group."""


@pytest.mark.nightly
def test_checkov_finds_nothing_that_is_not_explained(tmp_path: Path) -> None:
    """In an environment of its own, as the pipeline does it: a minute of processor time, 291 MB."""
    [pin] = set(re.findall(r"checkov==[\d.]+", (ROOT / ".github" / "workflows" / "infra.yml").read_text()))
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    subprocess.run([tmp_path / "bin" / "pip", "install", "--quiet", pin], check=True)
    command = [tmp_path / "bin" / "checkov", "--config-file", "infra/checkov.yaml"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    told = (
        r"(\w+) scan results:\s+"
        r"Passed checks: (\d+), Failed checks: (\d+), Skipped checks: 0(?:, Parsing errors: (\d+))?"
    )
    found = {kind: [int(n or 0) for n in counts] for kind, *counts in re.findall(told, done.stdout)}
    assert done.returncode == 0, done.stdout[-2000:]
    assert found.keys() == {"bicep", "dockerfile", "kubernetes"}
    least = {"bicep": 40, "dockerfile": 25, "kubernetes": 80}
    unread = {"bicep": len(UNREAD)}
    for kind, (passed, failed, errors) in found.items():
        assert (passed >= least[kind], failed, errors) == (True, 0, unread.get(kind, 0)), kind
