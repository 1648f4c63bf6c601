"""`gpud run`: makes a job and, unless told otherwise, waits for its result."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.client import path_of
from gpud.cli.exits import BadUsage, CommandFailed
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.output import text_at

if TYPE_CHECKING:
    from gpud.cli.context import Context
    from gpud.cli.values import Values

_WAIT_MS = 30_000
_OPEN = ("IN_QUEUE", "IN_PROGRESS")


def _run(values: Values, context: Context) -> int:
    endpoint = values.text("endpoint")
    made = context.client.call("POST", path_of("v2", endpoint, "run"), _request(values))
    job_id = text_at(made, "id")
    if values.flag("detach"):
        context.print_json(made) if context.as_json else context.print_text(job_id)
        return exits.OK
    context.note(f"{job_id} was taken; an interrupt leaves it running.")
    reason = ""
    while True:
        job = context.client.call("GET", path_of("v2", endpoint, "status-sync", job_id) + f"?wait={_WAIT_MS}")
        if text_at(job, "status") not in _OPEN:
            return _show(context, job)
        said = text_at(job, "reason")
        if said and said != reason:
            context.note(f"{job_id} waits: {said.replace('_', ' ')}.")
            reason = said


def _show(context: Context, job: dict[str, object]) -> int:
    state = text_at(job, "status")
    if context.as_json:
        context.print_json(job)
    elif "output" in job:
        output = job["output"]
        context.print_data(output) if isinstance(output, str) else context.print_json_line(output)
    if state == "COMPLETED":
        return exits.OK
    error = text_at(job, "error")
    raise CommandFailed(
        f"The job {text_at(job, 'id')} is {state}{f': {error}' if error else ''}.",
        todo=f"See every attempt: gpud job get {text_at(job, 'id')}.",
    )


def _request(values: Values) -> dict[str, object]:
    request: dict[str, object] = {"input": _input(values.text("input"))}
    policy: dict[str, object] = {
        name: int(values.number(option) * factor) for option, name, factor in _POLICY if option in values
    }
    if values.flag("low-priority"):
        policy["lowPriority"] = True
    if values.text("group"):
        policy["groupKey"] = values.text("group")
    if policy:
        request["policy"] = policy
    if values.text("webhook"):
        request["webhook"] = values.text("webhook")
    return request


def _input(text: str) -> object:
    if text in ("-", "@-"):
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            with open(text[1:], encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs a command 9 ms
                text = file.read()
        except OSError as error:
            raise BadUsage(f"INPUT: {text[1:]} cannot be read: {error.strerror}.") from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadUsage(
            f"INPUT is not JSON: {error}.", todo='Such as \'{"prompt": "a fox"}\', @FILE or - for stdin.'
        ) from error


_POLICY = (
    ("execution-timeout", "executionTimeout", 1000),
    ("ttl", "ttl", 1000),
    ("priority", "priority", 1),
    ("max-attempts", "maxAttempts", 1),
)

COMMANDS = (
    Command(
        ("run",),
        "Make a job and wait for its result.",
        _run,
        (
            Argument("endpoint", "Name of the endpoint.", kind=grammar.ENDPOINT),
            Argument("input", "The job's input as JSON: text, @FILE, or - for stdin."),
        ),
        (
            Option("detach", "Print the job's id and do not wait.", kind=grammar.FLAG, short="d"),
            Option("execution-timeout", "Longest time for one attempt.", kind=grammar.DURATION),
            Option("ttl", "No attempt starts later than this.", kind=grammar.DURATION, default="24h"),
            Option("priority", "-10 to 10; the larger goes first.", kind=grammar.WHOLE, default="0"),
            Option("max-attempts", "Attempts that failed until the job is dead.", kind=grammar.WHOLE),
            Option("low-priority", "Start no worker for it.", kind=grammar.FLAG),
            Option("group", "Run after, not beside, others with this key.", metavar="KEY"),
            Option("webhook", "URL that is told the end.", metavar="URL"),
        ),
        details=(
            "The job is on disk once it has an id: it survives the daemon and its workers. The result goes "
            "to stdout; a job that fails, times out or is cancelled ends the command with exit code 1."
        ),
        examples=(
            'gpud run sdxl \'{"prompt": "a fox"}\'',
            "gpud run --detach sdxl @input.json",
        ),
    ),
)
