"""What an operation of the API is: a route, the scope it asks for, and what goes in and comes out.

The same table makes the routes, the authorization and the OpenAPI document.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from aiohttp import web

from gpud.core import keys
from gpud.core.audit_log import Audited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pydantic import BaseModel

    from gpud.api.schemas.base import Document, Query
    from gpud.errors import GpudError

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Scope(StrEnum):
    """What a caller must be allowed to do; `OPEN` asks for no key, `ANY` for one, whatever it allows.

    `INVOKE` asks for the scope of the endpoint that the path names.
    """

    OPEN = "open"
    ANY = keys.ANY
    INVOKE = "invoke"
    READ = keys.READ
    WRITE = keys.WRITE
    METRICS = keys.METRICS
    EXEC = keys.EXEC
    ADMIN = keys.ADMIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Args:
        name: Its `operationId`: verb_noun.
        path: In OpenAPI's spelling.
        scope: What its caller must be allowed to do.
        summary: One line for people.
        tag: The heading it is listed under.
        query: Shape of its parameters behind the `?`.
        body: Shape of its JSON body; None reads none.
        answer: Shape of its JSON answer; None has no body, or one that is not JSON.
        statuses: Of its good answers, with what each means.
        problems: Errors of its own, beside those any operation may give.
        pattern: Path in aiohttp's spelling, where it differs.
        media_type: Of its answer.
        streams: Its answer may be server-sent events instead.
        repeats_itself: Its handler knows repeated requests by their Idempotency-Key.
        keeps_secret: Its answer holds a secret, so a replay is answered without it.
        key_may_follow: A WebSocket's key may come in its first message; the handler looks for it there.
        audited: Whether its calls are written to the audit log, if it mutates.
    """

    name: str
    method: str
    path: str
    handler: Handler
    scope: Scope
    summary: str
    tag: str
    query: type[Query] | None = None
    body: type[Document] | None = None
    answer: type[BaseModel] | None = None
    statuses: tuple[tuple[int, str], ...] = ((200, "Done"),)
    problems: tuple[type[GpudError], ...] = ()
    pattern: str = ""
    media_type: str = "application/json"
    streams: bool = False
    repeats_itself: bool = False
    keeps_secret: bool = False
    key_may_follow: bool = False
    audited: Audited = Audited.ALWAYS

    @property
    def mutates(self) -> bool:
        """Whether it changes something, and so takes an Idempotency-Key."""
        return self.method not in ("GET", "HEAD")


OPERATIONS = web.AppKey("OPERATIONS", dict[web.AbstractRoute, Operation])


def add_operations(app: web.Application, operations: Iterable[Operation]) -> None:
    """Route every operation, and remember which route is which."""
    app[OPERATIONS] = {
        app.router.add_route(one.method, one.pattern or one.path, one.handler): one for one in operations
    }


def operation_of(request: web.Request) -> Operation | None:
    """The operation a request asks for; None when its path or method has none."""
    return request.app[OPERATIONS].get(request.match_info.route)
