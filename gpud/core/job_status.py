"""What does a worker say of a job that an earlier run of the daemon handed to it?"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from gpud.core.endpoint import EndpointType
from gpud.core.job_answers import delivered_by
from gpud.core.job_spec import OnAdopt
from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.endpoint import EndpointSpec
    from gpud.core.job import Delivered

ASK_FIRST_S = 0.1
ASK_LAST_S = 5.0
SILENT_S = 30.0
"""A worker that answers nothing for so long has the job no more."""
_MAY_RUN = frozenset({WorkerState.READY, WorkerState.NOT_READY, WorkerState.DRAINING, WorkerState.STOPPING})
_RUNS = 202
_ASK_AGAIN = frozenset({_RUNS, 425, 429, 503})


class Whereabouts(Enum):
    """Where a job is that has no outcome yet."""

    RUNS = "runs"
    UNKNOWN = "unknown"
    """The worker does not have it, and computes nothing of it."""


def status_said(
    status: int, headers: Mapping[str, str], body: bytes, *, delivery: int
) -> Delivered | Whereabouts:
    """Read an answer of a worker's `status_path`.

    An outcome is what the job's own answer would have been, with the delivery it is of: without that
    header a page that answers every path alike would end jobs.

    Args:
        status: 202 while the job runs, 404 when it is not known.
        headers: Lower-case names; `x-gpud-delivery` marks an outcome.
        body: The job's own answer.
        delivery: The delivery that is asked for.
    """
    if status != _RUNS and headers.get("x-gpud-delivery") == str(delivery):
        return delivered_by(status, headers, body)
    return Whereabouts.RUNS if status in _ASK_AGAIN else Whereabouts.UNKNOWN


def may_go_on(spec: EndpointSpec, state: WorkerState) -> bool:
    """Whether a worker that is found in a state after a restart may tell the end of the job it was given.

    One that fetches its jobs tells by itself; one that has them pushed is asked, if it has a path for that.
    """
    if state not in _MAY_RUN:
        return False
    if spec.type is EndpointType.QUEUE:
        return spec.jobs.on_adopt is not OnAdopt.RECYCLE
    return bool(spec.jobs.status_path)


def ask_again_s(waited_s: float) -> float:
    """How long until a worker is asked once more: a quarter of the time it was asked so far."""
    return min(max(waited_s / 4, ASK_FIRST_S), ASK_LAST_S)
