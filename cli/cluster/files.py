"""The files that `driftloop cluster` is given, as what its rules look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cli.cluster import nodes
from cli.cluster.rules import Case, Pem
from triggers.errors import Refused
from triggers.reading import Document


def case(
    settings: Path, nodes_file: Path, type_: str, scenario: str, cluster: Path | None, workspaces: Sequence[str]
) -> Case:
    """Raises Refused where a file cannot be read as what it should be."""
    told, twice, nested = read_settings(settings)
    return Case(
        told=told,
        nodes=nodes.read(read_json(nodes_file)),
        type=type_,
        scenario=scenario,
        cluster=_object(cluster) if cluster else {},
        workspaces=workspaces,
        pem=pem(told, settings.parent, datetime.now(UTC)),
        twice=twice,
        nested=nested,
    )


def read_settings(path: Path) -> tuple[dict[str, str], list[str], list[str]]:
    """The settings as they are written, and the names of those that are said twice or are no text."""
    root = Document(_text(path), str(path)).root
    if root.kind == "scalar" and not root.value:
        return {}, [], []
    if root.kind != "mapping":
        raise Refused(f"{path}: expected a line `KEY: VALUE` for each setting")
    told: dict[str, str] = {}
    twice, nested = [], []
    for key, value in zip(root.value[::2], root.value[1::2], strict=True):
        name = str(key.value).strip()
        if name in told:
            twice.append(name)
        if value.kind != "scalar":
            nested.append(name)
            continue
        told[name] = "" if value.plain and value.value in ("~", "null") else str(value.value).strip()
    return told, twice, nested


def read_json(path: Path) -> object:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as problem:
        raise Refused(f"{path}: not JSON: {problem}") from problem


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise Refused(f"{path}: not what `az aks show` or `az connectedk8s show` prints")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise Refused(f"{path}: not UTF-8 text") from problem


def pem(told: dict[str, str], folder: Path, now: datetime) -> Pem:
    """What the PEM files hold that are here, beside settings.yaml or by a path of their own; a file that is elsewhere,
    as keys often are, is not looked into."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    found: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name in ("sslCertPemFile", "sslKeyPemFile"):
        path = folder / told.get(name, "")
        if not told.get(name) or not path.is_file():
            continue
        data = path.read_bytes()
        try:
            found[name] = (
                x509.load_pem_x509_certificate(data)
                if name == "sslCertPemFile"
                else load_pem_private_key(data, password=None)
            )
        except TypeError:
            wrong[name] = f"{name} is protected by a pass phrase"
        except ValueError as problem:
            wrong[name] = f"{name} cannot be read as PEM: {str(problem).splitlines()[0][:120]}"
    cert, key = found.get("sslCertPemFile"), found.get("sslKeyPemFile")
    if cert is not None and not cert.not_valid_before_utc <= now <= cert.not_valid_after_utc:
        wrong["sslCertPemFile"] = f"the certificate is valid until {cert.not_valid_after_utc:%Y-%m-%d}, not now"
    if cert is not None and key is not None and cert.public_key() != key.public_key():
        wrong["sslKeyPemFile"] = "the key is not the certificate's"
    return Pem(wrong, _names(cert) if cert is not None else ())


def _names(cert: Any) -> tuple[str, ...]:
    from cryptography import x509

    try:
        alternative = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return tuple(alternative.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        common = cert.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return tuple(str(name.value) for name in common)
