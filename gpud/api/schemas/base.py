"""What all requests and answers have in common: strictness, times, pages."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)\Z")


class Document(BaseModel):
    """A JSON object that a client sends or gets; unknown members are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Query(BaseModel):
    """The parameters behind a `?`; unknown ones are refused, values are read from their text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _only_rfc_3339(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if not (isinstance(value, str) and _RFC_3339.match(value)):
        raise ValueError("must be an RFC 3339 time such as 2026-11-21T14:00:00Z")
    return value


def timestamp_text(moment: datetime) -> str:
    """Spell a time as every answer does."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Timestamp = Annotated[
    AwareDatetime,
    Field(strict=False),  # What a validator has seen counts as Python's, where a text is no time.
    BeforeValidator(_only_rfc_3339),
    PlainSerializer(timestamp_text, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An RFC 3339 time, written in UTC with milliseconds."""


def timestamp(at_ms: int) -> datetime:
    """Turn Unix milliseconds into a time."""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)


def timestamp_or_none(at_ms: int) -> datetime | None:
    """Turn Unix milliseconds into a time; 0 means there is none."""
    return timestamp(at_ms) if at_ms else None


def at_ms(moment: datetime | None) -> int:
    """Turn a time into Unix milliseconds; none is 0."""
    return 0 if moment is None else max(0, round(moment.timestamp() * 1000))


PageLimit = Annotated[int, Field(ge=1, le=500)]
Cursor = Annotated[str, Field(max_length=200)]


class PageQuery(Query):
    """Which part of a list is asked for."""

    limit: PageLimit = 100
    """Most items in one answer."""
    cursor: Cursor = ""
    """`next` of the answer before; leave it out for the first page."""
