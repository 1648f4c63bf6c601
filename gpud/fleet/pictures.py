"""The endpoints as the core sees them, kept from round to round: most have not changed since the last."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.pieces import PIECE
from gpud.core.resting import rests
from gpud.core.rollout import RolloutSeen, Tally
from gpud.core.windows import NO_WINDOW
from gpud.core.world import EndpointSeen
from gpud.ports.traffic import AT_REST

if TYPE_CHECKING:
    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import EndpointName
    from gpud.core.pieces import Pieces
    from gpud.fleet.state import EndpointMemory, FleetState
    from gpud.ports.traffic import EndpointLoad


class Pictures:
    """Part of the fleet's state.

    The picture of an endpoint that rests is kept while all it was made from is the same, compared by
    identity: everything in it is a value that is replaced when it changes.

    Args:
        state: Of the fleet.
    """

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self._kept: dict[EndpointName, tuple[Endpoint, EndpointSeen]] = {}

    def taking(self, *, now_s: float) -> Pieces[dict[EndpointName, EndpointSeen]]:
        """Every endpoint as it is, some at a time; `now_s` is loop time."""
        state, kept = self._state, self._kept
        if len(kept) > len(state.endpoints):
            for name in kept.keys() - state.endpoints.keys():
                del kept[name]
        loads, memories, rollouts = state.loads, state.memory, state.rollouts
        seen: dict[EndpointName, EndpointSeen] = {}
        for number, (name, wanted) in enumerate(state.endpoints.items()):
            if not number % PIECE:
                yield
            load = loads.get(name, AT_REST)
            known = kept.get(name)
            if known is not None and known[0] is wanted and load is AT_REST and name not in rollouts:
                picture = known[1]
                if self._holds(picture, memories[name]):
                    seen[name] = picture
                    continue
                del kept[name]
            picture = seen[name] = self._make(wanted, load)
            if load is AT_REST and rests(picture, now_s=now_s):
                picture = seen[name] = replace(picture, resting=True)
                kept[name] = wanted, picture
        return seen

    def _holds(self, picture: EndpointSeen, memory: EndpointMemory) -> bool:
        """Whether a picture of an unchanged endpoint with an unchanged load is still true."""
        state, endpoint = self._state, picture.endpoint
        return (
            picture.window is memory.window
            and picture.pace is memory.pace
            and picture.average is memory.average
            and picture.arrivals is memory.arrivals
            and picture.starts is memory.starts
            and picture.service_s == memory.service_s
            and picture.cold_start_s == memory.cold_start_s
            and picture.wake_times is memory.wake_times
            and picture.image_present is (endpoint.image.pin in state.images_present)
            and picture.spent is state.budgets_spent.get(endpoint.spec.name)
            and picture.window_open is state.windows_open.get(endpoint.spec.name, NO_WINDOW)
        )

    def _make(self, wanted: Endpoint, load: EndpointLoad) -> EndpointSeen:
        state = self._state
        memory, endpoint = state.recall(wanted.name), state.serving(wanted)
        return EndpointSeen(
            endpoint=endpoint,
            rollout=self._rollout_of(wanted, memory),
            window=memory.window,
            load=load.waiting + load.in_flight,
            waiting=load.waiting,
            oldest_wait_s=load.oldest_wait_s,
            average=memory.average,
            arrivals=memory.arrivals,
            service_s=memory.service_s,
            cold_start_s=memory.cold_start_s,
            wake_times=memory.wake_times,
            pace=memory.pace,
            starts=memory.starts,
            image_present=endpoint.image.pin in state.images_present,
            window_open=state.windows_open.get(endpoint.name, NO_WINDOW),
            spent=state.budgets_spent.get(endpoint.name),
        )

    def _rollout_of(self, endpoint: Endpoint, memory: EndpointMemory) -> RolloutSeen | None:
        rollout = self._state.rollouts.get(endpoint.name)
        if rollout is None:
            return None
        return RolloutSeen(
            rollout=rollout,
            target=endpoint,
            image_present=endpoint.image.pin in self._state.images_present,
            old=memory.answers.get(rollout.base, Tally()),
            new=memory.answers.get(rollout.target, Tally()),
        )
