"""Standbys as the API shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.schemas.base import Document, Query, Timestamp, timestamp
from gpud.core.standby import Rung, StandbyState

if TYPE_CHECKING:
    from gpud.core.standby import Standby


class StandbyDocument(Document):
    """A container that is kept for a fast start and holds no GPU."""

    id: str
    """Its container is named `gpud-<id>`; the worker it becomes has the same id."""
    endpoint: str
    revision: str
    rung: Rung
    """How far on the way to a worker it is."""
    state: StandbyState
    gpu_uuids: tuple[str, ...]
    """The GPUs its container can reach; leased only when it becomes a worker."""
    address: str
    """Of the container; empty before it runs."""
    ram_mib: int
    """What it is counted with against the budget."""
    detail: str
    created_at: Timestamp


class StandbysQuery(Query):
    """Which standbys."""

    endpoint: str = ""
    """Only this endpoint's."""


class StandbyList(Document):
    """All standbys that were asked for."""

    items: tuple[StandbyDocument, ...]


def standby_document(standby: Standby) -> StandbyDocument:
    """Show a standby."""
    return StandbyDocument(
        id=standby.id,
        endpoint=standby.endpoint,
        revision=standby.revision,
        rung=standby.rung,
        state=standby.state,
        gpu_uuids=standby.gpu_uuids,
        address=standby.address,
        ram_mib=standby.ram_mib,
        detail=standby.detail,
        created_at=timestamp(standby.created_at_ms),
    )
