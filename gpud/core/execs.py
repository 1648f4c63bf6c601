"""May a command be run inside a worker now, and what is said when it may not?"""

from __future__ import annotations

from gpud.core.worker import Worker, WorkerState

_RUNNING = frozenset(
    {
        WorkerState.STARTING,
        WorkerState.READY,
        WorkerState.NOT_READY,
        WorkerState.DOZING,
        WorkerState.SLEEPING,
        WorkerState.WAKING,
        WorkerState.DRAINING,
    }
)
"""Its container runs, and is to go on for a while."""

_NOT_YET = frozenset(
    {WorkerState.PENDING, WorkerState.PULLING, WorkerState.RESERVED, WorkerState.CREATING},
)


def exec_refusal(worker: Worker) -> str:
    """Say why no command can be run inside a worker; empty when one can."""
    if worker.state in _RUNNING:
        return ""
    if worker.state in _NOT_YET:
        why = f"The worker {worker.id} is {worker.state.value}: its container does not run yet."
        return f"{why} Try again when it is starting or ready."
    if worker.state is WorkerState.PAUSED:
        why = f"The worker {worker.id} is paused: its processes are frozen, and a command would be too."
        return f"{why} A request to its endpoint wakes it."
    why = f"The worker {worker.id} is {worker.state.value} ({worker.cause.value}): its container is ending."
    return f"{why} `gpud worker ls --endpoint {worker.endpoint}` lists the others."


def ending_of(worker: Worker) -> str:
    """Say why a session in a worker ends though its command did not; empty while it may go on.

    A session is no request: the worker is scaled down, paused and replaced as if nobody looked at it.
    """
    if worker.state in _RUNNING:
        return ""
    if worker.state is WorkerState.PAUSED:
        return f"The worker {worker.id} was paused for want of requests. A session does not keep one awake."
    return (
        f"The worker {worker.id} is {worker.state.value} ({worker.cause.value}). A session does not keep a "
        "worker: raise scale.min_workers or scale.idle_timeout_s of its endpoint to look at one in peace."
    )
