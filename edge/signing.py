"""The registry's signature in the OpenSSF model signing format, v1.0: `model_signing verify key` checks it, too.

A Sigstore bundle holds a DSSE envelope, that holds an in-toto statement, that names every file with its sha256. Signed
with ECDSA on P-256; private keys are PEM (PKCS 8), public ones PEM.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from edge.errors import BadCandidate, Refused

MAX_BYTES = 64 << 10
_PAYLOAD: Final = "application/vnd.in-toto+json"
_NAME = "manifest.sig"


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing may be added to what was signed, nor around it."""


class _Key(_Part, frozen=True):
    hint: str


class _Material(_Part, frozen=True):
    publicKey: _Key  # noqa: N815
    tlogEntries: tuple[()] = ()  # noqa: N815


class _Signature(_Part, frozen=True):
    sig: str
    keyid: Literal[""] = ""


class _Envelope(_Part, frozen=True):
    payload: str
    signatures: tuple[_Signature]
    payloadType: Literal["application/vnd.in-toto+json"] = _PAYLOAD  # noqa: N815


class _Bundle(_Part, frozen=True):
    verificationMaterial: _Material  # noqa: N815
    dsseEnvelope: _Envelope  # noqa: N815
    mediaType: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]  # noqa: N815


class _Resource(msgspec.Struct, frozen=True):
    name: str
    digest: str
    algorithm: Literal["sha256"]


class _Predicate(msgspec.Struct, frozen=True):
    resources: tuple[_Resource, ...]


class _Statement(msgspec.Struct, frozen=True):
    predicate: _Predicate
    kind: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    of: Literal["https://model_signing/signature/v1.0"] = msgspec.field(name="predicateType")


def new() -> tuple[bytes, str]:
    """A private key, and its public half."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return pem, public(pem)


def public(private: bytes) -> str:
    """The public half of a private key. Raises Refused where the bytes are not such a key."""
    return _pem(_private(private).public_key()).decode()


def sign(name: str, files: Mapping[str, str], private: bytes) -> str:
    """The bundle that signs `files` (sha256 by name), as a model called `name`. Raises Refused."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = _private(private)
    listed = sorted(files.items())
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in listed)).hexdigest()
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [_NAME]}
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": serialization,
            "resources": [{"name": n, "digest": digest, "algorithm": "sha256"} for n, digest in listed],
        },
    }
    payload = msgspec.json.encode(statement)
    signature = key.sign(_signed_bytes(payload), ec.ECDSA(hashes.SHA256()))
    bundle = _Bundle(
        _Material(_Key(_hint(key.public_key()))),
        _Envelope(_text(payload), (_Signature(_text(signature)),)),
        "application/vnd.dev.sigstore.bundle.v0.3+json",
    )
    return msgspec.json.encode(bundle).decode()


def verify(bundle: str | bytes, public: str | bytes) -> dict[str, str]:
    """What the owner of `public` has signed: sha256 by name. Raises BadCandidate, or Refused where `public` is no
    key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = _public(public.encode() if isinstance(public, str) else public)
    if len(bundle) > MAX_BYTES:
        raise BadCandidate(f"has {len(bundle)} bytes, at most {MAX_BYTES}", _NAME)
    try:
        found = msgspec.json.decode(bundle, type=_Bundle)
        envelope = found.dsseEnvelope
        payload, signature = _bytes(envelope.payload), _bytes(envelope.signatures[0].sig)
        if found.verificationMaterial.publicKey.hint != _hint(key):
            raise BadCandidate("is not the registry's: it names another key", _NAME)
        key.verify(signature, _signed_bytes(payload), ec.ECDSA(hashes.SHA256()))
        statement = msgspec.json.decode(payload, type=_Statement)
    except InvalidSignature:
        raise BadCandidate("is not the registry's signature", _NAME) from None
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError) as error:
        raise BadCandidate(f"is no bundle of the OpenSSF model signing format: {error}", _NAME) from error
    return {resource.name: resource.digest for resource in statement.predicate.resources}


def _signed_bytes(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return f"DSSEv1 {len(_PAYLOAD)} {_PAYLOAD} {len(payload)} ".encode() + payload


def _hint(key: Any) -> str:
    return hashlib.sha256(_pem(key)).hexdigest()


def _pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    data: bytes = key.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    return data


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    """Base64, of which there is one spelling."""
    data = base64.b64decode(text, validate=True)
    if _text(data) != text:
        raise ValueError("base64 with loose bits")
    return data


def _private(pem: bytes) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return _p256(lambda: load_pem_private_key(pem, password=None), "a private key")


def _public(pem: bytes) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return _p256(lambda: load_pem_public_key(pem), "a public key")


def _p256(load: Any, what: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = load()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Refused(f"not {what} in PEM: {error}") from error
    if getattr(getattr(key, "curve", None), "name", "") != ec.SECP256R1.name:
        raise Refused(f"not {what} on the curve P-256")
    return key
