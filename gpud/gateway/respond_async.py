"""Which requests become jobs because their callers prefer that, and as what they go to the control API."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING
from urllib.parse import quote

from gpud.core.denied import denied
from gpud.core.preference import JOB_BYTES_MAX, PATH_CHARS_MAX, preference_of
from gpud.errors import GpudError
from gpud.gateway.credentials import token_of
from gpud.gateway.routing import AsJob, ToEndpoint

if TYPE_CHECKING:
    from gpud.core.routing import Route
    from gpud.gateway.heads import RequestHead
    from gpud.ports.traffic import KeyRing


def preferred(head: RequestHead, to: ToEndpoint) -> ToEndpoint | AsJob:
    """Where a request goes whose head has a field `Prefer`, and that named its endpoint by its path."""
    whole = head.method == "POST" and not head.websocket
    if whole and preference_of(head.prefer.decode("latin-1")).respond_async:
        return AsJob(to.name, to.target)
    return to


def becomes_job(head: RequestHead, route: Route, target: str, keys: KeyRing) -> bool:
    """Whether it can be one; if not it is passed on like any other, as RFC 7240 has it.

    A caller without a key of gpud's has no jobs (at a public endpoint it may be one that the workers
    know), workers that fetch jobs take no requests, and a path that is denied is refused in the usual way.
    """
    if route.jobs_only or (route.public and not _may_invoke(keys, head.token, route)):
        return False
    if len(target) > PATH_CHARS_MAX or (head.length is not None and head.length > JOB_BYTES_MAX):
        return False
    return not (route.denied_paths and denied(route.denied_paths, target))


def _may_invoke(keys: KeyRing, token: str | None, route: Route) -> bool:
    try:
        keys.authorize(token, f"invoke:{route.endpoint}")
    except GpudError:
        return False
    return True


def head_of_job(head: RequestHead) -> RequestHead:
    """The head with its key as the control API reads one, which knows no `X-API-Key`."""
    if head.token is None or token_of(head.authorization, None) == head.token:
        return head
    shown = copy(head)
    shown.credentials = (f"Authorization: Bearer {head.token}\r\n".encode("latin-1"),)
    return shown


def job_target(to: AsJob) -> str:
    """The control API's path that makes a job of a request."""
    return f"/v1/endpoints/{quote(to.name)}/jobs?path={quote(to.target, safe='/')}"
