"""Encrypts what must not lie about in the clear, under the master key."""

from __future__ import annotations

import hashlib
import hmac
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gpud.adapters.sqlite.failures import translate_os
from gpud.errors import StoreUnusable

if TYPE_CHECKING:
    from pathlib import Path

REGISTRY, WEBHOOK = "registry credential", "webhook secret"
"""Kinds of secrets that are stored."""
KEY_BYTES = 32
NONCE_BYTES = 12


class Sealer:
    """AES-256-GCM under the master key; a sealed text opens only where and as what it was sealed.

    Args:
        master_key: 32 bytes.
        install_id: Of this installation; a row copied to another one does not open there.
    """

    def __init__(self, master_key: bytes, *, install_id: str) -> None:
        self._cipher = AESGCM(master_key)
        self._install_id = install_id
        # Only for telling workers apart: it opens nothing, and the master key does not follow from it.
        self.worker_secret = hmac.digest(master_key, f"gpud worker tokens\0{install_id}".encode(), "sha256")
        self.key_check = hashlib.sha256(b"gpud master key check\0" + master_key).digest()[:16]

    def seal(self, secret: str, *, kind: str, name: str) -> tuple[bytes, bytes]:
        """Encrypt; returns a fresh nonce and the sealed text."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce, self._cipher.encrypt(nonce, secret.encode(), self._bound_to(kind, name))

    def unseal(self, nonce: bytes, sealed: bytes, *, kind: str, name: str) -> str:
        """Decrypt what `seal` made for the same kind and name.

        Raises:
            StoreUnusable: It was changed, moved, or sealed under another key.
        """
        try:
            return self._cipher.decrypt(nonce, sealed, self._bound_to(kind, name)).decode()
        except InvalidTag as error:
            raise StoreUnusable(
                f"The stored {kind} {name!r} cannot be decrypted: it was changed, or the master key was. "
                f"Bring the old master key back, or store the {kind} again."
            ) from error

    def _bound_to(self, kind: str, name: str) -> bytes:
        return f"{self._install_id}\0{kind}\0{name}".encode()


def load_master_key(path: Path, *, may_create: bool) -> bytes:
    """Read the master key, making one at the first start.

    Args:
        path: Of the key file: 32 bytes, or 64 hex digits.
        may_create: False for a key that somebody else provides.

    Raises:
        StoreUnusable: It is missing, unreadable, or no key; the message says where.
    """
    if may_create and not path.exists():
        try:
            _make_key(path)
        except OSError as error:
            raise translate_os(error, f"The master key {path} cannot be made") from error
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StoreUnusable(
            f"The master key {path} cannot be read: {error.strerror}. Bring it back from your backup."
        ) from error
    if len(raw) == KEY_BYTES:
        return raw
    with suppress(ValueError):
        key = bytes.fromhex(raw.decode("ascii", "replace").strip())
        if len(key) == KEY_BYTES:
            return key
    raise StoreUnusable(f"The master key {path} must be 32 bytes or 64 hex digits, but is {len(raw)} bytes.")


def _make_key(path: Path) -> None:
    new_path = path.with_name(path.name + ".new")
    new_path.unlink(missing_ok=True)
    fd = os.open(new_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, os.urandom(KEY_BYTES))
        os.fsync(fd)
    finally:
        os.close(fd)
    new_path.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
