from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.threads import Threads
from gpud.adapters.tier_parked import ParkedTier
from gpud.core.ids import EndpointName, Revision
from gpud.core.standby import Rung, Standby, StandbyState
from gpud.errors import LaunchFailed
from tests.fakes.runtime import FakeRuntime
from tests.unit.core.making import worker_id

if TYPE_CHECKING:
    from pathlib import Path


async def test_files_that_cannot_be_used_are_told_as_this_containers_fault(tmp_path: Path) -> None:
    threads = Threads(1)
    runtime = FakeRuntime(wall_ns=time.time_ns, rng=random.Random(1), has_image=lambda _: True)
    tier = ParkedTier(runtime, threads, root=tmp_path, engine_is_local=True)
    (tmp_path / worker_id(1)).write_text("a file where the directory of the FIFO was")
    standby = Standby(
        id=worker_id(1),
        endpoint=EndpointName("echo"),
        revision=Revision("r1"),
        rung=Rung.PARKED,
        state=StandbyState.READY,
        since_s=0.0,
        created_at_ms=0,
    )
    for look in (tier.was_left(standby), tier.discard(standby.id)):
        with pytest.raises(LaunchFailed, match="Not a directory"):
            await look
    assert await tier.leftovers() == (standby.id,)
    await threads.close()
