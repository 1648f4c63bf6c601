"""The process: opens the store and the sockets, starts every loop, stops them in order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import uvloop

from gpud import __version__
from gpud.adapters.certificates import Certificates
from gpud.adapters.log_capture import ProcessLogCapture
from gpud.adapters.sockets import address_of, open_tcp, open_unix
from gpud.adapters.sqlite.store import open_store
from gpud.adapters.system import SystemClock, SystemIds
from gpud.adapters.systemd import ServiceNotifier, credential_path, inherited_names, inherited_sockets
from gpud.adapters.worker_door import STORED_NAME, WorkerDoor
from gpud.composition import Parts
from gpud.errors import BadSettings
from gpud.fleet.fates import Fates
from gpud.gateway.tuning import tune_process
from gpud.settings import load_settings
from gpud.telemetry import set_up_logging

if TYPE_CHECKING:
    from gpud.adapters.sqlite.store import Store
    from gpud.fleet.fleet import Fleet
    from gpud.gateway.server import Gateway
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
        inherited, door_socket = _inherited()
        door = WorkerDoor(settings.paths.data_dir, port=settings.server.worker_port, kept=door_socket)
        closing.callback(door.close)
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
        parts = Parts(settings, store, clock, ids, door)
        await Daemon(settings, store, parts, notifier).run(stop, tcp, local, certificates)
    log.info("daemon.stopped")
    return 0


class Daemon:
    """Runs the parts.

    Args:
        settings: Checked.
        store: Open; this process holds its lock.
        parts: What it runs.
        notifier: Tells the service manager how the daemon is.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        parts: Parts,
        notifier: ServiceNotifier,
    ) -> None:
        self._settings = settings
        self._notifier = notifier
        self._store = store
        self._parts = parts

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
        settings, parts = self._settings, self._parts
        await parts.keyring.load()
        async with asyncio.TaskGroup() as tasks:
            fleet = parts.fleet(tasks)
            parts.dispatcher.watch(fleet.reconciler)
            await fleet.load()
            await parts.jobs.load(fleet.keeps_work)
            parts.jobs.queue.on_load.append(fleet.reconciler.load_changed)
            runner = await parts.api(fleet)
            gateway = parts.gateway(runner)
            watching = [
                tasks.create_task(self._watch_store(), name="store_watch"),
                tasks.create_task(self._feed_watchdog(fleet), name="watchdog"),
                tasks.create_task(parts.webhooks().run(), name="webhooks"),
                tasks.create_task(parts.end_abandoned_execs(fleet), name="abandoned_execs"),
            ]
            if isinstance(parts.logs, ProcessLogCapture):
                watching.append(tasks.create_task(parts.logs.run(), name="log_capture"))
            if certificates is not None:
                watching.append(tasks.create_task(certificates.keep_looking(), name="certificates"))
            fleet.start()
            await parts.jobs.start(tasks, Fates(fleet.reconciler), fleet.spec_of)
            worker_calls = parts.worker_calls()
            watching.append(tasks.create_task(worker_calls.run(self._keep_door), name="worker_listener"))
            await gateway.start([*tcp, *local], certificates.context if certificates is not None else None)
            tune_process()
            log.info(
                "daemon.started",
                version=__version__,
                listen=address_of(tcp[0]),
                api_socket=local[0].getsockname(),
                gpu_source=parts.gpus.source,
                gpus=len(fleet.state.gpus),
                pid=os.getpid(),
            )
            self._notifier.ready(f"Serving on {address_of(tcp[0])}")
            await stop.wait()
            await self._drain(gateway)
            await fleet.stop(drain=settings.docker.stop_policy == "drain")
            await worker_calls.stop()  # workers that drain have posted their results by now
            await runner.cleanup()
            for task in watching:
                task.cancel()
        await parts.close()

    def _keep_door(self, listening: socket.socket) -> None:
        self._notifier.keep_socket(listening, STORED_NAME)

    async def _drain(self, gateway: Gateway) -> None:
        """Take nothing more; what runs has a while to end."""
        log.info("daemon.stopping")
        self._notifier.stopping("Waiting for running requests")
        drain_s = self._settings.server.shutdown_timeout_s
        self._parts.end_endless_answers()  # They would take all the time that requests have to end.
        await asyncio.gather(gateway.stop(drain_s), self._parts.jobs.stop(drain_s))

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


def _inherited() -> tuple[tuple[socket.socket, ...], socket.socket | None]:
    """The sockets that outlived the last daemon; the one that workers call apart."""
    pid = os.getpid()
    inherited, names = inherited_sockets(os.environ, pid=pid), inherited_names(os.environ, pid=pid)
    named = [*names, *[""] * len(inherited)]
    doors = [one for one, name in zip(inherited, named, strict=False) if name == STORED_NAME]
    others = [one for one, name in zip(inherited, named, strict=False) if name != STORED_NAME]
    return tuple(others), doors[-1] if doors else None


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
