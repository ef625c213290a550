"""A bearer token of Entra ID, checked: RS256 by a key of the tenant, our audience, this tenant, a person.

Of the token's header only `kid` is looked at: where keys are fetched from (`jku`, `x5u`) and how they are used (`alg`)
is not for a token to say.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from adapters.azure.settings import Settings
from triggers.errors import Refused, Retry

_LARGEST = 16 * 1024
_LEEWAY_S = 60
_AFRESH_S = 300.0
"""Keys are not fetched again before, whatever a token names."""
_TIMEOUT_S = 5.0


class Tokens:
    """The tokens that this app takes; none where TokenAudience is not set."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._settings, self._now = settings, now
        self._lock = threading.Lock()
        self._keys: Mapping[str, Any] = {}
        self._fetched = float("-inf")

    @property
    def taken(self) -> bool:
        """Raises Refused where it is not said whose."""
        if self._settings.audience and not self._settings.tenant:
            raise Refused("the app setting TenantId is missing: with TokenAudience, whose tokens are taken")
        return bool(self._settings.audience)

    def claims(self, token: str) -> Mapping[str, Any] | None:
        """What a token says; None where it is not valid here, or its bearer is no person. Raises Retry where the
        tenant's keys cannot be had."""
        import jwt

        if not self.taken or len(token) > _LARGEST:
            return None
        authority, tenant = self._settings.authority, self._settings.tenant
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = self._key(kid) if isinstance(kid, str) else None
            if key is None:
                return None
            said: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                audience=sorted(self._settings.audience),
                issuer=f"{authority}/{tenant}/v2.0",
                leeway=_LEEWAY_S,
                options={"require": ["exp", "nbf", "iss", "aud", "oid", "tid"]},
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None
        person = said["tid"] == tenant and said.get("idtyp", "user") == "user" and said.get("scp")
        return said if person else None

    def _key(self, kid: str) -> Any:
        with self._lock:
            if kid not in self._keys and self._now() - self._fetched >= _AFRESH_S:
                self._keys, self._fetched = self._fetch(), self._now()
            return self._keys.get(kid)

    def _fetch(self) -> Mapping[str, Any]:
        import jwt

        url = f"{self._settings.authority}/{self._settings.tenant}/discovery/v2.0/keys"
        parts = urlsplit(url)
        connection = http.client.HTTPSConnection(parts.netloc, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", parts.path)
            answer = connection.getresponse()
            if answer.status != 200:
                raise Retry(f"{url} answers {answer.status}")
            found = [key for key in json.loads(answer.read(1 << 20))["keys"] if key.get("kty") == "RSA"]
            return {key["kid"]: jwt.PyJWK(key, algorithm="RS256").key for key in found}
        except (OSError, http.client.HTTPException, ValueError, KeyError, jwt.PyJWTError) as problem:
            raise Retry(f"the keys of {url} cannot be had: {type(problem).__name__}") from problem
        finally:
            connection.close()
