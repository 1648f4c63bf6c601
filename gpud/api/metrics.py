"""`/metrics`: what Prometheus scrapes, read from where it is kept at the moment of the scrape."""

from __future__ import annotations

import os
import resource
import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from gpud.api.operations import Operation, Scope
from gpud.api.services import SERVICES
from gpud.core.exposition import CONTENT_TYPE, Exposition, Labels
from gpud.core.gpu import GpuHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from gpud.api.services import Services
    from gpud.core.gpu import GpuReading
    from gpud.core.worker import Worker
    from gpud.ports.control import EndpointView
    from gpud.ports.logs import LogCounts

_MIB = 1 << 20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


async def show_metrics(request: web.Request) -> web.StreamResponse:
    """Every metric, in Prometheus' text format."""
    text = metrics_text(request.app[SERVICES])
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


def metrics_text(services: Services) -> str:
    """Write every metric."""
    page = Exposition()
    views = services.control.endpoints()
    _daemon(page, services)
    _endpoints(page, services, views)
    _workers(page, services, [worker for view in views for worker in view.workers])
    _starts(page, services)
    _jobs(page, services)
    _gpus(page, services)
    return page.text()


def _by_endpoint(pairs: Iterable[tuple[str, float]]) -> Iterator[tuple[Labels, float]]:
    for endpoint, value in pairs:
        yield (("endpoint", endpoint),), value


def _pairs(first: str, second: str, counts: dict[tuple[str, str], float]) -> Iterator[tuple[Labels, float]]:
    for (one, other), value in sorted(counts.items()):
        yield ((first, one), (second, str(other))), value


def _daemon(page: Exposition, services: Services) -> None:
    health, gateway = services.control.health(), services.gateway()
    page.gauge("gpud_build_info", "The version that runs.", [((("version", health.version),), 1)])
    page.gauge("gpud_uptime_seconds", "Since the daemon's start.", [((), health.uptime_s)])
    page.gauge("gpud_ready", "Whether the daemon serves and can start workers.", [((), float(health.ready))])
    page.gauge(
        "gpud_part_ok",
        "Whether a part of the daemon works: store, engine, gpus.",
        [((("part", part),), float(not fault)) for part, fault in health.parts.items()],
    )
    page.counter(
        "gpud_requests_total",
        "Answers by status code; 499 for clients that left before one.",
        [((("code", str(code)),), count) for code, count in sorted(gateway.statuses.items())],
    )
    page.gauge("gpud_gateway_connections", "Client connections.", [((), gateway.connections)])
    page.gauge(
        "gpud_gateway_requests", "Requests under way or held, of the API too.", [((), gateway.requests)]
    )
    page.gauge("gpud_event_loop_lag_seconds", "How late the last timed call ran.", [((), gateway.loop_lag_s)])
    page.gauge(
        "gpud_event_loop_lag_max_seconds", "The same at worst in a minute.", [((), gateway.loop_lag_s_max)]
    )
    _store(page, services)
    counts = services.readings.log_counts().values()
    _logs(page, counts)


def _store(page: Exposition, services: Services) -> None:
    commits, used = services.readings.commits(), resource.getrusage(resource.RUSAGE_SELF)
    page.summary("gpud_db_commit_seconds", "Transactions of the store.", commits.commit_s, commits.commits)
    page.counter("gpud_db_operations_total", "Writes in them.", [((), commits.operations)])
    page.gauge("gpud_db_waiting_operations", "Writes that wait.", [((), commits.waiting_operations)])
    rounds = services.readings.rounds()
    page.summary("gpud_reconcile_seconds", "Rounds of the reconciler.", rounds.whole_s, rounds.rounds)
    page.counter(
        "gpud_reconcile_deciding_seconds_total", "Of that, before the disk.", [((), rounds.decided_s)]
    )
    page.gauge("gpud_reconcile_longest_seconds", "The longest round so far.", [((), rounds.longest_s)])
    page.counter(
        "gpud_reconcile_actions_total",
        "Efforts that the reconciler began.",
        [((("action", str(name)),), count) for name, count in sorted(services.readings.actions().items())],
    )
    page.counter(
        "gpud_events_total",
        "Recorded events.",
        [((("kind", kind),), count) for kind, count in sorted(services.readings.tally.events.items())],
    )
    page.counter(
        "gpud_process_cpu_seconds_total", "CPU time of the daemon.", [((), used.ru_utime + used.ru_stime)]
    )
    page.gauge("gpud_process_resident_memory_bytes", "Memory of the daemon.", [((), _resident_bytes())])


def _logs(page: Exposition, counts: Collection[LogCounts]) -> None:
    page.counter(
        "gpud_log_lines_total", "Lines of workers that were kept.", [((), sum(c.lines for c in counts))]
    )
    page.counter("gpud_log_bytes_total", "Bytes of them.", [((), sum(c.bytes for c in counts))])
    page.counter(
        "gpud_log_dropped_lines_total",
        "Lines that came too fast.",
        [((), sum(c.dropped_lines for c in counts))],
    )


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def _endpoints(page: Exposition, services: Services, views: tuple[EndpointView, ...]) -> None:
    names = [view.endpoint.name for view in views]
    page.gauge(
        "gpud_endpoint_condition",
        "1 for what each endpoint is now.",
        [((("endpoint", n), ("condition", v.condition)), 1) for n, v in zip(names, views, strict=True)],
    )
    page.gauge(
        "gpud_endpoint_waits",
        "1 for each reason for which an endpoint has not what it wishes.",
        [
            ((("endpoint", n), ("reason", wait.reason)), 1)
            for n, v in zip(names, views, strict=True)
            for wait in {wait.reason: wait for wait in v.waits}.values()
        ],
    )
    page.gauge(
        "gpud_endpoint_workers",
        "Workers by state.",
        [
            ((("endpoint", name), ("state", state)), count)
            for name, view in zip(names, views, strict=True)
            for state, count in Counter(worker.state.value for worker in view.workers).items()
        ],
    )
    page.gauge(
        "gpud_autoscaler_desired",
        "Workers the scale policy wants.",
        _by_endpoint((v.endpoint.name, v.desired) for v in views),
    )
    page.gauge(
        "gpud_autoscaler_granted",
        "Workers that have their GPUs, or need none.",
        _by_endpoint((v.endpoint.name, sum(_granted(worker) for worker in v.workers)) for v in views),
    )
    _traffic(page, services, views)


def _traffic(page: Exposition, services: Services, views: tuple[EndpointView, ...]) -> None:
    loads, tally = services.readings.loads(), services.readings.tally
    names = [view.endpoint.name for view in views]
    page.gauge(
        "gpud_queue_depth",
        "Requests and jobs that wait.",
        _by_endpoint((v.endpoint.name, v.waiting) for v in views),
    )
    page.gauge(
        "gpud_queue_oldest_seconds",
        "Age of the oldest.",
        _by_endpoint((name, loads[name].oldest_wait_s) for name in names if name in loads),
    )
    page.gauge(
        "gpud_requests_in_flight",
        "Requests at workers.",
        _by_endpoint((v.endpoint.name, v.in_flight) for v in views),
    )
    page.counter(
        "gpud_endpoint_arrivals_total",
        "Requests and jobs that came.",
        _by_endpoint(sorted(tally.arrivals.items())),
    )
    page.histogram(
        "gpud_queue_wait_seconds",
        "From a request's arrival to its worker; under more than 4,000 a second a part of them.",
        [((("endpoint", name),), histogram) for name, histogram in sorted(tally.queue_waits.items())],
    )
    page.histogram(
        "gpud_request_seconds",
        "At the worker, to the last byte.",
        [((("endpoint", name),), histogram) for name, histogram in sorted(tally.services.items())],
    )


def _granted(worker: Worker) -> bool:
    return worker.state.value not in (
        "pending",
        "pulling",
        "draining",
        "stopping",
        "releasing",
        "failed",
        "lost",
    )


def _workers(page: Exposition, services: Services, workers: list[Worker]) -> None:
    history, uses = services.readings.history, services.readings.uses()
    page.gauge(
        "gpud_worker_state",
        "1 for the state of each worker.",
        [((("endpoint", w.endpoint), ("worker", w.id), ("state", w.state.value)), 1) for w in workers],
    )
    known = [
        ((("endpoint", w.endpoint), ("worker", w.id)), sample, uses.get(w.id))
        for w in workers
        if (sample := history.newest(w.id)) is not None
    ]
    page.counter(
        "gpud_worker_cpu_seconds_total",
        "CPU time of a worker's container.",
        [(labels, use.cpu_s) for labels, _, use in known if use is not None],
    )
    page.gauge("gpud_worker_cpu_cores", "Cores it uses.", [(labels, s.cpu_cores) for labels, s, _ in known])
    page.gauge(
        "gpud_worker_memory_bytes", "Memory it uses.", [(labels, s.memory_bytes) for labels, s, _ in known]
    )
    page.gauge(
        "gpud_worker_gpu_memory_bytes",
        "Memory of its GPUs in use; of a shared one by its processes.",
        [(labels, s.gpu_memory_mib * _MIB) for labels, s, _ in known],
    )
    page.gauge(
        "gpud_worker_gpu_utilization_percent",
        "How busy its GPUs are.",
        [(labels, s.gpu_percent) for labels, s, _ in known],
    )


def _starts(page: Exposition, services: Services) -> None:
    tally, now_ns = services.readings.tally, services.readings.boot_ns()
    page.histogram(
        "gpud_cold_start_seconds",
        "From the wish for a worker to its readiness.",
        [((("endpoint", name),), histogram) for name, histogram in sorted(tally.starts.items())],
    )
    page.histogram(
        "gpud_cold_start_phase_seconds",
        "The parts of it.",
        [
            ((("endpoint", name), ("phase", phase)), histogram)
            for (name, phase), histogram in sorted(tally.phases.items())
        ],
    )
    page.counter(
        "gpud_worker_stops_total",
        "Workers that left, by what made them.",
        _pairs("endpoint", "reason", dict(tally.stops)),
    )
    page.counter(
        "gpud_worker_failures_total",
        "Those that ended though gpud did not ask.",
        _pairs("endpoint", "reason", dict(tally.failures)),
    )
    page.counter(
        "gpud_gpu_seconds_total",
        "GPU time by phase; the phases of the usage report.",
        _pairs("endpoint", "phase", tally.gpu_seconds(now_ns)),
    )
    page.counter(
        "gpud_energy_joules_total",
        "Energy of GPUs by endpoint and phase; without an endpoint what was drawn while nobody had them.",
        _pairs("endpoint", "phase", {key: mj / 1000 for key, mj in tally.energy_mj.items()}),
    )


def _jobs(page: Exposition, services: Services) -> None:
    lanes = services.jobs.queue.lanes
    page.gauge(
        "gpud_jobs",
        "Jobs by what they do.",
        [
            ((("endpoint", name), ("state", state)), count)
            for name, lane in lanes.items()
            for state, count in (
                ("waiting", lane.counted - len(lane.scheduled)),
                ("low_priority", lane.low),
                ("scheduled", len(lane.scheduled)),
                ("running", lane.running),
            )
        ],
    )
    page.gauge(
        "gpud_job_waiting_bytes",
        "Inputs of those that wait.",
        _by_endpoint((name, lane.waiting_bytes) for name, lane in lanes.items()),
    )
    page.counter(
        "gpud_jobs_ended_total",
        "Jobs by how an attempt ended.",
        [
            ((("endpoint", name), ("ending", ending)), count)
            for name, lane in lanes.items()
            for ending, count in sorted(lane.totals.items())
        ],
    )


def _gpus(page: Exposition, services: Services) -> None:
    statuses, readings = services.readings.gpus(), services.readings.gpu_readings()
    leased = Counter(uuid for v in services.control.endpoints() for w in v.workers for uuid in w.gpu_uuids)
    page.gauge(
        "gpud_gpu_health",
        "1 for the health of each GPU.",
        [
            ((("UUID", uuid), ("health", health.value)), float(status.health is health))
            for uuid, status in statuses.items()
            for health in GpuHealth
        ],
    )
    page.gauge(
        "gpud_gpu_holders",
        "Workers that hold a GPU.",
        [((("UUID", uuid),), leased.get(uuid, 0)) for uuid in statuses],
    )
    host = socket.gethostname()
    rows = [
        (
            (
                ("gpu", str(status.gpu.index)),
                ("UUID", uuid),
                ("device", f"nvidia{status.gpu.index}"),
                ("modelName", status.gpu.name),
                ("Hostname", host),
            ),
            readings[uuid],
        )
        for uuid, status in statuses.items()
        if uuid in readings
    ]
    for name, what, value in _DCGM:
        found = [(labels, value(reading)) for labels, reading in rows]
        kind = page.counter if name.endswith("CONSUMPTION") else page.gauge
        kind(name, what, [(labels, number) for labels, number in found if number is not None])


_DCGM: tuple[tuple[str, str, Callable[[GpuReading], float | None]], ...] = (
    ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", lambda r: r.gpu_percent),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", "Memory utilization (in %).", lambda r: r.memory_percent),
    ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", lambda r: r.used_mib),
    ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", lambda r: max(r.total_mib - r.used_mib, 0)),
    ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", lambda r: r.power_w),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Energy since boot (in mJ).", lambda r: r.energy_mj),
    ("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", lambda r: r.temperature_c),
)


OPERATIONS_HERE = (
    Operation(
        name="show_metrics",
        method="GET",
        path="/metrics",
        handler=show_metrics,
        scope=Scope.METRICS,
        summary="Metrics for Prometheus",
        tag="system",
        media_type="text/plain",
    ),
)
