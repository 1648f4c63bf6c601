"""What an endpoint's windows ask for, and what its past foresees, as the API shows them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from gpud.api.schemas.base import Document, Timestamp, timestamp_or_none
from gpud.core.prediction import forecast

if TYPE_CHECKING:
    from gpud.core.prediction import Prediction
    from gpud.ports.control import WindowView


class WindowDocument(Document):
    """An endpoint's warm windows as they are now."""

    window: str
    """The open one that asks for most; empty while none is open."""
    workers: int
    """Kept by it."""
    changes_at: Timestamp | None
    """When one opens or closes next."""


class ForecastDocument(Document):
    """What is known of the gaps between an endpoint's requests. Nothing acts on it."""

    gaps: int
    """Seen so far; a forecast needs 20."""
    ready_after_s: float | None
    """Foreseen: a worker should be ready so long after the last request; null while nothing is foreseen."""
    until_s: float | None
    """And may go after so long."""
    forecasts: int
    """Gaps for which there was a forecast."""
    hits: int
    """Of these, gaps that ended while a worker would have been warm."""
    cold_starts_saved: int
    """Acting on it would have saved so many."""
    cold_starts_added: int
    """And would have caused so many."""
    gpu_s_cost: float
    """GPU-seconds it would have held where none were held."""
    gpu_s_saved: float
    """GPU-seconds that were held and that it would not have."""


def window_document(view: WindowView) -> WindowDocument:
    """Show an endpoint's warm windows."""
    return WindowDocument(
        window=view.window, workers=view.workers, changes_at=timestamp_or_none(view.edge_ms or 0)
    )


def forecast_document(prediction: Prediction) -> ForecastDocument:
    """Show what is known of gaps, and what acting on it would have done."""
    told, shadow = forecast(prediction.gaps), prediction.shadow
    return ForecastDocument(
        gaps=prediction.gaps.samples,
        ready_after_s=told.from_s if told else None,
        until_s=told.until_s if told else None,
        **asdict(shadow),
    )
