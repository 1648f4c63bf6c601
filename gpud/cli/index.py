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
    ("Accounts", ("usage", "audit", "audit-log")),
    ("Daemon", ("serve", "doctor", "backup", "restore", "support-bundle", "version", "completion")),
)
"""First words in the order of the help; each is also the name of a module in `gpud.cli.commands`,
with `_` for `-`."""

FIRST_WORDS = tuple(word for _, words in GROUPS for word in words)


def commands_of(first_word: str) -> tuple[Command, ...]:
    """Import the commands that begin with a word."""
    module = importlib.import_module(f"gpud.cli.commands.{first_word.replace('-', '_')}")
    commands: tuple[Command, ...] = module.COMMANDS
    return commands


def all_commands() -> tuple[Command, ...]:
    """Import every command, in the order of the help."""
    return tuple(command for word in FIRST_WORDS for command in commands_of(word))
