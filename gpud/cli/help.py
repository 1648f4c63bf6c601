"""Renders help pages from the command tables."""

from __future__ import annotations

from gpud.cli import grammar, index
from gpud.cli.parsing import metavar_of, usage_line

WIDTH = 96


def top_help() -> str:
    """The page of `gpud --help`, kept in `help.txt`."""
    lines = [
        "gpud turns one GPU box into your own serverless GPU platform.",
        "",
        "Usage: gpud COMMAND [OPTIONS]",
    ]
    width = max(map(len, index.FIRST_WORDS))
    for title, first_words in index.GROUPS:
        lines += ["", f"{title}:"]
        for first_word in first_words:
            commands = index.commands_of(first_word)
            if len(commands[0].words) == 1:
                lines.append(f"  {first_word:<{width}}  {commands[0].summary}")
            else:
                verbs = ", ".join(command.words[1] for command in commands)
                lines.append(f"  {first_word:<{width}}  {verbs}")
    lines += ["", "Options of every command:", *_rows(_option_rows(grammar.GLOBAL_OPTIONS))]
    lines += ["", "gpud COMMAND --help says more. Exit codes: docs/reference/cli.md."]
    return "\n".join(lines) + "\n"


def command_help(command: grammar.Command) -> str:
    """The page of one command."""
    lines = [f"Usage: {usage_line(command)}", "", command.summary]
    for paragraph in command.details.strip().split("\n\n"):
        if paragraph:
            lines += ["", *_wrapped(paragraph, WIDTH)]
    if command.arguments:
        rows = [(argument.name.upper(), argument.help) for argument in command.arguments]
        lines += ["", "Arguments:", *_rows(rows)]
    if command.options:
        lines += ["", "Options:", *_rows(_option_rows(command.options))]
    if command.examples:
        lines += ["", "Examples:", *(f"  {example}" for example in command.examples)]
    lines += ["", "Options of every command: --socket PATH, --url URL, --json, --help"]
    return "\n".join(lines) + "\n"


def noun_help(noun: str) -> str:
    """The page of a noun: its commands."""
    rows = [
        (usage_line(command).removeprefix("gpud "), command.summary) for command in index.commands_of(noun)
    ]
    return "\n".join([f"Usage: gpud {noun} COMMAND", "", "Commands:", *_rows(rows)]) + "\n"


def option_spelling(option: grammar.Option) -> str:
    """An option as the user types it."""
    dashed = f"--[no-]{option.name}" if option.negatable else f"--{option.name}"
    short = f"-{option.short}, " if option.short else ""
    short += f"--{option.also}, " if option.also else ""
    value = "" if option.kind == grammar.FLAG else f" {metavar_of(option)}"
    return f"{short}{dashed}{value}"


def option_text(option: grammar.Option) -> str:
    """What an option does, with its default."""
    text = option.help
    if option.repeat:
        text += " May be repeated."
    return f"{text} [{option.default}]" if option.default else text


def _option_rows(options: tuple[grammar.Option, ...]) -> list[tuple[str, str]]:
    return [(option_spelling(option), option_text(option)) for option in options]


def _rows(rows: list[tuple[str, str]]) -> list[str]:
    longest = max((len(left) for left, _ in rows if len(left) <= 34), default=0)
    lines = []
    for left, right in rows:
        wrapped = _wrapped(right, WIDTH - longest - 4)
        if len(left) > longest:
            lines.append(f"  {left}")
            lines.append(f"  {'':<{longest}}  {wrapped[0]}")
        else:
            lines.append(f"  {left:<{longest}}  {wrapped[0]}")
        lines += [f"  {'':<{longest}}  {more}" for more in wrapped[1:]]
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines
