"""Where the fleet and the gateway meet: routes go one way, load comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.ids import EndpointName, WorkerId
    from gpud.core.routing import RoutingTable
    from gpud.ports.store import ApiKey

SERVICES_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointLoad:
    """Requests of one endpoint, counted from their arrival at the gateway.

    Args:
        waiting: Held now; clients that left are not counted.
        jobs: Of these, jobs in the queue.
        in_flight: At workers now.
        peak: Most waiting plus in flight at any one moment since this was last taken, now included.
        oldest_wait_s: Age of the oldest held request; 0 without one.
        last_busy_s: Loop time when waiting plus in flight was last above zero; now while it is.
        arrivals: Requests that came since this was last taken.
        answers: Of each worker that gave any since then: all, and those that were 5xx or broke off.
        exchanges: Requests that ended since then, as loop times of arrival, dispatch and end; a dispatch of
            minus one for those that left without a worker. The newest, within a bound.
    """

    waiting: int = 0
    jobs: int = 0
    in_flight: int = 0
    peak: int = 0
    oldest_wait_s: float = 0.0
    last_busy_s: float = 0.0
    arrivals: int = 0
    answers: tuple[tuple[WorkerId, int, int], ...] = ()
    exchanges: tuple[tuple[float, float, float], ...] = ()

    @property
    def services_s(self) -> list[float]:
        """How long the last of these requests were at their worker."""
        newest = self.exchanges[-SERVICES_MAX:]
        return [ended_s - since_s for _arrived_s, since_s, ended_s in newest if since_s >= 0]


AT_REST = EndpointLoad()
"""What an endpoint's load is while nobody calls: this very object, so that no look at it is needed."""


class TrafficWatcher(Protocol):
    """Told by the gateway, synchronously and on the event loop; must return at once."""

    def load_changed(self) -> None:
        """A request was held, an endpoint's load reached a new peak or zero: worth a look."""
        ...

    def worker_busy(self, worker_id: WorkerId) -> None:
        """A worker went from no request to one."""
        ...

    def worker_idle(self, worker_id: WorkerId) -> None:
        """A worker's last running request ended."""
        ...

    def worker_unreachable(self, worker_id: WorkerId, detail: str) -> None:
        """A worker took no connection or reset it before any answer."""
        ...

    def worker_worn_out(self, worker_id: WorkerId, detail: str) -> None:
        """Requests to a worker kept failing, again and again: it should be replaced."""

    def start_answered(self, worker_id: WorkerId, first_byte_s: float) -> None:
        """A request that waited for a worker to start got the first byte of its answer.

        Args:
            worker_id: The worker.
            first_byte_s: From the request's dispatch to that byte.
        """
        ...


class Traffic(Protocol):
    """The gateway as the fleet sees it."""

    def publish(self, table: RoutingTable) -> None:
        """Swap the routing table; held requests are dispatched or refused accordingly."""
        ...

    def take_load(self, endpoint: EndpointName) -> EndpointLoad:
        """Load of an endpoint; resets its peak."""
        ...

    def worker_in_flight(self, worker_id: WorkerId) -> int:
        """Requests at one worker now, drained and removed workers included."""
        ...

    def take_shares(self, worker_id: WorkerId) -> Mapping[str, float]:
        """What each key had of a worker's time since this was last asked, in seconds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayReading:
    """How the gateway is.

    Args:
        connections: Client connections now.
        requests: Requests under way or held now, those of the control API included.
        statuses: Answers since the start by status code; 499 counts clients that left before one.
        loop_lag_s: How late the event loop ran its last timed call.
        loop_lag_s_max: How late it was at worst within the last minute.
    """

    connections: int = 0
    requests: int = 0
    statuses: Mapping[int, int] = field(default_factory=dict)
    loop_lag_s: float = 0.0
    loop_lag_s_max: float = 0.0


class KeyRing(Protocol):
    """Who may do what; in memory, so that the data plane never waits for it."""

    def authorize(self, token: str | None, scope: str) -> ApiKey:
        """Check a bearer token against a scope such as `invoke:llm` or `read`.

        Raises:
            Unauthenticated: No token, or an unknown, expired or disabled key.
            Forbidden: The key lacks the scope.
        """
        ...

    def note_failure(self, peer: str) -> None:
        """Count a request from `peer` whose key was not valid.

        Raises:
            TooManyAttempts: There were too many lately.
        """
        ...
