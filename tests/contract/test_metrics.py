"""`/metrics` as a scraper sees it, and the dashboard in `config/` against it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpud.core.cold_start import ColdStart, StartPhase
from gpud.core.fleet_tally import FleetTally
from gpud.core.gpu import GpuReading, GpuStatus
from gpud.core.ids import EndpointName, Revision
from gpud.core.metering import Phase, Segment
from gpud.core.records import ColdStartSaved, EventRecorded, SegmentOpened, WorkerMoved
from gpud.core.stats_history import StatsHistory, UseSample
from gpud.core.waiting import WaitReason
from gpud.core.worker import Cause, WorkerState
from gpud.ports.control import EndpointCondition, EndpointView
from gpud.ports.logs import LogCounts
from gpud.ports.readings import CommitReading, Readings, RoundReading
from gpud.ports.stats import ContainerUse
from gpud.ports.traffic import EndpointLoad, GatewayReading
from tests.contract.api_site import running_api
from tests.unit.core import making

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.contract.api_site import ApiSite

DASHBOARD = Path(__file__).parents[2] / "config/grafana/gpud.json"
LLM = EndpointName("llm")
GPU = making.gpu(0)
WORKER = making.worker(0, WorkerState.READY, endpoint=LLM, gpu_uuids=(GPU.uuid,))
_METRIC = re.compile(r"\b((?:gpud|DCGM)_\w+)(?:\{([^}]*)\})?")
_BY = re.compile(r"\bby \(([^)]*)\)")
_LEGEND = re.compile(r"\{\{(\w+)\}\}")


def _readings() -> Readings:
    tally = FleetTally()
    phases_ns = {StartPhase.PULL: 2_000_000_000, StartPhase.READY: 500_000_000}
    start = ColdStart(worker_id=WORKER.id, endpoint=LLM, revision=Revision("r"), at_ms=0, phases_ns=phases_ns)
    segment = Segment(
        worker_id=WORKER.id,
        seq=0,
        phase=Phase.IDLE,
        endpoint=LLM,
        revision=Revision("r"),
        gpu_uuids=(GPU.uuid,),
        boot_id="b",
        start_boot_ns=0,
        start_wall_ms=0,
    )
    left = making.worker(1, WorkerState.FAILED, endpoint=LLM, cause=Cause.EXITED, failed=True)
    for change in (
        ColdStartSaved(start=start),
        SegmentOpened(segment=segment),
        WorkerMoved(worker=left, from_state=WorkerState.READY, from_generation=1),
        EventRecorded(kind="worker.ready", at_ms=0, endpoint=LLM, worker_id=WORKER.id, facts={}),
    ):
        tally.note(change)
    tally.note_exchanges(LLM, [(0.0, 0.2, 1.0)])
    tally.arrivals[LLM] += 1
    history = StatsHistory(10.0)
    sample = UseSample(
        at_ms=60_000,
        step_s=10.0,
        cpu_cores=1.5,
        memory_bytes=1 << 30,
        memory_bytes_max=1 << 30,
        gpu_memory_mib=4096,
        gpu_percent=87,
    )
    history.add(WORKER.id, sample)
    reading = GpuReading(
        uuid=GPU.uuid,
        used_mib=4096,
        total_mib=24_576,
        gpu_percent=87,
        memory_percent=40,
        power_w=250.5,
        energy_mj=123,
        temperature_c=61,
    )
    return Readings(
        rounds=lambda: RoundReading(rounds=2, decided_s=0.25, whole_s=0.75, longest_s=0.5),
        tally=tally,
        history=history,
        uses=lambda: {WORKER.id: ContainerUse(cpu_s=12.5, memory_bytes=1 << 30)},
        gpu_readings=lambda: {GPU.uuid: reading},
        gpus=lambda: {GPU.uuid: GpuStatus(gpu=GPU)},
        loads=lambda: {LLM: EndpointLoad(oldest_wait_s=3.5)},
        actions=lambda: {"launch": 2},
        boot_ns=lambda: 5_000_000_000,
        commits=lambda: CommitReading(commits=3, operations=5, commit_s=0.5),
        log_counts=lambda: {WORKER.id: LogCounts(lines=10, bytes=100, dropped_lines=2)},
    )


@pytest.fixture
async def site() -> AsyncIterator[ApiSite]:
    gateway = GatewayReading(connections=2, statuses={200: 7, 503: 1}, loop_lag_s=0.001, loop_lag_s_max=0.02)
    async with running_api(readings=_readings(), gateway=lambda: gateway) as site:
        endpoint = making.endpoint("llm")
        site.control.deployed[LLM] = endpoint
        site.control.views[LLM] = EndpointView(
            endpoint=endpoint,
            condition=EndpointCondition.READY,
            desired=2,
            scale_reason="load",
            workers=(WORKER,),
            waiting=4,
            in_flight=1,
            waits=(WaitReason(reason="waiting_for_gpu", detail="No GPU is free."),),
        )
        lane = site.jobs.queue.lane(LLM)
        lane.note_end("completed", 0.0)
        yield site


async def _scrape(site: ApiSite) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Samples by name, read by Prometheus' own parser."""
    async with site.client.get("/metrics", headers=await site.headers("metrics")) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/plain"
        text = await answer.text()
    found: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name].append((sample.labels, sample.value))
    return found


async def test_a_scrape_tells_what_is_so(site: ApiSite) -> None:
    found = await _scrape(site)
    llm = {"endpoint": "llm"}
    mine = {**llm, "worker": WORKER.id}
    for name, labels, value in (
        ("gpud_worker_state", {**mine, "state": "ready"}, 1),
        ("gpud_queue_depth", llm, 4),
        ("gpud_queue_oldest_seconds", llm, 3.5),
        ("gpud_requests_in_flight", llm, 1),
        ("gpud_autoscaler_desired", llm, 2),
        ("gpud_autoscaler_granted", llm, 1),
        ("gpud_endpoint_waits", {**llm, "reason": "waiting_for_gpu"}, 1),
        ("gpud_requests_total", {"code": "503"}, 1),
        ("gpud_gpu_seconds_total", {**llm, "phase": "idle"}, 5),
        ("gpud_cold_start_seconds_sum", llm, 2.5),
        ("gpud_cold_start_phase_seconds_sum", {**llm, "phase": "pull"}, 2),
        ("gpud_worker_stops_total", {**llm, "reason": "exited"}, 1),
        ("gpud_worker_failures_total", {**llm, "reason": "exited"}, 1),
        ("gpud_queue_wait_seconds_count", llm, 1),
        ("gpud_jobs_ended_total", {**llm, "ending": "completed"}, 1),
        ("gpud_db_commit_seconds_sum", {}, 0.5),
        ("gpud_reconcile_actions_total", {"action": "launch"}, 2),
        ("gpud_reconcile_seconds_sum", {}, 0.75),
        ("gpud_reconcile_deciding_seconds_total", {}, 0.25),
        ("gpud_reconcile_longest_seconds", {}, 0.5),
        ("gpud_event_loop_lag_max_seconds", {}, 0.02),
        ("gpud_worker_cpu_cores", mine, 1.5),
        ("gpud_worker_cpu_seconds_total", mine, 12.5),
        ("gpud_worker_memory_bytes", mine, 1 << 30),
        ("gpud_worker_gpu_memory_bytes", mine, 4 << 30),
        ("gpud_gpu_health", {"UUID": GPU.uuid, "health": "healthy"}, 1),
        ("gpud_log_dropped_lines_total", {}, 2),
    ):
        assert (labels, value) in found[name], name


async def test_gpu_gauges_have_the_names_and_labels_of_nvidias_exporter(site: ApiSite) -> None:
    found = await _scrape(site)
    for name, value in (
        ("DCGM_FI_DEV_GPU_UTIL", 87),
        ("DCGM_FI_DEV_MEM_COPY_UTIL", 40),
        ("DCGM_FI_DEV_FB_USED", 4096),
        ("DCGM_FI_DEV_FB_FREE", 20_480),
        ("DCGM_FI_DEV_POWER_USAGE", 250.5),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 123),
        ("DCGM_FI_DEV_GPU_TEMP", 61),
    ):
        # The parser gives counters the ending that newer exporters give them.
        ((labels, told),) = found[name] or found[name + "_total"]
        assert told == value
        assert set(labels) == {"gpu", "UUID", "device", "modelName", "Hostname"}
        assert (labels["gpu"], labels["UUID"], labels["device"]) == ("0", GPU.uuid, "nvidia0")


async def test_every_metric_and_label_of_the_dashboard_is_exported(site: ApiSite) -> None:
    labels_of = {
        name: set().union(*(labels for labels, _ in rows)) for name, rows in (await _scrape(site)).items()
    }
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(targets) > 30
    for target in targets:
        expression, known = target["expr"], set()
        for name, matchers in _METRIC.findall(expression):
            assert name in labels_of, expression
            known |= labels_of[name]
            for matcher in filter(None, matchers.split(",")):
                assert re.split(r"[=!]", matcher)[0].strip() in labels_of[name], expression
        assert known or "{{" not in target["legendFormat"], expression
        for listed in _BY.findall(expression):
            known_here = {label.strip() for label in listed.split(",")}
            assert known_here <= known, expression
        assert set(_LEGEND.findall(target["legendFormat"])) <= known, target
    variables = [one for one in dashboard["templating"]["list"] if one["type"] == "query"]
    for variable in variables:
        name, label = re.findall(r"label_values\((\w+), (\w+)\)", variable["definition"])[0]
        assert label in labels_of[name]


async def test_only_a_key_for_metrics_scrapes(site: ApiSite) -> None:
    for scope, status in (("metrics", 200), ("admin", 200), ("read", 403), ("invoke:*", 403)):
        async with site.client.get("/metrics", headers=await site.headers(scope)) as answer:
            assert answer.status == status, scope
    async with site.client.get("/metrics") as answer:
        assert answer.status == 401
    async with site.client.get("/v1/endpoints", headers=await site.headers("metrics")) as answer:
        assert answer.status == 403


async def test_a_worker_s_history(site: ApiSite) -> None:
    for span, step_s in (("hour", 10.0), ("day", 300.0)):
        url = f"/v1/workers/{WORKER.id}/stats?span={span}"
        async with site.client.get(url, headers=site.admin) as answer:
            page = await answer.json()
        assert page["step_s"] == step_s
        (step,) = page["items"]
        assert (step["cpu_cores"], step["gpu_memory_bytes"], step["gpu_utilization_percent"]) == (
            1.5,
            4 << 30,
            87,
        )
    async with site.client.get("/v1/workers/wk_cccccccccccccccc/stats", headers=site.admin) as answer:
        assert answer.status == 404
