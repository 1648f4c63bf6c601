"""What commands do on this box beside the daemon, whether it runs or not: look, back up, restore."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gpud.adapters.backups import back_up, restore
from gpud.adapters.box_look import (
    look_at_clock,
    look_at_disk,
    look_at_kernel,
    look_at_limits,
    look_at_port,
)
from gpud.adapters.engine_look import look_at_engine, look_at_toolkit
from gpud.adapters.install_look import (
    SERVICE_KEY,
    look_at_certificate,
    look_at_data,
    look_at_versions,
    processes_of,
)
from gpud.adapters.nvml_health import look_at_gpus
from gpud.adapters.sqlite.datadir import DATABASE_NAME
from gpud.adapters.sqlite.sealing import load_master_key
from gpud.adapters.sqlite.store import MASTER_KEY_NAME
from gpud.adapters.sqlite.survey import known_secrets, table_sizes
from gpud.adapters.support_tar import sizes_in, write_bundle
from gpud.core.doctor.box import DiskLook
from gpud.core.doctor.examination import Box
from gpud.core.doctor.findings import GIB
from gpud.core.doctor.gpus import NvmlLook
from gpud.errors import GpudError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpud.adapters.backups import BackedUp, Restored
    from gpud.core.doctor.gpus import GpuLook
    from gpud.core.doctor.install import DaemonLook, SettingsLook
    from gpud.settings import Settings

T = TypeVar("T")
_NVML_BUDGET_S = 8.0


def look_at_box(
    settings: Settings,
    told: SettingsLook,
    daemon: DaemonLook,
    *,
    daemon_gpus: Mapping[str, tuple[str, str]],
    listens: str,
) -> Box:
    """Look at everything.

    Args:
        settings: Those in force, or else the file's, or else the defaults.
        told: What there is to say of the file.
        daemon: What the daemon said.
        daemon_gpus: By UUID, the health the daemon gives a GPU and why.
        listens: Where the daemon that answers says it listens; empty when none does.
    """
    data = look_at_data(settings.paths.data_dir)
    holder = data.holder or 0
    engine, seen = look_at_engine(settings)
    nvml = _gpus(settings, daemon_gpus)
    return Box(
        versions=look_at_versions(),
        settings=told,
        daemon=daemon,
        data=data,
        tls=look_at_certificate(settings),
        port=look_at_port(settings.server.listen, ours=processes_of(holder), address=listens),
        engine=engine,
        toolkit=look_at_toolkit(settings, seen, nvml),
        nvml=nvml,
        data_disk=look_at_disk(settings.paths.data_dir, try_writing=True),
        engine_disk=_engine_disk(settings, engine.root),
        clock=look_at_clock(_written(settings.paths.data_dir)),
        limits=look_at_limits(holder),
        kernel=look_at_kernel(holder, engine_is_local=_is_local(settings)),
        free_share_least=settings.jobs.free_disk_share,
        engine_free_least_bytes=int(settings.images.free_gib_min * GIB),
    )


def _gpus(settings: Settings, daemon_gpus: Mapping[str, tuple[str, str]]) -> NvmlLook:
    source, static = settings.gpus.source, len(settings.gpus.static)
    seen = _within(_NVML_BUDGET_S, lambda: look_at_gpus(source, static=static))
    if seen is None:
        hangs = f"NVML does not answer within {_NVML_BUDGET_S:g} s: the NVIDIA driver hangs"
        return NvmlLook(source=source, static=static, session_error=hangs)
    return _with_health(seen, daemon_gpus)


def _with_health(look: NvmlLook, daemon_gpus: Mapping[str, tuple[str, str]]) -> NvmlLook:
    def judged(gpu: GpuLook) -> GpuLook:
        health, reason = daemon_gpus.get(gpu.uuid, ("", ""))
        return replace(gpu, daemon_health=health, daemon_reason=reason)

    return replace(look, gpus=tuple(judged(gpu) for gpu in look.gpus))


def _engine_disk(settings: Settings, root: str) -> DiskLook:
    if not _is_local(settings):
        return DiskLook(path=root, error="the engine is on another machine")
    if not root:
        return DiskLook(path=root, error="the engine does not answer")
    return look_at_disk(Path(root), try_writing=False)


def _is_local(settings: Settings) -> bool:
    return settings.docker.host.startswith("unix://")


def _written(data_dir: Path) -> Path | None:
    path = data_dir / f"{DATABASE_NAME}-wal"
    return path if path.exists() else data_dir / DATABASE_NAME


def _within(limit_s: float, look: Callable[[], T]) -> T | None:
    """Ask a library that may hang, on a thread that holds nobody up; None when it does."""
    answers: list[T] = []
    thread = threading.Thread(target=lambda: answers.append(look()), daemon=True)
    thread.start()
    thread.join(limit_s)
    return answers[0] if answers else None


def write_backup(
    settings: Settings, settings_path: Path | None, to: Path, *, with_logs: bool, replace_it: bool
) -> BackedUp:
    """Back up everything that the daemon of these settings keeps; see `adapters.backups.back_up`."""
    server, data_dir = settings.server, settings.paths.data_dir
    files = {"gpud.toml": settings_path} if settings_path else {}
    if server.tls_cert:
        files |= {"tls-cert.pem": Path(server.tls_cert), "tls-key.pem": Path(server.tls_key)}
    if not (data_dir / MASTER_KEY_NAME).exists() and SERVICE_KEY.exists():
        files[MASTER_KEY_NAME] = SERVICE_KEY
    return back_up(data_dir, to, files=files, with_logs=with_logs, replace_it=replace_it)


def write_support_bundle(
    settings: Settings, to: Path, files: Mapping[str, bytes], secrets: list[str]
) -> bool:
    """Write a support bundle, adding the sizes of what is in the data directory.

    Args:
        settings: Of the daemon.
        to: The tar.
        files: By name.
        secrets: Values to be looked for, beside those that are stored.

    Returns:
        Whether the stored secrets could be read, so that they were looked for too.
    """
    data_dir = settings.paths.data_dir
    more, known = {"sizes.json": b"{}"}, True
    try:
        key_path = next((p for p in (data_dir / MASTER_KEY_NAME, SERVICE_KEY) if p.exists()), None)
        key = load_master_key(key_path, may_create=False) if key_path else None
        if settings.server.tls_key:
            secrets = [*secrets, Path(settings.server.tls_key).read_text(encoding="ascii", errors="replace")]
        database = data_dir / DATABASE_NAME
        if database.exists():
            secrets = [*secrets, *known_secrets(database, key)]
            known = key is not None
            sizes = {"tables": table_sizes(database), "files": sizes_in(data_dir)}
            more["sizes.json"] = json.dumps(sizes, indent=1).encode()
    except (GpudError, OSError):
        known = False
    write_bundle(to, to.name.partition(".")[0], {**files, **more}, secrets)
    return known


def restore_backup(path: Path, data_dir: Path) -> Restored:
    """Put a backup back; see `adapters.backups.restore`."""
    return restore(path, data_dir)
