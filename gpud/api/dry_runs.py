"""Would it fit? What a deploy would do, without doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.operations import Operation, Scope
from gpud.api.parsing import body_of
from gpud.api.rendering import answer
from gpud.api.schemas.dry_run import DryRunDocument, dry_run_document
from gpud.api.schemas.spec import EndpointSpecDocument
from gpud.api.services import SERVICES
from gpud.core.audit_log import Audited
from gpud.errors import Conflict, ImagePullFailed, InvalidSpec, NotFound, RegistryDenied

if TYPE_CHECKING:
    from aiohttp import web


async def make_dry_run(request: web.Request) -> web.StreamResponse:
    """Say what deploying a spec would do; nothing is written or pulled."""
    document = await body_of(request, EndpointSpecDocument, error=InvalidSpec)
    return answer(dry_run_document(await request.app[SERVICES].control.forecast(document.to_spec())))


OPERATIONS_HERE = (
    Operation(
        name="make_dry_run",
        method="POST",
        path="/v1/dry-runs",
        handler=make_dry_run,
        scope=Scope.WRITE,
        audited=Audited.NEVER,
        summary="Say what deploying a spec would do, without doing it",
        tag="endpoints",
        body=EndpointSpecDocument,
        answer=DryRunDocument,
        problems=(Conflict, NotFound, InvalidSpec, ImagePullFailed, RegistryDenied),
    ),
)
