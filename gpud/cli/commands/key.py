"""`gpud key`: who may use the API and the endpoints over TCP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.client import path_of
from gpud.cli.exits import CommandFailed
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.output import Column, age, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_OPTIONS = (
    Option(
        "scope",
        "What it may do: invoke:ENDPOINT, invoke:*, read, write, metrics, exec or admin.",
        repeat=True,
        field="scopes",
        default="invoke:*",
    ),
    Option("label", "For people: who uses it, what for.", field="label"),
    Option(
        "expires",
        "When it stops working: 30d, a date or a time.",
        metavar="WHEN",
        default="never",
        field="expires_at",
    ),
)


def _scopes(key: Mapping[str, object]) -> str:
    scopes = value_at(key, "scopes")
    return ",".join(str(scope) for scope in scopes) if isinstance(scopes, list) else ""


def _state(key: Mapping[str, object]) -> str:
    if key.get("disabled"):
        return "disabled"
    from datetime import UTC, datetime  # noqa: PLC0415 - only this listing needs it

    expires_at = text_at(key, "expires_at")
    over = expires_at and datetime.fromisoformat(expires_at) <= datetime.now(UTC)
    return "expired" if over else "active"


COLUMNS = (
    Column("ID", lambda row: text_at(row, "id")),
    Column("STATE", _state, state=True),
    Column("SCOPES", _scopes, shrink=True),
    Column("LABEL", lambda row: text_at(row, "label"), shrink=True),
    Column("EXPIRES", lambda row: text_at(row, "expires_at")[:10] or "never"),
    Column("LAST USED", lambda row: age(text_at(row, "last_used_at")) or "never", right=True),
    Column("AGE", lambda row: age(text_at(row, "created_at")), right=True),
)


def _ls(_values: Values, context: Context) -> int:
    rows = context.client.items("/v1/keys")
    context.print_table(COLUMNS, rows, empty="No keys. Make one: gpud key create --label NAME")
    return exits.OK


def _create(values: Values, context: Context) -> int:
    from gpud.cli import specs  # noqa: PLC0415 - the listing does without
    from gpud.cli.moments import moment  # noqa: PLC0415

    body: dict[str, object] = {
        "label": values.text("label"),
        "scopes": values.texts("scope") or ["invoke:*"],
        "expires_at": moment(values.text("expires"), "expires", ahead=True) or None,
    }
    try:
        key = context.client.call("POST", "/v1/keys", body)
    except CommandFailed as failure:
        raise specs.with_options_named(failure, _OPTIONS) from None
    if context.as_json:
        context.print_json(key)
        return exits.OK
    context.print_text(text_at(key, "token"))
    context.note(f"Key {text_at(key, 'id')} may {_scopes(key)}. Keep it: it is not shown again.")
    return exits.OK


def _disable(values: Values, context: Context) -> int:
    for key_id in values.texts("id"):
        context.client.call("DELETE", path_of("v1", "keys", key_id))
        context.note(f"Disabled {key_id}; requests with it are refused from now on.")
    return exits.OK


COMMANDS = (
    Command(("key", "ls"), "List the keys, without their secrets.", _ls),
    Command(
        ("key", "create"),
        "Make a key. Its token alone goes to stdout, this once.",
        _create,
        options=_OPTIONS,
        examples=(
            "GPUD_KEY=$(gpud key create --label ci --scope invoke:llm --expires 30d)",
            "gpud key create --label grafana --scope metrics",
        ),
    ),
    Command(
        ("key", "disable"),
        "Disable keys for good.",
        _disable,
        (Argument("id", "Id of the key, such as key_….", kind=grammar.TEXT, repeat=True),),
    ),
)
