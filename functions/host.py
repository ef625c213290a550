"""Composition root: settings -> Ports, lazy and cached; the only place that knows the profile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from triggers.errors import Misconfigured
from triggers.ports import Ports

if TYPE_CHECKING:
    from adapters.azure.profile import Azure
    from adapters.local.profile import Local

SETTINGS: Mapping[str, str] = {
    "DRIFTLOOP_PROFILE": "local",
    "DRIFTLOOP_ROLE": "all",
    "DRIFTLOOP_STATE": "state",
    "DRIFTLOOP_CLOCK": "",
    "TelemetryQueue": "telemetry",
    "RunsQueue": "runs",
    "EffectsQueue": "effects",
    "DeploymentsQueue": "deployments",
    "CheckSchedule": "0 0 6 * * *",
    "SweepSchedule": "0 */5 * * * *",
    "LogsSchedule": "0 */15 * * * *",
    "APPLICATIONINSIGHTS_CONNECTION_STRING": "",
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING": "",
}
"""Every setting of both profiles, with its default; an app setting (environment variable) of that name wins. What the
azure profile needs besides is in adapters/azure/settings.py.

DRIFTLOOP_CLOCK is for the local profile: a time (ISO 8601) at which a clock begins that moves only when it is told.
"""


def setting(name: str) -> str:
    """An app setting, or its default."""
    return os.environ.get(name) or SETTINGS[name]


@cache
def local() -> Local:
    """The local profile on DRIFTLOOP_STATE; its parts are also what the local host drives."""
    from adapters.local.profile import Local

    return Local(setting("DRIFTLOOP_STATE"), _start(setting("DRIFTLOOP_CLOCK")), os.environ)


def _start(text: str) -> datetime | None:
    """Raises Misconfigured where it is no time; one without a zone is UTC."""
    try:
        start = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise Misconfigured(f"DRIFTLOOP_CLOCK is {text!r}: it is a time such as 2026-03-01T06:00:00Z") from None
    return start.replace(tzinfo=UTC) if start and start.tzinfo is None else start


@cache
def azure() -> Azure:
    """The azure profile; what its settings lack is said by the port that needs it."""
    from adapters.azure.profile import Azure
    from adapters.azure.settings import Settings

    return Azure(Settings(os.environ))


@cache
def ports() -> Ports:
    """Everything the shell may touch. Raises Misconfigured where a setting is wrong."""
    profile = setting("DRIFTLOOP_PROFILE")
    if profile == "local":
        return local().ports
    if profile == "azure":
        return azure().ports
    raise Misconfigured(f"DRIFTLOOP_PROFILE is {profile!r}: it is `local` or `azure`")
