"""What tests of jobs are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpud.core.ids import EndpointName
from gpud.core.job import Job, Retention
from gpud.core.job_request import JobPolicy, accepted, job_id
from gpud.ports.jobs import Payload
from tests.contract.store_rig import S

if TYPE_CHECKING:
    from gpud.adapters.sqlite.store import Store
    from gpud.ports.jobs import Claim, IdempotencyClaim, JobsAtStart

KEPT = Retention()
NOW = 1_763_730_000_000
LLM = EndpointName("llm")
INPUT = Payload(content=b'{"input":{"prompt":"a fox"}}')


def new_job(number: int = 1, *, endpoint: str = "llm", owner: str = "local", **policy: Any) -> Job:
    return accepted(
        job_id(NOW, f"job_{number:016d}", sync=False),
        endpoint=EndpointName(endpoint),
        owner=owner,
        policy=JobPolicy(**policy),
        now_ms=NOW,
        input_bytes=len(INPUT.content),
    )


async def begin(store: Store, *, boot_ns: int = 1000 * S, boot_id: str = "boot-1") -> JobsAtStart:
    """What the daemon does first."""
    return await store.jobs.start(
        boot_id=boot_id, boot_ns=boot_ns, wall_ms=NOW, kept=KEPT, fraction=lambda: 0.5
    )


async def submit(
    store: Store,
    job: Job | None = None,
    payload: Payload = INPUT,
    idempotency: IdempotencyClaim | None = None,
) -> Job:
    written, _replayed = await store.jobs.accept(job or new_job(), payload, idempotency)
    return written


async def claim(
    store: Store, job: Job, *, now_ms: int = NOW, instance: str = "run-1", worker_id: str = "wk_a"
) -> Claim | None:
    return await store.jobs.claim(
        job.seq, now_ms=now_ms, worker_id=worker_id, instance=instance, lease_until_ms=now_ms + 60_000
    )
