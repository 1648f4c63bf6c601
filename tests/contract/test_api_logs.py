"""`/v1/logs` over kept files: pages, filters, refusals, following."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.log_files import LogFile, folder_for
from gpud.core.log_lines import record, stamp_of
from tests.contract.api_site import running_api
from tests.contract.job_rig import begin, submit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.contract.api_site import ApiSite

WORKERS = ["wk_" + letter * 16 for letter in "ab"]
BEGIN_NS = 1_763_730_000_000_000_000


def _write(root: Path, worker: int, first: int, count: int, stream: bytes = b"stdout") -> None:
    file = LogFile(
        folder_for(root, "llm", WORKERS[worker], worker + 1), segment_bytes=4096, rotated=lambda _: None
    )
    for n in range(first, first + count):
        file.append(record(stamp_of(BEGIN_NS + n * 1_000_000_000), stream, b"line %d <b>\x1b[31m" % n))
    file.close(over=False)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[ApiSite]:
    async with running_api(log_root=tmp_path) as site:
        yield site


async def _texts(site: ApiSite, query: str) -> list[int]:
    async with site.client.get(f"/v1/logs?{query}", headers=site.admin) as answer:
        assert answer.status == 200, await answer.text()
        return [int(item["text"].split()[1]) for item in (await answer.json())["items"]]


async def test_lines_of_an_endpoint_a_worker_a_stream_and_a_time(site: ApiSite, tmp_path: Path) -> None:
    _write(tmp_path, 0, 0, 10)
    _write(tmp_path, 1, 10, 10, b"stderr")
    assert await _texts(site, "endpoint=llm") == list(range(20))
    assert await _texts(site, "endpoint=llm&limit=3") == [17, 18, 19]
    assert await _texts(site, "endpoint=llm&limit=3&order=oldest") == [0, 1, 2]
    assert await _texts(site, f"worker={WORKERS[1]}&limit=2") == [18, 19]
    assert await _texts(site, "endpoint=llm&stream=stdout") == list(range(10))
    since = stamp_of(BEGIN_NS + 18_000_000_000).decode()
    assert await _texts(site, f"endpoint=llm&since={since}") == [18, 19]
    assert await _texts(site, f"endpoint=llm&until={since}&limit=1") == [17]
    assert await _texts(site, "endpoint=llm&regex=line.1%24") == []
    assert await _texts(site, "endpoint=llm&regex=line.1+") == [1]
    assert await _texts(site, "endpoint=llm&regex=LINE.1+%3C&ignore_case=true") == [1]
    assert await _texts(site, "endpoint=llm&grep=line%2013") == [13]


async def test_pages_go_on_where_they_ended_and_a_line_has_its_own_cursor(
    site: ApiSite, tmp_path: Path
) -> None:
    _write(tmp_path, 0, 0, 25)
    cursor, read = "", []
    while True:
        url = f"/v1/logs?endpoint=llm&order=oldest&limit=10&cursor={cursor}"
        async with site.client.get(url, headers=site.admin) as answer:
            page = await answer.json()
        read += [int(item["text"].split()[1]) for item in page["items"]]
        cursor = page["next"]
        if page["complete"]:
            break
    assert read == list(range(25))
    async with site.client.get("/v1/logs?endpoint=llm&limit=5", headers=site.admin) as answer:
        middle = (await answer.json())["items"][2]["cursor"]
    assert await _texts(site, f"endpoint=llm&cursor={middle}") == [23, 24]


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("endpoint=nobody", 404, "nobody"),
        ("worker=wk_cccccccccccccccc", 404, "wk_cccccccccccccccc"),
        ("job=nothing", 404, "no job"),
        ("endpoint=llm&cursor=%21", 400, "cursor"),
        ("endpoint=llm&regex=%28", 400, "RE2"),
        ("endpoint=llm&limit=5001", 400, "limit"),
        ("endpoint=llm&stream=stdin", 400, "stream"),
        ("worker=x&job=y", 400, "job"),
        ("nonsense=1", 400, "nonsense"),
    ],
)
async def test_what_cannot_be_answered_says_why(site: ApiSite, query: str, status: int, says: str) -> None:
    async with site.client.get(f"/v1/logs?{query}", headers=site.admin) as answer:
        assert answer.status in (status, 422 if status == 400 else status)
        assert says in await answer.text()


async def test_a_job_s_lines_are_those_of_its_worker_while_it_had_it(site: ApiSite, tmp_path: Path) -> None:
    _write(tmp_path, 0, 0, 10)
    _write(tmp_path, 1, 0, 10)
    await begin(site.store)
    job = await submit(site.store)
    async with site.client.get(f"/v1/logs?job={job.id}", headers=site.admin) as answer:
        assert answer.status == 404
        assert "No worker has had" in await answer.text()
    began_ms = BEGIN_NS // 1_000_000 + 6000
    await site.store.jobs.claim(
        job.seq, now_ms=began_ms, worker_id=WORKERS[0], instance="run-1", lease_until_ms=began_ms + 60_000
    )
    assert await _texts(site, f"job={job.id}") == [6, 7, 8, 9]
    assert await _texts(site, f"job={job.id}&grep=line%207") == [7]


async def test_a_key_that_may_only_invoke_reads_no_logs(site: ApiSite, tmp_path: Path) -> None:
    _write(tmp_path, 0, 0, 1)
    headers = await site.headers("invoke:llm")
    async with site.client.get("/v1/logs?endpoint=llm", headers=headers) as answer:
        assert answer.status == 403


async def test_a_follower_gets_past_lines_new_ones_and_those_of_the_next_worker(
    site: ApiSite, tmp_path: Path
) -> None:
    _write(tmp_path, 0, 0, 5)
    url = "/v1/logs?endpoint=llm&limit=2&follow=true"

    async def follow(wanted: int, last_id: str = "") -> tuple[list[int], str]:
        seen, cursor = [], ""
        async with site.client.get(url, headers={**site.admin, "Last-Event-ID": last_id}) as answer:
            async for raw in answer.content:
                line = raw.decode().rstrip()
                if line.startswith("id: "):
                    cursor = line.removeprefix("id: ")
                if not line.startswith("data: "):
                    continue
                seen.append(int(json.loads(line.removeprefix("data: "))["text"].split()[1]))
                if seen[-1] == 4:
                    _write(tmp_path, 0, 5, 1)
                elif seen[-1] == 5:
                    _write(tmp_path, 1, 100, 2)
                if len(seen) >= wanted:
                    break
        return seen, cursor

    async with asyncio.timeout(20):
        seen, cursor = await follow(5)
        assert seen == [3, 4, 5, 100, 101]
        _write(tmp_path, 1, 102, 1)
        assert (await follow(1, cursor))[0] == [102]
