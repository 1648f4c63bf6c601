"""Takes pictures of every page of the dashboard, as WebP, light and dark, on a desk and on a telephone."""

from __future__ import annotations

import asyncio
import base64
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from gpud.settings import LogSettings
from gpud.telemetry import set_up_logging
from tests.contract.browser import WIDE, Desk, running_desk
from tests.contract.dashboard_estate import HOOK
from tests.contract.dashboard_past import CHAT_WORKER

if TYPE_CHECKING:
    from playwright.async_api import Page

_ODD = "CUDA driver version is insufficient for CUDA runtime version"
_HEIGHT_MAX = 1400

_PAGES = {
    "overview": "",
    "gpus": "gpus",
    "jobs": "jobs",
    "logs": "logs?endpoint=chat",
    "events": "events",
    "usage": "usage",
    "keys": "keys",
    "deploy": "deploy?template=vllm",
    "images": "images",
    "budgets": "budgets",
    "webhooks": "webhooks",
    "webhook": f"webhooks/{HOOK}",
    "audit-log": "audit-log",
    "endpoint": "endpoints/chat",
    "starts": "endpoints/chat/starts",
    "worker": f"workers/{CHAT_WORKER}",
}
_ALSO_DARK = ("overview", "usage", "starts", "budgets", "audit-log")
_ALSO_NARROW = ("overview", "jobs", "usage", "images", "webhook")

_TO_WEBP = """async png => {
    const image = await createImageBitmap(await (await fetch("data:image/png;base64," + png)).blob());
    const canvas = new OffscreenCanvas(image.width, image.height);
    canvas.getContext("2d").drawImage(image, 0, 0);
    const blob = await canvas.convertToBlob({type: "image/webp", quality: 0.6});
    const bytes = new Uint8Array(await blob.arrayBuffer());
    return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
}"""
"""The browser itself is the encoder, on an empty page, which has no policy."""


async def main(folder: Path) -> None:
    set_up_logging(LogSettings(level="error"))
    with tempfile.TemporaryDirectory() as logs:
        async with running_desk(Path(logs), odd=_ODD) as desk:
            for name, path in _PAGES.items():
                await _picture(desk, path, folder / f"dashboard-{name}.webp")
            for name in _ALSO_DARK:
                await _picture(desk, _PAGES[name], folder / f"dashboard-{name}-dark.webp", dark=True)
            for name in _ALSO_NARROW:
                await _picture(desk, _PAGES[name], folder / f"dashboard-{name}-narrow.webp", narrow=True)


async def _picture(desk: Desk, path: str, file: Path, *, dark: bool = False, narrow: bool = False) -> None:
    async with desk.look(path, key=desk.key, dark=dark, narrow=narrow) as page:
        await page.get_by_role("heading", level=1).wait_for()
        await asyncio.sleep(1.5)  # until charts are drawn
        if "workers/" in path:
            await _use_terminal(desk, page)
        height = min(_HEIGHT_MAX, int(await page.evaluate("document.documentElement.scrollHeight")))
        width = page.viewport_size["width"] if page.viewport_size else WIDE["width"]
        await page.set_viewport_size({"width": width, "height": max(height, 500)})
        await page.evaluate("scrollTo(0, 0)")
        await asyncio.sleep(0.3)
        png = base64.b64encode(await page.screenshot()).decode()
        encoder = await page.context.new_page()
        webp = base64.b64decode(await encoder.evaluate(_TO_WEBP, png))
        _keep(file, webp)


def _keep(file: Path, webp: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(webp)
    print(f"{file} {len(webp)} bytes")


async def _use_terminal(desk: Desk, page: Page) -> None:
    await page.get_by_role("button", name="Open a terminal").click()
    await page.locator(".xterm-screen").wait_for()
    while not desk.site.execs.opened:  # noqa: ASYNC110 waits for the daemon to be asked
        await asyncio.sleep(0.05)
    said = "# nvidia-smi -L\r\nGPU 0: \x1b[32mNVIDIA H100 80GB HBM3\x1b[0m (UUID: GPU-0)\r\n# "
    await desk.site.execs.opened[-1].write(said.encode())
    await page.get_by_text("GPU 0:").first.wait_for()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
