"""What every bus asks of what is put on its queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from triggers.errors import Refused
from triggers.ports import Message, Queue

QUEUES: frozenset[str] = frozenset(get_args(Queue))
SESSIONS: frozenset[str] = frozenset({"runs", "deployments"})
"""Queues whose messages must have a session."""

NAME_CHARACTERS = 128
BODY_BYTES = 1024 * 1024


def known(queue: str) -> None:
    """Raises Refused for a queue that there is not."""
    if queue not in QUEUES:
        raise Refused(f"no such queue: {queue}", queue=queue)


def check(queue: str, messages: Sequence[Message]) -> None:
    """Raises Refused for what no queue could hold: a missing session, ids and bodies that are too large."""
    known(queue)
    for message in messages:
        _check(queue, message)


def _check(queue: str, message: Message) -> None:
    if not 0 < len(message.id) <= NAME_CHARACTERS or len(message.session) > NAME_CHARACTERS:
        raise Refused(f"message ids have 1 to {NAME_CHARACTERS} characters, sessions at most as many", id=message.id)
    if queue in SESSIONS and not message.session:
        raise Refused(f"queue {queue} wants a session", queue=queue, id=message.id)
    if len(message.body) > BODY_BYTES:
        raise Refused(f"a message of {len(message.body)} bytes, {BODY_BYTES} allowed", queue=queue, id=message.id)
    try:
        f"{message.id}{message.session}".encode()
    except UnicodeEncodeError as error:
        raise Refused("a message id or session that is not Unicode text", id=ascii(message.id)) from error
