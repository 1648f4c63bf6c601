"""What every handler may reach, and where it hangs on the application."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gpud.api.auth import ApiKeyRing
    from gpud.jobs.jobs import Jobs
    from gpud.ports.audit_log import AuditLogStore
    from gpud.ports.control import FleetControl
    from gpud.ports.execs import ExecRunner
    from gpud.ports.logs import LogArchive
    from gpud.ports.readings import Readings
    from gpud.ports.simulator import Simulator
    from gpud.ports.store import AccessStore, ReadModel
    from gpud.ports.time import Clock, IdSource
    from gpud.ports.traffic import GatewayReading
    from gpud.settings import Settings
    from gpud.webhooks.control import WebhookControl


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything the API is made of.

    Args:
        control: The fleet's door.
        reads: Rows for lists and reports.
        access: Registry credentials and replayed answers.
        keyring: API keys, in memory.
        jobs: The job queue.
        settings: The daemon's settings, for prices and for show.
        simulator: Replays the record of requests.
        clock: For rows, labels and expiry.
        ids: For request ids.
        webhooks: Subscriptions and what they were told.
        gateway: How the gateway is.
        checkpoints: Why each tool for checkpoints cannot be used here; empty where it can.
        archive: The workers' kept output.
        readings: What a scrape is told.
        audit_log: Calls that changed something.
        execs: Runs commands inside workers.
        stopping: Set when the application shuts down, so that endless answers end.
    """

    control: FleetControl
    reads: ReadModel
    access: AccessStore
    keyring: ApiKeyRing
    jobs: Jobs
    settings: Settings
    simulator: Simulator
    clock: Clock
    ids: IdSource
    webhooks: WebhookControl
    gateway: Callable[[], GatewayReading]
    checkpoints: Callable[[], Awaitable[Mapping[str, str]]]
    archive: LogArchive
    readings: Readings
    audit_log: AuditLogStore
    execs: ExecRunner
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _names: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def one_at_a_time(self, name: str) -> asyncio.Lock:
        """Lock for changes of one name that read before they write, such as a merge of a spec.

        Every change of a spec passes through this API, so the lock makes read and write one step.
        """
        lock = self._names.get(name)
        if lock is None:
            lock = self._names[name] = asyncio.Lock()
        return lock


SERVICES = web.AppKey("SERVICES", Services)
