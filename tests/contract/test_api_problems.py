"""Everything that goes wrong is a problem document."""

from __future__ import annotations

import asyncio
import gzip
import io
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from yarl import URL

from gpud.errors import InvariantBroken
from tests.contract.api_site import ApiSite, running_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LLM: dict[str, Any] = {"name": "llm", "image": "a/b:1"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def site() -> AsyncIterator[ApiSite]:
    async with running_api() as site:
        yield site


async def problem_of(site: ApiSite, method: str, path: str | URL, **options: Any) -> tuple[int, Any, Any]:
    headers = site.admin | options.pop("headers", {})
    async with site.client.request(method, path, headers=headers, **options) as response:
        assert response.content_type == "application/problem+json"
        problem = await response.json(content_type=None)
        assert problem["status"] == response.status
        assert problem["instance"] == response.headers["X-Gpud-Request-Id"]
        return response.status, problem, response.headers


async def test_a_path_that_is_none_is_not_found(site: ApiSite) -> None:
    for path in ("/nonsense", "/v1", "/v1/", "/v1/endpoints/", "/v3/x/run"):
        status, problem, _ = await problem_of(site, "GET", path)
        assert (status, problem["type"]) == (404, "/problems/not-found")


async def test_a_method_that_is_not_allowed_is_told_those_that_are(site: ApiSite) -> None:
    status, problem, headers = await problem_of(site, "DELETE", "/v1/endpoints")
    assert (status, problem["type"]) == (405, "/problems/method-not-allowed")
    assert headers["Allow"] == "GET, POST"


async def test_a_body_above_one_mib_is_refused(site: ApiSite) -> None:
    big = b'{"name": "' + b"a" * (1 << 20) + b'"}'
    status, problem, _ = await problem_of(site, "POST", "/v1/endpoints", data=io.BytesIO(big), headers=JSON)
    assert (status, problem["type"]) == (413, "/problems/body-too-large")
    headers = JSON | {"Idempotency-Key": "k"}
    assert (await problem_of(site, "POST", "/v1/endpoints", data=io.BytesIO(big), headers=headers))[0] == 413


async def test_a_compressed_body_is_measured_as_it_unfolds(site: ApiSite) -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    headers = JSON | {"Content-Encoding": "gzip"}
    status, _, _ = await problem_of(site, "POST", "/v1/endpoints", data=bomb, headers=headers)
    assert status == 413


async def test_a_body_that_does_not_arrive_is_not_waited_for(
    site: ApiSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpud.api.parsing.BODY_TIMEOUT_S", 0.05)
    server = site.client.server
    reader, writer = await asyncio.open_connection(server.host, server.port)
    head = f"POST /v1/endpoints HTTP/1.1\r\nHost: x\r\nAuthorization: {site.admin['Authorization']}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
    answer = await asyncio.wait_for(reader.readuntil(b"}"), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"did not arrive whole" in answer


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/toml", "application/x-www-form-urlencoded", "text/json"]
)
async def test_a_body_that_is_not_json_is_refused_with_what_to_send(site: ApiSite, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    status, problem, _ = await problem_of(site, "POST", "/v1/endpoints", data=b"x=1", headers=headers)
    assert (status, problem["type"]) == (415, "/problems/unsupported-media-type")
    assert "Content-Type: application/json" in problem["detail"]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(
    "body", [b'{"name": "a\\ud800", "image": "x"}', b'{"\\udfff": 1}', b'{"env": {"\\ud800": null}}']
)
async def test_half_a_character_is_refused(site: ApiSite, method: str, body: bytes) -> None:
    status, problem, _ = await problem_of(site, method, "/v1/endpoints/a", data=body, headers=JSON)
    assert (status, problem["type"]) == (400, "/problems/invalid-request")


@pytest.mark.parametrize("path", ["/v1/endpoints/%ED%A0%80", "/%ff", "/v1/workers/%00", "/v1/keys/..%2F.."])
async def test_a_path_that_is_no_text_is_not_found(site: ApiSite, path: str) -> None:
    assert (await problem_of(site, "GET", URL(path, encoded=True)))[0] in (404, 405)


async def test_an_unknown_error_tells_nothing_but_where_to_look(site: ApiSite) -> None:
    site.control.raises = RuntimeError("password=hunter2 at /root/secret")
    with structlog.testing.capture_logs() as logged:
        status, problem, _ = await problem_of(site, "PUT", "/v1/endpoints/llm", json=LLM)
    assert status == 500
    assert problem["type"] == "/problems/internal-error"
    assert "hunter2" not in str(problem)
    (entry,) = [one for one in logged if one["event"] == "request.failed"]
    assert entry["request_id"] == problem["instance"]
    assert entry["log_level"] == "error"
    assert entry["exc_info"] is True


async def test_a_broken_invariant_is_logged(site: ApiSite) -> None:
    site.control.raises = InvariantBroken("Two workers hold GPU-0.")
    with structlog.testing.capture_logs() as logged:
        assert (await problem_of(site, "PUT", "/v1/endpoints/llm", json=LLM))[0] == 500
    assert [one["event"] for one in logged] == ["request.failed"]


async def test_every_problem_type_leads_to_a_page(site: ApiSite) -> None:
    _, problem, _ = await problem_of(site, "GET", "/v1/endpoints/none")
    async with site.client.get(problem["type"]) as response:
        assert response.content_type == "text/plain"
        assert "What to do" in await response.text()
    async with site.client.get(problem["type"], headers={"Accept": "text/html,*/*"}) as response:
        assert response.content_type == "text/html"
        assert "script" not in response.headers["Content-Security-Policy"]
    async with site.client.get("/problems/nonsense") as response:
        assert response.status == 404


async def test_every_answer_carries_the_security_headers_and_no_permission_for_other_origins(
    site: ApiSite,
) -> None:
    for path in ("/livez", "/v1/gpus", "/v1/nonsense", "/docs", "/problems/conflict", "/v1/openapi.json"):
        headers = site.admin | {"Origin": "https://evil.example"}
        async with site.client.get(path, headers=headers) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["Referrer-Policy"] == "no-referrer"
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert response.headers["Server"] == "gpud"
            assert not [name for name in response.headers if name.lower().startswith("access-control-")]
