"""A streaming proxy as aiohttp allows it at its best: no access log, no limits, nothing decoded."""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web


async def _serve(port: int, upstream: int) -> None:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    )

    async def forward(request: web.BaseRequest) -> web.StreamResponse:
        url = f"http://127.0.0.1:{upstream}{request.raw_path}"
        headers = request.headers.copy()
        headers.pop("Host", None)
        body = request.content if request.body_exists else None
        async with session.request(request.method, url, headers=headers, data=body) as answer:
            out = answer.headers.copy()
            out.pop("Transfer-Encoding", None)
            response = web.StreamResponse(status=answer.status, headers=out)
            await response.prepare(request)
            async for data in answer.content.iter_any():
                await response.write(data)
            await response.write_eof()
            return response

    await asyncio.get_running_loop().create_server(
        web.Server(forward, access_log=None), "127.0.0.1", port, backlog=4096
    )
    await asyncio.Event().wait()


uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
