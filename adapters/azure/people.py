"""Who asks, behind App Service's sign-in (Easy Auth): what it says in X-MS-CLIENT-PRINCIPAL."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

from adapters.azure.settings import Settings
from triggers.ports import Person

HEADER = "x-ms-client-principal"
ROLE = "http://schemas.microsoft.com/ws/2008/06/identity/claims/role"
_NAMES = ("preferred_username", "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn")
_ROLES = ("roles", ROLE, "groups")


class EasyAuthPeople:
    """Port People. The header counts only where App Service says that its sign-in is in front of the app: elsewhere
    anybody could send it.

    A person is named as they sign in (user principal name, in lower case). What they may do follows from their app
    roles and groups: the settings ApproveRoles and OperateRoles name those that count.
    """

    def __init__(self, settings: Settings, key: Callable[[], bytes]) -> None:
        """`key` makes the marks of forms."""
        self._settings, self._key = settings, key

    def identify(self, headers: Mapping[str, str]) -> Person | None:
        if not self._settings.sign_in:
            return None
        said = [value for name, value in headers.items() if name.lower() == HEADER]
        claims = _claims(said[0]) if len(said) == 1 else []
        names = [value for wanted in _NAMES for kind, value in claims if kind == wanted and value]
        if not names:
            return None
        has = {value for kind, value in claims if kind in _ROLES}
        may = {"approve": self._settings.approve_roles, "operate": self._settings.operate_roles}
        return Person(names[0].lower(), frozenset(role for role, any_of in may.items() if has & any_of))

    def sign(self, text: str) -> str:
        return hmac.digest(self._key(), text.encode(), "sha256").hex()

    def check(self, text: str, mac: str) -> bool:
        return hmac.compare_digest(self.sign(text).encode(), mac.encode("utf-8", "replace"))

    def login(self, token: str) -> tuple[Person, str] | None:
        return None


def _claims(principal: str) -> list[tuple[str, str]]:
    """Of an Entra principal; nothing of any other, or of what is no principal."""
    try:
        found: Any = json.loads(base64.b64decode(principal, validate=True))
        if found["auth_typ"] != "aad":
            return []
        return [(str(claim["typ"]), str(claim["val"])) for claim in found["claims"]]
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError):
        return []
