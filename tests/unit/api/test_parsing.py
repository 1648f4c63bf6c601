from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.api.parsing import document_from
from gpud.api.schemas.access import KeyBody, RegistryBody
from gpud.api.schemas.spec import EndpointSpecDocument
from gpud.errors import InvalidRequest, InvalidSpec

GOOD: dict[str, Any] = {"name": "llm", "image": "a/b:1"}


def faults_of(spec: object) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as caught:
        document_from(json.dumps(spec).encode(), EndpointSpecDocument, error=InvalidSpec).to_spec()
    for path, why in caught.value.fields.items():
        assert f"{path}: {why}" in caught.value.detail
    return caught.value.fields


@pytest.mark.parametrize(
    ("extra", "path", "why"),
    [
        ({"imgae": "x"}, "imgae", "unknown field; did you mean 'image'?"),
        ({"gpus": {"cuont": 1}}, "gpus.cuont", "unknown field; did you mean 'count'?"),
        ({"max_workers": 3}, "max_workers", "unknown field; did you mean 'scale.max_workers'?"),
        (
            {"scale": {"start_timeout_s": 3}},
            "scale.start_timeout_s",
            "did you mean 'health.start_timeout_s'?",
        ),
        ({"health": {"xyz": 3}}, "health.xyz", "unknown field; known here are path, start_timeout_s"),
        (
            {"volumes": [{"source": "a", "target": "/a", "readonly": True}]},
            "volumes.0.readonly",
            "did you mean 'read_only'?",
        ),
        ({"standby": {"mode": "asleep"}}, "standby.mode", "must be "),
        ({"secrets": ["HF_TOKEN"]}, "secrets", "secrets are not part of this version"),
        ({"type": "pull"}, "type", "must be 'http' or 'queue'"),
        ({"type": "queue", "port": 80}, "port", "workers of a queue endpoint fetch jobs"),
        (
            {"scale": {"policy": "guess"}},
            "scale.policy",
            "must be 'concurrency', 'queue_delay', 'request_count' or 'fixed'",
        ),
        ({"port": "8000"}, "port", "must be a whole number"),
        ({"port": 8000.5}, "port", "must be a whole number"),
        ({"port": True}, "port", "must be a whole number"),
        ({"port": 65536}, "port", "must be at most 65535"),
        ({"port": None}, "port", "must be a whole number"),
        ({"public": "yes"}, "public", "must be true or false"),
        ({"command": "python x.py"}, "command", "must be a list"),
        ({"command": ["a", 1]}, "command.1", "must be a string"),
        ({"env": ["A=1"]}, "env", "must be an object"),
        ({"env": {"PORT": 8000}}, "env.PORT", "must be a string"),
        (
            {"env": {"NVIDIA_VISIBLE_DEVICES": "all"}},
            "env.NVIDIA_VISIBLE_DEVICES",
            "gpud pins the GPUs itself",
        ),
        ({"gpus": {"count": -1}}, "gpus.count", "must be at least 0"),
        ({"gpus": 1}, "gpus", "must be an object"),
        ({"scale": {"min_workers": 3, "max_workers": 2}}, "scale.min_workers", "must be 0 to max_workers"),
        ({"scale": {"idle_timeout_s": "1m"}}, "scale.idle_timeout_s", "must be a number"),
        ({"limits": {"memory_mib": 3}}, "limits.memory_mib", "must be 0 or at least 6"),
        ({"volumes": [{"source": "cache", "target": "b/c"}]}, "volumes.0.target", "must be an absolute path"),
        (
            {"volumes": [{"source": "/var/run/docker.sock", "target": "/s"}]},
            "volumes.0.source",
            "never given",
        ),
        ({"name": "Llm"}, "name", "must start with a letter and hold only a-z"),
    ],
)
def test_a_wrong_field_is_named_with_what_would_be_right(extra: dict[str, Any], path: str, why: str) -> None:
    faults = faults_of(GOOD | extra)
    assert list(faults) == [path]
    assert why in faults[path]


def test_every_fault_of_a_spec_is_told_at_once() -> None:
    faults = faults_of({"imgae": "x", "port": "8000", "gpus": {"count": 65}, "scale": {"target": -1}})
    assert set(faults) == {"name", "image", "imgae", "port", "gpus.count", "scale.target"}
    assert faults["name"] == "is required"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "The body is empty"),
        (b"  \n", "The body is empty"),
        (b"{", "cannot be read as JSON"),
        (b"name = 'llm'", "cannot be read as JSON"),
        (b'{"name": NaN}', "cannot be"),
        (b"\xff\xfe", "cannot be"),
        (b"[" * 100_000, "cannot be"),
        (b'{"a":' * 100_000, "cannot be"),
        (b"[]", "must be an object"),
        (b'"text"', "must be an object"),
        (b"null", "must be an object"),
        (b"9" * 5000, "number out of range"),
    ],
)
def test_a_body_that_is_no_object_is_refused_in_words(raw: bytes, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        document_from(raw, EndpointSpecDocument)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading_of_bodies(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        document_from(raw, EndpointSpecDocument)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from([*EndpointSpecDocument.model_fields, "standby", "nonsense"]), json_values, max_size=5
    )
)
def test_any_json_is_a_spec_or_a_refusal_that_names_fields(spec: dict[str, Any]) -> None:
    faults: dict[str, str] | None = None
    try:
        document_from(json.dumps(spec).encode(), EndpointSpecDocument, error=InvalidSpec).to_spec()
    except InvalidSpec as error:
        faults = error.fields
    assert faults is None or (faults and all(faults.values()))


def test_a_password_is_never_repeated_in_a_refusal() -> None:
    body = {"host": "ghcr.io", "username": 5, "password": ["hunter2-hunter2"]}
    with pytest.raises(InvalidRequest) as caught:
        document_from(json.dumps(body).encode(), RegistryBody)
    assert set(caught.value.fields) == {"username", "password"}
    assert "hunter2" not in repr(caught.value) + caught.value.detail
    assert "hunter2" not in repr(RegistryBody(host="ghcr.io", username="u", password="hunter2"))  # type: ignore[arg-type]


def test_a_scope_that_is_none_is_refused_by_its_place() -> None:
    with pytest.raises(InvalidRequest) as caught:
        document_from(b'{"scopes": ["read", "root"]}', KeyBody)
    assert list(caught.value.fields) == ["scopes.1"]
