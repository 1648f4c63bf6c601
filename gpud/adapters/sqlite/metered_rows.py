"""Rows of what was metered into core types and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from gpud.adapters.sqlite.rows import gpu_uuids_of, to_json
from gpud.core.gpu import WHOLE_PPM, GpuSlice
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.core.metering import Phase, Segment
from gpud.core.unleased import Hold, Watch

if TYPE_CHECKING:
    import sqlite3

    from gpud.adapters.sqlite.rows import Params
    from gpud.core.records import EnergyDrawn


def segment_params(segment: Segment) -> Params:
    """A segment as statement parameters."""
    return {
        "worker_id": segment.worker_id,
        "seq": segment.seq,
        "phase": segment.phase,
        "endpoint": segment.endpoint,
        "revision": segment.revision,
        "gpu_uuids": to_json(segment.gpu_uuids),
        "boot_id": segment.boot_id,
        "start_boot_ns": segment.start_boot_ns,
        "end_boot_ns": segment.end_boot_ns,
        "start_wall_ms": segment.start_wall_ms,
        "close_reason": segment.close_reason,
        "estimated": segment.estimated,
        "share_ppm": segment.share_ppm,
        "keys": to_json(dict(segment.keys)),
    }


def segment_of(row: sqlite3.Row) -> Segment:
    """Read a segment back."""
    return Segment(
        worker_id=WorkerId(row["worker_id"]),
        seq=row["seq"],
        phase=Phase(row["phase"]),
        endpoint=EndpointName(row["endpoint"]),
        revision=Revision(row["revision"]),
        gpu_uuids=gpu_uuids_of(row["gpu_uuids"]),
        boot_id=row["boot_id"],
        start_boot_ns=row["start_boot_ns"],
        end_boot_ns=row["end_boot_ns"],
        start_wall_ms=row["start_wall_ms"],
        close_reason=row["close_reason"],
        estimated=bool(row["estimated"]),
        share_ppm=row["share_ppm"],
        keys=tuple(sorted(json.loads(row["keys"]).items())),
    )


def watch_params(watch: Watch) -> Params:
    """A watched stretch of a GPU as statement parameters."""
    return asdict(watch)


def watch_of(row: sqlite3.Row) -> Watch:
    """Read a watched stretch back."""
    return Watch(
        gpu_uuid=GpuUuid(row["gpu_uuid"]),
        boot_id=row["boot_id"],
        start_boot_ns=row["start_boot_ns"],
        end_boot_ns=row["end_boot_ns"],
        start_wall_ms=row["start_wall_ms"],
    )


def hold_of(row: sqlite3.Row) -> Hold:
    """Read a lease as far as its time goes."""
    whole = row["memory_mib"] is None
    share = None if whole else GpuSlice(memory_mib=row["memory_mib"], of_mib=row["of_mib"])
    return Hold(
        gpu_uuid=GpuUuid(row["gpu_uuid"]),
        boot_id=row["boot_id"],
        start_boot_ns=row["leased_boot_ns"],
        end_boot_ns=row["released_boot_ns"],
        share_ppm=WHOLE_PPM if share is None else share.share_ppm,
    )


def energy_params(drawn: EnergyDrawn) -> Params:
    """What a GPU drew as statement parameters."""
    return {
        "gpu_uuid": drawn.gpu_uuid,
        "worker_id": drawn.holder.worker_id,
        "phase": drawn.holder.phase,
        "hour": drawn.hour,
        "minute": drawn.minute,
        "endpoint": drawn.holder.endpoint,
        "mj": drawn.mj,
        "sampled_mj": drawn.sampled_mj,
    }
