"""The API on the real store in memory and a fake fleet, with a client for each kind of caller."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import ClientSession, UnixConnector, web
from aiohttp.test_utils import TestClient, TestServer

from gpud.adapters.job_carrier import HttpJobCarrier
from gpud.adapters.log_archive import LogFileArchive
from gpud.adapters.replay_process import ReplayProcess
from gpud.adapters.sqlite.store import memory_database, open_inline_store
from gpud.adapters.webhook_sender import WebhookSender
from gpud.adapters.webhook_signer import StandardSigner
from gpud.api.app import build_api
from gpud.api.auth import ApiKeyRing
from gpud.core.webhook_guard import GuardRules
from gpud.gateway.dispatch import Dispatcher
from gpud.jobs.jobs import Jobs
from gpud.ports.traffic import GatewayReading
from gpud.settings import Settings
from gpud.webhooks.control import WebhookControl
from tests.fakes.clock import FakeClock, SeededIds
from tests.fakes.control import FakeFleetControl
from tests.fakes.execs import FakeExecs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gpud.adapters.sqlite.store import Store
    from gpud.ports.readings import Readings

NOBODY = frozenset({4_000_000_000})
"""Administrators' uids, where the test's own process must not be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSite:
    """A running API and what it stands on."""

    app: web.Application
    control: FakeFleetControl
    store: Store
    keyring: ApiKeyRing
    jobs: Jobs
    dispatcher: Dispatcher
    execs: FakeExecs
    clock: FakeClock
    client: TestClient[web.Request, web.Application]
    admin: dict[str, str]
    """Headers of a caller with the scope admin."""

    async def headers(self, *scopes: str) -> dict[str, str]:
        """Headers of a fresh key with these scopes."""
        _, token = await self.keyring.create(label="test", scopes=scopes)
        return {"Authorization": f"Bearer {token}"}


SECRET = b"of the install"


@asynccontextmanager
async def running_api(
    settings: Settings | None = None,
    *,
    administrator_uids: frozenset[int] | None = None,
    gateway: Callable[[], GatewayReading] = GatewayReading,
    log_root: Path | None = None,
    readings: Readings | None = None,
) -> AsyncIterator[ApiSite]:
    """Run the API on a loopback port."""
    async with AsyncExitStack() as stack:
        clock = FakeClock()
        database = memory_database()
        stack.callback(database.close)
        store = await open_inline_store(database, clock)
        stack.push_async_callback(store.close)
        control, execs = FakeFleetControl(clock.at_ms), FakeExecs()
        ids = SeededIds()
        keyring = ApiKeyRing(store.access, clock, ids)
        await keyring.load()
        webhook_control = WebhookControl(
            store=store.webhooks,
            sender=WebhookSender(GuardRules(), clock),
            signer=StandardSigner(),
            clock=clock,
            ids=ids,
        )
        dispatcher = Dispatcher(clock)
        jobs = Jobs(store.jobs, dispatcher, HttpJobCarrier(), clock=clock, ids=ids, secret=SECRET)
        await jobs.load()
        app = build_api(
            control=control,
            reads=store.reads,
            access=store.access,
            keyring=keyring,
            jobs_=jobs,
            settings=settings or Settings(),
            simulator=ReplayProcess(),
            clock=clock,
            ids=ids,
            webhook_control=webhook_control,
            readings=readings,
            archive=LogFileArchive(log_root or Path("/nonexistent")),
            audit_log=store.audit_log,
            exec_runner=execs,
            gateway=gateway,
            administrator_uids=administrator_uids,
        )
        client = await stack.enter_async_context(TestClient(TestServer(app)))
        _, token = await keyring.create(label="admin", scopes=["admin"])
        yield ApiSite(
            app=app,
            control=control,
            store=store,
            keyring=keyring,
            jobs=jobs,
            dispatcher=dispatcher,
            execs=execs,
            clock=clock,
            client=client,
            admin={"Authorization": f"Bearer {token}"},
        )


@asynccontextmanager
async def unix_client(site: ApiSite, path: Path) -> AsyncIterator[ClientSession]:
    """A client of the same application through a Unix socket."""
    runner = site.client.server.runner
    assert runner is not None
    unix = web.UnixSite(runner, str(path))
    await unix.start()
    try:
        async with ClientSession("http://gpud", connector=UnixConnector(str(path))) as session:
            yield session
    finally:
        await unix.stop()
