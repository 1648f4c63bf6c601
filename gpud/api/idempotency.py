"""Answers a repeated mutation with what the first one was answered, instead of doing it twice.

Only good answers are kept. A refused request changed nothing, so its key is free again.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from aiohttp import web

from gpud.api.identity import CALLER
from gpud.api.operations import operation_of
from gpud.api.parsing import raw_body_of
from gpud.api.services import SERVICES
from gpud.errors import InvalidRequest
from gpud.ports.store import ReplayedAnswer

if TYPE_CHECKING:
    from gpud.api.operations import Handler

IDEMPOTENCY_KEY = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"

KEPT_BODY = web.RequestKey("KEPT_BODY", bytes)
"""What a handler wants kept instead of its answer's body, when that holds a secret."""

_LEGAL = re.compile(r"[!-~]{1,255}\Z")


@web.middleware
async def idempotency_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run a mutation once for each Idempotency-Key of a caller."""
    operation = operation_of(request)
    key = request.headers.get(IDEMPOTENCY_KEY)
    if operation is None or not operation.mutates or operation.repeats_itself or key is None:
        return await handler(request)
    if not _LEGAL.match(key):
        raise InvalidRequest(
            f"{IDEMPOTENCY_KEY} must have 1 to 255 printable ASCII characters without spaces.",
            fields={IDEMPOTENCY_KEY: "must have 1 to 255 printable ASCII characters without spaces"},
        )
    services, caller = request.app[SERVICES], request[CALLER].name
    fingerprint = _fingerprint(request, await raw_body_of(request))
    replay = await services.access.begin_idempotent(caller, key, fingerprint)
    if replay is not None:
        return _replayed(replay)
    kept: ReplayedAnswer | None = None
    try:
        response = await handler(request)
        if isinstance(response, web.Response) and response.status < 300:
            kept = ReplayedAnswer(
                fingerprint=fingerprint, status=response.status, body=_kept_body(request, response)
            )
    finally:
        await services.access.finish_idempotent(caller, key, kept)
    return response


def _fingerprint(request: web.Request, body: bytes) -> bytes:
    head = f"{request.method}\n{request.raw_path}\n".encode()
    return hashlib.sha256(head + body).digest()


def _kept_body(request: web.Request, response: web.Response) -> bytes:
    if KEPT_BODY in request:
        return request[KEPT_BODY]
    return response.body if isinstance(response.body, bytes) else b""


def _replayed(replay: ReplayedAnswer) -> web.Response:
    headers = {REPLAYED: "true"}
    if not replay.body:
        return web.Response(status=replay.status, headers=headers)
    return web.Response(
        status=replay.status, body=replay.body, content_type="application/json", headers=headers
    )
