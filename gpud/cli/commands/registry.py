"""`gpud registry`: credentials for private images."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.client import path_of
from gpud.cli.exits import BadUsage, CommandFailed
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.output import Column, age, text_at

if TYPE_CHECKING:
    from gpud.cli.context import Context
    from gpud.cli.values import Values

COLUMNS = (
    Column("NAME", lambda row: text_at(row, "name")),
    Column("HOST", lambda row: text_at(row, "host")),
    Column("USERNAME", lambda row: text_at(row, "username")),
    Column("AGE", lambda row: age(text_at(row, "created_at")), right=True),
)

_LOGIN_OPTIONS = (
    Option("host", "Host of the registry, such as ghcr.io.", metavar="HOST[:PORT]", field="host"),
    Option("username", "User name there.", short="u", field="username"),
)


def _ls(_values: Values, context: Context) -> int:
    rows = context.client.items("/v1/registries")
    context.print_table(
        COLUMNS, rows, empty="No registry credentials. Store one: gpud registry login NAME --host HOST"
    )
    return exits.OK


def _login(values: Values, context: Context) -> int:
    from gpud.cli import specs  # noqa: PLC0415 - the listing does without

    name, host, username = values.text("name"), values.text("host"), values.text("username")
    if not host or not username:
        raise BadUsage(
            "gpud registry login needs --host and --username.",
            todo=f"Such as gpud registry login {name} --host ghcr.io --username me.",
        )
    body = {"host": host, "username": username, "password": _password(username, host)}
    try:
        registry = context.client.call("PUT", path_of("v1", "registries", name), body)
    except CommandFailed as failure:
        parts = (*_LOGIN_OPTIONS, Argument("name", "", field="name"))
        raise specs.with_options_named(failure, parts) from None
    if context.as_json:
        context.print_json(registry)
    else:
        context.print_text(f"Stored. Private images of {host} deploy with --registry {name}.")
    return exits.OK


def _password(username: str, host: str) -> str:
    """Ask for the password on a terminal; elsewhere it is the first line of stdin."""
    if sys.stdin.isatty():
        import getpass  # noqa: PLC0415 - only a person is asked

        password = getpass.getpass(f"Password or token of {username} at {host}: ")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise BadUsage("No password was given.", todo="Type it at the prompt, or pipe it into stdin.")
    return password


def _rm(values: Values, context: Context) -> int:
    for name in values.texts("name"):
        context.client.call("DELETE", path_of("v1", "registries", name))
        context.note(f"Forgot the credential {name}.")
    return exits.OK


COMMANDS = (
    Command(("registry", "ls"), "List the stored credentials, without passwords.", _ls),
    Command(
        ("registry", "login"),
        "Store a credential for private images; its password comes from a prompt or from stdin.",
        _login,
        (Argument("name", "What deploys call it: --registry NAME."),),
        _LOGIN_OPTIONS,
        examples=(
            "gpud registry login ghcr --host ghcr.io --username me",
            "gpud registry login ghcr --host ghcr.io --username me < token.txt",
        ),
    ),
    Command(
        ("registry", "rm"),
        "Forget credentials that no endpoint uses.",
        _rm,
        (Argument("name", "Name of the credential.", repeat=True),),
    ),
)
