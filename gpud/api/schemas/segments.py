"""Metered segments as the API exports them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gpud.api.schemas.base import Document, PageQuery, Timestamp, timestamp
from gpud.core.metering import BILLABLE, Phase

if TYPE_CHECKING:
    from gpud.core.metering import Segment


class SegmentsQuery(PageQuery):
    """Which segments are asked for."""

    endpoint: Annotated[str, Field(max_length=40)] = ""
    """Only this endpoint's."""
    since: Timestamp | None = None
    """Only those that ended at this time or later."""
    until: Timestamp | None = None
    """Only those that ended before this time."""


class SegmentDocument(Document):
    """A stretch of a worker's life in one phase. Closed ones alone are exported, and they never change."""

    worker_id: str
    seq: int
    """Counts the worker's segments from 0; with `worker_id` it names the segment for good."""
    phase: Phase
    billable: bool
    endpoint: str
    revision: str
    gpu_uuids: tuple[str, ...]
    share_ppm: int
    """The part of each GPU that was the worker's, in millionths."""
    start: Timestamp
    duration_ns: int
    boot_id: str
    start_boot_ns: int
    """CLOCK_BOOTTIME of the boot `boot_id`."""
    end_boot_ns: int
    close_reason: str
    estimated: bool
    """The end was not observed but taken from the last sign of life."""
    keys: dict[str, int]
    """Nanoseconds of it by the API key whose requests ran; `(public)` for public endpoints."""


class SegmentPage(Document):
    """Closed segments by worker and number."""

    items: tuple[SegmentDocument, ...]
    next: str | None
    """Cursor of the next page; null on the last."""


def segment_document(segment: Segment) -> SegmentDocument:
    """Show a closed segment."""
    return SegmentDocument(
        worker_id=segment.worker_id,
        seq=segment.seq,
        phase=segment.phase,
        billable=segment.phase in BILLABLE,
        endpoint=segment.endpoint,
        revision=segment.revision,
        gpu_uuids=segment.gpu_uuids,
        share_ppm=segment.share_ppm,
        start=timestamp(segment.start_wall_ms),
        duration_ns=segment.duration_ns,
        boot_id=segment.boot_id,
        start_boot_ns=segment.start_boot_ns,
        end_boot_ns=segment.start_boot_ns + segment.duration_ns,
        close_reason=segment.close_reason,
        estimated=segment.estimated,
        keys=dict(segment.keys),
    )
