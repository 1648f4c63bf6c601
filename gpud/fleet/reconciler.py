"""The loop: observe, plan, record, act. Sole owner of fleet state."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from gpud.core.events import RECORDED
from gpud.core.records import EventRecorded
from gpud.core.standby import StandbyBudget
from gpud.core.worker import Cause, WorkerEvent, WorkerState
from gpud.errors import InvariantBroken, StorageFull, Unavailable
from gpud.fleet.breaks import Breaks
from gpud.fleet.chronicle import Chronicle
from gpud.fleet.deciding import Deciding
from gpud.fleet.moves import Moves
from gpud.fleet.rollouts import Rollouts
from gpud.fleet.rounds import Rounds
from gpud.fleet.routes import Routes
from gpud.fleet.standbys import Standbys
from gpud.fleet.state import StartLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpud.core.ids import WorkerId
    from gpud.core.starts import BackoffPolicy
    from gpud.fleet.journal import Journal
    from gpud.fleet.meter import Meter
    from gpud.fleet.state import FleetState
    from gpud.ports.time import Clock, IdSource
    from gpud.ports.traffic import Traffic

log = structlog.get_logger(__name__)

T = TypeVar("T")

_TICK_S = 1.0
"""Longest sleep between rounds under load: its falls are then dated to the second."""
_IDLE_TICK_S = 5.0
_FULL_DISK_RETRY_S = 0.5
_FULL = "The disk of gpud's data directory is full. Free some space; gpud goes on by itself."


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilerPolicy:
    """What the loop is told by settings.

    Args:
        backoff: Of failing starts.
        settle_s: No scaling down for this long after the start.
        verify_gpus: The inventory can tell whether a GPU is idle.
        starts: How many workers may be starting at once.
        standbys: What all standbys may take together.
        breaks: In rounds, so that none of them holds the event loop for long.
    """

    backoff: BackoffPolicy
    settle_s: float
    verify_gpus: bool
    starts: StartLimits = field(default_factory=StartLimits)
    standbys: StandbyBudget = field(default_factory=StandbyBudget)
    breaks: Breaks = field(default_factory=Breaks)


class Hurry(Protocol):
    """Begins what needs not wait for the disk."""

    def __call__(self, *, may_start: bool) -> None:
        """Begin it; of what starts something, nothing unless `may_start`."""
        ...


class Follower(Protocol):
    """Carries out what was decided, once it is on disk."""

    def follow(self, *, may_start: bool) -> None:
        """Compare what goes on with what should; nothing new is begun unless `may_start`."""
        ...


class Reconciler:
    """Applies events and plans to the fleet, and has the executor follow.

    Others send it events with `post` or have it run a change with `change`; everything else
    reads. It implements `ports.traffic.TrafficWatcher` for the gateway.
    """

    def __init__(
        self,
        *,
        state: FleetState,
        journal: Journal,
        meter: Meter,
        traffic: Traffic,
        clock: Clock,
        ids: IdSource,
        policy: ReconcilerPolicy,
    ) -> None:
        self.state = state
        self._journal = journal
        self._meter = meter
        self._traffic = traffic
        self._clock = clock
        self._policy = policy
        self.rollouts = Rollouts(
            state=state, journal=journal, clock=clock, ids=ids, backoff=policy.backoff, record=self.record
        )
        self._chronicle = Chronicle(
            state=state,
            clock=clock,
            ids=ids,
            backoff=policy.backoff,
            rollouts=self.rollouts,
            record=self.record,
            add=journal.add,
        )
        self.standbys = Standbys(
            state=state, journal=journal, clock=clock, ids=ids, budget=policy.standbys, record=self.record
        )
        self._moves = self._moves_over(ids)
        self._routes = Routes(state)
        self._breaks = policy.breaks
        self._deciding = self._deciding_over()
        self._followers: tuple[Follower, ...] = ()
        self._inbox: list[WorkerEvent | Callable[[], None]] = []
        self._changes: list[tuple[Callable[[], object], asyncio.Future[object]]] = []
        self._settling: list[tuple[asyncio.Future[object], object]] = []
        self._wake = asyncio.Event()
        self._stopping = self._is_writing = False
        self._round_ended = asyncio.Event()
        self.rounds = Rounds(clock.now_s)
        self.hurry: Hurry | None = None  # called once the table is out, before the disk
        self.senses: list[Callable[[float], None]] = []
        """Called in each round with its loop time, once the load was taken and before anything is decided."""
        self.listeners: list[Callable[[EventRecorded], None]] = []
        """Told of each event as it is recorded; must return at once."""

    def _moves_over(self, ids: IdSource) -> Moves:
        return Moves(
            state=self.state,
            journal=self._journal,
            meter=self._meter,
            chronicle=self._chronicle,
            standbys=self.standbys,
            traffic=self._traffic,
            clock=self._clock,
            ids=ids,
            record=self.record,
        )

    def _deciding_over(self) -> Deciding:
        return Deciding(
            state=self.state,
            traffic=self._traffic,
            moves=self._moves,
            rollouts=self.rollouts,
            standbys=self.standbys,
            starts=self._policy.starts,
            verify_gpus=self._policy.verify_gpus,
            breaks=self._breaks,
            moved=self._follow_moves,
            look=self._look_again,
            record=self.record,
        )

    # -- what others may do --------------------------------------------------------------------

    def post(self, event: WorkerEvent) -> None:
        """Report what happened to a worker; applied in the next round, a way back while one is written."""
        if self._is_writing and self._brings_back(event):
            self._moves.move(event, self._clock.now_s())
            self._follow_moves()
            self._wake.set()
            return
        self._inbox.append(event)
        self._wake.set()

    def _brings_back(self, event: WorkerEvent) -> bool:
        """Whether requests may go to a worker again, which decides nothing else and so waits for no disk."""
        worker = self.state.workers.get(event.worker_id)
        return event.cause is Cause.PROBE_PASSED and worker is not None and worker.state is WorkerState.WAKING

    def _follow_moves(self) -> None:
        """Have the table follow what was just applied, before anything is awaited."""
        self._traffic.publish(self._routes.follow())

    def tell(self, observation: Callable[[], None]) -> None:
        """Have the owner take note of something seen; applied in order with the events."""
        self._inbox.append(observation)
        self._wake.set()

    async def change(self, apply: Callable[[], T]) -> T:
        """Run a change of fleet state in the owner's task; returns once it is on disk.

        `apply` is synchronous, reads and writes `state`, and adds its rows with `record`.
        What it raises is raised here, and nothing of it must have been applied then.
        """
        settled: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._changes.append((apply, settled))
        self._wake.set()
        return await settled  # type: ignore[return-value]

    async def written(self) -> None:
        """Wait until what was decided so far is on disk.

        Raises:
            Unavailable: The disk is full.
        """
        while self._is_writing:
            self._round_ended.clear()
            await self._round_ended.wait()
        if self._journal.full_since_s is not None:
            raise Unavailable(_FULL)

    def wake(self) -> None:
        """Ask for a round soon."""
        self._wake.set()

    def record(
        self, kind: str, facts: Mapping[str, object], *, endpoint: str = "", worker_id: str = ""
    ) -> None:
        """Record an event for people, written with the next round, and log it.

        Raises:
            InvariantBroken: The kind is not in `core.events`, so no page explains it.
        """
        if kind not in RECORDED:
            raise InvariantBroken(f"The event {kind} is not in core.events.")
        named = {"endpoint": endpoint, "worker": worker_id}
        log.info(kind, **{name: value for name, value in named.items() if value}, **facts)
        event = EventRecorded(
            kind=kind, at_ms=self._clock.at_ms(), endpoint=endpoint, worker_id=worker_id, facts=dict(facts)
        )
        self._journal.add(event)
        for listen in self.listeners:
            listen(event)

    # -- TrafficWatcher ------------------------------------------------------------------------

    def load_changed(self) -> None:
        """A request was held, or load reached a new peak or zero."""
        self._wake.set()

    def worker_alive(self, worker_id: WorkerId, *, at_boot_ns: int) -> None:
        """A worker's container was seen to run, or it answered, at a moment of CLOCK_BOOTTIME."""
        self._meter.alive(worker_id, at_boot_ns=at_boot_ns)

    def worker_busy(self, worker_id: WorkerId) -> None:
        """A worker got its first request."""
        self._meter.busy(worker_id)

    def worker_idle(self, worker_id: WorkerId) -> None:
        """A worker's last request ended."""
        self._meter.idle(worker_id)
        worker = self.state.workers.get(worker_id)
        if worker is not None:
            self.state.idle_since_s[worker_id] = self._clock.now_s()
        if worker is not None and worker.state is WorkerState.DRAINING:
            self._wake.set()

    def worker_unreachable(self, worker_id: WorkerId, detail: str) -> None:
        """A worker took no connection: out of rotation until a probe says otherwise."""
        self.post(WorkerEvent(worker_id=worker_id, cause=Cause.PROBE_FAILED, detail=detail))

    def worker_worn_out(self, worker_id: WorkerId, detail: str) -> None:
        """A worker was left out again and again: it is drained, and replaced."""
        self.post(WorkerEvent(worker_id=worker_id, cause=Cause.EJECTED, detail=detail))

    def start_answered(self, worker_id: WorkerId, first_byte_s: float) -> None:
        """The first request that waited for a worker has the first byte of its answer."""
        self.tell(lambda: self._chronicle.note_first_byte(worker_id, first_byte_s))

    # -- the loop ------------------------------------------------------------------------------

    async def run(self, *followers: Follower) -> None:
        """Go round until `stop`, and have `followers` act; ends with everything on disk."""
        self._followers = followers
        self._deciding.no_shrink_until_s = self._clock.now_s() + self._policy.settle_s
        while not self._stopping:
            self._wake.clear()
            sleep_s = await self.round()
            try:
                async with asyncio.timeout(sleep_s):
                    await self._wake.wait()
            except TimeoutError:
                continue
        self._meter.settle()
        await self._journal.flush()

    def close_doors(self) -> None:
        """Make no more workers: the daemon is going down and takes its workers with it."""
        self._moves.closed = True
        self._wake.set()

    async def emptied(self) -> None:
        """Wait until no worker and no standby is left, or the engine went away and none can be stopped."""
        while (self.state.workers or self.state.standbys) and self.state.engine_up:
            self._round_ended.clear()
            await self._round_ended.wait()

    def stop(self) -> None:
        """End the loop after the round under way."""
        self._stopping = True
        self._wake.set()

    async def round(self) -> float:
        """One round; returns how long the next may wait, in seconds."""
        now_s, breaks = self.rounds.begin(), self._breaks
        breaks.begin()
        # The table follows before anything is awaited, here and in each pass of the plan: no request
        # reaches a worker that began to drain.
        if self._apply_inbox(now_s) | self._apply_changes():
            self._follow_moves()
        self._deciding.count_requests()
        await breaks.through(self.state.observing(self._traffic, now_s=now_s))
        for sense in self.senses:
            sense(now_s)
            await breaks.rest()
        last = await self._deciding.settle(now_s)
        if last is not None:
            self._chronicle.note_decisions(last.decisions)
            self.state.decisions, self.state.waits = last.decisions, last.waits
        looking = self._routes.looking(now_s=now_s, full_since_s=self._journal.full_since_s)
        self._traffic.publish(await breaks.through(looking))
        self.rounds.decided()
        if self.hurry is not None:  # and nothing is awaited from here to the write that it runs beside
            self.hurry(may_start=self._journal.full_since_s is None)
        more_to_settle = self._meter.settle()
        self._is_writing = True
        try:
            written = await self._journal.flush()
        finally:
            self._is_writing = False
        self._settle_changes(written=written)
        for follower in self._followers:
            follower.follow(may_start=written)
        for worker_id in [w.id for w in self.state.workers.values() if w.state is WorkerState.GONE]:
            self.state.forget(worker_id)
        self._round_ended.set()
        self.rounds.end()
        sleep_s = (
            (_TICK_S if self.state.loaded or last is None else _IDLE_TICK_S)
            if written
            else _FULL_DISK_RETRY_S
        )
        if more_to_settle:
            sleep_s = min(sleep_s, 0.1)
        if last is not None and last.ask_again_at_s is not None:
            sleep_s = min(sleep_s, max(last.ask_again_at_s - self._clock.now_s(), 0.0))
        return sleep_s

    def _look_again(self, now_s: float) -> None:
        """Take the load once more within a round."""
        self._deciding.count_requests()
        self.state.observe_load(self._traffic, now_s=now_s)
        for sense in self.senses:
            sense(now_s)

    def _apply_inbox(self, now_s: float) -> bool:
        """Apply what was told; False when nothing was."""
        events, self._inbox = self._inbox, []
        for event in events:
            if isinstance(event, WorkerEvent):
                self._moves.move(event, now_s)
            else:
                event()
        return bool(events)

    def _apply_changes(self) -> bool:
        """Make the changes that were asked for; False when none was."""
        changes, self._changes = self._changes, []
        for apply, settled in changes:
            if settled.cancelled():  # nobody asks any more, and nothing of it was done
                continue
            if self._journal.full_since_s is not None:
                settled.set_exception(StorageFull(_FULL))
                continue
            try:
                answer = apply()
            except Exception as error:  # noqa: BLE001 - it is the asker's, and raised there
                settled.set_exception(error)
            else:
                self._settling.append((settled, answer))
        return bool(changes)

    def _settle_changes(self, *, written: bool) -> None:
        settling, self._settling = self._settling, []
        for settled, answer in settling:
            if settled.done():
                continue
            if written:
                settled.set_result(answer)
            else:
                settled.set_exception(StorageFull(f"{_FULL} This change is kept and written then."))
