"""Writes the command line's reference page and the page of `gpud --help` from the command tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpud.cli import exits, grammar, index
from gpud.cli.help import option_spelling, option_text, top_help
from gpud.cli.parsing import usage_line

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

_HEAD = """\
# Command line

`gpud` is a client of the API, `gpud serve` excepted, which is the daemon. It asks the daemon on this machine
through its Unix socket, where root and the daemon's own user need no key; with `--url` or `GPUD_URL` it asks
any daemon over TCP, with the key in `GPUD_KEY`.

Listings are tables for people and plain aligned text in pipes; `--json` prints the API's JSON. What a command
gives goes to stdout, what it says beside that (progress, notes, errors) to stderr.

This page is written by `scripts/docs cli` from the code.

## Options of every command

They may stand before or after the command.

"""

_ENVIRONMENT = """\
## Environment

| variable | meaning |
|---|---|
| `GPUD_SOCKET` | Unix socket of the daemon, when not `/run/gpud/api.sock` |
| `GPUD_URL` | Address of a daemon over TCP, such as `http://127.0.0.1:8700`; `GPUD_SOCKET` goes first |
| `GPUD_KEY` | API key, for TCP |
| `NO_COLOR` | Set to anything: no colours |
"""


def cli_files() -> dict[Path, str]:
    """The reference page, and the page of `gpud --help`."""
    return {
        ROOT / "docs/reference/cli.md": _page(),
        ROOT / "gpud/cli/help.txt": top_help(),
    }


def _page() -> str:
    blocks = [_HEAD + _options(grammar.GLOBAL_OPTIONS), _ENVIRONMENT, _exit_codes()]
    blocks += [_command(command) for command in index.all_commands()]
    return "\n".join(blocks)


def _exit_codes() -> str:
    rows = [f"| {code} | {meaning} |" for code, meaning in exits.MEANINGS.items()]
    return "\n".join(["## Exit codes", "", "| code | meaning |", "|---|---|", *rows]) + "\n"


def _command(command: grammar.Command) -> str:
    lines = [f"## {command.spelling}", "", command.summary, "", "```text", usage_line(command), "```"]
    for paragraph in filter(None, command.details.split("\n\n")):
        lines += ["", paragraph]
    if command.arguments:
        lines += ["", "| argument | meaning |", "|---|---|"]
        lines += [f"| `{argument.name.upper()}` | {_cell(argument.help)} |" for argument in command.arguments]
    if command.options:
        lines += ["", _options(command.options).rstrip("\n")]
    if command.examples:
        lines += ["", "```sh", *command.examples, "```"]
    return "\n".join(lines) + "\n"


def _options(options: tuple[grammar.Option, ...]) -> str:
    return "\n".join(["| option | meaning |", "|---|---|", *_option_rows(options)]) + "\n"


def _option_rows(options: tuple[grammar.Option, ...]) -> Iterator[str]:
    for option in options:
        field = f" Sets `{option.field}`." if option.field else ""
        default = f" Default: {option.default}." if option.default else ""
        said = option_text(option._replace(default=""))
        yield f"| `{_cell(option_spelling(option))}` | {_cell(said + field + default)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
