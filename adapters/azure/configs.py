"""Configurations as blobs: <loop>/loop.yaml and fleet.yaml in the container of that name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.azure.blobs import BlobStore
from triggers.config import Fleet, Loop
from triggers.errors import Misconfigured, NotFound

FRESH_S = 30.0
"""For so long what was read is not asked for again; then only whether its ETag is still the same."""

log = logging.getLogger("driftloop.config")


@dataclass(frozen=True, slots=True)
class _Kept:
    value: Any
    etag: str
    at: float


class BlobConfigs:
    """Port Configs. While what is new is wrong, what was said before goes on to hold."""

    def __init__(self, files: BlobStore, now: Callable[[], float] = time.monotonic) -> None:
        self._files = files
        self._now = now
        self._kept: dict[str, _Kept] = {}

    def loops(self) -> Sequence[str]:
        found = (name.split("/") for name in self._files.names())
        return sorted(parts[0] for parts in found if parts[1:] == ["loop.yaml"])

    def loop(self, name: str) -> Loop:
        """Raises NotFound, and Misconfigured where it was never right."""
        from triggers.config import parse_loop

        found: Loop = self._read(name, "loop.yaml", parse_loop)
        return found

    def fleet(self, name: str) -> Fleet:
        """As `loop`; `name` is the loop's."""
        from triggers.config import parse_fleet

        found: Fleet = self._read(name, "fleet.yaml", parse_fleet)
        return found

    def _read(self, loop: str, file: str, parse: Callable[[str, str], Any]) -> Any:
        name, now = f"{loop}/{file}", self._now()
        kept = self._kept.get(name)
        if kept is None or now - kept.at >= FRESH_S:
            kept = self._kept[name] = self._ask(name, loop, parse, kept, now)
        return kept.value

    def _ask(self, name: str, loop: str, parse: Callable[[str, str], Any], kept: _Kept | None, now: float) -> _Kept:
        try:
            if not loop or "/" in loop:
                raise NotFound(name)
            found = self._files.newer(name, kept.etag if kept else "")
        except NotFound as error:
            raise NotFound(f"no {name.rpartition('/')[2]} for loop {loop!r}", loop=loop) from error
        if found is None:
            assert kept is not None
            return _Kept(kept.value, kept.etag, now)
        data, etag = found
        try:
            return _Kept(parse(data.decode(), name), etag, now)
        except (Misconfigured, UnicodeDecodeError) as error:
            if kept is None:
                raise error if isinstance(error, Misconfigured) else Misconfigured(f"{name}: not UTF-8") from error
            log.error("%s is wrong, and what it said before goes on to hold: %s", name, error)
            return _Kept(kept.value, etag, now)
