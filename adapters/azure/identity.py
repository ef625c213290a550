"""Who the app is to Azure: DefaultAzureCredential, imported and made when it is first asked."""

from __future__ import annotations

import os
import time
from functools import cached_property
from typing import Any

from adapters.azure.settings import Settings
from triggers.errors import Retry

_EARLY_S = 300.0
"""So long before a token runs out, another is asked for."""


class Identity:
    """The credential of every client: the user-assigned identity that AZURE_CLIENT_ID names, or who has signed in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tokens: dict[str, tuple[str, float]] = {}

    @cached_property
    def credential(self) -> Any:
        from azure.identity import DefaultAzureCredential

        return DefaultAzureCredential(managed_identity_client_id=self._settings.client_id or None)

    def token(self, resource: str, *, anew: bool = False) -> str:
        """A token for a resource such as https://storage.azure.com, kept until it is about to run out.

        Where App Service offers a managed identity it is asked directly (its documented REST endpoint, 2019-08-01):
        azure.identity takes half a second to import, which every cold start would wait for. Raises Retry.
        """
        if "IDENTITY_ENDPOINT" not in os.environ or "IDENTITY_HEADER" not in os.environ:
            return str(self.credential.get_token(f"{resource}/.default").token)
        token, until = self._tokens.get(resource, ("", 0.0))
        if anew or time.time() > until - _EARLY_S:
            token, _ = self._tokens[resource] = self._ask(resource)
        return token

    def _ask(self, resource: str) -> tuple[str, float]:
        import requests

        asked = {"resource": resource, "api-version": "2019-08-01"}
        if self._settings.client_id:
            asked["client_id"] = self._settings.client_id
        header = {"X-IDENTITY-HEADER": os.environ["IDENTITY_HEADER"]}
        try:
            answer = requests.get(os.environ["IDENTITY_ENDPOINT"], asked, headers=header, timeout=20)
            answer.raise_for_status()
            found = answer.json()
            return str(found["access_token"]), float(found["expires_on"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Retry(f"no token for {resource}: {type(error).__name__}") from error
