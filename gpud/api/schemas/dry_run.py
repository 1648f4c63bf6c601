"""What a deploy would do, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from gpud.api.schemas.base import Document
from gpud.api.schemas.fleet import WaitDocument
from gpud.api.schemas.spec import EndpointSpecDocument, spec_document
from gpud.core.waiting import remedy

if TYPE_CHECKING:
    from gpud.core.forecast import Forecast

Change = Literal["create", "restart", "rescale", "none"]


class PlacementDocument(Document):
    """Where a worker would start at once."""

    gpu_uuids: tuple[str, ...]
    """Empty for a CPU worker."""
    memory_mib: int
    """What it would reserve of its one GPU; 0 when its GPUs would be its own."""


class LeaverDocument(Document):
    """A worker that would give way."""

    worker_id: str
    endpoint: str
    in_s: float
    """Seconds until its turn to leave comes; 0 for at once."""
    busy: bool
    """It has requests, which it would finish first."""


class DryRunDocument(Document):
    """What deploying a spec would do, as far as the box can tell now; nothing was written."""

    name: str
    change: Change
    """`create`, `restart` (another revision), `rescale` (the same revision, other settings) or `none`."""
    revision: str
    spec: EndpointSpecDocument
    """With every default written out."""
    image_pin: str
    image_present: bool
    """Else the image would be pulled first, which `expected_ready_in_s` does not count."""
    workers: int
    """That one request, or the guarantee, would have."""
    workers_present: int
    """Of them, those that run already."""
    placements: tuple[PlacementDocument, ...]
    """Workers that would start at once."""
    evictions: tuple[LeaverDocument, ...]
    """Workers that would give way for one more."""
    wait: WaitDocument | None
    """Why not all of them could start at once, and what would change that."""
    expected_ready_in_s: float | None
    """Seconds until a first worker is ready, without a pull and without what busy workers take to finish;
    null when nobody can tell."""
    cold_start_s: float
    """Of which from its GPUs to readiness."""
    cold_start_measured: bool
    """Whether `cold_start_s` is of the endpoint's own starts; else it is a guess."""


def dry_run_document(found: Forecast) -> DryRunDocument:
    """Show a forecast."""
    endpoint, wait = found.endpoint, found.wait
    return DryRunDocument(
        name=endpoint.name,
        change=cast("Change", found.change),
        revision=endpoint.revision,
        spec=spec_document(endpoint.spec),
        image_pin=endpoint.image.pin,
        image_present=found.image_present,
        workers=found.workers,
        workers_present=found.present,
        placements=tuple(
            PlacementDocument(gpu_uuids=uuids, memory_mib=endpoint.spec.gpus.memory_mib)
            for uuids in found.placements
        ),
        evictions=tuple(
            LeaverDocument(
                worker_id=each.worker_id, endpoint=each.endpoint, in_s=round(each.in_s, 1), busy=each.busy
            )
            for each in found.leavers
        ),
        wait=None
        if wait is None
        else WaitDocument(
            reason=wait.reason,
            detail=wait.detail,
            facts=dict(wait.facts),
            until=None,
            remedy=remedy(wait, endpoint.name),
        ),
        expected_ready_in_s=None if found.first_ready_s is None else round(found.first_ready_s, 1),
        cold_start_s=round(found.cold_start_s, 1),
        cold_start_measured=found.cold_start_measured,
    )
