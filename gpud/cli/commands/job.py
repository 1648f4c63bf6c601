"""`gpud job`: work that outlives its request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.client import path_of
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.output import Column, age, facts, money, number_at, rows_at, state_text, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_ID = Argument("id", "Id of the job.")
_ENDPOINT = Option("endpoint", "Only this endpoint's.", kind=grammar.ENDPOINT, metavar="NAME")
_STATES = ("IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")

COLUMNS = (
    Column("ID", lambda row: text_at(row, "id")),
    Column("ENDPOINT", lambda row: text_at(row, "endpoint")),
    Column("STATE", lambda row: text_at(row, "state"), state=True),
    Column("WHY", lambda row: state_text(text_at(row, "reason"))),
    Column("TRIES", lambda row: text_at(row, "attempt"), right=True),
    Column("WORKER", lambda row: text_at(row, "worker")),
    Column("AGE", lambda row: age(text_at(row, "created_at")), right=True),
)


def _ls(values: Values, context: Context) -> int:
    query = {
        "endpoint": values.text("endpoint"),
        "state": values.text("state"),
        "dead": "true" if values.flag("dead") else "",
        "limit": 500,
    }
    rows = context.client.items("/v1/jobs", query)
    context.print_table(COLUMNS, rows, empty="No jobs. Make one with `gpud run`.")
    return exits.OK


def _get(values: Values, context: Context) -> int:
    job = context.client.get(path_of("v1", "jobs", values.text("id")))
    if context.as_json:
        context.print_json(job)
        return exits.OK
    output, estimate_ms = job.get("output"), value_at(job, "estimate_ms")
    wait = f"about {int(estimate_ms) / 1000:.0f} s more" if isinstance(estimate_ms, int) else ""
    context.print_text(
        facts(
            [
                ("Id", text_at(job, "id")),
                ("Endpoint", text_at(job, "endpoint")),
                ("Owner", text_at(job, "owner")),
                ("State", text_at(job, "state") + (" (dead)" if job.get("dead") else "")),
                ("Why", state_text(text_at(job, "reason"))),
                ("Wait", wait),
                ("Error", text_at(job, "error")),
                ("Attempts", "\n".join(map(_attempt, rows_at(job, "attempts")))),
                ("Created", _moment(job, "created_at")),
                ("Started", _moment(job, "started_at")),
                ("Finished", _moment(job, "finished_at")),
                ("Kept until", text_at(job, "kept_until")),
                ("Queue", _ms(job, "queue_ms")),
                ("Run", _ms(job, "exec_ms")),
                ("GPU", _ms(job, "gpu_ms")),
                ("Cost", money(number_at(job, "cost_micros")) if number_at(job, "cost_micros") else ""),
                ("Energy", _joules(job)),
                ("Progress", _json(job.get("progress"))),
                ("Output", _json(output)),
            ],
            colour=context.colour,
        )
    )
    return exits.OK


def _attempt(row: Mapping[str, object]) -> str:
    exit_code = text_at(row, "exit_code")
    parts = [
        f"{text_at(row, 'delivery')}. {state_text(text_at(row, 'ending'))} on {text_at(row, 'worker')}",
        state_text(text_at(row, "reason")),
        f"exit code {exit_code}" if exit_code else "",
        text_at(row, "error"),
    ]
    return ", ".join(part for part in parts if part)


def _json(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _ms(job: Mapping[str, object], name: str) -> str:
    value = value_at(job, name)
    return f"{value} ms" if value is not None else ""


def _joules(job: Mapping[str, object]) -> str:
    energy_mj = number_at(job, "energy_mj")
    return f"{energy_mj / 1000:,.1f} J" if energy_mj else ""


def _moment(job: Mapping[str, object], name: str) -> str:
    at = text_at(job, name)
    return f"{age(at)} ago ({at})" if at else ""


def _cancel(values: Values, context: Context) -> int:
    return _each(values, context, "cancel")


def _retry(values: Values, context: Context) -> int:
    return _each(values, context, "retry")


def _each(values: Values, context: Context, verb: str) -> int:
    for job_id in values.texts("id"):
        job = context.client.call("POST", path_of("v1", "jobs", job_id, verb))
        if context.as_json:
            context.print_json(job)
        stopping = " and is being stopped" if job.get("cancel_requested") else ""
        context.note(f"{job_id} is {text_at(job, 'state')}{stopping}.")
    return exits.OK


def _redrive(values: Values, context: Context) -> int:
    return _dead(values, context, "redrive", "put back")


def _purge(values: Values, context: Context) -> int:
    return _dead(values, context, "purge", "deleted")


def _dead(values: Values, context: Context, verb: str, done: str) -> int:
    query = {"endpoint": values.text("endpoint"), "limit": int(values.number("limit") or 100)}
    pairs = "&".join(f"{name}={value}" for name, value in query.items() if value)
    answer = context.client.call("POST", path_of("v1", "dead-letters", verb) + f"?{pairs}")
    if context.as_json:
        context.print_json(answer)
    context.note(f"{text_at(answer, 'count')} dead letters {done}.")
    return exits.OK


def _stream(values: Values, context: Context) -> int:
    for chunk in context.client.payloads(path_of("v1", "jobs", values.text("id"), "stream")):
        context.print_data(chunk)
    return exits.OK


_FILTERS = (
    _ENDPOINT,
    Option("limit", "Most jobs at once.", kind=grammar.WHOLE, default="100"),
)

COMMANDS = (
    Command(
        ("job", "ls"),
        "List the jobs, newest first.",
        _ls,
        options=(
            _ENDPOINT,
            Option("state", "Only in this state.", choices=_STATES),
            Option("dead", "Only dead letters.", kind=grammar.FLAG),
        ),
    ),
    Command(("job", "get"), "Show a job with every attempt and its output.", _get, (_ID,)),
    Command(
        ("job", "cancel"),
        "Cancel jobs: at once where they wait, else as soon as the worker can be stopped.",
        _cancel,
        (_ID._replace(repeat=True),),
    ),
    Command(
        ("job", "retry"),
        "Try jobs that failed or timed out again.",
        _retry,
        (_ID._replace(repeat=True),),
    ),
    Command(("job", "redrive"), "Put dead letters back, with new attempts.", _redrive, options=_FILTERS),
    Command(("job", "purge"), "Delete dead letters.", _purge, options=_FILTERS),
    Command(("job", "stream"), "Print what a job gives, as it comes.", _stream, (_ID,)),
)
