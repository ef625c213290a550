"""What a run asks the world to do. Performing one twice is the same as once."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Goes into the outbox with the run's new state, in one write."""


class Train(Effect, frozen=True, kw_only=True, tag="train"):
    """Train on what `sites` sent between `start` and `end` (None: all sites), or on the table `data`.

    With `model`, a model that somebody else registered becomes the candidate instead; `trained` is the window that it
    is said to have been trained on. `authors`: who wrote what it is trained with.
    """

    job: str
    start: datetime
    end: datetime
    sites: tuple[str, ...] | None
    compute: str
    parent: str
    data: str = ""
    model: str = ""
    trained: tuple[str, str] | None = None
    authors: tuple[str, ...] = ()


class Evaluate(Effect, frozen=True, kw_only=True, tag="evaluate"):
    """Compare on the rows between `start` and `end`, outside both training windows."""

    job: str
    champion: str
    challenger: str
    start: datetime
    end: datetime
    sites: tuple[str, ...] | None
    compute: str


class CancelJob(Effect, frozen=True, kw_only=True, tag="cancel-job"):
    job: str


class AskApproval(Effect, frozen=True, kw_only=True, tag="ask-approval"):
    """Make the plan, bind it to candidate and evidence, and ask. `verdict` is the gate's, in words; from `escalates` on
    more people may answer."""

    candidate: str
    evidence: str
    outcome: str
    verdict: str
    expires: datetime
    escalates: datetime | None = None


class Remind(Effect, frozen=True, kw_only=True, tag="remind"):
    """Tell who may answer, again."""

    at: datetime
    escalated: bool = False


class WithdrawApproval(Effect, frozen=True, kw_only=True, tag="withdraw-approval"):
    reason: str


class DeployWave(Effect, frozen=True, kw_only=True, tag="deploy-wave"):
    wave: int
    candidate: str


class RollBack(Effect, frozen=True, kw_only=True, tag="roll-back"):
    """Take every site of the waves up to `through` back to its last known good, newest wave first."""

    through: int
    reason: str


class Announce(Effect, frozen=True, kw_only=True, tag="announce"):
    kind: str
    title: str
    text: str


class SetDeadline(Effect, frozen=True, kw_only=True, tag="set-deadline"):
    """Tell the run at `at` that the time for `phase` is over, in case it is still there."""

    phase: str
    at: datetime


AnyEffect = (
    Train
    | Evaluate
    | CancelJob
    | AskApproval
    | Remind
    | WithdrawApproval
    | DeployWave
    | RollBack
    | Announce
    | SetDeadline
)

GOES_ON_WHILE_FROZEN: tuple[type[Effect], ...] = (CancelJob, WithdrawApproval, RollBack, Announce, SetDeadline)
"""A freeze stops every new side effect but the way back, and what only talks."""
