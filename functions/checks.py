"""The drift check, by timer: every loop that this app runs."""

from __future__ import annotations

import azure.functions as func

from adapters import claims
from functions import host
from functions.each import each_loop
from triggers import loop, retention

bp = func.Blueprint()


@bp.timer_trigger(arg_name="timer", schedule="%CheckSchedule%")
def check_drift(timer: func.TimerRequest) -> None:
    """Assess what is new against the references, decide, and begin a run where that is the decision."""
    ports = host.ports()

    def check(name: str) -> None:
        loop.check(ports, name)
        loop.forget(ports, name)
        retention.sweep(ports, name)

    each_loop(ports, check)
    claims.forget(ports.blobs, ports.clock.now())
