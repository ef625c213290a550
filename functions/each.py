"""Every loop by itself: one that fails does not keep the others waiting."""

from __future__ import annotations

import logging
from collections.abc import Callable

from triggers.errors import DriftloopError, Refused
from triggers.ports import Ports

log = logging.getLogger("driftloop")


def each_loop(ports: Ports, work: Callable[[str], object]) -> None:
    """Do it for every loop that this app runs; raises Refused in the end where it failed for some, which are logged."""
    names, failed = ports.configs.loops(), []
    for name in names:
        try:
            work(name)
        except Exception as e:
            log.error("loop %s: %s: %s", name, type(e).__name__, e, exc_info=not isinstance(e, DriftloopError))
            failed.append(f"{name} ({type(e).__name__}: {e})")
    if failed:
        raise Refused(f"done for {len(names) - len(failed)} of {len(names)} loops, not for {'; '.join(failed)}")
