"""Calls a worker's own control paths, on its own address."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import aiohttp

from gpud.errors import LaunchFailed

if TYPE_CHECKING:
    from gpud.core.step_policy import Hook

_ANSWER_BYTES_MAX = 64 << 10
_SHOWN = 200


class WorkerHooks:
    """One HTTP client for all hooks; each call has a connection of its own, and no redirect is followed."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(self, address: str, port: int, hook: Hook) -> None:
        """Make the call; the caller limits its time.

        Raises:
            LaunchFailed: No answer, another status than 200 to 299, or not what is expected.
        """
        host = f"[{address}]" if ":" in address else address
        named = f"{hook.method} {hook.path}"
        headers = {"User-Agent": "gpud"} | ({"Content-Type": "application/json"} if hook.body else {})
        try:
            async with self._client().request(
                hook.method,
                f"http://{host}:{port}{hook.path}",
                data=hook.body.encode() or None,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                content = await answer.content.read(_ANSWER_BYTES_MAX)
        except (aiohttp.ClientError, OSError) as error:
            raise LaunchFailed(f"{named} was not answered: {error!r}.") from error
        said = content[:_SHOWN].decode("utf-8", "replace").strip()
        if not 200 <= answer.status < 300:
            raise LaunchFailed(f"{named} answered {answer.status}: {said}")
        if hook.expect and not _holds(content, json.loads(hook.expect)):
            raise LaunchFailed(f"{named} answered {said or 'nothing'}, expected was {hook.expect}.")

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, use_dns_cache=False, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=None), trust_env=False
            )
        return self._session


def _holds(content: bytes, expected: dict[str, object]) -> bool:
    """Whether an answer is a JSON object with these members."""
    try:
        said = json.loads(content)
    except ValueError:
        return False
    return isinstance(said, dict) and all(
        name in said and said[name] == value for name, value in expected.items()
    )
