"""What-if: other settings, tried on the requests that really came."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.api.endpoints import merge
from gpud.api.operations import Operation, Scope
from gpud.api.parsing import body_of, document_from
from gpud.api.rendering import answer
from gpud.api.schemas.base import at_ms, timestamp
from gpud.api.schemas.simulation import SimulationBody, SimulationDocument, outcome_document
from gpud.api.schemas.spec import EndpointSpecDocument, spec_document
from gpud.api.services import SERVICES
from gpud.core.audit_log import Audited
from gpud.core.history import arrivals_of
from gpud.core.standby import Rung, StandbyBudget
from gpud.core.whatif import WhatIf, what_happened, within
from gpud.core.whatif_rungs import assumptions, samples_of
from gpud.errors import InvalidSpec, NotFound, Unavailable
from gpud.ports.store import UsageBy

if TYPE_CHECKING:
    from aiohttp import web

    from gpud.api.services import Services
    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import EndpointName
    from gpud.core.whatif import Outcome, StartSample

_WEEK_MS = 7 * 86_400_000
_DAY_MS = 86_400_000


async def simulate_endpoint(request: web.Request) -> web.StreamResponse:
    """Replay an endpoint's requests against other scale settings, beside what happened."""
    services = request.app[SERVICES]
    body = await body_of(request, SimulationBody)
    endpoint = services.control.endpoint(request.match_info["name"]).endpoint
    endpoints = (endpoint, *([_changed(endpoint, body)] if body.scale else []))
    since_ms, until_ms = _period(services, endpoint, body)
    question = await _question(services, endpoints, since_ms=since_ms, until_ms=until_ms)
    actual = await _actual(services, question)
    outcomes = await services.simulator.replay(question)
    price = services.settings.prices
    shown = [outcome_document(one, gpu_hour_micros=price.gpu_hour_micros) for one in (actual, *outcomes)]
    return answer(
        SimulationDocument(
            endpoint=endpoint.name,
            since=timestamp(since_ms),
            until=timestamp(until_ms),
            currency=price.currency,
            actual=shown[0],
            present=shown[1],
            changed=shown[2] if len(shown) > 2 else None,
            assumed=list(assumptions(question.starts, endpoint.spec)),
        )
    )


def _changed(endpoint: Endpoint, body: SimulationBody) -> Endpoint:
    present = spec_document(endpoint.spec).model_dump(mode="json")
    merged = json.dumps(merge(present, {"scale": body.scale})).encode()
    spec = document_from(merged, EndpointSpecDocument, error=InvalidSpec).to_spec()
    return replace(endpoint, spec=spec)


def _period(services: Services, endpoint: Endpoint, body: SimulationBody) -> tuple[int, int]:
    """The period asked for, as far as there is a record of it."""
    now_ms = services.clock.at_ms()
    until_ms = min(at_ms(body.until) or now_ms, now_ms)
    kept_ms = round(services.settings.history.keep_days * _DAY_MS)
    since_ms = at_ms(body.since) or until_ms - _WEEK_MS
    since_ms = max(since_ms, endpoint.created_at_ms, now_ms - kept_ms)
    return min(since_ms, until_ms), until_ms


async def _question(
    services: Services, endpoints: tuple[Endpoint, ...], *, since_ms: int, until_ms: int
) -> WhatIf:
    name, reads = endpoints[0].name, services.reads
    batches = await reads.arrivals(name, since_ms=since_ms, until_ms=until_ms)
    if not batches:
        raise NotFound(
            f"No request of {name} is on record from {timestamp(since_ms)} to {timestamp(until_ms)}. Those "
            "of the last minute are not yet; history.keep_days in gpud.toml says how long they are kept."
        )
    starts = await _starts(services, name, since_ms=since_ms, until_ms=until_ms)
    if not starts:
        starts = await _starts(services, name, since_ms=0, until_ms=until_ms)
    scaling = services.settings.scaling
    waits = services.control.endpoint(name).waits
    unparked = next((wait.detail for wait in waits if wait.reason == "standby_unavailable"), "")
    return WhatIf(
        endpoints=endpoints,
        gpus=tuple(view.status for view in await services.control.gpus()),
        batches=batches,
        starts=starts,
        since_ms=since_ms,
        until_ms=until_ms,
        box_starts=scaling.starts,
        endpoint_starts=scaling.endpoint_starts,
        standbys=StandbyBudget(**services.settings.standby.model_dump()),
        unavailable={Rung.PARKED: unparked} if unparked else {},
    )


async def _starts(
    services: Services, name: EndpointName, *, since_ms: int, until_ms: int
) -> tuple[StartSample, ...]:
    reads = services.reads
    ready = await reads.starts(name, since_ms=since_ms, until_ms=until_ms)
    woken = await reads.starts(name, since_ms=since_ms, until_ms=until_ms, woken=True)
    return samples_of(ready, woken)


async def _actual(services: Services, question: WhatIf) -> Outcome:
    name, since_ms, until_ms = question.endpoints[0].name, question.since_ms, question.until_ms
    usage = await services.reads.usage(
        by=UsageBy.ENDPOINT, endpoint=name, since_ms=since_ms, until_ms=until_ms
    )
    starts = await services.reads.starts(name, since_ms=since_ms, until_ms=until_ms)
    wakes = await services.reads.starts(name, since_ms=since_ms, until_ms=until_ms, woken=True)
    return what_happened(
        within(arrivals_of(question.batches), since_ms=since_ms, until_ms=until_ms),
        cold_starts=len(starts),
        gpu_s=sum(row.gpu_ns for row in usage) / 1e9,
        wakes=len(wakes),
    )


OPERATIONS_HERE = (
    Operation(
        name="simulate_endpoint",
        method="POST",
        path="/v1/endpoints/{name}/simulate",
        handler=simulate_endpoint,
        scope=Scope.READ,
        audited=Audited.NEVER,
        summary="Replay an endpoint's requests against other scale settings, beside what happened",
        tag="endpoints",
        body=SimulationBody,
        answer=SimulationDocument,
        problems=(NotFound, InvalidSpec, Unavailable),
    ),
)
