"""Rows into core types and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gpud.core.cold_start import ColdStart, StartPhase
from gpud.core.endpoint import (
    Balance,
    Endpoint,
    EndpointSpec,
    EndpointType,
    GpuNeeds,
    HealthCheck,
    Limits,
    PinnedImage,
    PolicyName,
    Preempt,
    ScalePolicy,
    Volume,
)
from gpud.core.gpu import Gpu, GpuHealth, GpuSlice, GpuStatus
from gpud.core.ids import EndpointName, GpuUuid, KeyId, Revision, WorkerId
from gpud.core.job_spec import JobNeeds, OnAdopt
from gpud.core.page_cache import PageCachePolicy
from gpud.core.request_rules import RequestRules
from gpud.core.rollout_policy import RolloutPolicy, RolloutStrategy, SmokeRequest
from gpud.core.standby import Rung, Standby, StandbyMode, StandbyPolicy, StandbyState
from gpud.core.step_policy import Hook, PausePolicy, SleepPolicy, SleepPreset
from gpud.core.wanted import Wanted
from gpud.core.windows import WarmWindow
from gpud.core.worker import Cause, Worker, WorkerState
from gpud.errors import GpudError, StoreUnusable
from gpud.ports.store import ApiKey, EventRow

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from gpud.core.records import EventRecorded

    Params = dict[str, Any]


def to_json(value: object) -> str:
    """Spell a value as compact JSON; enums by their value."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def endpoint_params(endpoint: Endpoint) -> Params:
    """An endpoint as statement parameters."""
    return {
        "name": endpoint.name,
        "revision": endpoint.revision,
        "spec": to_json(asdict(endpoint.spec)),
        "image": to_json(asdict(endpoint.image)),
        "created_at_ms": endpoint.created_at_ms,
        "updated_at_ms": endpoint.updated_at_ms,
    }


def endpoint_of(row: sqlite3.Row) -> Endpoint:
    """Read an endpoint back.

    Raises:
        StoreUnusable: The stored spec is not one this version can build.
    """
    try:
        return Endpoint(
            spec=spec_of(json.loads(row["spec"])),
            image=image_of(json.loads(row["image"])),
            revision=Revision(row["revision"]),
            created_at_ms=row["created_at_ms"],
            updated_at_ms=row["updated_at_ms"],
        )
    except (TypeError, KeyError, ValueError, GpudError) as error:
        raise StoreUnusable(
            f"A stored endpoint cannot be read back ({error}): {row['spec'][:200]}. "
            "Use the gpud version that wrote it, or delete the endpoint there first."
        ) from error


def spec_of(stored: Params) -> EndpointSpec:
    """Build a spec back through its dataclasses; what was not stored takes its default."""
    spec = dict(stored)
    scale = dict(spec.pop("scale", {}))
    if "policy" in scale:
        scale["policy"] = PolicyName(scale["policy"])
    if "more_policies" in scale:
        scale["more_policies"] = tuple(map(PolicyName, scale["more_policies"]))
    scale["warm_windows"] = tuple(WarmWindow(**window) for window in scale.get("warm_windows", ()))
    if "preempt" in scale:
        scale["preempt"] = Preempt(scale["preempt"])
    if "balance" in scale:
        scale["balance"] = Balance(scale["balance"])
    return EndpointSpec(
        name=EndpointName(spec.pop("name")),
        type=EndpointType(spec.pop("type", EndpointType.HTTP)),
        command=tuple(spec.pop("command", ())),
        aliases=tuple(spec.pop("aliases", ())),
        env=tuple((key, value) for key, value in spec.pop("env", ())),
        gpus=GpuNeeds(**spec.pop("gpus", {})),
        scale=ScalePolicy(**scale),
        health=HealthCheck(**spec.pop("health", {})),
        limits=Limits(**spec.pop("limits", {})),
        jobs=_jobs_of(spec.pop("jobs", {})),
        volumes=tuple(Volume(**volume) for volume in spec.pop("volumes", ())),
        rollout=_rollout_policy_of(spec.pop("rollout", {})),
        standby=_standby_policy_of(spec.pop("standby", {})),
        requests=_request_rules_of(spec.pop("requests", {})),
        pause=PausePolicy(**spec.pop("pause", {})),
        sleep=_sleep_policy_of(spec.pop("sleep", {})),
        page_cache=_page_cache_of(spec.pop("page_cache", {})),
        **spec,
    )


def _rollout_policy_of(stored: Params) -> RolloutPolicy:
    policy = dict(stored)
    if "strategy" in policy:
        policy["strategy"] = RolloutStrategy(policy["strategy"])
    return RolloutPolicy(smoke=SmokeRequest(**policy.pop("smoke", {})), **policy)


def _standby_policy_of(stored: Params) -> StandbyPolicy:
    mode = StandbyMode(stored.get("mode", StandbyMode.NONE))
    return StandbyPolicy(**{**stored, "mode": mode})


def _page_cache_of(stored: Params) -> PageCachePolicy:
    return PageCachePolicy(**{**stored, "files": tuple(stored.get("files", ()))})


def _request_rules_of(stored: Params) -> RequestRules:
    rules = dict(stored)
    for name in ("denied_paths", "quiet_methods", "quiet_paths"):
        if name in rules:
            rules[name] = tuple(rules[name])
    return RequestRules(**rules)


def _sleep_policy_of(stored: Params) -> SleepPolicy:
    policy = dict(stored)
    if "preset" in policy:
        policy["preset"] = SleepPreset(policy["preset"])
    policy |= {name: Hook(**policy[name]) for name in ("enter", "wake", "check") if name in policy}
    return SleepPolicy(**policy)


def _jobs_of(stored: Params) -> JobNeeds:
    needs = dict(stored)
    if "on_adopt" in needs:
        needs["on_adopt"] = OnAdopt(needs["on_adopt"])
    return JobNeeds(**needs)


def image_of(stored: Params) -> PinnedImage:
    """Build a pinned image back."""
    return PinnedImage(
        reference=stored["reference"], pin=stored["pin"], exposed_ports=tuple(stored["exposed_ports"])
    )


def worker_params(worker: Worker) -> Params:
    """A worker as statement parameters."""
    return {
        "id": worker.id,
        "endpoint": worker.endpoint,
        "revision": worker.revision,
        "state": worker.state,
        "generation": worker.generation,
        "since_s": worker.since_s,
        "created_at_ms": worker.created_at_ms,
        "port": worker.port,
        "gpu_uuids": to_json(worker.gpu_uuids),
        "gpu_slice_mib": worker.gpu_slice.memory_mib if worker.gpu_slice else 0,
        "gpu_total_mib": worker.gpu_slice.of_mib if worker.gpu_slice else 0,
        "address": worker.address,
        "cause": worker.cause,
        "detail": worker.detail,
        "container_started_ns": worker.container_started_ns,
        "container_finished_ns": worker.container_finished_ns,
        "exit_code": worker.exit_code,
        "ready_s": worker.ready_s,
        "adopted": worker.adopted,
        "failed": worker.failed,
        "force": worker.force,
    }


def standby_params(standby: Standby) -> Params:
    """A standby as statement parameters."""
    return asdict(standby) | {"gpu_uuids": to_json(standby.gpu_uuids)}


def standby_of(row: sqlite3.Row) -> Standby:
    """Read a standby back."""
    return Standby(
        id=WorkerId(row["id"]),
        endpoint=EndpointName(row["endpoint"]),
        revision=Revision(row["revision"]),
        rung=Rung(row["rung"]),
        state=StandbyState(row["state"]),
        since_s=row["since_s"],
        created_at_ms=row["created_at_ms"],
        gpu_uuids=gpu_uuids_of(row["gpu_uuids"]),
        address=row["address"],
        detail=row["detail"],
        ram_mib=row["ram_mib"],
    )


def worker_of(row: sqlite3.Row) -> Worker:
    """Read a worker back."""
    return Worker(
        id=WorkerId(row["id"]),
        endpoint=EndpointName(row["endpoint"]),
        revision=Revision(row["revision"]),
        state=WorkerState(row["state"]),
        generation=row["generation"],
        since_s=row["since_s"],
        created_at_ms=row["created_at_ms"],
        port=row["port"],
        gpu_uuids=gpu_uuids_of(row["gpu_uuids"]),
        gpu_slice=(
            GpuSlice(memory_mib=row["gpu_slice_mib"], of_mib=row["gpu_total_mib"])
            if row["gpu_slice_mib"]
            else None
        ),
        address=row["address"],
        cause=Cause(row["cause"]),
        detail=row["detail"],
        container_started_ns=row["container_started_ns"],
        container_finished_ns=row["container_finished_ns"],
        exit_code=row["exit_code"],
        ready_s=row["ready_s"],
        adopted=bool(row["adopted"]),
        failed=bool(row["failed"]),
        force=bool(row["force"]),
    )


def gpu_health_params(status: GpuStatus) -> Params:
    """A GPU's health as statement parameters."""
    return {
        "gpu_uuid": status.gpu.uuid,
        "name": status.gpu.name,
        "memory_mib": status.gpu.memory_mib,
        "gpu_index": status.gpu.index,
        "numa_node": status.gpu.numa_node,
        "cpus": status.gpu.cpus,
        "mig_parent": status.gpu.mig_parent,
        "health": status.health,
        "reason": status.reason,
        "since_ms": status.since_ms,
    }


def gpu_status_of(row: sqlite3.Row) -> GpuStatus:
    """Read a GPU's health back."""
    return GpuStatus(
        gpu=Gpu(
            uuid=GpuUuid(row["gpu_uuid"]),
            name=row["name"],
            memory_mib=row["memory_mib"],
            index=row["gpu_index"],
            numa_node=row["numa_node"],
            cpus=row["cpus"],
            mig_parent=None if row["mig_parent"] is None else GpuUuid(row["mig_parent"]),
        ),
        health=GpuHealth(row["health"]),
        reason=row["reason"],
        since_ms=row["since_ms"],
    )


def event_params(event: EventRecorded) -> Params:
    """An event as statement parameters."""
    return {
        "kind": event.kind,
        "at_ms": event.at_ms,
        "endpoint": event.endpoint,
        "worker_id": event.worker_id,
        "facts": to_json(event.facts),
    }


def event_of(row: sqlite3.Row) -> EventRow:
    """Read an event back."""
    return EventRow(
        seq=row["seq"],
        kind=row["kind"],
        at_ms=row["at_ms"],
        endpoint=row["endpoint"],
        worker_id=row["worker_id"],
        facts=json.loads(row["facts"]),
    )


def cold_start_params(start: ColdStart) -> Params:
    """A start as statement parameters."""
    return {
        "worker_id": start.worker_id,
        "endpoint": start.endpoint,
        "revision": start.revision,
        "at_ms": start.at_ms,
        "woken": start.woken,
        "phases_ns": to_json(dict(start.phases_ns)),
        "wanted": to_json(asdict(start.wanted)),
    }


def cold_start_of(row: sqlite3.Row) -> ColdStart:
    """Read a start back."""
    return ColdStart(
        worker_id=WorkerId(row["worker_id"]),
        endpoint=EndpointName(row["endpoint"]),
        revision=Revision(row["revision"]),
        at_ms=row["at_ms"],
        woken=row["woken"],
        phases_ns={StartPhase(phase): ns for phase, ns in json.loads(row["phases_ns"]).items()},
        wanted=Wanted(**json.loads(row["wanted"])),
    )


def key_params(key: ApiKey) -> Params:
    """An API key as statement parameters."""
    return {
        "id": key.id,
        "label": key.label,
        "secret_sha256": key.secret_sha256,
        "scopes": to_json(key.scopes),
        "created_at_ms": key.created_at_ms,
        "expires_at_ms": key.expires_at_ms,
        "disabled": key.disabled,
        "last_used_at_ms": key.last_used_at_ms,
    }


def key_of(row: sqlite3.Row) -> ApiKey:
    """Read an API key back."""
    return ApiKey(
        id=KeyId(row["id"]),
        label=row["label"],
        secret_sha256=row["secret_sha256"],
        scopes=tuple(json.loads(row["scopes"])),
        created_at_ms=row["created_at_ms"],
        expires_at_ms=row["expires_at_ms"],
        disabled=bool(row["disabled"]),
        last_used_at_ms=row["last_used_at_ms"],
    )


def gpu_uuids_of(stored: str) -> tuple[GpuUuid, ...]:
    """Read a list of GPUs back."""
    uuids: Sequence[str] = json.loads(stored)
    return tuple(GpuUuid(uuid) for uuid in uuids)
