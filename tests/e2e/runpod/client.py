"""RunPod's own client, sync and asyncio, against RUNPOD_ENDPOINT_BASE_URL; tells what it got."""

import asyncio
import json
import sys

import aiohttp
import runpod
from runpod import AsyncioEndpoint

runpod.api_key = sys.argv[1]
endpoint = runpod.Endpoint("plain")
told = {}

told["run_sync"] = endpoint.run_sync({"input": {"a": "fox"}}, timeout=60)
job = endpoint.run({"input": {"b": 1}})
told["output"] = job.output(timeout=60)
told["status"] = job.status()
failing = endpoint.run({"input": {"raise": "no"}})
failing.output(timeout=60)
told["failed"] = failing.status()
told["health"] = endpoint.health()
streaming = runpod.Endpoint("stream").run({"input": {"count": 3}})
told["stream"] = list(streaming.stream())
cancelled = runpod.Endpoint("stream").run({"input": {"count": 1, "sleep_s": 60}})
next(cancelled.stream())  # begun: a stop that comes before is dropped by the worker's SDK
told["cancel"] = cancelled.cancel()


async def with_asyncio():
    async with aiohttp.ClientSession() as session:
        job = await AsyncioEndpoint("plain", session).run({"c": 2})
        told["async_output"] = await job.output(timeout=60)
        told["async_status"] = await job.status()


asyncio.run(with_asyncio())
print(json.dumps(told))
