"""Asks the core what to do about the fleet, and applies its answer, until it has nothing more to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from gpud.core.overtaken import overtaken
from gpud.core.pieces import at_once
from gpud.core.reconcile import planning
from gpud.errors import InvariantBroken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpud.core.ids import WorkerId
    from gpud.core.pieces import Pieces
    from gpud.core.world import Plan, World
    from gpud.fleet.breaks import Breaks
    from gpud.fleet.moves import Moves
    from gpud.fleet.rollouts import Rollouts
    from gpud.fleet.standbys import Standbys
    from gpud.fleet.state import FleetState, StartLimits
    from gpud.ports.traffic import Traffic

log = structlog.get_logger(__name__)

_PASSES_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A plan and the world it was made of."""

    world: World
    plan: Plan


class Deciding:
    """Part of the reconciler, used by its task alone.

    A plan is made in pieces, with breaks in which requests come and go. Nobody but this task changes the
    fleet, so what a plan is made of cannot change but for the requests at workers; a plan that they
    overtook is made again without a break.

    Args:
        state: Of the fleet.
        traffic: Tells how many requests a worker has.
        moves: Apply what is decided.
        rollouts: Move on as is decided.
        standbys: What limits them.
        starts: How many workers may be starting at once.
        verify_gpus: The inventory can tell whether a GPU is idle.
        breaks: In the making of a plan.
        moved: Told in the same breath as changes are applied: the routing table must follow them before
            anything else happens, so that no request reaches a worker that began to drain.
        look: Takes the load of every endpoint once more.
        record: Records an event for people.
    """

    def __init__(
        self,
        *,
        state: FleetState,
        traffic: Traffic,
        moves: Moves,
        rollouts: Rollouts,
        standbys: Standbys,
        starts: StartLimits,
        verify_gpus: bool,
        breaks: Breaks,
        moved: Callable[[], None],
        look: Callable[[float], None],
        record: Callable[..., None],
    ) -> None:
        self._state = state
        self._traffic = traffic
        self._moves = moves
        self._rollouts = rollouts
        self._standbys = standbys
        self._starts = starts
        self._verify_gpus = verify_gpus
        self._breaks = breaks
        self._moved = moved
        self._look = look
        self._record = record
        self._fault = ""
        self._in_flight: Mapping[WorkerId, int] = {}
        self.no_shrink_until_s = 0.0

    def count_requests(self) -> None:
        """See how many requests each worker has; to be called right before the load is taken.

        Who comes between the two is in the load, and whoever comes after it is seen when the plan is
        applied: so nobody's worker is taken away for a load that was not known.
        """
        self._in_flight = {w: self._traffic.worker_in_flight(w) for w in self._state.workers}

    async def settle(self, now_s: float) -> Plan | None:
        """Plan and apply; None when the decisions failed, for then everything stays as it is."""
        hurried = False
        for _ in range(_PASSES_MAX):
            pieces = self._planning(now_s)
            try:
                decided = at_once(pieces) if hurried else await self._breaks.through(pieces)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not take down what serves
                self._note_fault(error)
                return None
            self._fault, answer = "", decided.plan
            if not hurried and overtaken(answer, decided.world, self._traffic.worker_in_flight):
                hurried = True
                self._look(now_s)
                continue
            hurried = False
            self._state.remember(answer)
            self._moves.decisions = answer.decisions
            applied = [self._moves.apply(change, now_s) for change in answer.changes]
            applied.append(self._rollouts.apply(answer.rollouts))
            if not any(applied):
                return answer
            self._moved()
        raise InvariantBroken("The plan did not settle: two rules undo each other.")

    def _planning(self, now_s: float) -> Pieces[Decided]:
        state = self._state
        endpoints = yield from state.seeing(now_s=now_s)
        world = state.world(
            endpoints,
            now_s=now_s,
            in_flight=self._in_flight,
            verify_gpus=self._verify_gpus,
            no_shrink_until_s=self.no_shrink_until_s,
            starts=self._starts,
            standing=self._standbys.seen(closed=self._moves.closed),
        )
        yield
        answer = yield from planning(world)
        return Decided(world=world, plan=answer)

    def _note_fault(self, error: Exception) -> None:
        """Say it once, not with each try."""
        if repr(error) == self._fault:
            return
        self._fault = repr(error)
        log.error("plan.failed", exc_info=error)
        self._record("daemon.plan_failed", {"error": self._fault})
