"""Keeps the images that endpoints need on the box, and the others from filling its disk."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from gpud.core.image_gc import plan_images
from gpud.core.revision import RevisionState
from gpud.core.windows import WarmWindow
from gpud.errors import Conflict, GpudError
from gpud.ports.images import ImageCollection

if TYPE_CHECKING:
    from gpud.core.endpoint import PinnedImage
    from gpud.core.ids import EndpointName
    from gpud.core.image_gc import ImagePolicy, PulledImage
    from gpud.fleet.hands import Hands
    from gpud.fleet.prewarmer import Prewarmer
    from gpud.ports.calendar import Calendar
    from gpud.ports.images import LocalImage

log = structlog.get_logger(__name__)

_KEPT_REVISIONS = (RevisionState.DEPLOYING, RevisionState.CURRENT, RevisionState.LAST_GOOD)
_FIRST_CHECK_S = 2.0
"""After the start, which has to do with the engine itself first."""
_CHECK_LATEST_S = 3600.0
_CHECK_SOONEST_S = 10.0


class ImageKeeper:
    """Looks after images at the start, on a schedule, before pulls and when it is asked.

    Args:
        hands: The fleet.
        prewarmer: Makes the pulls.
        policy: Limits and schedule.
        calendar: Of the schedule.
    """

    def __init__(self, hands: Hands, prewarmer: Prewarmer, policy: ImagePolicy, calendar: Calendar) -> None:
        self._hands = hands
        self._prewarmer = prewarmer
        self._policy = policy
        self._calendar = calendar
        self._schedule = WarmWindow(start=policy.check_cron, duration_s=1.0, time_zone=policy.time_zone)
        self._used_at_ms: dict[str, int] = {}
        self._told_over = False
        self._collecting = asyncio.Lock()

    async def run(self) -> None:
        """Check now and then for as long as the daemon runs."""
        await asyncio.sleep(_FIRST_CHECK_S)
        while True:
            try:
                self.pull_missing()
                if self._has_limits:
                    await self.collect(dry_run=False, everything=False)
            except GpudError as error:  # The engine is away, or an image came into use: the next check comes.
                log.warning("image.check_postponed", error=error.detail)
            await asyncio.sleep(self._until_next_s())

    def pull_missing(self) -> None:
        """Begin the pulls of images that endpoints need and the box has not."""
        state = self._hands.state
        if not state.engine_up:
            return
        for endpoint in tuple(state.endpoints.values()):
            for each in (endpoint, state.serving(endpoint)):
                # An image that was built here is in no registry.
                if each.image.pin not in state.images_present and "@" in each.image.pin:
                    self._prewarmer.start(each.image, each.spec.registry)

    async def make_room(self, image: PinnedImage) -> str:
        """Called before a pull: remove what nobody needs; says why the pull would fill the disk, if so."""
        if not self._has_limits:
            return ""
        await self.collect(dry_run=False, everything=False)
        least, free = self._policy.free_bytes_least, await self._hands.images.free_bytes()
        if not least or free is None or free >= least:
            return ""
        return (
            f"{image.reference} was not pulled: {free >> 20} MiB of the engine's disk are free and "
            f"images.free_gib_min keeps {least >> 20} MiB. Free some space: `gpud image gc --all` removes "
            "what nobody needs, `gpud image ls` shows who uses the rest."
        )

    async def listed(self) -> tuple[LocalImage, ...]:
        """Images on the box; of those that gpud pulled with the time at which they were last needed."""
        images = self._hands.images
        pulled = self._with_use(await images.pulled_images(), self._hands.clock.at_ms())
        used_at_ms = {one.id: one.used_at_ms for one in pulled}
        return tuple(replace(one, used_at_ms=used_at_ms.get(one.id)) for one in await images.list_images())

    async def collect(self, *, dry_run: bool, everything: bool) -> ImageCollection:
        """Remove what nobody needs until the limits hold.

        Whether somebody needs an image is asked again right before each removal, and a container that
        uses it has the engine refuse.
        """
        async with self._collecting:
            images, now_ms = self._hands.images, self._hands.clock.at_ms()
            free_bytes = await images.free_bytes()
            plan = plan_images(
                self._with_use(await images.pulled_images(), now_ms),
                needed_pins=self._needed_pins(),
                policy=self._policy,
                free_bytes=free_bytes,
                now_ms=now_ms,
                everything=everything,
            )
            if dry_run:
                return ImageCollection(plan=plan, removed=plan.remove, free_bytes=free_bytes)
            self._tell_over(plan.taken_bytes, plan.over_bytes)
            removed = [image for image in plan.remove if await self._removed(image)]
            return ImageCollection(plan=plan, removed=tuple(removed), free_bytes=free_bytes)

    async def remove(self, pin: str) -> None:
        """Remove an image that no endpoint uses.

        Raises:
            Conflict: An endpoint or container uses it, or an endpoint may go back to it.
        """
        endpoints = self._hands.state.endpoints.items()
        users = sorted({name for name, e in endpoints if pin in (e.image.pin, e.image.reference)})
        if users:
            raise Conflict(
                f"Image {pin} is used by {', '.join(users)}. Delete the endpoint or deploy another image."
            )
        kept = sorted(name for name, _ in endpoints if pin in self._kept_pins(name))
        if kept:
            raise Conflict(
                f"Image {pin} is kept so that {', '.join(kept)} can go back to an earlier revision. "
                "Delete the endpoint, or deploy another revision first."
            )
        await self._hands.images.remove(pin)

    @property
    def _has_limits(self) -> bool:
        return bool(self._policy.disk_budget_bytes or self._policy.free_bytes_least)

    def _with_use(self, images: tuple[PulledImage, ...], now_ms: int) -> list[PulledImage]:
        """The images as of the last time that they were seen to be needed."""
        needed = self._needed_pins()
        for image in images:
            if image.in_use or not needed.isdisjoint(image.pins):
                self._used_at_ms[image.id] = now_ms
        self._used_at_ms = {i.id: self._used_at_ms[i.id] for i in images if i.id in self._used_at_ms}
        return [replace(i, used_at_ms=max(i.used_at_ms, self._used_at_ms.get(i.id, 0))) for i in images]

    async def _removed(self, image: PulledImage) -> bool:
        if not self._needed_pins().isdisjoint(image.pins):
            return False  # Deployed since.
        try:
            for pin in reversed(image.pins):
                await self._hands.images.remove(pin)
        except Conflict as error:
            log.info("image.kept", image=image.id, reason=error.detail)
            return False
        pin = image.pins[-1]
        reconciler, facts = self._hands.reconciler, {"pin": pin, "size_bytes": image.size_bytes}
        reconciler.tell(lambda: reconciler.record("image.removed", facts))
        return True

    def _tell_over(self, taken_bytes: int, over_bytes: int) -> None:
        """Once, until there is room again."""
        is_over = over_bytes > 0
        if is_over and not self._told_over:
            reconciler = self._hands.reconciler
            facts = {"over_bytes": over_bytes, "taken_bytes": taken_bytes}
            reconciler.tell(lambda: reconciler.record("image.budget_exceeded", facts))
        self._told_over = is_over

    def _needed_pins(self) -> set[str]:
        state = self._hands.state
        pins = {image.pin for image in state.images_wanted()} | set(self._prewarmer.pulling)
        pins |= {endpoint.image.pin for endpoint in state.made_for.values()}
        for name in state.endpoints:
            pins |= self._kept_pins(name)
        return pins

    def _kept_pins(self, name: EndpointName) -> set[str]:
        """Pins of the revisions an endpoint may go back to."""
        revisions = self._hands.state.revisions.of(name)
        return {each.endpoint.image.pin for each in revisions if each.state in _KEPT_REVISIONS}

    def _until_next_s(self) -> float:
        at_ms = self._hands.clock.at_ms()
        edge_ms = self._calendar.span(self._schedule, at_ms).edge_ms
        wait_s = _CHECK_LATEST_S if edge_ms is None else (edge_ms - at_ms) / 1000
        return min(max(wait_s, _CHECK_SOONEST_S), _CHECK_LATEST_S)
