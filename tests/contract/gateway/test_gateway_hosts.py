"""Endpoints by host name: `<endpoint>.<domain>` goes to the endpoint, whatever the path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpud.settings import ServerSettings
from tests.contract.gateway.rig import TOKEN, Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.contract.gateway.rig import Reply


@pytest.fixture
async def named() -> AsyncIterator[Rig]:
    rig = await Rig(ServerSettings(domain="gpu.example.org")).start()
    rig.publish(await rig.worker())
    yield rig
    await rig.stop()


async def _ask(rig: Rig, host: str, target: str) -> Reply:
    client = await rig.client()
    client.writer.write(
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    )
    return await client.reply()


@pytest.mark.parametrize(
    "host",
    ["llm.gpu.example.org", "LLM.GPU.example.org", "llm.gpu.example.org:8700", "llm.gpu.example.org."],
)
@pytest.mark.parametrize("target", ["/", "/v1/models?x=1", "/e/other/a", "/openai/v1/models"])
async def test_the_whole_host_is_the_endpoints(named: Rig, host: str, target: str) -> None:
    reply = await _ask(named, host, target)
    assert (reply.status, reply.body.split(b" ")[1:]) == (200, [b"GET", target.encode()])


async def test_an_absolute_target_names_the_host_too(named: Rig) -> None:
    reply = await _ask(named, "elsewhere", "http://llm.gpu.example.org/a?b")
    assert reply.body.endswith(b"GET /a?b")


@pytest.mark.parametrize("host", ["nobody.gpu.example.org", "a.b.gpu.example.org", "..gpu.example.org"])
async def test_a_name_without_an_endpoint_is_not_found(named: Rig, host: str) -> None:
    assert (await _ask(named, host, "/")).status == 404


@pytest.mark.parametrize(
    "host", ["gpu.example.org", "localhost", "llm.gpu.example.org.evil", "llm.example.org"]
)
async def test_other_hosts_are_read_by_path(named: Rig, host: str) -> None:
    assert (await _ask(named, host, "/e/llm/a")).body.endswith(b"GET /a")
    assert (await _ask(named, host, "/v1/echo")).status == 200


async def test_a_key_is_asked_for_on_hosts_as_on_paths(named: Rig) -> None:
    client = await named.client()
    client.writer.write(b"GET / HTTP/1.1\r\nHost: llm.gpu.example.org\r\n\r\n")
    assert (await client.reply()).status == 401


async def test_without_a_domain_no_host_is_an_endpoints(rig: Rig) -> None:
    rig.publish(await rig.worker())
    assert (await _ask(rig, "llm.gpu.example.org", "/v1/echo")).status == 200
