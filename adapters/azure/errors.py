"""An SDK's error -> ours, named by the reaction it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError

from triggers.errors import Conflict, DriftloopError, NotFound, Refused, Retry

_LATER = frozenset({401, 403, 408, 425, 429})
"""401 and 403 too: a token that has expired, or a role that is not assigned yet, must not make poison of messages."""


@contextmanager
def named(what: str, **fields: object) -> Iterator[None]:
    """Around calls of an SDK; `what` cannot be done, for whatever reason the SDK gives.

    Retry: no connection, no answer, throttled, not allowed (yet), the service's own fault. NotFound: 404.
    Conflict: 412. Refused: any other answer that says no. What is no error of an SDK passes as it is.
    """
    try:
        yield
    except DriftloopError:
        raise
    except Exception as error:
        found = reaction(error, what, fields)
        if found is None:
            raise
        raise found from error


def reaction(error: Exception, what: str, fields: Mapping[str, object]) -> DriftloopError | None:
    """None: not an SDK's error."""
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

    if not isinstance(error, (AzureError, OSError, JSONDecodeError)):  # the latter two: of a body that is cut off
        return None
    words = f"{what}: {_first_line(error)}"
    status = error.status_code if isinstance(error, HttpResponseError) else None
    return by_status(None if isinstance(error, ClientAuthenticationError) else status, words, fields)


def by_status(status: int | None, words: str, fields: Mapping[str, object]) -> DriftloopError:
    """As `named` says; None: there was no answer."""
    if status is None or status in _LATER or status >= 500:
        return Retry(words, status=status, **fields)
    return {404: NotFound, 412: Conflict}.get(status, Refused)(words, status=status, **fields)


def _first_line(error: Exception) -> str:
    said = str(getattr(error, "message", "") or error).strip()
    return (said.splitlines() or [type(error).__name__])[0][:300]
