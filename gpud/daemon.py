"""The composition root: builds every adapter, starts every loop, stops them in order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import uvloop
from aiohttp import web

from gpud import __version__
from gpud.adapters.certificates import Certificates
from gpud.adapters.cron_calendar import CronCalendar
from gpud.adapters.docker_images import DockerImages
from gpud.adapters.docker_runtime import DockerRuntime
from gpud.adapters.gpu_choice import choose_gpus
from gpud.adapters.http_probe import SocketProbe
from gpud.adapters.job_carrier import HttpJobCarrier
from gpud.adapters.nvml_gpus import NvmlGpus
from gpud.adapters.replay_process import ReplayProcess
from gpud.adapters.sockets import address_of, open_tcp, open_unix
from gpud.adapters.sqlite.store import open_store
from gpud.adapters.system import SystemClock, SystemIds
from gpud.adapters.systemd import ServiceNotifier, credential_path, inherited_sockets
from gpud.adapters.threads import Threads
from gpud.adapters.tier_created import CreatedTier
from gpud.adapters.tier_parked import ParkedTier
from gpud.adapters.webhook_sender import WebhookSender
from gpud.adapters.webhook_signer import StandardSigner
from gpud.api.app import build_api
from gpud.api.auth import ApiKeyRing
from gpud.core.gpu import GpuAttach
from gpud.core.standby import StandbyBudget
from gpud.core.starts import BackoffPolicy
from gpud.core.webhook_guard import GuardRules
from gpud.errors import BadSettings
from gpud.fleet.fates import Fates
from gpud.fleet.fleet import Fleet, FleetPorts
from gpud.fleet.hands import FleetSettings
from gpud.fleet.reconciler import ReconcilerPolicy
from gpud.fleet.state import StartLimits
from gpud.gateway.dispatch import Dispatcher
from gpud.gateway.server import Gateway
from gpud.gateway.tuning import tune_process
from gpud.jobs.bounds import free_share, limits_of, retention_of
from gpud.jobs.jobs import Jobs
from gpud.jobs.load import LoadWithJobs
from gpud.settings import load_settings
from gpud.telemetry import set_up_logging
from gpud.webhooks.control import WebhookControl
from gpud.webhooks.dispatcher import WebhookDispatcher

if TYPE_CHECKING:
    from gpud.adapters.sqlite.store import Store
    from gpud.ports.gpus import GpuInventory
    from gpud.ports.standby import Tier
    from gpud.settings import Settings

log = structlog.get_logger(__name__)

_THREADS = 16


def serve(config: Path | None) -> int:
    """Run the daemon until SIGTERM or SIGINT; returns the exit code.

    Raises:
        BadSettings: gpud.toml or an address in it cannot be used.
        StoreUnusable: The data directory cannot be used.
    """
    settings = load_settings(config)
    set_up_logging(settings.log)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_serve(settings, config))
        except BaseExceptionGroup as group:
            if faults := _leaves(group, BadSettings):
                raise faults[0] from group
            # A loop met something nobody foresaw, or the store cannot go on. The service manager
            # starts the daemon again from what is on disk; workers serve on meanwhile.
            log.exception("daemon.failed")
            return 1


async def _serve(settings: Settings, config: Path | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    certificates = _certificates(settings)
    loop.add_signal_handler(signal.SIGHUP, _reload, settings, config, certificates)
    async with AsyncExitStack() as closing:
        clock, ids = SystemClock(), SystemIds()
        # The lock on the data directory comes first: a second daemon must touch nothing.
        store = await open_store(
            settings.paths.data_dir, clock, master_key_path=credential_path(os.environ, "master.key")
        )
        closing.push_async_callback(store.close)
        inherited = inherited_sockets(os.environ, pid=os.getpid())
        tcp = [s for s in inherited if s.family != socket.AF_UNIX] or [open_tcp(settings.server.listen)]
        local = [s for s in inherited if s.family == socket.AF_UNIX] or [
            open_unix(settings.paths.run_dir / "api.sock")
        ]
        for listening in (*tcp, *local):
            closing.callback(listening.close)
        notifier = ServiceNotifier(os.environ, pid=os.getpid())
        closing.callback(notifier.close)
        # Where the port was left to the system, this is how others learn it.
        (settings.paths.run_dir / "address").write_text(address_of(tcp[0]) + "\n", encoding="ascii")
        await Daemon(settings, store, clock, ids, notifier).run(stop, tcp, local, certificates)
    log.info("daemon.stopped")
    return 0


class Daemon:
    """Every part, built once.

    Args:
        settings: Checked.
        store: Open; this process holds its lock.
        clock: The system's.
        ids: The system's.
        notifier: Tells the service manager how the daemon is.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: SystemClock,
        ids: SystemIds,
        notifier: ServiceNotifier,
    ) -> None:
        self._settings = settings
        self._notifier = notifier
        self._store = store
        self._clock = clock
        self._ids = ids
        self._gpus = choose_gpus(settings.gpus)
        self._threads = Threads(_THREADS)
        self._runtime = DockerRuntime(
            settings.docker,
            store.install_id,
            self._threads,
            attach=_attach(settings, self._gpus),
            volume_roots=settings.paths.volume_roots,
        )
        self._images = DockerImages(settings.docker, self._threads)
        self._dispatcher = Dispatcher(clock)
        self._keyring = ApiKeyRing(store.access, clock, ids)
        self._sender = WebhookSender(_guard(settings), clock)
        self._signer = StandardSigner()
        self._carrier = HttpJobCarrier()
        self._jobs = Jobs(
            store.jobs,
            self._dispatcher,
            self._carrier,
            clock=clock,
            ids=ids,
            kept=retention_of(settings.jobs),
            limits=limits_of(settings.jobs),
            free_share=partial(free_share, settings.paths.data_dir),
        )

    async def run(
        self,
        stop: asyncio.Event,
        tcp: list[socket.socket],
        local: list[socket.socket],
        certificates: Certificates | None,
    ) -> None:
        """Serve until `stop` is set, then drain and end.

        Args:
            stop: Set by a signal.
            tcp: Where the gateway listens.
            local: Unix sockets, where administrators need no key.
            certificates: Of the TCP port; None for plain HTTP.
        """
        settings = self._settings
        await self._keyring.load()
        async with asyncio.TaskGroup() as tasks:
            fleet = self._fleet(tasks)
            self._dispatcher.watch(fleet.reconciler)
            await fleet.load()
            await self._jobs.load()
            self._jobs.queue.on_load.append(fleet.reconciler.load_changed)
            runner = await self._start_api(fleet)
            self._gateway = gateway = Gateway(
                dispatcher=self._dispatcher,
                settings=settings.server,
                keys=self._keyring,
                control=_server_of(runner),
                clock=self._clock,
                ids=self._ids,
                log_share=settings.log.requests_share if settings.log.requests else None,
            )
            watching = [
                tasks.create_task(self._watch_store(), name="store_watch"),
                tasks.create_task(self._feed_watchdog(fleet), name="watchdog"),
                tasks.create_task(self._webhook_dispatcher().run(), name="webhooks"),
            ]
            if certificates is not None:
                watching.append(tasks.create_task(certificates.keep_looking(), name="certificates"))
            fleet.start()
            await self._jobs.start(tasks, Fates(fleet.reconciler), fleet.spec_of)
            await gateway.start([*tcp, *local], certificates.context if certificates is not None else None)
            tune_process()
            log.info(
                "daemon.started",
                version=__version__,
                listen=address_of(tcp[0]),
                api_socket=local[0].getsockname(),
                gpu_source=self._gpus.source,
                gpus=len(fleet.state.gpus),
                pid=os.getpid(),
            )
            self._notifier.ready(f"Serving on {address_of(tcp[0])}")
            await stop.wait()
            await self._drain(gateway)
            await fleet.stop(drain=settings.docker.stop_policy == "drain")
            await runner.cleanup()
            for task in watching:
                task.cancel()
        await self._close_adapters()

    async def _close_adapters(self) -> None:
        for adapter in (self._sender, self._carrier, self._images, self._runtime, self._threads):
            await adapter.close()
        if isinstance(self._gpus, NvmlGpus):
            await self._gpus.close()

    async def _drain(self, gateway: Gateway) -> None:
        """Take nothing more; what runs has a while to end."""
        log.info("daemon.stopping")
        self._notifier.stopping("Waiting for running requests")
        drain_s = self._settings.server.shutdown_timeout_s
        await asyncio.gather(gateway.stop(drain_s), self._jobs.stop(drain_s))

    def _fleet(self, tasks: asyncio.TaskGroup) -> Fleet:
        settings = self._settings
        ports = FleetPorts(
            runtime=self._runtime,
            images=self._images,
            gpus=self._gpus,
            probe=SocketProbe(),
            store=self._store.fleet,
            access=self._store.access,
            traffic=LoadWithJobs(self._dispatcher, self._jobs.queue, self._clock),
            clock=self._clock,
            ids=self._ids,
            calendar=CronCalendar(),
            tiers=self._tiers(),
        )
        fleet_settings = FleetSettings(
            parallel_starts=settings.docker.parallel_starts or 2 * (os.cpu_count() or 1),
            gpu_attach=_attach(settings, self._gpus),
            idle_memory_mib_max=settings.gpus.idle_memory_mib_max,
            release_timeout_s=settings.gpus.release_timeout_s,
            history_days=settings.history.keep_days,
            headroom_mib=settings.gpus.headroom_mib,
        )
        backoff = BackoffPolicy(
            base_s=settings.scaling.start_backoff_s,
            max_s=settings.scaling.start_backoff_s_max,
            circuit_failures=settings.scaling.circuit_failures,
        )
        policy = ReconcilerPolicy(
            backoff=backoff,
            settle_s=settings.scaling.settle_s,
            verify_gpus=self._gpus.source == "nvml",
            starts=StartLimits(box=settings.scaling.starts, endpoint=settings.scaling.endpoint_starts),
            standbys=StandbyBudget(workers=settings.standby.workers, ram_mib=settings.standby.ram_mib),
        )
        return Fleet(ports, fleet_settings, policy, tasks)

    def _tiers(self) -> tuple[Tier, ...]:
        parked = ParkedTier(
            self._runtime,
            self._threads,
            root=self._settings.paths.data_dir / "standby",
            engine_is_local=self._settings.docker.host.startswith("unix://"),
        )
        return (CreatedTier(self._runtime), parked)

    async def _start_api(self, fleet: Fleet) -> web.AppRunner:
        app = build_api(
            control=fleet.control,
            reads=self._store.reads,
            access=self._store.access,
            keyring=self._keyring,
            jobs_=self._jobs,
            settings=self._settings,
            simulator=ReplayProcess(),
            clock=self._clock,
            ids=self._ids,
            webhook_control=WebhookControl(
                store=self._store.webhooks,
                sender=self._sender,
                signer=self._signer,
                clock=self._clock,
                ids=self._ids,
            ),
            gateway=lambda: self._gateway.reading(),  # noqa: PLW0108 - it is built later, and all come through it
        )
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        return runner

    def _webhook_dispatcher(self) -> WebhookDispatcher:
        return WebhookDispatcher(
            store=self._store.webhooks,
            sender=self._sender,
            signer=self._signer,
            clock=self._clock,
            ids=self._ids,
            retention_s=self._settings.webhooks.retention_s,
        )

    async def _watch_store(self) -> None:
        """End the daemon when the store cannot go on: a restart starts from what is on disk."""
        raise await self._store.failed

    async def _feed_watchdog(self, fleet: Fleet) -> None:
        """Tell the service manager that the loops make progress; stop telling when one does not."""
        limit_s = self._notifier.watchdog_s
        while limit_s is not None:
            stuck = fleet.stuck(round_limit_s=limit_s)
            if stuck:
                log.error("daemon.stuck", loop=stuck)
            else:
                self._notifier.watchdog()
            await asyncio.sleep(limit_s / 4)


def _leaves(group: BaseExceptionGroup, kind: type[BadSettings]) -> list[BadSettings]:
    """The exceptions of a kind that a group holds, however deep."""
    found: list[BadSettings] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found += _leaves(error, kind)
        elif isinstance(error, kind):
            found.append(error)
    return found


def _certificates(settings: Settings) -> Certificates | None:
    server = settings.server
    return Certificates(Path(server.tls_cert), Path(server.tls_key)) if server.tls_cert else None


def _reload(running: Settings, config: Path | None, certificates: Certificates | None) -> None:
    """On SIGHUP: take the certificate's files as they are now, and check the settings."""
    if certificates is not None:
        certificates.reload()
    _check_settings(running, config)


def _check_settings(running: Settings, config: Path | None) -> None:
    """On SIGHUP: say whether the file would be taken at the next start, and what it would change."""
    try:
        wanted = load_settings(config)
    except BadSettings as error:
        log.error("settings.refused", error=error.detail)  # noqa: TRY400 - the message says it all
        return
    sections = [
        name for name in type(running).model_fields if getattr(running, name) != getattr(wanted, name)
    ]
    log.warning("settings.need_restart", sections=sections) if sections else log.info("settings.unchanged")


def _attach(settings: Settings, gpus: GpuInventory) -> GpuAttach:
    """Static GPUs are not the engine's to attach: their workers are only told which they have."""
    return GpuAttach.NONE if gpus.source == "static" else settings.gpus.attach


def _guard(settings: Settings) -> GuardRules:
    """Whom webhooks may call."""
    return GuardRules(
        http_hosts=frozenset(host.lower() for host in settings.webhooks.http_hosts),
        networks=settings.webhooks.networks,
        ports=frozenset(settings.webhooks.ports),
    )


def _server_of(runner: web.AppRunner) -> web.Server:
    server = runner.server
    if server is None:
        message = "The API's runner was set up without a server."
        raise RuntimeError(message)
    return server
