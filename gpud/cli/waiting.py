"""Waits for an endpoint's first worker, a pull or a held answer, and shows how far it is."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from gpud.cli import exits
from gpud.cli.client import path_of
from gpud.cli.exits import CommandFailed
from gpud.cli.output import number_at, rows_at, text_at, value_at
from gpud.cli.progress import Lines, Moment, Reporter, Silence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli import wire
    from gpud.cli.client import Client
    from gpud.cli.context import Context

POLL_S = 0.2
_QUIET_S = 0.4
_PULL_BEGINS_S = 5.0
_ORDER = ("pending", "pulling", "reserved", "creating", "starting", "not_ready", "ready")
_PHASES = {
    "pending": "gpus",
    "pulling": "image",
    "reserved": "gpus",
    "creating": "create",
    "starting": "start",
    "not_ready": "start",
    "ready": "ready",
}
_TOLD = {
    "gpus": "reserving GPUs",
    "image": "pulling the image",
    "create": "creating the container",
    "start": "starting, until the health check passes",
    "ready": "ready",
}


def reporter(context: Context, *, transient: bool = False) -> Reporter:
    """A reporter for wherever stderr goes.

    Args:
        context: The command's.
        transient: Leaves nothing behind on a terminal, and shows nothing elsewhere.
    """
    if sys.stderr.isatty() and context.environment("TERM") != "dumb":
        from gpud.cli.live import LiveReporter  # noqa: PLC0415 - 70 ms, and only for a person who waits

        return LiveReporter(transient=transient)
    return Silence() if transient else Lines()


def moment_of(endpoint: Mapping[str, object]) -> Moment:
    """How far an endpoint's most advanced worker of the present revision is."""
    pull = value_at(endpoint, "pull")
    states = [
        text_at(worker, "state")
        for worker in rows_at(endpoint, "workers")
        if worker.get("revision") == endpoint.get("revision") and worker.get("state") in _ORDER
    ]
    state = max(states, key=_ORDER.index, default="pending")
    if isinstance(pull, dict) and state in ("pending", "pulling"):
        return moment_of_pull(pull)
    phase = _PHASES[state]
    waits = rows_at(endpoint, "waits")
    detail = text_at(waits[0], "detail") if waits and phase in ("gpus", "image") else ""
    return Moment(phase, detail or _TOLD[phase])


def moment_of_pull(pull: Mapping[str, object]) -> Moment:
    """How far a pull is."""
    layers = f"{number_at(pull, 'layers_done'):g}/{number_at(pull, 'layers'):g} layers"
    return Moment("image", layers, number_at(pull, "bytes_done"), number_at(pull, "bytes_total"))


_WAKE = {"X-Gpud-Wake": "true"}
"""A GET of the health path starts no worker otherwise."""


def until_ready(
    context: Context, endpoint: dict[str, object], *, limit_s: float, wake: bool
) -> dict[str, object]:
    """Wait for a ready worker of an endpoint's present revision.

    Args:
        context: The command's.
        endpoint: As the deploy answered.
        limit_s: Longest wait.
        wake: Nothing keeps a worker running: ask for the health path, so that one starts.

    Raises:
        CommandFailed: Its workers fail to start, or the time is over.
    """
    name = text_at(endpoint, "name")
    before = text_at(endpoint, "last_error")
    waker = context.new_client() if wake else None
    shown = reporter(context)
    deadline_s = time.monotonic() + limit_s
    try:
        pending = (
            waker.begin("GET", _health_url(endpoint), headers=_WAKE, timeout_s=limit_s) if waker else None
        )
        while True:
            shown.show(moment_of(endpoint))
            if moment_of(endpoint).phase == "ready":
                return endpoint
            _check_start(endpoint, before)
            if time.monotonic() > deadline_s:
                raise CommandFailed(
                    f"{name} has no ready worker after {limit_s:g} s; gpud goes on trying.",
                    todo=f"gpud endpoint get {name} says how it is.",
                    code=exits.TIMED_OUT,
                )
            if waker and pending and pending.arrived(0):
                _check_wake(waker, pending)
                pending = None
            time.sleep(POLL_S)
            endpoint = context.client.get(path_of("v1", "endpoints", name))
    finally:
        shown.close()
        if waker:
            waker.close()


def _health_url(endpoint: Mapping[str, object]) -> str:
    return path_of("e", text_at(endpoint, "name")) + (text_at(endpoint, "spec", "health", "path") or "/")


def _check_start(endpoint: Mapping[str, object], before: str) -> None:
    name, error = text_at(endpoint, "name"), text_at(endpoint, "last_error")
    if endpoint.get("condition") == "failing" or (error and error != before):
        raise CommandFailed(
            f"{name} is deployed, and its workers fail to start: {error or 'no reason is known'}",
            todo=f"Correct it and deploy again; gpud endpoint get {name} says how it is.",
        )


def _check_wake(waker: Client, pending: wire.Pending) -> None:
    """The health request was answered; the gateway's own refusal ends the wait with its reason."""
    answer = waker.answer(pending)
    if answer.refused_by_gpud:
        raise waker.problem(answer, answer.read())


def until_answer(context: Context, name: str, pending: wire.Pending) -> None:
    """Show how a cold start goes while a request is held; returns when the answer begins."""
    if pending.arrived(_QUIET_S):
        return
    shown = reporter(context, transient=True)
    if isinstance(shown, Silence):
        return
    watcher = context.new_client()
    try:
        while not pending.arrived(POLL_S):
            shown.show(moment_of(watcher.get(path_of("v1", "endpoints", name))))
    except CommandFailed:
        # The display is an extra: a key that may only invoke cannot read the endpoint.
        return
    finally:
        shown.close()
        watcher.close()


def until_pulled(context: Context, pin: str) -> bool:
    """Show a pull until it is over, and say whether the image is then on the box."""
    shown = reporter(context)
    seen, patience_s = False, time.monotonic() + _PULL_BEGINS_S
    try:
        while True:
            pull = next((pull for pull in context.client.items("/v1/pulls") if pull.get("pin") == pin), None)
            if pull is not None:
                seen = True
                shown.show(moment_of_pull(pull))
            elif _on_box(context, pin):
                return True
            elif seen or time.monotonic() > patience_s:
                return False
            time.sleep(POLL_S)
    finally:
        shown.close()


def _on_box(context: Context, pin: str) -> bool:
    for image in context.client.items("/v1/images"):
        pins = image.get("pins")
        if isinstance(pins, list) and pin in pins:
            return True
    return False
