"""`gpud webhook`: who is called when something happens, and what became of each call."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.client import path_of
from gpud.cli.exits import BadUsage, CommandFailed
from gpud.cli.grammar import ENDPOINT, FLAG, Argument, Command, Option
from gpud.cli.output import Column, age, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_TEST_LIMIT_S = 20.0
_ASK_EVERY_S = 0.2


def _types(row: Mapping[str, object]) -> str:
    types = value_at(row, "types")
    return ",".join(str(one) for one in types) if isinstance(types, list) else ""


def _state(row: Mapping[str, object]) -> str:
    if not row.get("enabled"):
        return "disabled"
    return "failing" if row.get("failures") else "active"


COLUMNS = (
    Column("ID", lambda row: text_at(row, "id")),
    Column("STATE", _state, state=True),
    Column("URL", lambda row: text_at(row, "url"), shrink=True),
    Column("TYPES", _types, shrink=True),
    Column("ENDPOINT", lambda row: text_at(row, "endpoint") or "all"),
    Column("AGE", lambda row: age(text_at(row, "created_at")), right=True),
)

_DELIVERY_COLUMNS = (
    Column("ID", lambda row: text_at(row, "id")),
    Column("STATE", lambda row: text_at(row, "state"), state=True),
    Column("TYPE", lambda row: text_at(row, "type")),
    Column("TRIES", lambda row: text_at(row, "attempts"), right=True),
    Column("NEXT", lambda row: text_at(row, "next_at")),
    Column("AGE", lambda row: age(text_at(row, "created_at")), right=True),
)

_WEBHOOK = Argument("webhook", "Id of the webhook, whk_…, or jobs for the addresses that jobs bring along.")

_CREATE_OPTIONS = (
    Option(
        "type",
        "What it is told: a type such as worker.failed, a family such as 'job.*', or '*'.",
        repeat=True,
        field="types",
        default="'*'",
    ),
    Option("endpoint", "Only what concerns this endpoint.", kind=ENDPOINT, field="endpoint"),
    Option("description", "For people.", field="description"),
)


def _ls(values: Values, context: Context) -> int:
    webhook = values.text("webhook")
    if webhook:
        rows = context.client.items(path_of("v1", "webhooks", webhook, "deliveries"))
        context.print_table(_DELIVERY_COLUMNS, rows, empty="No deliveries: nothing was sent to it yet.")
        return exits.OK
    rows = context.client.items("/v1/webhooks")
    context.print_table(COLUMNS, rows, empty="No webhooks. Make one: gpud webhook create https://…")
    return exits.OK


def _create(values: Values, context: Context) -> int:
    from gpud.cli import specs  # noqa: PLC0415 - the listing does without

    body: dict[str, object] = {
        "url": values.text("address"),
        "types": values.texts("type") or ["*"],
        "endpoint": values.text("endpoint"),
        "description": values.text("description"),
    }
    try:
        webhook = context.client.call("POST", "/v1/webhooks", body)
    except CommandFailed as failure:
        parts = (*_CREATE_OPTIONS, Argument("address", "", field="url"))
        raise specs.with_options_named(failure, parts) from None
    return _show_secret(webhook, context, f"Webhook {text_at(webhook, 'id')} is called from now on.")


def _rotate(values: Values, context: Context) -> int:
    path = path_of("v1", "webhooks", values.text("webhook"), "rotate")
    webhook = context.client.call("POST", path, {})
    until = text_at(webhook, "old_secret_until")
    return _show_secret(webhook, context, f"Calls are signed with the old secret as well until {until}.")


def _show_secret(webhook: Mapping[str, object], context: Context, note: str) -> int:
    if context.as_json:
        context.print_json(webhook)
        return exits.OK
    context.print_text(text_at(webhook, "secret"))
    context.note(f"{note} Keep the secret: it is not shown again.")
    return exits.OK


def _rm(values: Values, context: Context) -> int:
    for webhook in values.texts("webhook"):
        context.client.call("DELETE", path_of("v1", "webhooks", webhook))
        context.note(f"Forgot {webhook}.")
    return exits.OK


def _switch(values: Values, context: Context, *, enabled: bool) -> int:
    for webhook in values.texts("webhook"):
        context.client.call("PATCH", path_of("v1", "webhooks", webhook), {"enabled": enabled})
        context.note(f"{'Enabled' if enabled else 'Disabled'} {webhook}.")
    return exits.OK


def _enable(values: Values, context: Context) -> int:
    return _switch(values, context, enabled=True)


def _disable(values: Values, context: Context) -> int:
    return _switch(values, context, enabled=False)


def _get(values: Values, context: Context) -> int:
    path = path_of("v1", "webhooks", values.text("webhook"), "deliveries", values.text("delivery"))
    context.print_json(context.client.call("GET", path))
    return exits.OK


def _test(values: Values, context: Context) -> int:
    webhook = values.text("webhook")
    delivery = context.client.call("POST", path_of("v1", "webhooks", webhook, "test"), None)
    path = path_of("v1", "webhooks", webhook, "deliveries", text_at(delivery, "id"))
    until_s = time.monotonic() + _TEST_LIMIT_S
    while not delivery.get("log") and time.monotonic() < until_s:
        time.sleep(_ASK_EVERY_S)
        delivery = context.client.call("GET", path)
    if context.as_json:
        context.print_json(delivery)
    log = delivery.get("log")
    last = log[-1] if isinstance(log, list) and log else {}
    if text_at(delivery, "state") == "delivered":
        context.note(f"Delivered: it answered {last['status']} in {last['took_ms']} ms.")
        return exits.OK
    why = last.get("error") or "Nothing was tried yet; its destination may be busy."
    raise CommandFailed(
        f"The test was not delivered. {why}",
        todo=f"gpud webhook get {webhook} {text_at(delivery, 'id')} shows every try.",
    )


def _redeliver(values: Values, context: Context) -> int:
    webhook, deliveries = values.text("webhook"), values.texts("delivery")
    since = values.text("since")
    if bool(deliveries) == bool(since):
        raise BadUsage(
            "gpud webhook redeliver needs deliveries, or --since.",
            todo=f"gpud webhook ls {webhook} lists them; --since 2h sends again what failed since then.",
        )
    if since:
        from gpud.cli.moments import moment  # noqa: PLC0415 - only here

        body = {"since": moment(since, "since"), "all": values.flag("all")}
        replay = context.client.call("POST", path_of("v1", "webhooks", webhook, "replay"), body)
        context.note(f"{text_at(replay, 'replayed')} deliveries are sent again.")
        return exits.OK
    for delivery in deliveries:
        path = path_of("v1", "webhooks", webhook, "deliveries", delivery, "redeliver")
        context.client.call("POST", path, None)
        context.note(f"{delivery} is sent again.")
    return exits.OK


_SOME = Argument("webhook", "Id of the webhook, whk_….", repeat=True)

COMMANDS = (
    Command(
        ("webhook", "ls"),
        "List the webhooks, or what was sent to one.",
        _ls,
        (Argument("webhook", "List what was sent to this one, or to jobs.", required=False),),
    ),
    Command(
        ("webhook", "create"),
        "Call an address when something happens. Its signing secret goes to stdout, this once.",
        _create,
        (Argument("address", "Where calls go, such as https://app.example/hooks.", field="url"),),
        _CREATE_OPTIONS,
        examples=(
            "gpud webhook create https://app.example/hooks --type worker.failed --type 'job.*'",
            "gpud webhook create https://app.example/hooks --endpoint llm",
        ),
    ),
    Command(
        ("webhook", "get"),
        "Show a delivery: what was sent, and every try.",
        _get,
        (_WEBHOOK, Argument("delivery", "Id of the delivery, msg_….")),
    ),
    Command(("webhook", "test"), "Send a test message and say what came of it.", _test, (_WEBHOOK,)),
    Command(
        ("webhook", "redeliver"),
        "Send deliveries again, with the same id and body.",
        _redeliver,
        (_WEBHOOK, Argument("delivery", "Id of the delivery, msg_….", required=False, repeat=True)),
        (
            Option("since", "Instead: everything that failed since then.", metavar="WHEN"),
            Option("all", "With --since: also what was delivered.", kind=FLAG),
        ),
        examples=("gpud webhook redeliver whk_… msg_…", "gpud webhook redeliver whk_… --since 2h"),
    ),
    Command(
        ("webhook", "rotate"),
        "Change the signing secret; for a day calls are signed with both.",
        _rotate,
        (_WEBHOOK,),
    ),
    Command(("webhook", "enable"), "Call webhooks again.", _enable, (_SOME,)),
    Command(("webhook", "disable"), "Stop calling webhooks; what waits is dropped.", _disable, (_SOME,)),
    Command(("webhook", "rm"), "Forget webhooks and their deliveries.", _rm, (_SOME,)),
)
