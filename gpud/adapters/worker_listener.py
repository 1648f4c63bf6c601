"""Accepts what workers call, on whatever address their network has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from gpud.adapters.worker_door import WorkerDoor


class WorkerListener:
    """See the module's text.

    Args:
        runner: Of the application.
        door: The listening socket.
        gateway: Asks the engine for the address in the workers' network.
    """

    def __init__(
        self, runner: web.AppRunner, door: WorkerDoor, gateway: Callable[[], Awaitable[str]]
    ) -> None:
        self._runner = runner
        self._door = door
        self._gateway = gateway

    async def run(self, keep: Callable[[socket.socket], None]) -> None:
        """Accept as soon as there is an address; returns once it is known to be the right one.

        Args:
            keep: Told of the socket, to have it kept over a restart.
        """
        await self._runner.setup()

        async def opened(listening: socket.socket) -> None:
            keep(listening)
            # A copy, so that the door's own stays open, and connections wait in it, when this stops.
            await web.SockSite(self._runner, listening.dup()).start()

        await self._door.keep_open(self._gateway, opened)

    async def stop(self) -> None:
        """Take no more calls; those under way are answered."""
        await self._runner.cleanup()
