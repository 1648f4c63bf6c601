"""Turns every error of the API into a problem document, and unknown ones into one that tells nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import structlog
from aiohttp import hdrs, web

from gpud.api.dialects import Dialect, dialect_of
from gpud.api.services import SERVICES
from gpud.core.problem import PROBLEM_TYPE, problem_document, problem_headers
from gpud.errors import (
    BodyTooLarge,
    GpudError,
    InvalidRequest,
    InvariantBroken,
    MethodNotAllowed,
    NotFound,
    UnsupportedMediaType,
)
from gpud.gateway.openai import error_body

if TYPE_CHECKING:
    from gpud.api.operations import Handler

BODY_BYTES_MAX = 1 << 20
"""Largest body the API reads."""

REQUEST_ID = web.RequestKey("REQUEST_ID", str)

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@web.middleware
async def problems_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer with a problem document whatever goes wrong further in."""
    request_id = request[REQUEST_ID] = request.app[SERVICES].ids.new_id("req")
    try:
        return await handler(request)
    except GpudError as error:
        if isinstance(error, InvariantBroken):
            _log.exception("request.failed", request_id=request_id, method=request.method, path=request.path)
        else:
            _note_refusal(request, error)
        return _refusal(request, error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _refusal(request, _translated(error, request))
    except ConnectionResetError:
        raise  # The client went away: there is nobody to answer.
    except Exception:  # noqa: BLE001 the last resort of every request: logged, answered, never told
        _log.exception("request.failed", request_id=request_id, method=request.method, path=request.path)
        unknown = GpudError(
            f"gpud failed while answering; the request changed something or nothing. "
            f"Its log tells more under request {request_id}."
        )
        return _refusal(request, unknown)


def _refusal(request: web.Request, error: GpudError) -> web.Response:
    """Answer in the caller's dialect."""
    dialect = dialect_of(request.path)
    if dialect is Dialect.GPUD:
        return problem_response(error, request_id=request[REQUEST_ID])
    body = error_body(error) if dialect is Dialect.OPENAI else _json({"error": error.detail})
    return web.Response(
        status=error.status, body=body, content_type="application/json", headers=_headers(error)
    )


def _headers(error: GpudError) -> dict[str, str]:
    headers = problem_headers(error)
    allowed = error.extra.get("allowed")
    if isinstance(error, MethodNotAllowed) and isinstance(allowed, list):
        headers[hdrs.ALLOW] = ", ".join(allowed)
    return headers


def _note_refusal(request: web.Request, error: GpudError) -> None:
    """Log why a change was refused: whoever runs gpud may see the log and not the caller's screen."""
    if request.method in (hdrs.METH_GET, hdrs.METH_HEAD) or error.status == 401:
        return
    _log.warning(
        "request.refused",
        request_id=request[REQUEST_ID],
        method=request.method,
        path=request.path,
        status=error.status,
        problem=error.slug,
        error=error.detail,
    )


def problem_response(error: GpudError, *, request_id: str) -> web.Response:
    """Render an error."""
    return web.Response(
        status=error.status,
        body=_json(problem_document(error, request_id=request_id)),
        content_type=PROBLEM_TYPE,
        headers=_headers(error),
    )


def _json(document: dict[str, object]) -> bytes:
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="backslashreplace")  # A header may hold bytes that are no text.


def _translated(error: web.HTTPException, request: web.Request) -> GpudError:
    match error:
        case web.HTTPNotFound():
            return NotFound(f"There is nothing at {request.path[:200]}. GET /docs lists every path.")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return MethodNotAllowed(
                f"{request.method[:20]} is not allowed on {request.path[:200]}; allowed: {allowed}.",
                extra={"allowed": sorted(error.allowed_methods)},
            )
        case web.HTTPRequestEntityTooLarge():
            return BodyTooLarge(f"The body is larger than {BODY_BYTES_MAX} bytes, the most this API reads.")
        case web.HTTPUnsupportedMediaType():
            return UnsupportedMediaType("The body's type is not read here. Send JSON.")
        case _:
            return InvalidRequest(f"The request cannot be read: {error.reason}.")
