"""What-if questions and their answers as the API shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from gpud.api.schemas.base import Document, Timestamp
from gpud.core.metering import cost_micros

if TYPE_CHECKING:
    from gpud.core.whatif import Outcome


class SimulationBody(Document):
    """Which settings to try on which requests."""

    since: Timestamp | None = None
    """From here on; seven days ago when left out."""
    until: Timestamp | None = None
    """Up to here; now when left out."""
    scale: dict[str, Any] = Field(default_factory=dict)
    """Fields of the spec's `scale` that would be other; the rest stays as it is."""

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.since and self.until and self.until <= self.since:
            raise ValueError("until must be after since")
        return self


class OutcomeDocument(Document):
    """What became of the requests, and what it took."""

    requests: int
    unserved: int
    """Of these, requests that reached no worker."""
    wait_ms_p50: int
    """Median time from arrival to a worker."""
    wait_ms_p95: int
    wait_ms_max: int
    cold_starts: int
    """Workers that became ready, from nothing or from a standby."""
    wakes: int
    """How often a worker came back from being paused or asleep."""
    gpu_ms: int
    """Billable GPU milliseconds."""
    cost_micros: int
    """In millionths of the currency."""


class SimulationDocument(Document):
    """What happened, beside what a replay of the same requests comes to."""

    endpoint: str
    since: Timestamp
    until: Timestamp
    currency: str
    actual: OutcomeDocument
    """What really happened: the record, the bill."""
    present: OutcomeDocument
    """A replay with the present settings: how well the replay meets what happened."""
    changed: OutcomeDocument | None
    """A replay with the other settings; null when none were asked for."""
    assumed: list[str]
    """Starts that the replay makes up because none is on record, with the time they take there."""


def outcome_document(outcome: Outcome, *, gpu_hour_micros: int) -> OutcomeDocument:
    """Show an outcome with its price."""
    gpu_ns = round(outcome.gpu_s * 1e9)
    return OutcomeDocument(
        requests=outcome.requests,
        unserved=outcome.unserved,
        wait_ms_p50=round(outcome.wait_s_p50 * 1000),
        wait_ms_p95=round(outcome.wait_s_p95 * 1000),
        wait_ms_max=round(outcome.wait_s_max * 1000),
        cold_starts=outcome.cold_starts,
        wakes=outcome.wakes,
        gpu_ms=gpu_ns // 1_000_000,
        cost_micros=cost_micros(gpu_ns, price_micros_per_gpu_hour=gpu_hour_micros),
    )
