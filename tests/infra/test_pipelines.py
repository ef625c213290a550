"""Azure Pipelines do what GitHub Actions do: the same steps in the same order, told the same, from main alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.azure_pipelines import PipelineError, expanded
from tests.infra.test_infra import ENVIRONMENTS, INFRA, PIPELINES, ROOT

AZURE = ROOT / ".azure-pipelines"
TRACKS = {"infra": "deploy-{}", "loops": "{}"}
MAIN = "and(succeeded(), eq(variables['Build.SourceBranch'], 'refs/heads/main'))"


def github(track: str) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load((PIPELINES / f"{track}.yml").read_text())
    return found


def azure(track: str) -> dict[str, dict[str, Any]]:
    return {s["stage"]: s for s in expanded(AZURE / f"{track}.yml")["stages"]}


def steps(job: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = job["strategy"]["runOnce"]["deploy"]["steps"] if "deployment" in job else job["steps"]
    return found


def told_by_github(step: dict[str, Any]) -> dict[str, str]:
    """Name to where its value is from; the environment's own name is the matrix's or a variable."""
    return {
        k: re.sub(r"\$\{\{ (?:vars|secrets|matrix)\.(\w+) \}\}", r"\1", v).upper()
        for k, v in step.get("env", {}).items()
    }


def told_by_azure(step: dict[str, Any]) -> dict[str, str]:
    return {k: re.sub(r"\$\((\w+)\)", r"\1", v) for k, v in step.get("env", {}).items()}


def done_by_github(job: dict[str, Any]) -> list[Any]:
    return [(s["name"], s["run"].rstrip(), told_by_github(s)) for s in job["steps"] if "run" in s]


def done_by_azure(job: dict[str, Any]) -> list[Any]:
    done = []
    for s in steps(job):
        if script := s.get("bash") or s.get("inputs", {}).get("inlineScript"):
            first, _, rest = script.partition("\n")
            assert first == "set -e", f"{s['displayName']}: only its last command would count"
            done.append((s["displayName"], rest.rstrip(), told_by_azure(s)))
    return done


@pytest.mark.parametrize("track", TRACKS)
def test_both_do_the_same_and_tell_it_the_same(track: str) -> None:
    jobs, stages = github(track)["jobs"], azure(track)
    pairs = {"validate": "validate"} | {name: TRACKS[track].format(name) for name in ENVIRONMENTS}
    if track == "infra":
        pairs["what_if"] = "what-if"
    assert set(pairs) == set(stages)
    assert set(pairs.values()) == set(jobs)
    for stage, job in pairs.items():
        expected = done_by_github(jobs[job])
        assert expected, job
        for found in stages[stage]["jobs"]:
            assert done_by_azure(found) == expected
            assert found["pool"]["vmImage"] == jobs[job]["runs-on"]
            assert steps(found)[0] == {"checkout": "self"}, "a deployment does not check out by itself"
            for step in steps(found):
                if step.get("task") == "AzureCLI@2":
                    assert (step["inputs"]["scriptType"], step["inputs"]["scriptLocation"]) == ("bash", "inlineScript")


@pytest.mark.parametrize("track", TRACKS)
def test_both_begin_at_the_same_changes(track: str) -> None:
    pipeline = expanded(AZURE / f"{track}.yml")
    assert pipeline["trigger"]["branches"]["include"] == github(track)[True]["push"]["branches"] == ["main"]
    for theirs, ours in (("push", "trigger"), ("pull_request", "pr")):
        paths = pipeline[ours]["paths"]["include"]
        assert [p for p in paths if not p.startswith(".azure")] == [
            p for p in github(track)[True][theirs]["paths"] if not p.startswith(".github")
        ]
        assert f".azure-pipelines/{track}.yml" in paths
    assert pipeline["pr"]["branches"]["include"] == ["*"]
    assert pipeline["trigger"]["batch"], "one run at a time, as by GitHub's concurrency"
    other = expanded(AZURE / f"{next(t for t in TRACKS if t != track)}.yml")
    assert not set(pipeline["trigger"]["paths"]["include"]) & set(other["trigger"]["paths"]["include"]), "two tracks"


@pytest.mark.parametrize("track", TRACKS)
def test_an_environment_comes_after_the_one_before_from_main_alone_and_by_its_own_connection(track: str) -> None:
    stages = azure(track)
    for name, before in zip(ENVIRONMENTS, ("validate", "dev", "test"), strict=True):
        stage = stages[name]
        assert (stage["dependsOn"], stage["condition"]) == (before, MAIN)
        assert {"group": f"driftloop-{name}"} in stage["variables"]
        assert {"name": "ENVIRONMENT", "value": name} in stage["variables"]
        [job] = stage["jobs"]
        assert "deployment" in job, "approvals hold deployments alone"
        assert job["environment"] == f"driftloop-{name}"
        _, task = steps(job)
        assert task["inputs"]["azureSubscription"] == f"driftloop-{name}"


def test_a_pull_request_can_only_read() -> None:
    stages = azure("infra")
    what_if = stages["what_if"]
    assert what_if["dependsOn"] == "validate"
    assert "eq(variables['Build.Reason'], 'PullRequest')" in what_if["condition"]
    assert "ne(variables['System.PullRequest.IsFork'], 'True')" in what_if["condition"]
    assert [j["job"] for j in what_if["jobs"]] == list(ENVIRONMENTS)
    for job in what_if["jobs"]:
        connections = [s["inputs"]["azureSubscription"] for s in steps(job) if s.get("task") == "AzureCLI@2"]
        assert connections == [f"driftloop-{job['job']}-read"]
        assert job["variables"] == [
            {"group": f"driftloop-{job['job']}-read"},
            {"name": "ENVIRONMENT", "value": job["job"]},
        ]
    for track in TRACKS:
        for name, stage in azure(track).items():
            if stage.get("condition") != MAIN and name != "what_if":
                assert not [s for j in stage["jobs"] for s in steps(j) if "AzureCLI" in s.get("task", "")], name


@pytest.mark.parametrize("track", TRACKS)
def test_what_an_environment_does_not_say_is_empty(track: str) -> None:
    """An undefined $(NAME) would reach the parameters as that very text."""
    given = expanded(AZURE / f"{track}.yml")["variables"]
    told = {n for s in azure(track).values() for j in s["jobs"] for t in steps(j) for n in told_by_azure(t).values()}
    assert given == dict.fromkeys(told - {"ENVIRONMENT"}, "")


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_azure_pipelines_tell_deploy_what_the_parameters_read(name: str) -> None:
    read = re.findall(r"readEnvironmentVariable\('(\w+)'", (INFRA / f"main.{name}.bicepparam").read_text())
    [task] = [s for s in steps(azure("infra")[name]["jobs"][0]) if "task" in s]
    assert set(read) <= set(task["env"])


@pytest.mark.parametrize("track", TRACKS)
def test_both_validate_by_the_same_python(track: str) -> None:
    [theirs] = [
        s["with"]["python-version"] for s in github(track)["jobs"]["validate"]["steps"] if "python" in s.get("uses", "")
    ]
    [ours] = [
        s["inputs"]["versionSpec"]
        for s in steps(azure(track)["validate"]["jobs"][0])
        if s.get("task") == "UsePythonVersion@0"
    ]
    assert ours == theirs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [{stage: '${{ parameters.name }}'}]", "parameters.name is not defined"),
        ("stages: [{template: a.yml, parameters: {more: 1}}]", "unknown {'more'}"),
        ("parameters: [{name: name, default: a}]", "{'name'} would be texts"),
        ("stages: [{template: a.yml}]", "missing {'name'}"),
        ("stages: [&one {stage: a}, *one]", "no anchors"),
    ],
)
def test_what_azure_pipelines_would_refuse_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(
        "parameters: [{name: name, type: string}]\nstages: [{stage: '${{ parameters.name }}'}]"
    )
    (tmp_path / "infra.yml").write_text(text)
    with pytest.raises(PipelineError, match=re.escape(said)):
        expanded(tmp_path / "infra.yml")
