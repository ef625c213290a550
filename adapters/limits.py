"""What may be stored: the limits of the ports, checked alike by every adapter."""

from __future__ import annotations

from collections.abc import Sequence

from triggers.errors import Refused
from triggers.ports import Delete, Put

KEY_CHARACTERS = 400
VALUE_BYTES = 900 * 1024
COMMIT_CHANGES = 100
COMMIT_BYTES = 2816 * 1024
"""Table storage takes 4 MiB a transaction as sent, in base64, with up to a KiB around each change."""


def check_name(name: str) -> None:
    """Refuse a partition or key that no store could hold."""
    if len(name) > KEY_CHARACTERS:
        raise Refused(f"a key of {len(name)} characters, {KEY_CHARACTERS} allowed", key=name[:80])
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise Refused("a key that is not Unicode text", key=ascii(name)) from error


def check_commit(partition: str, changes: Sequence[Put | Delete]) -> None:
    """Refuse what exceeds the limits of the port."""
    if len(changes) > COMMIT_CHANGES:
        raise Refused(f"{len(changes)} changes in a commit, {COMMIT_CHANGES} allowed", partition=partition)
    check_name(partition)
    seen = set()
    size = 0
    for change in changes:
        check_name(change.key)
        if not change.key or change.key in seen:
            raise Refused("a commit changes a key once, and no key is empty", partition=partition, key=change.key)
        seen.add(change.key)
        value = len(change.value) if isinstance(change, Put) else 0
        if value > VALUE_BYTES:
            raise Refused(f"a value of {value} bytes, {VALUE_BYTES} allowed", partition=partition, key=change.key)
        size += value + len(change.key)
    if size > COMMIT_BYTES:
        raise Refused(f"a commit of {size} bytes, {COMMIT_BYTES} allowed", partition=partition)
