"""Begins, moves and ends the way of an endpoint from one revision to another; keeps its rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.records import EndpointSaved, RevisionSaved, RolloutSaved
from gpud.core.revision import RevisionRecord, RevisionState, at_present
from gpud.core.rollout import RollbackReason, Rollout, RolloutStep, SmokeState
from gpud.core.starts import StartRecord, after_failure
from gpud.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import EndpointName, Revision
    from gpud.core.starts import BackoffPolicy
    from gpud.core.worker import Worker
    from gpud.fleet.chronicle import Record
    from gpud.fleet.journal import Journal
    from gpud.fleet.state import FleetState
    from gpud.ports.time import Clock, IdSource

_EVENTS = {
    RolloutStep.CANARY: "rollout.canary_begun",
    RolloutStep.PROVE: "rollout.canary_ready",
    RolloutStep.SHIFT: "rollout.shifted",
    RolloutStep.COMPLETED: "rollout.completed",
    RolloutStep.ROLLED_BACK: "rollout.rolled_back",
    RolloutStep.SUPERSEDED: "rollout.superseded",
}


class Rollouts:
    """Part of the reconciler: every method is called in its task.

    Args:
        state: The fleet.
        journal: Where rows go.
        backoff: Of failing starts.
        record: Of the reconciler.
    """

    def __init__(
        self,
        *,
        state: FleetState,
        journal: Journal,
        clock: Clock,
        ids: IdSource,
        backoff: BackoffPolicy,
        record: Record,
    ) -> None:
        self._state = state
        self._journal = journal
        self._clock = clock
        self._ids = ids
        self._backoff = backoff
        self._record = record

    # -- what users ask for --------------------------------------------------------------------

    def accept(self, endpoint: Endpoint, before: Endpoint | None) -> None:
        """An endpoint was deployed: begin a rollout if its revision is another.

        An endpoint that never had a ready worker has nothing to protect: its new revision simply
        takes the place of the old one.

        Args:
            endpoint: As it is now; `state.endpoints` has it.
            before: As it was.
        """
        name = endpoint.name
        if before is None:
            self._state.recall(name).starts = StartRecord()
            self._mark(endpoint, RevisionState.CURRENT)
            return
        if before.revision == endpoint.revision:
            return
        serving = self._supersede(before, endpoint)
        if serving.revision == endpoint.revision:
            self._mark(endpoint, RevisionState.CURRENT)
            return
        record = self._state.revisions.get(name, serving.revision)
        if record is None or not record.proven:
            if record is not None:
                self._put(record, RevisionState.SUPERSEDED)
            self._mark(endpoint, RevisionState.CURRENT)
            self._state.recall(name).starts = StartRecord()
            return
        self._mark(endpoint, RevisionState.DEPLOYING)
        self._begin(endpoint, serving.revision)

    def go_back(self, present: Endpoint, wanted: RevisionRecord | None) -> Endpoint:
        """Go back by hand: end the rollout under way, or begin one to an earlier revision.

        Args:
            present: The endpoint as deployed.
            wanted: Where to; None for the revision before.

        Returns:
            The endpoint as deployed now.

        Raises:
            Conflict: There is nothing to go back to.
        """
        name, rollout = present.name, self._state.rollouts.get(present.name)
        if rollout is not None and rollout.active and (wanted is None or wanted.revision == rollout.base):
            ended = replace(
                rollout,
                step=RolloutStep.ROLLED_BACK,
                since_s=self._clock.now_s(),
                clock_s=None,
                reason=RollbackReason.ASKED,
                detail="Rolled back by hand.",
            )
            self._move(rollout, ended)
            return self._state.endpoints[name]
        record = wanted or self._state.revisions.in_state(name, RevisionState.LAST_GOOD)
        if record is None:
            raise Conflict(
                f"Endpoint {name} has no earlier revision that was good. "
                f"`gpud endpoint revisions {name}` lists those there are, and `gpud rollback {name} REV` "
                "goes to one of them."
            )
        if record.revision == present.revision:
            raise Conflict(f"Endpoint {name} is at revision {record.number} ({record.revision}) already.")
        endpoint = replace(at_present(record, present), updated_at_ms=self._clock.at_ms())
        self._state.endpoints[name] = endpoint
        self._journal.add(EndpointSaved(endpoint=endpoint))
        self.accept(endpoint, present)
        return endpoint

    def forget(self, name: EndpointName) -> None:
        """An endpoint was deleted; what its workers were made from is kept while they live."""
        self._state.rollouts.pop(name, None)
        self._state.revisions.forget(name)

    # -- what happens --------------------------------------------------------------------------

    def apply(self, rollouts: Mapping[EndpointName, Rollout]) -> bool:
        """Move rollouts on as planned; False when none was moved."""
        moved = False
        for name, after in rollouts.items():
            before = self._state.rollouts.get(name)
            if before is not None and before != after:
                self._move(before, after)
                moved = True
        return moved

    def note_ready(self, worker: Worker) -> None:
        """A worker was READY for the first time: its revision is worth going back to."""
        record = self._state.revisions.get(worker.endpoint, worker.revision)
        if record is not None and not record.proven and worker.endpoint in self._state.endpoints:
            self._put(record, record.state, ready=True)

    def note_failure(self, name: EndpointName, revision: Revision, error: str, *, permanent: bool) -> None:
        """A start of a revision failed, or its pull did; counted against a rollout to it."""
        rollout = self._state.rollouts.get(name)
        if rollout is None or not rollout.active or rollout.target != revision:
            return
        starts = after_failure(
            rollout.starts,
            self._backoff,
            error=error,
            permanent=permanent,
            now_s=self._clock.now_s(),
            jitter=self._ids.fraction(),
        )
        self._save(replace(rollout, starts=starts))

    def note_smoke(self, name: EndpointName, revision: Revision, fault: str) -> None:
        """The smoke request was answered; `fault` is empty when well."""
        rollout = self._state.rollouts.get(name)
        if rollout is None or rollout.target != revision or rollout.step is not RolloutStep.PROVE:
            return
        smoke = SmokeState.FAILED if fault else SmokeState.PASSED
        self._save(replace(rollout, smoke=smoke, detail=fault))

    def resume(self, rollouts: Iterable[Rollout]) -> None:
        """Go on where the daemon before was; a deadline's clock starts anew, for nobody watched it."""
        now_s = self._clock.now_s()
        for rollout in rollouts:
            clock_s = None if rollout.clock_s is None else now_s
            since_s = min(rollout.since_s, now_s)
            self._state.rollouts[rollout.endpoint] = replace(rollout, clock_s=clock_s, since_s=since_s)

    # -- inside --------------------------------------------------------------------------------

    def _supersede(self, before: Endpoint, endpoint: Endpoint) -> Endpoint:
        """End a rollout under way in favour of another; returns what serves."""
        serving = self._state.serving(before)
        rollout = self._state.rollouts.get(before.name)
        if rollout is None or not rollout.active:
            return serving
        if rollout.step is RolloutStep.SHIFT:
            self._settle(rollout)
        else:
            self._mark_revision(before.name, rollout.target, RevisionState.SUPERSEDED)
        detail = f"Revision {endpoint.revision} was deployed."
        ended = replace(rollout, step=RolloutStep.SUPERSEDED, clock_s=None, detail=detail)
        self._save(replace(ended, since_s=self._clock.now_s(), changed_at_ms=self._clock.at_ms()))
        self._tell(ended)
        return serving

    def _begin(self, endpoint: Endpoint, base: Revision) -> None:
        now_ms = self._clock.at_ms()
        rollout = Rollout(
            endpoint=endpoint.name,
            base=base,
            target=endpoint.revision,
            step=RolloutStep.PULL,
            since_s=self._clock.now_s(),
            started_at_ms=now_ms,
            changed_at_ms=now_ms,
        )
        self._state.recall(endpoint.name).answers.pop(endpoint.revision, None)
        self._save(rollout)
        facts = {"from": base, "to": endpoint.revision, "strategy": endpoint.spec.rollout.strategy}
        self._record("rollout.started", facts, endpoint=endpoint.name)

    def _move(self, before: Rollout, after: Rollout) -> None:
        if after.step is before.step:
            self._save(after)
            return
        after = replace(after, changed_at_ms=self._clock.at_ms())
        name = after.endpoint
        present = self._state.endpoints[name]
        self._save(after)
        match after.step:
            case RolloutStep.SHIFT:
                self._state.recall(name).starts = StartRecord()
            case RolloutStep.COMPLETED:
                if before.step is not RolloutStep.SHIFT:
                    self._state.recall(name).starts = StartRecord()
                self._settle(after)
            case RolloutStep.ROLLED_BACK:
                self._return(after, present)
            case _:
                pass
        self._tell(after)

    def _return(self, rollout: Rollout, present: Endpoint) -> None:
        """The base is what is deployed again, and the target is not tried any more."""
        name = rollout.endpoint
        self._mark_revision(name, rollout.target, RevisionState.FAILED, detail=rollout.detail)
        self._mark_revision(name, rollout.base, RevisionState.CURRENT)
        record = self._state.revisions.get(name, rollout.base)
        if record is not None:
            endpoint = replace(at_present(record, present), updated_at_ms=self._clock.at_ms())
            self._state.endpoints[name] = endpoint
            self._journal.add(EndpointSaved(endpoint=endpoint))
        self._state.recall(name).starts = StartRecord()

    def _settle(self, rollout: Rollout) -> None:
        """The target is what the endpoint runs; the base is where it can go back to."""
        name = rollout.endpoint
        for record in list(self._state.revisions.of(name)):
            if record.state is RevisionState.LAST_GOOD:
                self._put(record, RevisionState.SUPERSEDED)
        self._mark_revision(name, rollout.base, RevisionState.LAST_GOOD)
        self._mark_revision(name, rollout.target, RevisionState.CURRENT)
        self._forget_old_ones(name)

    def _forget_old_ones(self, name: EndpointName) -> None:
        """Keep in memory what the endpoint may go to or come from, and what its workers were made from."""
        kept = {
            record.revision
            for record in self._state.revisions.of(name)
            if record.state not in (RevisionState.SUPERSEDED, RevisionState.FAILED)
        }
        alive = {worker.revision for worker in self._state.workers.values() if worker.endpoint == name}
        self._state.revisions.forget(name, but=kept | alive)

    def _mark(self, endpoint: Endpoint, state: RevisionState) -> None:
        """Note what became of the deployed revision, which may be a new one."""
        book, now_ms = self._state.revisions, self._clock.at_ms()
        record = book.get(endpoint.name, endpoint.revision)
        if record is None:
            number = book.number_of(endpoint.name, endpoint.revision)
            record = RevisionRecord(
                endpoint=endpoint, number=number, state=state, created_at_ms=now_ms, changed_at_ms=now_ms
            )
        self._put(record, state)

    def _mark_revision(
        self, name: EndpointName, revision: Revision, state: RevisionState, *, detail: str = ""
    ) -> None:
        record = self._state.revisions.get(name, revision)
        if record is not None:
            self._put(record, state, detail=detail)

    def _put(
        self, record: RevisionRecord, state: RevisionState, *, detail: str = "", ready: bool = False
    ) -> None:
        now_ms = self._clock.at_ms()
        ready_at_ms = now_ms if ready else record.ready_at_ms
        after = replace(record, state=state, detail=detail, changed_at_ms=now_ms, ready_at_ms=ready_at_ms)
        self._state.revisions.put(after)
        self._journal.add(RevisionSaved(record=after))

    def _save(self, rollout: Rollout) -> None:
        self._state.rollouts[rollout.endpoint] = rollout
        self._journal.add(RolloutSaved(rollout=rollout))

    def _tell(self, rollout: Rollout) -> None:
        facts: dict[str, object] = {"from": rollout.base, "to": rollout.target}
        if rollout.reason is not None:
            facts["reason"] = rollout.reason
        if rollout.detail:
            facts["detail"] = rollout.detail
        if not rollout.active:
            facts["took_s"] = round((self._clock.at_ms() - rollout.started_at_ms) / 1000, 3)
        self._record(_EVENTS[rollout.step], facts, endpoint=rollout.endpoint)
