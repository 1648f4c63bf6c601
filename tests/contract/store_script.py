"""Writes durable promises and acknowledges each on fd 1, to be killed or failed at any system call.

Runs as `python -m tests.contract.store_script DATA_DIR [migrate]`. After each write that was
acknowledged it prints `ack N`; the pair of events N stands for one transaction. Exit codes: 0 done,
3 the store ended itself, 4 the store could not be opened.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from gpud.adapters.sqlite import checkpoints, connection
from gpud.adapters.sqlite.migrate import Migration, migrations
from gpud.adapters.sqlite.store import open_store
from gpud.core.metering import Phase
from gpud.core.records import EventRecorded
from gpud.core.worker import WorkerState
from gpud.errors import StorageFull, StoreUnusable
from tests.contract.store_rig import GPU_A, HandClock, Life, S

ROUNDS = 6
TOGETHER = 3
DONE, ENDED, NOT_OPENED = 0, 3, 4


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def main(data_dir: Path) -> int:
    clock = HandClock()
    try:
        store = await open_store(data_dir, clock)
    except (StoreUnusable, StorageFull) as error:
        say(f"refused {error.detail}")
        return NOT_OPENED
    say("open")
    ended = False

    async def promise(n: int) -> None:
        nonlocal ended
        pair = [EventRecorded(kind="promise.made", at_ms=n, facts={"text": "x" * 3000}) for _ in range(2)]
        try:
            await store.fleet.record(pair)
        except StorageFull:
            say(f"full {n}")
        except StoreUnusable:
            ended = True
        else:
            say(f"ack {n}")

    for round_ in range(ROUNDS):
        await asyncio.gather(*(promise(round_ * TOGETHER + k) for k in range(TOGETHER)))
    if not ended:
        lived = await store.reads.list_workers(include_gone=True)
        ended = await _live(Life(store, clock, len(lived) + 1), clock)
    await store.close()
    return ENDED if ended else DONE


async def _live(life: Life, clock: HandClock) -> bool:
    """One worker's whole life; True when the store ended itself."""
    try:
        await life.begin()
        await life.reserve(GPU_A)
        clock.advance(S)
        await life.go(WorkerState.STARTING, Phase.START, address="10.0.0.2")
        clock.advance(S)
        await life.go(WorkerState.READY, Phase.IDLE)
        clock.advance(S)
        await life.go(WorkerState.RELEASING, Phase.RELEASE)
        await life.give_back()
    except StorageFull:
        say("full life")
    except StoreUnusable:
        return True
    return False


if __name__ == "__main__":
    # Small limits, so that a short script meets every kind of checkpoint.
    checkpoints.PASSIVE_AT_BYTES = 64 << 10
    checkpoints.TRUNCATE_AT_BYTES = 128 << 10
    if "migrate" in sys.argv:
        step = Migration(
            version=len(migrations()) + 1, name="test", script="CREATE TABLE later (x INTEGER) STRICT;"
        )
        setattr(connection, "migrations", lambda: (*migrations(), step))  # noqa: B010 - not its to export
    sys.exit(asyncio.run(main(Path(sys.argv[1]))))
