"""Images: list, bring to the box before anyone asks, remove; and running pulls."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from aiohttp import web

from gpud.api.operations import Operation, Scope
from gpud.api.parsing import body_of, query_of
from gpud.api.rendering import answer, page_of
from gpud.api.schemas.base import PageQuery
from gpud.api.schemas.fleet import PullPage, pull_document
from gpud.api.schemas.images import (
    ImageGcBody,
    ImageGcDocument,
    ImagePage,
    PrewarmBody,
    PrewarmedDocument,
    image_document,
    image_gc_document,
)
from gpud.api.services import SERVICES
from gpud.errors import Conflict, ImagePullFailed, NotFound, RegistryDenied

if TYPE_CHECKING:
    from gpud.ports.control import FleetControl


async def list_images(request: web.Request) -> web.StreamResponse:
    """Images on the box and who runs them."""
    query = query_of(request, PageQuery)
    control = request.app[SERVICES].control
    images = sorted(await control.images(), key=lambda image: image.id)
    page, following = page_of(images, lambda image: image.id, query)
    users = _endpoints_by_pin(control)
    return answer(ImagePage(items=tuple(image_document(image, users) for image in page), next=following))


async def prewarm_image(request: web.Request) -> web.StreamResponse:
    """Resolve an image now and pull it in the background."""
    body = await body_of(request, PrewarmBody)
    pin = await request.app[SERVICES].control.prewarm(body.image, body.registry)
    return answer(PrewarmedDocument(image=body.image, pin=pin), status=202)


async def collect_images(request: web.Request) -> web.StreamResponse:
    """Remove images that nobody needs, or say which would go."""
    body = await body_of(request, ImageGcBody)
    control = request.app[SERVICES].control
    collection = await control.collect_images(dry_run=body.dry_run, everything=body.everything)
    return answer(image_gc_document(collection, dry_run=body.dry_run))


async def remove_image(request: web.Request) -> web.StreamResponse:
    """Remove an image that no endpoint uses."""
    await request.app[SERVICES].control.remove_image(request.match_info["pin"])
    return web.Response(status=204)


async def list_pulls(request: web.Request) -> web.StreamResponse:
    """Running pulls with their progress."""
    pulls = request.app[SERVICES].control.pulls()
    return answer(PullPage(items=tuple(pull_document(pin, pulls[pin]) for pin in sorted(pulls)), next=None))


def _endpoints_by_pin(control: FleetControl) -> dict[str, tuple[str, ...]]:
    users: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for view in control.endpoints():
        users[view.endpoint.image.pin] += (view.endpoint.name,)
    return dict(users)


OPERATIONS_HERE = (
    Operation(
        name="list_images",
        method="GET",
        path="/v1/images",
        handler=list_images,
        scope=Scope.READ,
        summary="List images on the box",
        tag="images",
        query=PageQuery,
        answer=ImagePage,
    ),
    Operation(
        name="prewarm_image",
        method="POST",
        path="/v1/images/prewarm",
        handler=prewarm_image,
        scope=Scope.WRITE,
        summary="Pull an image in the background before anyone asks",
        tag="images",
        body=PrewarmBody,
        answer=PrewarmedDocument,
        statuses=((202, "Being pulled"),),
        problems=(NotFound, ImagePullFailed, RegistryDenied),
    ),
    Operation(
        name="collect_images",
        method="POST",
        path="/v1/images/gc",
        handler=collect_images,
        scope=Scope.WRITE,
        summary="Remove images that nobody needs until the disk budget holds",
        tag="images",
        body=ImageGcBody,
        answer=ImageGcDocument,
    ),
    Operation(
        name="remove_image",
        method="DELETE",
        path="/v1/images/{pin}",
        pattern="/v1/images/{pin:.*sha256.+}",  # A pin may hold slashes, and always a digest.
        handler=remove_image,
        scope=Scope.WRITE,
        summary="Remove an image that no endpoint uses",
        tag="images",
        statuses=((204, "Removed, or not there"),),
        problems=(Conflict, NotFound),
    ),
    Operation(
        name="list_pulls",
        method="GET",
        path="/v1/pulls",
        handler=list_pulls,
        scope=Scope.READ,
        summary="List running pulls",
        tag="images",
        answer=PullPage,
    ),
)
