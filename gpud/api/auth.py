"""Says who holds a key and what it allows: the key ring, in memory, and the count of failed attempts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import secrets
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from gpud.core import keys
from gpud.core.ids import KeyId
from gpud.errors import Forbidden, GpudError, TooManyAttempts, Unauthenticated
from gpud.ports.store import ApiKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.ports.store import AccessStore
    from gpud.ports.time import Clock, IdSource

_NOBODY = hashlib.sha256(b"").digest()
_USE_STEP_MS = 60_000
_GRANTS_MAX = 4096
_FLUSH_PERIOD_S = 60.0
_ATTEMPTS_MAX = 20
_WINDOW_S = 60.0
_PEERS_MAX = 10_000

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class ApiKeyRing:
    """Every API key, held in memory; the store is written first and read once.

    Secrets are 32 random bytes, so their plain SHA-256 is enough, and an unknown id costs the
    same work as a wrong secret.
    """

    def __init__(self, access: AccessStore, clock: Clock, ids: IdSource) -> None:
        self._access = access
        self._clock = clock
        self._ids = ids
        self._keys: dict[KeyId, ApiKey] = {}
        self._used_ms: dict[KeyId, int] = {}
        self._granted: dict[tuple[str | None, str], tuple[ApiKey, int]] = {}
        self._attempts = AttemptLimit(clock)

    async def load(self) -> None:
        """Read every key; call once, before the first request."""
        self._granted.clear()
        self._keys = {key.id: key for key in await self._access.list_keys()}

    def authorize(self, token: str | None, scope: str) -> ApiKey:
        """Check a bearer token against a scope such as `invoke:llm` or `read`.

        Raises:
            Unauthenticated: No token, or an unknown, expired or disabled key.
            Forbidden: The key lacks the scope.
        """
        now_ms = self._clock.at_ms()
        granted = self._granted.get((token, scope))
        if granted is not None and now_ms < granted[1]:
            return granted[0]
        key = self._authenticate(token, now_ms)
        if not keys.allows(key.scopes, scope):
            raise Forbidden(
                f"The key {key.id} has the scopes {', '.join(key.scopes)}; this needs {scope}. "
                "Use a key that has it, or have an administrator make one."
            )
        self._note_use(key, now_ms)
        self._remember((token, scope), key, now_ms)
        return key

    def authorize_from(self, peer: str, token: str | None, scope: str) -> ApiKey:
        """Do as `authorize`, and count failed attempts by address.

        A valid key always passes: a secret of 256 bits cannot be guessed, and one careless client
        must not lock out others behind the same proxy.

        Raises:
            Unauthenticated, Forbidden: As `authorize`.
            TooManyAttempts: Instead of Unauthenticated, when `peer` failed too often.
        """
        try:
            return self.authorize(token, scope)
        except Unauthenticated:
            if token is not None:
                self.note_failure(peer)
            raise

    def note_failure(self, peer: str) -> None:
        """Count a request from an address with a key that is not valid.

        Raises:
            TooManyAttempts: The address had its share for this minute.
        """
        self._attempts.count(peer)

    async def create(
        self, *, label: str, scopes: Sequence[str], expires_at_ms: int = 0
    ) -> tuple[ApiKey, str]:
        """Make a key; returns it with its token, which nothing can show again."""
        secret = base64.b32encode(secrets.token_bytes(keys.SECRET_BYTES)).decode("ascii").rstrip("=").lower()
        key = ApiKey(
            id=keys.key_id_from(self._ids.new_id("key")),
            label=label,
            secret_sha256=hashlib.sha256(secret.encode()).digest(),
            scopes=tuple(dict.fromkeys(scopes)),
            created_at_ms=self._clock.at_ms(),
            expires_at_ms=expires_at_ms,
        )
        await self._access.add_key(key)
        self._keys[key.id] = key
        self._granted.clear()
        _log.info("key.created", key_id=key.id, scopes=list(key.scopes))
        return key, keys.format_token(key.id, secret)

    async def disable(self, key_id: str) -> bool:
        """Disable a key for good; False when there is none."""
        known = await self._access.disable_key(KeyId(key_id))
        key = self._keys.get(KeyId(key_id))
        if key is not None:
            self._keys[key.id] = replace(key, disabled=True)
            self._granted.clear()
            _log.info("key.disabled", key_id=key.id)
        return known

    def list_keys(self) -> tuple[ApiKey, ...]:
        """Every key, oldest first, with its last use as known here."""
        ordered = sorted(self._keys.values(), key=lambda key: (key.created_at_ms, key.id))
        return tuple(replace(key, last_used_at_ms=self._last_used_ms(key)) for key in ordered)

    async def flush(self) -> None:
        """Write the last uses that are not on disk yet."""
        used, self._used_ms = self._used_ms, {}
        for key_id, at_ms in used.items():
            self._keys[key_id] = replace(self._keys[key_id], last_used_at_ms=at_ms)
            await self._access.note_key_use(key_id, at_ms)

    async def keep_flushing(self) -> None:
        """Write last uses every minute, until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_PERIOD_S)
            try:
                await self.flush()
            except GpudError as error:
                _log.warning("key_uses.not_written", error=error.detail)

    def _authenticate(self, token: str | None, now_ms: int) -> ApiKey:
        if token is None:
            raise Unauthenticated(
                "No API key was given. Send one as Authorization: Bearer gpud_…; "
                "an administrator makes one with gpud key create."
            )
        parsed = keys.parse_token(token)
        key_id, secret = parsed or (KeyId(""), "")
        key = self._keys.get(key_id)
        digest = hashlib.sha256(secret.encode()).digest()
        same = hmac.compare_digest(digest, key.secret_sha256 if key else _NOBODY)
        if parsed is None or key is None or not same:
            raise Unauthenticated("The API key is not known. Check that it was copied whole: gpud_…_….")
        if key.disabled:
            raise Unauthenticated(f"The API key {key.id} was disabled. Use another one.")
        if key.expires_at_ms and key.expires_at_ms <= now_ms:
            raise Unauthenticated(f"The API key {key.id} has expired. Use another one.")
        return key

    def _remember(self, asked: tuple[str | None, str], key: ApiKey, now_ms: int) -> None:
        """Give the same answer until the key expires or the minute ends, in which its use is noted."""
        if len(self._granted) >= _GRANTS_MAX:
            self._granted.clear()
        until_ms = (now_ms // _USE_STEP_MS + 1) * _USE_STEP_MS
        self._granted[asked] = (key, min(until_ms, key.expires_at_ms or until_ms))

    def _note_use(self, key: ApiKey, now_ms: int) -> None:
        minute_ms = now_ms // _USE_STEP_MS * _USE_STEP_MS
        if minute_ms > self._last_used_ms(key):
            self._used_ms[key.id] = minute_ms

    def _last_used_ms(self, key: ApiKey) -> int:
        return self._used_ms.get(key.id, key.last_used_at_ms)


class AttemptLimit:
    """Counts failed attempts by address over a minute, for a bounded number of addresses."""

    def __init__(
        self, clock: Clock, *, attempts_max: int = _ATTEMPTS_MAX, peers_max: int = _PEERS_MAX
    ) -> None:
        self._clock = clock
        self._attempts_max = attempts_max
        self._peers_max = peers_max
        self._peers: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def count(self, peer: str) -> None:
        """Count one failed attempt.

        Raises:
            TooManyAttempts: The address had its share for this minute.
        """
        network, now_s = _network_of(peer), self._clock.now_s()
        since_s, attempts = self._peers.pop(network, (now_s, 0))
        if now_s - since_s >= _WINDOW_S:
            since_s, attempts = now_s, 0
        self._peers[network] = (since_s, attempts + 1)
        while len(self._peers) > self._peers_max:
            self._peers.popitem(last=False)
        if attempts >= self._attempts_max:
            raise TooManyAttempts(
                f"More than {self._attempts_max} requests with keys that are not valid came from {peer} "
                "within a minute. Check the client's key; a valid one is accepted at once.",
                retry_after_s=since_s + _WINDOW_S - now_s,
            )


def _network_of(peer: str) -> str:
    """Take the /64 of an IPv6 address, since one host may use all of it; else the peer as it is."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if address.version == 4:
        return peer
    return str(ipaddress.ip_network((address, 64), strict=False))
