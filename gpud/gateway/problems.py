"""What gpud's own errors look like on the wire: problem documents, or OpenAI's shape on its paths."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.errors import GpudError

_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


def problem_body(error: GpudError, request_id: str) -> bytes:
    """Render an error as RFC 9457 problem+json."""
    document: dict[str, object] = {
        "type": f"/problems/{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": request_id,
    }
    if error.fields:
        document["fields"] = error.fields
    if error.retry_after_s is not None:
        document["retry_after_s"] = error.retry_after_s
    for name, value in error.extra.items():
        document.setdefault(name, value)
    return json.dumps(document, separators=(",", ":")).encode()


def openai_body(error: GpudError) -> bytes:
    """Render an error as OpenAI's clients expect it."""
    fault = {
        "message": error.detail,
        "type": _OPENAI_TYPES.get(error.status, "server_error"),
        "param": "model" if error.status == 404 else None,
        "code": "model_not_found" if error.status == 404 else error.slug.replace("-", "_"),
    }
    return json.dumps({"error": fault}, separators=(",", ":")).encode()


def problem_headers(error: GpudError, request_id: str, *, openai: bool) -> list[tuple[str, str]]:
    """Headers that go with an error's body, its length excepted."""
    headers = [
        ("Content-Type", "application/json" if openai else "application/problem+json"),
        ("Gpud-Origin", "gateway"),
        ("X-Gpud-Request-Id", request_id),
        ("Cache-Control", "no-store"),
    ]
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(max(1, math.ceil(error.retry_after_s)))))
    if error.status == 401:
        headers.append(("WWW-Authenticate", 'Bearer realm="gpud"'))
    return headers
