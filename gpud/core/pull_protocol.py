"""What a worker that fetches its jobs says, and what it is told: RunPod's worker protocol, without I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from gpud.core.job import Delivered, Ending

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.ids import EndpointName, JobId, WorkerId

PING_INTERVAL_S = 10.0
SILENT_S = 3 * PING_INTERVAL_S
"""A worker that was not heard for this long is lost."""
BATCH_MAX = 1000
_ERROR_CHARS_MAX = 16_384
_DROPPED_TWICE = 2
_IN_PROGRESS = "IN_PROGRESS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a worker posted about one job.

    Args:
        progress: It still runs, and `output` is how far it is.
        said: How the delivery ended; of no meaning with `progress`.
        output: JSON text; None when there is none.
        refresh: The worker wants to be replaced and takes no further job.
    """

    said: Delivered
    progress: bool = False
    output: bytes | None = None
    refresh: bool = False


def read_report(body: bytes) -> Report:
    """Read the body of a job-done, which is a result, an error or a progress.

    Whatever its content type says, it is JSON. Nothing that can be in it is refused, because a worker does
    not repeat what was refused: what cannot be understood ends the job with an error that says so.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        return _malformed(f"is not JSON: {error}")
    if not isinstance(document, dict):
        return _malformed("is not a JSON object")
    output = _json(document["output"]) if "output" in document else None
    if document.get("status") == _IN_PROGRESS:
        return Report(said=Delivered(ending=Ending.INTERRUPTED), progress=True, output=output or b"null")
    refresh = document.get("stopPod") is True
    fault = document.get("error")
    if fault:
        text = fault if isinstance(fault, str) else _json(fault).decode(errors="replace")
        said = Delivered(
            ending=Ending.FAILED, error=text[:_ERROR_CHARS_MAX], may_retry=False, reason="handler_error"
        )
        return Report(said=said, output=output, refresh=refresh)
    return Report(said=Delivered(ending=Ending.COMPLETED), output=output, refresh=refresh)


def read_chunk(body: bytes) -> bytes:
    """Read the body of a job-stream: one yield, as JSON text."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return _json(body.decode(errors="replace"))
    if isinstance(document, dict) and "output" in document:
        return _json(document["output"])
    return _json(document)


def too_large(size: int, limit: int) -> Report:
    """A result that is not taken for its size."""
    error = f"The result has {size} bytes or more; at most {limit} are kept (jobs.result_bytes_max)."
    said = Delivered(ending=Ending.FAILED, error=error, may_retry=False, reason="result_too_large")
    return Report(said=said)


def job_document(job_id: JobId, request: bytes) -> dict[str, object]:
    """The job as a worker gets it: everything its client sent, under the id it has here.

    Both `id` and `input` are always there: a worker drops a job without one of them, and says nothing.
    """
    try:
        document = json.loads(request)
    except (ValueError, RecursionError):
        document = {"input": request.decode(errors="replace")}
    if not isinstance(document, dict):
        document = {"input": document}
    given = {name: value for name, value in document.items() if name not in ("id", "input")}
    return {"id": job_id, "input": document.get("input", {}), **given}


def in_progress_of(query: Mapping[str, str]) -> bool | None:
    """Whether a poll says that its worker holds jobs; None when it does not say."""
    return {"0": False, "1": True}.get(query.get("job_in_progress", ""))


def batch_of(query: Mapping[str, str]) -> int:
    """How many jobs a poll has room for."""
    text = query.get("batch_size", "")
    wanted = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 1
    return min(max(wanted, 1), BATCH_MAX)


def bare_id(segment: str) -> str:
    """An id out of a path; parameters stick to it when the worker's URL came without a question mark."""
    return segment.partition("&")[0].partition("?")[0]


def ids_of(query: Mapping[str, str]) -> frozenset[str]:
    """The jobs that a ping lists."""
    return frozenset(filter(None, query.get("job_id", "").split(",")))


def complaint_of(query: Mapping[str, str]) -> str:
    """What a ping says is wrong with its worker; empty when nothing is."""
    if query.get("status") != "unhealthy":
        return ""
    check, reason = query.get("check", "")[:100], query.get("reason", "")[:300]
    return f"the start-up check {check or '(unnamed)'} failed: {reason or 'no reason given'}"


def lost(*, confirmed: bool, adopted: bool, delivery: int = 1) -> Delivered:
    """What it means that a worker holds no job although it was given one.

    Args:
        confirmed: The worker had shown that it got the job.
        adopted: It was given the job by an earlier run of the daemon, which may have missed the result.
        delivery: Of the job's present budget. Twice in a row an answer is not lost on its way: a handler that
            is faster than the first ping dropped the job.
    """
    if adopted:
        error = "The worker no longer has the job; its result may have come while gpud was restarted."
        return Delivered(ending=Ending.INTERRUPTED, error=error, reason="daemon_restarted", after_ms=0)
    if not confirmed and delivery < _DROPPED_TWICE:
        error = "The job did not reach the worker."
        return Delivered(ending=Ending.INTERRUPTED, error=error, reason="not_taken", after_ms=0)
    error = (
        "The worker took the job, and later said that it has none, without giving a result. What the handler "
        "returned may not be JSON, or the result was lost on its way; the worker's log says more."
    )
    return Delivered(ending=Ending.FAILED, error=error, may_retry=False, reason="result_dropped")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What a worker's environment is made of.

    Args:
        base_url: Of the listener for workers, such as `http://172.20.0.1:41000`.
        token: The worker's own.
        gpu_name: Product name of its GPU; empty for a CPU worker.
    """

    endpoint: EndpointName
    worker_id: WorkerId
    base_url: str
    token: str
    gpu_name: str = ""
    gpu_count: int = 0


def environment_for(facts: WorkerFacts) -> tuple[tuple[str, str], ...]:
    """The variables that switch RunPod's SDK, and whatever speaks its protocol, to this daemon.

    The SDK appends `&name=value`, so every address carries a question mark already; `$ID` is its own word
    for the job's id.
    """
    gpu = quote_plus(facts.gpu_name or "CPU")

    def url(call: str, tail: str = "") -> str:
        return f"{facts.base_url}/v2/{facts.endpoint}/{call}/{facts.worker_id}{tail}?gpu={gpu}"

    return (
        ("RUNPOD_WEBHOOK_GET_JOB", url("job-take")),
        ("RUNPOD_WEBHOOK_POST_OUTPUT", url("job-done", "/$ID")),
        ("RUNPOD_WEBHOOK_POST_STREAM", url("job-stream", "/$ID")),
        ("RUNPOD_WEBHOOK_PING", url("ping")),
        ("RUNPOD_PING_INTERVAL", str(int(PING_INTERVAL_S * 1000))),
        ("RUNPOD_POD_ID", facts.worker_id),
        ("RUNPOD_POD_HOSTNAME", facts.worker_id),
        ("RUNPOD_AI_API_KEY", facts.token),
        ("RUNPOD_ENDPOINT_ID", facts.endpoint),
        ("RUNPOD_GPU_COUNT", str(facts.gpu_count)),
        ("RUNPOD_GPU_SIZE", facts.gpu_name or "CPU"),
    )


RESERVED = frozenset(
    {
        "RUNPOD_WEBHOOK_GET_JOB",
        "RUNPOD_WEBHOOK_POST_OUTPUT",
        "RUNPOD_WEBHOOK_POST_STREAM",
        "RUNPOD_WEBHOOK_PING",
        "RUNPOD_PING_INTERVAL",
        "RUNPOD_POD_ID",
        "RUNPOD_AI_API_KEY",
        "RUNPOD_ENDPOINT_ID",
        "RUNPOD_REALTIME_PORT",
    }
)
"""Variables that no endpoint may say itself; the last would keep the worker from fetching jobs at all."""
DEFAULTS = (("RUNPOD_LOG_LEVEL", "INFO"), ("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true"))
"""What an endpoint's own `env` may say otherwise. The checks end a worker on a box with less than 10 % of its
disk free, or without a way to 8.8.8.8, neither of which keeps it from working."""


def _malformed(why: str) -> Report:
    said = Delivered(
        ending=Ending.FAILED,
        error=f"What the worker posted as the result {why}.",
        may_retry=False,
        reason="malformed_result",
    )
    return Report(said=said)


def _json(value: object) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="backslashreplace")
