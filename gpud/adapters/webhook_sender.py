"""Calls webhook receivers: resolves, judges every address, and connects to one that was judged."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from gpud import __version__
from gpud.core.webhook import CallOutcome
from gpud.core.webhook_guard import (
    URL_CHARACTERS_MAX,
    GuardRules,
    Target,
    address_fault,
    addresses_fault,
    parse_address,
    target_fault,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from gpud.ports.time import Clock

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 15.0
ANSWER_BYTES_MAX = 64 << 10

_ERROR_CHARACTERS_MAX = 500
_REDIRECT = range(300, 400)


class _Refused(OSError):
    """A name leads to an address that must not be called."""


class GuardedResolver(AbstractResolver):
    """Hands out the addresses of a name only if every one of them may be called.

    The connection is made to what this returned, with the name kept for Host and TLS: nothing
    looks the name up a second time, so an answer that changes in between changes nothing.

    Args:
        rules: Asked for each time, since the machine's own addresses change.
        inner: Looks names up.
    """

    def __init__(self, rules: Callable[[], GuardRules], inner: AbstractResolver) -> None:
        self._rules = rules
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Look a name up.

        Raises:
            OSError: It has no address, or one that must not be called.
        """
        found = await self._inner.resolve(host, port, family)
        fault = addresses_fault((ipaddress.ip_address(one["host"]) for one in found), self._rules())
        if fault:
            raise _Refused(f"{host} {fault}")
        return found

    async def close(self) -> None:
        """Let the inner one go."""
        await self._inner.close()


class WebhookSender:
    """Calls receivers over fresh connections (port `WebhookSender`).

    Args:
        rules: What may be called.
        clock: For durations.
        resolver: Looks names up; the system's by default.
        tls: How receivers' certificates are checked; against the system's roots by default.
        timeout_s: Of a whole call.
    """

    def __init__(
        self,
        rules: GuardRules,
        clock: Clock,
        *,
        resolver: AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._rules = rules
        self._clock = clock
        self._inner = resolver
        self._tls = tls
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    def url_fault(self, url: str) -> str:
        """What is wrong with an address, without asking anybody; empty when nothing is."""
        if len(url) > URL_CHARACTERS_MAX:
            return f"must have at most {URL_CHARACTERS_MAX} characters"
        parsed = _parse(url)
        return "must be a URL such as https://app.example/hooks" if parsed is None else self._fault(parsed)

    async def resolved_fault(self, url: str) -> str:
        """The same after its name was resolved; a name that does not resolve now is no fault."""
        fault = self.url_fault(url)
        parsed = _parse(url)
        if fault or parsed is None or parsed.raw_host is None or parse_address(parsed.raw_host):
            return fault
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._resolver().resolve(parsed.raw_host, parsed.port or 0)
        except _Refused as error:
            return str(error)
        except (OSError, TimeoutError):
            return ""
        return ""

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> CallOutcome:
        """Call a receiver once; never raises, and follows no redirect."""
        began_s = self._clock.now_s()
        try:
            outcome = await self._post(url, body, headers)
        except TimeoutError:
            outcome = CallOutcome(error=f"No answer within {self._timeout_s:g} s.")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            outcome = CallOutcome(error=_said(error))
        took_ms = round((self._clock.now_s() - began_s) * 1000)
        return CallOutcome(
            status=outcome.status,
            error=outcome.error,
            retry_after=outcome.retry_after,
            answer=outcome.answer,
            took_ms=max(took_ms, 0),
        )

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> CallOutcome:
        parsed, fault = _parse(url), self.url_fault(url)
        if parsed is None or fault:
            return CallOutcome(error=f"Not called: the address {fault}.")
        sent = {"Content-Type": "application/json", "User-Agent": f"gpud-webhooks/{__version__}", **headers}
        async with self._opened().post(parsed, data=body, headers=sent, allow_redirects=False) as answer:
            kept = await _first_bytes(answer)
            return CallOutcome(
                status=answer.status,
                error=_fault_of(answer.status),
                retry_after=answer.headers.get("Retry-After", "")[:100],
                answer=kept,
            )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=self._resolver(),
                use_dns_cache=False,
                force_close=True,
                limit=0,
                ssl=self._tls if self._tls is not None else True,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=CONNECT_TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding",),
            )
        return self._session

    def _resolver(self) -> GuardedResolver:
        if self._inner is None:
            self._inner = ThreadedResolver()
        return GuardedResolver(self._with_own_addresses, self._inner)

    def _fault(self, parsed: URL) -> str:
        target = Target(
            scheme=parsed.scheme,
            host=parsed.raw_host or "",
            port=parsed.port or 0,
            has_user=parsed.raw_user is not None or parsed.raw_password is not None,
        )
        fault = target_fault(target, self._rules)
        literal = parse_address(target.host)
        return fault or ("" if literal is None else address_fault(literal, self._with_own_addresses()))

    def _with_own_addresses(self) -> GuardRules:
        rules = self._rules
        return GuardRules(
            http_hosts=rules.http_hosts, networks=rules.networks, ports=rules.ports, own=own_addresses()
        )


def own_addresses(
    ipv4: Path = Path("/proc/net/fib_trie"), ipv6: Path = Path("/proc/net/if_inet6")
) -> frozenset[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Every address of this machine, as the kernel lists them; none where it lists none."""
    found: set[ipaddress.IPv4Address | ipaddress.IPv6Address] = set()
    last = ""
    for line in _lines(ipv4):
        if "host LOCAL" in line and last:
            found.add(ipaddress.IPv4Address(last))
        elif "|--" in line:
            last = line.rpartition(" ")[2]
    for line in _lines(ipv6):
        found.add(ipaddress.IPv6Address(int(line[:32], 16)))
    return frozenset(found)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def _parse(url: str) -> URL | None:
    if not url.isprintable() or " " in url or "\\" in url:
        return None
    try:
        parsed = URL(url)
    except ValueError:
        return None
    return parsed if parsed.absolute and parsed.raw_host and parsed.port is not None else None


async def _first_bytes(answer: aiohttp.ClientResponse) -> bytes:
    """Read what the delivery log keeps; the connection is closed on the rest."""
    kept = bytearray()
    async for chunk in answer.content.iter_chunked(ANSWER_BYTES_MAX):
        kept += chunk
        if len(kept) >= ANSWER_BYTES_MAX:
            answer.close()
            break
    return bytes(kept[:ANSWER_BYTES_MAX])


def _fault_of(status: int) -> str:
    if status in _REDIRECT:
        return f"Answered {status}: redirects are not followed. Register the new address."
    return "" if 200 <= status < 300 else f"Answered {status}."


def _said(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, _Refused) or isinstance(error.__cause__, _Refused):
        refused = cause if isinstance(cause, _Refused) else error.__cause__
        return f"Not called: {refused}."[:_ERROR_CHARACTERS_MAX]
    return (str(error) or type(error).__name__)[:_ERROR_CHARACTERS_MAX]
