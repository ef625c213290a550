"""The webhook: CloudEvents that are signed, sent again until they are taken, and sent nowhere else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from adapters.azure.settings import Settings
from adapters.local.database import Database
from adapters.local.store import SqliteStore
from adapters.webhook import WebhookNotifier, signature
from triggers.errors import Misconfigured, Refused, Retry

CARD = {
    "id": "flights.2013-04-12.1/run-verified",
    "kind": "run-verified",
    "loop": "flights",
    "title": "flights: verified",
    "text": "verified at 3 sites",
    "do": "Nothing: every site serves it.",
    "facts": {"run": "flights.2013-04-12.1"},
}
SECRET = "whsec_" + "c2VjcmV0IHNlY3JldCBzZWNyZXQ="


class Now:
    def now(self) -> datetime:
        return datetime(2013, 4, 12, 6, tzinfo=UTC)


class Door:
    """A real server that answers what it is told, and keeps what came."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.came: list[tuple[dict[str, str], bytes]] = []
        door = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                door.came.append(({k.lower(): v for k, v in self.headers.items()}, body))
                status = door.answers.pop(0) if door.answers else 200
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "http://169.254.169.254/metadata")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?room=7"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def notifier(tmp_path: Path, door: Door) -> Iterator[WebhookNotifier]:
    database = Database(tmp_path / "state.db")
    yield WebhookNotifier(lambda: door.url, lambda: SECRET, SqliteStore(database), Now(), sleep=lambda _: None)
    database.close()


def test_a_notice_comes_as_a_signed_cloud_event(notifier: WebhookNotifier, door: Door) -> None:
    notifier.tell(CARD)
    [(headers, body)] = door.came
    event = json.loads(body)
    assert headers["content-type"] == "application/cloudevents+json"
    assert (event["specversion"], event["type"]) == ("1.0", "driftloop.notice.run-verified")
    assert (event["source"], event["subject"]) == ("/driftloop/flights", "flights.2013-04-12.1")
    assert (event["id"], event["time"]) == (headers["webhook-id"], "2013-04-12T06:00:00+00:00")
    assert event["data"] == CARD
    signed = signature(SECRET, headers["webhook-id"], headers["webhook-timestamp"], body)
    assert headers["webhook-signature"] == signed
    assert signed != signature(SECRET, headers["webhook-id"], headers["webhook-timestamp"], body + b" ")


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's libraries."""
    secret, name, at = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330"
    signed = signature(secret, name, at, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_what_is_not_taken_is_sent_again_under_the_same_id_and_what_is_taken_never(
    notifier: WebhookNotifier, door: Door
) -> None:
    door.answers = [503, 429, 500]
    notifier.tell(CARD)
    assert len(door.came) == 4
    assert len({headers["webhook-id"] for headers, _ in door.came}) == 1
    notifier.tell(CARD)
    assert len(door.came) == 4
    notifier.tell({**CARD, "text": "verified at 4 sites"})
    assert len(door.came) == 5


def test_a_door_that_stays_shut_is_tried_later(notifier: WebhookNotifier, door: Door) -> None:
    door.answers = [503] * 4
    with pytest.raises(Retry):
        notifier.tell(CARD)
    notifier.tell(CARD)
    assert len(door.came) == 5


@pytest.mark.parametrize(
    ("status", "error"), [(302, Refused), (422, Refused), (401, Misconfigured), (410, Misconfigured)]
)
def test_what_is_refused_is_said_and_no_redirect_is_followed(
    notifier: WebhookNotifier, door: Door, status: int, error: type[Exception]
) -> None:
    door.answers = [status]
    with pytest.raises(error):
        notifier.tell(CARD)
    assert len(door.came) == 1


@pytest.mark.attack
def test_nothing_is_sent_to_where_clouds_keep_their_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters import webhook

    for peer in ("169.254.169.254", "fe80::1%eth0", "0.0.0.0", "::ffff:169.254.169.254", "224.0.0.1"):
        with pytest.raises(Misconfigured, match="where nothing is told"):
            webhook._look(peer)
    for peer in ("127.0.0.1", "10.1.2.3", "20.50.2.1", "2603:1020::5"):
        webhook._look(peer)


@pytest.mark.attack
@pytest.mark.parametrize(
    "url", ["http://example.org/x", "file:///etc/passwd", "https://a:b@example.org/", "//x", "ftp://h/"]
)
def test_only_an_https_address_is_taken(url: str) -> None:
    with pytest.raises(Misconfigured, match="WebhookUrl") as said:
        _ = Settings({"WebhookUrl": url}).webhook
    assert url not in str(said.value)


def test_without_an_address_nothing_is_sent(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db")
    notifier: Any = WebhookNotifier(lambda: "", lambda: "", SqliteStore(database), Now())
    notifier.tell(CARD)
    database.close()
