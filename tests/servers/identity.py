"""The endpoint at which an app on App Service fetches its managed identity's tokens; these are signed by nobody."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

CLIENT = "11111111-2222-3333-4444-555555555555"
SECRET = "the-identity-header"
TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"


@dataclass
class Identity:
    """What was asked, and how long the next tokens last."""

    url: str
    lasts_s: float = 3600.0
    asked: Counter[str] = field(default_factory=Counter)
    tokens: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What App Service puts into an app's environment, and the app's own setting."""
        return {"IDENTITY_ENDPOINT": self.url, "IDENTITY_HEADER": SECRET, "AZURE_CLIENT_ID": CLIENT}

    def token(self, audience: str) -> dict[str, str]:
        now = time.time()
        said = {"aud": audience, "iss": f"https://sts.windows.net/{TENANT}/", "oid": CLIENT, "tid": TENANT}
        times = {"iat": int(now - 60), "nbf": int(now - 60), "exp": int(now + max(self.lasts_s, 60))}
        token = ".".join((_part({"alg": "none", "typ": "JWT"}), _part({**said, **times}), "unsigned"))
        self.asked[audience] += 1
        self.tokens.append(token)
        return {"access_token": token, "expires_on": str(int(now + self.lasts_s)), "resource": audience}


@contextmanager
def running() -> Iterator[Identity]:
    identity = Identity("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            ours = self.headers["X-IDENTITY-HEADER"] == SECRET and asked.get("client_id") == [CLIENT]
            body = json.dumps(identity.token(asked["resource"][0]) if ours else {"error": "not ours"}).encode()
            self.send_response(200 if ours else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        identity.url = f"http://127.0.0.1:{server.server_port}/msi/token"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield identity
        server.shutdown()


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
