"""The record of requests and of the gaps between them, as rows."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gpud.adapters.sqlite.rows import to_json
from gpud.adapters.sqlite.statements import SQL
from gpud.core.history import ArrivalBatch
from gpud.core.ids import EndpointName
from gpud.core.prediction import GapHistogram, Prediction, Shadow

if TYPE_CHECKING:
    import sqlite3

    from gpud.core.records import ArrivalsRecorded, PredictionSaved


def record_arrivals(change: ArrivalsRecorded, connection: sqlite3.Connection) -> None:
    """Add a stretch to an endpoint's record."""
    connection.execute(SQL["arrivals_record"], {"endpoint": change.endpoint, **asdict(change.batch)})


def forget_endpoint(name: EndpointName, connection: sqlite3.Connection) -> None:
    """Give up the record of an endpoint that is deleted."""
    connection.execute(SQL["arrivals_forget_endpoint"], {"name": name})
    connection.execute(SQL["prediction_forget"], {"name": name})


def save_prediction(change: PredictionSaved, connection: sqlite3.Connection) -> None:
    """Keep what is known of an endpoint's gaps."""
    gaps, shadow = change.prediction.gaps, change.prediction.shadow
    params = {"endpoint": change.endpoint, "gaps": to_json(asdict(gaps)), "shadow": to_json(asdict(shadow))}
    connection.execute(SQL["prediction_save"], params)


def predictions(connection: sqlite3.Connection) -> dict[EndpointName, Prediction]:
    """What is known of every endpoint's gaps."""
    return {
        EndpointName(row["endpoint"]): _prediction_of(json.loads(row["gaps"]), json.loads(row["shadow"]))
        for row in connection.execute(SQL["predictions_all"])
    }


def _prediction_of(gaps: dict[str, object], shadow: dict[str, object]) -> Prediction:
    counts = gaps.pop("counts")
    return Prediction(
        gaps=GapHistogram(counts=tuple(counts), **gaps),  # type: ignore[arg-type] # as they were written
        shadow=Shadow(**shadow),  # type: ignore[arg-type] # as they were written
    )


def arrivals(
    connection: sqlite3.Connection, endpoint: str, *, since_ms: int, until_ms: int
) -> tuple[ArrivalBatch, ...]:
    """The stretches of a record that reach into a period."""
    params = {"endpoint": endpoint, "since_ms": since_ms, "until_ms": until_ms}
    return tuple(ArrivalBatch(**dict(row)) for row in connection.execute(SQL["arrivals_between"], params))


def starts(
    connection: sqlite3.Connection, endpoint: str, *, since_ms: int, until_ms: int, woken: bool
) -> tuple[dict[str, Any], ...]:
    """What was recorded of each start that ended well in a period, or of each way back from a rung."""
    kind = "worker.woken" if woken else "worker.ready"
    params = {"endpoint": endpoint, "since_ms": since_ms, "until_ms": until_ms, "kind": kind}
    return tuple(json.loads(row["facts"]) for row in connection.execute(SQL["starts_between"], params))
