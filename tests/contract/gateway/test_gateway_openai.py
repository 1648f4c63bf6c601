"""OpenAI's own client for Python, unmodified, against the gateway."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import openai
import pytest
from aiohttp import web

from tests.contract.gateway.rig import DEADLINE_S, TOKEN, Rig, ScriptedWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openai.types.chat import ChatCompletionMessageParam

_WORDS = ("one", " two", " three")
_SAY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "count"}]


def _chunk(word: str) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
    document = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "llm",
        "choices": [choice],
    }
    return b"data: " + json.dumps(document).encode() + b"\n\n"


class _Model:
    """A server of OpenAI's API that counts to three, or for ever."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "".join(_WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            document = {
                "id": "c1",
                "object": "chat.completion",
                "created": 1,
                "model": asked["model"],
                "choices": [choice],
            }
            return web.json_response(document)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for word in _WORDS:
                await response.write(_chunk(word))
            while asked.get("user") == "endless":
                await response.write(_chunk(" more"))
                await asyncio.sleep(0.01)
        except (ConnectionResetError, asyncio.CancelledError):
            self.gone.set()
            raise
        await response.write(b"data: [DONE]\n\n")
        return response

    async def embeddings(self, request: web.Request) -> web.Response:
        asked = await request.json()
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        document = {"object": "list", "model": asked["model"], "data": data, "usage": usage}
        return web.json_response(document)


@pytest.fixture
async def model() -> _Model:
    return _Model()


@pytest.fixture
async def worker(rig: Rig, model: _Model) -> AsyncIterator[ScriptedWorker]:
    """One that is not in the routing table yet."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", model.chat)
    app.router.add_post("/v1/embeddings", model.embeddings)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    worker = await rig.worker()
    own_port, worker.port = worker.port, int(runner.addresses[0][1])
    yield worker
    worker.port = own_port
    await runner.cleanup()


@pytest.fixture
async def client(rig: Rig) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"http://127.0.0.1:{rig.port}/openai/v1"
    async with openai.AsyncOpenAI(
        api_key=TOKEN, base_url=base_url, max_retries=0, timeout=DEADLINE_S
    ) as made:
        yield made


async def test_answers_and_streams_reach_it_whole(
    rig: Rig, worker: ScriptedWorker, client: openai.AsyncOpenAI
) -> None:
    rig.publish(worker)
    answer = await client.chat.completions.create(model="llm", messages=_SAY)
    assert answer.choices[0].message.content == "one two three"
    stream = await client.chat.completions.create(model="llm", messages=_SAY, stream=True)
    assert [chunk.choices[0].delta.content async for chunk in stream] == list(_WORDS)
    vectors = await client.embeddings.create(model="llm", input="a fox", encoding_format="float")
    assert vectors.data[0].embedding == [0.5, -0.5]


async def test_a_stream_that_it_closes_is_cancelled_upstream(
    rig: Rig, worker: ScriptedWorker, model: _Model, client: openai.AsyncOpenAI
) -> None:
    rig.publish(worker)
    stream = await client.chat.completions.create(model="llm", messages=_SAY, stream=True, user="endless")
    async for _ in stream:
        break
    await stream.close()
    async with asyncio.timeout(DEADLINE_S):
        await model.gone.wait()
    await rig.until(lambda: rig.in_flight() == 0)


async def test_models_are_listed_and_nothing_wakes_for_it(rig: Rig, client: openai.AsyncOpenAI) -> None:
    rig.publish()
    listed = [each.id async for each in client.models.list()]
    assert listed == ["llm"]
    assert rig.waiting() == 0


async def test_a_request_waits_for_a_sleeping_model(
    rig: Rig, worker: ScriptedWorker, client: openai.AsyncOpenAI
) -> None:
    rig.publish()
    held = asyncio.create_task(client.chat.completions.create(model="llm", messages=_SAY))
    await rig.until(lambda: rig.waiting() == 1)
    rig.publish(worker)
    assert (await held).choices[0].message.content == "one two three"


async def test_its_exceptions_say_what_gpud_says(rig: Rig, client: openai.AsyncOpenAI) -> None:
    rig.publish()
    with pytest.raises(openai.NotFoundError, match="nothing-of-the-kind"):
        await client.chat.completions.create(model="nothing-of-the-kind", messages=_SAY)
    stranger = client.with_options(api_key="gpud_wrong")
    with pytest.raises(openai.AuthenticationError):
        await stranger.chat.completions.create(model="llm", messages=_SAY)
    rig.publish(max_queue=0)
    with pytest.raises(openai.RateLimitError) as full:
        await client.chat.completions.create(model="llm", messages=_SAY)
    assert float(full.value.response.headers["Retry-After"]) >= 1
