"""Writes answers: JSON from documents, and lists in pages."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web

from gpud.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpud.api.schemas.base import Document, PageQuery

T = TypeVar("T")


def answer(document: Document, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Render a document as JSON."""
    return web.Response(
        status=status,
        body=document.model_dump_json().encode(),
        content_type="application/json",
        headers=headers,
    )


def cursor_for(position: str) -> str:
    """Wrap a position so that clients hand it back and read nothing into it."""
    return base64.urlsafe_b64encode(position.encode()).decode("ascii").rstrip("=")


def position_of(cursor: str) -> str:
    """Unwrap a cursor; an empty one is the start.

    Raises:
        InvalidRequest: It is none of ours.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return raw.decode()
    except (binascii.Error, ValueError) as error:
        why = "must be `next` of an earlier answer"
        raise InvalidRequest(f"cursor: {why}.", fields={"cursor": why}) from error


def page_of(
    rows: Sequence[T], position: Callable[[T], str], query: PageQuery
) -> tuple[Sequence[T], str | None]:
    """Cut a page out of rows that are all in memory, sorted by `position`.

    Returns:
        The page's rows, and the cursor of the next page, None on the last.
    """
    after = position_of(query.cursor)
    left = [row for row in rows if position(row) > after] if after else list(rows)
    page = left[: query.limit]
    more = len(left) > len(page)
    return page, cursor_for(position(page[-1])) if more else None
