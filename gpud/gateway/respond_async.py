"""Which requests become jobs because their callers prefer that, and as what they go to the control API."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from gpud.core.denied import denied
from gpud.core.preference import JOB_BYTES_MAX, PATH_CHARS_MAX, preference_of
from gpud.gateway.routing import AsJob, ToEndpoint

if TYPE_CHECKING:
    from gpud.core.routing import Route
    from gpud.gateway.heads import RequestHead


def preferred(head: RequestHead, to: ToEndpoint) -> ToEndpoint | AsJob:
    """Where a request goes whose head has a field `Prefer`, and that named its endpoint by its path."""
    whole = head.method == "POST" and not head.websocket
    if whole and preference_of(head.prefer.decode("latin-1")).respond_async:
        return AsJob(to.name, to.target)
    return to


def becomes_job(head: RequestHead, route: Route, target: str) -> bool:
    """Whether it can be one; if not it is passed on like any other, as RFC 7240 has it.

    A caller without a key has no jobs, workers that fetch jobs take no requests, and a path that is
    denied is refused in the usual way.
    """
    if route.jobs_only or (route.public and head.token is None):
        return False
    if len(target) > PATH_CHARS_MAX or (head.length is not None and head.length > JOB_BYTES_MAX):
        return False
    return not (route.denied_paths and denied(route.denied_paths, target))


def job_target(to: AsJob) -> str:
    """The control API's path that makes a job of a request."""
    return f"/v1/endpoints/{quote(to.name)}/jobs?path={quote(to.target, safe='/')}"
