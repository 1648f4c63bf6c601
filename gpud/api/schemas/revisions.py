"""Revisions and rollouts as the API shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gpud.api.schemas.base import Document, Timestamp, timestamp, timestamp_or_none
from gpud.core.revision import RevisionState
from gpud.core.rollout import RollbackReason, RolloutStep

if TYPE_CHECKING:
    from gpud.core.revision import RevisionRecord
    from gpud.core.rollout import Rollout


class RolloutDocument(Document):
    """An endpoint's way from one revision to another."""

    base: str
    """The revision that served before, and serves again after a rollback."""
    target: str
    """The revision that was deployed."""
    step: RolloutStep
    """`pull`, `canary`, `prove` and `shift` follow each other; the others are ends."""
    active: bool
    """It is under way."""
    failures: int
    """Starts of the target that failed so far."""
    last_error: str
    """Of the last of them."""
    reason: RollbackReason | None
    """Why it went back; null if it did not."""
    detail: str
    """Why it ended, for a person."""
    started_at: Timestamp
    changed_at: Timestamp
    """When the step began."""


class RevisionDocument(Document):
    """A revision: an endpoint's spec and image as they were deployed."""

    number: int
    """1 for the endpoint's first, and so on."""
    revision: str
    """Hash of spec and image; scale settings are no part of it."""
    state: RevisionState
    """What became of it."""
    detail: str
    """Why, such as what failed."""
    image: str
    """As the user wrote it."""
    pin: str
    """Digest (or id, for an image built here) that its workers run."""
    created_at: Timestamp
    """When it was first deployed."""
    changed_at: Timestamp
    """When its state last changed."""
    ready_at: Timestamp | None
    """When a worker of it was first ready; null for never."""


class RevisionPage(Document):
    """Revisions of an endpoint, newest first."""

    items: tuple[RevisionDocument, ...]
    next: str | None
    """Cursor of the next page; null on the last."""


class RollbackBody(Document):
    """Where to go back to."""

    revision: Annotated[str, Field(max_length=64)] = ""
    """Number of the revision or beginning of its hash; empty for the one before."""


def rollout_document(rollout: Rollout) -> RolloutDocument:
    """Show a rollout."""
    return RolloutDocument(
        base=rollout.base,
        target=rollout.target,
        step=rollout.step,
        active=rollout.active,
        failures=rollout.starts.failures,
        last_error=rollout.starts.last_error,
        reason=rollout.reason,
        detail=rollout.detail,
        started_at=timestamp(rollout.started_at_ms),
        changed_at=timestamp(rollout.changed_at_ms),
    )


def revision_document(record: RevisionRecord) -> RevisionDocument:
    """Show a revision."""
    return RevisionDocument(
        number=record.number,
        revision=record.revision,
        state=record.state,
        detail=record.detail,
        image=record.endpoint.image.reference,
        pin=record.endpoint.image.pin,
        created_at=timestamp(record.created_at_ms),
        changed_at=timestamp(record.changed_at_ms),
        ready_at=timestamp_or_none(record.ready_at_ms),
    )
