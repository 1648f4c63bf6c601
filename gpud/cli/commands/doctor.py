"""`gpud doctor`: looks at everything gpud stands on, and says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.examining import examine_fully
from gpud.cli.grammar import FLAG, Command, Option
from gpud.cli.settings_file import CONFIG

if TYPE_CHECKING:
    from gpud.cli.context import Context
    from gpud.cli.values import Values


def _doctor(values: Values, context: Context) -> int:
    from gpud.core.doctor.findings import counts  # noqa: PLC0415 - help does without

    examined = examine_fully(values, context)
    totals = counts(finding for _area, findings in examined.areas for finding in findings)
    if context.as_json:
        context.print_json(examined.document())
    else:
        from gpud.cli.doctor_text import print_areas  # noqa: PLC0415 - rich is for people

        print_areas(examined.areas, totals, all_of_them=not values.flag("brief"))
    return exits.FAILED if totals["failed"] else exits.OK


COMMANDS = (
    Command(
        ("doctor",),
        "Look at everything gpud stands on, and say what to do.",
        _doctor,
        options=(CONFIG, Option("brief", "Only what is not well.", kind=FLAG)),
        details=(
            "Looks at this box itself: settings, data directory, keys, certificate and port; Docker and how "
            "it attaches GPUs; NVML and each GPU; disks, clock, limits and kernel. It changes nothing, and "
            "works whether the daemon runs or not; where it does, its settings count and what it says of "
            "itself is told too. "
            "As root it sees everything."
            "\n\n"
            "The exit code is 0 when no check failed (there may be warnings) and 1 when one did."
        ),
        examples=("sudo gpud doctor", "gpud doctor --config gpud.toml --brief", "gpud doctor --json"),
    ),
)
