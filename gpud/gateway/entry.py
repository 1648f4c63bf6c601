"""Where does a request go, and may it? From its head, and from its body where that names a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.denied import denied
from gpud.errors import GpudError, PathDenied
from gpud.gateway import answers, openai
from gpud.gateway.affinity import prompt_affinity
from gpud.gateway.credentials import allowed_model, allowed_route, callable_models
from gpud.gateway.phases import MODEL
from gpud.gateway.quiet import starts_nothing
from gpud.gateway.refusals import asleep
from gpud.gateway.respond_async import becomes_job, head_of_job, job_target
from gpud.gateway.routing import AsJob, ByModel, ToControl, ToEndpoint

if TYPE_CHECKING:
    from gpud.core.routing import Route
    from gpud.gateway.exchange import Exchange


def begin(exchange: Exchange) -> None:
    """Decide where a request goes; the part of its body that came with the head is here already."""
    head = exchange.head
    upstream = head.upstream
    try:
        if isinstance(upstream, ToEndpoint):
            exchange.path = upstream.target
            table, token = exchange.plane.dispatcher.table, head.token
            route, exchange.key = allowed_route(exchange.client.keys, table, upstream.name, token)
            admit(exchange, route, head.session)
        elif isinstance(upstream, ToControl):
            exchange.to_control()
        elif isinstance(upstream, AsJob):
            _make_job(exchange, upstream)
        elif isinstance(upstream, ByModel):
            exchange.path = upstream.target
            exchange.phase = MODEL
            exchange.say_continue()
            _by_model(exchange)
        else:
            _list_models(exchange)
    except GpudError as error:
        exchange.fail(error)


def _make_job(exchange: Exchange, upstream: AsJob) -> None:
    """Have the control API make a job of a request; where that cannot be, pass it on."""
    head = exchange.head
    table = exchange.plane.dispatcher.table
    route, exchange.key = allowed_route(exchange.client.keys, table, upstream.name, head.token)
    if becomes_job(head, route, upstream.target, exchange.client.keys):
        exchange.head = head_of_job(head)
        exchange.path = job_target(upstream)
        exchange.to_control()
    else:
        exchange.path = upstream.target
        admit(exchange, route, head.session)


def choose_by_model(exchange: Exchange) -> None:
    """Look for the model in as much of the body as has come."""
    try:
        _by_model(exchange)
    except GpudError as error:
        exchange.fail(error)


def admit(exchange: Exchange, route: Route, affinity: bytes) -> None:
    """Ask for a slot of an endpoint that the caller may use."""
    plane, head = exchange.plane, exchange.head
    if head.length is not None and head.length > plane.body_bytes_max:
        raise answers.too_large(plane.body_bytes_max)
    if route.denied_paths and denied(route.denied_paths, exchange.path):
        raise PathDenied(f"Callers of {route.endpoint} may not use this path of its workers.")
    exchange.route = route
    if head.method != "POST" and starts_nothing(head, route, exchange.path):
        _admit_quietly(exchange, route)
        return
    exchange.proceed(
        plane.dispatcher.acquire_nowait(
            route.endpoint, exchange, affinity=affinity, now_s=exchange.client.last_s, key=exchange.key
        )
    )


def _admit_quietly(exchange: Exchange, route: Route) -> None:
    """Pass a monitor's request on if a worker is ready; it is no load, and waits for nothing."""
    plane = exchange.plane
    slot = plane.dispatcher.acquire_quietly(route.endpoint, now_s=exchange.client.last_s)
    if slot is not None:
        exchange.proceed(slot)
        return
    models = [model for model, name in plane.dispatcher.table.aliases.items() if name == route.endpoint]
    if models and exchange.head.method == "GET" and exchange.path.partition("?")[0] == "/v1/models":
        _answer_models(exchange, sorted(models))
        return
    raise asleep(route)


def _by_model(exchange: Exchange) -> None:
    head, upload = exchange.head, exchange.upload
    if not upload.done and upload.total < openai.MODEL_BODY_BYTES_MAX:
        return
    body = openai.beginning(head, upload.kept)
    model = openai.named_model(head, body)
    route, exchange.key = allowed_model(
        exchange.client.keys, exchange.plane.dispatcher.table, model, head.token
    )
    admit(exchange, route, head.session or prompt_affinity(exchange.path, body, route))


def _list_models(exchange: Exchange) -> None:
    table = exchange.plane.dispatcher.table
    models = callable_models(exchange.client.keys, table, exchange.head.token)
    _answer_models(exchange, models)


def _answer_models(exchange: Exchange, models: list[str]) -> None:
    headers = [("Content-Type", "application/json"), ("X-Gpud-Request-Id", exchange.request_id)]
    exchange.answer_ourselves(200, headers, openai.model_list(models))
