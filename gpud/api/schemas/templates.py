"""Specs of common servers as the API shows them."""

from __future__ import annotations

from typing import Any

from gpud.api.schemas.base import Document


class TemplateDocument(Document):
    """The spec of a common server: where a deploy can start from."""

    name: str
    image: str
    about: str
    """What it is for."""
    spec: dict[str, Any]
    """What it sets, in the shape of `EndpointSpec`; the rest takes its default."""
    text: str
    """The same as TOML, with comments, for `gpud apply -f`."""


class TemplateList(Document):
    """Templates by name."""

    items: tuple[TemplateDocument, ...]
    next: str | None
    """Always null: all are on one page."""
