"""What a page of others can have a browser send to this API: foreign hosts, foreign origins, simple posts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import WSServerHandshakeError

from gpud.core.endpoint import EndpointSpec
from gpud.core.ids import EndpointName
from gpud.settings import ServerSettings, Settings
from tests.contract.api_site import ApiSite, running_api, unix_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

EVIL = "rebound.evil.example:8700"
WORKER = "wk_aaaaaaaaaaaaaaaa"
EXEC = f"/v1/workers/{WORKER}/exec"
SPEC = {"name": "llm", "image": "a/b"}
OPEN_PATHS = ("/", "/docs", "/v1/openapi.json", "/problems/conflict", "/assets/x.js")


@pytest.fixture
async def site() -> AsyncIterator[ApiSite]:
    settings = Settings(server=ServerSettings(hosts=("gpu.example.org",), domain="ep.example.org"))
    async with running_api(settings) as site:
        await site.control.deploy(EndpointSpec(name=EndpointName("busy"), image="a/b"))
        site.control.add_worker(WORKER, "busy", address="172.30.0.2")
        yield site


async def status(site: ApiSite, path: str, host: str, **headers: str) -> int:
    async with site.client.get(path, headers={"Host": host, **headers}) as response:
        await response.read()
        return response.status


async def test_a_name_that_leads_here_shows_neither_dashboard_nor_api(site: ApiSite) -> None:
    for host in (EVIL, "127.0.0.1.evil.example", "x.gpu.example.org", "localhost.evil.example", "2130706433"):
        for path in (*OPEN_PATHS, "/v1/endpoints"):
            assert await status(site, path, host) == 421, (host, path)
    async with site.client.get("/", headers={"Host": EVIL}) as response:
        problem = await response.json(content_type="application/problem+json")
    assert problem["type"] == "/problems/unknown-host"
    assert "server.hosts" in problem["detail"]
    assert "Access-Control-Allow-Origin" not in response.headers


async def test_addresses_and_names_that_were_set_are_answered(site: ApiSite) -> None:
    for host in ("127.0.0.1:8700", "[::1]", "localhost:8700", "gpu.example.org", "GPU.example.org:443"):
        assert await status(site, "/docs", host) == 200, host
        assert await status(site, "/v1/endpoints", host) == 401, host
    assert await status(site, "/docs", "ep.example.org") == 200


async def test_whoever_sends_a_key_may_ask_by_any_name_and_monitors_need_none(site: ApiSite) -> None:
    for path in ("/v1/endpoints", "/v2/busy/health", "/metrics"):
        assert await status(site, path, EVIL, **site.admin) == 200, path
    assert await status(site, "/v1/endpoints", EVIL, Authorization="Bearer nonsense") == 401
    for path in ("/livez", "/readyz"):
        assert await status(site, path, EVIL) == 200


async def test_under_tls_of_our_own_the_browser_has_compared_the_name() -> None:
    settings = Settings(server=ServerSettings(tls_cert="/x/cert.pem", tls_key="/x/key.pem"))
    async with running_api(settings) as site:
        assert await status(site, "/docs", "gpu.of.ours") == 200


POSTS = (
    ("text/plain", json.dumps(SPEC)),
    ("text/plain;charset=UTF-8", json.dumps(SPEC)),
    ("application/x-www-form-urlencoded", "name=llm&image=a%2Fb"),
    (
        "multipart/form-data; boundary=x",
        '--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--',
    ),
)


async def test_what_a_page_can_post_without_asking_changes_nothing(site: ApiSite, tmp_path: Path) -> None:
    paths = ("/v1/endpoints", "/v1/keys", "/v1/endpoints/busy/retry", "/v2/busy/run")
    page = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    async with unix_client(site, tmp_path / "api.sock") as through_a_front_end:
        for kind, body in POSTS:
            headers = {"Content-Type": kind, **page}
            for path in paths:
                async with site.client.post(path, data=body, headers=headers) as response:
                    assert response.status == 401, path
                async with through_a_front_end.post(path, data=body, headers=headers) as response:
                    assert response.status == 401, path
            async with site.client.post("/v1/endpoints", data=body, headers=headers | site.admin) as response:
                assert response.status == 415
    assert list(site.control.deployed) == ["busy"]
    assert site.control.retried == []


async def test_a_page_gets_no_leave_to_send_more(site: ApiSite) -> None:
    asked = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    async with site.client.options("/v1/endpoints", headers=asked) as response:
        assert response.status == 405
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]


FOREIGN = (
    ("https://evil.example", "127.0.0.1:8700"),
    ("http://localhost:3000", "localhost:8700"),
    ("null", "127.0.0.1:8700"),
    (f"http://{EVIL}", "127.0.0.1:8700"),
)


async def test_a_page_of_others_opens_no_session(site: ApiSite) -> None:
    for origin, host in FOREIGN:
        headers = {"Origin": origin, "Host": host}
        with pytest.raises(WSServerHandshakeError) as refused:
            await site.client.ws_connect(EXEC, headers=headers)
        assert refused.value.status == 403, origin
    assert site.execs.opened == []


async def test_a_session_under_a_name_that_leads_here_is_refused(site: ApiSite) -> None:
    headers = {"Origin": f"http://{EVIL}", "Host": EVIL}
    with pytest.raises(WSServerHandshakeError) as refused:
        await site.client.ws_connect(EXEC, headers=headers)
    assert refused.value.status == 421


async def test_the_dashboards_own_page_opens_a_session_with_its_key(site: ApiSite, tmp_path: Path) -> None:
    token = site.admin["Authorization"].removeprefix("Bearer ")
    pages = (
        {"Origin": "http://127.0.0.1:8700", "Host": "127.0.0.1:8700"},
        {"Origin": "https://gpu.example.org", "Host": "gpu.example.org"},
        {"Origin": "https://gpu.example.org", "Host": "127.0.0.1:8700"},
    )
    for page in pages:
        async with site.client.ws_connect(EXEC, headers=page) as socket:
            await socket.send_json({"command": ["exit", "5"], "token": token})
            assert await socket.receive_json(timeout=20) == {"exit_code": 5}
    # Through a front-end at the Unix socket a page is no administrator either.
    async with unix_client(site, tmp_path / "api.sock") as local:
        page = {"Origin": "http://gpud"}
        async with local.ws_connect(EXEC, headers=page) as socket:
            await socket.send_json({"command": ["exit", "5"]})
            assert (await socket.receive_json(timeout=20))["problem"]["status"] == 401


VOLUMES = (
    {"source": "../../etc", "target": "/x"},
    {"source": "/srv/models/../../etc", "target": "/x"},
    {"source": "..", "target": "/x"},
    {"source": "cache", "target": "/x/../../etc"},
    {"source": "cache", "target": "x"},
    {"source": "/var/run/docker.sock", "target": "/x"},
    {"source": "cache\u0000", "target": "/x"},
    {"source": "%2e%2e/etc", "target": "/x"},
)


async def test_a_volume_leads_nowhere_else(site: ApiSite) -> None:
    for volume in VOLUMES:
        body = SPEC | {"volumes": [volume]}
        async with site.client.post("/v1/endpoints", json=body, headers=site.admin) as response:
            problem = await response.json(content_type="application/problem+json")
        assert response.status == 422, volume
        assert [field.partition(".")[0] for field in problem["fields"]] == ["volumes"]
    assert "llm" not in site.control.deployed
