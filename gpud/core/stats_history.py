"""What each worker used: the last hour in steps, and a day rolled up."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIELDS = 6
FINE_S = 3600
ROLLED_STEP_S = 300
ROLLED_S = 86_400
_WORKERS_MAX = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class UseSample:
    """What a worker used over one step.

    Args:
        at_ms: Unix wall time of its end.
        step_s: Its length.
        cpu_cores: Used on average.
        memory_bytes: In use at its end; rolled up: on average.
        memory_bytes_max: Largest.
        gpu_memory_mib: Of its GPUs; of a shared one what its own processes have.
        gpu_percent: How busy its GPUs were, on average; of a shared one, with others' work.
    """

    at_ms: int
    step_s: float
    cpu_cores: float
    memory_bytes: float
    memory_bytes_max: float
    gpu_memory_mib: float
    gpu_percent: float


class _Ring:
    """Rows of numbers, the newest `rows_max` of them, in one block of memory."""

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._values = array("d")
        self._next = 0

    def add(self, row: tuple[float, ...]) -> None:
        if len(self._values) < self._rows_max * _FIELDS:
            self._values.extend(row)
        else:
            at = self._next * _FIELDS
            self._values[at : at + _FIELDS] = array("d", row)
        self._next = (self._next + 1) % self._rows_max

    def rows(self) -> Iterator[tuple[float, ...]]:
        count = len(self._values) // _FIELDS
        first = self._next if count == self._rows_max else 0
        for i in range(count):
            at = (first + i) % self._rows_max * _FIELDS
            yield tuple(self._values[at : at + _FIELDS])


class _WorkerHistory:
    def __init__(self, step_s: float) -> None:
        self.fine = _Ring(max(int(FINE_S / step_s), 1))
        self.rolled = _Ring(ROLLED_S // ROLLED_STEP_S)
        self.pending: list[tuple[float, ...]] = []
        self.newest: UseSample | None = None


class StatsHistory:
    """Bounded: every worker takes 20 kB, and the longest ended go first.

    Args:
        step_s: Between samples.
    """

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self._workers: OrderedDict[str, _WorkerHistory] = OrderedDict()

    def add(self, worker_id: str, sample: UseSample) -> None:
        """Append a worker's sample."""
        history = self._workers.get(worker_id)
        if history is None:
            history = self._workers[worker_id] = _WorkerHistory(self.step_s)
        self._workers.move_to_end(worker_id)
        while len(self._workers) > _WORKERS_MAX:
            self._workers.popitem(last=False)
        row = _row(sample)
        history.newest = sample
        history.fine.add(row)
        bucket = row[0] // (ROLLED_STEP_S * 1000)
        if history.pending and history.pending[0][0] // (ROLLED_STEP_S * 1000) != bucket:
            history.rolled.add(_rolled_up(history.pending))
            history.pending.clear()
        history.pending.append(row)

    def newest(self, worker_id: str) -> UseSample | None:
        """A worker's last sample."""
        history = self._workers.get(worker_id)
        return history.newest if history else None

    def fine(self, worker_id: str) -> tuple[UseSample, ...]:
        """The last hour."""
        history = self._workers.get(worker_id)
        return tuple(_sample(row, self.step_s) for row in history.fine.rows()) if history else ()

    def rolled(self, worker_id: str) -> tuple[UseSample, ...]:
        """The last day; its newest stretch is under way."""
        history = self._workers.get(worker_id)
        if history is None:
            return ()
        rows = [*history.rolled.rows(), *([_rolled_up(history.pending)] if history.pending else [])]
        return tuple(_sample(row, ROLLED_STEP_S) for row in rows)


def _row(one: UseSample) -> tuple[float, ...]:
    return (
        float(one.at_ms),
        one.cpu_cores,
        one.memory_bytes,
        one.memory_bytes_max,
        one.gpu_memory_mib,
        one.gpu_percent,
    )


def _sample(row: tuple[float, ...], step_s: float) -> UseSample:
    at_ms, cpu_cores, memory_bytes, memory_bytes_max, gpu_memory_mib, gpu_percent = row
    return UseSample(
        at_ms=int(at_ms),
        step_s=step_s,
        cpu_cores=cpu_cores,
        memory_bytes=memory_bytes,
        memory_bytes_max=memory_bytes_max,
        gpu_memory_mib=gpu_memory_mib,
        gpu_percent=gpu_percent,
    )


def _rolled_up(rows: list[tuple[float, ...]]) -> tuple[float, ...]:
    """Means of a stretch, but the largest of what is a maximum; dated by its last row."""
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return (rows[-1][0], means[1], means[2], max(row[3] for row in rows), means[4], means[5])
