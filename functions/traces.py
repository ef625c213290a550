"""What we tell of ourselves, where APPLICATIONINSIGHTS_CONNECTION_STRING says to whom: traces, metrics, logs.

A run's trace is named after the run: whichever function, worker or day a step of it belongs to, it is the same trace.
Nothing is imported where the setting is empty.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from functions import host

NAME = "driftloop"


@contextmanager
def step(function: str, run: str) -> Iterator[None]:
    """One function's part in a run: a span of the run's trace, and its seconds."""
    if not host.setting("APPLICATIONINSIGHTS_CONNECTION_STRING"):
        yield
        return
    tracer, seconds = _telling()
    began, outcome = time.perf_counter(), "done"
    with tracer.start_as_current_span(function, context=_trace_of(run), attributes={"driftloop.run": run[:128]}):
        try:
            yield
        except Exception as error:
            outcome = type(error).__name__
            raise
        finally:
            about = {"function": function, "outcome": outcome}
            seconds.record(time.perf_counter() - began, about)


@cache
def _telling() -> tuple[Any, Any]:
    """Tracer and histogram; to Application Insights as the app's identity where its setting asks for that."""
    from azure.monitor.opentelemetry import configure_azure_monitor
    from opentelemetry import metrics, trace

    as_identity = "Authorization=AAD" in host.setting("APPLICATIONINSIGHTS_AUTHENTICATION_STRING")
    libraries = ("django", "fastapi", "flask", "psycopg2", "requests", "urllib", "urllib3")
    configure_azure_monitor(
        connection_string=host.setting("APPLICATIONINSIGHTS_CONNECTION_STRING"),
        credential=host.azure().identity.credential if as_identity else None,
        logger_name=NAME,
        enable_live_metrics=False,
        enable_performance_counters=False,
        instrumentation_options={library: {"enabled": False} for library in libraries},
    )
    return trace.get_tracer(NAME), metrics.get_meter(NAME).create_histogram("driftloop.step", "s")


def _trace_of(run: str) -> Any:
    """The context of the run's trace, as if a first span of it had been somewhere else."""
    from opentelemetry import trace

    digest = hashlib.sha256(run.encode()).digest()
    trace_id, span_id = int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big")
    first = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED))
    return trace.set_span_in_context(trace.NonRecordingSpan(first))
