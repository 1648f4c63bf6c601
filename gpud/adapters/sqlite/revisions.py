"""Revisions and rollouts: rows into core types and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gpud.adapters.sqlite.rows import image_of, spec_of, to_json
from gpud.core.endpoint import Endpoint
from gpud.core.ids import EndpointName, Revision
from gpud.core.revision import RevisionRecord, RevisionState
from gpud.core.rollout import RollbackReason, Rollout, RolloutStep, SmokeState
from gpud.core.starts import StartRecord
from gpud.errors import GpudError, StoreUnusable

if TYPE_CHECKING:
    import sqlite3

    Params = dict[str, Any]


def revision_params(record: RevisionRecord) -> Params:
    """A revision as statement parameters."""
    return {
        "endpoint": record.name,
        "revision": record.revision,
        "spec": to_json(asdict(record.endpoint.spec)),
        "image": to_json(asdict(record.endpoint.image)),
        "created_at_ms": record.created_at_ms,
        "number": record.number,
        "state": record.state,
        "detail": record.detail,
        "changed_at_ms": record.changed_at_ms,
        "ready_at_ms": record.ready_at_ms,
    }


def revision_of(row: sqlite3.Row) -> RevisionRecord:
    """Read a revision back.

    Raises:
        StoreUnusable: The stored spec is not one this version can build.
    """
    try:
        endpoint = Endpoint(
            spec=spec_of(json.loads(row["spec"])),
            image=image_of(json.loads(row["image"])),
            revision=Revision(row["revision"]),
            created_at_ms=row["created_at_ms"],
            updated_at_ms=row["created_at_ms"],
        )
    except (TypeError, KeyError, ValueError, GpudError) as error:
        raise StoreUnusable(
            f"A stored revision of {row['endpoint']} cannot be read back ({error}): {row['spec'][:200]}. "
            "Use the gpud version that wrote it, or delete the endpoint there first."
        ) from error
    return RevisionRecord(
        endpoint=endpoint,
        number=row["number"],
        state=RevisionState(row["state"]),
        detail=row["detail"],
        created_at_ms=row["created_at_ms"],
        changed_at_ms=row["changed_at_ms"],
        ready_at_ms=row["ready_at_ms"],
    )


def rollout_params(rollout: Rollout) -> Params:
    """A rollout as statement parameters."""
    return {
        "endpoint": rollout.endpoint,
        "base": rollout.base,
        "target": rollout.target,
        "step": rollout.step,
        "since_s": rollout.since_s,
        "clock_s": rollout.clock_s,
        "replaced": rollout.replaced,
        "failures": rollout.starts.failures,
        "permanent": rollout.starts.permanent,
        "last_error": rollout.starts.last_error,
        "smoke": rollout.smoke,
        "reason": rollout.reason,
        "detail": rollout.detail,
        "started_at_ms": rollout.started_at_ms,
        "changed_at_ms": rollout.changed_at_ms,
    }


def rollout_of(row: sqlite3.Row) -> Rollout:
    """Read a rollout back; its next try is due at once."""
    return Rollout(
        endpoint=EndpointName(row["endpoint"]),
        base=Revision(row["base"]),
        target=Revision(row["target"]),
        step=RolloutStep(row["step"]),
        since_s=row["since_s"],
        clock_s=row["clock_s"],
        replaced=row["replaced"],
        starts=StartRecord(
            failures=row["failures"], last_error=row["last_error"], permanent=bool(row["permanent"])
        ),
        smoke=SmokeState(row["smoke"]),
        reason=None if row["reason"] is None else RollbackReason(row["reason"]),
        detail=row["detail"],
        started_at_ms=row["started_at_ms"],
        changed_at_ms=row["changed_at_ms"],
    )
