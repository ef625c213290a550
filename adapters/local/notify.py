"""The Notifier on one machine: notices in the store, which the dashboard shows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from adapters.local.clock import micros
from triggers.errors import Conflict
from triggers.ports import Clock, Put, Store

NOTICES = "notices"
"""The partition; its rows are cards as JSON with `at`, by key the newest first."""

_END_OF_TIME = 10**18


class StoreNotifier:
    """Port Notifier. The same card told twice at one time is kept once."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def tell(self, card: Mapping[str, Any]) -> None:
        now = self._clock.now()
        value = msgspec.json.encode({"at": now, **card})
        key = f"{_END_OF_TIME - micros(now):018}/{hashlib.sha256(value).hexdigest()[:16]}"
        try:
            self._store.commit(NOTICES, [Put(key, value)])
        except Conflict:
            return

    def recent(self, limit: int = 50) -> list[dict[str, Any]]:
        """The newest cards, newest first."""
        return [msgspec.json.decode(record.value) for record in self._store.scan(NOTICES, limit=limit)]
