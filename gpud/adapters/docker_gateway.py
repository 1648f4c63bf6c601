"""Asks the engine for this box's own address in the network of the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.adapters.docker_client import DockerClients
from gpud.adapters.docker_errors import engine_errors
from gpud.adapters.docker_network import gateway_of
from gpud.errors import DependencyDown

if TYPE_CHECKING:
    from gpud.adapters.threads import Threads
    from gpud.settings import DockerSettings


class DockerGateway:
    """See the module's text.

    Args:
        settings: The engine and the network.
        threads: For the calls.
    """

    def __init__(self, settings: DockerSettings, threads: Threads) -> None:
        self._settings = settings
        self._threads = threads
        self._clients = DockerClients(settings.host, call_timeout_s=settings.call_timeout_s)

    async def address(self) -> str:
        """The address.

        Raises:
            DependencyDown: The engine does not answer, or the network is not there yet.
        """
        with engine_errors(self._clients):
            return await self._threads.run(self._ask, timeout_s=self._settings.call_timeout_s)

    def _ask(self) -> str:
        address = gateway_of(self._clients.get(), self._settings.network)
        if not address:
            raise DependencyDown(f"The Docker network {self._settings.network} has no IPv4 address yet.")
        return address
