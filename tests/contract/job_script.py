"""Makes, claims and completes jobs and acknowledges each step on fd 1, to be killed or failed at any call.

Runs as `python -m tests.contract.job_script DATA_DIR`. Prints `made N`, `claimed N`, `done N` after the
step is durable. Exit codes as those of `store_script`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gpud.adapters.sqlite import checkpoints
from gpud.adapters.sqlite.blobs import INLINE_BYTES_MAX
from gpud.adapters.sqlite.store import open_store
from gpud.errors import StorageFull, StoreUnusable
from gpud.ports.jobs import Payload
from tests.contract.job_rig import NOW, begin, claim, new_job
from tests.contract.store_rig import HandClock
from tests.contract.store_script import DONE, ENDED, NOT_OPENED, say

ROUNDS = 4
TOGETHER = 3
LARGE = b"x" * (INLINE_BYTES_MAX + 1)


def input_of(number: int) -> Payload:
    """Every third is large enough for a file."""
    body = LARGE if number % TOGETHER == 0 else b""
    return Payload(content=b"%d:" % number + body)


async def main(data_dir: Path) -> int:
    try:
        store = await open_store(data_dir, HandClock())
        await begin(store)
    except (StoreUnusable, StorageFull) as error:
        say(f"refused {error.detail}")
        return NOT_OPENED
    ended = False

    async def live(number: int) -> None:
        nonlocal ended
        try:
            job, _ = await store.jobs.accept(new_job(number), input_of(number))
            say(f"made {number}")
            claimed = await claim(store, job)
            assert claimed is not None
            say(f"claimed {number}")
            result = Payload(content=claimed.payload.content)
            assert await store.jobs.complete(claimed.job, now_ms=NOW, purge_at_ms=NOW + 1, result=result)
            say(f"done {number}")
        except StorageFull:
            say(f"full {number}")
        except StoreUnusable:
            ended = True

    for round_ in range(ROUNDS):
        await asyncio.gather(*(live(round_ * TOGETHER + k) for k in range(TOGETHER)))
    await store.close()
    return ENDED if ended else DONE


if __name__ == "__main__":
    checkpoints.PASSIVE_AT_BYTES = 64 << 10
    checkpoints.TRUNCATE_AT_BYTES = 128 << 10
    sys.exit(asyncio.run(main(Path(sys.argv[1]))))
