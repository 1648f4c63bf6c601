"""Which requests get a log line, and when it is written."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from gpud.core.ids import EndpointName
from gpud.gateway import access_log
from gpud.gateway.access_log import AccessLog, Line


def _line(status: int = 200, number: int = 0) -> Line:
    return Line(f"req_{number}", "GET", "/e/llm/a?secret=1", status, EndpointName("llm"), 1.0, 1.25, 7)


async def _written(log: AccessLog, lines: int) -> list[dict[str, object]]:
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(10):
            while len(logs) < lines:  # noqa: ASYNC110 - what is written tells nobody
                await asyncio.sleep(0.001)
        log.close()
    return [dict(each) for each in logs]


async def test_a_line_tells_what_was_asked_and_how_it_ended_without_the_query() -> None:
    log = AccessLog(1.0)
    log.note(_line())
    assert await _written(log, 1) == [
        {
            "event": "request.finished",
            "log_level": "info",
            "request_id": "req_0",
            "method": "GET",
            "path": "/e/llm/a",
            "status": 200,
            "endpoint": "llm",
            "duration_ms": 250,
            "request_bytes": 7,
        }
    ]


async def test_nothing_is_written_while_the_request_runs() -> None:
    with structlog.testing.capture_logs() as logs:
        log = AccessLog(1.0)
        log.note(_line())
        assert logs == []
        log.close()
        assert len(logs) == 1


@pytest.mark.parametrize(("share", "lines"), [(0.0, 0), (0.01, 10), (0.5, 500), (1.0, 1000)])
async def test_a_share_of_the_requests_that_ended_well_is_written(share: float, lines: int) -> None:
    log = AccessLog(share)
    for number in range(1000):
        log.note(_line(200 if number % 2 else 404, number))
    with structlog.testing.capture_logs() as logs:
        log.close()
    assert abs(len(logs) - lines) <= 1


async def test_failures_are_always_written() -> None:
    log = AccessLog(0.0)
    for status in (200, 499, 500, 502, 504):
        log.note(_line(status))
    with structlog.testing.capture_logs() as logs:
        log.close()
    assert [each["status"] for each in logs] == [500, 502, 504]


async def test_what_is_kept_is_bounded_and_what_was_dropped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "LINES_MAX", 3)
    log = AccessLog(1.0)
    for number in range(5):
        log.note(_line(number=number))
    written = await _written(log, 4)
    assert [each.get("request_id") for each in written[:3]] == ["req_0", "req_1", "req_2"]
    assert (written[3]["event"], written[3]["lines"]) == ("request_lines.dropped", 2)


async def test_a_portion_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "PORTION_S", 0.0)
    log = AccessLog(1.0)
    for number in range(3):
        log.note(_line(number=number))
    log._write()  # a portion without any time writes nothing, and asks for another
    assert len(log._lines) == 3
    monkeypatch.setattr(access_log, "PORTION_S", 1.0)
    assert len(await _written(log, 3)) == 3
