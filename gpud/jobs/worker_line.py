"""Tells the fleet of workers that fetch their jobs, and tells those where to call (port `WorkerLine`)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.core.pull_protocol import WorkerFacts, environment_for
from gpud.ports.worker_line import Pulse

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.ids import EndpointName, WorkerId
    from gpud.jobs.jobs import Jobs
    from gpud.jobs.worker_tokens import WorkerTokens


class JobLine:
    """See the module's text.

    Args:
        jobs: Hears the workers.
        tokens: One for each worker.
        base_url: Of the listener; raises Unavailable while there is none.
    """

    def __init__(self, jobs: Jobs, tokens: WorkerTokens, base_url: Callable[[], str]) -> None:
        self._jobs = jobs
        self._tokens = tokens
        self._base_url = base_url

    def environment(
        self, endpoint: EndpointName, worker_id: WorkerId, *, gpu_name: str, gpu_count: int
    ) -> tuple[tuple[str, str], ...]:
        """The variables that tell a worker where to call and as whom.

        Raises:
            Unavailable: The listener is not open yet, or cannot be.
        """
        return environment_for(
            WorkerFacts(
                endpoint=endpoint,
                worker_id=worker_id,
                base_url=self._base_url(),
                token=self._tokens.of(worker_id),
                gpu_name=gpu_name,
                gpu_count=gpu_count,
            )
        )

    async def pulse(self, worker_id: WorkerId, *, wait_s: float) -> Pulse:
        """What was heard of a worker; waits up to `wait_s` for its first call."""
        pull = self._jobs.pull
        if pull is None:
            await asyncio.sleep(wait_s)
            return Pulse()
        silent_s = await pull.silent_s(worker_id, wait_s=wait_s)
        return Pulse(silent_s=silent_s, complaint=pull.complaint(worker_id))
