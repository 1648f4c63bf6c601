"""Puts the end of a job in the outbox, inside the transaction that ends it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gpud.adapters.sqlite.outbox import put_message
from gpud.adapters.sqlite.statements import SQL
from gpud.core.job_call import job_message

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from gpud.core.job import Job


OUTPUT_BYTES_MAX = 16_000
"""A larger result is not in the message; whoever wants it asks for the job."""
RUNPOD_BYTES_MAX = 256 * 1024
"""The same for RunPod's format, whose message is the job itself."""


class JobCalls:
    """What a job's end adds to its transaction.

    Args:
        wall_ms: Reads the wall clock, from any thread.
        now_ms: The store's timeline.
        noted: Told, on the store's thread, that something was put in the outbox.
    """

    def __init__(
        self, wall_ms: Callable[[], int], now_ms: Callable[[], int], noted: Callable[[], None]
    ) -> None:
        self._wall_ms = wall_ms
        self._now_ms = now_ms
        self._noted = noted

    def note_ends(self, connection: sqlite3.Connection, ended: Sequence[Job]) -> None:
        """Tell who wants to know that jobs ended (`JobWriter.on_end`)."""
        told = [job for job in ended if job.webhook]
        if len(told) < len(ended) and connection.execute(SQL["webhook_count"]).fetchone()[0]:
            told = list(ended)
        for job in told:
            message = job_message(
                job,
                at_ms=self._wall_ms(),
                given=_given(_value_of(job.seq, "input", connection)),
                output=_value_of(job.seq, "result", connection),
                output_bytes_max=OUTPUT_BYTES_MAX,
            )
            if put_message(message, connection, now_ms=self._now_ms()):
                self._noted()


def _given(request: object) -> object:
    """The member `input` of a job's request."""
    return request.get("input") if isinstance(request, dict) else request


def _value_of(seq: int, kind: str, connection: sqlite3.Connection) -> object:
    """A payload as JSON; None when there is none, it is not JSON, or it is not in its row."""
    row = connection.execute(SQL["job_payload_read"], {"seq": seq, "kind": kind}).fetchone()
    if row is None or row["content"] is None or len(row["content"]) > RUNPOD_BYTES_MAX:
        return None
    if not row["content_type"].split(";", 1)[0].strip().endswith("json"):
        return None
    try:
        return json.loads(row["content"])
    except ValueError:
        return None
