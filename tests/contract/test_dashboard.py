"""The dashboard in a real browser, on a real API over a fake fleet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from gpud.api import state
from gpud.core.ids import GpuUuid, WorkerId
from gpud.core.worker import WorkerState
from gpud.ports.readings import Readings
from tests.contract.api_site import ApiSite, running_api
from tests.contract.browser import needs_chromium, running_browser, watched_page
from tests.contract.dashboard_world import HOSTILE, deploy, furnish, readings, show

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from playwright.async_api import Browser, Page

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs_chromium]


class Desk:
    """One browser before one box, for all tests here."""

    def __init__(self, site: ApiSite, browser: Browser) -> None:
        self.site = site
        self.browser = browser
        self.url = str(site.client.make_url("/"))
        self.key = site.admin["Authorization"].removeprefix("Bearer ")

    def look(
        self, path: str = "", *, key: str | None = None, narrow: bool = False, dark: bool = False
    ) -> AbstractAsyncContextManager[Page]:
        """The page at a path, signed in unless the key is empty."""
        given = self.key if key is None else key
        return watched_page(self.browser, f"{self.url}#/{path}", key=given, narrow=narrow, dark=dark)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk() -> AsyncIterator[Desk]:
    places: list[ApiSite] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "LOOK_PERIOD_S", 0.05)
        seen = Readings(gpu_readings=lambda: readings(places[0]))
        async with running_api(readings=seen) as site, running_browser() as browser:
            places.append(site)
            await furnish(site)
            yield Desk(site, browser)


async def text_of(page: Page, selector: str = "main") -> str:
    """What a person reads there."""
    return re.sub(r"\s+", " ", await page.locator(selector).inner_text())


def cut_lines(site: ApiSite) -> None:
    """Break every connection off, as when the daemon dies."""
    runner = site.client.server.runner
    assert runner is not None
    assert runner.server is not None
    for connection in runner.server.connections:
        if connection.transport is not None:
            connection.transport.abort()


async def test_nothing_is_shown_without_a_key_and_a_wrong_one_is_told_why(desk: Desk) -> None:
    async with desk.look(key="") as page:
        field = page.get_by_label("API key")
        await field.fill("gpud_wrong")
        await field.press("Enter")
        await page.get_by_text("The API key is not known").wait_for()
        _, reader = await desk.site.keyring.create(label="", scopes=["invoke:chat"])
        await field.fill(reader)
        await field.press("Enter")
        await page.get_by_text("the dashboard needs read").wait_for()
        await field.fill(desk.key)
        await field.press("Enter")
        await page.get_by_role("heading", name="Overview").wait_for()
        assert desk.key not in page.url
        await page.get_by_role("button", name="Sign out").click()
        await field.wait_for()
        assert await page.evaluate("JSON.stringify([sessionStorage, localStorage])") == (
            '[{},{"gpud.theme":"auto"}]'
        )


async def test_the_overview_says_of_every_endpoint_what_the_api_says(desk: Desk) -> None:
    async with desk.site.client.get("/v1/endpoints", headers=desk.site.admin) as response:
        told = (await response.json())["items"]
    async with desk.look() as page:
        for one in told:
            row = page.get_by_role("row").filter(has=page.get_by_role("link", name=one["name"], exact=True))
            shown = re.sub(r"\s+", " ", await row.inner_text())
            assert one["condition"] in shown
            assert f"{one['desired']} desired" in shown
            for wait in one["waits"]:
                assert wait["reason"] in shown
                assert wait["detail"].replace("`", "") in shown.replace("`", "")
                assert wait["remedy"].replace("`", "") in shown.replace("`", "")
        assert "3.0 GiB of 9.0 GiB, 4 of 11 layers" in await text_of(page)


async def test_what_changes_is_shown_without_a_reload(desk: Desk) -> None:
    async with desk.look() as page:
        await page.get_by_role("link", name="whisper").wait_for()
        await deploy(desk.site, "fresh", waiting=41)
        row = page.get_by_role("row").filter(has_text="fresh")
        await row.get_by_text("41").wait_for()
        worker = desk.site.control.add_worker("wk_" + "f" * 16, "fresh")
        show(desk.site, "fresh", in_flight=5)
        await row.get_by_text("1 ready of 1").wait_for()
        del desk.site.control.workers[worker.id]
        del desk.site.control.views["fresh"]
        del desk.site.control.deployed[worker.endpoint]
        await row.wait_for(state="detached")


async def test_hostile_texts_are_shown_as_they_are_and_do_nothing(desk: Desk) -> None:
    async with desk.look("endpoints/broken") as page:
        assert HOSTILE in await text_of(page)
        assert await page.locator("main img, main script").count() == 0
        await page.goto(f"{desk.url}#/endpoints/%3Cimg%20src%3Dx%20onerror%3D%22window.hacked%3D1%22%3E")
        await page.get_by_role("heading", name="<img src=x").wait_for()
        assert await page.locator("main img").count() == 0


async def test_gpus_say_who_holds_them_and_what_they_do_and_can_be_cordoned(desk: Desk) -> None:
    async with desk.look("gpus") as page:
        first = page.get_by_role("article", name="GPU 0")
        told = re.sub(r"\s+", " ", await first.inner_text())
        for fact in (
            "NVIDIA H100",
            "healthy",
            "Held by chat",
            "1000 MiB of 79.6 GiB",
            "87 %",
            "312 W · 71 °C",
        ):
            assert fact in told
        shared = await page.get_by_role("article", name="GPU 2").inner_text()
        assert shared.count("reserves") == 2
        await first.get_by_role("button", name="Cordon GPU 0").click()
        await page.get_by_role("dialog").get_by_role("button", name="Cordon").click()
        await first.get_by_text("cordoned").wait_for()
        await first.get_by_role("button", name="Uncordon GPU 0").click()
        await first.get_by_text("healthy").wait_for()
        assert desk.site.control.gpu_statuses[GpuUuid("GPU-0")].health == "healthy"


async def test_a_key_that_may_only_read_changes_nothing_and_is_told_so(desk: Desk) -> None:
    _, reader = await desk.site.keyring.create(label="", scopes=["read"])
    async with desk.look("endpoints/chat", key=reader) as page:
        button = page.get_by_role("button", name="Delete")
        await button.wait_for()
        assert await button.is_disabled()
        assert await button.get_attribute("title") == "Needs a key with the scope write."


async def test_a_worker_is_stopped_after_a_question(desk: Desk) -> None:
    async with desk.look("endpoints/embed") as page:
        worker = WorkerId("wk_" + "d" * 16)
        await page.get_by_role("button", name=f"Stop {worker}").click()
        await page.get_by_role("dialog").get_by_role("button", name="Keep").click()
        assert desk.site.control.workers[worker].state is not WorkerState.DRAINING
        await page.get_by_role("button", name=f"Stop {worker}").click()
        await page.get_by_role("dialog").get_by_role("button", name="Stop").click()
        await page.get_by_role("button", name=f"Kill {worker}").wait_for()
        assert desk.site.control.workers[worker].state is WorkerState.DRAINING


async def test_it_is_used_with_the_keyboard_alone(desk: Desk) -> None:
    async with desk.look() as page:
        await page.get_by_role("link", name="whisper").wait_for()
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent.trim()") == "To the content"
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"
        for _ in range(40):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.textContent") == "whisper":
                break
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="whisper").wait_for()
        assert await page.evaluate("document.activeElement.id") == "main"
        assert await page.title() == "whisper · gpud"


async def test_a_lost_line_is_told_and_all_is_right_again_when_it_is_back(desk: Desk) -> None:
    async with desk.look() as page:
        await page.get_by_role("link", name="whisper").wait_for()
        await page.context.set_offline(True)
        lost = page.get_by_text("The daemon does not answer. This page tries again by itself")
        cut_lines(desk.site)
        await lost.wait_for()
        await deploy(desk.site, "meanwhile")
        await page.context.set_offline(False)
        await page.get_by_role("link", name="meanwhile").wait_for()
        await lost.wait_for(state="detached")
        del desk.site.control.deployed[next(n for n in desk.site.control.deployed if n == "meanwhile")]
        await page.get_by_role("link", name="meanwhile").wait_for(state="detached")


async def test_a_box_with_nothing_on_it_says_what_to_do(desk: Desk) -> None:
    async with running_api() as empty:
        empty.control.gpu_statuses.clear()
        url = str(empty.client.make_url("/"))
        token = empty.admin["Authorization"].removeprefix("Bearer ")
        async with watched_page(desk.browser, url, key=token) as page:
            await page.get_by_text("There is no endpoint yet.").wait_for()
            assert "No GPU is known" in await text_of(page)


async def test_two_hundred_workers_are_shown_and_followed(desk: Desk) -> None:
    async with running_api() as crowded:
        for number in range(20):
            await deploy(crowded, f"many-{number:02}")
            for one in range(10):
                crowded.control.add_worker(f"wk_{number:02}{one:014}", f"many-{number:02}")
        url = str(crowded.client.make_url("/"))
        token = crowded.admin["Authorization"].removeprefix("Bearer ")
        async with watched_page(desk.browser, url, key=token) as page:
            await page.get_by_text("10 ready of 10").nth(19).wait_for()
            assert "Workers 200" in await text_of(page)
            show(crowded, "many-07", in_flight=1234)
            await page.get_by_role("row").filter(has_text="many-07").get_by_text("1234").wait_for()


async def test_nothing_is_wider_than_a_telephone(desk: Desk) -> None:
    async with desk.look(narrow=True, dark=True) as page:
        for path in ("", "gpus", "endpoints/chat", "endpoints/broken", f"workers/wk_{'a' * 16}"):
            await page.goto(f"{desk.url}#/{path}")
            await page.get_by_role("heading", level=1).wait_for()
            assert await page.evaluate("document.documentElement.scrollWidth") <= 375, path
        await page.get_by_role("button", name="Menu").click()
        await page.get_by_role("link", name="GPUs", exact=True).click()
        await page.get_by_role("article", name="GPU 0").wait_for()
