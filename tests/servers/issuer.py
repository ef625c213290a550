"""An issuer of tokens, as Entra ID is for one tenant: it signs, and answers with its public keys over https."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.servers import https

TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"
AUDIENCE = "11111111-2222-3333-4444-555555555555"
ANNA = "aaaaaaaa-0000-0000-0000-000000000001"


def a_key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def pem(key: RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Issuer:
    """`asked` counts how often its keys were fetched."""

    url: str = ""
    key: RSAPrivateKey = field(default_factory=a_key)
    asked: int = 0

    @property
    def settings(self) -> dict[str, str]:
        roles = {"ApproveRoles": "approve", "OperateRoles": "operate"}
        return {"TenantId": TENANT, "TokenAudience": AUDIENCE, "Authority": self.url, **roles}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Those of Anna's token; None takes one away."""
        now = int(time.time())
        said = {
            "aud": AUDIENCE,
            "iss": f"{self.url}/{TENANT}/v2.0",
            "tid": TENANT,
            "oid": ANNA,
            "preferred_username": "Anna@example.com",
            "scp": "user_impersonation",
            "roles": ["approve"],
            "iat": now,
            "nbf": now - 5,
            "exp": now + 600,
        }
        return {k: v for k, v in {**said, **changes}.items() if v is not None}

    def token(self, header: dict[str, Any] | None = None, **changes: Any) -> str:
        return jwt.encode(self.claims(**changes), pem(self.key), "RS256", {"kid": "k1", **(header or {})})

    @property
    def keys(self) -> dict[str, Any]:
        found = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [{**found, "kid": "k1", "use": "sig"}]}


@contextmanager
def running(cert: str, key: str) -> Iterator[Issuer]:
    issuer = Issuer()

    class Handler(https.Handler):
        def do_GET(self) -> None:  # noqa: N802
            issuer.asked += 1
            known = self.path == f"/{TENANT}/discovery/v2.0/keys"
            self.answer(200 if known else 404, json.dumps(issuer.keys if known else {}).encode())

    with https.serving(Handler, cert, key) as issuer.url:
        yield issuer
