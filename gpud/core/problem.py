"""How an error looks as an RFC 9457 problem document, wherever it is told."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.errors import GpudError

PROBLEM_TYPE = "application/problem+json"
"""Media type of a problem document."""

PROBLEM_PREFIX = "/problems/"
"""Where the daemon serves the page of each problem; followed by the error's slug."""


def problem_document(error: GpudError, *, request_id: str = "") -> dict[str, object]:
    """Write an error as the members of a problem document, JSON-ready.

    Args:
        error: What went wrong.
        request_id: Of the request it answers, which the log names too; told as `instance`.
    """
    document: dict[str, object] = {
        "type": PROBLEM_PREFIX + error.slug,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
    }
    if error.fields:
        document["fields"] = dict(error.fields)
    if error.retry_after_s is not None:
        document["retry_after_s"] = error.retry_after_s
    if request_id:
        document["instance"] = request_id
    for name, value in error.extra.items():
        document.setdefault(name, value)
    return document


def problem_headers(error: GpudError) -> dict[str, str]:
    """List the headers an error asks for, beside the content type."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="gpud"'
    return headers
