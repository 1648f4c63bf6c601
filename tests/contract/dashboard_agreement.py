"""What API, command line and dashboard say of the states of one box, each in its own way."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

from gpud.cli.main import run
from gpud.core.ids import WorkerId
from gpud.core.job import Delivered, Ending, Retention, expired
from gpud.core.worker import WorkerState
from gpud.ports.control import EndpointCondition
from tests.contract.dashboard_past import CHAT_WORKER, add_job
from tests.contract.dashboard_world import deploy

if TYPE_CHECKING:
    import pytest
    from playwright.async_api import Page

    from tests.contract.api_site import ApiSite
    from tests.contract.browser import Desk

States: TypeAlias = dict[str, str]
"""By the name of a thing the word that tells its state."""

KINDS = {
    "endpoint": ("/v1/endpoints", "name", "condition"),
    "worker": ("/v1/workers", "id", "state"),
    "job": ("/v1/jobs", "id", "state"),
    "gpu": ("/v1/gpus", "uuid", "health"),
}
"""By the noun of the command line: the path of its list, and the fields with its name and its state."""
_STATE_COLUMNS = ("STATE", "HEALTH")
CROWD = "crowd"
"""An endpoint with a worker in each state."""


async def fill_with_states(site: ApiSite) -> None:
    """Have something in every state that can be shown."""
    for condition in EndpointCondition:
        await deploy(site, f"is-{condition.value.replace('_', '-')}", condition=condition)
    await deploy(site, CROWD)
    for number, state in enumerate(one for one in WorkerState if one is not WorkerState.GONE):
        site.control.add_worker(f"wk_{number:a>16}", CROWD, state=state)
    for number, ending in enumerate((None, Ending.COMPLETED, Ending.FAILED)):
        job, now_ms = await add_job(site, 90 + number), site.jobs.queue.now_ms()
        claim = await site.store.jobs.claim(
            job.seq, now_ms=now_ms, worker_id=CHAT_WORKER, instance="run-1", lease_until_ms=now_ms + 60_000
        )
        if ending is not None and claim is not None:
            said = Delivered(ending=ending, error="" if ending is Ending.COMPLETED else "as the test wants")
            await site.store.jobs.settle(claim.job, said, now_ms=now_ms + 9, fraction=0.5, kept=Retention())
    late = await add_job(site, 99)
    late_ms = late.expires_at_ms
    await site.store.jobs.expire_due(
        late_ms,
        lambda job: expired(job, now_ms=late_ms, kept=Retention()) if job.id == late.id else None,
        limit=100,
    )
    async with site.client.get("/v1/jobs?state=IN_QUEUE&limit=1", headers=site.admin) as response:
        waits = (await response.json())["items"][0]["id"]
    async with site.client.post(f"/v1/jobs/{waits}/cancel", headers=site.admin) as response:
        assert response.status == 200


def empty_of_states(site: ApiSite) -> None:
    """Take endpoints and workers out again, for the tests that follow."""
    for name in [one for one in site.control.deployed if one == CROWD or one.startswith("is-")]:
        del site.control.deployed[name]
        site.control.views.pop(name, None)
    for worker in [one for one in site.control.workers.values() if one.endpoint == CROWD]:
        del site.control.workers[WorkerId(worker.id)]


async def told_by_api(site: ApiSite, kind: str) -> States:
    """As the list of the API has it."""
    path, name, state = KINDS[kind]
    async with site.client.get(
        path, params={"limit": 500} if kind != "gpu" else {}, headers=site.admin
    ) as got:
        return {one[name]: one[state] for one in (await got.json())["items"]}


async def told_by_cli(kind: str, capfd: pytest.CaptureFixture[str]) -> tuple[States, States]:
    """As `gpud NOUN ls` prints it: as JSON, and in its table, where words stand apart instead of `_`."""
    _, name, state = KINDS[kind]
    items: list[dict[str, Any]] = json.loads(await _ran(capfd, kind, "ls", "--json"))["items"]
    as_json = {one[name]: one[state] for one in items}
    head, *lines = (await _ran(capfd, kind, "ls")).split("\n\n", 1)[0].splitlines()
    column = next(head.index(title) for title in _STATE_COLUMNS if title in head)
    in_table: States = {}
    for line in lines:
        named = [word for word in re.split(r"\s+", line) if word in as_json]
        in_table[named[0]] = re.split(r"\s{2,}", line[column:])[0].strip().replace(" ", "_")
    return as_json, in_table


async def _ran(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    capfd.readouterr()
    code = await asyncio.to_thread(run, list(words))
    out, err = capfd.readouterr()
    assert code == 0, err
    return out


async def told_by_page(desk: Desk, page: Page, kind: str) -> States:
    """As a person reads it: what stands in the cell of the state, beside the link with the name."""
    if kind == "endpoint":
        return await _words(desk, page, "", "Endpoint", "Condition")
    if kind == "job":
        return await _words(desk, page, "jobs", "Job", "State")
    if kind == "worker":
        found: States = {}
        for name in {one.endpoint for one in desk.site.control.workers.values()}:
            found |= await _words(desk, page, f"endpoints/{name}", "Worker", "State")
        return found
    await page.goto(f"{desk.url}#/gpus")
    await page.get_by_role("heading", name="GPUs", exact=True).wait_for()
    cards = await page.get_by_role("article").all()
    return {
        status.gpu.uuid: await card.locator(".word").first.inner_text()
        for status, card in zip(desk.site.control.gpu_statuses.values(), cards, strict=True)
    }


_CELLS = """([name, state]) => [...document.querySelectorAll(`td[data-head="${name}"]`)].map(one => [
    one.querySelector('a').innerText,
    one.parentElement.querySelector(`td[data-head="${state}"] .word`).innerText,
])"""


async def _words(desk: Desk, page: Page, path: str, name: str, state: str) -> States:
    await page.goto(f"{desk.url}#/{path}")
    await page.locator(f'td[data-head="{name}"]').first.wait_for()
    return dict(await page.evaluate(_CELLS, [name, state]))
