"""`gpud restore`: puts a backup in the place of what the data directory holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.exits import CommandFailed
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.output import facts
from gpud.cli.settings_file import CONFIG, usable

if TYPE_CHECKING:
    from gpud.adapters.backups import Restored
    from gpud.cli.context import Context
    from gpud.cli.values import Values


def _restore(values: Values, context: Context) -> int:
    given = values.text("data-dir")
    data_dir = Path(given).absolute() if given else usable(values).settings.paths.data_dir
    from gpud.errors import GpudError  # noqa: PLC0415 - help does without
    from gpud.offline import restore_backup  # noqa: PLC0415 - half a second of imports

    try:
        done = restore_backup(Path(values.text("file")).absolute(), data_dir)
    except GpudError as error:
        raise CommandFailed(error.detail) from error
    _tell(done, context)
    return exits.OK


def _tell(done: Restored, context: Context) -> None:
    manifest = done.manifest
    if context.as_json:
        told = {"data_dir": str(done.data_dir), "aside": done.aside, "files": done.files}
        context.print_json({**told, "manifest": manifest.document()})
        return
    context.print_text(
        facts(
            [
                ("Restored", f"{done.data_dir} as it was on {manifest.host} at {manifest.made_at}"),
                ("Schema", f"{manifest.schema}, gpud {manifest.gpud}"),
                ("Before", f"kept in {done.aside}; remove it when all is well" if done.aside else "empty"),
            ],
            colour=context.colour,
        )
    )
    if done.files:
        places = ", ".join(f"{name} ({path})" for name, path in manifest.files.items())
        context.note(f"Not put anywhere, but in {done.files}: {places}. Copy what this box needs.")
    if not manifest.has_master_key:
        context.note(
            "The master key is not in the backup. Put it where the service has it from before you start gpud."
        )
    context.note(
        "When gpud starts it adopts the workers of this installation that the backup knows and that run, and "
        "removes the others. Jobs that were waiting or running at the time of the backup run again, also "
        "those that have ended since. API keys that were disabled since are valid again: gpud key ls. Never "
        "run the box the backup is from and this one on one Docker Engine."
    )


COMMANDS = (
    Command(
        ("restore",),
        "Put a backup in the place of what the data directory holds.",
        _restore,
        (Argument("file", "A tar that gpud backup wrote."),),
        (
            CONFIG,
            Option("data-dir", "Where to, instead of where the settings say.", metavar="DIR"),
        ),
        details=(
            "Refuses while a daemon runs, a backup of a newer gpud, and a file that is not exactly as it was "
            "written; nothing is changed then. What was there goes into a folder before-restore-... beside "
            "the new. A restore that is killed leaves either the old or the new: once it was decided, the "
            "next start of gpud finishes it."
            "\n\n"
            "gpud.toml and the certificate are put nowhere, but into the folder from-backup of the data "
            "directory, for you to compare."
        ),
        examples=("sudo systemctl stop gpud gpud.socket; sudo gpud restore /var/backups/gpud.tar",),
    ),
)
