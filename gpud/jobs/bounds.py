"""What the settings say about jobs, in the core's terms."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from gpud.core.job import Retention
from gpud.jobs.submission import QueueLimits

if TYPE_CHECKING:
    from pathlib import Path

    from gpud.settings import JobSettings


def retention_of(settings: JobSettings) -> Retention:
    """How long jobs are kept."""
    return Retention(
        result_ms=int(settings.result_retention_s * 1000),
        sync_ms=int(settings.sync_retention_s * 1000),
        dead_ms=int(settings.dead_retention_s * 1000),
        cancelled_ms=int(settings.cancelled_retention_s * 1000),
        used_ms=int(settings.usage_keep_days * 86_400_000),
    )


def limits_of(settings: JobSettings) -> QueueLimits:
    """How many may wait."""
    return QueueLimits(
        waiting=settings.max_waiting,
        waiting_bytes=settings.max_waiting_bytes,
        free_share=settings.free_disk_share,
    )


def free_share(data_dir: Path) -> float:
    """Which share of a directory's disk is free."""
    usage = shutil.disk_usage(data_dir)
    return usage.free / usage.total if usage.total else 1.0
