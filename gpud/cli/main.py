"""Finds the command a user means, runs it, and turns failures into messages and exit codes.

`gpud --help` prints a file that `scripts/docs cli` writes, so that it imports nothing: the test
beside this holds the two together.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.cli.exits import CommandFailed
    from gpud.cli.grammar import Command

_HELP_WORDS = ("--help", "-h", "help")


def run(words: Sequence[str]) -> int:
    """Run one command line, without the program's name, and return the exit code."""
    if not words:
        sys.stderr.write(_top_help())
        return 2
    if len(words) == 1 and words[0] in _HELP_WORDS:
        sys.stdout.write(_top_help())
        return 0
    return _run_safely(words)


def _top_help() -> str:
    with open(f"{__file__.rpartition('/')[0]}/help.txt", encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs 9 ms
        return file.read()


def _run_safely(words: Sequence[str]) -> int:
    from gpud.cli import exits  # noqa: PLC0415 - `gpud --help` imports nothing

    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except exits.CommandFailed as failure:
        _say(failure)
        return failure.code
    except KeyboardInterrupt:
        sys.stderr.write("\n" if sys.stderr.isatty() else "")
        return exits.INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return exits.OUTPUT_CLOSED
    return code


def _dispatch(words: Sequence[str]) -> int:
    from gpud.cli.context import Context  # noqa: PLC0415
    from gpud.cli.parsing import parse  # noqa: PLC0415

    if words[0] == "__complete":
        return _complete(words[1:])
    command, rest = find(words)
    if command is None:
        from gpud.cli.help import noun_help  # noqa: PLC0415

        sys.stdout.write(noun_help(rest[0]))
        return 0
    values = parse(command, rest)
    if values.flag("help"):
        from gpud.cli.help import command_help  # noqa: PLC0415

        sys.stdout.write(command_help(command))
        return 0
    with Context(values) as context:
        return command.run(values, context)


def _complete(words: Sequence[str]) -> int:
    from gpud.cli.commands.completion import candidates  # noqa: PLC0415
    from gpud.cli.context import Context  # noqa: PLC0415
    from gpud.cli.values import Values  # noqa: PLC0415

    with Context(Values({})) as context:
        sys.stdout.writelines(f"{word}\n" for word in candidates(words, context))
    return 0


def find(words: Sequence[str]) -> tuple[Command | None, list[str]]:
    """Find the command, and the words that are not its name.

    Global options may stand before the command's words; they are handed on with the rest. A noun
    whose help is asked for gives None and the noun.

    Raises:
        BadUsage: No such command.
    """
    from gpud.cli.exits import BadUsage  # noqa: PLC0415
    from gpud.cli.index import FIRST_WORDS, commands_of  # noqa: PLC0415
    from gpud.cli.parsing import suggestion  # noqa: PLC0415

    leading, rest = _split_leading_options(words)
    if rest and rest[0] == "help":
        rest = [*rest[1:], "--help"]
    if not rest or rest[0].startswith("-"):
        if rest[:1] == ["--version"]:
            return commands_of("version")[0], []
        told = f"gpud has no option {rest[0]} before a command." if rest else "The command is missing."
        raise BadUsage(told, todo="See gpud --help.")
    if rest[0] not in FIRST_WORDS:
        raise BadUsage(
            f"gpud has no command {rest[0]!r}.", todo=suggestion(rest[0], FIRST_WORDS) or "See gpud --help."
        )
    commands = commands_of(rest[0])
    if len(commands) == 1 and len(commands[0].words) == 1:
        return commands[0], [*leading, *rest[1:]]
    return _find_verb(rest[0], commands, leading, rest[1:])


def _find_verb(
    noun: str, commands: tuple[Command, ...], leading: list[str], rest: list[str]
) -> tuple[Command | None, list[str]]:
    from gpud.cli.exits import BadUsage  # noqa: PLC0415
    from gpud.cli.parsing import suggestion  # noqa: PLC0415

    more, rest = _split_leading_options(rest)
    verbs = [command.words[1] for command in commands]
    if rest and rest[0] in ("--help", "-h"):
        return None, [noun]
    if not rest:
        raise BadUsage(f"gpud {noun} needs one of {', '.join(verbs)}.", todo=f"See gpud {noun} --help.")
    for command in commands:
        if command.words[1] == rest[0]:
            return command, [*leading, *more, *rest[1:]]
    raise BadUsage(
        f"gpud {noun} has no {rest[0]!r}: it has {', '.join(verbs)}.", todo=suggestion(rest[0], verbs)
    )


def _split_leading_options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take global options off the front, so that the command's word comes first."""
    leading: list[str] = []
    rest = list(words)
    while rest:
        if rest[0] in ("--socket", "--url"):
            leading += rest[:2]
            del rest[:2]
        elif rest[0] == "--json" or rest[0].startswith(("--socket=", "--url=")):
            leading.append(rest.pop(0))
        else:
            break
    return leading, rest


def _say(failure: CommandFailed) -> None:
    from gpud.cli.output import failure_text  # noqa: PLC0415

    sys.stderr.write(failure_text(failure, colour=sys.stderr.isatty()))


def _drop_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain."""
    import os  # noqa: PLC0415

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
