"""No request leaves for a site unless every byte of its candidate is what the registry signed."""

from __future__ import annotations

from collections.abc import Callable

from edge import candidate
from edge.errors import BadCandidate
from edge.errors import Refused as Unusable
from triggers.errors import NotFound, Refused
from triggers.ports import Blobs, Change, Executor, Underway

_REMEMBERED = 64


class Verified:
    """Port Executor: another one, before which candidates are verified; each once in the life of this process, for the
    site verifies what it fetches itself."""

    def __init__(self, inner: Executor, blobs: Blobs, public: Callable[[], str]) -> None:
        """`public` gives the registry's public key (edge.signing)."""
        self._inner = inner
        self._blobs = blobs
        self._public = public
        self._known: dict[str, None] = {}

    def apply(self, change: Change, proven: bool = False) -> Underway | None:
        """Raises Refused with what differs, too. The way back is never held up: a site has it, and verifies it."""
        if change.action == "deploy" and change.candidate not in self._known:
            self._verify(change.candidate)
            while len(self._known) >= _REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[change.candidate] = None
        return self._inner.apply(change, proven)

    def finish(self, change: Change) -> None:
        self._inner.finish(change)

    def _verify(self, digest: str) -> None:
        try:
            manifest, signature = (
                self._blobs.get(f"candidates/{digest}/{name}") for name in (candidate.MANIFEST, candidate.SIGNATURE)
            )
            if candidate.digest(manifest) != digest:
                raise BadCandidate(f"is not the bytes that {digest[:12]} names", candidate.MANIFEST)
            candidate.verify(manifest, signature, self._public(), lambda sha256: self._blobs.get(f"layers/{sha256}"))
        except (Unusable, NotFound) as problem:
            raise Refused(f"candidate {digest[:12]} is not deployed: {problem}", candidate=digest) from problem
