"""A function app with every kind of trigger that the local host drives. What its handlers saw is in `seen`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import List  # noqa: UP035 - the worker takes List[...], not list[...]

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
bp = func.Blueprint()
seen: list[tuple[object, ...]] = []
broken: set[str] = set()


@bp.service_bus_queue_trigger(
    arg_name="message", queue_name="%RunsQueue%", connection="ServiceBus", is_sessions_enabled=True
)
def in_order(message: func.ServiceBusMessage) -> None:
    body = message.get_body().decode()
    seen.append(("run", message.session_id, body, message.delivery_count))
    if body in broken:
        raise ValueError(body)
    if body == "slow":
        time.sleep(2)
    if body == "kill me":
        first = not Path(os.environ["SEEN"]).exists()
        with Path(os.environ["SEEN"]).open("a") as file:
            file.write(f"{message.delivery_count}\n")
        time.sleep(30 if first else 0)


@bp.service_bus_queue_trigger(
    arg_name="messages", queue_name="telemetry", connection="ServiceBus", cardinality="many", data_type="binary"
)
def in_batches(messages: List[func.ServiceBusMessage]) -> None:  # noqa: UP006
    seen.append(("batch", *(m.get_body() for m in messages)))
    if any(m.get_body().decode("latin-1") in broken for m in messages):
        raise ValueError("a batch with poison")


@bp.service_bus_queue_trigger(arg_name="message", queue_name="effects", connection="ServiceBus")
async def in_turn(message: func.ServiceBusMessage) -> None:
    seen.append(("effect", message.message_id, dict(message.application_properties)))


@bp.event_grid_trigger(arg_name="event")
def on_event(event: func.CloudEvent) -> None:
    seen.append(("event", event.type, event.subject, event.get_json()))
    if event.type in broken:
        raise ValueError(event.type)


@bp.timer_trigger(arg_name="timer", schedule="%CheckSchedule%")
def daily(timer: func.TimerRequest) -> None:
    seen.append(("daily", timer.past_due))
    if "daily" in broken:
        raise ValueError("daily")


@bp.timer_trigger(arg_name="timer", schedule="08:00:00")
def often(timer: func.TimerRequest) -> None:
    seen.append(("often", timer.past_due))


@bp.route("echo/{name}", methods=["POST"])
def echo(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(req.get_body(), status_code=202, mimetype="application/json")


@bp.route("echo/{number:int}", methods=["GET", "POST"])
def numbered(req: func.HttpRequest) -> str:
    return f"{req.method} {req.route_params['number']} {dict(req.params)}"


@bp.route("files/{*rest}", methods=["GET"])
def rest(req: func.HttpRequest) -> str:
    return req.route_params.get("rest", "nothing")


@bp.route("cookies", methods=["GET"])
def cookies(req: func.HttpRequest) -> func.HttpResponse:
    headers = {"Set-Cookie": "a=1; HttpOnly", "X-Seen": req.headers["X-Twice"], "Content-Length": "999"}
    return func.HttpResponse("<p>", headers=headers, mimetype="text/html")


@bp.route("secret", methods=["GET", "DELETE"])
def secret(req: func.HttpRequest) -> func.HttpResponse:
    if req.method == "GET":
        raise RuntimeError("swordfish")
    return func.HttpResponse(status_code=204)


@bp.route("slow", methods=["GET"])
def slow(req: func.HttpRequest) -> str:
    time.sleep(0.5)
    return "done"


app.register_functions(bp)
