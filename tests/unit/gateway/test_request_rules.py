"""Requests that are refused by path, and those of monitors, which start nothing and keep nothing awake."""

from __future__ import annotations

from gpud.core.ids import EndpointName
from gpud.core.routing import Refusal
from gpud.ports.traffic import AT_REST
from tests.unit.gateway.wires import Bench

_LLM = EndpointName("llm")
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_QUIET = {
    "quiet_methods": frozenset({"HEAD", "OPTIONS"}),
    "quiet_paths": frozenset({"/metrics", "/v1/models"}),
}


def _bench(*, ready: bool, **changes: object) -> Bench:
    bench = Bench()
    bench.publish(ready=ready, **{**_QUIET, **changes})
    bench.dispatcher.take_load(_LLM)
    return bench


def _asked(bench: Bench, method: str, path: str, *fields: str) -> str:
    lines = "".join(f"{field}\r\n" for field in fields)
    bench.client.data_received(f"{method} /e/llm{path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
    return bench.wire.taken().decode()


async def test_a_denied_path_is_refused_before_any_worker_is_chosen() -> None:
    bench = _bench(ready=True, denied_paths=("/sleep",))
    answer = _asked(bench, "POST", "/v1/%2e%2e/sleep?level=1")
    assert answer.startswith("HTTP/1.1 403 ")
    assert "/problems/path-denied" in answer
    assert "application/problem+json" in answer
    assert bench.pool.connections == []


async def test_a_denied_path_wakes_nothing() -> None:
    bench = _bench(ready=False, denied_paths=("/sleep",))
    assert _asked(bench, "POST", "/sleep").startswith("HTTP/1.1 403 ")
    assert bench.dispatcher.take_load(_LLM).arrivals == 0


async def test_a_path_is_denied_where_the_endpoint_is_chosen_by_model_too() -> None:
    bench = _bench(ready=True, denied_paths=("/v1/audio/*",))
    body = b'{"model": "gpt"}'
    head = b"POST /openai/v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    bench.client.data_received(head + body)
    assert bench.wire.taken().startswith(b"HTTP/1.1 403 ")


async def test_other_paths_pass() -> None:
    bench = _bench(ready=True, denied_paths=("/sleep",))
    assert _asked(bench, "POST", "/v1/chat/completions") == ""
    bench.worker.data_received(_OK)
    assert bench.wire.taken().startswith(b"HTTP/1.1 200 ")


async def test_a_monitors_request_starts_nothing_and_is_told_that_the_endpoint_sleeps() -> None:
    for method, path in (("HEAD", "/"), ("OPTIONS", "/x"), ("GET", "/metrics?a=b")):
        bench = _bench(ready=False)
        answer = _asked(bench, method, path)
        assert answer.startswith("HTTP/1.1 503 "), (method, path)
        assert method == "HEAD" or "/problems/asleep" in answer
        load = bench.dispatcher.take_load(_LLM)
        assert (load.waiting, load.arrivals, load.peak) == (0, 0, 0)


async def test_a_monitors_request_reaches_a_ready_worker_and_is_no_load() -> None:
    bench = _bench(ready=True)
    assert _asked(bench, "GET", "/metrics") == ""
    assert bench.worker_wire.taken().startswith(b"GET /metrics HTTP/1.1\r\n")
    assert bench.dispatcher.take_load(_LLM) is AT_REST
    bench.worker.data_received(_OK)
    assert bench.wire.taken().endswith(b"ok")
    assert bench.dispatcher.total_in_flight() == 0


async def test_a_monitors_request_is_answered_by_a_worker_that_is_full() -> None:
    bench = Bench(concurrency=1)
    bench.publish(ready=True, **_QUIET)
    assert _asked(bench, "GET", "/work") == ""
    client, wire = bench.connect()
    client.data_received(b"GET /e/llm/metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    bench.worker.data_received(_OK)
    assert wire.taken().startswith(b"HTTP/1.1 200 ")


async def test_a_monitors_request_whose_worker_is_gone_is_not_tried_again() -> None:
    bench = _bench(ready=True)
    assert _asked(bench, "GET", "/metrics") == ""
    bench.worker.connection_lost(None)
    assert bench.wire.taken().startswith(b"HTTP/1.1 502 ")
    assert len(bench.pool.connections) == 1
    assert bench.dispatcher.total_in_flight() == 0


async def test_a_browsers_preflight_starts_a_worker_because_the_request_follows() -> None:
    bench = _bench(ready=False)
    assert _asked(bench, "OPTIONS", "/chat", "Access-Control-Request-Method: POST") == ""
    assert bench.dispatcher.take_load(_LLM).waiting == 1


async def test_a_request_may_ask_to_start_a_worker() -> None:
    bench = _bench(ready=False)
    assert _asked(bench, "GET", "/metrics", "x-gpud-wake: true") == ""
    assert bench.dispatcher.take_load(_LLM).waiting == 1


async def test_a_websocket_is_no_monitors_request() -> None:
    bench = _bench(ready=False)
    assert _asked(bench, "GET", "/metrics", "Connection: Upgrade", "Upgrade: websocket") == ""
    assert bench.dispatcher.take_load(_LLM).waiting == 1


async def test_the_models_of_a_sleeping_endpoint_are_its_aliases() -> None:
    bench = _bench(ready=False)
    answer = _asked(bench, "GET", "/v1/models")
    assert answer.startswith("HTTP/1.1 200 ")
    assert '"id": "gpt"' in answer
    assert bench.dispatcher.take_load(_LLM).arrivals == 0


async def test_a_monitor_is_told_why_an_endpoint_cannot_serve() -> None:
    bench = _bench(ready=False, refusal=Refusal(slug="start-failed", detail="3 starts failed."))
    assert "3 starts failed." in _asked(bench, "GET", "/metrics")
