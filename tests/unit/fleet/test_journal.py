from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gpud.core.records import BudgetTold, FleetChange, HeartbeatWritten
from gpud.errors import InvariantBroken, StorageFull
from gpud.fleet.journal import Journal
from tests.fakes.clock import FakeClock
from tests.unit.fleet.virtual import virtual

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.core.revision import RevisionRecord
    from gpud.ports.store import FleetRows


class _Disk:
    """Keeps what it is given, unless it is full."""

    def __init__(self) -> None:
        self.written: list[FleetChange] = []
        self.error: Exception | None = None
        self.during = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def load_fleet(self) -> FleetRows:
        raise AssertionError("the journal only writes")

    async def revisions(self, endpoint: str) -> tuple[RevisionRecord, ...]:
        raise AssertionError(f"the journal reads nothing of {endpoint}")

    async def record(self, changes: Sequence[FleetChange]) -> None:
        self.during.set()
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        self.written.extend(changes)


def _told(number: int) -> BudgetTold:
    return BudgetTold(budget="b", since_ms=0, percent=number)


def _beat(number: int) -> HeartbeatWritten:
    return HeartbeatWritten(boot_id="boot-1", boot_ns=number, wall_ms=number)


def test_changes_are_written_in_order_and_once() -> None:
    async def story() -> list[FleetChange]:
        disk = _Disk()
        journal = Journal(disk, FakeClock())
        for number in range(3):
            journal.add(_told(number))
        assert await journal.flush()
        assert await journal.flush()
        return disk.written

    assert virtual(story()) == [_told(0), _told(1), _told(2)]


def test_a_full_disk_loses_nothing_and_keeps_the_order() -> None:
    async def story() -> list[FleetChange]:
        disk = _Disk()
        journal = Journal(disk, FakeClock())
        journal.add(_told(0))
        disk.error = StorageFull("full")
        assert not await journal.flush()
        assert journal.full_since_s == 0.0
        journal.add(_told(1))
        await asyncio.sleep(5)
        assert not await journal.flush()
        assert journal.full_since_s == 0.0, "since the first refusal"
        disk.error = None
        assert await journal.flush()
        assert journal.full_since_s is None
        return disk.written

    assert virtual(story()) == [_told(0), _told(1)]


def test_a_disk_that_is_full_for_a_day_leaves_one_beat_to_write() -> None:
    async def story() -> list[FleetChange]:
        disk = _Disk()
        journal = Journal(disk, FakeClock())
        disk.error = StorageFull("full")
        journal.add(_told(0))
        for number in range(100):
            journal.add(_beat(number))
            assert not await journal.flush()
        disk.error = None
        assert await journal.flush()
        return disk.written

    assert virtual(story()) == [_told(0), _beat(99)]


def test_what_comes_during_a_write_that_fails_is_written_after_it() -> None:
    async def story() -> list[FleetChange]:
        disk = _Disk()
        journal = Journal(disk, FakeClock())
        journal.add(_told(0))
        disk.error = StorageFull("full")
        disk.go_on.clear()
        flushing = asyncio.create_task(journal.flush())
        await disk.during.wait()
        journal.add(_told(1))
        disk.go_on.set()
        assert not await flushing
        disk.error = None
        await journal.flush()
        return disk.written

    assert virtual(story()) == [_told(0), _told(1)]


def test_a_change_the_store_contradicts_is_a_bug_that_is_told() -> None:
    async def story() -> None:
        disk = _Disk()
        disk.error = InvariantBroken("no")
        journal = Journal(disk, FakeClock())
        journal.add(_told(0))
        await journal.flush()

    with pytest.raises(InvariantBroken):
        virtual(story())
