"""Who may do what: scopes, sockets, secrets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import uvloop
from aiohttp import ClientSession, UnixConnector, web

from gpud.api.app import ALL_OPERATIONS
from gpud.api.identity import peer_uid
from gpud.api.operations import OPERATIONS
from tests.contract.api_site import NOBODY, ApiSite, running_api, unix_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OPEN, ANY, INVOKE = "open", "any", "invoke"

NEEDED = {
    "list_endpoints": "read",
    "create_endpoint": "write",
    "show_endpoint": "read",
    "put_endpoint": "write",
    "patch_endpoint": "write",
    "delete_endpoint": "write",
    "retry_endpoint": "write",
    "list_endpoint_workers": "read",
    "list_workers": "read",
    "show_worker": "read",
    "show_worker_stats": "read",
    "exec_worker": "exec",
    "stop_worker": "write",
    "list_gpus": "read",
    "cordon_gpu": "write",
    "uncordon_gpu": "write",
    "list_images": "read",
    "prewarm_image": "write",
    "collect_images": "write",
    "remove_image": "write",
    "list_pulls": "read",
    "list_registries": "read",
    "put_registry": "admin",
    "delete_registry": "admin",
    "list_keys": "admin",
    "create_key": "admin",
    "disable_key": "admin",
    "simulate_endpoint": "read",
    "list_revisions": "read",
    "rollback_endpoint": "write",
    "make_dry_run": "write",
    "list_starts": "read",
    "list_standbys": "read",
    "list_jobs": ANY,
    "redrive_jobs": ANY,
    "purge_jobs": ANY,
    "show_job": ANY,
    "delete_job": ANY,
    "cancel_job": ANY,
    "retry_job": ANY,
    "stream_job": ANY,
    "put_progress": OPEN,
    "make_job": INVOKE,
    "runpod_run": INVOKE,
    "runpod_runsync": INVOKE,
    "runpod_status_by_get": INVOKE,
    "runpod_status": INVOKE,
    "runpod_status_sync_by_get": INVOKE,
    "runpod_status_sync": INVOKE,
    "runpod_stream_by_get": INVOKE,
    "runpod_stream": INVOKE,
    "runpod_cancel": INVOKE,
    "runpod_retry": INVOKE,
    "runpod_purge_queue": INVOKE,
    "runpod_openai": INVOKE,
    "runpod_openai_by_get": INVOKE,
    "runpod_health": INVOKE,
    "runpod_requests": INVOKE,
    "list_webhooks": "read",
    "create_webhook": "admin",
    "get_webhook": "read",
    "change_webhook": "admin",
    "delete_webhook": "admin",
    "rotate_webhook_secret": "admin",
    "test_webhook": "write",
    "replay_webhook": "write",
    "list_webhook_deliveries": "read",
    "get_webhook_delivery": "read",
    "redeliver_webhook_delivery": "write",
    "show_usage": "read",
    "list_usage_segments": "read",
    "list_budgets": "read",
    "list_templates": "read",
    "list_job_usage": ANY,
    "show_audit": "read",
    "list_audit_log": "admin",
    "list_events": "read",
    "list_logs": "read",
    "show_metrics": "metrics",
    "show_system": "read",
    "show_settings": "admin",
    "show_openapi": OPEN,
    "show_docs": OPEN,
    "show_problem": OPEN,
    "show_live": OPEN,
    "show_ready": OPEN,
    "show_root": OPEN,
    "show_dashboard_file": OPEN,
    "show_state": "read",
    "show_own_key": ANY,
}
"""What each operation must ask for, written down apart from the code."""

TOKEN_OF_ITS_OWN = {"put_progress"}
"""Takes no key: only the token of the delivery it is about, which no caller here has."""

HELD = ["admin", "read", "write", "metrics", "exec", "invoke:*", "invoke:llm"]


@pytest.fixture
async def site() -> AsyncIterator[ApiSite]:
    async with running_api() as site:
        yield site


async def test_every_route_asks_for_the_scope_it_must_and_there_is_none_without(site: ApiSite) -> None:
    routes = {route for route in site.app.router.routes() if route.method != "HEAD"}
    operations = site.app[OPERATIONS]
    assert set(operations) == routes
    assert {one.name: one.scope.value for one in ALL_OPERATIONS} == NEEDED


async def test_every_route_admits_exactly_the_scopes_it_names(site: ApiSite) -> None:
    callers: dict[str, dict[str, str]] = {scope: await site.headers(scope) for scope in HELD}
    callers["nobody"] = {}
    callers["stranger"] = {"Authorization": "Bearer gpud_" + "a" * 12 + "_" + "a" * 52}
    wrong = []
    for operation in ALL_OPERATIONS:
        path = operation.path.format(
            name="llm",
            id="x",
            uuid="x",
            pin="a/b@sha256:x",
            slug="conflict",
            file="x.js",
            endpoint="llm",
            job="x",
            delivery="x",
            route="chat/completions",
        )
        for held, headers in callers.items():
            async with site.client.request(
                operation.method, path, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
            needed = NEEDED[operation.name]
            admits = {ANY: HELD, INVOKE: ["invoke:*", "invoke:llm"]}.get(needed, [needed])
            if operation.name in TOKEN_OF_ITS_OWN:
                right = status == 401
            elif needed == OPEN or held in admits or held == "admin":
                right = status not in (401, 403)
            else:
                right = status in {"nobody": (401,), "stranger": (401, 429)}.get(held, (403,))
            if not right:
                wrong.append((operation.name, held, status))
    assert wrong == []


async def test_a_route_without_an_entry_admits_nobody() -> None:
    async with running_api() as site:
        route = next(r for r, one in site.app[OPERATIONS].items() if one.name == "list_gpus")
        del site.app[OPERATIONS][route]
        async with site.client.get("/v1/gpus", headers=site.admin) as response:
            assert response.status == 403


async def test_a_refusal_for_want_of_a_key_says_how_to_get_one(site: ApiSite) -> None:
    async with site.client.get("/v1/gpus") as response:
        problem = await response.json(content_type="application/problem+json")
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert "gpud key create" in problem["detail"]
    async with site.client.get("/v1/gpus", headers={"Authorization": "Basic eDp5"}) as response:
        assert response.status == 401
    async with site.client.get("/v1/gpus", headers={"Authorization": "bearer nonsense"}) as response:
        assert response.status == 401


async def test_an_address_that_keeps_failing_gets_429(site: ApiSite) -> None:
    statuses, advised = [], "0"
    for _ in range(25):
        async with site.client.get("/v1/gpus", headers={"Authorization": "Bearer nonsense"}) as response:
            statuses.append(response.status)
            advised = response.headers.get("Retry-After", "0")
    assert statuses == [401] * 20 + [429] * 5
    assert int(advised) > 0
    async with site.client.get("/v1/gpus", headers=site.admin) as response:
        assert response.status == 200


async def test_the_daemons_own_user_needs_no_key_on_the_unix_socket(site: ApiSite, tmp_path: Path) -> None:
    async with unix_client(site, tmp_path / "api.sock") as local, local.get("/v1/keys") as response:
        assert response.status == 200


async def test_another_user_needs_a_key_on_the_unix_socket(tmp_path: Path) -> None:
    async with (
        running_api(administrator_uids=NOBODY) as site,
        unix_client(site, tmp_path / "api.sock") as local,
    ):
        async with local.get("/v1/keys") as response:
            assert response.status == 401
        async with local.get("/v1/keys", headers=site.admin) as response:
            assert response.status == 200


async def test_a_key_that_is_sent_counts_on_the_unix_socket_too(site: ApiSite, tmp_path: Path) -> None:
    reader = await site.headers("read")
    async with (
        unix_client(site, tmp_path / "api.sock") as local,
        local.get("/v1/keys", headers=reader) as response,
    ):
        assert response.status == 403


@pytest.mark.parametrize(
    "header",
    ["X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Gpud-Local", "X-Forwarded-User", "Gpud-Peer-Uid"],
)
async def test_no_header_makes_a_caller_local(site: ApiSite, header: str) -> None:
    async with site.client.get("/v1/keys", headers={header: "0"}) as response:
        assert response.status == 401


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_peers_user_is_known_on_either_event_loop(loop_factory: Any, tmp_path: Path) -> None:
    async def ask() -> str:
        app = web.Application()

        async def tell(request: web.Request) -> web.Response:
            return web.Response(text=str(peer_uid(request)))

        app.router.add_get("/", tell)
        runner = web.AppRunner(app)
        await runner.setup()
        path = str(tmp_path / "x.sock")
        tcp = web.TCPSite(runner, "127.0.0.1", 0)
        await tcp.start()
        await web.UnixSite(runner, path).start()
        port = next(a[1] for a in runner.addresses if isinstance(a, tuple))
        async with ClientSession(connector=UnixConnector(path)) as local, local.get("http://x/") as answer:
            local_text = await answer.text()
        async with ClientSession() as remote, remote.get(f"http://127.0.0.1:{port}/") as answer:
            remote_text = await answer.text()
        await runner.cleanup()
        return f"{local_text} {remote_text}"

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(ask()) == f"{os.geteuid()} None"


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_asking_for_the_peer_leaves_no_descriptor_open(site: ApiSite, tmp_path: Path) -> None:
    async with unix_client(site, tmp_path / "api.sock") as local:
        async with local.get("/v1/gpus"):
            pass
        before = open_descriptors()
        for _ in range(20):
            async with local.get("/v1/gpus"):
                pass
        assert open_descriptors() <= before + 1


async def test_a_key_is_made_shown_once_listed_and_disabled(site: ApiSite) -> None:
    body = {
        "label": "ci",
        "scopes": ["read", "read", "invoke:llm"],
        "expires_at": "2099-01-01T00:00:00+02:00",
    }
    async with site.client.post("/v1/keys", json=body, headers=site.admin) as response:
        made = await response.json()
        assert response.status == 201
    assert made["scopes"] == ["read", "invoke:llm"]
    assert made["expires_at"] == "2098-12-31T22:00:00.000Z"
    bearer = {"Authorization": f"Bearer {made['token']}"}
    async with site.client.get("/v1/gpus", headers=bearer) as response:
        assert response.status == 200
    async with site.client.get("/v1/keys", headers=site.admin) as response:
        text = await response.text()
        listed = {one["id"]: one for one in (await response.json())["items"]}
    assert made["token"].rpartition("_")[2] not in text
    assert "secret" not in text
    assert listed[made["id"]]["last_used_at"] is not None
    async with site.client.delete(f"/v1/keys/{made['id']}", headers=site.admin) as response:
        assert response.status == 204
    async with site.client.get("/v1/gpus", headers=bearer) as response:
        assert response.status == 401
    async with site.client.delete("/v1/keys/key_none", headers=site.admin) as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes.0"),
        ({"scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"scopes": ["read"], "expires_at": "tomorrow"}, "expires_at"),
        ({"scopes": ["read"], "expires_at": 4_000_000_000}, "expires_at"),
        ({"scopes": ["read"], "expires_at": "2099-01-01"}, "expires_at"),
        ({"scopes": ["read"], "expires_at": "2099-13-01T00:00:00Z"}, "expires_at"),
        ({"scopes": ["read"], "secret": "mine"}, "secret"),
    ],
)
async def test_a_key_that_cannot_be_is_refused_by_its_field(site: ApiSite, body: Any, field: str) -> None:
    async with site.client.post("/v1/keys", json=body, headers=site.admin) as response:
        assert response.status == 400
        assert list((await response.json(content_type=None))["fields"]) == [field]


async def test_a_registry_password_goes_in_and_never_out(site: ApiSite) -> None:
    body = {"host": "ghcr.io", "username": "me", "password": "hunter2-hunter2"}
    with structlog.testing.capture_logs() as logged:
        async with site.client.put("/v1/registries/ghcr", json=body, headers=site.admin) as response:
            assert response.status == 200
            text = await response.text()
        async with site.client.get("/v1/registries", headers=site.admin) as response:
            text += await response.text()
            (listed,) = (await response.json())["items"]
    assert listed["name"] == "ghcr"
    assert listed["username"] == "me"
    assert "hunter2" not in text + repr(logged)
    stored = await site.store.access.registry("ghcr")
    assert stored is not None
    assert stored.password == "hunter2-hunter2"


async def test_a_registry_in_use_is_kept_and_a_free_one_forgotten(site: ApiSite) -> None:
    body = {"host": "ghcr.io", "username": "me", "password": "p"}
    spec = {"name": "llm", "image": "ghcr.io/a/b", "registry": "ghcr"}
    async with site.client.put("/v1/registries/ghcr", json=body, headers=site.admin):
        pass
    async with site.client.put("/v1/endpoints/llm", json=spec, headers=site.admin):
        pass
    async with site.client.delete("/v1/registries/ghcr", headers=site.admin) as response:
        problem = await response.json(content_type=None)
        assert (response.status, problem["endpoints"]) == (409, ["llm"])
    async with site.client.delete("/v1/endpoints/llm", headers=site.admin):
        pass
    for expected in (204, 404):
        async with site.client.delete("/v1/registries/ghcr", headers=site.admin) as response:
            assert response.status == expected


async def test_health_is_open_and_tells_details_to_readers_only(site: ApiSite) -> None:
    site.control.parts["engine"] = "Docker does not answer at /var/run/docker.sock. Start it."
    async with site.client.get("/livez") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})
    async with site.client.get("/readyz") as response:
        assert response.status == 503
        shown = await response.json()
        assert shown == {"ready": False, "parts": {"store": "ok", "engine": "failing", "gpus": "ok"}}
    async with site.client.get("/readyz", headers=await site.headers("read")) as response:
        assert (await response.json())["parts"]["engine"].startswith("Docker does not answer")
    site.control.parts["engine"] = ""
    async with site.client.get("/readyz") as response:
        assert response.status == 200


async def test_a_peer_that_sends_rubbish_leaves_the_api_standing(site: ApiSite) -> None:
    server = site.client.server
    for rubbish in (b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /v1/gpus HTTP/1.1\r\nA" * 5000):
        reader, writer = await asyncio.open_connection(server.host, server.port, family=socket.AF_INET)
        with contextlib.suppress(ConnectionError):
            writer.write(rubbish)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 10)
        writer.close()
    async with site.client.get("/v1/gpus", headers=site.admin) as response:
        assert response.status == 200
