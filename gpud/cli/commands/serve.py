"""`gpud serve`: runs the daemon."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.exits import CommandFailed
from gpud.cli.grammar import Command, Option

if TYPE_CHECKING:
    from gpud.cli.context import Context
    from gpud.cli.values import Values


def _serve(values: Values, _context: Context) -> int:
    path = Path(values.text("config")) if "config" in values else None
    if values.flag("supervise"):
        from gpud.cli.supervisor import supervise  # noqa: PLC0415 - the daemon does without

        return supervise(path)
    from gpud.errors import BadSettings, GpudError  # noqa: PLC0415 - for this command alone
    from gpud.settings import load_settings  # noqa: PLC0415

    gc.disable()  # a tenth of a start went into looking at what all stays; `tune_process` turns it on
    try:
        load_settings(path)  # a fault in the file is told before the imports that take half a second
        from gpud.daemon import serve  # noqa: PLC0415

        return serve(path)
    except BadSettings as error:
        raise CommandFailed(error.detail, code=exits.BAD_USAGE) from error
    except GpudError as error:
        raise CommandFailed(error.detail) from error


COMMANDS = (
    Command(
        ("serve",),
        "Run the daemon in the foreground.",
        _serve,
        options=(
            Option(
                "config",
                "Settings.",
                metavar="FILE",
                short="c",
                default="the defaults in gpud.toml's comments",
            ),
            Option(
                "supervise",
                "Hold the listening sockets and restart the daemon when it ends unasked.",
                kind=grammar.FLAG,
            ),
        ),
        details=(
            "Under systemd, gpud.socket and gpud.service do what --supervise does elsewhere: the sockets "
            "outlive the daemon, so that its restart refuses no connection. SIGTERM and Ctrl-C stop it; "
            "workers keep running and the next start adopts them, unless docker.stop_policy says otherwise."
        ),
        examples=("gpud serve --config /etc/gpud/gpud.toml", "gpud serve --supervise"),
    ),
)
