"""Log Analytics workspaces, queried through azure-monitor-query."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import Any

from adapters.azure.errors import named
from adapters.azure.identity import Identity
from adapters.azure.settings import Settings
from triggers.ports import LogTable

TIMEOUT_S = 180
"""Of a query, at the service; it allows 600."""

_PATIENCE = {"retry_total": 3, "retry_backoff_factor": 0.3, "connection_timeout": 10, "read_timeout": TIMEOUT_S + 20}


class MonitorLogs:
    """Port LogQueries. A table that the service cut off comes with what it said of it."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self._settings, self._identity = settings, identity

    def query(self, workspace: str, kql: str, start: datetime, end: datetime) -> LogTable:
        from azure.monitor.query import LogsQueryPartialResult

        with named(f"workspace {workspace} cannot be queried"):
            found = self._client.query_workspace(workspace, kql, timespan=(start, end), server_timeout=TIMEOUT_S)
        partial = ""
        tables: Any = found
        if isinstance(found, LogsQueryPartialResult):
            error, tables = found.partial_error, found.partial_data
            partial = str(getattr(error, "message", "") or error)[:300] or "the answer is not complete"
        else:
            tables = found.tables
        if not tables:
            return LogTable((), (), partial)
        return LogTable(list(tables[0].columns), [list(row) for row in tables[0].rows], partial)

    @cached_property
    def _client(self) -> Any:
        from azure.monitor.query import LogsQueryClient

        patience: dict[str, Any] = {**_PATIENCE}
        return LogsQueryClient(self._identity.credential, endpoint=f"{self._settings.logs}/v1", **patience)
