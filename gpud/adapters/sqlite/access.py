"""API keys, registry credentials and answers to repeat, on disk."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from gpud.adapters.sqlite import rows
from gpud.adapters.sqlite.sealing import REGISTRY
from gpud.adapters.sqlite.statements import SQL
from gpud.errors import Conflict, IdempotencyMismatch
from gpud.ports.images import RegistryCredential
from gpud.ports.store import ApiKey, ReplayedAnswer, StoredRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.adapters.sqlite.committer import GroupCommitter
    from gpud.adapters.sqlite.hops import Read
    from gpud.adapters.sqlite.sealing import Sealer
    from gpud.core.ids import KeyId

IDEMPOTENCY_KEPT_MS = 24 * 3600 * 1000
"""An answer is repeated for a day."""


class SqliteAccessStore:
    """Keys, registry credentials and replayed answers (port `AccessStore`)."""

    def __init__(
        self, committer: GroupCommitter, read: Read, sealer: Sealer, now_ms: Callable[[], int]
    ) -> None:
        self._committer = committer
        self._read = read
        self._sealer = sealer
        self._now_ms = now_ms

    async def add_key(self, key: ApiKey) -> None:
        """Store a key.

        Raises:
            Conflict: The id exists.
        """

        def add(connection: sqlite3.Connection) -> None:
            try:
                connection.execute(SQL["key_insert"], rows.key_params(key))
            except sqlite3.IntegrityError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
                    raise
                raise Conflict(f"There is a key {key.id} already. Use another id.") from error

        await self._committer.write(add)

    async def list_keys(self) -> tuple[ApiKey, ...]:
        """Every key, oldest first."""
        return await self._read(
            lambda connection: tuple(map(rows.key_of, connection.execute(SQL["keys_all"])))
        )

    async def disable_key(self, key_id: KeyId) -> bool:
        """Disable a key; False when there is none."""
        return await self._committer.write(
            lambda connection: connection.execute(SQL["key_disable"], {"id": key_id}).rowcount == 1
        )

    async def note_key_use(self, key_id: KeyId, at_ms: int) -> None:
        """Remember when a key was used; an earlier moment changes nothing."""
        params = {"id": key_id, "at_ms": at_ms}
        await self._committer.write(
            lambda connection: connection.execute(SQL["key_note_use"], params).rowcount
        )

    async def put_registry(self, name: str, credential: RegistryCredential, at_ms: int) -> None:
        """Store a credential, encrypted; replaces one of that name."""
        nonce, sealed = self._sealer.seal(credential.password, kind=REGISTRY, name=name)
        params = {
            "name": name,
            "host": credential.host,
            "username": credential.username,
            "password_nonce": nonce,
            "password_sealed": sealed,
            "created_at_ms": at_ms,
        }
        await self._committer.write(
            lambda connection: connection.execute(SQL["registry_put"], params).rowcount
        )

    async def list_registries(self) -> tuple[StoredRegistry, ...]:
        """Every credential, by name, without passwords."""
        return await self._read(
            lambda connection: tuple(
                StoredRegistry(
                    name=row["name"],
                    host=row["host"],
                    username=row["username"],
                    created_at_ms=row["created_at_ms"],
                )
                for row in connection.execute(SQL["registries_all"])
            )
        )

    async def registry(self, name: str) -> RegistryCredential | None:
        """Read one credential back, for a pull.

        Raises:
            StoreUnusable: It cannot be decrypted under the present master key.
        """
        row = await self._read(
            lambda connection: connection.execute(SQL["registry_read"], {"name": name}).fetchone()
        )
        if row is None:
            return None
        password = self._sealer.unseal(
            row["password_nonce"], row["password_sealed"], kind=REGISTRY, name=name
        )
        return RegistryCredential(host=row["host"], username=row["username"], password=password)

    async def delete_registry(self, name: str) -> bool:
        """Forget a credential; False when there is none."""
        return await self._committer.write(
            lambda connection: connection.execute(SQL["registry_delete"], {"name": name}).rowcount == 1
        )

    async def begin_idempotent(self, scope: str, key: str, fingerprint: bytes) -> ReplayedAnswer | None:
        """Claim an Idempotency-Key, or return what it was answered before.

        Raises:
            Conflict: The first request with this key is still being answered.
            IdempotencyMismatch: The key was used with another request.
        """
        now_ms = self._now_ms()
        params = {"scope": scope, "key": key, "fingerprint": fingerprint, "at_ms": now_ms}

        def claim(connection: sqlite3.Connection) -> ReplayedAnswer | None:
            oldest = {"older_than_ms": now_ms - IDEMPOTENCY_KEPT_MS}
            connection.execute(SQL["idempotency_forget"], oldest)
            if connection.execute(SQL["idempotency_claim"], params).rowcount == 1:
                return None
            row = connection.execute(SQL["idempotency_read"], {"scope": scope, "key": key}).fetchone()
            return _answer_of(row, key, fingerprint)

        return await self._committer.write(claim)

    async def finish_idempotent(self, scope: str, key: str, answer: ReplayedAnswer | None) -> None:
        """Keep the answer; None gives the key up, so that the request may be repeated."""

        def finish(connection: sqlite3.Connection) -> None:
            if answer is None:
                connection.execute(SQL["idempotency_give_up"], {"scope": scope, "key": key})
                return
            params = {
                "scope": scope,
                "key": key,
                "fingerprint": answer.fingerprint,
                "status": answer.status,
                "body": answer.body,
            }
            connection.execute(SQL["idempotency_answer"], params)

        await self._committer.write(finish)


def _answer_of(row: sqlite3.Row, key: str, fingerprint: bytes) -> ReplayedAnswer:
    if row["fingerprint"] != fingerprint:
        raise IdempotencyMismatch(
            f"The Idempotency-Key {key!r} was used with another request. Use a new key for this one."
        )
    if row["status"] is None:
        raise Conflict(
            f"The first request with Idempotency-Key {key!r} is still being answered. "
            "Repeat this one in a moment.",
            retry_after_s=1.0,
        )
    return ReplayedAnswer(fingerprint=row["fingerprint"], status=row["status"], body=row["body"])
