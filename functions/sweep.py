"""The sweep, by timer: what a crash or a lost message left undone."""

from __future__ import annotations

import azure.functions as func

from functions import host
from functions.each import each_loop
from triggers import loop

bp = func.Blueprint()


@bp.timer_trigger(arg_name="timer", schedule="%SweepSchedule%")
def sweep_up(timer: func.TimerRequest) -> None:
    """Unsent effects, lost job ends, sites whose state has not reached their run."""
    ports = host.ports()
    each_loop(ports, lambda name: loop.sweep(ports, name))
