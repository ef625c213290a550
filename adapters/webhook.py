"""Notices as CloudEvents 1.0 to one address that the settings name, signed as Standard Webhooks says.

https://www.standardwebhooks.com: `webhook-id`, `webhook-timestamp`, `webhook-signature` (v1, HMAC-SHA256 over
"id.timestamp.body"). The address comes from the settings alone, no redirect is followed, and no byte is sent to a
link-local address, where clouds keep their metadata, whatever the name resolves to.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import msgspec

from triggers.errors import Misconfigured, Refused, Retry
from triggers.ports import Clock, Put, Store

POSTED = "hooked"
"""The partition of the notes of what was taken."""

_TRIES, _TIMEOUT_S = 4, 10.0
_WRONG_ADDRESS = (401, 403, 404, 405, 410)


class WebhookNotifier:
    """Port Notifier. What was taken is noted and not sent again; what comes twice all the same bears the same id."""

    def __init__(
        self,
        url: Callable[[], str],
        secret: Callable[[], str],
        store: Store,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url, self._secret, self._store, self._clock, self._sleep = url, secret, store, clock, sleep

    def tell(self, card: Mapping[str, Any]) -> None:
        """Nothing, where no address is set. Raises Retry where nobody takes it now, Refused where it is not taken, and
        Misconfigured where nothing is taken there."""
        url = self._url()
        if not url:
            return
        name = hashlib.sha256(msgspec.json.encode(card, order="sorted")).hexdigest()[:32]
        if self._store.get(POSTED, name):
            return
        body = event(card, name, self._clock.now().isoformat())
        self._deliver(url, name, body)
        self._store.commit(POSTED, [Put(name, b"1", "*")])

    def _deliver(self, url: str, name: str, body: bytes) -> None:
        status = 0
        for attempt in range(_TRIES):
            if attempt:
                self._sleep(2.0**attempt / 4)
            status = _post(url, body, self._headers(name, body))
            if 200 <= status < 300:
                return
            if status in _WRONG_ADDRESS:
                raise Misconfigured(f"the webhook answers {status}: is WebhookUrl still right?", status=status)
            if 300 <= status < 500 and status not in (408, 425, 429):
                raise Refused(f"the webhook refuses the event ({status})", status=status)
        raise Retry(f"the webhook does not take the event now ({status or 'no answer'})", status=status)

    def _headers(self, name: str, body: bytes) -> dict[str, str]:
        """The time is that of the machine: who checks it lives in it."""
        at = str(int(time.time()))
        headers = {"Content-Type": "application/cloudevents+json", "webhook-id": name, "webhook-timestamp": at}
        if secret := self._secret():
            headers["webhook-signature"] = signature(secret, name, at, body)
        return headers


def signature(secret: str, name: str, at: str, body: bytes) -> str:
    """v1 of Standard Webhooks; the secret is base64 after `whsec_`, or else its own bytes."""
    key = base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()
    mac = hmac.digest(key, f"{name}.{at}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(mac).decode()}"


def event(card: Mapping[str, Any], name: str, at: str) -> bytes:
    """A card as a CloudEvent."""
    loop = str(card.get("loop", ""))
    run = (card.get("facts") or {}).get("run", "")
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": name,
            "source": f"/driftloop/{loop}",
            "type": f"driftloop.notice.{card.get('kind', 'other')}",
            "subject": str(run or loop),
            "time": at,
            "datacontenttype": "application/json",
            "data": dict(card),
        }
    )


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """The status; 0 where nobody answered."""
    import http.client

    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with closing(kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)) as connection:
        try:
            connection.connect()
            _look(connection.sock.getpeername()[0])
            connection.request(
                "POST", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", body, dict(headers)
            )
            answer = connection.getresponse()
            answer.read(1 << 16)
            return answer.status
        except (OSError, http.client.HTTPException):
            return 0


def _look(peer: str) -> None:
    """Raises Misconfigured where whoever was reached is nobody to tell anything."""
    address = ipaddress.ip_address(peer.partition("%")[0])
    reached = getattr(address, "ipv4_mapped", None) or address
    if reached.is_link_local or reached.is_multicast or reached.is_unspecified:
        raise Misconfigured(f"WebhookUrl leads to {reached}, where nothing is told: name another address")
