"""Reads what jobs used, those whose rows are gone included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpud.adapters.sqlite.statements import SQL
from gpud.core.job import JobState
from gpud.ports.job_usage import JobUsagePage, JobUsed

if TYPE_CHECKING:
    import sqlite3

    from gpud.ports.job_usage import JobUsageQuery

SEQS_AT_ONCE = 50_000
"""Most jobs that one page looks through: a question for few among many takes several pages, none long."""


def forget_job(connection: sqlite3.Connection, seq: int) -> None:
    """Delete a job's row, and keep what it used."""
    connection.execute(SQL["job_usage_keep"], {"seq": seq})
    connection.execute(SQL["job_delete"], {"seq": seq})


def job_usage_page(query: JobUsageQuery, connection: sqlite3.Connection) -> JobUsagePage:
    """Read a page of them, in a read transaction."""
    newest = connection.execute(SQL["job_usage_newest"]).fetchone()["seq"]
    upto = min(newest, query.after_seq + SEQS_AT_ONCE)
    params = {
        "after": query.after_seq,
        "upto": upto,
        "endpoint": query.endpoint,
        "owner": query.owner,
        "since_ms": max(1, query.since_ms),
        "until_ms": query.until_ms,
        "limit": query.limit + 1,
    }
    found = tuple(map(_used, connection.execute(SQL["job_usage_page"], params)))
    page = found[: query.limit]
    if len(found) > len(page):
        return JobUsagePage(items=page, more_after=page[-1].seq)
    return JobUsagePage(items=page, more_after=upto if upto < newest else None)


def _used(row: sqlite3.Row) -> JobUsed:
    values: dict[str, Any] = dict(row)
    values["state"] = JobState(values["state"])
    return JobUsed(**values)
