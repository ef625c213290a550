"""What an HTTP handler answers: data, or a problem in words (RFC 9457); always with the same security headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import azure.functions as func
import msgspec

SECURITY = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TITLES = {
    400: "Bad request",
    401: "Not signed in",
    403: "Not allowed",
    404: "Not found",
    409: "Conflict",
    413: "Too large",
    415: "Unsupported media type",
    422: "Refused",
    429: "Too many",
    500: "Not working",
    503: "Try again later",
}


def data(value: Any, status: int = 200, headers: Mapping[str, str] = {}) -> func.HttpResponse:
    """JSON."""
    body = msgspec.json.encode(value)
    return func.HttpResponse(body, status_code=status, mimetype="application/json", headers={**SECURITY, **headers})


def problem(status: int, detail: str, headers: Mapping[str, str] = {}) -> func.HttpResponse:
    """What is wrong, as application/problem+json; 503 says when to come again."""
    more = {"Retry-After": "5"} if status == 503 else {}
    body = {"type": "about:blank", "title": _TITLES[status], "status": status, "detail": detail}
    return func.HttpResponse(
        msgspec.json.encode(body),
        status_code=status,
        mimetype="application/problem+json",
        headers={**SECURITY, **more, **headers},
    )
