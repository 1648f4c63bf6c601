"""What waits beside the workers: containers on a rung between nothing and a worker, which hold no GPU.

A standby has the id its worker will have. Claiming one makes a worker of that id, which begins with
its GPUs; whatever goes wrong with a standby, the answer is to destroy it and start cold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId


class StandbyMode(StrEnum):
    """What an endpoint asks to have kept."""

    NONE = "none"
    CREATED = "created"
    PARKED = "parked"


class Rung(StrEnum):
    """How far on the way to a worker that serves something is; standbys are on the first two."""

    CREATED = "created"
    PARKED = "parked"
    SLEEPING = "sleeping"
    PAUSED = "paused"


class StandbyState(StrEnum):
    """Where a standby is in its life; what it ends as is a worker, or nothing."""

    PREPARING = "preparing"
    READY = "ready"
    CLAIMED = "claimed"
    DISCARDING = "discarding"


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyPolicy:
    """What an endpoint has kept for a fast return. Applies at once, outside revisions.

    Args:
        mode: The rung that is aimed for; where it cannot be had, the one below.
        workers: How many, besides those that serve; never beyond `scale.max_workers` together.
    """

    mode: StandbyMode = StandbyMode.NONE
    workers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """One standby as the reconciler knows it.

    Args:
        id: Its container is `gpud-<id>`, and so is that of the worker it may become.
        gpu_uuids: The GPUs its container can reach, and the only ones its worker can have. They are not
            leased: nothing in the container uses them before it is claimed.
        address: Of the container, once it runs; empty before.
        since_s: Loop time of the last change of state.
        detail: For a person.
        ram_mib: What it is counted with against the budget.
    """

    id: WorkerId
    endpoint: EndpointName
    revision: Revision
    rung: Rung
    state: StandbyState
    since_s: float
    created_at_ms: int
    gpu_uuids: tuple[GpuUuid, ...] = ()
    address: str = ""
    detail: str = ""
    ram_mib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyBudget:
    """What all standbys of the box may take together.

    Args:
        workers: Containers.
        ram_mib: Host memory, as `cost_of` counts it.
        sleep_ram_mib: Host memory of sleeping workers, as their endpoints charge them.
        paused_vram_mib: GPU memory that paused workers hold; 0 for no limit.
    """

    workers: int = 64
    ram_mib: int = 8192
    sleep_ram_mib: int = 32_768
    paused_vram_mib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyFault:
    """Why an endpoint's revision could not be brought onto a rung.

    Args:
        again_s: Loop time of the next try.
        tries: Failures in a row.
    """

    revision: Revision
    detail: str
    again_s: float
    tries: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbySeen:
    """All the core needs to know about standbys.

    Args:
        standbys: All, by id.
        budget: From the settings.
        unavailable: Rungs this box cannot have, and why.
        faults: What failed lately, by endpoint and rung.
        closed: None is made any more: the daemon goes down and takes everything with it.
    """

    standbys: Mapping[WorkerId, Standby] = field(default_factory=dict)
    budget: StandbyBudget = field(default_factory=StandbyBudget)
    unavailable: Mapping[Rung, str] = field(default_factory=dict)
    faults: Mapping[tuple[EndpointName, Rung], StandbyFault] = field(default_factory=dict)
    closed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStandby:
    """Bring a container of the endpoint's present revision onto a rung."""

    endpoint: EndpointName
    rung: Rung
    gpu_uuids: tuple[GpuUuid, ...]
    ram_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimStandby:
    """Make a worker of a standby, at once with the GPUs its container reaches.

    Args:
        replaces: A worker that waited for GPUs and is not needed then; None without one.
    """

    standby_id: WorkerId
    replaces: WorkerId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DropStandby:
    """Destroy a standby."""

    standby_id: WorkerId
    why: str


class Pinned(Protocol):
    """A container that can have no other GPUs than those it was made for."""

    @property
    def id(self) -> WorkerId:
        """Of the worker that it is or becomes."""
        ...

    @property
    def gpu_uuids(self) -> tuple[GpuUuid, ...]:
        """Its GPUs."""
        ...


PinnedT = TypeVar("PinnedT", bound=Pinned)

StandbyChange = NewStandby | ClaimStandby | DropStandby

_BELOW: dict[Rung, Rung | None] = {Rung.PARKED: Rung.CREATED, Rung.CREATED: None}
"""What is made instead where a rung cannot be had."""

_ENGINE_RAM_MIB = 18
"""A running container without its application: the engine's own process for it, and the shim."""

_RETRY_S = (10.0, 60.0, 600.0)


def cost_of(rung: Rung) -> int:
    """Host memory in MiB that a standby is counted with."""
    return _ENGINE_RAM_MIB if rung is Rung.PARKED else 0


def rung_for(
    policy: StandbyPolicy, seen: StandbySeen, endpoint: EndpointName, revision: Revision, *, now_s: float
) -> Rung | None:
    """The highest rung an endpoint can have now, at most the one it asks for; None for none."""
    rung = {StandbyMode.CREATED: Rung.CREATED, StandbyMode.PARKED: Rung.PARKED}.get(policy.mode)
    while rung is not None and not can_have(rung, seen, endpoint, revision, now_s=now_s):
        rung = _BELOW[rung]
    return rung


def can_have(
    rung: Rung, seen: StandbySeen, endpoint: EndpointName, revision: Revision, *, now_s: float
) -> bool:
    """Whether this box has the rung, and nothing went wrong with it lately."""
    if rung in seen.unavailable:
        return False
    fault = seen.faults.get((endpoint, rung))
    return fault is None or fault.revision != revision or now_s >= fault.again_s


def after_fault(
    before: StandbyFault | None, revision: Revision, detail: str, *, now_s: float
) -> StandbyFault:
    """Note that a rung could not be reached; each further failure waits longer."""
    tries = before.tries + 1 if before is not None and before.revision == revision else 1
    again_s = now_s + _RETRY_S[min(tries, len(_RETRY_S)) - 1]
    return StandbyFault(revision=revision, detail=detail, again_s=again_s, tries=tries)


def claimable(
    standbys: Iterable[Standby],
    endpoint: EndpointName,
    revision: Revision,
    usual_s: Callable[[Rung], float],
) -> tuple[Standby, ...]:
    """Standbys that can become a worker of a revision, the one that is soonest back first.

    Args:
        standbys: All.
        endpoint: Whose.
        revision: Of the worker.
        usual_s: What coming back from a rung takes.
    """
    able = [
        s
        for s in standbys
        if s.state is StandbyState.READY and s.endpoint == endpoint and s.revision == revision
    ]
    return tuple(sorted(able, key=lambda s: (usual_s(s.rung), s.created_at_ms, s.id)))


def to_claim(
    able: Sequence[PinnedT], granted: Collection[GpuUuid], *, free: Collection[GpuUuid]
) -> PinnedT | None:
    """Choose among those that are able: one made for the GPUs granted, else one whose own are free too.

    Args:
        able: The one to be preferred first.
        granted: GPUs the new worker may have.
        free: Healthy GPUs that nobody holds or was promised.
    """
    for standby in able:
        if set(standby.gpu_uuids) == set(granted):
            return standby
    return next((standby for standby in able if set(free).issuperset(standby.gpu_uuids)), None)
