"""What the client of a session in a worker writes as text; bytes are messages of their own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from gpud.api.schemas.base import Document

_Size = Annotated[int, Field(ge=1, le=10_000)]
_COMMAND_CHARS_MAX = 65_536


class TerminalSize(Document):
    """Of a terminal, in characters."""

    rows: _Size
    cols: _Size


class ExecOpening(Document):
    """The client's first message."""

    command: Annotated[
        tuple[Annotated[str, Field(max_length=_COMMAND_CHARS_MAX)], ...], Field(max_length=1000)
    ]
    """A program and its arguments; no shell reads them."""
    token: Annotated[str, Field(max_length=200)] = ""
    """An API key, from clients that cannot send a header: browsers."""
    tty: bool = False
    """Give the command a terminal."""
    rows: _Size = 24
    """Height of the terminal."""
    cols: _Size = 80
    """Its width."""

    @model_validator(mode="after")
    def _is_a_command(self) -> ExecOpening:
        if not self.command or not self.command[0]:
            raise ValueError("must name a program, such as ['/bin/sh']")
        if sum(map(len, self.command)) > _COMMAND_CHARS_MAX:
            raise ValueError(f"must have at most {_COMMAND_CHARS_MAX} characters together")
        if any("\0" in word for word in self.command):
            raise ValueError("must not contain the character NUL")
        return self


class ExecControl(Document):
    """What the client writes later."""

    resize: TerminalSize | None = None
    """The terminal has another size now."""
    eof: bool = False
    """Nothing more will be typed."""
