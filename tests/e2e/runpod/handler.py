"""Handlers as people write them for RunPod; the first argument says which one this worker runs."""

import asyncio
import sys
import time
from pathlib import Path

import runpod


def is_shut(given):
    if "gate" not in given:
        return False
    Path("/gate", f"{given['gate']}-{sys.argv[1]}.begun").touch()
    return not Path("/gate", given["gate"]).exists()


def plain(job):
    given = job["input"]
    if not isinstance(given, dict):
        return given
    if "progress" in given:
        for value in given["progress"]:
            runpod.serverless.progress_update(job, value)
            time.sleep(0.3)
    while is_shut(given):
        time.sleep(0.05)
    if "raise" in given:
        raise ValueError(given["raise"])
    if "error" in given:
        return {"error": given["error"], "partial": True}
    if "refresh" in given:
        return {"refresh_worker": True, "fresh": given["refresh"]}
    if "unserialisable" in given:
        return {"no": {1, 2}}
    return {"given": given, "keys": sorted(job), "version": runpod.__version__}


async def stream(job):
    given = job["input"]
    if "openai_route" in given:
        asked = given.get("openai_input") or {}
        if asked.get("fail"):
            yield {"error": "the model returned HTTP 422: too long"}
        elif asked.get("stream"):
            yield 'data: {"delta":"a fox"}\n\ndata: {"del'
            yield 'ta":"jumps"}\n\n'
            yield "data: [DONE]\n\n"
        else:
            yield {"object": "chat.completion", "route": given["openai_route"]}
        return
    for n in range(given.get("count", 3)):
        yield {"n": n}
        await asyncio.sleep(given.get("pause_s", 0))
    await asyncio.sleep(given.get("sleep_s", 0))
    while is_shut(given):
        await asyncio.sleep(0.05)


def generate(job):
    for n in range(job["input"].get("count", 1)):
        yield {"n": n, "version": runpod.__version__}


async def answer(job):
    await asyncio.sleep(0.01)
    return {"given": job["input"], "version": runpod.__version__}


HANDLERS = {
    "plain": {"handler": plain},
    "answer": {"handler": answer},
    "generate": {"handler": generate, "return_aggregate_stream": True},
    "stream": {
        "handler": stream,
        "return_aggregate_stream": True,
        "concurrency_modifier": lambda _now: 4,
    },
}
runpod.serverless.start(HANDLERS[sys.argv[1]])
