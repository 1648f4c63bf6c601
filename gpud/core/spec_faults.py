"""What makes an endpoint's spec unusable?"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from gpud.core.ids import ENDPOINT_NAME
from gpud.core.image_reference import is_image_reference
from gpud.core.job_spec import require_jobs
from gpud.core.page_cache import require_page_cache
from gpud.core.pull_protocol import RESERVED
from gpud.core.request_path import REQUEST_PATH, is_request_path
from gpud.core.request_rules import require_rules
from gpud.core.rollout_policy import require_rollout
from gpud.core.step_policy import require_steps
from gpud.core.windows import require_windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.endpoint import EndpointSpec

    _Require = Callable[[bool, str, str], None]

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def spec_faults(spec: EndpointSpec) -> dict[str, str]:
    """List what makes a spec unusable, by field path; empty when it is legal."""
    faults: dict[str, str] = {}

    def require(ok: bool, path: str, why: str) -> None:
        if not ok and path not in faults:
            faults[path] = why

    require(
        ENDPOINT_NAME.match(spec.name) is not None,
        "name",
        "must start with a letter and hold only a-z, 0-9 and '-', at most 40 characters",
    )
    require(
        is_image_reference(spec.image),
        "image",
        "must be an image reference such as repository/name:tag, in lower case",
    )
    require(0 <= spec.port <= 65535, "port", "must be 0 to 65535; 0 takes the image's only exposed port")
    _require_scale(spec, require)
    _require_health_and_limits(spec, require)
    require_jobs(spec.jobs, require)
    _require_env_and_volumes(spec, require)
    require_rollout(spec.rollout, require)
    require_rules(spec.requests, require)
    require_steps(spec, require)
    if spec.type.value == "queue":
        _require_queue(spec, require)
    require_page_cache(spec, require)
    return faults


def _require_queue(spec: EndpointSpec, require: _Require) -> None:
    """A worker that fetches jobs serves nothing: what is said about its port would be in vain."""
    why = "workers of a queue endpoint fetch jobs and are sent nothing; leave it out, or use type = 'http'"
    require(spec.port == 0, "port", why)
    require(spec.health.path == "/", "health.path", why)
    require(spec.jobs.path == "/", "jobs.path", why)
    require(not spec.jobs.cancel_path, "jobs.cancel_path", why)
    require(not spec.jobs.status_path, "jobs.status_path", why)
    require(not spec.rollout.smoke.path, "rollout.smoke.path", why)
    require(spec.pause.after_idle_s == 0, "pause.after_idle_s", why)
    require(spec.sleep.preset == "none", "sleep.preset", why)
    require(not spec.public, "public", "jobs of a queue endpoint need a key; leave it out")
    for key, _ in spec.env:
        require(
            key not in RESERVED,
            f"env.{key}",
            "gpud says this itself: it is where and as whom the worker fetches its jobs",
        )


def _require_scale(spec: EndpointSpec, require: _Require) -> None:
    scale, gpus = spec.scale, spec.gpus
    require(0 <= gpus.count <= 64, "gpus.count", "must be 0 to 64")
    require(gpus.memory_mib >= 0, "gpus.memory_mib", "must be 0 or more")
    require(
        gpus.memory_mib == 0 or gpus.count == 1,
        "gpus.memory_mib",
        "reserves a part of one GPU, so gpus.count must be 1; gpus.least_memory_mib asks for large GPUs",
    )
    require(gpus.least_memory_mib >= 0, "gpus.least_memory_mib", "must be 0 or more")
    require(0 <= scale.max_workers <= 1000, "scale.max_workers", "must be 0 to 1000")
    require(
        0 <= scale.min_workers <= scale.max_workers,
        "scale.min_workers",
        "must be 0 to max_workers",
    )
    require(scale.target >= 0, "scale.target", "must be 0 (derived) or more")
    require(1 <= scale.concurrency <= 10_000, "scale.concurrency", "must be 1 to 10000")
    require(0 <= scale.idle_timeout_s <= 604_800, "scale.idle_timeout_s", "must be 0 to 604800 (7 days)")
    require(
        0 <= scale.scale_to_zero_delay_s <= 604_800,
        "scale.scale_to_zero_delay_s",
        "must be 0 (as idle_timeout_s) to 604800 (7 days)",
    )
    require(0 <= scale.priority_aging_s <= 86_400, "scale.priority_aging_s", "must be 0 (never) to 86400")
    require(0.1 <= scale.queue_delay_s <= 3600, "scale.queue_delay_s", "must be 0.1 to 3600")
    require(0 <= scale.beta <= 1, "scale.beta", "must be 0 to 1")
    require(1 <= scale.activation_workers <= 1000, "scale.activation_workers", "must be 1 to 1000")
    require(0 <= scale.scale_down_delay_s <= 86_400, "scale.scale_down_delay_s", "must be 0 to 86400")
    require(0.01 <= scale.weight <= 100, "scale.weight", "must be 0.01 to 100")
    require(0 <= scale.quantum_s <= 86_400, "scale.quantum_s", "must be 0 (derived) to 86400")
    require(-100 <= scale.priority <= 100, "scale.priority", "must be -100 to 100")
    require_windows(scale.warm_windows, require, max_workers=scale.max_workers)
    require(1 <= spec.standby.workers <= 64, "standby.workers", "must be 1 to 64")


def _require_health_and_limits(spec: EndpointSpec, require: _Require) -> None:
    health, limits = spec.health, spec.limits
    require(is_request_path(health.path), "health.path", REQUEST_PATH)
    require(1 <= health.start_timeout_s <= 86_400, "health.start_timeout_s", "must be 1 to 86400")
    require(
        health.stall_timeout_s == 0 or 1 <= health.stall_timeout_s <= 86_400,
        "health.stall_timeout_s",
        "must be 0 (no limit) or 1 to 86400",
    )
    require(0.1 <= health.period_s <= 3600, "health.period_s", "must be 0.1 to 3600")
    require(0.05 <= health.timeout_s <= 60, "health.timeout_s", "must be 0.05 to 60")
    require(1 <= health.fail_threshold <= 100, "health.fail_threshold", "must be 1 to 100")
    require(0 <= health.not_ready_timeout_s <= 86_400, "health.not_ready_timeout_s", "must be 0 to 86400")
    require(0.1 <= limits.request_timeout_s <= 604_800, "limits.request_timeout_s", "must be 0.1 to 604800")
    first_s, silent_s = limits.first_request_timeout_s, limits.stream_idle_timeout_s
    require(0 <= first_s <= 604_800, "limits.first_request_timeout_s", "must be 0 to 604800")
    require(0 <= silent_s <= 604_800, "limits.stream_idle_timeout_s", "must be 0 to 604800")
    require(0 <= limits.max_queue <= 100_000, "limits.max_queue", "must be 0 to 100000")
    require(0 <= limits.queue_timeout_s <= 86_400, "limits.queue_timeout_s", "must be 0 to 86400")
    require(0 <= limits.drain_timeout_s <= 604_800, "limits.drain_timeout_s", "must be 0 to 604800")
    require(0 <= limits.stop_grace_s <= 3600, "limits.stop_grace_s", "must be 0 to 3600")
    require(limits.memory_mib == 0 or limits.memory_mib >= 6, "limits.memory_mib", "must be 0 or at least 6")
    require(0 <= limits.cpus <= 4096, "limits.cpus", "must be 0 (no limit) to 4096")
    require(1 <= limits.shm_mib <= 1_048_576, "limits.shm_mib", "must be 1 to 1048576")
    require(16 <= limits.pids <= 4_194_304, "limits.pids", "must be 16 to 4194304")


def _is_volume_source(source: str) -> bool:
    """Whether a source is spelled like one; whether it may be used is seen where it really leads."""
    if "/" in source:
        return source.startswith("/") and "\0" not in source and ".." not in PurePosixPath(source).parts
    return _VOLUME_NAME.fullmatch(source) is not None


def _require_env_and_volumes(spec: EndpointSpec, require: _Require) -> None:
    for key, value in spec.env:
        require(
            bool(key) and "=" not in key and "\0" not in key,
            f"env.{key}",
            "a variable's name must not be empty nor hold '='",
        )
        require("\0" not in value, f"env.{key}", "a variable's value must not hold a NUL")
        require(
            not key.startswith(("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")),
            f"env.{key}",
            "gpud pins the GPUs itself; say gpus.count and gpus.model instead",
        )
    for i, volume in enumerate(spec.volumes):
        require(
            volume.target.startswith("/")
            and volume.target != "/"
            and ".." not in PurePosixPath(volume.target).parts,
            f"volumes.{i}.target",
            "must be an absolute path inside the container",
        )
        require(
            _is_volume_source(volume.source),
            f"volumes.{i}.source",
            "must be an absolute path without '..', or the name of a volume: two characters or more of "
            "letters, digits, '_', '.' and '-'",
        )
        require(
            "docker.sock" not in volume.source,
            f"volumes.{i}.source",
            "the engine's socket is never given to a worker",
        )
