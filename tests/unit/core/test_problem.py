from __future__ import annotations

import pytest

from gpud.core.problem import problem_document, problem_headers
from gpud.errors import InvalidSpec, QueueFull, Unauthenticated


def test_a_problem_tells_type_title_status_detail_and_faults() -> None:
    error = InvalidSpec("The spec cannot be used.", fields={"gpus.count": "must be 0 to 64"})
    assert problem_document(error, request_id="req_1") == {
        "type": "/problems/invalid-spec",
        "title": "The spec is not valid",
        "status": 422,
        "detail": "The spec cannot be used.",
        "fields": {"gpus.count": "must be 0 to 64"},
        "instance": "req_1",
    }


def test_extra_facts_join_and_never_replace_what_the_standard_defines() -> None:
    error = QueueFull("Full.", extra={"waiting": 7, "status": 200, "type": "elsewhere"})
    document = problem_document(error)
    assert document["waiting"] == 7
    assert document["status"] == 429
    assert document["type"] == "/problems/queue-full"
    assert "instance" not in document


@pytest.mark.parametrize(("after_s", "header"), [(0.0, "1"), (0.2, "1"), (3.0, "3"), (3.1, "4")])
def test_retry_after_is_whole_seconds_and_never_too_soon(after_s: float, header: str) -> None:
    error = QueueFull("Full.", retry_after_s=after_s)
    assert problem_headers(error) == {"Retry-After": header}
    assert problem_document(error)["retry_after_s"] == after_s


def test_a_missing_key_is_asked_for() -> None:
    assert problem_headers(Unauthenticated("No key.")) == {"WWW-Authenticate": 'Bearer realm="gpud"'}
