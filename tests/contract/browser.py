"""A real Chromium, driven by Playwright, that looks at the dashboard of a running API."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Page

CHROMIUM = os.environ.get("GPUD_TEST_CHROMIUM") or shutil.which("chromium") or ""

needs_chromium = pytest.mark.skipif(
    not CHROMIUM,
    reason="needs Chromium: install Debian's package chromium, or name one in GPUD_TEST_CHROMIUM",
)

WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 375, "height": 780}


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """One Chromium without a window."""
    # Its client warns of its own loop's transports when this is imported in other processes' collection.
    from playwright.async_api import async_playwright  # noqa: PLC0415

    async with async_playwright() as playwright:
        # Without its sandbox, which root cannot have; it is shown pages of this test alone.
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@asynccontextmanager
async def watched_page(
    browser: Browser, url: str, *, key: str = "", narrow: bool = False, dark: bool = False
) -> AsyncIterator[Page]:
    """A page of a browser without memory; it must raise no error, break no policy and ask no other host.

    Args:
        browser: Whose page.
        url: Of the dashboard, with what is behind the #.
        key: Signs in with it.
    """
    context = await browser.new_context(
        viewport=NARROW if narrow else WIDE,  # type: ignore[arg-type]
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    faults: list[str] = []
    if key:
        await context.add_init_script(f"sessionStorage.setItem('gpud.key', {key!r})")
    page = await context.new_page()
    page.set_default_timeout(15_000)
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("console", lambda told: faults.append(told.text) if _is_fault(told.type, told.text) else None)
    page.on("request", lambda sent: None if sent.url.startswith(_origin(url)) else faults.append(sent.url))
    await page.goto(url)
    yield page
    assert await page.evaluate("window.hacked") is None
    assert await page.evaluate("document.cookie") == ""
    await context.close()
    await asyncio.sleep(0)
    assert not faults


def _is_fault(kind: str, text: str) -> bool:
    """A refused request is told there too; the test says itself what it expects of those."""
    return kind in ("error", "warning") and not text.startswith("Failed to load resource")


def _origin(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])
