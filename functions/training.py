"""The end of training and evaluation jobs, as events."""

from __future__ import annotations

import azure.functions as func

from functions import host, wire
from triggers import training

bp = func.Blueprint()


@bp.event_grid_trigger(arg_name="message")
@wire.isolated("job-events", wire.data)
def job_ended(message: func.CloudEvent) -> None:
    """A job says it has ended; what it made is asked of the training service, not believed from the event."""
    training.job_ended(host.ports(), wire.job(message.get_json()))
