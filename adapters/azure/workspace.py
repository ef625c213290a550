"""One Azure ML workspace: its client, made when it is first used, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

from adapters.azure.identity import Identity
from triggers.errors import DriftloopError, NotFound, Refused, Retry

RETRIES = {"retry_total": 2, "retry_backoff_factor": 0.4, "connection_timeout": 10, "read_timeout": 30}
"""A call that fails for longer is Retry: the queue and the sweep repeat it."""

_ARM = "https://management.azure.com"
_VERSION = "2025-01-01-preview"
_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<name>[^/]+)",
    re.IGNORECASE,
)


class WorkspaceId(NamedTuple):
    subscription: str
    group: str
    name: str


def workspace_id(value: str) -> WorkspaceId:
    """Of a resource id. Raises ValueError."""
    found = _ID.fullmatch(value.rstrip("/"))
    if found is None:
        raise ValueError("the resource id of an Azure ML workspace")
    return WorkspaceId(**found.groupdict())


class Workspace:
    """`options` go to MLClient: a test's cloud and certificate."""

    def __init__(self, id_: WorkspaceId, identity: Identity, **options: Any) -> None:
        self.id = id_
        self._identity = identity
        self._options = options

    @cached_property
    def client(self) -> Any:
        """azure.ai.ml takes seconds to import: it is imported here."""
        from azure.ai.ml import MLClient

        options = {"enable_telemetry": False, "show_progress": False, **RETRIES, **self._options}
        return MLClient(self._identity.credential, *self.id, **options)

    def image(self, environment: str) -> str:
        """The digest of the image that was built for an environment (its ARM id); empty where none is known.

        The SDK's Environment leaves it out.
        """
        from azure.core.rest import HttpRequest

        base = (self._options.get("cloud_metadata") or {}).get("resource_manager", _ARM)
        request = HttpRequest("GET", base + environment, params={"api-version": _VERSION})
        answer = self._arm.send_request(request)
        if answer.status_code == 404:
            return ""
        answer.raise_for_status()
        details = answer.json().get("properties", {}).get("imageDetails") or {}
        return str((details.get("image") or {}).get("digest") or "")

    @cached_property
    def _arm(self) -> Any:
        from azure.core import PipelineClient
        from azure.core.pipeline.policies import BearerTokenCredentialPolicy, RetryPolicy

        policies = [
            RetryPolicy(**RETRIES),
            BearerTokenCredentialPolicy(self._identity.credential, f"{_ARM}/.default"),
        ]
        kept = {k: v for k, v in self._options.items() if k == "connection_verify"}
        return PipelineClient(_ARM, policies=policies, **kept)


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Whatever the SDK raises within, named by what to do about it."""
    try:
        yield
    except DriftloopError:
        raise
    except Exception as error:
        raise _named(error, what) from error


def _named(error: Exception, what: str) -> Exception:
    from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError, ServiceResponseError

    transport = (HttpResponseError, ServiceRequestError, ServiceResponseError)
    words = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    found = next((e for e in _chain(error) if isinstance(e, transport)), None)
    if isinstance(found, HttpResponseError) and found.status_code is not None:
        status = found.status_code
        if status == 404:
            return NotFound(f"{what}: {words}", status=status)
        if status in (401, 403):
            return Retry(f"{what}: the workspace refuses this identity ({status}): {words}", status=status)
        later = status in (408, 409, 412, 429) or status >= 500
        return (Retry if later else Refused)(f"{what}: {words}", status=status)
    if found is not None or isinstance(error, OSError):
        return Retry(f"{what}: {words}")
    if isinstance(error, AzureError):  # what azure.ai.ml raises of its own
        return Refused(f"{what}: {words}")
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from: azure.ai.ml wraps some."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
