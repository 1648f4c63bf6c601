"""A real Chromium, driven by Playwright, that looks at the dashboard of a running API."""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gpud.api import state
from gpud.core.stats_history import StatsHistory
from gpud.money_settings import PriceSettings
from gpud.ports.readings import Readings
from gpud.settings import Settings
from tests.contract.api_site import ApiSite, running_api
from tests.contract.dashboard_estate import BUDGETS, endow
from tests.contract.dashboard_past import remember
from tests.contract.dashboard_world import HOSTILE, furnish, readings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import Browser, BrowserContext, Page, ViewportSize

CHROMIUM = os.environ.get("GPUD_TEST_CHROMIUM") or shutil.which("chromium") or ""

needs_chromium = pytest.mark.skipif(
    not CHROMIUM,
    reason="needs Chromium: install Debian's package chromium, or name one in GPUD_TEST_CHROMIUM",
)

WIDE: ViewportSize = {"width": 1280, "height": 900}
NARROW: ViewportSize = {"width": 375, "height": 780}
PRICES = PriceSettings(currency="EUR", gpu_hour_micros=2_400_000)


class Desk:
    """One browser before one furnished box, for all tests of a module.

    Args:
        site: The box.
        log_root: Where its workers' output is kept.
    """

    def __init__(self, site: ApiSite, browser: Browser, log_root: Path) -> None:
        self.site = site
        self.log_root = log_root
        self.url = url_of(site)
        self.key = key_of(site)
        self._browser = browser
        self._seat: Seat | None = None

    @asynccontextmanager
    async def look(
        self, path: str = "", *, key: str | None = None, narrow: bool = False, dark: bool = False
    ) -> AsyncIterator[Page]:
        """The page at a path, signed in with the key; most tests sit down in the same seat."""
        if key is None and not narrow and not dark:
            if self._seat is None:
                self._seat = await sit_down(self._browser, self.site, self.key)
            async with self._seat.watched(f"{self.url}#/{path}") as page:
                yield page
            return
        seat = await sit_down(
            self._browser, self.site, self.key if key is None else key, narrow=narrow, dark=dark
        )
        async with seat.watched(f"{self.url}#/{path}") as page:
            yield page
        await seat.context.close()

    @asynccontextmanager
    async def look_at(self, site: ApiSite) -> AsyncIterator[Page]:
        """Another box, by its administrator."""
        seat = await sit_down(self._browser, site, key_of(site))
        async with seat.watched(url_of(site)) as page:
            yield page
        await seat.context.close()


class Seat:
    """A page whose mishaps are noted: errors, broken policies, requests to other hosts."""

    def __init__(self, context: BrowserContext, page: Page, origin: str) -> None:
        self.context = context
        self.page = page
        self._faults: list[str] = []
        page.on("pageerror", lambda error: self._faults.append(f"error: {error}"))
        page.on("console", lambda told: self._note(told.type, told.text))
        page.on(
            "request", lambda sent: None if sent.url.startswith(origin) else self._faults.append(sent.url)
        )

    def _note(self, kind: str, text: str) -> None:
        """A refused request is told there too; the test says itself what it expects of those."""
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self._faults.append(text)

    @asynccontextmanager
    async def watched(self, url: str) -> AsyncIterator[Page]:
        """Go there; nothing must go wrong until the test is over."""
        self._faults.clear()  # of a test that failed
        await self.page.goto(url)
        yield self.page
        assert await self.page.evaluate("window.hacked") is None
        assert await self.page.evaluate("document.cookie") == ""
        assert not self._faults
        await self.page.goto(url.partition("#")[0] + "#/nowhere")


async def sit_down(
    browser: Browser, site: ApiSite, key: str, *, narrow: bool = False, dark: bool = False
) -> Seat:
    """A browser without memory before a box; an empty key is not signed in."""
    context = await browser.new_context(
        viewport=NARROW if narrow else WIDE,
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    if key:
        await context.add_init_script(f"sessionStorage.setItem('gpud.key', {key!r})")
    page = await context.new_page()
    page.set_default_timeout(15_000)
    return Seat(context, page, url_of(site))


def url_of(site: ApiSite) -> str:
    """Of its dashboard."""
    return str(site.client.make_url("/"))


def key_of(site: ApiSite) -> str:
    """Its administrator's."""
    return site.admin["Authorization"].removeprefix("Bearer ")


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """One Chromium without a window."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 where there is no Chromium, it may miss too

    async with async_playwright() as playwright:
        # Without its sandbox, which root cannot have; it is shown pages of these tests alone.
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@asynccontextmanager
async def running_desk(log_root: Path, odd: str = HOSTILE) -> AsyncIterator[Desk]:
    """A furnished box with a past, and a browser before it; `odd` is what others say there."""
    places: list[ApiSite] = []
    history = StatsHistory(10.0)
    seen = Readings(gpu_readings=lambda: readings(places[0]), history=history)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "LOOK_PERIOD_S", 0.05)
        async with (
            running_api(Settings(prices=PRICES, budgets=BUDGETS), readings=seen, log_root=log_root) as site,
            running_browser() as browser,
        ):
            places.append(site)
            await furnish(site, odd)
            await remember(site, log_root, history, odd)
            await endow(site, odd)
            yield Desk(site, browser, log_root)


def cut_lines(site: ApiSite) -> None:
    """Break every connection off, as when the daemon dies."""
    runner = site.client.server.runner
    assert runner is not None
    assert runner.server is not None
    for connection in runner.server.connections:
        if connection.transport is not None:
            connection.transport.abort()
