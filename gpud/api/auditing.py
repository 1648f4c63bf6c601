"""Writes calls that change something to the audit log, before they are answered.

The entry is written right after the change, in a transaction of its own, and the answer is sent when it
is on disk: no acknowledged change lacks its entry. A call that the daemon's death cut short may have
changed something and has none, as it has no answer.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from gpud.api.identity import CALLER, source_of
from gpud.api.job_access import JOB_ID
from gpud.api.operations import operation_of
from gpud.api.problems import REQUEST_ID
from gpud.api.schemas.access import key_document, registry_document
from gpud.api.schemas.webhooks import webhook_document
from gpud.api.services import SERVICES
from gpud.core.audit_log import Audited, AuditEntry, digest_of
from gpud.core.ids import JobId
from gpud.errors import GpudError, NotFound

if TYPE_CHECKING:
    from gpud.api.operations import Handler, Operation
    from gpud.api.services import Services

_DAY_MS = 86_400_000
_PATH_CHARS_MAX = 500
_DETAIL_CHARS_MAX = 2000
_NAMED = {"endpoints": "name", "keys": "id", "webhooks": "id"}
"""What a newly made thing is called, in the answer that shows it."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@web.middleware
async def auditing_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Pass a call on, and write down what came of it."""
    operation = operation_of(request)
    services = request.app[SERVICES]
    if operation is None or not _is_audited(operation, services):
        return await handler(request)
    subject = _subject_of(request)
    before = await _digest(services, subject)
    try:
        response = await handler(request)
    except Exception as error:
        status = error.status if isinstance(error, GpudError | web.HTTPException) else 500
        with contextlib.suppress(GpudError):  # The caller is told of the refusal, which is the cause.
            await _write(request, operation, subject, status, before)
        raise
    await _write(request, operation, subject or _made(request, response), response.status, before)
    return response


def _is_audited(operation: Operation, services: Services) -> bool:
    if not operation.mutates or operation.audited is Audited.NEVER:
        return False
    return operation.audited is Audited.ALWAYS or services.settings.audit.jobs


async def _write(request: web.Request, operation: Operation, subject: str, status: int, before: str) -> None:
    after = await _digest(request.app[SERVICES], subject)
    await record(request, operation.name, subject, status, before=before, after=after)


async def record(
    request: web.Request,
    operation: str,
    subject: str,
    status: int,
    *,
    before: str = "",
    after: str = "",
    detail: str = "",
) -> None:
    """Write an entry about a request of a known caller; it is on disk when this returns.

    Raises:
        GpudError: It could not be written; the journal has it.
    """
    services = request.app[SERVICES]
    at_ms = services.clock.at_ms()
    entry = AuditEntry(
        at_ms=at_ms,
        request_id=request[REQUEST_ID],
        caller=request[CALLER].name,
        source=source_of(request),
        operation=operation,
        method=request.method,
        path=_text(request.path),
        subject=_text(subject),
        status=status,
        before=before,
        after=after,
        detail=_text(detail, _DETAIL_CHARS_MAX),
    )
    forget_before_ms = at_ms - round(services.settings.audit.keep_days * _DAY_MS)
    try:
        await services.audit_log.append(entry, forget_before_ms=forget_before_ms)
    except GpudError as error:
        # The journal is the second place: whoever looks for the entry finds it there.
        _log.error("audit_entry.not_written", error=error.detail, **asdict(entry))
        raise type(error)(
            f"What came of this call (status {status}) could not be written to the audit log, so it is not "
            f"confirmed, though it may have changed something: {error.detail}"
        ) from error


def _subject_of(request: web.Request) -> str:
    """Which thing a path names; empty for a collection."""
    collection = request.path.split("/")[2]
    kinds = {"name": collection, "id": collection, "job": "jobs", "uuid": "gpus", "pin": "images"}
    kinds["endpoint"] = "endpoints"
    for field, kind in kinds.items():
        if field in request.match_info:
            return f"{kind}/{request.match_info[field]}"
    return ""


def _made(request: web.Request, response: web.StreamResponse) -> str:
    """Which thing a call made, by what its answer says."""
    kind = request.path.rpartition("/")[2]
    if kind not in _NAMED or not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return ""
    try:
        name = json.loads(response.body)[_NAMED[kind]]
    except (ValueError, KeyError, TypeError):
        return ""
    return f"{kind}/{name}"


async def _digest(services: Services, subject: str) -> str:
    """Digest of what a subject is declared to be.

    Passwords, tokens and signing secrets are not among its facts; values of `env` are.
    """
    kind, _, name = subject.partition("/")
    try:
        return digest_of(await _facts(services, kind, name))
    except NotFound:
        return ""


async def _facts(services: Services, kind: str, name: str) -> object | None:
    match kind:
        case "endpoints":
            endpoint = services.control.endpoint(name).endpoint
            return {"spec": asdict(endpoint.spec), "revision": endpoint.revision}
        case "keys":
            found = (key for key in services.keyring.list_keys() if key.id == name)
            shown = [key_document(key).model_dump_json(exclude={"last_used_at"}) for key in found]
        case "registries":
            stored = await services.access.list_registries()
            shown = [registry_document(one).model_dump_json() for one in stored if one.name == name]
        case "webhooks":
            shown = [webhook_document(await services.webhooks.get(name)).model_dump_json()]
        case "gpus":
            every = await services.control.gpus()
            shown = [one.status.health.value for one in every if one.status.gpu.uuid == name]
        case "workers":
            shown = [services.control.worker(name).state.value]
        case "jobs":
            job = await services.jobs.queue.store.job(JobId(name)) if JOB_ID.match(name) else None
            shown = [] if job is None else [job.state.value]
        case _:
            shown = []
    return shown or None


def _text(said: str, chars_max: int = _PATH_CHARS_MAX) -> str:
    return said.encode(errors="backslashreplace").decode()[:chars_max]
