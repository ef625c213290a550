"""Errors, named by the reaction they ask for. Any other exception is a bug."""

from __future__ import annotations


class DriftloopError(Exception):
    """Carries fields, so that whoever reacts need not parse the words."""

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.fields = fields


class Retry(DriftloopError):
    """The world was not ready (time-out, throttling, lost lease): the same call later may succeed."""


class Conflict(Retry):
    """Somebody else wrote first: load again, decide again."""


class Refused(DriftloopError):
    """What was asked is wrong and stays wrong: say so, quarantine, never retry."""


class NotFound(Refused):
    """What was named does not exist."""


class Misconfigured(DriftloopError):
    """A setting or configuration of ours is wrong: say what to mend. What came meanwhile is not to blame, and waits."""


class Offline(DriftloopError):
    """A site cannot be reached now; it is deferred, not failed."""
