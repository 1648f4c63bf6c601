"""The dashboard in a real browser, on a real API over a fake fleet."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import structlog.testing
from aiohttp import web

from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.job import JobState
from gpud.core.records import EventRecorded
from gpud.core.worker import WorkerState
from gpud.ports.control import EndpointCondition
from tests.contract.api_site import running_api
from tests.contract.browser import WIDE, Desk, cut_lines, needs_chromium, running_desk
from tests.contract.dashboard_agreement import (
    KINDS,
    empty_of_states,
    fill_with_states,
    told_by_api,
    told_by_cli,
    told_by_page,
)
from tests.contract.dashboard_estate import ENTRIES, HOOK, OLD_HOOK, PASSWORD
from tests.contract.dashboard_past import CHAT_WORKER, add_job, fail_job, write_line
from tests.contract.dashboard_world import HOSTILE, deploy, show

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import Page, Route

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
        del desk.site.control.views["fresh"]
        del desk.site.control.deployed[worker.endpoint]
        await page.get_by_role("heading", name="Workers of deleted endpoints").wait_for()
        await row.filter(has_text=worker.id).wait_for()
        del desk.site.control.workers[worker.id]
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
    "budgets",
    "images",
    "webhooks",
    f"webhooks/{HOOK}",
    "webhooks/jobs",
    "audit-log",
    "keys",
    "deploy?template=vllm",
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
            await page.wait_for_function("() => !/Asking…|Loading…/.test(document.body.innerText)")
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
        assert "Woken by: 7 requests waited. Rule: queue_delay." in shown
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


async def asked(desk: Desk, path: str) -> Any:
    """What the API says."""
    async with desk.site.client.get(path, headers=desk.site.admin) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_page_command_line_and_api_tell_the_same_state_in_the_same_word(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert desk.site.client.server.runner is not None
    unix = web.UnixSite(desk.site.client.server.runner, str(tmp_path / "api.sock"))
    await unix.start()
    monkeypatch.setenv("GPUD_SOCKET", str(tmp_path / "api.sock"))
    await fill_with_states(desk.site)
    try:
        with structlog.testing.capture_logs():  # a daemon's log is not in its client's output
            async with desk.look() as page:
                for kind in KINDS:
                    api = await told_by_api(desk.site, kind)
                    as_json, in_table = await told_by_cli(kind, capfd)
                    shown = await told_by_page(desk, page, kind)
                    assert api == as_json == in_table == shown
                    expected: dict[str, set[str]] = {"endpoint": set(EndpointCondition), "job": set(JobState)}
                    assert expected.get(kind, set()) <= set(api.values())
    finally:
        empty_of_states(desk.site)
        await unix.stop()


async def test_images_say_who_needs_them_and_are_brought_and_removed(desk: Desk) -> None:
    async with desk.look("images") as page:
        await page.get_by_role("cell", name="mine:1").first.wait_for()
        assert HOSTILE in await text_of(page)
        table = page.get_by_role("table", name="Images")
        for one in (await asked(desk, "/v1/images"))["items"]:
            row = table.get_by_role("row").filter(has_text=one["id"].removeprefix("sha256:")[:12])
            shown = re.sub(r"\s+", " ", await row.inner_text())
            assert f"{one['size_bytes'] / (1 << 30):.1f} GiB" in shown
            assert (" ".join(one["endpoints"]) or "nobody") in shown
            assert ("gpud did not pull it" in shown) == (one["used_at"] is None)
            assert await row.get_by_role("button").count() == (0 if one["endpoints"] else 1)
        assert "6.0 GiB of 14.0 GiB, 9 of 22 layers" in await text_of(page)
        form = page.locator("form", has=page.get_by_role("heading", name="Prewarm"))
        await form.get_by_label("Image").fill("team/next:2")
        await form.get_by_label("Registry").select_option("ghcr")
        await form.get_by_role("button", name="Prewarm").click()
        await form.get_by_text("There is no registry named 'ghcr'").wait_for()  # this fleet has none
        await form.get_by_label("Registry").select_option("")
        await form.get_by_role("button", name="Prewarm").click()
        await page.get_by_role("article", name="Pull of team/next:2@").wait_for()
        await page.get_by_role("button", name="Show what nobody needs").click()
        gone = page.get_by_role("table", name="What would go")
        await gone.get_by_text("would go").first.wait_for()
        assert "kept: pinned" in re.sub(r"\s+", " ", await gone.inner_text())
        await page.get_by_role("button", name="Remove team/old@").click()
        await page.get_by_role("dialog").get_by_role("button", name="Remove").click()
        await table.get_by_role("row").filter(has_text="team/old").wait_for(state="detached")
    for pin in [one for one in desk.site.control.running_pulls if one.startswith("team/")]:
        del desk.site.control.running_pulls[pin]


async def test_a_registry_is_stored_listed_and_forgotten_and_its_password_is_never_shown(desk: Desk) -> None:
    async with desk.look("images") as page:
        table = page.get_by_role("table", name="Registries")
        await table.get_by_role("cell", name="ghcr.io").wait_for()
        form = page.locator("form", has=page.get_by_role("heading", name="New credential"))
        password = form.get_by_label("Password or token")
        assert await password.get_attribute("type") == "password"
        assert await password.get_attribute("autocomplete") == "new-password"
        for label, value in (("Name", "Not A Name"), ("Host", "quay.io"), ("Username", "me")):
            await form.get_by_label(label, exact=True).fill(value)
        await password.fill(PASSWORD)
        await form.get_by_role("button", name="Store").click()
        await form.get_by_text("must have 1 to 40 characters").wait_for()
        assert await form.get_by_label("Name", exact=True).get_attribute("aria-invalid") == "true"
        await form.get_by_label("Name", exact=True).fill("quay")
        await form.get_by_role("button", name="Store").click()
        await table.get_by_role("cell", name="quay.io").wait_for()
        assert PASSWORD not in await page.content()
        assert await password.input_value() == ""
        stored = await desk.site.store.access.registry("quay")
        assert stored is not None
        assert stored.password == PASSWORD
        await page.get_by_role("button", name="Forget quay").click()
        await page.get_by_role("dialog").get_by_role("button", name="Forget").click()
        await table.get_by_role("cell", name="quay.io").wait_for(state="detached")


async def test_a_webhook_is_made_its_deliveries_are_told_and_sent_again(desk: Desk) -> None:
    async with desk.look("webhooks") as page:
        row = page.get_by_role("row").filter(has_text="app.example")
        await row.get_by_text("failing").wait_for()
        assert HOSTILE in await row.inner_text()
        old = await page.get_by_role("row").filter(has_text="old.example").inner_text()
        assert "disabled" in old
        assert "Its receiver answered 410" in old
        await page.get_by_label("Address").fill("https://127.0.0.1/")
        await page.get_by_label("Is told").fill("worker.failed nonsense.*")
        await page.get_by_role("button", name="Make a webhook").click()
        await page.locator(".wrong").first.wait_for()
        await page.get_by_label("Address").fill("https://93.184.215.14/made")
        await page.get_by_label("Is told").fill("worker.failed, job.*")
        await page.get_by_role("button", name="Make a webhook").click()
        secret = await page.locator(".token").inner_text()
        await page.get_by_role("link", name="https://93.184.215.14/made").click()
        await page.get_by_role("heading", name="https://93.184.215.14/made").wait_for()
        assert secret.startswith("whsec_")
        assert secret not in await page.content()
        await page.get_by_role("button", name="Test").click()
        await page.get_by_role("heading", name="msg_").wait_for()
        await page.locator(".word", has_text="waiting").wait_for()
        assert '"type": "webhook.test"' in await text_of(page)
        await page.goto(f"{desk.url}#/webhooks/{HOOK}")
        told = (await asked(desk, f"/v1/webhooks/{HOOK}/deliveries"))["items"]
        assert {one["state"] for one in told} == {"waiting", "delivered", "failed"}
        await page.get_by_role("link", name=told[0]["id"]).wait_for()
        for one in told:
            row = page.get_by_role("row").filter(has_text=one["id"])
            assert await row.locator(".word").inner_text() == one["state"]
        failed = next(one["id"] for one in told if one["state"] == "failed")
        await page.get_by_role("link", name=failed).click()
        await page.get_by_role("row").filter(has_text="It answered 500.").last.get_by_text("Answer").click()
        assert HOSTILE in await page.locator("td pre").inner_text()
        await page.get_by_role("button", name=f"Send {failed} again").click()
        await page.locator(".word", has_text="waiting").wait_for()
        await page.goto(f"{desk.url}#/webhooks/{OLD_HOOK}")
        await page.get_by_role("button", name="Enable").click()
        await page.get_by_role("button", name="Disable").wait_for()
        assert (await asked(desk, f"/v1/webhooks/{OLD_HOOK}"))["enabled"]


async def test_budgets_say_what_the_api_says(desk: Desk) -> None:
    async with desk.look("budgets") as page:
        await page.get_by_role("article").first.wait_for()
        for one in (await asked(desk, "/v1/budgets"))["items"]:
            card = page.get_by_role("article", name=f"Budget of {one['id']}")
            shown = re.sub(r"\s+", " ", await card.inner_text())
            assert await card.locator(".word").inner_text() == one["state"]
            assert f"{one['used_percent']:g} %" in shown
            assert ", ".join(f"{percent} %" for percent in one["warn_percent"]) in shown
            assert f"{one['detail']} {one['refuses']}".strip() in shown


async def test_the_audit_log_is_searched_page_by_page_and_by_administrators_alone(desk: Desk) -> None:
    async with desk.look("audit-log") as page:
        await page.get_by_label("Caller").fill("key_abcdefghijkl")
        await page.get_by_label("Operation").fill("exec_worker")
        await page.keyboard.press("Enter")
        rows = page.get_by_role("table", name="Audit log").locator("tbody tr")
        await page.get_by_text("put_endpoint").wait_for(state="detached")
        assert HOSTILE in await rows.first.inner_text()
        assert "from 192.0.2.7" in await rows.first.inner_text()
        await page.get_by_label("Caller").fill("")
        await page.get_by_label("Operation").fill("")
        await page.get_by_label("Subject").fill("endpoints/chat")
        await page.keyboard.press("Enter")
        change = rows.first.get_by_role("group")
        (last, *_) = (await asked(desk, "/v1/audit-log?subject=endpoints/chat"))["items"]
        await change.get_by_text(f"{last['before'][:8]} > {last['after'][:8]}").click()
        assert last["after"] in await change.inner_text()
        await page.get_by_label("Subject").fill("")
        await page.get_by_label("Caller").fill("local")  # what the tests change is written down too
        await page.keyboard.press("Enter")
        newest = f"entry {ENTRIES - 2}"
        await page.get_by_text(newest, exact=True).wait_for()
        await page.get_by_role("button", name="Older").click()
        await page.get_by_text("entry 1", exact=True).wait_for()
        await page.get_by_role("button", name="Newer").click()
        await page.get_by_text(newest, exact=True).wait_for()


async def test_a_template_fills_the_form_and_is_deployed_as_it_is(desk: Desk) -> None:
    template = next(one for one in (await asked(desk, "/v1/templates"))["items"] if one["name"] == "vllm")
    async with desk.look("deploy") as page:
        await page.get_by_label("Start from the template").select_option("vllm")
        await page.get_by_text(template["about"], exact=True).wait_for()
        assert await page.get_by_label("image", exact=True).input_value() == template["image"]
        assert await page.get_by_label("sleep.preset").input_value() == "vllm"
        async with page.expect_request(lambda sent: sent.method == "POST") as sent:
            await page.get_by_role("button", name="Deploy").click()
        assert json.loads((await sent.value).post_data or "") == template["spec"]
        await page.get_by_role("heading", name="vllm", exact=True).wait_for()
    del desk.site.control.deployed[EndpointName("vllm")]


async def test_what_a_key_may_is_asked_again_and_a_lost_part_says_what_to_do(desk: Desk) -> None:
    refusals = 1

    async def refuse(call: Route) -> None:
        nonlocal refusals
        refusals -= 1
        await (call.fulfill(status=503, json={"detail": "not now"}) if refusals >= 0 else call.fallback())

    async with desk.look(key="") as page:
        assert await page.get_by_label("API key").get_attribute("autocomplete") == "current-password"
        assert await page.locator("input[autocomplete=username]").count() == 1
        await page.evaluate(f"sessionStorage.setItem('gpud.key', {desk.key!r})")
        await page.route("**/v1/own-key", refuse)
        await page.route("**/assets/budgets-*", lambda call: call.abort())
        await page.goto(f"{desk.url}?again#/endpoints/whisper")
        await page.locator("button:enabled", has_text="Delete").wait_for()
        assert refusals < 0
        await page.get_by_role("link", name="Budgets").click()
        await page.get_by_text("load the page anew").wait_for()


async def test_the_colours_are_the_system_s_or_those_that_were_chosen(desk: Desk) -> None:
    dark, light = "rgb(17, 22, 20)", "rgb(246, 247, 246)"
    async with desk.look(key=desk.key, dark=True) as page:
        for chosen, expected in (("auto", dark), ("light", light), ("dark", dark)):
            await page.get_by_label("Colours").select_option(chosen)
            assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == expected
        await page.emulate_media(color_scheme="light")
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
        await page.get_by_label("Colours").select_option("auto")
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == light
