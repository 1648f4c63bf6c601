"""Fleet state on disk: what the reconciler starts from, and every change of it."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import TYPE_CHECKING, assert_never

from gpud.adapters.sqlite import history, metered_rows, revisions, rows
from gpud.adapters.sqlite.outbox import calls_out, put_event
from gpud.adapters.sqlite.statements import SQL
from gpud.core.cold_start import COMPARED_MAX
from gpud.core.energy import MINUTES_KEPT
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.core.records import (
    ArrivalsForgotten,
    ArrivalsRecorded,
    BudgetTold,
    ColdStartSaved,
    EndpointDeleted,
    EndpointSaved,
    EnergyDrawn,
    EventRecorded,
    FleetChange,
    GpuHealthSaved,
    GpuWatched,
    HeartbeatWritten,
    LeaseClosed,
    LeaseOpened,
    PredictionSaved,
    RevisionSaved,
    RolloutSaved,
    SegmentClosed,
    SegmentOpened,
    StandbyForgotten,
    StandbySaved,
    WorkerInserted,
    WorkerMoved,
)
from gpud.core.usage import hours_of
from gpud.core.usage_keys import key_hours_of
from gpud.errors import InvariantBroken
from gpud.ports.store import FleetRows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpud.adapters.sqlite.committer import GroupCommitter
    from gpud.core.cold_start import ColdStart
    from gpud.core.metering import Segment
    from gpud.core.revision import RevisionRecord


_COLD_STARTS_KEPT = 500
"""Of each endpoint."""


class SqliteFleetStore:
    """Durable fleet state (port `FleetStore`)."""

    def __init__(
        self,
        committer: GroupCommitter,
        note_put: Callable[[int], None] = lambda _: None,
        now_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self._committer = committer
        self._note_put = note_put
        self._now_ms = now_ms

    async def load_fleet(self) -> FleetRows:
        """Read everything the reconciler starts from."""
        return await self._committer.write(_load)

    async def revisions(self, endpoint: str) -> tuple[RevisionRecord, ...]:
        """Every revision an endpoint ever had, by number."""
        return await self._committer.write(partial(_revisions, endpoint))

    async def record(self, changes: Sequence[FleetChange]) -> None:
        """Write changes in one transaction, in order, whole or not at all.

        Raises:
            InvariantBroken: A row is not in the state the change was decided on, or a GPU
                would have two holders.
            StorageFull: The disk is full; nothing was written.
        """
        if changes:
            await self._committer.write(partial(record_changes, tuple(changes), now_ms=self._now_ms()))
            self._note_put(sum(calls_out(change) for change in changes))


def record_changes(
    changes: tuple[FleetChange, ...], connection: sqlite3.Connection, *, now_ms: int = 0
) -> None:
    """Apply changes inside the transaction that is open.

    Args:
        changes: In order.
        connection: In the transaction.
        now_ms: The store's timeline.

    Raises:
        InvariantBroken: As `SqliteFleetStore.record`.
    """
    for change in changes:
        try:
            _apply(change, connection, now_ms)
        except sqlite3.IntegrityError as error:
            raise InvariantBroken(f"{_named(change)} contradicts the store: {error}.") from error


def _apply(  # noqa: C901, PLR0912 - one arm a change
    change: FleetChange, connection: sqlite3.Connection, now_ms: int
) -> None:
    match change:
        case EndpointSaved(endpoint=endpoint):
            params = rows.endpoint_params(endpoint)
            connection.execute(SQL["endpoint_revision_keep"], params)
            connection.execute(SQL["endpoint_save"], params)
        case EndpointDeleted(name=name):
            connection.execute(SQL["endpoint_delete"], {"name": name})
            connection.execute(SQL["revisions_close"], {"name": name})
            history.forget_endpoint(name, connection)
        case RevisionSaved(record=record):
            connection.execute(SQL["revision_save"], revisions.revision_params(record))
        case RolloutSaved(rollout=rollout):
            connection.execute(SQL["rollout_save"], revisions.rollout_params(rollout))
        case WorkerInserted(worker=worker):
            connection.execute(SQL["worker_insert"], rows.worker_params(worker))
        case WorkerMoved():
            _move_worker(change, connection)
        case StandbySaved(standby=standby):
            connection.execute(SQL["standby_save"], rows.standby_params(standby))
        case StandbyForgotten(standby_id=standby_id):
            connection.execute(SQL["standby_forget"], {"id": standby_id})
        case LeaseOpened():
            _open_lease(change, connection)
        case LeaseClosed():
            _close_lease(change, connection)
        case SegmentOpened() | SegmentClosed() | GpuWatched() | EnergyDrawn() | BudgetTold():
            _meter(change, connection)
        case GpuHealthSaved(status=status):
            connection.execute(SQL["gpu_health_save"], rows.gpu_health_params(status))
        case EventRecorded():
            seq = connection.execute(SQL["event_insert"], rows.event_params(change)).lastrowid
            put_event(change, seq or 0, connection, now_ms=now_ms)
        case HeartbeatWritten(boot_id=boot_id, boot_ns=boot_ns, wall_ms=wall_ms):
            beat = {"boot_id": boot_id, "boot_ns": boot_ns, "wall_ms": wall_ms}
            connection.execute(SQL["heartbeat_write"], beat)
        case ArrivalsRecorded():
            history.record_arrivals(change, connection)
        case ArrivalsForgotten(before_ms=before_ms):
            connection.execute(SQL["arrivals_forget"], {"before_ms": before_ms})
        case PredictionSaved():
            history.save_prediction(change, connection)
        case ColdStartSaved(start=start):
            _save_cold_start(start, connection)
        case _:
            assert_never(change)


def _meter(
    change: SegmentOpened | SegmentClosed | GpuWatched | EnergyDrawn | BudgetTold,
    connection: sqlite3.Connection,
) -> None:
    match change:
        case SegmentOpened(segment=segment):
            connection.execute(SQL["segment_open"], metered_rows.segment_params(segment))
            if segment.end_boot_ns is not None:
                _add_hours(segment, connection)
        case SegmentClosed():
            _close_segment(change, connection)
        case GpuWatched(watch=watch):
            connection.execute(SQL["gpu_watch_save"], metered_rows.watch_params(watch))
        case EnergyDrawn():
            _add_energy(change, connection)
        case BudgetTold(budget=budget, since_ms=since_ms, percent=percent):
            told = {"budget": budget, "since_ms": since_ms, "percent": percent}
            connection.execute(SQL["budget_told_save"], told)


def _add_energy(change: EnergyDrawn, connection: sqlite3.Connection) -> None:
    params = metered_rows.energy_params(change)
    connection.execute(SQL["usage_energy_add"], params)
    if change.minute is not None:
        connection.execute(SQL["usage_energy_minute_add"], params)
        connection.execute(SQL["usage_energy_minutes_forget"], {"before": change.minute - MINUTES_KEPT})


def _save_cold_start(start: ColdStart, connection: sqlite3.Connection) -> None:
    connection.execute(SQL["cold_start_save"], rows.cold_start_params(start))
    connection.execute(SQL["cold_start_forget"], {"endpoint": start.endpoint, "kept": _COLD_STARTS_KEPT})


def _move_worker(change: WorkerMoved, connection: sqlite3.Connection) -> None:
    params = rows.worker_params(change.worker) | {
        "from_state": change.from_state,
        "from_generation": change.from_generation,
    }
    if connection.execute(SQL["worker_move"], params).rowcount == 1:
        return
    row = connection.execute(SQL["worker_place"], {"id": change.worker.id}).fetchone()
    found = "has no row" if row is None else f"is {row['state']} at generation {row['generation']}"
    raise InvariantBroken(
        f"Worker {change.worker.id} was to move from {change.from_state} at generation "
        f"{change.from_generation} to {change.worker.state}, but it {found}."
    )


def _open_lease(change: LeaseOpened, connection: sqlite3.Connection) -> None:
    params = {
        "gpu_uuid": change.gpu_uuid,
        "worker_id": change.worker_id,
        "boot_id": change.boot_id,
        "at_boot_ns": change.at_boot_ns,
        "memory_mib": change.gpu_slice.memory_mib if change.gpu_slice else None,
        "of_mib": change.gpu_slice.of_mib if change.gpu_slice else None,
    }
    try:
        connection.execute(SQL["lease_open"], params)
    except sqlite3.IntegrityError as error:
        found = connection.execute(SQL["lease_holders"], {"gpu_uuid": change.gpu_uuid}).fetchone()
        if found["holders"] is None:
            raise
        part, holds = "", "holds it"
        if change.gpu_slice:
            part = f"with {change.gpu_slice.memory_mib} of {change.gpu_slice.of_mib} MiB "
        if found["memory_mib"]:
            holds = f"holds {found['memory_mib']} MiB of it"
        raise InvariantBroken(
            f"GPU {change.gpu_uuid} was to be leased {part}to {change.worker_id}, "
            f"but {found['holders']} {holds}."
        ) from error


def _close_lease(change: LeaseClosed, connection: sqlite3.Connection) -> None:
    params = {
        "gpu_uuid": change.gpu_uuid,
        "worker_id": change.worker_id,
        "at_boot_ns": change.at_boot_ns,
    }
    if connection.execute(SQL["lease_close"], params).rowcount != 1:
        raise InvariantBroken(f"Worker {change.worker_id} holds no open lease of GPU {change.gpu_uuid}.")


def _close_segment(change: SegmentClosed, connection: sqlite3.Connection) -> None:
    segment = change.segment
    if segment.end_boot_ns is None:
        raise InvariantBroken(
            f"Segment {segment.seq} of {segment.worker_id} was to be closed without an end."
        )
    if connection.execute(SQL["segment_close"], metered_rows.segment_params(segment)).rowcount != 1:
        raise InvariantBroken(
            f"Worker {segment.worker_id} has no open {segment.phase} segment {segment.seq} "
            f"that began at {segment.start_boot_ns}."
        )
    _add_hours(segment, connection)


def _add_hours(segment: Segment, connection: sqlite3.Connection) -> None:
    params = metered_rows.segment_params(segment)
    for hour, ns in hours_of(segment):
        connection.execute(SQL["usage_hour_add"], params | {"hour": hour, "ns": ns})
    for hour, key, ns in key_hours_of(segment):
        used = {"worker_id": segment.worker_id, "hour": hour, "phase": segment.phase, "key": key, "ns": ns}
        connection.execute(SQL["usage_key_add"], used)


def _named(change: FleetChange) -> str:
    match change:
        case WorkerInserted(worker=worker) | WorkerMoved(worker=worker):
            return f"{type(change).__name__} of {worker.id}"
        case SegmentOpened(segment=segment) | SegmentClosed(segment=segment):
            return f"{type(change).__name__} {segment.seq} of {segment.worker_id}"
        case _:
            return type(change).__name__


def _revisions(endpoint: str, connection: sqlite3.Connection) -> tuple[RevisionRecord, ...]:
    found = connection.execute(SQL["revisions_of_endpoint"], {"endpoint": endpoint})
    return tuple(map(revisions.revision_of, found))


def _load(connection: sqlite3.Connection) -> FleetRows:
    beat = connection.execute(SQL["heartbeat_read"]).fetchone()
    return FleetRows(
        endpoints=tuple(map(rows.endpoint_of, connection.execute(SQL["endpoints_all"]))),
        workers=tuple(map(rows.worker_of, connection.execute(SQL["workers_live"]))),
        leases=tuple(
            (GpuUuid(row["gpu_uuid"]), WorkerId(row["worker_id"]))
            for row in connection.execute(SQL["leases_open"])
        ),
        open_segments=tuple(map(metered_rows.segment_of, connection.execute(SQL["segments_open"]))),
        gpu_statuses=tuple(map(rows.gpu_status_of, connection.execute(SQL["gpu_health_all"]))),
        slept={
            WorkerId(row["worker_id"]): row["next_seq"] for row in connection.execute(SQL["segments_slept"])
        },
        standbys=tuple(map(rows.standby_of, connection.execute(SQL["standbys_all"]))),
        cold_starts=tuple(
            map(rows.cold_start_of, connection.execute(SQL["cold_starts_recent"], {"each": COMPARED_MAX}))
        ),
        heartbeat=None if beat is None else (beat["boot_id"], beat["boot_ns"], beat["wall_ms"]),
        revisions=tuple(map(revisions.revision_of, connection.execute(SQL["revisions_needed"]))),
        revision_numbers=tuple(
            (EndpointName(row["endpoint"]), Revision(row["revision"]), row["number"])
            for row in connection.execute(SQL["revision_numbers"])
        ),
        rollouts=tuple(map(revisions.rollout_of, connection.execute(SQL["rollouts_all"]))),
        predictions=history.predictions(connection),
        budgets_told={
            row["budget"]: (row["since_ms"], row["percent"])
            for row in connection.execute(SQL["budgets_told"])
        },
    )
