"""The meter over readings and segments, without a loop."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from gpud.core.gpu import Gpu, GpuReading, GpuStatus
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.core.metering import Phase, Segment
from gpud.core.records import EnergyDrawn, FleetChange, SegmentClosed, SegmentOpened
from gpud.fleet import energy_meter
from gpud.fleet.energy_meter import EnergyMeter

if TYPE_CHECKING:
    import pytest

S = 1_000_000_000
A, B = GpuUuid("GPU-a"), GpuUuid("GPU-b")


class _Box:
    def __init__(self, *gpus: Gpu) -> None:
        self.rows: list[FleetChange] = []
        self.listeners: list[Any] = []
        self.at_ns = 0
        state: Any = SimpleNamespace(
            gpus={gpu.uuid: GpuStatus(gpu=gpu) for gpu in gpus}, workers={WorkerId("wk_1"): None}
        )
        clock: Any = SimpleNamespace(boot_ns=lambda: self.at_ns, wall_ns=lambda: self.at_ns + 1)
        journal: Any = SimpleNamespace(listeners=self.listeners, add=self.rows.append)
        self.meter = EnergyMeter(state, journal, clock)

    def look(self, at_s: float, **counters: int) -> None:
        self.at_ns = round(at_s * S)
        readings = [
            GpuReading(uuid=GpuUuid(f"GPU-{name}"), used_mib=0, total_mib=1000, energy_mj=mj)
            for name, mj in counters.items()
        ]
        self.meter.take(readings, self.at_ns)

    def segment(self, start_s: float, end_s: float | None = None, **facts: Any) -> None:
        segment = Segment(
            **{
                "worker_id": WorkerId("wk_1"),
                "seq": 0,
                "phase": Phase.ACTIVE,
                "endpoint": EndpointName("llm"),
                "revision": Revision("r"),
                "gpu_uuids": (A,),
                "boot_id": "b",
                "start_boot_ns": round(start_s * S),
                "start_wall_ms": 0,
                "end_boot_ns": None if end_s is None else round(end_s * S),
                **facts,
            }
        )
        kind = SegmentOpened if end_s is None else SegmentClosed
        self.meter.note(kind(segment=segment))

    @property
    def drawn(self) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for row in self.rows:
            if isinstance(row, EnergyDrawn):
                found[row.holder.worker_id, row.holder.phase] += row.mj
        return found


def test_everything_that_is_counted_is_somebodys_or_nobodys() -> None:
    box = _Box(Gpu(uuid=A, name="x", memory_mib=1000))
    box.look(0, a=1_000)
    box.look(10, a=2_001)
    box.segment(12)
    box.look(20, a=3_001)
    box.segment(12, 25)
    box.segment(25, phase=Phase.IDLE, seq=1)
    box.look(30, a=4_001)
    assert box.drawn == {("", "unleased"): 1_001 + 200, ("wk_1", "active"): 800 + 500, ("wk_1", "idle"): 500}
    assert sum(box.drawn.values()) == 3_001


def test_what_is_drawn_over_the_end_of_a_minute_is_both_minutes_and_of_a_long_silence_nones() -> None:
    box = _Box(Gpu(uuid=A, name="x", memory_mib=1000))
    box.segment(0, 60)
    box.look(54, a=1_000)
    box.look(64, a=2_001)
    box.look(200, a=3_001)
    minutes = Counter[tuple[str, int | None]]()
    for row in box.rows:
        assert isinstance(row, EnergyDrawn)
        minutes[row.holder.worker_id, row.minute] += row.mj
    assert minutes == {("wk_1", 0): 600, ("", 1): 401, ("", None): 1_000}


def test_a_driver_that_is_loaded_anew_neither_takes_back_nor_invents() -> None:
    box = _Box(Gpu(uuid=A, name="x", memory_mib=1000))
    box.look(0, a=900_000)
    box.look(10, a=500)
    box.look(20, a=10**12)
    box.look(30, a=10**12 + 7)
    assert sum(box.drawn.values()) == 507


def test_a_gpu_that_is_off_the_bus_for_a_while_is_counted_from_what_it_says_then() -> None:
    box = _Box(Gpu(uuid=A, name="x", memory_mib=1000), Gpu(uuid=B, name="x", memory_mib=1000))
    box.segment(0)
    box.look(0, a=100, b=100)
    box.look(10, b=200)
    box.look(20, a=700, b=300)
    assert box.drawn == {("wk_1", "active"): 600, ("", "unleased"): 200}


def test_a_worker_of_two_gpus_has_the_energy_of_both_and_its_jobs_their_part() -> None:
    box = _Box(Gpu(uuid=A, name="x", memory_mib=1000), Gpu(uuid=B, name="x", memory_mib=1000))
    box.segment(0, gpu_uuids=(A, B))
    box.look(0, a=0, b=0)
    box.look(10, a=1_000, b=3_000)
    assert box.meter.drawn_mj(WorkerId("wk_1"), 10 * S) == 4_000
    assert box.meter.drawn_mj(WorkerId("wk_1"), S) == 400
    box.look(20, a=2_000, b=6_000)
    box.look(30, a=12_000, b=6_000)
    assert box.meter.drawn_mj(WorkerId("wk_1"), 10 * S) == 10_000
    assert box.meter.drawn_mj(WorkerId("wk_2"), 10 * S) == 0


def test_the_devices_of_a_gpu_in_mig_mode_share_its_counter_by_memory() -> None:
    box = _Box(
        Gpu(uuid=GpuUuid("MIG-1"), name="x", memory_mib=250, mig_parent=A),
        Gpu(uuid=GpuUuid("MIG-2"), name="x", memory_mib=250, mig_parent=A),
    )
    assert box.meter.boards() == (A,)
    box.segment(0, gpu_uuids=(GpuUuid("MIG-2"),))
    box.look(0, a=0)
    box.look(10, a=1_000)
    assert box.drawn == {("wk_1", "active"): 250, ("", "unleased"): 750}


def test_what_is_over_is_forgotten_though_a_gpu_that_is_gone_tells_nothing_any_more() -> None:
    box = _Box(Gpu(uuid=A, name="x", memory_mib=1000), Gpu(uuid=B, name="x", memory_mib=1000))
    box.look(0, a=0, b=0)
    for second in range(1, 50):
        box.segment(second - 1, second, seq=second)
        box.look(second, a=100 * second)
    assert box.drawn == {("wk_1", "active"): 4_900}
    assert len(box.meter._closed) <= 1


def test_of_what_was_over_while_nothing_was_told_the_newest_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_meter, "_SEGMENTS_KEPT", 10)
    box = _Box(Gpu(uuid=A, name="x", memory_mib=1000))
    box.look(0, a=0)
    for second in range(1, 41):
        box.segment(second - 1, second, seq=second)
    box.look(40, a=4_000)
    assert box.drawn == {("wk_1", "active"): 1_000, ("", "unleased"): 3_000}
