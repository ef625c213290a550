"""What a job is asked to do. Times are ISO 8601; `from` is inside, `to` is not."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import field

from edge.candidate import Frozen


class Spec(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """`loop` is the path of loop.yaml, `blobs` the folder of the blob store; `sites` null means all of them.

    What is made goes to `out`, without it to `blobs`. `window` is a file that lists the bundles to read, one a line,
    relative to the loop's batches; without it all that fit are read. `data` is a table of the user's to work on instead
    of stored telemetry. Where `site_key` (PEM) is given, the result is signed with it, under the name `site_key_id`.
    Rows of `untrusted` sites (why, by name) are left out, and what `revoked` keys (ids, by site) have signed.
    """

    name: str
    loop: str
    blobs: str
    run: str = ""
    sites: list[str] | None = None
    out: str | None = None
    window: str | None = None
    data: str | None = None
    site_key: str | None = None
    site_key_id: str = ""
    untrusted: dict[str, str] = {}
    revoked: dict[str, list[str]] = {}


class Train(Spec, frozen=True, kw_only=True, tag="train"):
    """Train on stored telemetry, or on the table `data` (there `from` may be null: its beginning).

    `key` is the path of the registry's private key (PEM); without it the candidate is left unsigned, for whoever
    asked to sign. `settings` go over `training.settings` of loop.yaml. With `model`, the path of a model.onnx that
    somebody else made, nothing is trained: it becomes a candidate with a reference of these rows. What it was trained
    on is then `trained_from` to `trained_to`; where that is not said, any row may have been seen. `authors` wrote it.
    `holdout` is what an earlier training has frozen.
    """

    start: datetime | None = field(name="from")
    end: datetime = field(name="to")
    key: str | None = None
    parent: str | None = None
    settings: dict[str, Any] = {}
    model: str | None = None
    trained_from: datetime | None = None
    trained_to: datetime | None = None
    authors: tuple[str, ...] = ()
    holdout: Frozen | None = None


class Evaluate(Spec, frozen=True, kw_only=True, tag="evaluate"):
    """Compare two candidates on the labelled rows of a time, outside both training windows.

    `public` is the path of the registry's public key; without it signatures are not checked, digests always are.
    `metric` and `confidence` go over the gates' of loop.yaml; `cohorts` is each site's.
    """

    champion: str
    challenger: str
    start: datetime = field(name="from")
    end: datetime = field(name="to")
    metric: Literal["auc", "log_loss", "rmse", "mae"] | None = None
    confidence: float | None = None
    public: str | None = None
    cohorts: dict[str, str] = {}


class Review(Spec, frozen=True, kw_only=True, tag="review"):
    """What each candidate would have scored, month by month (UTC), on the labelled rows of a time that it had not seen.

    `champion` is the first one, left alone; `rows` bounds the rows looked at in a month (an even sample of them).
    """

    champion: str
    candidates: list[str]
    start: datetime = field(name="from")
    end: datetime = field(name="to")
    rows: int | None = None
    metric: Literal["auc", "log_loss", "rmse", "mae"] | None = None


AnySpec = Train | Evaluate | Review
