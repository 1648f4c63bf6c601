"""The state of the box: once, or as it changes.

Who follows is told the whole state, then what changed. All who follow share one look at the fleet, twice a
second at most, and nobody looks while nobody follows. No changes queue up for a slow reader: it holds the
picture that it was told last, and what it gets next leads from there to the newest one.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web

from gpud.api.following import NOTHING_NEW, QUIET_S_MAX, Followers, begun_stream, ended_early, rest
from gpud.api.identity import caller_of
from gpud.api.operations import Operation, Scope
from gpud.api.parsing import query_of
from gpud.api.schemas.base import timestamp, timestamp_text
from gpud.api.schemas.fleet import gpu_document, pull_document, worker_document
from gpud.api.schemas.standby import standby_document
from gpud.api.schemas.state import StateDocument, StateQuery, daemon_state, endpoint_state
from gpud.api.services import SERVICES
from gpud.core.state_changes import changes_between

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.api.schemas.base import Document
    from gpud.api.services import Services
    from gpud.core.state_changes import Picture

LOOK_PERIOD_S = 0.5
_WRITTEN_AT_ONCE = 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The state at one moment.

    Args:
        at: RFC 3339.
        number: Later ones have larger numbers; one that shows the same keeps the number.
        picture: Every thing's JSON text by kind and id.
    """

    at: str
    number: int
    picture: Picture


class StateFeed:
    """Looks at the fleet for all who ask, and tells each where it stands."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._lock = asyncio.Lock()
        self._seen: Seen | None = None
        self._looked_s = 0.0
        self._known: dict[str, tuple[object, str]] = {}
        self._told: dict[int, bytes] = {}
        self.looks = 0

    async def now(self) -> Seen:
        """The state, seen just now or for another caller within the period."""
        clock = self.services.clock
        async with self._lock:
            last, now_s = self._seen, clock.now_s()
            if last is not None and now_s - self._looked_s < LOOK_PERIOD_S / 2:
                return last
            picture = await self.look()
            self.looks += 1
            number = 1 if last is None else last.number + (picture != last.picture)
            if last is None or number != last.number:
                self._told.clear()
            at = timestamp_text(timestamp(clock.at_ms()))
            self._seen, self._looked_s = Seen(at=at, number=number, picture=picture), now_s
            return self._seen

    def change(self, before: Seen, after: Seen) -> bytes:
        """The event that leads from one to the other; most who follow ask for the same one."""
        if self._seen is None or after.number != self._seen.number:
            return _event("change", after, _change(before, after))
        if before.number not in self._told:
            self._told[before.number] = _event("change", after, _change(before, after))
        return self._told[before.number]

    async def look(self) -> Picture:
        """Look now, whatever was seen before."""
        control, readings = self.services.control, self.services.readings.gpu_readings()
        views, gpus = control.endpoints(), await control.gpus()
        texts = _Texts(self._known)
        endpoints: dict[str, str] = {
            v.endpoint.name: await texts.of(v.endpoint.name, v, endpoint_state) for v in views
        }
        workers: dict[str, str] = {
            w.id: await texts.of(w.id, w, worker_document) for w in control.live_workers()
        }
        standbys: dict[str, str] = {
            s.id: await texts.of(f"standby {s.id}", s, standby_document) for v in views for s in v.standbys
        }
        self._known = texts.kept
        return {
            "daemon": {"": daemon_state(control.health()).model_dump_json()},
            "endpoints": endpoints,
            "workers": workers,
            "standbys": standbys,
            "gpus": {
                view.status.gpu.uuid: gpu_document(view, readings.get(view.status.gpu.uuid)).model_dump_json()
                for view in gpus
            },
            "pulls": {
                pin: pull_document(pin, far).model_dump_json() for pin, far in sorted(control.pulls().items())
            },
        }


class _Texts:
    """Texts of things, written anew only for those that changed since the look before."""

    def __init__(self, known: dict[str, tuple[object, str]]) -> None:
        self._known = known
        self.kept: dict[str, tuple[object, str]] = {}
        self._written = 0

    async def of(self, name: str, thing: T, show: Callable[[T], Document]) -> str:
        held = self._known.get(name)
        if held is None or held[0] != thing:
            held = (thing, show(thing).model_dump_json())
            self._written += 1
            if self._written % _WRITTEN_AT_ONCE == 0:
                await asyncio.sleep(0)  # Requests do not wait until all is written.
        self.kept[name] = held
        return held[1]


VIEWERS = web.AppKey("VIEWERS", Followers)
FEED = web.AppKey("FEED", StateFeed)


async def show_state(request: web.Request) -> web.StreamResponse:
    """The state as one document, or as server-sent events."""
    feed = request.app[FEED]
    if query_of(request, StateQuery).follow:
        return await _follow(request, feed)
    return web.Response(body=_snapshot(await feed.now()), content_type="application/json")


async def _follow(request: web.Request, feed: StateFeed) -> web.StreamResponse:
    with request.app[VIEWERS].place():
        seen = await feed.now()  # Before the head, which could not take back that all is well.
        response = await begun_stream(request)
        with ended_early(request):
            await response.write(_event("snapshot", seen, _snapshot(seen)))
            await _tell(request, response, feed, seen)
        return response


async def _tell(request: web.Request, response: web.StreamResponse, feed: StateFeed, told: Seen) -> None:
    """Write what changed as it is seen, as fast as the client takes it, until it goes or the daemon stops."""
    services, quiet_s = request.app[SERVICES], 0.0
    while True:
        await rest(services.stopping, LOOK_PERIOD_S)
        if services.stopping.is_set() or request.transport is None:
            return
        caller_of(request, Scope.READ)  # Whose key was disabled or has expired is told no more.
        seen = await feed.now()
        quiet_s += LOOK_PERIOD_S
        if seen.number != told.number:
            await response.write(feed.change(told, seen))
            told, quiet_s = seen, 0.0
        elif quiet_s >= QUIET_S_MAX:
            await response.write(NOTHING_NEW)
            quiet_s = 0.0


def _snapshot(seen: Seen) -> bytes:
    kinds = "".join(f',"{kind}":[{",".join(things.values())}]' for kind, things in seen.picture.items())
    return f'{{"at":"{seen.at}"{kinds}}}'.encode()


def _change(before: Seen, after: Seen) -> bytes:
    changes = changes_between(before.picture, after.picture)
    upsert = ",".join(f'"{kind}":[{",".join(texts)}]' for kind, texts in changes.upsert.items())
    return f'{{"at":"{after.at}","upsert":{{{upsert}}},"remove":{json.dumps(changes.remove)}}}'.encode()


def _event(kind: str, seen: Seen, data: bytes) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (seen.number, kind.encode(), data)


OPERATIONS_HERE = (
    Operation(
        name="show_state",
        method="GET",
        path="/v1/state",
        handler=show_state,
        scope=Scope.READ,
        summary="Show endpoints, workers and GPUs in one, or follow how they change",
        tag="system",
        query=StateQuery,
        answer=StateDocument,
        streams=True,
    ),
)
