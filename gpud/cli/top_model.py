"""What `gpud top` shows, from the daemon's state and two looks at its counters: rows, rates, order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from gpud.cli.output import age, number_at, rows_at, state_text, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Row = TypeVar("_Row")

ORDERS = ("name", "load", "memory", "age")
_SAMPLE = re.compile(r'^(gpud_\w+)\{(?:endpoint|worker)="([^"]*)"[^}]*\} (\S+)$')
_KEPT = frozenset(
    {
        "gpud_endpoint_arrivals_total",
        "gpud_queue_oldest_seconds",
        "gpud_worker_cpu_cores",
        "gpud_worker_memory_bytes",
        "gpud_worker_gpu_memory_bytes",
    }
)
_WORKER_NAMES = re.compile(r'worker="([^"]*)"')


class Look(NamedTuple):
    """One look at the daemon.

    Args:
        at_s: Monotonic seconds.
        state: The document of `/v1/state`.
        samples: From `/metrics`, by name and then by endpoint or worker.
    """

    at_s: float
    state: Mapping[str, object]
    samples: Mapping[str, Mapping[str, float]]


class GpuRow(NamedTuple):
    """A GPU."""

    number: int
    name: str
    used_mib: float | None
    total_mib: float
    percent: float | None
    power_w: float | None
    celsius: float | None
    health: str
    reason: str
    holders: str


class EndpointRow(NamedTuple):
    """An endpoint; `rate` is requests and jobs a second, None before there are two looks."""

    name: str
    condition: str
    ready: int
    desired: int
    most: int
    rate: float | None
    running: int
    waiting: int
    oldest_s: float
    why: str


class WorkerRow(NamedTuple):
    """A worker, or a standby."""

    id: str
    endpoint: str
    state: str
    gpus: str
    cpu_cores: float
    memory_bytes: float
    gpu_memory_bytes: float
    created_at: str
    age: str
    why: str


class Top(NamedTuple):
    """Everything that is shown."""

    version: str
    ready: bool
    faults: tuple[str, ...]
    rate: float | None
    running: int
    waiting: int
    gpus: tuple[GpuRow, ...]
    endpoints: tuple[EndpointRow, ...]
    workers: tuple[WorkerRow, ...]


def samples_of(metrics: str) -> dict[str, dict[str, float]]:
    """The samples that are shown, out of a whole scrape."""
    found: dict[str, dict[str, float]] = {}
    for line in metrics.splitlines():
        name = line.partition("{")[0]
        if name not in _KEPT:
            continue
        worker = _WORKER_NAMES.search(line)
        sample = _SAMPLE.match(line)
        value = line.rpartition(" ")[2]
        of = worker[1] if worker else sample[2] if sample else ""
        try:
            found.setdefault(name, {})[of] = float(value)
        except ValueError:
            continue
    return found


def top_of(now: Look, before: Look | None, *, order: str = "name", backwards: bool = False) -> Top:
    """Make the rows of a look, in their order.

    Args:
        now: The look.
        before: An earlier one, for rates.
        order: One of ORDERS.
        backwards: The other way round.
    """
    state = now.state
    rates = _rates(now, before)
    gpu_numbers = {text_at(gpu, "uuid"): int(number_at(gpu, "index")) for gpu in rows_at(state, "gpus")}
    workers = [
        *(_worker(row, now, gpu_numbers) for row in rows_at(state, "workers")),
        *(_standby(row) for row in rows_at(state, "standbys")),
    ]
    ready = [row.endpoint for row in workers if row.state == "ready"]
    endpoints = [_endpoint(row, now, rates, ready) for row in rows_at(state, "endpoints")]
    gpus = [_gpu(row) for row in rows_at(state, "gpus")]
    daemon = next(iter(rows_at(state, "daemon")), {})
    parts = value_at(daemon, "parts")
    faults = [
        f"{part}: {fault}" for part, fault in (parts.items() if isinstance(parts, dict) else ()) if fault
    ]
    return Top(
        version=text_at(daemon, "version"),
        ready=daemon.get("ready") is True,
        faults=tuple(faults),
        rate=sum(rates.values()) if rates is not None else None,
        running=sum(row.running for row in endpoints),
        waiting=sum(row.waiting for row in endpoints),
        gpus=tuple(_sorted(gpus, _GPU_ORDERS[order], backwards=backwards)),
        endpoints=tuple(_sorted(endpoints, _ENDPOINT_ORDERS[order], backwards=backwards)),
        workers=tuple(_sorted(workers, _WORKER_ORDERS[order], backwards=backwards)),
    )


def _rates(now: Look, before: Look | None) -> dict[str, float] | None:
    """Arrivals a second; a counter that fell began anew with its daemon."""
    if before is None or now.at_s <= before.at_s:
        return None
    name = "gpud_endpoint_arrivals_total"
    then, passed_s = before.samples.get(name, {}), now.at_s - before.at_s
    return {
        endpoint: (count - then.get(endpoint, 0.0) if count >= then.get(endpoint, 0.0) else count) / passed_s
        for endpoint, count in now.samples.get(name, {}).items()
    }


def _gpu(row: Mapping[str, object]) -> GpuRow:
    sharers = rows_at(row, "shared_by")
    names = [text_at(share, "endpoint") for share in sharers] or [text_at(row, "endpoint")]
    return GpuRow(
        number=int(number_at(row, "index")),
        name=text_at(row, "name"),
        used_mib=_number(row, "used_mib"),
        total_mib=number_at(row, "memory_mib"),
        percent=_number(row, "utilization_percent"),
        power_w=_number(row, "power_w"),
        celsius=_number(row, "temperature_c"),
        health=text_at(row, "health"),
        reason=text_at(row, "reason"),
        holders=", ".join(dict.fromkeys(name for name in names if name)),
    )


def _endpoint(
    row: Mapping[str, object], now: Look, rates: Mapping[str, float] | None, ready: list[str]
) -> EndpointRow:
    name = text_at(row, "name")
    waits = rows_at(row, "waits")
    why = "; ".join(text_at(wait, "detail") for wait in waits) or text_at(row, "last_error")
    return EndpointRow(
        name=name,
        condition=text_at(row, "condition"),
        ready=ready.count(name),
        desired=int(number_at(row, "desired")),
        most=int(number_at(row, "max_workers")),
        rate=None if rates is None else rates.get(name, 0.0),
        running=int(number_at(row, "in_flight")),
        waiting=int(number_at(row, "waiting")),
        oldest_s=now.samples.get("gpud_queue_oldest_seconds", {}).get(name, 0.0),
        why=why,
    )


def _worker(row: Mapping[str, object], now: Look, gpu_numbers: Mapping[str, int]) -> WorkerRow:
    worker_id, uuids = text_at(row, "id"), value_at(row, "gpu_uuids")
    numbers = [str(gpu_numbers.get(str(uuid), "?")) for uuid in (uuids if isinstance(uuids, list) else ())]
    is_ready = text_at(row, "state") == "ready"
    return WorkerRow(
        id=worker_id,
        endpoint=text_at(row, "endpoint"),
        state=text_at(row, "state"),
        gpus=",".join(numbers),
        cpu_cores=now.samples.get("gpud_worker_cpu_cores", {}).get(worker_id, 0.0),
        memory_bytes=now.samples.get("gpud_worker_memory_bytes", {}).get(worker_id, 0.0),
        gpu_memory_bytes=now.samples.get("gpud_worker_gpu_memory_bytes", {}).get(worker_id, 0.0),
        created_at=text_at(row, "created_at"),
        age=age(text_at(row, "created_at")),
        why="" if is_ready else text_at(row, "detail") or state_text(text_at(row, "cause")),
    )


def _standby(row: Mapping[str, object]) -> WorkerRow:
    return WorkerRow(
        id=text_at(row, "id"),
        endpoint=text_at(row, "endpoint"),
        state="standby",
        gpus="",
        cpu_cores=0.0,
        memory_bytes=0.0,
        gpu_memory_bytes=0.0,
        created_at=text_at(row, "created_at"),
        age=age(text_at(row, "created_at")),
        why=text_at(row, "rung"),
    )


def _number(row: Mapping[str, object], name: str) -> float | None:
    value = value_at(row, name)
    return float(value) if isinstance(value, (int, float)) else None


_GPU_ORDERS: Mapping[str, Callable[[GpuRow], tuple[object, ...]]] = {
    "name": lambda row: (row.number,),
    "load": lambda row: (-(row.percent or 0.0), row.number),
    "memory": lambda row: (-(row.used_mib or 0.0), row.number),
    "age": lambda row: (row.number,),
}
_ENDPOINT_ORDERS: Mapping[str, Callable[[EndpointRow], tuple[object, ...]]] = {
    "name": lambda row: (row.name,),
    "load": lambda row: (-row.waiting, -row.running, -(row.rate or 0.0), row.name),
    "memory": lambda row: (-row.ready, row.name),
    "age": lambda row: (-row.oldest_s, row.name),
}
_WORKER_ORDERS: Mapping[str, Callable[[WorkerRow], tuple[object, ...]]] = {
    "name": lambda row: (row.endpoint, row.id),
    "load": lambda row: (-row.cpu_cores, row.endpoint, row.id),
    "memory": lambda row: (-row.gpu_memory_bytes, -row.memory_bytes, row.endpoint, row.id),
    "age": lambda row: (row.created_at, row.id),
}


def _sorted(rows: list[_Row], key: Callable[[_Row], tuple[object, ...]], *, backwards: bool) -> list[_Row]:
    return sorted(rows, key=key, reverse=backwards)
