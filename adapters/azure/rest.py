"""Blob and Table storage by their REST interface: what the first batch of telemetry needs of them.

The SDKs of both take a second of processor time to import, and a serverless worker that starts would pay it before it
counts anything. Uploads and job code, which are rare, go through the SDK.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import cached_property
from typing import Any, Literal
from urllib.parse import quote, urlencode, urlsplit

from adapters.azure.errors import by_status
from adapters.azure.identity import Identity
from adapters.azure.settings import Settings
from triggers.errors import DriftloopError, Misconfigured, Retry

Service = Literal["blob", "table"]
RESOURCE = "https://storage.azure.com"
VERSIONS: Mapping[Service, str] = {"blob": "2023-11-03", "table": "2020-12-06"}
WAITS_S = (0.3, 0.8, 2.0)
"""Between attempts, times 0.5 to 1.5."""

_SIGNED = (
    *("Content-Encoding", "Content-Language", "Content-Length", "Content-MD5", "Content-Type", "Date"),
    *("If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service said; `headers` are found in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The service's own word for what is wrong."""
        return self.headers.get("x-ms-error-code", "") or _code(self.body)


@dataclass(frozen=True, slots=True)
class Key:
    """An account's shared key: an emulator's, for a deployed app has an identity."""

    account: str
    secret: bytes

    def sign(self, service: Service, method: str, url: str, query: Mapping[str, str], headers: dict[str, str]) -> str:
        """The header Authorization. Source: "Authorize with Shared Key", Microsoft Learn (Table: Shared Key Lite)."""
        resource = f"/{self.account}{urlsplit(url).path}"
        if service == "table":
            comp = f"?comp={query['comp']}" if "comp" in query else ""
            return self._signed("SharedKeyLite", f"{headers['x-ms-date']}\n{resource}{comp}")
        length = headers.get("Content-Length", "0")
        named = {**headers, "Content-Length": "" if length == "0" else length}
        ours = sorted((name.lower(), value) for name, value in headers.items() if name.lower().startswith("x-ms-"))
        said = [method, *(named.get(name, "") for name in _SIGNED), *(f"{name}:{value}" for name, value in ours)]
        asked = [f"{name}:{value}" for name, value in sorted(query.items())]
        return self._signed("SharedKey", "\n".join([*said, resource, *asked]))

    def _signed(self, scheme: str, text: str) -> str:
        digest = hmac.new(self.secret, text.encode(), hashlib.sha256).digest()
        return f"{scheme} {self.account}:{base64.b64encode(digest).decode()}"


class Rest:
    """One service of the app's storage account, for any number of threads."""

    def __init__(self, service: Service, settings: Settings, identity: Identity, patience: Mapping[str, float]) -> None:
        """`patience`: connection_timeout and read_timeout, in seconds."""
        self._service, self._settings, self._identity, self._patience = service, settings, identity, patience

    @cached_property
    def _place(self) -> tuple[str, Key | None]:
        """Where the service is, and the key where there is no identity."""
        said = self._settings.storage
        if not said:
            return (self._settings.blobs if self._service == "blob" else self._settings.tables), None
        parts = dict(part.split("=", 1) for part in said.split(";") if "=" in part)
        try:
            account, secret = parts["AccountName"], base64.b64decode(parts["AccountKey"])
        except (KeyError, ValueError) as error:
            raise Misconfigured(
                "the app setting Storage is no connection string with a key", setting="Storage"
            ) from error
        suffix = parts.get("EndpointSuffix", "core.windows.net")
        scheme = parts.get("DefaultEndpointsProtocol", "https")
        url = parts.get(f"{self._service.title()}Endpoint", f"{scheme}://{account}.{self._service}.{suffix}")
        return url.rstrip("/"), Key(account, secret)

    @cached_property
    def _session(self) -> Any:
        import requests
        from requests.adapters import HTTPAdapter

        session = requests.Session()
        session.mount("https://", HTTPAdapter(pool_maxsize=32))
        return session

    def url(self, path: str) -> str:
        """`path` begins with `/`; it is percent-encoded here."""
        return self._place[0] + quote(path, safe="/()'=,$")

    def ask(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        taken: Collection[int] = (),
        tries: int = len(WAITS_S) + 1,
        **fields: object,
    ) -> Answer:
        """The answer, where it says yes or its status is one of `taken`.

        What may pass is tried again. Raises Retry, NotFound, Conflict or Refused, which say that `what` cannot be done.
        """
        expired = False
        for n in range(tries):
            if n:
                time.sleep(WAITS_S[min(n, len(WAITS_S)) - 1] * random.uniform(0.5, 1.5))
            try:
                answer = self._once(method, path, dict(query or {}), dict(headers or {}), body, anew=expired)
            except (OSError, Retry) as error:  # OSError: whatever requests raises
                problem: DriftloopError = Retry(f"{what}: {type(error).__name__}: {str(error)[:200]}", **fields)
                problem.__cause__ = error
                continue
            expired = answer.status == 401
            if answer.status < 300 or answer.status in taken:
                return answer
            problem = by_status(answer.status, f"{what}: {answer.status} {answer.code}", fields)
            if type(problem) is not Retry:
                break
        raise problem

    def _once(
        self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes, *, anew: bool
    ) -> Answer:
        url, key = self.url(path), self._place[1]
        headers |= {"x-ms-version": VERSIONS[self._service], "x-ms-date": formatdate(usegmt=True)}
        headers["Content-Length"] = str(len(body))
        if key is None:
            headers["Authorization"] = f"Bearer {self._identity.token(RESOURCE, anew=anew)}"
        else:
            headers["Authorization"] = key.sign(self._service, method, url, query, headers)
        patience = (self._patience["connection_timeout"], self._patience["read_timeout"])
        asked = f"{url}?{urlencode(query, quote_via=quote)}" if query else url
        with self._session.request(
            method, asked, headers=headers, data=body, timeout=patience, allow_redirects=False
        ) as said:
            answer = Answer(said.status_code, said.headers, said.content)
        if method != "HEAD" and damaged(answer):
            raise OSError("what came has another digest than what was sent")
        return answer


def md5(data: bytes) -> str:
    """As the header Content-MD5 has it: for damage on the way, not for trust."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def damaged(answer: Answer) -> bool:
    """Whether an answer says another digest than its body has."""
    said = answer.headers.get("Content-MD5", "")
    return bool(said) and answer.status in (200, 206) and said != md5(answer.body)


def _code(body: bytes) -> str:
    """Of an error of Table storage."""
    import msgspec

    try:
        return str(msgspec.json.decode(body)["odata.error"]["code"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
