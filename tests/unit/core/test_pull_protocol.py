from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.ids import EndpointName, JobId, WorkerId
from gpud.core.job import Ending
from gpud.core.job_stream import sse_of
from gpud.core.pull_protocol import (
    DEFAULTS,
    RESERVED,
    WorkerFacts,
    bare_id,
    batch_of,
    complaint_of,
    environment_for,
    ids_of,
    in_progress_of,
    job_document,
    lost,
    read_chunk,
    read_report,
    too_large,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FACTS = WorkerFacts(
    endpoint=EndpointName("sdxl"),
    worker_id=WorkerId("wk_a"),
    base_url="http://172.20.0.1:41000",
    token="t",
    gpu_name="NVIDIA RTX A5000",
    gpu_count=1,
)


@given(JSON)
def test_whatever_a_handler_returns_is_the_output_unchanged(value: Any) -> None:
    report = read_report(json.dumps({"output": value}).encode())
    assert (report.said.ending, report.progress, report.refresh) == (Ending.COMPLETED, False, False)
    assert report.output is not None
    assert json.loads(report.output) == value


@given(st.binary())
def test_nothing_that_can_be_posted_is_left_without_a_meaning(body: bytes) -> None:
    report = read_report(body)
    assert report.progress or report.said.ending in (Ending.COMPLETED, Ending.FAILED)
    json.loads(read_chunk(body))


@pytest.mark.parametrize(
    ("error", "text"),
    [("boom", "boom"), ({"code": 7}, '{"code":7}'), (["a"], '["a"]'), (5, "5")],
)
def test_any_error_fails_the_job_for_good_and_keeps_the_output_beside_it(error: Any, text: str) -> None:
    report = read_report(json.dumps({"error": error, "output": {"partial": 1}}).encode())
    assert (report.said.ending, report.said.may_retry, report.said.error) == (Ending.FAILED, False, text)
    assert report.output == b'{"partial":1}'


@pytest.mark.parametrize("error", ["", None, False, 0, [], {}])
def test_an_empty_error_is_none(error: Any) -> None:
    assert read_report(json.dumps({"error": error, "output": 1}).encode()).said.ending is Ending.COMPLETED


def test_only_the_status_tells_a_progress_from_a_result() -> None:
    assert read_report(b'{"status":"IN_PROGRESS","output":5}').progress
    assert not read_report(b'{"status":"done","output":5}').progress
    assert read_report(b"{}").output is None


def test_a_worker_that_wants_to_be_fresh_says_so_with_its_result() -> None:
    assert read_report(b'{"output":1,"stopPod":true}').refresh
    assert not read_report(b'{"output":1,"stopPod":"yes"}').refresh


@pytest.mark.parametrize("body", [b"", b"[1]", b"output=1", b"\xff", b"[" * 100_000])
def test_what_is_no_report_fails_the_job_and_says_why(body: bytes) -> None:
    said = read_report(body).said
    assert (said.ending, said.reason) == (Ending.FAILED, "malformed_result")


def test_a_result_of_any_size_is_answered_by_name_of_the_setting() -> None:
    assert "jobs.result_bytes_max" in too_large(11, 10).said.error


@given(JSON, st.dictionaries(st.text(), JSON))
def test_a_worker_gets_an_id_and_an_input_always_and_all_else_that_was_sent(
    value: Any, more: dict[str, Any]
) -> None:
    request = {**more, "input": value, "id": "theirs"}
    document = job_document(JobId("ours"), json.dumps(request).encode())
    assert (document["id"], document["input"]) == ("ours", value)
    assert {**document, "id": "theirs"} == request


@pytest.mark.parametrize("request_body", [b"", b"[1]", b"{}", b"not json"])
def test_a_request_of_any_shape_makes_a_job(request_body: bytes) -> None:
    assert {"id", "input"} <= set(job_document(JobId("ours"), request_body))


def test_parameters_are_read_leniently() -> None:
    assert [in_progress_of({"job_in_progress": text}) for text in ("0", "1", "", "x")] == [
        False,
        True,
        None,
        None,
    ]
    assert in_progress_of({}) is None
    assert [batch_of({"batch_size": text}) for text in ("4", "0", "-1", "x", "٣", "99999999", "")] == [
        4,
        1,
        1,
        1,
        1,
        1,
        1,
    ]
    assert batch_of({"batch_size": "5000"}) == 1000
    assert bare_id("job-1&isStream=false") == "job-1"
    assert ids_of({"job_id": "a,b,,c"}) == {"a", "b", "c"}
    assert ids_of({}) == frozenset()
    assert complaint_of({}) == ""
    told = complaint_of({"status": "unhealthy", "check": "gpu", "reason": "no CUDA"})
    assert told == "the start-up check gpu failed: no CUDA"


def test_the_environment_is_one_the_sdk_can_append_to() -> None:
    told = dict(environment_for(FACTS))
    urls = {name: value for name, value in told.items() if name.startswith("RUNPOD_WEBHOOK_")}
    assert len(urls) == 4
    for url in urls.values():
        assert url.startswith("http://172.20.0.1:41000/v2/sdxl/")
        assert url.endswith("?gpu=NVIDIA+RTX+A5000")
    assert "/job-take/wk_a?" in urls["RUNPOD_WEBHOOK_GET_JOB"]
    assert "/job-done/wk_a/$ID?" in urls["RUNPOD_WEBHOOK_POST_OUTPUT"]
    assert int(told["RUNPOD_PING_INTERVAL"]) >= 1000
    assert all(told[name] for name in ("RUNPOD_AI_API_KEY", "RUNPOD_POD_ID", "RUNPOD_ENDPOINT_ID"))
    assert set(told) & {name for name, _ in DEFAULTS} == set()
    assert RESERVED & set(told) == RESERVED - {"RUNPOD_REALTIME_PORT"}


def test_a_lost_job_runs_again_unless_its_worker_had_it() -> None:
    assert lost(confirmed=False, adopted=False).ending is Ending.INTERRUPTED
    assert lost(confirmed=True, adopted=True).ending is Ending.INTERRUPTED
    assert not lost(confirmed=True, adopted=False).may_retry
    assert not lost(confirmed=False, adopted=False, delivery=2).may_retry


@pytest.mark.parametrize(
    ("yielded", "sent"),
    [
        ("data: a\n\ndata: b", b"data: a\n\ndata: b"),
        ({"delta": "é"}, 'data: {"delta":"é"}\n\n'.encode()),
        ([{"n": 1}, "data: 2\n\n"], b'data: {"n":1}\n\ndata: 2\n\n'),
        (None, b"data: null\n\n"),
    ],
)
def test_text_is_sent_as_it_is_and_anything_else_as_the_data_of_an_event(yielded: Any, sent: bytes) -> None:
    assert sse_of(yielded) == sent
