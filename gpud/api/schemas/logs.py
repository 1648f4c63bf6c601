"""The workers' output: what is asked for, and what is answered."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gpud.api.schemas.base import Document, Query, Timestamp
from gpud.core.log_lines import LogStream

if TYPE_CHECKING:
    from gpud.ports.logs import FoundLine

LOG_CURSOR_CHARS_MAX = 4096


class LogOrder(StrEnum):
    """Which end of the log is answered first."""

    NEWEST = "newest"
    OLDEST = "oldest"


class LogsQuery(Query):
    """Which lines are asked for."""

    endpoint: Annotated[str, Field(max_length=40)] = ""
    """Only of this endpoint's workers, those that are gone included."""
    worker: Annotated[str, Field(max_length=40)] = ""
    """Only of this worker."""
    job: Annotated[str, Field(max_length=100)] = ""
    """Only what a job's workers wrote while they had the job; with others at the same time, theirs too."""
    stream: LogStream | None = None
    """Only this stream: `stdout`, `stderr`, or `gpud` for what gpud itself says of the worker."""
    since: Timestamp | None = None
    """Only lines written at this time or later."""
    until: Timestamp | None = None
    """Only lines written before this time."""
    grep: Annotated[str, Field(max_length=1000)] = ""
    """Only lines with this text."""
    regex: Annotated[str, Field(max_length=1000)] = ""
    """Only lines in which this expression is found, in the syntax of RE2."""
    ignore_case: bool = False
    """`grep` and `regex` take capitals and small letters for the same."""
    previous: bool = False
    """Only of workers that are gone."""
    order: LogOrder = LogOrder.NEWEST
    """`newest`: the last lines that fit; `oldest`: the first ones. Either way lines come in order of time."""
    limit: Annotated[int, Field(ge=0, le=5000)] = 200
    """Most lines of one answer."""
    cursor: Annotated[str, Field(max_length=LOG_CURSOR_CHARS_MAX)] = ""
    """`next` of an earlier answer, or a line's `cursor`: what comes after it, oldest first."""
    follow: bool = False
    """Answer with server-sent events: these lines, then new ones as they are written. The header
    `Last-Event-ID` counts as `cursor`."""


class LogLineDocument(Document):
    """A line that a worker wrote, or that gpud wrote about it."""

    at: str
    """RFC 3339 in UTC, to the nanosecond."""
    endpoint: str
    worker_id: str
    stream: LogStream
    text: str
    """Without its end; secrets are replaced by `[redacted]`. May hold control characters."""
    cursor: str
    """To go on right after this line."""


class LogPageDocument(Document):
    """Lines in order of time."""

    items: tuple[LogLineDocument, ...]
    next: str
    """Cursor to go on from, now or later."""
    complete: bool
    """Whether nothing more is there now; a search over much text is answered in parts."""
    lost_bytes: int
    """Deleted since the cursor was given, and never read with it."""


def line_document(found: FoundLine) -> LogLineDocument:
    """Show a line."""
    return LogLineDocument(
        at=found.line.stamp,
        endpoint=found.endpoint,
        worker_id=found.worker_id,
        stream=found.line.stream,
        text=found.line.text,
        cursor=found.cursor.spelled(),
    )
