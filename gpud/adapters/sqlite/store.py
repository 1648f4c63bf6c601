"""Puts the store together: lock, database, committer, readers; and takes it apart in order."""

from __future__ import annotations

import secrets
import sqlite3
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gpud.adapters.sqlite.access import SqliteAccessStore
from gpud.adapters.sqlite.audit_log import SqliteAuditLog
from gpud.adapters.sqlite.blobs import BlobFiles, MemoryBlobs
from gpud.adapters.sqlite.checkpoints import Checkpointer
from gpud.adapters.sqlite.committer import GroupCommitter
from gpud.adapters.sqlite.connection import open_memory, open_writer, sqlite_warning
from gpud.adapters.sqlite.datadir import DATABASE_NAME, claim
from gpud.adapters.sqlite.failures import translate
from gpud.adapters.sqlite.fleet import SqliteFleetStore
from gpud.adapters.sqlite.hops import ReaderPool, inline, inline_reads, on_thread, open_connection
from gpud.adapters.sqlite.job_calls import JobCalls
from gpud.adapters.sqlite.jobs import SqliteJobStore
from gpud.adapters.sqlite.reads import SqliteReadModel
from gpud.adapters.sqlite.restoring import finish as finish_restore
from gpud.adapters.sqlite.sealing import KEY_BYTES, Sealer, load_master_key
from gpud.adapters.sqlite.statements import SQL
from gpud.adapters.sqlite.timeline import StoreTimeline, begin
from gpud.adapters.sqlite.webhooks import SqliteWebhookStore
from gpud.errors import StoreUnusable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from pathlib import Path

    from gpud.adapters.sqlite.blobs import Blobs
    from gpud.adapters.sqlite.committer import CommitStats
    from gpud.adapters.sqlite.hops import Execute, Read
    from gpud.core.timeline import Anchor
    from gpud.ports.time import Clock

MASTER_KEY_NAME = "master.key"
BLOBS_NAME = "blobs"
READERS = 2

_log = structlog.get_logger()


class Store:
    """Everything durable, behind its ports.

    Args:
        fleet: Port `FleetStore`.
        reads: Port `ReadModel`.
        access: Port `AccessStore`.
        audit_log: Port `AuditLogStore`.
        jobs: Port `JobStore`.
        webhooks: Port `WebhookStore`.
        install_id: Of this installation, made with its database.
        failed: Resolves to the error when the store cannot go on; the daemon must then end.
    """

    def __init__(
        self,
        committer: GroupCommitter,
        read: Read,
        *,
        sealer: Sealer,
        install_id: str,
        clock: Clock,
        anchor: Anchor,
        blobs: Blobs,
        closing: AsyncExitStack,
    ) -> None:
        self._committer = committer
        self._closing = closing
        now_ms = StoreTimeline(anchor, clock).now_ms
        self.webhooks = SqliteWebhookStore(committer, read, sealer, now_ms)
        self.fleet = SqliteFleetStore(committer, self.webhooks.note_put, now_ms)
        self.reads = SqliteReadModel(read, clock)
        self.access = SqliteAccessStore(committer, read, sealer, now_ms)
        self.audit_log = SqliteAuditLog(committer, read)
        self.jobs = SqliteJobStore(committer, read, blobs)
        calls = JobCalls(clock.at_ms, now_ms, self.webhooks.note_in_batch)
        self.jobs.writer.on_end = calls.note_ends
        committer.committed = self.webhooks.batch_committed
        self.install_id = install_id
        self.worker_secret = sealer.worker_secret
        self.failed: asyncio.Future[StoreUnusable] = committer.failed

    @property
    def stats(self) -> CommitStats:
        """What the committer has done, and whether it is at it; for metrics and the watchdog."""
        return self._committer.stats

    async def close(self) -> None:
        """Commit what is queued, empty the write-ahead log, let the next daemon in.

        Safe to repeat.
        """
        await self._closing.aclose()

    def abandon(self) -> None:
        """Stop writing at once, as a killed process would; for simulations."""
        self._committer.abandon()


async def open_store(data_dir: Path, clock: Clock, *, master_key_path: Path | None = None) -> Store:
    """Open the store of a data directory, making it at the first start.

    Args:
        data_dir: Made with mode 0700 if missing; held until `close`.
        clock: For labels, durations and open segments.
        master_key_path: A key kept elsewhere, such as a systemd credential; by default
            `master.key` in the data directory, made at the first start.

    Raises:
        StoreUnusable: It is held by another daemon, damaged, foreign, of a newer gpud, on a
            network file system, or the master key is wrong.
        StorageFull: The disk is full.
    """
    async with AsyncExitStack() as undo:
        undo.callback(claim(data_dir).release)
        if aside := finish_restore(data_dir):
            _log.info("store.restored", aside=aside)
        path = data_dir / DATABASE_NAME
        opening = partial(open_writer, path, install_id=secrets.token_hex(8), at_ms=clock.at_ms())
        connection = await open_connection(opening)
        undo.push_async_callback(connection.close)
        execute = on_thread(connection)
        checkpointer = Checkpointer(path.with_name(path.name + "-wal"))
        committer = GroupCommitter(execute, now_s=clock.now_s, data_dir=data_dir, checkpointer=checkpointer)
        undo.push_async_callback(_finish_log, execute, checkpointer, committer)
        readers = ReaderPool(data_dir)
        undo.push_async_callback(readers.close)
        undo.push_async_callback(committer.close)
        await readers.open(path, count=READERS)
        key_path = master_key_path or data_dir / MASTER_KEY_NAME
        master_key = load_master_key(key_path, may_create=master_key_path is None)
        install_id = await committer.write(_read_install_id)
        sealer = Sealer(master_key, install_id=install_id)
        await committer.write(partial(_check_master_key, sealer.key_check, key_path))
        warning = sqlite_warning(sqlite3.sqlite_version_info)
        if warning:
            _log.warning("store.sqlite_outdated", version=sqlite3.sqlite_version, detail=warning)
        return Store(
            committer,
            readers.read,
            sealer=sealer,
            install_id=install_id,
            clock=clock,
            anchor=await committer.write(_beginning(clock)),
            blobs=BlobFiles(data_dir / BLOBS_NAME),
            closing=undo.pop_all(),
        )


def memory_database(*, install_id: str = "simulated", at_ms: int = 0) -> sqlite3.Connection:
    """Make a database in memory; it outlives the stores opened on it, as a disk outlives daemons."""
    return open_memory(install_id=install_id, at_ms=at_ms)


async def open_inline_store(
    database: sqlite3.Connection, clock: Clock, *, execute: Execute | None = None, blobs: Blobs | None = None
) -> Store:
    """Open a store without threads on a connection, for simulations.

    Args:
        database: From `memory_database` or `open_writer`; stays open when the store closes.
        clock: Simulated or real.
        execute: What carries writes to the database, to put faults and delays in between;
            by default they run at once.
        blobs: Where large payloads are; in memory, and gone with the store, by default.
    """
    if database.in_transaction:
        database.execute("ROLLBACK")  # of a store abandoned in the middle of a batch
    committer = GroupCommitter(execute or inline(database), now_s=clock.now_s)
    undo = AsyncExitStack()
    undo.push_async_callback(committer.close)
    install_id: str = database.execute(SQL["install_read"]).fetchone()["install_id"]
    return Store(
        committer,
        inline_reads(database),
        sealer=Sealer(b"\0" * KEY_BYTES, install_id=install_id),
        install_id=install_id,
        clock=clock,
        anchor=_beginning(clock)(database),
        blobs=blobs or MemoryBlobs(),
        closing=undo,
    )


def _beginning(clock: Clock) -> Callable[[sqlite3.Connection], Anchor]:
    return partial(begin, boot_id=clock.boot_id, boot_ns=clock.boot_ns(), wall_ms=clock.at_ms())


def _read_install_id(connection: sqlite3.Connection) -> str:
    # At start nobody can be answering any more what a request before it began.
    connection.execute(SQL["idempotency_forget_unanswered"])
    install_id: str = connection.execute(SQL["install_read"]).fetchone()["install_id"]
    return install_id


def _check_master_key(key_check: bytes, key_path: Path, connection: sqlite3.Connection) -> None:
    known = connection.execute(SQL["install_read"]).fetchone()["master_key_check"]
    if known == key_check:
        return
    registries = connection.execute(SQL["registry_count"]).fetchone()[0]
    webhooks = connection.execute(SQL["webhook_count"]).fetchone()[0]
    if known is not None and (registries or webhooks):
        raise StoreUnusable(
            f"{key_path} is not the master key that {registries} stored registry credential(s) and "
            f"{webhooks} webhook secret(s) were encrypted with. Bring the old key back from your backup."
        )
    connection.execute(SQL["install_key_check_write"], {"master_key_check": key_check})


async def _finish_log(execute: Execute, checkpointer: Checkpointer, committer: GroupCommitter) -> None:
    try:
        if not committer.failed.done():
            await execute(checkpointer.finish)
    except sqlite3.Error as error:
        # What was acknowledged is in the log and is read back at the next start.
        refusal = translate(error, None)
        _log.warning("store.checkpoint_failed", reason=refusal.slug, detail=str(error))
    with suppress(OSError):
        checkpointer.close()
