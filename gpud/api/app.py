"""Builds the control API: routes, middlewares, headers, and what runs beside them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from typing import TYPE_CHECKING

from aiohttp import web

from gpud.api import (
    budgets,
    dashboard,
    dry_runs,
    endpoints,
    events,
    execs,
    gpus,
    images,
    job_usage,
    jobs,
    keys,
    logs,
    metrics,
    registries,
    respond_async,
    revisions,
    runpod,
    runpod_openai,
    simulation,
    starts,
    state,
    stats,
    system,
    templates,
    usage,
    webhooks,
    workers,
)
from gpud.api.audit_log import OPERATIONS_HERE as AUDIT_LOG_OPERATIONS
from gpud.api.auditing import auditing_middleware
from gpud.api.following import Followers
from gpud.api.hosts import hosts_middleware, set_hosts
from gpud.api.idempotency import idempotency_middleware
from gpud.api.identity import ADMINISTRATOR_UIDS, identity_middleware
from gpud.api.job_drain import DRAIN, Drain
from gpud.api.operations import add_operations
from gpud.api.problems import BODY_BYTES_MAX, REQUEST_ID, problems_middleware
from gpud.api.self_description import SelfDescription
from gpud.api.services import SERVICES, Services
from gpud.ports.readings import Readings
from gpud.ports.traffic import GatewayReading

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from gpud.api.auth import ApiKeyRing
    from gpud.jobs.jobs import Jobs
    from gpud.ports.audit_log import AuditLogStore
    from gpud.ports.control import FleetControl
    from gpud.ports.execs import ExecRunner
    from gpud.ports.logs import LogArchive
    from gpud.ports.simulator import Simulator
    from gpud.ports.store import AccessStore, ReadModel
    from gpud.ports.time import Clock, IdSource
    from gpud.settings import Settings
    from gpud.webhooks.control import WebhookControl

ALL_OPERATIONS = (
    *endpoints.OPERATIONS_HERE,
    *simulation.OPERATIONS_HERE,
    *revisions.OPERATIONS_HERE,
    *dry_runs.OPERATIONS_HERE,
    *templates.OPERATIONS_HERE,
    *starts.OPERATIONS_HERE,
    *workers.OPERATIONS_HERE,
    *execs.OPERATIONS_HERE,
    *stats.OPERATIONS_HERE,
    *gpus.OPERATIONS_HERE,
    *images.OPERATIONS_HERE,
    *registries.OPERATIONS_HERE,
    *keys.OPERATIONS_HERE,
    *jobs.OPERATIONS_HERE,
    *respond_async.OPERATIONS_HERE,
    *runpod.OPERATIONS_HERE,
    *runpod_openai.OPERATIONS_HERE,
    *usage.OPERATIONS_HERE,
    *budgets.OPERATIONS_HERE,
    *job_usage.OPERATIONS_HERE,
    *AUDIT_LOG_OPERATIONS,
    *events.OPERATIONS_HERE,
    *logs.OPERATIONS_HERE,
    *metrics.OPERATIONS_HERE,
    *webhooks.OPERATIONS_HERE,
    *system.OPERATIONS_HERE,
    *state.OPERATIONS_HERE,
    *dashboard.OPERATIONS_HERE,
)

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def _no_checkpoints() -> Mapping[str, str]:
    return {}


def build_api(
    *,
    control: FleetControl,
    reads: ReadModel,
    access: AccessStore,
    keyring: ApiKeyRing,
    jobs_: Jobs,
    settings: Settings,
    simulator: Simulator,
    clock: Clock,
    ids: IdSource,
    webhook_control: WebhookControl,
    archive: LogArchive,
    readings: Readings | None = None,
    audit_log: AuditLogStore,
    exec_runner: ExecRunner,
    gateway: Callable[[], GatewayReading] = GatewayReading,
    checkpoints: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
    administrator_uids: frozenset[int] | None = None,
) -> web.Application:
    """Build the application; run it with one `web.AppRunner`, on as many sites as wanted.

    Who is trusted follows from the connection alone: see `identity`. By which names gpud may be
    asked without a key is in `hosts`.

    Args:
        control: The fleet's door.
        reads: Rows for lists and reports.
        access: Registry credentials and replayed answers.
        jobs_: The job queue.
        keyring: Loaded; the application writes its last uses once a minute.
        settings: For prices and for show.
        simulator: Replays the record of requests.
        clock: For labels and expiry.
        ids: For request ids.
        webhook_control: The door to webhooks.
        archive: The workers' kept output.
        readings: What a scrape is told.
        audit_log: Calls that changed something.
        exec_runner: Runs commands inside workers.
        gateway: How the gateway is; asked for each status.
        checkpoints: Why each tool for checkpoints cannot be used here; None when nobody looks.
        administrator_uids: Who needs no key on the Unix socket; root and the daemon's own by default.
    """
    app = web.Application(
        client_max_size=BODY_BYTES_MAX,
        middlewares=[
            problems_middleware,
            hosts_middleware,
            identity_middleware,
            auditing_middleware,
            idempotency_middleware,
        ],
    )
    app[SERVICES] = Services(
        control=control,
        reads=reads,
        access=access,
        keyring=keyring,
        jobs=jobs_,
        settings=settings,
        simulator=simulator,
        clock=clock,
        ids=ids,
        webhooks=webhook_control,
        gateway=gateway,
        checkpoints=checkpoints or _no_checkpoints,
        archive=archive,
        readings=readings or Readings(),
        audit_log=audit_log,
        execs=exec_runner,
    )
    default_uids = frozenset({0, os.geteuid()})
    app[ADMINISTRATOR_UIDS] = default_uids if administrator_uids is None else administrator_uids
    set_hosts(app, settings)
    app[events.FOLLOWERS] = Followers("events")
    app[logs.READERS] = Followers("logs")
    app[state.VIEWERS] = Followers("the state")
    app[state.FEED] = state.StateFeed(app[SERVICES])
    app[dashboard.BUNDLE] = dashboard.Bundle(dashboard.FOLDER)
    app[templates.TEMPLATES] = templates.Templates(templates.FOLDER)
    app[execs.SESSIONS] = Counter()
    app[DRAIN] = Drain(jobs_.queue)
    app[system.SELF_DESCRIPTION] = SelfDescription(ALL_OPERATIONS, version=control.health().version)
    add_operations(app, ALL_OPERATIONS)
    app.on_response_prepare.append(_add_headers)
    app.on_shutdown.append(_end_endless_answers)
    app.cleanup_ctx.append(_write_key_uses)
    return app


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "gpud"
    if REQUEST_ID in request:
        response.headers["X-Gpud-Request-Id"] = request[REQUEST_ID]


async def _end_endless_answers(app: web.Application) -> None:
    app[SERVICES].stopping.set()


async def _write_key_uses(app: web.Application) -> AsyncIterator[None]:
    keyring = app[SERVICES].keyring
    flushing = asyncio.create_task(keyring.keep_flushing(), name="key-uses")
    yield
    flushing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await flushing
    await keyring.flush()
