"""Who asks, on one machine: a link printed in the terminal opens a session, kept in a cookie."""

from __future__ import annotations

import hmac
import json
import os
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from triggers.ports import Person

COOKIE = "driftloop_session"
LASTS_S = 12 * 3600
ROLES = ("approve", "operate")

_KEY_BYTES = 32


class LocalPeople:
    """Port People. Whoever may read the state folder's key may be anybody; nobody else is somebody.

    Only the cookie is looked at: what a proxy or an App Service would say in a header, anybody here could say.
    Real time, not the loop's: a session does not end because a simulated month has passed.
    """

    def __init__(self, key_file: Path | str, now: Callable[[], float] = time.time) -> None:
        self._key = _key(Path(key_file))
        self._now = now

    def login_link(self, base_url: str, name: str = "operator", roles: Iterable[str] = ROLES) -> str:
        """An address that signs whoever opens it in as `name`, for as long as a session lasts."""
        return f"{base_url.rstrip('/')}/api/login?token={quote(self._token('login', name, roles))}"

    def login(self, token: str) -> tuple[Person, str] | None:
        person = self._person("login", token)
        if person is None:
            return None
        session = self._token("session", person.name, person.roles)
        return person, f"{COOKIE}={session}; HttpOnly; SameSite=Strict; Path=/; Max-Age={LASTS_S}"

    def identify(self, headers: Mapping[str, str]) -> Person | None:
        sent = next((v for k, v in headers.items() if k.lower() == "cookie"), "")
        found = [v for k, _, v in (c.strip().partition("=") for c in sent.replace(",", ";").split(";")) if k == COOKIE]
        return self._person("session", found[0]) if len(found) == 1 else None

    def may_look(self, person: Person | None) -> bool:
        """Everybody: whoever is on this machine could read the state."""
        return True

    def sign(self, text: str) -> str:
        return self._mac("form", text.encode())

    def check(self, text: str, mac: str) -> bool:
        return hmac.compare_digest(self.sign(text).encode(), mac.encode("utf-8", "replace"))

    def _token(self, purpose: str, name: str, roles: Iterable[str]) -> str:
        said = {"name": name, "roles": sorted(roles), "until": int(self._now()) + LASTS_S}
        body = urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")
        return f"{body}.{self._mac(purpose, body.encode())}"

    def _person(self, purpose: str, token: str) -> Person | None:
        body, _, mac = token.partition(".")
        if not token.isascii() or not hmac.compare_digest(self._mac(purpose, body.encode()), mac):
            return None
        said = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return Person(said["name"], frozenset(said["roles"])) if self._now() < said["until"] else None

    def _mac(self, purpose: str, text: bytes) -> str:
        return hmac.digest(self._key, purpose.encode() + b"\0" + text, "sha256").hex()


def _key(file: Path) -> bytes:
    """The secret of this state folder, made at first use; of two processes that make it at once, one wins."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    if not file.exists():
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(secrets.token_bytes(_KEY_BYTES))
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(new, file)
        except FileExistsError:
            pass
        finally:
            new.unlink()
    return file.read_bytes()
