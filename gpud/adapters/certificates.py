"""The certificate the TCP port shows, read again when its files change."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import structlog
from cryptography import x509

from gpud.errors import BadSettings

if TYPE_CHECKING:
    from pathlib import Path

CHECK_S = 5.0
"""How often the files are looked at."""
_Stamp = tuple[tuple[int, int, int], ...]
_log = structlog.get_logger(__name__)


class Certificates:
    """A TLS context whose certificate follows its files.

    Connections that are open keep the certificate they began with. A file that cannot be used changes
    nothing: the certificate that was read last stays, and the log says why.

    Args:
        certificate: PEM file with the certificate and its chain.
        key: PEM file with its private key, without a password.

    Raises:
        BadSettings: The files cannot be used.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._stamp = self._stamp_now()
        self._newest = self._read()
        self.context = self._newest
        """What the server is given; it hands every connection the newest certificate."""
        self.context.sni_callback = self._give_newest

    def reload(self) -> bool:
        """Read the files now; False when they cannot be used, and the certificate stays as it was."""
        self._stamp = self._stamp_now()
        try:
            self._newest = self._read()
        except BadSettings as error:
            _log.error("certificate.refused", error=error.detail)
            return False
        return True

    def look(self) -> None:
        """Read the files if they are not those that were read last."""
        if self._stamp_now() != self._stamp:
            self.reload()

    async def keep_looking(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            self.look()

    def _give_newest(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        if self._newest is not self.context:
            connection.context = self._newest

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
            shown = x509.load_pem_x509_certificate(self._certificate.read_bytes())
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise BadSettings(
                f"The certificate {self._certificate} with the key {self._key} cannot be used: "
                f"{getattr(error, 'strerror', None) or error}. server.tls_cert must name a PEM file with the "
                "certificate and its chain, and server.tls_key one with its private key, without a password."
            ) from error
        _log.info(
            "certificate.loaded",
            subject=shown.subject.rfc4514_string(),
            expires_at=shown.not_valid_after_utc.isoformat(),
        )
        return context

    def _stamp_now(self) -> _Stamp:
        """What tells one version of the files from the next; a missing file has one too."""
        return tuple(_stamp_of(path) for path in (self._certificate, self._key))


def _stamp_of(path: Path) -> tuple[int, int, int]:
    try:
        seen = path.stat()
    except OSError:
        return (0, 0, 0)
    return (seen.st_mtime_ns, seen.st_size, seen.st_ino)


def _no_password() -> str:
    """Answer instead of the terminal, which a daemon does not have."""
    return ""
