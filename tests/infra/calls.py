"""Calls to Resource Manager, as infra/calls.json names them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RECORDED = json.loads((Path(__file__).parents[2] / "infra" / "calls.json").read_text())
ML = "Microsoft.MachineLearningServices/"


def call(method: str, path: str) -> str:
    """Method and resource type: of an action its name too.

    >>> ws = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
    >>> call("POST", f"{ws}/jobs/j/cancel"), call("GET", f"{ws}/codes/c/versions?hash=h"), call("GET", ws)
    ('POST workspaces/jobs/cancel', 'GET workspaces/codes/versions', 'GET workspaces')
    """
    provider, _, rest = path.partition("?")[0].rpartition("/providers/")[2].partition("/")
    kind = "/".join(rest.split("/")[::2])
    return f"{method} {f'{provider}/{kind}'.removeprefix(ML)}"


def uncalled(request: Any, role: str, called: Iterable[tuple[str, str]]) -> set[str]:
    """What a role was made for and none of a module's tests has called; nothing where only some of them were run."""
    tests = {item.nodeid for item in request.node.session.items if item.parent is not None}
    whole = {item.nodeid for item in request.node.collect()} <= tests and not request.session.testsfailed
    return set(RECORDED[role]["calls"]) - {call(*c) for c in called} if whole else set()


def unknown(requests: Iterable[tuple[str, str]]) -> set[str]:
    """Calls that no role was made for."""
    known = {c for about in RECORDED.values() if isinstance(about, dict) for c in about["calls"]}
    return {call(*request) for request in requests if "/providers/" in request[1]} - known
