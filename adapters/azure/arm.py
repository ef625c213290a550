"""Azure Resource Manager over REST: resources as plain data, without an SDK for each service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from adapters.azure.errors import named

RETRIES = {"retry_total": 2, "retry_backoff_factor": 0.4, "connection_timeout": 10, "read_timeout": 30}
_WAITS = ("connection_timeout", "read_timeout")
"""A call that fails for longer is Retry: the queue and the sweep repeat it."""

PUBLIC = "https://management.azure.com"
_SCOPE = f"{PUBLIC}/.default"


class Arm:
    """`options` go to the transport: another certificate. What fails raises as errors.named says."""

    def __init__(
        self, credential: Callable[[], Any], base: str | Callable[[], str] = PUBLIC, scope: str = _SCOPE, **options: Any
    ) -> None:
        self._credential, self._where, self._scope, self._options = credential, base, scope, options

    def get(self, path: str, version: str) -> dict[str, Any] | None:
        """None where there is no such resource."""
        return self._send("GET", path, version)

    def put(self, path: str, version: str, body: Mapping[str, Any], etag: str = "") -> dict[str, Any]:
        """With an `etag`, only where it is still that."""
        return self._send("PUT", path, version, body, {"If-Match": f'"{etag}"'} if etag else {}) or {}

    def patch(self, path: str, version: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._send("PATCH", path, version, body) or {}

    def post(self, path: str, version: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._send("POST", path, version, body or {}) or {}

    def delete(self, path: str, version: str) -> None:
        """What is gone already stays so."""
        self._send("DELETE", path, version)

    def _send(
        self,
        method: str,
        path: str,
        version: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any] | None:
        from azure.core.rest import HttpRequest

        with named(f"{method} {path.rsplit('/providers/', 1)[-1]}"):
            request = HttpRequest(method, self._base + path, params={"api-version": version}, json=body)
            request.headers.update(headers or {})
            answer = self._client.send_request(request)
            if answer.status_code == 404 and method in ("GET", "DELETE"):
                return None
            answer.raise_for_status()
            found = answer.json() if answer.content else {}
            return found if isinstance(found, dict) else {"value": found}

    @cached_property
    def _base(self) -> str:
        return (self._where if isinstance(self._where, str) else self._where()).rstrip("/")

    @cached_property
    def _client(self) -> Any:
        from azure.core import PipelineClient
        from azure.core.pipeline.policies import BearerTokenCredentialPolicy, RetryPolicy

        who = BearerTokenCredentialPolicy(self._credential(), self._scope)
        waits = {name: RETRIES[name] for name in _WAITS}  # the transport's own: minutes
        return PipelineClient(self._base, policies=[RetryPolicy(**RETRIES), who], **{**waits, **self._options})
