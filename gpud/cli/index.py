"""Where each command lives: the first word of a command, and the module that holds it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.cli.grammar import Command

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Daily",
        (
            "deploy",
            "rollback",
            "invoke",
            "run",
            "apply",
            "status",
            "top",
            "explain",
            "simulate",
            "logs",
            "exec",
            "events",
        ),
    ),
    ("Things", ("endpoint", "job", "worker", "gpu", "image", "registry", "key", "webhook", "template")),
    ("Accounts", ("usage", "budget", "audit", "audit-log")),
    ("Daemon", ("serve", "doctor", "backup", "restore", "support-bundle", "version", "completion")),
)
"""First words in the order of the help; each is also the name of a module in `gpud.cli.commands`,
with `_` for `-`."""

FIRST_WORDS = tuple(word for _, words in GROUPS for word in words)


WATCHED = frozenset(
    {
        ("status",),
        ("explain",),
        ("usage",),
        ("budget", "ls"),
        ("endpoint", "ls"),
        ("endpoint", "get"),
        ("endpoint", "starts"),
        ("endpoint", "revisions"),
        ("job", "ls"),
        ("job", "get"),
        ("worker", "ls"),
        ("worker", "get"),
        ("worker", "stats"),
        ("gpu", "ls"),
        ("image", "ls"),
        ("registry", "ls"),
        ("key", "ls"),
        ("webhook", "ls"),
        ("webhook", "get"),
        ("audit-log",),
    }
)
"""Commands that show how something is, and so can be watched."""


_watchable: dict[str, tuple[Command, ...]] = {}


def commands_of(first_word: str) -> tuple[Command, ...]:
    """Import the commands that begin with a word."""
    module = importlib.import_module(f"gpud.cli.commands.{first_word.replace('-', '_')}")
    commands: tuple[Command, ...] = module.COMMANDS
    if first_word not in _watchable and any(command.words in WATCHED for command in commands):
        from gpud.cli.watching import watched  # noqa: PLC0415 - only for those

        _watchable[first_word] = tuple(
            watched(command) if command.words in WATCHED else command for command in commands
        )
    return _watchable.get(first_word, commands)


def all_commands() -> tuple[Command, ...]:
    """Import every command, in the order of the help."""
    return tuple(command for word in FIRST_WORDS for command in commands_of(word))
