"""Which of the known things a user means by a name or the start of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.exits import BadUsage, CommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence


def only_match(given: str, known: Sequence[str], *, what: str, listing: str) -> str:
    """The one of `known` that is `given` or begins with it, whatever the case.

    Raises:
        CommandFailed: None does.
        BadUsage: Several do.
    """
    if given in known:
        return given
    lowered = given.lower()
    found = [name for name in known if given and name.lower().startswith(lowered)]
    if not found:
        raise CommandFailed(
            f"There is no {what} {given!r}.", todo=f"{listing} shows those there are.", code=exits.NOT_FOUND
        )
    if len(found) > 1:
        raise BadUsage(f"{given!r} is the start of {len(found)}: {', '.join(found)}.", todo="Say more of it.")
    return found[0]
