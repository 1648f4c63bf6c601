"""The shapes of documents that other standards define: problems (RFC 9457) and OpenAPI."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ProblemDocument(BaseModel):
    """What went wrong, why, and what to do. Some problems have further members."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    type: str
    """Path of the page that explains the problem; stable."""
    title: str
    status: int
    detail: str
    """What happened, why, and what to do."""
    instance: str = ""
    """Id of the request, which the daemon's log names too."""
    fields: dict[str, str] = {}
    """Faults by field path."""
    retry_after_s: float | None = None
    """Seconds after which trying again makes sense."""


class OpenApiDocument(BaseModel):
    """An OpenAPI 3.1 document."""

    model_config = ConfigDict(extra="allow", frozen=True)

    openapi: str
