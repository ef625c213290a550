"""Who asks, by Entra ID: a bearer token that they bring, or what App Service's sign-in (Easy Auth) says of them."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from adapters.azure.settings import Settings
from adapters.azure.tokens import Tokens
from triggers.ports import Person

HEADER = "x-ms-client-principal"
_CLAIMS = "http://schemas.microsoft.com/identity/claims"
_SHORT = {
    "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn": "upn",
    "http://schemas.microsoft.com/ws/2008/06/identity/claims/role": "roles",
    f"{_CLAIMS}/objectidentifier": "oid",
    f"{_CLAIMS}/tenantid": "tid",
    f"{_CLAIMS}/identityprovider": "idp",
}
"""Long names of claims, as Easy Auth may write them, and those of tokens."""

Claims = list[tuple[str, str]]


class EntraPeople:
    """Port People. A bearer token counts where TokenAudience is set, and then alone. Easy Auth's header counts only
    where App Service says that its sign-in is in front of the app: elsewhere anybody could send it.

    A person is named as they sign in (user principal name, in lower case), and known by their object id. A guest's name
    is given by somebody else's tenant, so that a guest goes by the object id alone. What they may do follows from their
    app roles and groups: the settings ReadRoles, ApproveRoles and OperateRoles name those that count.
    """

    def __init__(self, settings: Settings, key: Callable[[], bytes], tokens: Tokens | None = None) -> None:
        """`key` makes the marks of forms."""
        self._settings, self._key, self._tokens = settings, key, tokens or Tokens(settings)

    def identify(self, headers: Mapping[str, str]) -> Person | None:
        """Raises Retry where a token cannot be checked now."""
        given = [value for name, value in headers.items() if name.lower() == "authorization"]
        if given and self._tokens.taken:
            kind, _, token = given[0].partition(" ")
            said = self._tokens.claims(token.strip()) if len(given) == 1 and kind.lower() == "bearer" else None
            return self._person(_flat(said), token=True) if said else None
        if not self._settings.sign_in:
            return None
        said_by = [value for name, value in headers.items() if name.lower() == HEADER]
        return self._person(_principal(said_by[0])) if len(said_by) == 1 else None

    def _person(self, claims: Claims, token: bool = False) -> Person | None:
        def first(*kinds: str) -> str:
            return next((v for wanted in kinds for kind, v in claims if kind == wanted and v), "").lower()

        oid, name = first("oid"), first("preferred_username", "upn")
        tenant, home = first("tid"), first("idp")
        if self._settings.tenant not in ("", tenant):
            return None
        if first("acct") == "1" or "#ext#" in name or (home and (not tenant or tenant not in home)):
            name = oid
        if not name:
            return None
        groups = frozenset(v for kind, v in claims if kind == "groups")
        partial = any(kind in ("_claim_names", "hasgroups") and "groups" in f"{kind}{v}" for kind, v in claims)
        has = groups | {v for kind, v in claims if kind == "roles"}
        settings = self._settings
        may = {"approve": settings.approve_roles, "operate": settings.operate_roles, "read": settings.read_roles}
        roles = frozenset(role for role, any_of in may.items() if has & any_of)
        return Person(name, roles, oid, groups, partial, token)

    def may_look(self, person: Person | None) -> bool:
        """Whoever is signed in, or only those whom ReadRoles lets; who may act may look."""
        return person is not None and (bool(person.roles) or not self._settings.read_roles)

    def sign(self, text: str) -> str:
        return hmac.digest(self._key(), text.encode(), "sha256").hex()

    def check(self, text: str, mac: str) -> bool:
        return hmac.compare_digest(self.sign(text).encode(), mac.encode("utf-8", "replace"))

    def login(self, token: str) -> tuple[Person, str] | None:
        return None


def _principal(header: str) -> Claims:
    """Of an Entra principal; nothing of any other, or of what is no principal."""
    try:
        found: Any = json.loads(base64.b64decode(header, validate=True))
        if found["auth_typ"] != "aad":
            return []
        return [(_SHORT.get(str(claim["typ"]), str(claim["typ"])), str(claim["val"])) for claim in found["claims"]]
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError):
        return []


def _flat(claims: Mapping[str, Any]) -> Claims:
    """A token's claims, as Easy Auth writes them: one for each value."""

    def values(said: Any) -> Iterable[Any]:
        return said if isinstance(said, list) else [said]

    return [(kind, json.dumps(v) if isinstance(v, dict) else str(v)) for kind, s in claims.items() for v in values(s)]
