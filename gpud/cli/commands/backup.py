"""`gpud backup`: copies everything the daemon keeps into one file, while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.exits import CommandFailed
from gpud.cli.grammar import FLAG, Argument, Command, Option
from gpud.cli.output import facts, size
from gpud.cli.settings_file import CONFIG, usable

if TYPE_CHECKING:
    from gpud.adapters.backups import BackedUp
    from gpud.cli.context import Context
    from gpud.cli.values import Values


def _backup(values: Values, context: Context) -> int:
    file = usable(values)
    from gpud.errors import GpudError  # noqa: PLC0415 - help does without
    from gpud.offline import write_backup  # noqa: PLC0415 - half a second of imports

    to = Path(values.text("file")).absolute()
    try:
        done = write_backup(
            file.settings, file.path, to, with_logs=values.flag("logs"), replace_it=values.flag("force")
        )
    except GpudError as error:
        raise CommandFailed(error.detail) from error
    _tell(done, to, context)
    return exits.OK


def _tell(done: BackedUp, to: Path, context: Context) -> None:
    manifest = done.manifest
    if context.as_json:
        told = {"file": str(to), "bytes": done.size_bytes, "payloads": done.payloads, "live": done.live}
        context.print_json({**told, "manifest": manifest.document()})
        return
    context.print_text(
        facts(
            [
                ("Backup", f"{to}, {size(done.size_bytes)}"),
                (
                    "Of",
                    f"{manifest.data_dir}, {'under the running daemon' if done.live else 'no daemon runs'}",
                ),
                ("Schema", f"{manifest.schema}, gpud {manifest.gpud}"),
                ("Jobs' files", str(done.payloads)),
                ("Also in it", ", ".join(manifest.files.values())),
            ],
            colour=context.colour,
        )
    )
    context.note(
        "It holds secrets: "
        + ("the master key, " if manifest.has_master_key else "")
        + "hashes of API keys, what jobs were sent, and the environment of endpoints. Its mode is 0600."
    )
    if not manifest.has_master_key:
        context.note(
            "The master key is not in it, because it is kept elsewhere. Without it the stored registry "
            "passwords and webhook secrets cannot be read: keep it beside this file."
        )
    if manifest.flawed_payloads:
        context.note(
            f"{len(manifest.flawed_payloads)} files of jobs are missing or damaged on this disk, such as "
            f"{manifest.flawed_payloads[0]}. The jobs they belong to cannot be read, here or from the backup."
        )


COMMANDS = (
    Command(
        ("backup",),
        "Copy everything the daemon keeps into one file, while it runs.",
        _backup,
        (Argument("file", "The tar to write, such as /var/backups/gpud.tar."),),
        (
            CONFIG,
            Option("logs", "Also what the workers wrote.", kind=FLAG),
            Option("force", "Replace the file if it is there.", kind=FLAG),
        ),
        details=(
            "Holds the database as it was at one moment, the files of jobs it refers to, the master key, "
            "gpud.toml and the certificate with its key. No request or job waits for it. It needs room for "
            "a second copy of the database beside FILE while it runs. Run it on the daemon's box, as root or "
            "as the daemon's user."
            "\n\n"
            "The file holds secrets and has mode 0600. Inside are a manifest and SHA256SUMS, so that any tar "
            "and sha256sum can check it."
        ),
        examples=("sudo gpud backup /var/backups/gpud-$(date +%F).tar", "gpud backup /mnt/gpud.tar --logs"),
    ),
)
