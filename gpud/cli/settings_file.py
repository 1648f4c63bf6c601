"""Finds the settings' file that a command on the daemon's box goes by, and reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gpud.cli.exits import BadUsage
from gpud.cli.grammar import Option

if TYPE_CHECKING:
    from gpud.cli.values import Values
    from gpud.settings import Settings

USUAL = Path("/etc/gpud/gpud.toml")

CONFIG = Option(
    "config",
    "Settings of the daemon.",
    metavar="FILE",
    short="c",
    default="/etc/gpud/gpud.toml if it is there, else the defaults",
)


class Found(NamedTuple):
    """A settings' file as it was read.

    Args:
        path: Of the file; None for the defaults.
        settings: Read from it; None when it cannot be used.
        error: Why it cannot.
    """

    path: Path | None
    settings: Settings | None
    error: str


def find(values: Values) -> Found:
    """Read the file that `--config` names, or the usual one."""
    from gpud.errors import BadSettings  # noqa: PLC0415 - help does without
    from gpud.settings import load_settings  # noqa: PLC0415

    path = Path(values.text("config")) if values.text("config") else None
    if path is None and USUAL.exists():
        path = USUAL
    try:
        return Found(path, load_settings(path), "")
    except BadSettings as error:
        return Found(path, None, error.detail)


class Usable(NamedTuple):
    """Settings that can be used.

    Args:
        path: Of the file; None for the defaults.
        settings: Read from it.
    """

    path: Path | None
    settings: Settings


def usable(values: Values) -> Usable:
    """Read the settings, which must be valid.

    Raises:
        BadUsage: They are not.
    """
    found = find(values)
    if found.settings is None:
        raise BadUsage(found.error)
    return Usable(found.path, found.settings)
