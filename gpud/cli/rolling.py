"""Waits for a rollout, and shows how far it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.client import path_of
from gpud.cli.exits import CommandFailed
from gpud.cli.output import rows_at, text_at, value_at
from gpud.cli.progress import Moment
from gpud.cli.waiting import POLL_S, moment_of, moment_of_pull, reporter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context


def is_rolling(endpoint: Mapping[str, object]) -> bool:
    """Whether a rollout is under way."""
    return bool(value_at(endpoint, "rollout", "active"))


def until_rolled_out(context: Context, endpoint: dict[str, object], *, limit_s: float) -> dict[str, object]:
    """Wait until the rollout of an endpoint has ended well.

    Args:
        context: The command's.
        endpoint: As the change answered.
        limit_s: Longest wait.

    Raises:
        CommandFailed: It went back, or gave way to another, or the time is over.
    """
    name, target = text_at(endpoint, "name"), text_at(endpoint, "rollout", "target")
    shown = reporter(context)
    deadline_s = time.monotonic() + limit_s
    try:
        while is_rolling(endpoint) and text_at(endpoint, "rollout", "target") == target:
            shown.show(_moment(endpoint))
            if time.monotonic() > deadline_s:
                raise CommandFailed(
                    f"The rollout of {name} is not over after {limit_s:g} s; gpud goes on with it.",
                    todo=f"gpud explain {name} says how far it is, gpud rollback {name} ends it.",
                    code=exits.TIMED_OUT,
                )
            time.sleep(POLL_S)
            endpoint = context.client.get(path_of("v1", "endpoints", name))
    finally:
        shown.close()
    _check_end(endpoint, name, target)
    return endpoint


def _check_end(endpoint: Mapping[str, object], name: str, target: str) -> None:
    step, detail = text_at(endpoint, "rollout", "step"), text_at(endpoint, "rollout", "detail")
    if text_at(endpoint, "rollout", "target") != target or step == "superseded":
        raise CommandFailed(
            f"Another revision of {name} was deployed meanwhile, so {target} was given up.",
            todo=f"gpud endpoint revisions {name} lists them.",
        )
    if step == "rolled_back":
        raise CommandFailed(
            f"{name} went back to revision {text_at(endpoint, 'rollout', 'base')}, which serves: {detail}",
            todo="Mend the cause and deploy again.",
        )


def _moment(endpoint: Mapping[str, object]) -> Moment:
    """How far the rollout is."""
    pull = value_at(endpoint, "pull")
    step = text_at(endpoint, "rollout", "step")
    if step == "pull" and isinstance(pull, dict):
        return moment_of_pull(pull)
    detail = _detail(endpoint)
    if step == "canary":
        moment = moment_of(endpoint)
        return Moment(moment.phase, detail or moment.detail)
    return Moment({"pull": "image"}.get(step, "ready"), detail or step)


def _detail(endpoint: Mapping[str, object]) -> str:
    for wait in rows_at(endpoint, "waits"):
        if wait.get("reason") == "rolling_out":
            return text_at(wait, "detail")
    return ""
