"""`gpud invoke`: sends a request to an endpoint and streams the answer."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from gpud.cli import exits, grammar, wire
from gpud.cli.client import path_of
from gpud.cli.exits import BadUsage
from gpud.cli.grammar import Argument, Command, Option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_PIECE_BYTES = 65_536


def _invoke(values: Values, context: Context) -> int:
    name, path = values.text("endpoint"), values.text("path", "/")
    if not path.startswith("/"):
        path = f"/{path}"
    data = values.value("data")
    headers = _headers(values.texts("header"))
    if data is not None and "content-type" not in {name.lower() for name in headers}:
        headers["Content-Type"] = "application/json"
    method = values.text("method").upper() or ("GET" if data is None else "POST")
    limit_s = values.number("timeout") or None
    url = path_of("e", name) + path.replace(" ", "%20")
    with _body(values.text("data")) as body:
        pending = context.client.begin(method, url, headers=headers, body=body, timeout_s=limit_s)
    from gpud.cli import waiting  # noqa: PLC0415 - the request is on its way meanwhile

    waiting.until_answer(context, name, pending)
    return _show(context, context.client.answer(pending), with_head=values.flag("include"))


def _headers(texts: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip() or "\n" in text or "\r" in text:
            raise BadUsage(f"--header: {text!r} is not a header.", todo="Such as -H 'X-Request-Id: 7'.")
        headers[name.strip()] = value.strip()
    return headers


@contextmanager
def _body(data: str) -> Iterator[wire.Body]:
    if data in ("-", "@-"):
        yield sys.stdin.buffer.read()
    elif not data.startswith("@"):
        yield data.encode("utf-8", "surrogateescape")
    else:
        with _opened(data[1:]) as file:
            pieces = iter(lambda: file.read(_PIECE_BYTES), b"")
            yield wire.Chunks(os.fstat(file.fileno()).st_size, pieces)


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")  # noqa: PTH123 - pathlib costs a command 9 ms
    except OSError as error:
        raise BadUsage(f"--data: {path} cannot be read: {error.strerror}.") from error


def _show(context: Context, answer: wire.Answer, *, with_head: bool) -> int:
    if answer.refused_by_gpud:
        raise context.client.problem(answer, answer.read())
    out = sys.stdout.buffer
    if with_head:
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
        lines += [f"{name}: {text}" for name, text in answer.headers.items()]
        out.write("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))
    last = b""
    for piece in answer.pieces():
        out.write(piece)
        out.flush()
        last = piece
    if context.on_terminal and last and not last.endswith(b"\n"):
        out.write(b"\n")
    out.flush()
    if answer.status >= 400:
        context.note(f"gpud: the worker answered {answer.status} {answer.reason}".rstrip())
        return exits.FAILED
    return exits.OK


COMMANDS = (
    Command(
        ("invoke",),
        "Send a request to an endpoint and print the answer as it comes.",
        _invoke,
        (
            Argument("endpoint", "Name of the endpoint.", kind=grammar.ENDPOINT),
            Argument("path", "Path and query at the endpoint [/].", required=False),
        ),
        (
            Option("data", "Body: text, @FILE, or - for stdin.", metavar="DATA", short="d"),
            Option("method", "HTTP method.", short="X", default="GET, or POST with --data"),
            Option(
                "header",
                "A header.",
                metavar="'NAME: TEXT'",
                short="H",
                repeat=True,
                default="Content-Type: application/json, with --data",
            ),
            Option("include", "Print the answer's head too.", kind=grammar.FLAG, short="i"),
            Option(
                "timeout",
                "Longest silence.",
                kind=grammar.DURATION,
                default="none: the endpoint's own limits hold",
            ),
        ),
        details=(
            "The request is held while a worker starts, and a terminal shows how far that is. The body of "
            "the answer goes to stdout, also when the worker answers with an error; the exit code is then 1. "
            "When gpud itself refuses, its reason is on stderr and the exit code says which kind it is."
        ),
        examples=(
            "gpud invoke llm /v1/models",
            "gpud invoke llm /v1/chat/completions -d @request.json",
            "echo '{\"x\": 1}' | gpud invoke api /predict -d -",
        ),
    ),
)
