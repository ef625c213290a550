"""The Executor for sites that run the edge program: a request over HTTP."""

from __future__ import annotations

import json
from contextlib import suppress

from triggers.errors import NotFound, Offline, Refused, Retry
from triggers.ports import Configs

TIMEOUT_S = 10.0
_ANSWER_BYTES = 64 * 1024


class HttpExecutor:
    """Port Executor: POST {url}/deploy, where fleet.yaml says the site's url."""

    def __init__(self, configs: Configs, timeout_s: float = TIMEOUT_S) -> None:
        self._configs = configs
        self._timeout_s = timeout_s

    def apply(self, site: str, candidate: str, change: str) -> None:
        """Offline: no connection, no answer in time, or 503. Refused: 4xx, with the site's words. Retry: other 5xx."""
        url = self._url(site)
        status, answer = self._post(site, f"{url}/deploy", {"candidate": candidate, "change": change})
        if status == 503:
            raise Offline(f"{site} is not available: {_words(answer)}", site=site)
        if 400 <= status < 500:
            raise Refused(_words(answer) or f"{site} answered {status}", site=site, status=status)
        if not 200 <= status < 300:
            raise Retry(f"{site} answered {status}: {_words(answer)}", site=site, status=status)

    def _url(self, site: str) -> str:
        """Raises NotFound for a site without url, and Refused where two fleets disagree on it."""
        urls = set()
        for loop in self._configs.loops():
            with suppress(Refused):  # a fleet that is wrong says nothing, and stops nobody else's
                listed = self._configs.fleet(loop).site(site)
                urls |= {listed.url.rstrip("/")} if listed and listed.url else set()
        if not urls:
            raise NotFound(f"no fleet has a url for site {site}", site=site)
        if len(urls) > 1:
            raise Refused(f"fleets have different urls for site {site}: {', '.join(sorted(urls))}", site=site)
        return urls.pop()

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
