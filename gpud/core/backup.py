"""What a backup holds, what may be in one, and when one must not be put back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
MANIFEST_NAME = "manifest.json"
SUMS_NAME = "SHA256SUMS"
DATABASE = "gpud.db"
MASTER_KEY = "master.key"
BLOBS = "blobs"
LOGS = "logs"
FILES = "from-backup"
"""The folder of files that were elsewhere: gpud.toml, the certificate with its key, a master key."""

MANIFEST_BYTES_MAX = 16 << 20
PARTS = (DATABASE, MASTER_KEY, "worker-listener", BLOBS, LOGS, FILES)
"""What a data directory is made of that a backup can replace."""

_MEMBER = re.compile(
    r"gpud\.db|master\.key|worker-listener"
    r"|blobs/(?P<start>[0-9a-f]{2})/(?P<ref>[0-9a-f]{64})"
    r"|logs(/[A-Za-z0-9._@-]+)+"
    r"|from-backup/(gpud\.toml|master\.key|tls-cert\.pem|tls-key\.pem)"
)
_SUM = re.compile(r"([0-9a-f]{64})  (\S.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup says of itself.

    Args:
        gpud: Version that made it.
        schema: Number of the database's schema.
        install_id: Of the installation; containers carry it too.
        made_at: RFC 3339.
        host: Name of the box it was made on.
        data_dir: Where its data was.
        has_master_key: The key is inside; else it is kept elsewhere, as by the service manager.
        files: Where the files of `from-backup` were, by their name there.
        flawed_payloads: Job payloads whose file was missing or did not match its name.
    """

    gpud: str
    schema: int
    install_id: str
    made_at: str
    host: str
    data_dir: str
    has_master_key: bool
    files: Mapping[str, str]
    flawed_payloads: tuple[str, ...] = ()

    def document(self) -> dict[str, object]:
        """As it is written."""
        return {
            "format": FORMAT,
            "gpud": self.gpud,
            "schema": self.schema,
            "install_id": self.install_id,
            "made_at": self.made_at,
            "host": self.host,
            "data_dir": self.data_dir,
            "has_master_key": self.has_master_key,
            "files": dict(self.files),
            "flawed_payloads": list(self.flawed_payloads),
        }


class NoBackup(ValueError):
    """A file is no backup of gpud's, or not one this version understands; the message says why."""


def read_manifest(document: object) -> Manifest:
    """Read what a backup says of itself.

    Raises:
        NoBackup: It is something else, or of a later format.
    """
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise NoBackup("it has no manifest of gpud's")
    if document["format"] > FORMAT:
        raise NoBackup(f"its format is {document['format']}, and this gpud knows {FORMAT}; use a newer gpud")
    texts = ("gpud", "install_id", "made_at", "host", "data_dir")
    files = document.get("files")
    if (
        not all(isinstance(document.get(name), str) for name in texts)
        or not isinstance(document.get("schema"), int)
        or not isinstance(files, dict)
    ):
        raise NoBackup("its manifest is damaged")
    flawed = document.get("flawed_payloads")
    return Manifest(
        gpud=document["gpud"],
        schema=document["schema"],
        install_id=document["install_id"],
        made_at=document["made_at"],
        host=document["host"],
        data_dir=document["data_dir"],
        has_master_key=document.get("has_master_key") is True,
        files={str(name): str(path) for name, path in files.items()},
        flawed_payloads=tuple(map(str, flawed)) if isinstance(flawed, list) else (),
    )


def refusal(manifest: Manifest, *, schema_known: int) -> str:
    """Why a backup cannot be put back by this gpud; empty when it can.

    Args:
        manifest: The backup's.
        schema_known: The newest schema this gpud knows.
    """
    if manifest.schema > schema_known:
        return (
            f"it was made by gpud {manifest.gpud} with schema {manifest.schema}, and this one knows "
            f"{schema_known}: install that version, or a later one"
        )
    return ""


def is_member(name: str) -> bool:
    """Whether a backup may hold a file of that name: nothing of it may land anywhere else."""
    found = _MEMBER.fullmatch(name)
    if found is None or any(part in (".", "..") for part in name.split("/")):
        return False
    return found["ref"] is None or found["ref"].startswith(found["start"])


def sums_text(sums: Mapping[str, str]) -> str:
    """The list of hashes, as `sha256sum --check` reads it."""
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items())


def read_sums(text: str) -> dict[str, str]:
    """Read a list of hashes.

    Raises:
        NoBackup: It is none.
    """
    sums = {}
    for line in text.splitlines():
        found = _SUM.fullmatch(line)
        if found is None or found[2] in sums:
            raise NoBackup("its list of hashes is damaged")
        sums[found[2]] = found[1]
    return sums


def unlike(expected: Mapping[str, str], seen: Mapping[str, str]) -> str:
    """Say how the files of a backup differ from its list of hashes; empty when they do not."""
    if missing := sorted(expected.keys() - seen.keys()):
        return f"{missing[0]} is missing" + _and_more(missing)
    if surplus := sorted(seen.keys() - expected.keys()):
        return f"{surplus[0]} is not in its list of hashes" + _and_more(surplus)
    if wrong := sorted(name for name, digest in expected.items() if seen[name] != digest):
        return f"{wrong[0]} is not as it was written" + _and_more(wrong)
    return ""


def _and_more(names: list[str]) -> str:
    return f", and {len(names) - 1} more" if len(names) > 1 else ""
