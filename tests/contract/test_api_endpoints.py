from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from yarl import URL

from gpud.core.cold_start import ColdStart, StartPhase
from gpud.core.gpu import GpuHealth
from gpud.core.ids import EndpointName, Revision, WorkerId
from gpud.core.records import ColdStartSaved
from gpud.core.revision import RevisionRecord, RevisionState
from gpud.core.rollout import Rollout, RolloutStep
from gpud.core.waiting import WaitReason
from gpud.core.wanted import Wanted
from gpud.errors import DependencyDown, ImagePullFailed, RegistryDenied
from gpud.ports.control import EndpointCondition
from gpud.ports.images import LocalImage, PullProgress
from tests.contract.api_site import ApiSite, running_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BARE = "sha256:" + "cd" * 32
LLM: dict[str, Any] = {"name": "llm", "image": "a/b:1"}


@pytest.fixture
async def site() -> AsyncIterator[ApiSite]:
    async with running_api() as site:
        yield site


async def call(site: ApiSite, method: str, path: str | URL, **options: Any) -> tuple[int, Any]:
    headers = site.admin | options.pop("headers", {})
    async with site.client.request(method, path, headers=headers, **options) as response:
        return response.status, await response.json() if response.content_length else None


async def test_deploying_creates_then_changes_an_endpoint(site: ApiSite) -> None:
    status, created = await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    assert status == 201
    assert created["name"] == "llm"
    assert created["condition"] == "sleeping"
    assert created["spec"]["image"] == "a/b:1"
    assert created["image"]["pin"].startswith("a/b:1@sha256:")
    status, changed = await call(site, "PUT", "/v1/endpoints/llm", json=LLM | {"image": "a/b:2"})
    assert status == 200
    assert changed["spec"]["image"] == "a/b:2"
    assert changed["revision"] != created["revision"]
    assert (await call(site, "GET", "/v1/endpoints/llm"))[1] == changed


async def test_creating_a_name_that_is_taken_is_a_conflict(site: ApiSite) -> None:
    async with site.client.post("/v1/endpoints", json=LLM, headers=site.admin) as response:
        assert response.status == 201
        assert response.headers["Location"] == "/v1/endpoints/llm"
    status, problem = await call(site, "POST", "/v1/endpoints", json=LLM)
    assert status == 409
    assert problem["type"] == "/problems/conflict"
    assert "PUT or PATCH" in problem["detail"]


async def test_two_creations_at_once_make_one_endpoint(site: ApiSite) -> None:
    answers = await asyncio.gather(*(call(site, "POST", "/v1/endpoints", json=LLM) for _ in range(5)))
    assert sorted(status for status, _ in answers) == [201, 409, 409, 409, 409]


async def test_a_patch_changes_what_it_names_and_null_takes_the_default(site: ApiSite) -> None:
    spec = LLM | {"scale": {"max_workers": 4, "concurrency": 2}, "env": {"A": "1", "B": "2"}, "port": 9000}
    await call(site, "PUT", "/v1/endpoints/llm", json=spec)
    patch = {"scale": {"concurrency": None, "min_workers": 1}, "env": {"A": None, "C": "3"}}
    status, changed = await call(site, "PATCH", "/v1/endpoints/llm", json=patch)
    assert status == 200
    assert (
        changed["spec"]["scale"] | {"max_workers": 4, "concurrency": 8, "min_workers": 1}
        == (changed["spec"]["scale"])
    )
    assert changed["spec"]["env"] == {"B": "2", "C": "3"}
    assert changed["spec"]["port"] == 9000


async def test_a_patch_of_an_unknown_field_is_refused_even_when_it_is_null(site: ApiSite) -> None:
    await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    for patch in ({"scale": {"max_worker": None}}, {"scale": {"max_worker": 3}}):
        status, problem = await call(site, "PATCH", "/v1/endpoints/llm", json=patch)
        assert status == 422
        assert problem["fields"] == {"scale.max_worker": "unknown field; did you mean 'max_workers'?"}


async def test_patches_of_different_fields_at_once_all_hold(site: ApiSite) -> None:
    await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    names = [f"V{i}" for i in range(8)]
    await asyncio.gather(
        *(call(site, "PATCH", "/v1/endpoints/llm", json={"env": {name: "1"}}) for name in names)
    )
    _, shown = await call(site, "GET", "/v1/endpoints/llm")
    assert sorted(shown["spec"]["env"]) == names


async def test_an_endpoint_cannot_be_renamed(site: ApiSite) -> None:
    await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    for method, body in (("PUT", LLM | {"name": "other"}), ("PATCH", {"name": "other"})):
        status, problem = await call(site, method, "/v1/endpoints/llm", json=body)
        assert status == 422
        assert "renamed" in problem["fields"]["name"]


@pytest.mark.parametrize("patch", ["[]", "3", "null", "{", ""])
async def test_a_patch_that_is_no_object_is_refused(site: ApiSite, patch: str) -> None:
    await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    status, problem = await call(
        site,
        "PATCH",
        "/v1/endpoints/llm",
        data=patch,
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert status == 400
    assert problem["type"] == "/problems/invalid-request"


async def test_what_the_box_can_never_run_is_refused_with_the_field(site: ApiSite) -> None:
    status, problem = await call(site, "PUT", "/v1/endpoints/llm", json=LLM | {"gpus": {"count": 3}})
    assert status == 422
    assert problem["fields"] == {"gpus.count": "this box has 2 GPUs"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ImagePullFailed("The registry broke the connection."), 502),
        (RegistryDenied("The registry refused the credentials."), 502),
        (DependencyDown("Docker does not answer.", retry_after_s=4.2), 503),
    ],
)
async def test_an_error_of_a_deploy_is_told_as_its_own_problem(
    site: ApiSite, error: Any, status: int
) -> None:
    site.control.raises = error
    async with site.client.put("/v1/endpoints/llm", json=LLM, headers=site.admin) as response:
        problem = await response.json(content_type="application/problem+json")
        assert response.status == problem["status"] == status
        assert problem["detail"] == error.detail
        assert problem["type"] == f"/problems/{error.slug}"
        assert response.headers.get("Retry-After") == ("5" if error.retry_after_s else None)


async def test_a_missing_endpoint_is_not_found_and_near_names_are_told(site: ApiSite) -> None:
    await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    for method, path in (
        ("GET", "/v1/endpoints/lm"),
        ("DELETE", "/v1/endpoints/lm"),
        ("GET", "/v1/endpoints/lm/workers"),
        ("POST", "/v1/endpoints/lm/retry"),
        ("GET", "/v1/endpoints/lm/revisions"),
    ):
        status, problem = await call(site, method, path)
        assert status == 404
        assert problem["near"] == ["llm"]


async def test_deleting_and_retrying_reach_the_fleet(site: ApiSite) -> None:
    await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    status, shown = await call(site, "POST", "/v1/endpoints/llm/retry")
    assert (status, shown["name"], site.control.retried) == (200, "llm", ["llm"])
    assert await call(site, "DELETE", "/v1/endpoints/llm") == (204, None)
    assert site.control.deployed == {}


async def test_a_view_tells_condition_waits_last_error_and_pull(site: ApiSite) -> None:
    await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    view = site.control.endpoint("llm")
    facts = {"held_by": ["other"], "next_try_s": 2.5}
    site.control.views["llm"] = type(view)(
        endpoint=view.endpoint,
        condition=EndpointCondition.WAITING_FOR_GPU,
        desired=2,
        scale_reason="load",
        workers=(),
        waiting=3,
        in_flight=1,
        waits=(WaitReason(reason="waiting_for_gpu", detail="All GPUs are held.", facts=facts),),
        last_error="It exited with 1.",
        pull=PullProgress(layers=4, layers_done=1, bytes_total=100, bytes_done=30),
    )
    _, shown = await call(site, "GET", "/v1/endpoints/llm")
    assert (shown["condition"], shown["desired"], shown["waiting"]) == ("waiting_for_gpu", 2, 3)
    [wait] = shown["waits"]
    assert "scale.priority" in wait.pop("remedy")
    assert wait.pop("until") is None
    assert wait == {"reason": "waiting_for_gpu", "detail": "All GPUs are held.", "facts": facts}
    assert shown["last_error"] == "It exited with 1."
    assert shown["pull"] == {"layers": 4, "layers_done": 1, "bytes_total": 100, "bytes_done": 30}


async def test_a_worker_is_shown_with_times_in_rfc_3339(site: ApiSite) -> None:
    await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    site.control.add_worker(
        "wk_aaaaaaaaaaaaaaaa",
        "llm",
        gpu_uuids=("GPU-1",),
        created_at_ms=1_700_000_000_123,
        container_started_ns=1_700_000_001_500_000_000,
    )
    _, shown = await call(site, "GET", "/v1/workers/wk_aaaaaaaaaaaaaaaa")
    assert shown["state"] == "ready"
    assert shown["gpu_uuids"] == ["GPU-1"]
    assert shown["created_at"] == "2023-11-14T22:13:20.123Z"
    assert shown["container_started_at"] == "2023-11-14T22:13:21.500Z"
    assert shown["container_finished_at"] is None
    _, page = await call(site, "GET", "/v1/endpoints/llm/workers")
    assert page == {"items": [shown], "next": None}
    _, gpus = await call(site, "GET", "/v1/gpus")
    assert [gpu["worker_id"] for gpu in gpus["items"]] == [None, "wk_aaaaaaaaaaaaaaaa"]


@pytest.mark.parametrize(("query", "force"), [("", False), ("?force=true", True), ("?force=false", False)])
async def test_stopping_a_worker_drains_it_or_kills_it(site: ApiSite, query: str, force: bool) -> None:
    await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    site.control.add_worker("wk_aaaaaaaaaaaaaaaa", "llm")
    status, shown = await call(site, "DELETE", "/v1/workers/wk_aaaaaaaaaaaaaaaa" + query)
    assert (status, shown["state"]) == (202, "draining")
    assert site.control.stopped == [("wk_aaaaaaaaaaaaaaaa", force)]


async def test_a_gpu_is_taken_out_of_use_and_brought_back(site: ApiSite) -> None:
    status, gpu = await call(site, "POST", "/v1/gpus/GPU-0/cordon")
    assert (status, gpu["health"], gpu["reason"]) == (200, "cordoned", "by an operator")
    status, gpu = await call(site, "POST", "/v1/gpus/GPU-0/uncordon")
    assert (status, gpu["health"]) == (200, "healthy")
    assert site.control.gpu_statuses[next(iter(site.control.gpu_statuses))].health is GpuHealth.HEALTHY
    assert (await call(site, "POST", "/v1/gpus/GPU-9/cordon"))[0] == 404


async def test_images_are_listed_with_their_users_prewarmed_and_removed(site: ApiSite) -> None:
    _, endpoint = await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    pin = endpoint["image"]["pin"]
    site.control.local_images = {
        pin: LocalImage(id="sha256:1", pins=(pin,), references=("a/b:1",), size_bytes=5, created_at_ms=1),
        BARE: LocalImage(id=BARE, pins=(BARE,), references=(), size_bytes=6, created_at_ms=0),
    }
    _, page = await call(site, "GET", "/v1/images")
    assert {one["id"]: one["endpoints"] for one in page["items"]} == {"sha256:1": ["llm"], BARE: []}
    for spelled in (pin, pin.replace("/", "%2F").replace(":", "%3A").replace("@", "%40")):
        status, problem = await call(site, "DELETE", URL(f"/v1/images/{spelled}", encoded=True))
        assert (status, problem["type"]) == (409, "/problems/conflict")
    for dry_run in (True, False):
        _, gone = await call(site, "POST", "/v1/images/gc", json={"dry_run": dry_run, "everything": True})
        assert [one["pin"] for one in gone["removed"]] == [BARE]
        assert [(one["pin"], one["why"]) for one in gone["kept"]] == [(pin, "pinned")]
        assert (BARE in site.control.local_images) is dry_run
    assert (await call(site, "DELETE", f"/v1/images/{BARE}"))[0] == 204
    assert list(site.control.local_images) == [pin]
    status, asked = await call(site, "POST", "/v1/images/prewarm", json={"image": "c/d:2"})
    assert status == 202
    _, pulls = await call(site, "GET", "/v1/pulls")
    assert [one["pin"] for one in pulls["items"]] == [asked["pin"]]


async def test_lists_come_in_pages_that_join_to_the_whole(site: ApiSite) -> None:
    names = [f"e{i}" for i in range(7)]
    for name in names:
        await call(site, "PUT", f"/v1/endpoints/{name}", json=LLM | {"name": name})
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        _, page = await call(site, "GET", "/v1/endpoints", params={"limit": "3", "cursor": cursor})
        assert len(page["items"]) <= 3
        seen += [item["name"] for item in page["items"]]
        cursor = page["next"]
    assert seen == names


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("limt=3", "limt"),
        ("limit=1&limit=2", "limit"),
        ("cursor=%C3%A4", "cursor"),
        ("cursor=x", "cursor"),
    ],
)
async def test_a_parameter_that_is_unknown_or_wrong_is_named(site: ApiSite, query: str, field: str) -> None:
    status, problem = await call(site, "GET", f"/v1/endpoints?{query}")
    assert status == 400
    assert list(problem["fields"]) == [field]


async def test_revisions_are_listed_newest_first_in_pages(site: ApiSite) -> None:
    await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    endpoint = site.control.deployed[EndpointName("llm")]
    site.control.revision_records = [
        RevisionRecord(
            endpoint=endpoint,
            number=number,
            state=RevisionState.CURRENT if number == 12 else RevisionState.FAILED,
            detail="" if number == 12 else "3 starts failed.",
            created_at_ms=1,
            changed_at_ms=2,
            ready_at_ms=3 if number == 12 else 0,
        )
        for number in range(12, 0, -1)
    ]
    status, page = await call(site, "GET", "/v1/endpoints/llm/revisions?limit=10")
    assert status == 200
    assert [row["number"] for row in page["items"]] == list(range(12, 2, -1))
    assert page["items"][0]["state"] == "current"
    assert page["items"][1] | {"ready_at": None, "detail": "3 starts failed."} == page["items"][1]
    _, rest = await call(site, "GET", f"/v1/endpoints/llm/revisions?limit=10&cursor={page['next']}")
    assert [row["number"] for row in rest["items"]] == [2, 1]
    assert rest["next"] is None


async def test_going_back_reaches_the_fleet(site: ApiSite) -> None:
    await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    for body, wanted in (({}, ""), ({"revision": "3"}, "3")):
        status, shown = await call(site, "POST", "/v1/endpoints/llm/rollback", json=body)
        assert (status, shown["name"], site.control.rolled_back[-1]) == (200, "llm", ("llm", wanted))


async def test_a_rollout_is_shown_with_what_serves(site: ApiSite) -> None:
    await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    view = site.control.endpoint("llm")
    rollout = Rollout(
        endpoint=EndpointName("llm"),
        base=Revision("0" * 12),
        target=view.endpoint.revision,
        step=RolloutStep.CANARY,
        since_s=0.0,
        started_at_ms=1,
        changed_at_ms=2,
    )
    site.control.views["llm"] = replace(view, serving=Revision("0" * 12), rollout=rollout)
    _, shown = await call(site, "GET", "/v1/endpoints/llm")
    assert shown["serving"] == "0" * 12
    assert shown["rollout"]["step"] == "canary"
    assert shown["rollout"]["active"] is True
    assert shown["rollout"]["reason"] is None


async def test_starts_are_told_by_phase_beside_those_before(site: ApiSite) -> None:
    await call(site, "PUT", "/v1/endpoints/llm", json=LLM)
    assert await call(site, "GET", "/v1/endpoints/llm/starts") == (200, {"items": [], "next": None})
    starts = [_start(number, listen_ms=100) for number in range(9)] + [_start(9, listen_ms=2500)]
    await site.store.fleet.record([ColdStartSaved(start=start) for start in starts])
    status, body = await call(site, "GET", "/v1/endpoints/llm/starts?limit=2")
    assert status == 200
    slow, usual = body["items"]
    assert (slow["total_ms"], slow["usual_ms"], slow["listen_ms"]) == (2520.0, 120.0, 2500.0)
    assert slow["slower"]["culprit"] == "listen"
    said = "1 request and 2 jobs waited. Rule: concurrency."
    assert (slow["why"], slow["wanted"]) == ("concurrency", said)
    assert usual["slower"] is None
    assert (usual["first_byte_ms"], usual["worker_id"]) == (None, "wk_8")
    assert (await call(site, "GET", "/v1/endpoints/nobody/starts"))[0] == 404


def _start(number: int, *, listen_ms: int) -> ColdStart:
    return ColdStart(
        worker_id=WorkerId(f"wk_{number}"),
        endpoint=EndpointName("llm"),
        revision=Revision("r1"),
        at_ms=1_700_000_000_000 + number,
        phases_ns={StartPhase.CREATE: 20_000_000, StartPhase.LISTEN: listen_ms * 1_000_000},
        wanted=Wanted(why="concurrency", waiting=3, jobs=2),
    )
