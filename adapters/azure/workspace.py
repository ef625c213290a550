"""One Azure ML workspace: its client, made when it is first used, and what its errors mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from adapters.azure.arm import PUBLIC, RETRIES, Arm
from adapters.azure.errors import reaction
from adapters.azure.identity import Identity
from adapters.azure.settings import WorkspaceId
from triggers.errors import DriftloopError, Refused, Retry

_VERSION = "2025-01-01-preview"


class Workspace:
    """`options` go to MLClient beside what it needs: another cloud, its certificate."""

    def __init__(self, which: Callable[[], WorkspaceId], identity: Identity, **options: Any) -> None:
        self._which = which
        self._identity = identity
        self.options = options

    @property
    def id(self) -> WorkspaceId:
        return self._which()

    @cached_property
    def client(self) -> Any:
        """azure.ai.ml takes seconds to import: it is imported here."""
        from azure.ai.ml import MLClient

        options = {"enable_telemetry": False, "show_progress": False, **RETRIES, **self.options}
        return MLClient(self._identity.credential, *self.id, **options)

    def image(self, environment: str) -> str:
        """The digest of the image that was built for an environment (its ARM id); empty where none is known.

        The SDK's Environment leaves it out.
        """
        found = self.arm.get(environment, _VERSION) or {}
        details = found.get("properties", {}).get("imageDetails") or {}
        return str((details.get("image") or {}).get("digest") or "")

    def newest(self, asset: str) -> str:
        """The newest version of a data asset; empty where there is none."""
        found = self.arm.get(f"{self.id}/data/{asset}", _VERSION) or {}
        return str(found.get("properties", {}).get("latestVersion") or "")

    def author(self, model: str) -> str:
        """Who registered a model: ARM's `createdBy`, a name as they sign in or the id of an application."""
        _, name, version = model.split(":")
        found = self.arm.get(f"{self.id}/models/{name}/versions/{version}", _VERSION) or {}
        return str((found.get("systemData") or {}).get("createdBy") or "")

    @cached_property
    def arm(self) -> Arm:
        base = (self.options.get("cloud_metadata") or {}).get("resource_manager", PUBLIC)
        kept = {k: v for k, v in self.options.items() if k == "connection_verify"}
        return Arm(lambda: self._identity.credential, base, **kept)


@contextmanager
def asking(what: str) -> Iterator[None]:
    """As errors.named; azure.ai.ml wraps some errors of the service, and has its own for what it will not send."""
    try:
        yield
    except DriftloopError:
        raise
    except Exception as error:
        raise _named(error, what) from error


def _named(error: Exception, what: str) -> Exception:
    from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError, ServiceResponseError

    transport = (HttpResponseError, ServiceRequestError, ServiceResponseError)
    if said := next((e for e in _chain(error) if isinstance(e, transport)), None):
        return reaction(said, what, {}) or error
    if isinstance(error, OSError):
        return Retry(f"{what}: {error}")
    return Refused(f"{what}: {error}") if isinstance(error, AzureError) else error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
