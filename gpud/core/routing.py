"""What the gateway needs to know of the fleet: one immutable table, swapped whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpud.core.endpoint import Balance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.budget import BudgetSpent
    from gpud.core.ids import EndpointName, WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteWorker:
    """A READY worker's address.

    Args:
        spare: Of a revision that leaves: chosen only when no other has a free slot.
        start_timing: Metrics of a Server-Timing field that tell where the time of its start went.
    """

    worker_id: WorkerId
    address: str
    port: int
    spare: bool = False
    start_timing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why requests are refused at once instead of held.

    Args:
        slug: Of the error, such as `start-failed`.
        detail: What, why, what to do.
        retry_after_s: When trying again makes sense; None when only a change helps.
    """

    slug: str
    detail: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How requests of one endpoint are treated now.

    Args:
        concurrency: Requests one worker takes at a time.
        max_queue: Requests held at once.
        hold_timeout_s: Longest hold.
        request_timeout_s: From dispatch to the last byte.
        first_request_timeout_s: The same at a worker that has not answered yet; 0 for `request_timeout_s`.
        stream_idle_timeout_s: Longest silence inside an answer; 0 for any.
        balance: Which ready worker is next.
        public: No key is asked for.
        forward_authorization: Workers get the client's credentials.
        jobs_only: Its workers take no requests, for they fetch jobs.
        workers: READY ones, by id.
        refusal: Set while the endpoint's circuit is open or it is paused; held requests get it too.
        waiting_for: Reason word for requests whose hold runs out, such as `waiting_for_gpu`.
        expected_start_s: Median of recent cold starts, for Retry-After; 0 when unknown.
        denied_paths: Patterns of paths that are refused, for `core.denied`.
        quiet_methods: Methods of requests that start no worker.
        quiet_paths: What a GET that starts no worker asks for.
        progress: Held requests for streams are told how the start goes.
        start_phase: What the foremost starting worker is doing; empty while none starts.
    """

    endpoint: EndpointName
    concurrency: int
    max_queue: int
    hold_timeout_s: float
    request_timeout_s: float
    first_request_timeout_s: float = 0.0
    stream_idle_timeout_s: float = 0.0
    balance: Balance = Balance.ROUND_ROBIN
    public: bool = False
    forward_authorization: bool = False
    jobs_only: bool = False
    workers: tuple[RouteWorker, ...] = ()
    refusal: Refusal | None = None
    waiting_for: str = ""
    expected_start_s: float = 0.0
    denied_paths: tuple[str, ...] = ()
    quiet_methods: frozenset[str] = frozenset()
    quiet_paths: frozenset[str] = frozenset()
    progress: bool = False
    start_phase: str = ""


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Every route by endpoint name, and endpoint names by OpenAI model name."""

    routes: dict[EndpointName, Route] = field(default_factory=dict)
    aliases: dict[str, EndpointName] = field(default_factory=dict)
    keys_spent: Mapping[str, BudgetSpent] = field(default_factory=dict)
    """Keys that wait for no worker."""
