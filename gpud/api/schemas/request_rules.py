"""The part of an endpoint's spec that is about single requests, as JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gpud.api.schemas.base import Document
from gpud.core.request_rules import PATHS_MAX, RequestRules

_RULES = RequestRules()
_Path = Annotated[str, Field(min_length=1, max_length=2000)]
_Method = Literal["HEAD", "OPTIONS", "GET"]


class RequestsSection(Document):
    """How single requests are treated. A change applies at once."""

    denied_paths: Annotated[tuple[_Path, ...], Field(max_length=PATHS_MAX)] = _RULES.denied_paths
    """Paths of the worker that are refused with 403 however they are written, such as `/admin/*`; a `*` at
    the end means all that begin so."""
    quiet_methods: Annotated[tuple[_Method, ...], Field(max_length=3)] = ("HEAD", "OPTIONS")
    """Requests with one of these methods start no worker and keep none: while none is ready they get 503. A
    browser's preflight and a request with `X-Gpud-Wake: true` are treated as any other."""
    quiet_paths: Annotated[tuple[_Path, ...], Field(max_length=PATHS_MAX)] = _RULES.quiet_paths
    """A GET of one of these, or of `health.path` where that is not `/`, likewise."""
    progress: bool = _RULES.progress
    """A request for a stream of events that waits for a worker is sent comments that tell how the start
    goes."""


def requests_section(rules: RequestRules) -> RequestsSection:
    """Show the rules as JSON does."""
    return RequestsSection.model_construct(
        **{name: getattr(rules, name) for name in RequestsSection.model_fields}
    )
