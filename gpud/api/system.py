"""The daemon itself: whether it lives and is ready, its settings, its documents."""

from __future__ import annotations

from aiohttp import web

from gpud.api.identity import may_read
from gpud.api.operations import Operation, Scope
from gpud.api.pages import page_headers, problem_page, problem_text
from gpud.api.rendering import answer
from gpud.api.schemas.access import LiveDocument, ReadyDocument, SystemDocument, system_document
from gpud.api.schemas.problem import OpenApiDocument
from gpud.api.self_description import SelfDescription
from gpud.api.services import SERVICES
from gpud.errors import NotFound
from gpud.settings import Settings

SELF_DESCRIPTION: web.AppKey[SelfDescription] = web.AppKey("SELF_DESCRIPTION", SelfDescription)


async def show_live(_request: web.Request) -> web.StreamResponse:
    """Whether the process answers at all."""
    return answer(LiveDocument(status="ok"))


async def show_ready(request: web.Request) -> web.StreamResponse:
    """Whether the daemon serves and can start workers; only readers are told what is wrong."""
    health = request.app[SERVICES].control.health()
    tell = may_read(request)
    parts = {part: (fault if tell else "failing") if fault else "ok" for part, fault in health.parts.items()}
    return answer(ReadyDocument(ready=health.ready, parts=parts), status=200 if health.ready else 503)


async def show_system(request: web.Request) -> web.StreamResponse:
    """The daemon's version, GPU source, age and parts."""
    services = request.app[SERVICES]
    checkpoints = await services.checkpoints()
    return answer(system_document(services.control.health(), services.gateway(), checkpoints))


async def show_settings(request: web.Request) -> web.StreamResponse:
    """The settings in force; there are no secrets among them."""
    return web.Response(
        body=request.app[SERVICES].settings.model_dump_json().encode(), content_type="application/json"
    )


async def show_openapi(request: web.Request) -> web.StreamResponse:
    """The OpenAPI document."""
    return web.Response(body=await request.app[SELF_DESCRIPTION].document(), content_type="application/json")


async def show_docs(request: web.Request) -> web.StreamResponse:
    """The API's reference as a page that loads nothing from anywhere."""
    page = await request.app[SELF_DESCRIPTION].page()
    return web.Response(text=page, content_type="text/html", headers=page_headers())


async def show_problem(request: web.Request) -> web.StreamResponse:
    """What a problem means and what to do: a page for browsers, plain text for others."""
    slug = request.match_info["slug"]
    if "text/html" in request.headers.get("Accept", ""):
        return web.Response(text=problem_page(slug), content_type="text/html", headers=page_headers())
    return web.Response(text=problem_text(slug), content_type="text/plain")


OPERATIONS_HERE = (
    Operation(
        name="show_system",
        method="GET",
        path="/v1/system",
        handler=show_system,
        scope=Scope.READ,
        summary="Show the daemon: version, GPU source, age, parts",
        tag="system",
        answer=SystemDocument,
    ),
    Operation(
        name="show_settings",
        method="GET",
        path="/v1/settings",
        handler=show_settings,
        scope=Scope.ADMIN,
        summary="Show the settings in force",
        tag="system",
        answer=Settings,
    ),
    Operation(
        name="show_openapi",
        method="GET",
        path="/v1/openapi.json",
        handler=show_openapi,
        scope=Scope.OPEN,
        summary="The OpenAPI 3.1 document",
        tag="system",
        answer=OpenApiDocument,
    ),
    Operation(
        name="show_docs",
        method="GET",
        path="/docs",
        handler=show_docs,
        scope=Scope.OPEN,
        summary="This reference as a page",
        tag="system",
        media_type="text/html",
    ),
    Operation(
        name="show_problem",
        method="GET",
        path="/problems/{slug}",
        handler=show_problem,
        scope=Scope.OPEN,
        summary="What a problem means and what to do",
        tag="system",
        media_type="text/plain",
        problems=(NotFound,),
    ),
    Operation(
        name="show_live",
        method="GET",
        path="/livez",
        handler=show_live,
        scope=Scope.OPEN,
        summary="Whether the process answers",
        tag="system",
        answer=LiveDocument,
    ),
    Operation(
        name="show_ready",
        method="GET",
        path="/readyz",
        handler=show_ready,
        scope=Scope.OPEN,
        summary="Whether the daemon serves and can start workers",
        tag="system",
        answer=ReadyDocument,
        statuses=((200, "Ready"), (503, "Not ready; `parts` says what is missing")),
    ),
)
