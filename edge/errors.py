"""Errors of a site, named by what whoever asked should do."""

from __future__ import annotations


class Refused(Exception):
    """What was asked is wrong and stays wrong. `field` names the part that is."""

    def __init__(self, reason: str, field: str = "") -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.reason = reason
        self.field = field


class BadCandidate(Refused):
    """These bytes are not the candidate that was signed, or not one that a site will open."""


class NotReady(Exception):
    """The site has no candidate yet: deploy one, then ask again."""


class Unreachable(Exception):
    """The registry or the ingest cannot be reached now, or the site is at something else: ask again later."""
