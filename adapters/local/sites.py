"""The Executor for sites that run the edge program: a request over HTTP."""

from __future__ import annotations

import json

from triggers.errors import NotFound, Offline, Refused, Retry
from triggers.ports import Change, Configs

TIMEOUT_S = 10.0
_ANSWER_BYTES = 64 * 1024


class HttpExecutor:
    """Port Executor: POST {url}/deploy, where fleet.yaml says the site's url."""

    def __init__(self, configs: Configs, timeout_s: float = TIMEOUT_S) -> None:
        self._configs = configs
        self._timeout_s = timeout_s

    def apply(self, change: Change, proven: bool = False) -> None:
        """Offline: no connection, no answer in time, or 503. Refused: 4xx, with the site's words. Retry: other 5xx."""
        name = change.site
        site = self._configs.fleet(change.loop).site(name)
        if site is None or not site.url:
            raise NotFound(f"the fleet of {change.loop} has no url for site {name}", site=name)
        asked = {"candidate": change.candidate, "change": change.id}
        status, answer = self._post(name, f"{site.url.rstrip('/')}/deploy", asked)
        if status == 503:
            raise Offline(f"{name} is not available: {_words(answer)}", site=name)
        if 400 <= status < 500:
            raise Refused(_words(answer) or f"{name} answered {status}", site=name, status=status)
        if not 200 <= status < 300:
            raise Retry(f"{name} answered {status}: {_words(answer)}", site=name, status=status)

    def finish(self, change: Change) -> None:
        """The site itself keeps what it serves and the way back, and drops the rest."""

    def _post(self, site: str, url: str, body: dict[str, str]) -> tuple[int, bytes]:
        from http.client import HTTPConnection, HTTPException, HTTPSConnection
        from urllib.parse import urlsplit

        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise Refused(f"{site} has no usable url: {url}", site=site) from error
        connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = connect(host, port, timeout=self._timeout_s)
        try:
            connection.request("POST", parts.path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read(_ANSWER_BYTES)
        except OSError as error:
            raise Offline(f"{site} cannot be reached: {error or type(error).__name__}", site=site) from error
        except HTTPException as error:
            raise Retry(f"{site} did not answer in HTTP: {error!r}", site=site) from error
        finally:
            connection.close()


def _words(answer: bytes) -> str:
    """What a site says is wrong."""
    try:
        said = json.loads(answer)["error"]
    except (ValueError, KeyError, TypeError):
        said = answer.decode(errors="replace")
    return str(said).strip()[:1000]
