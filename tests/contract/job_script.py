"""Makes, claims and ends jobs through the queue and acknowledges each step on fd 1, to be killed anywhere.

Runs as `python -m tests.contract.job_script DATA_DIR`. Prints `made N ID`, `claimed N`, `done N` or
`failed N` after the step is durable. Exit codes as those of `store_script`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gpud.adapters.sqlite import checkpoints
from gpud.adapters.sqlite.blobs import INLINE_BYTES_MAX
from gpud.adapters.sqlite.store import open_store
from gpud.core.job import Delivered, Ending
from gpud.core.job_request import JobPolicy
from gpud.errors import StorageFull, StoreUnusable
from gpud.jobs.queue import JobQueue
from gpud.jobs.submission import Submission
from gpud.ports.jobs import Payload
from tests.contract.job_rig import LLM
from tests.contract.store_rig import HandClock
from tests.contract.store_script import DONE, ENDED, NOT_OPENED, say
from tests.fakes.clock import SeededIds

if TYPE_CHECKING:
    from gpud.adapters.sqlite.store import Store

ROUNDS = 4
TOGETHER = 3
LARGE = b"x" * (INLINE_BYTES_MAX + 1)
REFUSED = Delivered(ending=Ending.FAILED, error="refused", may_retry=False)


def input_of(number: int) -> Payload:
    """Every third is large enough for a file."""
    body = LARGE if number % TOGETHER == 0 else b""
    return Payload(content=b"%d:" % number + body)


def fails(number: int) -> bool:
    """Whether a job is one of those that end badly."""
    return number % 4 == 1


def url_of(number: int) -> str:
    """Who is told of a job's end."""
    return f"https://hooks.example/{number}"


async def main(data_dir: Path) -> int:
    try:
        store = await open_store(data_dir, HandClock())
        queue = JobQueue(store.jobs, HandClock(), SeededIds(1))
        await queue.start()
    except (StoreUnusable, StorageFull) as error:
        say(f"refused {error.detail}")
        return NOT_OPENED
    return await _live(store, queue)


async def _live(store: Store, queue: JobQueue) -> int:
    ended = False

    async def one(number: int) -> None:
        nonlocal ended
        try:
            asked = Submission(
                endpoint=LLM,
                owner="local",
                payload=input_of(number),
                policy=JobPolicy(),
                webhook=url_of(number),
            )
            job, _ = await queue.submit(asked)
            say(f"made {number} {job.id}")
            claim = await queue.claim(LLM, "wk_a")
            assert claim is not None
            number = int(claim.payload.content.partition(b":")[0])  # whichever is next
            say(f"claimed {number}")
            if fails(number):
                assert await queue.settle(claim.job, REFUSED)
                say(f"failed {number}")
            else:
                assert await queue.complete(claim.job, Payload(content=claim.payload.content))
                say(f"done {number}")
        except StorageFull:
            say(f"full {number}")
        except StoreUnusable:
            ended = True

    for round_ in range(ROUNDS):
        await asyncio.gather(*(one(round_ * TOGETHER + k) for k in range(TOGETHER)))
    await store.close()
    return ENDED if ended else DONE


def small_log() -> None:
    """Have the log copied into the database now and then in so short a run."""
    checkpoints.PASSIVE_AT_BYTES = 64 << 10
    checkpoints.TRUNCATE_AT_BYTES = 128 << 10


if __name__ == "__main__":
    small_log()
    sys.exit(asyncio.run(main(Path(sys.argv[1]))))
