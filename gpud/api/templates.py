"""Templates: specs of common servers, which come with gpud; read once, when they are first asked for."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from gpud.api.operations import Operation, Scope
from gpud.api.rendering import answer
from gpud.api.schemas.templates import TemplateDocument, TemplateList

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = Path(__file__).resolve().parent.parent / "templates"


class Templates:
    """The specs of a folder.

    Args:
        folder: With a TOML file for each, whose first line says what it is for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: tuple[TemplateDocument, ...] | None = None

    async def all(self) -> tuple[TemplateDocument, ...]:
        """Every template, by name."""
        if self._found is None:
            self._found = await asyncio.to_thread(lambda: tuple(_read(sorted(self._folder.glob("*.toml")))))
        return self._found


def _read(paths: Iterable[Path]) -> Iterable[TemplateDocument]:
    for path in paths:
        text = path.read_text(encoding="utf-8")
        spec = tomllib.loads(text)
        about = text.partition("\n")[0].removeprefix("# ")
        yield TemplateDocument(name=path.stem, image=spec["image"], about=about, spec=spec, text=text)


TEMPLATES = web.AppKey("TEMPLATES", Templates)


async def list_templates(request: web.Request) -> web.StreamResponse:
    """Every template that came with gpud."""
    return answer(TemplateList(items=await request.app[TEMPLATES].all(), next=None))


OPERATIONS_HERE = (
    Operation(
        name="list_templates",
        method="GET",
        path="/v1/templates",
        handler=list_templates,
        scope=Scope.READ,
        summary="List the specs of common servers that come with gpud",
        tag="endpoints",
        answer=TemplateList,
    ),
)
