"""Which certificate is shown after its files changed."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import structlog
from cryptography import x509

from gpud.adapters.certificates import Certificates
from gpud.errors import BadSettings
from tests.fakes.certificates import write_certificate

if TYPE_CHECKING:
    from pathlib import Path


def test_a_changed_file_is_shown_to_the_next_connection(tmp_path: Path) -> None:
    certificates = Certificates(*write_certificate(tmp_path, "old.test"))
    assert _shown(certificates) == "CN=old.test"

    write_certificate(tmp_path, "new.test")
    certificates.look()

    assert _shown(certificates) == "CN=new.test"


@pytest.mark.parametrize("fault", ["no PEM", "another key", "gone"])
def test_a_broken_file_keeps_the_certificate_and_says_why(tmp_path: Path, fault: str) -> None:
    certificate, key = write_certificate(tmp_path, "old.test")
    certificates = Certificates(certificate, key)
    if fault == "no PEM":
        certificate.write_text("nothing of use")
    elif fault == "another key":
        (tmp_path / "other").mkdir()
        key.write_bytes(write_certificate(tmp_path / "other", "x")[1].read_bytes())
    else:
        certificate.unlink()

    with structlog.testing.capture_logs() as logs:
        certificates.look()

    assert [line["event"] for line in logs] == ["certificate.refused"]
    assert str(certificate) in logs[0]["error"]
    assert _shown(certificates) == "CN=old.test"

    write_certificate(tmp_path, "mended.test")
    certificates.look()
    assert _shown(certificates) == "CN=mended.test"


def test_files_that_stay_the_same_are_read_once(tmp_path: Path) -> None:
    certificates = Certificates(*write_certificate(tmp_path, "old.test"))
    with structlog.testing.capture_logs() as logs:
        certificates.look()
    assert logs == []


def test_a_key_with_a_password_is_refused_and_not_asked_for(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "a.test")
    key.write_bytes(
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
        b"MIH0MF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBCf\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    with pytest.raises(BadSettings, match="without a password"):
        Certificates(certificate, key)


def test_nothing_older_than_tls_1_2_is_spoken(tmp_path: Path) -> None:
    context = Certificates(*write_certificate(tmp_path, "a.test")).context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def _shown(certificates: Certificates) -> str:
    """Shake hands in memory; the subject of the certificate the client got."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    server = certificates.context.wrap_bio(to_server, to_client, server_side=True)
    pending = [client, server]
    for _ in range(10):
        for side in list(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert not pending
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).subject.rfc4514_string()
