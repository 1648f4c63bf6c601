"""Exit codes of the command line, and the one exception that carries them."""

from __future__ import annotations

OK = 0
FAILED = 1
BAD_USAGE = 2
NOT_FOUND = 3
UNREACHABLE = 4
NOT_ALLOWED = 5
TIMED_OUT = 6
INTERRUPTED = 130
OUTPUT_CLOSED = 141

MEANINGS = {
    OK: "The command did what it was asked.",
    FAILED: "The operation failed; the message says why.",
    BAD_USAGE: "The command line or a value in it is wrong. Nothing was changed.",
    NOT_FOUND: "What the command names does not exist.",
    UNREACHABLE: "The daemon cannot be reached.",
    NOT_ALLOWED: "The key or the user may not do this.",
    TIMED_OUT: "The answer, or the state that was waited for, did not come in time.",
    INTERRUPTED: "Interrupted with Ctrl-C.",
    OUTPUT_CLOSED: "Whoever read the output stopped reading, as `head` does.",
}


class CommandFailed(Exception):
    """A command cannot go on.

    Args:
        what: What happened and why, as a sentence or two.
        todo: What to do about it; empty when `what` says it.
        code: The exit code.
        fields: Faults by the name the user wrote (an option or a TOML field).
    """

    def __init__(
        self, what: str, *, todo: str = "", code: int = FAILED, fields: dict[str, str] | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.todo = todo
        self.code = code
        self.fields = fields or {}


class BadUsage(CommandFailed):
    """The command line itself is wrong."""

    def __init__(self, what: str, *, todo: str = "", fields: dict[str, str] | None = None) -> None:
        super().__init__(what, todo=todo, code=BAD_USAGE, fields=fields)


def code_for_status(status: int) -> int:
    """Map an HTTP status to the exit code that means the same."""
    if status < 400:
        return OK
    return {
        400: BAD_USAGE,
        401: NOT_ALLOWED,
        403: NOT_ALLOWED,
        404: NOT_FOUND,
        408: TIMED_OUT,
        422: BAD_USAGE,
        504: TIMED_OUT,
    }.get(status, FAILED)
