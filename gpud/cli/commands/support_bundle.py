"""`gpud support-bundle`: puts what helps to find a fault into one file, without secrets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.exits import BadUsage, CommandFailed
from gpud.cli.grammar import FLAG, WHOLE, Argument, Command, Option
from gpud.cli.settings_file import CONFIG

if TYPE_CHECKING:
    from gpud.cli.context import Context
    from gpud.cli.values import Values


def _bundle(values: Values, context: Context) -> int:
    from gpud.cli import evidence  # noqa: PLC0415 - help does without
    from gpud.cli.examining import Examined, examine_fully  # noqa: PLC0415
    from gpud.offline import write_support_bundle  # noqa: PLC0415 - half a second of imports

    to = _place(values)
    examined: Examined = examine_fully(values, context)
    gathered = evidence.gather(values, context, examined)
    try:
        known = write_support_bundle(examined.settings, to, gathered.files, gathered.secrets)
    except OSError as error:
        raise CommandFailed(f"{to} cannot be written: {error.strerror or error}.") from error
    if context.as_json:
        context.print_json({"file": str(to), "files": sorted(gathered.files), "stored_secrets_known": known})
        return exits.OK
    context.print_text(f"{to}, {to.stat().st_size / 1024:.0f} KiB: {', '.join(sorted(gathered.files))}")
    for told in gathered.missing:
        context.note(told)
    if not known:
        context.note(
            "This user may not read the stored secrets, so they were not looked for by value: only what is "
            "named or spelled like a secret was taken out. As root both are."
        )
    context.note(
        "Names of endpoints, images, hosts and addresses are in it. Look at it before you send it: tar xzf."
    )
    return exits.OK


def _place(values: Values) -> Path:
    if values.text("file"):
        to = Path(values.text("file")).absolute()
    else:
        from datetime import UTC, datetime  # noqa: PLC0415 - help does without

        to = Path(f"gpud-support-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz").absolute()
    if to.exists():
        raise BadUsage(f"{to} exists.", todo="Choose another name.")
    return to


COMMANDS = (
    Command(
        ("support-bundle",),
        "Put what helps to find a fault into one file, without secrets.",
        _bundle,
        (
            Argument(
                "file", "The .tar.gz to write; gpud-support-TIME.tar.gz here by default.", required=False
            ),
        ),
        (
            CONFIG,
            Option(
                "worker-logs",
                "Also the last lines of each worker. They may hold what callers sent.",
                kind=FLAG,
            ),
            Option("log", "The daemon's log, where no journal has it.", metavar="FILE"),
            Option("lines", "How many lines of each log.", kind=WHOLE, default="2000"),
        ),
        details=(
            "Holds what the doctor found, versions, settings, endpoints, workers, GPUs, cold starts, recent "
            "events, metrics, the daemon's last log lines, and sizes of tables and files. It works with the "
            "daemon down too, and then holds less."
            "\n\n"
            "Values of environment variables, passwords, keys, tokens and URLs of webhooks are taken out: by "
            "field, by value wherever they occur, and by how secrets are spelled. Inputs and results of jobs "
            "are not in it."
        ),
        examples=("sudo gpud support-bundle", "sudo gpud support-bundle /tmp/case-17.tar.gz --worker-logs"),
    ),
)
