"""Keeps admitted requests waiting, in order of arrival, while a worker starts or all are full."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from gpud.core.ids import WorkerId
    from gpud.errors import GpudError
    from gpud.gateway.lane import Slot


class HoldState(Enum):
    """Where a held request is; every change is a compare-and-swap from PENDING."""

    PENDING = "pending"
    DISPATCHED = "dispatched"
    REFUSED = "refused"
    ABANDONED = "abandoned"


class Waiter(Protocol):
    """Whoever waits for a slot; called synchronously, at most one of the two, once."""

    @property
    def party(self) -> str:
        """On whose behalf it waits: places in a full queue are shared among parties."""
        ...

    def granted(self, slot: Slot) -> None:
        """A slot was reserved for it; it must release the slot in every case."""
        ...

    def refused(self, error: GpudError) -> None:
        """It will get no slot."""
        ...


class Held:
    """One waiting request.

    Args:
        waiter: Who is told.
        since_s: Loop time of its arrival.
        cold: No worker was ready when it came.
        tried: Workers it could not reach.
        affinity: Its session, for balancing.
        key: On whose account it runs.
    """

    __slots__ = ("affinity", "cold", "key", "party", "since_s", "state", "timer", "tried", "waiter")

    def __init__(
        self,
        waiter: Waiter,
        since_s: float,
        *,
        cold: bool,
        tried: frozenset[WorkerId] = frozenset(),
        affinity: bytes = b"",
        key: str = "",
    ) -> None:
        self.waiter = waiter
        self.key = key
        self.party = waiter.party
        self.since_s = since_s
        self.cold = cold
        self.tried = tried
        self.affinity = affinity
        self.state = HoldState.PENDING
        self.timer: asyncio.TimerHandle | None = None

    def swap(self, state: HoldState) -> bool:
        """Leave PENDING for `state`; False when another change came first."""
        if self.state is not HoldState.PENDING:
            return False
        self.state = state
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return True


class HoldQueue:
    """The held requests of one endpoint; removal is O(1) wherever a request stands."""

    __slots__ = ("_held", "parties")

    def __init__(self) -> None:
        self._held: OrderedDict[Held, None] = OrderedDict()
        self.parties: dict[str, int] = {}
        """How many requests each party has here."""

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(tuple(self._held))

    @property
    def first(self) -> Held | None:
        """Who has waited longest, or None."""
        return next(iter(self._held), None)

    def append(self, held: Held) -> None:
        """Join at the end."""
        self._held[held] = None
        self.parties[held.party] = self.parties.get(held.party, 0) + 1

    def put_back(self, held: Held) -> None:
        """Join at the front: a request that had its turn and found its worker gone."""
        self.append(held)
        self._held.move_to_end(held, last=False)

    def newest_of(self, party: str) -> Held | None:
        """Which request of a party came last; those that had a slot already are left alone."""
        mine = (held for held in reversed(self._held) if held.party == party and not held.tried)
        return next(mine, None)

    def remove(self, held: Held) -> None:
        """Leave."""
        if held not in self._held:
            return
        del self._held[held]
        left = self.parties[held.party] - 1
        if left:
            self.parties[held.party] = left
        else:
            del self.parties[held.party]
