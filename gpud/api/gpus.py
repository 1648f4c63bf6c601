"""GPUs: list, take out of use, bring back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.operations import Operation, Scope
from gpud.api.rendering import answer
from gpud.api.schemas.fleet import GpuDocument, GpuPage, gpu_document
from gpud.api.services import SERVICES
from gpud.core.ids import GpuUuid
from gpud.errors import NotFound

if TYPE_CHECKING:
    from aiohttp import web


async def list_gpus(request: web.Request) -> web.StreamResponse:
    """Every GPU with its holder."""
    services = request.app[SERVICES]
    readings = services.readings.gpu_readings()
    items = tuple(
        gpu_document(view, readings.get(view.status.gpu.uuid)) for view in await services.control.gpus()
    )
    return answer(GpuPage(items=items, next=None))


async def cordon_gpu(request: web.Request) -> web.StreamResponse:
    """Lease a GPU to no further worker; the one that holds it is drained."""
    return await _set_cordon(request, cordoned=True)


async def uncordon_gpu(request: web.Request) -> web.StreamResponse:
    """Bring a GPU back into use, whatever took it out."""
    return await _set_cordon(request, cordoned=False)


async def _set_cordon(request: web.Request, *, cordoned: bool) -> web.StreamResponse:
    services, uuid = request.app[SERVICES], GpuUuid(request.match_info["uuid"])
    await services.control.set_cordon(uuid, cordoned=cordoned)
    for view in await services.control.gpus():
        if view.status.gpu.uuid == uuid:
            return answer(gpu_document(view, services.readings.gpu_readings().get(uuid)))
    raise NotFound(f"The GPU {uuid} is no longer on this box. GET /v1/gpus lists those that are.")


OPERATIONS_HERE = (
    Operation(
        name="list_gpus",
        method="GET",
        path="/v1/gpus",
        handler=list_gpus,
        scope=Scope.READ,
        summary="List GPUs with their holders",
        tag="gpus",
        answer=GpuPage,
    ),
    Operation(
        name="cordon_gpu",
        method="POST",
        path="/v1/gpus/{uuid}/cordon",
        handler=cordon_gpu,
        scope=Scope.WRITE,
        summary="Take a GPU out of use",
        tag="gpus",
        answer=GpuDocument,
        problems=(NotFound,),
    ),
    Operation(
        name="uncordon_gpu",
        method="POST",
        path="/v1/gpus/{uuid}/uncordon",
        handler=uncordon_gpu,
        scope=Scope.WRITE,
        summary="Bring a GPU back into use, whatever took it out",
        tag="gpus",
        answer=GpuDocument,
        problems=(NotFound,),
    ),
)
