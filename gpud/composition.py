"""The composition root: every part, built once from the settings."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from gpud.adapters.checkpoint_tools import CheckpointSurvey
from gpud.adapters.cron_calendar import CronCalendar
from gpud.adapters.docker_gateway import DockerGateway
from gpud.adapters.docker_images import DockerImages
from gpud.adapters.docker_runtime import DockerRuntime
from gpud.adapters.gpu_choice import choose_gpus
from gpud.adapters.http_probe import SocketProbe
from gpud.adapters.job_carrier import HttpJobCarrier
from gpud.adapters.log_archive import LogFileArchive
from gpud.adapters.log_capture import ProcessLogCapture
from gpud.adapters.nvml_gpus import NvmlGpus
from gpud.adapters.page_cache import FilePageCache
from gpud.adapters.replay_process import ReplayProcess
from gpud.adapters.step_paused import PausedStep
from gpud.adapters.step_sleeping import SleepingStep
from gpud.adapters.threads import Threads
from gpud.adapters.tier_created import CreatedTier
from gpud.adapters.tier_parked import ParkedTier
from gpud.adapters.webhook_sender import WebhookSender
from gpud.adapters.webhook_signer import StandardSigner
from gpud.adapters.worker_hooks import WorkerHooks
from gpud.adapters.worker_listener import WorkerListener
from gpud.adapters.worker_uses import WorkerUses
from gpud.api.app import build_api
from gpud.api.auth import ApiKeyRing
from gpud.api.services import SERVICES
from gpud.api.tariffs import tariff
from gpud.api.worker_calls import WorkerCalls
from gpud.core.budget import Budget
from gpud.core.gpu import GpuAttach
from gpud.core.image_gc import ImagePolicy
from gpud.core.log_caps import LogCaps
from gpud.core.standby import StandbyBudget
from gpud.core.starts import BackoffPolicy
from gpud.core.webhook_guard import GuardRules
from gpud.core.windows import WarmWindow
from gpud.errors import BadSettings
from gpud.fleet.fleet import Fleet, FleetPorts
from gpud.fleet.hands import FleetSettings
from gpud.fleet.rates import BoxRates
from gpud.fleet.reconciler import ReconcilerPolicy
from gpud.fleet.state import StartLimits
from gpud.gateway.dispatch import Dispatcher
from gpud.gateway.refusals import require_budget_of_job
from gpud.gateway.server import Gateway
from gpud.jobs.bounds import free_share, limits_of, retention_of
from gpud.jobs.jobs import Jobs
from gpud.jobs.load import LoadWithJobs
from gpud.jobs.worker_line import JobLine
from gpud.jobs.worker_tokens import WorkerTokens
from gpud.ports.logs import NoLogCapture
from gpud.ports.readings import CommitReading
from gpud.webhooks.control import WebhookControl
from gpud.webhooks.dispatcher import WebhookDispatcher

if TYPE_CHECKING:
    import asyncio

    from gpud.adapters.sqlite.store import Store
    from gpud.adapters.system import SystemClock, SystemIds
    from gpud.adapters.worker_door import WorkerDoor
    from gpud.ports.gpus import GpuInventory
    from gpud.ports.standby import Tier
    from gpud.settings import Settings

_THREADS = 16


class Parts:
    """Every part that lives as long as the daemon, and what is built of them.

    Args:
        settings: Checked.
        store: Open; this process holds its lock.
        clock: The system's.
        ids: The system's.
        door: Where workers call.
    """

    def __init__(
        self, settings: Settings, store: Store, clock: SystemClock, ids: SystemIds, door: WorkerDoor
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._ids = ids
        self.gpus = choose_gpus(settings.gpus)
        self._threads = Threads(_THREADS)
        self.logs = _log_capture(settings)
        self.archive = LogFileArchive(settings.paths.data_dir / "logs")
        self._runtime = DockerRuntime(
            settings.docker,
            store.install_id,
            self._threads,
            attach=_attach(settings, self.gpus),
            volume_roots=settings.paths.volume_roots,
        )
        self._images = DockerImages(settings.docker, self._threads)
        self.dispatcher = Dispatcher(clock)
        self.keyring = ApiKeyRing(store.access, clock, ids)
        self._sender = WebhookSender(_guard(settings), clock)
        self._signer = StandardSigner()
        self._carrier = HttpJobCarrier()
        self._hooks = WorkerHooks()
        self.jobs = Jobs(
            store.jobs,
            self.dispatcher,
            self._carrier,
            clock=clock,
            ids=ids,
            kept=retention_of(settings.jobs),
            limits=limits_of(settings.jobs),
            free_share=partial(free_share, settings.paths.data_dir),
            workers_url=door.url_or_empty,
            secret=store.worker_secret,
        )
        self.jobs.queue.require_budget = lambda endpoint, key: require_budget_of_job(
            self.dispatcher.table, endpoint, key, clock.now_s()
        )
        self.door = door
        self._worker_tokens = WorkerTokens(store.worker_secret)

    async def close(self) -> None:
        """Close the adapters; every loop has ended."""
        for adapter in (
            self._sender,
            self._carrier,
            self._hooks,
            self.archive,
            self._images,
            self._runtime,
            self._threads,
        ):
            await adapter.close()
        if isinstance(self.gpus, NvmlGpus):
            await self.gpus.close()

    def fleet(self, tasks: asyncio.TaskGroup) -> Fleet:
        """The fleet over these parts; its loops run in `tasks`."""
        settings, calendar = self._settings, CronCalendar()
        ports = FleetPorts(
            runtime=self._runtime,
            images=self._images,
            gpus=self.gpus,
            probe=SocketProbe(),
            store=self._store.fleet,
            access=self._store.access,
            traffic=LoadWithJobs(
                self.dispatcher, self.jobs.queue, self._clock, published=self.jobs.fleet_changed
            ),
            clock=self._clock,
            ids=self._ids,
            calendar=calendar,
            tiers=self._tiers(),
            page_cache=FilePageCache(
                self._images,
                self._threads,
                folder=settings.paths.data_dir / "reads",
                volume_roots=settings.paths.volume_roots,
            ),
            steps=(PausedStep(self._runtime.freezer), SleepingStep(self._hooks)),
            logs=self.logs,
            line=JobLine(self.jobs, self._worker_tokens, self.door.base_url),
            uses=WorkerUses(self._runtime, self._threads),
            reads=self._store.reads,
        )
        backoff = BackoffPolicy(
            base_s=settings.scaling.start_backoff_s,
            max_s=settings.scaling.start_backoff_s_max,
            circuit_failures=settings.scaling.circuit_failures,
        )
        policy = ReconcilerPolicy(
            backoff=backoff,
            settle_s=settings.scaling.settle_s,
            verify_gpus=self.gpus.source == "nvml",
            starts=StartLimits(box=settings.scaling.starts, endpoint=settings.scaling.endpoint_starts),
            standbys=StandbyBudget(**settings.standby.model_dump()),
        )
        fleet = Fleet(ports, self._fleet_settings(calendar), policy, tasks)
        self.jobs.queue.metering.rates = BoxRates(
            tariff(settings), fleet.state, self._clock, fleet.observers.energy
        )
        return fleet

    def _fleet_settings(self, calendar: CronCalendar) -> FleetSettings:
        settings = self._settings
        return FleetSettings(
            parallel_starts=settings.docker.parallel_starts or 2 * (os.cpu_count() or 1),
            gpu_attach=_attach(settings, self.gpus),
            idle_memory_mib_max=settings.gpus.idle_memory_mib_max,
            release_timeout_s=settings.gpus.release_timeout_s,
            history_days=settings.history.keep_days,
            stats_step_s=settings.metrics.step_s,
            headroom_mib=settings.gpus.headroom_mib,
            images=image_policy(settings, calendar),
            tariff=tariff(settings),
            budgets=tuple(Budget(**limit.model_dump()) for limit in settings.budgets.limits),
            budgets_every_s=settings.budgets.check_s,
        )

    def _tiers(self) -> tuple[Tier, ...]:
        parked = ParkedTier(
            self._runtime,
            self._threads,
            root=self._settings.paths.data_dir / "standby",
            engine_is_local=self._settings.docker.host.startswith("unix://"),
        )
        return (CreatedTier(self._runtime), parked)

    async def api(self, fleet: Fleet) -> web.AppRunner:
        """The control API, set up."""
        app = build_api(
            control=fleet.control,
            reads=self._store.reads,
            access=self._store.access,
            keyring=self.keyring,
            jobs_=self.jobs,
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
            archive=self.archive,
            readings=fleet.readings(self._commits),
            audit_log=self._store.audit_log,
            exec_runner=self._runtime.execs,
            checkpoints=CheckpointSurvey(self._threads).obstacles,
            gateway=lambda: self._gateway.reading(),  # noqa: PLW0108 - built later, and all come through it
        )
        self._end_followers = app[SERVICES].stopping.set
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        return runner

    def end_endless_answers(self) -> None:
        """Have those who follow something, or have a session in a worker, be told that this is the end."""
        self._end_followers()

    async def end_abandoned_execs(self, fleet: Fleet) -> None:
        """End what sessions in workers left running when the daemon before this one was killed."""
        await self._runtime.execs.end_abandoned(tuple(fleet.state.workers))

    def worker_calls(self) -> WorkerListener:
        """Serves what workers call."""
        calls = WorkerCalls(
            self.jobs, self._worker_tokens, result_bytes_max=self._settings.jobs.result_bytes_max
        )
        return WorkerListener(
            calls.runner(), self.door, DockerGateway(self._settings.docker, self._threads).address
        )

    def _commits(self) -> CommitReading:
        stats = self._store.stats
        return CommitReading(
            commits=stats.commits,
            operations=stats.operations,
            commit_s=stats.commit_s,
            waiting_operations=stats.waiting_operations,
        )

    def webhooks(self) -> WebhookDispatcher:
        """Empties the outbox."""
        return WebhookDispatcher(
            store=self._store.webhooks,
            sender=self._sender,
            signer=self._signer,
            clock=self._clock,
            ids=self._ids,
            retention_s=self._settings.webhooks.retention_s,
        )

    def gateway(self, api: web.AppRunner) -> Gateway:
        """The gateway, with the control API as one of its upstreams."""
        settings = self._settings
        self._gateway = Gateway(
            dispatcher=self.dispatcher,
            settings=settings.server,
            keys=self.keyring,
            control=_server_of(api),
            clock=self._clock,
            ids=self._ids,
            log_share=settings.log.requests_share if settings.log.requests else None,
        )
        return self._gateway


def _attach(settings: Settings, gpus: GpuInventory) -> GpuAttach:
    """Static GPUs are not the engine's to attach: their workers are only told which they have."""
    return GpuAttach.NONE if gpus.source == "static" else settings.gpus.attach


def image_policy(settings: Settings, calendar: CronCalendar) -> ImagePolicy:
    """What images may take.

    Raises:
        BadSettings: The schedule is no cron expression, or its zone is unknown.
    """
    given = settings.images
    schedule = WarmWindow(start=given.check_cron, duration_s=1.0, time_zone=given.time_zone)
    names = {"start": "images.check_cron", "time_zone": "images.time_zone"}
    if faults := {names[field]: why for field, why in calendar.faults(schedule).items()}:
        listed = "; ".join(f"{where}: {why}" for where, why in faults.items())
        raise BadSettings(f"gpud.toml cannot be used: {listed}.", fields=faults)
    return ImagePolicy(
        disk_budget_bytes=int(given.disk_budget_gib * (1 << 30)),
        free_bytes_least=int(given.free_gib_min * (1 << 30)),
        check_cron=given.check_cron,
        time_zone=given.time_zone,
    )


def _log_capture(settings: Settings) -> ProcessLogCapture | NoLogCapture:
    """Whoever keeps the workers' output; nobody when that is turned off."""
    logs = settings.logs
    if not logs.capture:
        return NoLogCapture()
    caps = LogCaps(
        keep_s=logs.keep_days * 86_400,
        worker_bytes=logs.worker_mib << 20,
        total_bytes=logs.total_mib << 20,
        segment_bytes=logs.file_mib << 20,
        line_bytes=logs.line_kib << 10,
        rate_bytes_per_s=int(logs.rate_mib_per_s * (1 << 20)),
        burst_bytes=logs.burst_mib << 20,
    )
    root = settings.paths.data_dir / "logs"
    return ProcessLogCapture(root, caps, engine=settings.docker.host, files=logs.source == "auto")


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
