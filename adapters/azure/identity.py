"""Who the app is to Azure: DefaultAzureCredential, imported and made when it is first asked."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from adapters.azure.settings import Settings


class Identity:
    """The credential of every client: the user-assigned identity that AZURE_CLIENT_ID names, or who has signed in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def credential(self) -> Any:
        from azure.identity import DefaultAzureCredential

        return DefaultAzureCredential(managed_identity_client_id=self._settings.client_id or None)
