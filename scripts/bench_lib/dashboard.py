"""What the dashboard costs: bytes of its first load, time until it can be used, a look for those who follow.

The time is from the start of the navigation until all endpoints stand on the page and a message is answered,
in Chromium without a window on this machine: script, state and drawing included.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from gpud.api.state import FEED, StateFeed
from tests.contract.browser import CHROMIUM, key_of, running_browser, sit_down, url_of

if TYPE_CHECKING:
    from tests.contract.api_site import ApiSite

_PARTS = {"first load": "index", "charts": "uplot", "terminal": "xterm"}

_NOTE = """
const wanted = %d;
const look = () => {
  if (document.querySelectorAll("tbody tr").length >= wanted) {
    const heard = new MessageChannel();
    heard.port1.onmessage = () => { window.usableMs = performance.now(); };
    heard.port2.postMessage(null);
  } else requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""


async def sent_bytes(site: ApiSite) -> dict[str, int]:
    """What goes over the wire, packed, for the page and for what is loaded late."""
    page = await _sent(site, "/")
    found: dict[str, int] = {"first load": page[0]}
    names = set(re.findall(r'"(/assets/[^"]+)"', page[1]))
    for name in names:
        found["first load"] += (await _sent(site, name))[0]
    main = next(name for name in names if name.endswith(".js"))
    for name in set(re.findall(r"assets/[\w-]+\.(?:js|css)", (await _sent(site, main))[1])):
        part = next(part for part, prefix in _PARTS.items() if name.startswith(f"assets/{prefix}"))
        if f"/{name}" not in names:
            found[part] = found.get(part, 0) + (await _sent(site, f"/{name}"))[0]
    return found


async def _sent(site: ApiSite, path: str) -> tuple[int, str]:
    async with site.client.get(path, headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.status == 200
        return int(answer.headers["Content-Length"]), await answer.text()


async def usable_ms(site: ApiSite, rounds: int) -> dict[str, list[float]]:
    """Until the overview stands and answers: the first time in a browser, and again."""
    samples: dict[str, list[float]] = {"first time": [], "again": []}
    if not CHROMIUM:
        return {}
    async with running_browser() as browser:
        for _ in range(rounds):
            seat = await sit_down(browser, site, key_of(site))
            page = seat.page
            await page.add_init_script(_NOTE % len(site.control.deployed))
            for times in samples.values():
                await page.goto(url_of(site))
                usable = await page.wait_for_function("window.usableMs")
                times.append(float(await usable.json_value()))
            await seat.context.close()
    return samples


async def look_ms(site: ApiSite, rounds: int) -> dict[str, list[float]]:
    """One look at the fleet, which all who follow share."""
    samples: dict[str, list[float]] = {"everything is new": [], "nothing changed": []}
    for _ in range(rounds):
        feed: StateFeed = type(site.app[FEED])(site.app[FEED].services)
        for times in samples.values():
            began_s = time.perf_counter()
            await feed.look()
            times.append((time.perf_counter() - began_s) * 1000)
    return samples
