"""`gpud version`: which gpud this is."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from gpud import __version__
from gpud.cli import exits
from gpud.cli.grammar import Command

if TYPE_CHECKING:
    from gpud.cli.context import Context
    from gpud.cli.values import Values


def _version(_values: Values, context: Context) -> int:
    own, python = __version__, platform.python_version()
    if context.as_json:
        context.print_json({"gpud": own, "python": python})
    else:
        context.print_text(f"gpud {own}, Python {python}")
    return exits.OK


COMMANDS = (Command(("version",), "Say which gpud this is; gpud status says which the daemon is.", _version),)
