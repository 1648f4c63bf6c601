"""`gpud exec`: runs a command inside a worker."""

from __future__ import annotations

import os
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

_WORKER_PREFIX = "wk_"
_SIGNALLED = 128


def _exec(values: Values, context: Context) -> int:
    command, tty = values.texts("command"), values.flag("tty")
    interactive = values.flag("interactive")
    if not command and not tty:
        raise BadUsage("Which command?", todo="Such as `gpud exec wk_… -- nvidia-smi`, or -it for a shell.")
    if tty and interactive and not os.isatty(0):
        raise BadUsage("-t needs a terminal, and stdin is none.", todo="Leave -t out: -i alone takes a pipe.")
    try:
        "".join(command).encode()
    except UnicodeEncodeError as error:
        raise BadUsage("The command is not text in UTF-8.") from error
    worker_id = _worker_of(values.text("worker"), context)
    return _converse(worker_id, command or ["/bin/sh"], context, tty=tty, interactive=interactive)


def _worker_of(name: str, context: Context) -> str:
    """The worker that is meant; an endpoint's is one that is ready."""
    if name.startswith(_WORKER_PREFIX):
        return name
    endpoint = context.client.get(path_of("v1", "endpoints", name))
    workers = context.client.items("/v1/workers", {"endpoint": text_at(endpoint, "name") or name})
    ready = [text_at(worker, "id") for worker in workers if worker.get("state") == "ready"]
    if not ready:
        raise CommandFailed(
            f"{name} has no worker that is ready.",
            todo=f"A request starts one; gpud worker ls --endpoint {name} lists those that are on their way.",
        )
    return ready[0]


def _converse(worker_id: str, command: list[str], context: Context, *, tty: bool, interactive: bool) -> int:
    from gpud.cli import websocket  # noqa: PLC0415 - help does without
    from gpud.cli.session import Session  # noqa: PLC0415
    from gpud.cli.terminal import Ended  # noqa: PLC0415

    key, client = websocket.new_key(), context.client
    pending = client.begin(
        "GET", path_of("v1", "workers", worker_id, "exec"), headers=websocket.handshake(key)
    )
    answer = client.answer(pending)
    if answer.status >= 400:
        raise client.problem(answer, answer.read())
    if not websocket.agreed(answer, key):
        raise CommandFailed(
            "What answered does not open a WebSocket.",
            todo="A proxy in between must pass upgrades on.",
            code=exits.UNREACHABLE,
        )
    channel = websocket.Channel(*client.take_over())
    sys.stdout.flush()
    try:
        return Session(channel, command, tty=tty, interactive=interactive).run()
    except CommandFailed:
        if tty:
            context.note("")  # What is told begins on a line of its own.
        raise
    except Ended as ended:
        return _SIGNALLED + ended.number
    finally:
        channel.close()


COMMANDS = (
    Command(
        ("exec",),
        "Run a command inside a worker, or open a shell in it.",
        _exec,
        (
            Argument("worker", "Id of a worker, or an endpoint that has one ready."),
            Argument("command", "A program of its image, with arguments.", required=False, rest=True),
        ),
        (
            Option("interactive", "Hand on what is typed, or what stdin has.", kind=grammar.FLAG, short="i"),
            Option("tty", "Give it a terminal; without a command, a shell.", kind=grammar.FLAG, short="t"),
        ),
        details="It needs the scope exec, since a command can read the worker's secrets. Who ran what, "
        "and how it ended, is in the audit log; what passed is not. The exit code is the command's; 126 and "
        "127 when the image has no such program, or none that may be run. Who leaves ends the command and "
        "what it started. A session does not keep a worker: it is scaled down as if nobody looked.",
        examples=(
            "gpud exec -it wk_4hcr2m7dq3xvn5ta",
            "gpud exec llm -- nvidia-smi",
            "gpud exec -i llm -- tar x < data.tar",
        ),
    ),
)
