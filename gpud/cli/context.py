"""What a running command has at hand: the client, and where its output goes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Self

from gpud.cli.exits import BadUsage

if TYPE_CHECKING:
    from types import TracebackType

    from gpud.cli.client import Client
    from gpud.cli.output import Column
    from gpud.cli.values import Values

DEFAULT_SOCKET = "/run/gpud/api.sock"


class Context:
    """The command's surroundings; the only place of the command line that reads the environment."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._client: Client | None = None
        self.as_json = values.flag("json")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.close()

    @property
    def client(self) -> Client:
        """The client of the daemon these options mean; connects on first use."""
        if self._client is None:
            self._client = self.new_client()
        return self._client

    def new_client(self, *, timeout_s: float | None = None, default_socket: str = DEFAULT_SOCKET) -> Client:
        """Another connection to the same daemon.

        Args:
            timeout_s: Its longest silence.
            default_socket: Where it is when nobody says.
        """
        from gpud.cli.client import ANSWER_TIMEOUT_S, Client, parse_url  # noqa: PLC0415 - not all need a daemon

        socket_path, url = self._values.text("socket"), self._values.text("url")
        if socket_path and url:
            raise BadUsage("--socket and --url exclude each other.", todo="Give one of them.")
        if not socket_path:
            url = url or ("" if os.environ.get("GPUD_SOCKET") else os.environ.get("GPUD_URL", ""))
        limit_s = ANSWER_TIMEOUT_S if timeout_s is None else timeout_s
        if url:
            return Client(parse_url(url), key=os.environ.get("GPUD_KEY", ""), timeout_s=limit_s)
        target = socket_path or os.environ.get("GPUD_SOCKET", "") or default_socket
        return Client(target, timeout_s=limit_s)

    def forget_client(self) -> None:
        """Connect anew at the next use."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def environment(self, name: str) -> str | None:
        """A variable of the user's environment."""
        return os.environ.get(name)

    @property
    def on_terminal(self) -> bool:
        """Whether stdout is a terminal."""
        return sys.stdout.isatty()

    def print_json(self, document: object) -> None:
        """Print a document of the API; on a terminal over several lines."""
        self._print_json(document, indent=2 if self.on_terminal else None)

    def print_json_line(self, document: object) -> None:
        """Print a document on a line of its own."""
        self._print_json(document, indent=None)

    def _print_json(self, document: object, *, indent: int | None) -> None:
        from gpud.cli.screen import json_text  # noqa: PLC0415

        sys.stdout.write(json_text(document, indent=indent) + "\n")

    def print_text(self, text: str) -> None:
        """Print a line, or lines, without what a terminal would obey."""
        sys.stdout.write(f"{_harmless(text)}\n")

    def print_data(self, text: str) -> None:
        """Print what somebody made: as it is, except on a terminal."""
        sys.stdout.write(f"{_harmless(text) if self.on_terminal else text}\n")

    def print_raw(self, text: str) -> None:
        """Print a line as it is, which was asked for."""
        sys.stdout.write(f"{text}\n")

    def note(self, text: str) -> None:
        """Say something beside the output, on stderr."""
        sys.stderr.write(f"{_harmless(text)}\n")

    def print_table(self, columns: tuple[Column, ...], rows: list[dict[str, object]], *, empty: str) -> None:
        """Print a listing: a table, or the API's JSON with `--json`."""
        from gpud.cli.output import table  # noqa: PLC0415

        if self.as_json:
            self.print_json({"items": rows, "next": None})
        elif not rows:
            self.note(empty)
        else:
            width = os.get_terminal_size(1).columns if self.on_terminal else 0
            self.print_text(table(columns, rows, width=width, colour=self.colour))

    @property
    def colour(self) -> bool:
        """Whether stdout may be coloured."""
        return self.on_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _harmless(text: str) -> str:
    if text.isprintable():
        return text
    from gpud.cli.screen import harmless  # noqa: PLC0415 - most lines need none of it

    return harmless(text)
