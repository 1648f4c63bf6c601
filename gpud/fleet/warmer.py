"""Has files read ahead of starts, and notes what a start read: a follower of the reconciler."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.core.page_cache import file_sets_of
from gpud.core.standby import Rung, StandbyState
from gpud.core.worker import WorkerState
from gpud.errors import GpudError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import WorkerId
    from gpud.core.page_cache import FileSet, PageCachePolicy
    from gpud.fleet.hands import Hands
    from gpud.ports.page_cache import CacheWork, PageCache

_STARTS = frozenset({WorkerState.PENDING, WorkerState.PULLING, WorkerState.RESERVED, WorkerState.CREATING})
_SETTLED_S = 1.0
"""From readiness until the cache is looked at: what the first request reads belongs to the start."""
_LOOK_S = 0.01
_AGAIN_S = 5.0
"""Starts of one endpoint within this long are served by one replay."""


class Warmer:
    """Begins a replay when a worker is wanted or a standby parked, and a recording after a first start.

    Args:
        hands: The fleet.
        cache: Of this machine; None where there is none.
        tasks: Owns the work.
    """

    def __init__(self, hands: Hands, cache: PageCache | None, tasks: asyncio.TaskGroup) -> None:
        self._hands = hands
        self._cache = cache
        self._tasks = tasks
        self._seen: set[WorkerId] = set()
        self._recorded: set[str] = set()
        self._watched: dict[str, WorkerId] = {}
        self._replayed_s: dict[str, float] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    def follow(self, *, may_start: bool) -> None:
        """Look for starts that were decided, and for workers that became ready."""
        state, cache = self._hands.state, self._cache
        if cache is None or self._closed or not may_start:
            return
        wanting = {name for name, e in state.endpoints.items() if e.spec.page_cache.wanted}
        if not wanting:
            return
        for worker in state.workers.values():
            endpoint = state.made_for.get(worker.id)
            if worker.endpoint not in wanting or endpoint is None:
                continue
            if worker.state in _STARTS:
                self._begin(worker.id, endpoint, cache)
                if worker.state is WorkerState.CREATING:
                    self._watch(worker.id, endpoint, cache)
            elif worker.state is WorkerState.READY and self._is_to_be_recorded(endpoint, cache, by=worker.id):
                self._recorded.add(endpoint.revision)
                self._spawn(self._record(worker.id, endpoint, cache))
        for standby in state.standbys.values():
            parked = (standby.rung, standby.state) == (Rung.PARKED, StandbyState.READY)
            endpoint = state.made_for.get(standby.id) or state.endpoints.get(standby.endpoint)
            if parked and standby.endpoint in wanting and endpoint is not None:
                self._begin(standby.id, endpoint, cache)
                self._watch(standby.id, endpoint, cache)
        self._drop_watches(cache)
        self._seen &= state.workers.keys() | state.standbys.keys()

    def close(self) -> None:
        """Give all work up."""
        self._closed = True
        for task in self._running:
            task.cancel()

    def _policy_of(self, endpoint: Endpoint) -> PageCachePolicy:
        """As it is now: a policy applies at once."""
        present = self._hands.state.endpoints.get(endpoint.name)
        return (present or endpoint).spec.page_cache

    def _is_to_be_recorded(self, endpoint: Endpoint, cache: PageCache, *, by: WorkerId) -> bool:
        revision = endpoint.revision
        if revision in self._recorded or self._watched.get(revision, by) != by:
            return False
        return self._policy_of(endpoint).record and not cache.has_record(revision)

    def _watch(self, worker_id: WorkerId, endpoint: Endpoint, cache: PageCache) -> None:
        """See what a start opens, from the moment at which its container runs."""
        if endpoint.revision not in self._watched and self._is_to_be_recorded(endpoint, cache, by=worker_id):
            self._watched[endpoint.revision] = worker_id
            self._spawn(self._see_opened(worker_id, cache))

    async def _see_opened(self, worker_id: WorkerId, cache: PageCache) -> None:
        await cache.watch(worker_id)
        while worker_id in self._watched.values():
            try:
                seen = await self._hands.runtime.inspect_worker(worker_id)
            except GpudError:
                return  # Its start has a harder time than this: it is recorded from what is in memory.
            if seen is not None and seen.pid:
                await cache.attach(worker_id, seen.pid)
                return
            await asyncio.sleep(_LOOK_S)

    def _drop_watches(self, cache: PageCache) -> None:
        """Of those that ended before they could be recorded."""
        state = self._hands.state
        for revision, worker_id in list(self._watched.items()):
            if worker_id not in state.workers and worker_id not in state.standbys:
                del self._watched[revision]
                self._spawn(cache.unwatch(worker_id))

    def _begin(self, worker_id: WorkerId, endpoint: Endpoint, cache: PageCache) -> None:
        if worker_id in self._seen:
            return
        self._seen.add(worker_id)
        sets = file_sets_of((self._hands.state.endpoints.get(endpoint.name) or endpoint).spec)
        if not sets and not cache.has_record(endpoint.revision):
            return
        now_s = self._hands.clock.now_s()
        last_s = self._replayed_s.get(endpoint.revision)
        if last_s is None or now_s - last_s >= _AGAIN_S:
            self._replayed_s[endpoint.revision] = now_s
            self._spawn(self._replay(endpoint, sets, cache))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(work, name="page_cache")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _replay(self, endpoint: Endpoint, sets: tuple[FileSet, ...], cache: PageCache) -> None:
        policy = self._policy_of(endpoint)
        work = await cache.replay(endpoint.revision, sets, budget_bytes=policy.budget_mib << 20)
        self._tell("image.warmed", endpoint, work)

    async def _record(self, worker_id: WorkerId, endpoint: Endpoint, cache: PageCache) -> None:
        await asyncio.sleep(_SETTLED_S)
        if worker_id not in self._hands.state.workers:
            self._recorded.discard(endpoint.revision)  # Too short-lived to be looked at: the next one is.
            return
        budget_bytes = self._policy_of(endpoint).budget_mib << 20
        work = await cache.record(
            endpoint.revision, endpoint.image, budget_bytes=budget_bytes, worker_id=worker_id
        )
        self._watched.pop(endpoint.revision, None)
        self._tell("image.reads_recorded", endpoint, work)
        known = {e.revision for e in self._hands.state.endpoints.values()}
        known |= {e.revision for e in self._hands.state.made_for.values()}
        cache.forget(but=frozenset(known))

    def _tell(self, kind: str, endpoint: Endpoint, work: CacheWork) -> None:
        reconciler = self._hands.reconciler
        facts: dict[str, object] = {"files": work.files, "bytes": work.bytes_done}
        if work.left_out_bytes:
            facts["left_out_bytes"] = work.left_out_bytes
        if work.by:
            facts["by"] = work.by
        if work.why_not:
            facts["why_not"] = work.why_not
        reconciler.tell(lambda: reconciler.record(kind, facts, endpoint=endpoint.name))
