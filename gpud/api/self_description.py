"""The API as it describes itself: as an OpenAPI document and as a page, written when first asked for."""

from __future__ import annotations

import asyncio
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gpud.api.openapi import openapi_document
from gpud.api.pages import docs_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.api.operations import Operation


class SelfDescription:
    """Both forms are kept once written. Writing takes a fifth of a second, which no start has to spare.

    Args:
        operations: All that the API does.
        version: gpud's.
    """

    def __init__(self, operations: Sequence[Operation], *, version: str) -> None:
        self._operations = operations
        self._version = version

    async def document(self) -> bytes:
        """The OpenAPI document as JSON; written in a thread, for the event loop has others to serve."""
        return await asyncio.to_thread(lambda: self._json)

    async def page(self) -> str:
        """The reference as HTML that loads nothing from anywhere."""
        return await asyncio.to_thread(lambda: self._html)

    @cached_property
    def _document(self) -> dict[str, Any]:
        return openapi_document(self._operations, version=self._version)

    @cached_property
    def _json(self) -> bytes:
        return json.dumps(self._document).encode()

    @cached_property
    def _html(self) -> str:
        return docs_page(self._document)
