"""gpud's gateway with everything on: keys, routing, counting, holding; one endpoint with one worker.

Prints the token of a key once it listens.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import TYPE_CHECKING, cast

import uvloop
from aiohttp import web

from gpud.adapters.system import SystemClock, SystemIds
from gpud.api.auth import ApiKeyRing
from gpud.core.ids import EndpointName, WorkerId
from gpud.core.routing import Route, RouteWorker, RoutingTable
from gpud.gateway.dispatch import Dispatcher
from gpud.gateway.server import Gateway
from gpud.gateway.tuning import tune_process
from gpud.settings import ServerSettings

if TYPE_CHECKING:
    from gpud.ports.store import AccessStore, ApiKey


class _Forgetful:
    """Stores nothing: the key ring keeps its keys in memory."""

    async def add_key(self, key: ApiKey) -> None:
        """Take it."""


async def start_gateway(port: int, upstream: int) -> str:
    """Serve one endpoint, whose one worker is `upstream`; returns the token of a key for it."""
    clock, ids = SystemClock(), SystemIds()
    keys = ApiKeyRing(cast("AccessStore", _Forgetful()), clock, ids)
    _, token = await keys.create(label="bench", scopes=["invoke:llm"])
    dispatcher = Dispatcher(clock)
    name = EndpointName("llm")
    worker = RouteWorker(worker_id=WorkerId("wk_" + "a" * 16), address="127.0.0.1", port=upstream)
    route = Route(
        endpoint=name,
        concurrency=10_000,
        max_queue=10_000,
        hold_timeout_s=60,
        request_timeout_s=600,
        workers=(worker,),
    )
    dispatcher.publish(RoutingTable({name: route}))
    runner = web.AppRunner(web.Application())
    await runner.setup()
    gateway = Gateway(
        dispatcher=dispatcher,
        settings=ServerSettings(),
        keys=keys,
        control=cast("web.Server", runner.server),
        clock=clock,
        ids=ids,
    )
    await gateway.start([socket.create_server(("127.0.0.1", port), backlog=4096)])
    return token


async def _serve(port: int, upstream: int) -> None:
    token = await start_gateway(port, upstream)
    tune_process()
    print(token, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if os.environ.get("BENCH_LOOP") == "asyncio":
        asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
    else:
        uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
