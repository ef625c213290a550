"""Cards in a Teams channel, through the URL of a Workflow.

The URL is a secret: who has it may post. It is in no error and no log.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from adapters.azure.settings import Settings
from triggers.errors import Misconfigured, Refused, Retry
from triggers.ports import Notifier, Put, Store

POSTED = "posted"
"""The partition of the notes."""

LARGEST = 28_000
"""Bytes of a message; Teams takes 28 KB."""
_APART_S = 0.3  # 4 a second are taken
_TRIES = 4
_PATIENCE_S = 20.0
_TIMEOUT_S = 10.0
_COLOURS = {"verified": "good", "rejected": "warning", "expired": "warning", "superseded": "default"}
_WORDS = {"approval": "Approval", "progress": "Progress", "began": "Began", "digest": "Digest", "drift": "Drift"}


class TeamsNotifier:
    """Port Notifier. What was posted is noted and not posted again: a card comes twice only where its answer, or the
    note, is lost. Workflows know no id to tell by."""

    def __init__(self, settings: Settings, store: Store, sleep: Callable[[float], None] = time.sleep) -> None:
        self._settings, self._store = settings, store
        self._sleep = sleep
        self._posting = threading.Lock()
        self._free = 0.0

    def tell(self, card: Mapping[str, Any]) -> None:
        """Nothing, where no URL is set. Raises Retry where Teams does not take it now, Refused where it never will, and
        Misconfigured where the workflow takes nothing of us."""
        url = self._settings.teams
        if not url:
            return
        body = message(card, self._settings.origin, self._settings.runbooks)
        note = hashlib.sha256(json.dumps([card.get("id"), body.decode()]).encode()).hexdigest()
        if self._store.get(POSTED, note):
            return
        self._post_patiently(url, body)
        self._store.commit(POSTED, [Put(note, b"1", "*")])

    def _post_patiently(self, url: str, body: bytes) -> None:
        with self._posting:
            end = time.monotonic() + _PATIENCE_S
            for attempt in range(_TRIES):
                self._sleep(max(0.0, self._free - time.monotonic()))
                status, after = _post(url, body)
                self._free = time.monotonic() + _APART_S
                if 200 <= status < 300:
                    return
                if status in (401, 403, 404, 410):
                    raise Misconfigured(f"Teams answers {status}: is TeamsWorkflowUrl still valid?", status=status)
                if 400 <= status < 500 and status not in (408, 429):
                    raise Refused(f"Teams refuses the card ({status})", status=status)
                pause = max(after, 2.0**attempt / 2)
                if time.monotonic() + pause > end:
                    break
                self._sleep(pause)
        raise Retry(f"Teams does not take the card now ({status or 'no answer'})", status=status)


class Everywhere:
    """Port Notifier: several of them, in order."""

    def __init__(self, *notifiers: Notifier) -> None:
        self._notifiers = notifiers

    def tell(self, card: Mapping[str, Any]) -> None:
        for notifier in self._notifiers:
            notifier.tell(card)


def message(card: Mapping[str, Any], origin: str, runbooks: str = "") -> bytes:
    """What a Workflow posts to the channel: one Adaptive Card, cut until it fits. `origin` is the app's address."""
    for most in (2000, 600, 120):
        content = adaptive(card, origin, runbooks, most)
        kind = "application/vnd.microsoft.card.adaptive"
        attachment = {"contentType": kind, "contentUrl": None, "content": content}
        body = json.dumps({"type": "message", "attachments": [attachment]}, ensure_ascii=False).encode()
        if len(body) <= LARGEST:
            break
    return body


def adaptive(card: Mapping[str, Any], origin: str, runbooks: str = "", most: int = 2000) -> dict[str, Any]:
    """The card as Adaptive Card 1.4. Words are shown as they are: nothing in them is markup or a link.

    `runbooks` is the address of docs/runbooks.md; empty: the card does not link its part of it.
    """
    kind = str(card.get("kind", ""))
    outcome = kind.removeprefix("run-")
    colour = "accent" if kind in _WORDS else _COLOURS.get(outcome, "attention")
    label = _WORDS.get(kind, outcome.replace("-", " ").capitalize())
    facts = dict(card.get("facts") or {})
    header = [
        _text(label, size="small", weight="bolder", color=colour),
        _text(str(card.get("title", ""))[:200], size="large", weight="bolder"),
    ]
    body: list[dict[str, Any]] = [
        {"type": "Container", "style": "emphasis", "bleed": True, "items": header},
        *(_text(part[:most]) for part in [str(card.get("text", ""))] if part),
        *(_text(f"What to do: {part[:most]}", weight="bolder") for part in [str(card.get("do", ""))] if part),
        *(_fact(name, value, most) for name, value in list(facts.items())[:12]),
    ]
    ask = kind == "approval"
    page = (
        f"/api/ui/#/runs/{_quoted(facts.get('run'))}"
        if facts.get("run")
        else f"/api/ui/#/fleet?loop={_quoted(card.get('loop'))}"
    )
    url = f"{origin}{card.get('link', '') if ask else page}"
    return {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
        "actions": [
            {"type": "Action.OpenUrl", "title": "Look, and answer" if ask else "Look", "url": url},
            *_what_to_do(runbooks, kind),
        ],
    }


def _what_to_do(runbooks: str, kind: str) -> list[dict[str, Any]]:
    url = f"{runbooks}#{_quoted(kind)}"
    return [{"type": "Action.OpenUrl", "title": "What to do", "url": url}] if runbooks else []


def _text(text: str, **style: str) -> dict[str, Any]:
    """Unlike in a TextBlock, markdown is not read in a TextRun. What turns the writing direction is left out."""
    shown = "".join(c for c in text if c.isprintable() or c == "\n")
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": shown or " ", **style}]}


def _fact(name: str, value: Any, most: int) -> dict[str, Any]:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    words = ", ".join(map(str, value)) if listed else str(value)
    columns = [
        {"type": "Column", "width": "110px", "items": [_text(name[:40], weight="bolder", size="small")]},
        {"type": "Column", "width": "stretch", "items": [_text(words[: most // 4], size="small")]},
    ]
    return {"type": "ColumnSet", "spacing": "small", "columns": columns}


def _quoted(value: Any) -> str:
    return quote(str(value or ""), safe="")


def _post(url: str, body: bytes) -> tuple[int, float]:
    """Status, 0 where nobody answered; and for how many seconds to wait, where that is said."""
    import http.client

    parts = urlsplit(url)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", f"{parts.path}?{parts.query}", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        after = answer.headers.get("Retry-After", "")
        return answer.status, float(after) if after.isdigit() else 0.0
    except (OSError, http.client.HTTPException):
        return 0, 0.0
    finally:
        connection.close()
