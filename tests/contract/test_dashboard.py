"""The dashboard in a real browser, on a real API over a fake fleet."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.job import JobState
from gpud.core.records import EventRecorded
from gpud.core.worker import WorkerState
from tests.contract.api_site import running_api
from tests.contract.browser import WIDE, Desk, cut_lines, needs_chromium, running_desk
from tests.contract.dashboard_past import CHAT_WORKER, add_job, fail_job, write_line
from tests.contract.dashboard_world import HOSTILE, deploy, show

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Page

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs_chromium]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    async with running_desk(tmp_path_factory.mktemp("logs")) as desk:
        yield desk


async def text_of(page: Page, selector: str = "main") -> str:
    """What a person reads there."""
    return re.sub(r"\s+", " ", await page.locator(selector).inner_text())


async def test_nothing_is_shown_without_a_key_and_each_key_may_do_what_it_may(desk: Desk) -> None:
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
        _, reader = await desk.site.keyring.create(label="", scopes=["read"])
        await field.fill(reader)
        await field.press("Enter")
        await page.get_by_role("link", name="whisper").click()
        button = page.get_by_role("button", name="Delete")
        await button.wait_for()
        assert await button.is_disabled()
        assert await button.get_attribute("title") == "Needs a key with the scope write."


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


async def test_a_worker_is_stopped_after_a_question(desk: Desk) -> None:
    async with desk.look("endpoints/embed") as page:
        worker = WorkerId("wk_" + "d" * 16)
        await page.get_by_role("button", name=f"Stop {worker}").click()
        await page.get_by_role("dialog").get_by_role("button", name="Keep").click()
        await page.wait_for_function(f"document.activeElement.getAttribute('aria-label') === 'Stop {worker}'")
        assert desk.site.control.workers[worker].state is not WorkerState.DRAINING
        await page.get_by_role("button", name=f"Stop {worker}").click()
        await page.get_by_role("dialog").get_by_role("button", name="Stop").click()
        await page.get_by_role("button", name=f"Kill {worker}").wait_for()
        assert desk.site.control.workers[worker].state is WorkerState.DRAINING


async def test_it_is_used_with_the_keyboard_alone(desk: Desk) -> None:
    async with desk.look(key=desk.key) as page:
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
        await page.wait_for_function("document.activeElement.id === 'main'")
        await page.wait_for_function("document.title === 'whisper · gpud'")


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
        async with desk.look_at(empty) as page:
            await page.get_by_text("There is no endpoint yet.").wait_for()
            assert "No GPU is known" in await text_of(page)


async def test_two_hundred_workers_are_shown_and_followed(desk: Desk) -> None:
    async with running_api() as crowded:
        for number in range(20):
            await deploy(crowded, f"many-{number:02}")
            for one in range(10):
                crowded.control.add_worker(f"wk_{number:02}{one:014}", f"many-{number:02}")
        async with desk.look_at(crowded) as page:
            await page.get_by_text("10 ready of 10").nth(19).wait_for()
            assert "Workers 200" in await text_of(page)
            show(crowded, "many-07", in_flight=1234)
            await page.get_by_role("row").filter(has_text="many-07").get_by_text("1234").wait_for()


PAGES = [
    "",
    "gpus",
    "jobs",
    "logs?endpoint=chat",
    "events",
    "usage",
    "keys",
    "deploy",
    "endpoints/chat",
    "endpoints/broken",
    "endpoints/broken/edit",
    "endpoints/chat/starts",
    "endpoints/chat/revisions",
    f"workers/{CHAT_WORKER}",
    "nowhere",
]


NAMELESS = """() => [...document.querySelectorAll('button, a, input, select, textarea')].filter(one => {
    const label = one.labels && one.labels[0] && one.labels[0].textContent.trim();
    return !(label || one.getAttribute('aria-label') || one.textContent.trim());
}).map(one => one.outerHTML)"""


async def test_no_page_is_wider_than_a_telephone_and_all_that_is_used_has_a_name(desk: Desk) -> None:
    async with desk.look(narrow=True, dark=True) as page:
        for path in PAGES:
            await page.goto(f"{desk.url}#/{path}")
            await page.get_by_role("heading", level=1).wait_for()
            assert await page.evaluate("document.documentElement.scrollWidth") <= 375, path
            assert await page.evaluate(NAMELESS) == [], path
        await page.get_by_role("button", name="Menu").click()
        await page.get_by_role("link", name="GPUs", exact=True).click()
        await page.get_by_role("article", name="GPU 0").wait_for()


async def test_lines_are_searched_by_the_daemon_and_followed(desk: Desk) -> None:
    async with desk.look("logs?endpoint=chat") as page:
        panel = page.get_by_role("log")
        await panel.get_by_text("line 599").wait_for()
        assert HOSTILE in await panel.inner_text()
        assert await panel.locator("img, script").count() == 0
        assert "\x1b" not in await panel.inner_text()
        await page.get_by_label("Search").fill("line 42")
        await page.keyboard.press("Enter")
        await panel.locator("mark", has_text="line 42").first.wait_for()
        assert await panel.locator("p").count() == 11
        write_line(desk.site, desk.log_root, b"a fresh line 42")
        await panel.get_by_text("a fresh line 42").wait_for()
        await page.get_by_label("Regular expression").check()
        await page.get_by_label("Search").fill("(")
        await page.keyboard.press("Enter")
        await page.get_by_text("RE2").wait_for()


async def test_older_lines_come_before_those_that_are_shown(desk: Desk) -> None:
    async with desk.look("logs?endpoint=chat") as page:
        panel = page.get_by_role("log")
        await panel.get_by_text("line 599").wait_for()
        assert await panel.locator("p").count() < 500
        await panel.get_by_role("button", name="Show older lines").click()
        await panel.get_by_text(re.compile(r"line 0$")).wait_for()
        texts = re.findall(r"line (\d+)$", await panel.inner_text(), re.MULTILINE)
        assert [int(text) for text in texts if text != "42"][:100] == [n for n in range(101) if n != 42]


async def test_events_are_shown_as_they_happen(desk: Desk) -> None:
    async with desk.look("events") as page:
        await page.get_by_text("number 129").wait_for()
        assert HOSTILE in await text_of(page)
        now_ms = desk.site.clock.at_ms()
        event = EventRecorded(kind="worker.ready", at_ms=now_ms, endpoint="chat", facts={"total_ms": 987_654})
        await desk.site.store.fleet.record([event])
        await page.get_by_text("total_ms 987654").wait_for()
        await page.get_by_role("button", name="Show older events").click()
        await page.get_by_text("number 3 detail").wait_for()


async def test_a_job_says_why_it_is_where_it_is_and_can_be_cancelled_and_tried_again(desk: Desk) -> None:
    waits, failed = await add_job(desk.site, 50), await add_job(desk.site, 51)
    await fail_job(desk.site, failed)
    async with desk.look("jobs") as page:
        row = page.get_by_role("row").filter(has_text=failed.id)
        shown = re.sub(r"\s+", " ", await row.inner_text())
        assert all(
            word in shown for word in ("FAILED", "dead letter", "worker_died", HOSTILE, "1 of 1", "4.2 s")
        )
        assert "waiting_for_slot" in await page.get_by_role("row").filter(has_text=waits.id).inner_text()
        await page.get_by_role("button", name=f"Retry {failed.id}").click()
        await row.get_by_text("IN_QUEUE").wait_for()
        await page.get_by_role("button", name=f"Cancel {waits.id}").click()
        await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        await (
            page.get_by_role("row").filter(has_text=waits.id).get_by_text("CANCELLED", exact=True).wait_for()
        )
        await row.get_by_role("link", name=failed.id).click()
        await page.get_by_text("Last output").click()
        assert "CUDA out of memory" in await text_of(page)
        after = await desk.site.store.jobs.job(failed.id)
        assert after is not None
        assert (after.state, after.redrives) == (JobState.IN_QUEUE, 1)


async def test_a_cold_start_is_taken_apart(desk: Desk) -> None:
    async with desk.look("endpoints/chat/starts") as page:
        first = page.get_by_role("article").first
        shown = re.sub(r"\s+", " ", await first.inner_text())
        assert "1 min 30 s" in shown
        assert "pull 1 min 1 s" in shown
        assert "Slower than usual" in shown
        assert await page.get_by_role("article").count() == 8


async def test_usage_is_drawn_and_adds_up_to_what_the_api_says(desk: Desk) -> None:
    async with desk.look("usage?span=7%20d") as page:
        await page.locator("figure canvas").nth(1).wait_for()
        async with desk.site.client.get("/v1/usage", headers=desk.site.admin) as response:
            told = (await response.json())["total"]
        shown = await text_of(page)
        assert f"Cost {told['cost_micros'] / 1e6:.2f} EUR" in shown
        assert f"Worker sessions {told['sessions']}" in shown
        drawn = await page.locator("figure canvas").first.evaluate(
            "one => one.getContext('2d').getImageData(0, 0, one.width, one.height).data.some(byte => byte)"
        )
        assert drawn


async def test_a_new_endpoint_is_refused_field_by_field_then_tried_then_deployed(desk: Desk) -> None:
    async with desk.look("deploy") as page:
        await page.get_by_label("name", exact=True).fill("Not A Name")
        await page.get_by_label("scale.max_workers").fill("many")
        await page.get_by_label("volumes").fill('[{"source": "models"}]')
        await page.get_by_role("button", name="Deploy").click()
        wrong = page.locator(".field", has=page.get_by_label("name", exact=True)).locator(".wrong")
        await wrong.get_by_text("must start with a letter").wait_for()
        await page.wait_for_function("document.activeElement.id === 'field-name'")
        told = await page.locator(".wrong").all_inner_texts()
        assert "is required" in told
        assert "must be a whole number" in told
        assert "0.target: is required" in told
        await page.get_by_label("name", exact=True).fill("formed")
        await page.get_by_label("image", exact=True).fill("team/model:1")
        await page.get_by_label("scale.max_workers").fill("3")
        await page.get_by_label("volumes").fill("")
        await page.get_by_label("env", exact=True).fill("A=1\nHTML=<b>&=x")
        await page.get_by_text("When a worker is ready.").click()
        await page.get_by_label("health.start_timeout_s").fill("900")
        await page.get_by_role("button", name="Dry run").click()
        await page.get_by_text("a new endpoint").wait_for()
        assert "Held by other." in await text_of(page)
        assert "formed" not in desk.site.control.deployed
        await page.get_by_role("button", name="Deploy").click()
        await page.get_by_role("heading", name="formed").wait_for()
    spec = desk.site.control.deployed.pop(EndpointName("formed")).spec
    assert (spec.scale.max_workers, spec.health.start_timeout_s) == (3, 900)
    assert dict(spec.env) == {"A": "1", "HTML": "<b>&=x"}


async def test_an_edit_sends_only_what_was_changed(desk: Desk) -> None:
    await deploy(desk.site, "edited")
    async with desk.look("endpoints/edited/edit") as page:
        assert await page.get_by_label("name", exact=True).is_disabled()
        await page.get_by_label("scale.max_workers").fill("7")
        await page.get_by_label("env", exact=True).fill("B=2")
        async with page.expect_request(lambda sent: sent.method == "PATCH") as sent:
            await page.get_by_role("button", name="Change").click()
        assert json.loads((await sent.value).post_data or "") == {
            "env": {"B": "2"},
            "scale": {"max_workers": 7},
        }
        await page.get_by_role("heading", name="edited").wait_for()
    spec = desk.site.control.deployed.pop(EndpointName("edited")).spec
    assert (spec.scale.max_workers, dict(spec.env)) == (7, {"B": "2"})


async def test_a_key_is_made_shown_once_and_disabled(desk: Desk) -> None:
    async with desk.look("keys") as page:
        await page.get_by_label("Label").fill(HOSTILE[:90])
        await page.get_by_label("Other scopes").fill("nonsense")
        await page.get_by_role("button", name="Make a key").click()
        await page.get_by_text("must be admin, read").wait_for()
        await page.get_by_label("Other scopes").fill("invoke:chat")
        await page.get_by_role("button", name="Make a key").click()
        token = await page.locator(".token").inner_text()
        assert desk.site.keyring.authorize(token, "invoke:chat").label == HOSTILE[:90]
        row = page.get_by_role("row").filter(has_text=HOSTILE[:90])
        await row.get_by_role("button", name="Disable").click()
        await page.get_by_role("dialog").get_by_role("button", name="Disable").click()
        await row.get_by_text("disabled").wait_for()


async def test_a_terminal_passes_keys_and_output_both_ways(desk: Desk) -> None:
    async with desk.look(f"workers/{CHAT_WORKER}") as page:
        await page.locator("figure canvas").nth(3).wait_for()
        await page.get_by_role("button", name="Open a terminal").click()
        screen = page.locator(".xterm-screen")
        await screen.wait_for()
        async with asyncio.timeout(15):
            while not desk.site.execs.opened:  # noqa: ASYNC110 waits on a condition, with a deadline
                await asyncio.sleep(0.02)
        command = desk.site.execs.opened[-1]
        assert (command.request.command, command.request.tty) == (("/bin/sh",), True)
        await command.write(b"\x1b[38;2;255;128;0mbox:~#\x1b[0m ")
        rows = page.locator(".xterm-rows")
        colour = rows.locator("span", has_text="box:~#").first
        assert await colour.evaluate("one => getComputedStyle(one).color") == "rgb(255, 128, 0)"
        await page.keyboard.type("echo <b>")  # this command gives back what is typed
        await rows.get_by_text("echo <b>").wait_for()
        await page.set_viewport_size({"width": 700, "height": 900})
        async with asyncio.timeout(15):
            while command.sizes[-1] == command.sizes[0]:  # noqa: ASYNC110 the same
                await asyncio.sleep(0.02)
        await page.keyboard.press("Shift+Escape")
        assert await page.evaluate("document.activeElement.textContent") == "Close the terminal"
        command.end(3)
        await page.get_by_text("The command ended with code 3.").wait_for()
        await page.set_viewport_size(WIDE)
