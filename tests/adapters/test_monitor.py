"""Log Analytics through its SDK: whole answers, answers that were cut off, and a wire that fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from adapters.azure.identity import Identity
from adapters.azure.monitor import MonitorLogs
from adapters.azure.settings import Settings
from tests.servers import loganalytics
from triggers.errors import Refused, Retry

pytestmark = pytest.mark.wire

WORKSPACE = "00000000-0000-0000-0000-000000000001"
START = datetime(2026, 3, 1, tzinfo=UTC)
COLUMNS = [("TimeGenerated", "datetime"), ("origin", "string"), ("wind", "real"), ("n", "long")]
ROW = ["2026-03-01T00:00:00Z", "EWR", 1.5, 7]


def answer(*rows: list[Any], **more: Any) -> dict[str, Any]:
    columns = [{"name": name, "type": kind} for name, kind in COLUMNS]
    return {"tables": [{"name": "PrimaryResult", "columns": columns, "rows": list(rows)}], **more}


@pytest.fixture
def workspace(authority: Any, identity: Any) -> Iterator[loganalytics.LogAnalytics]:
    with loganalytics.running(str(authority.cert), str(authority.key), identity.tokens) as here:
        yield here


def query(workspace: loganalytics.LogAnalytics) -> Any:
    settings = Settings({**os.environ, "LogsEndpoint": workspace.url})
    return MonitorLogs(settings, Identity(settings)).query(WORKSPACE, "T", START, START + timedelta(hours=1))


def test_a_table_comes_with_its_columns_and_times(workspace: loganalytics.LogAnalytics) -> None:
    workspace.answers.append(answer(ROW, ROW))
    found = query(workspace)
    assert (found.columns, found.partial) == ([name for name, _ in COLUMNS], "")
    assert found.rows == [[START, "EWR", 1.5, 7]] * 2
    [asked] = workspace.asked
    assert asked["path"] == f"/v1/workspaces/{WORKSPACE}/query"
    assert asked["timespan"] == "2026-03-01T00:00:00Z/2026-03-01T01:00:00Z" or "2026-03-01" in asked["timespan"]
    assert "wait=180" in asked["prefer"]


def test_an_answer_that_was_cut_off_says_so(workspace: loganalytics.LogAnalytics) -> None:
    error = {"code": "PartialError", "message": "64 MB exceeded", "details": []}
    workspace.answers.append(answer(ROW, error=error))
    found = query(workspace)
    assert (len(found.rows), "64 MB exceeded" in found.partial or "PartialError" in found.partial) == (1, True)


def test_a_table_without_rows_is_empty(workspace: loganalytics.LogAnalytics) -> None:
    workspace.answers.append(answer())
    assert query(workspace).rows == []


@pytest.mark.parametrize("fault", [429, 500, 503, 504, "drop"])
def test_one_fault_changes_nothing(workspace: loganalytics.LogAnalytics, fault: Any) -> None:
    workspace.answers.extend([fault, answer(ROW)])
    try:
        found = query(workspace)
    except Retry:
        found = query(workspace)
    assert len(found.rows) == 1


@pytest.mark.parametrize("fault", [401, 403, 429, 503, "drop"])
def test_a_fault_that_stays_is_a_retry(workspace: loganalytics.LogAnalytics, fault: Any) -> None:
    workspace.answers.append(fault)
    with pytest.raises(Retry, match="cannot be queried"):
        query(workspace)


def test_a_query_that_is_wrong_is_refused(workspace: loganalytics.LogAnalytics) -> None:
    workspace.answers.append(400)
    with pytest.raises(Refused, match="cannot be queried"):
        query(workspace)
