from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.api.parsing import document_from
from gpud.api.schemas.spec import (
    EndpointSpecDocument,
    GpusSection,
    HealthSection,
    LimitsSection,
    ScaleSection,
    VolumeSection,
    WarmWindowSection,
    spec_document,
)
from gpud.core.endpoint import EndpointSpec, GpuNeeds, HealthCheck, Limits, ScalePolicy, Volume
from gpud.core.ids import EndpointName
from gpud.core.windows import WarmWindow
from gpud.errors import InvalidSpec

SECTIONS: dict[str, tuple[type[Any], type[Any]]] = {
    "gpus": (GpusSection, GpuNeeds),
    "scale": (ScaleSection, ScalePolicy),
    "health": (HealthSection, HealthCheck),
    "limits": (LimitsSection, Limits),
}


def test_a_spec_with_defaults_alone_is_the_cores_own() -> None:
    shown = EndpointSpecDocument(name="llm", image="a/b")
    assert shown.to_spec() == EndpointSpec(name=EndpointName("llm"), image="a/b")


@pytest.mark.parametrize(
    ("document", "core"),
    [
        *SECTIONS.values(),
        (EndpointSpecDocument, EndpointSpec),
        (VolumeSection, Volume),
        (WarmWindowSection, WarmWindow),
    ],
)
def test_both_forms_of_a_spec_have_the_same_fields(document: type[Any], core: type[Any]) -> None:
    assert set(document.model_fields) == {field.name for field in fields(core)}


def bounds() -> list[tuple[str, str, float, float]]:
    found = []
    for section, (document, _) in SECTIONS.items():
        for name, schema in document.model_json_schema()["properties"].items():
            if "minimum" in schema:
                found.append((section, name, schema["minimum"], schema["maximum"]))
    return found


@pytest.mark.parametrize(("section", "name", "least", "most"), bounds())
def test_the_bounds_told_are_the_ones_that_hold(section: str, name: str, least: float, most: float) -> None:
    base = EndpointSpec(name=EndpointName("llm"), image="a/b", scale=ScalePolicy(max_workers=1000))

    def core_takes(value: float) -> bool:
        try:
            replace(base, **{section: replace(getattr(base, section), **{name: value})})
        except InvalidSpec:
            return False
        return True

    is_whole = isinstance(getattr(getattr(base, section), name), int)
    step = 1 if is_whole else 0.001
    assert core_takes(least)
    assert core_takes(most)
    assert not core_takes(least - step)
    if most < 1_000_000 or name not in (
        "memory_mib",
        "least_memory_mib",
        "target",
    ):  # where the core sets no upper bound
        assert not core_takes(most + step)


def test_volumes_and_environment_survive_the_way_there_and_back() -> None:
    spec = EndpointSpec(
        name=EndpointName("llm"),
        image="a/b",
        command=("--x", "1"),
        env=(("A", "1"), ("B", "")),
        volumes=(Volume(source="models", target="/models", read_only=True),),
        aliases=("Qwen/Qwen3-8B",),
        public=True,
        scale=ScalePolicy(warm_windows=(WarmWindow(start="0 8 * * *", end="0 9 * * *", time_zone="UTC"),)),
    )
    raw = spec_document(spec).model_dump_json().encode()
    assert document_from(raw, EndpointSpecDocument).to_spec() == spec


@given(
    count=st.integers(0, 64),
    idle_timeout_s=st.floats(0, 604_800),
    env=st.dictionaries(st.from_regex(r"[A-Z_]{1,10}", fullmatch=True), st.text(max_size=20), max_size=3),
)
def test_every_legal_spec_survives_the_way_there_and_back(
    count: int, idle_timeout_s: float, env: dict[str, str]
) -> None:
    env = {name: value.replace("\0", "") for name, value in env.items()}
    body = {"name": "llm", "image": "a/b", "gpus": {"count": count}, "env": env}
    body["scale"] = {"idle_timeout_s": idle_timeout_s}
    spec = document_from(json.dumps(body).encode(), EndpointSpecDocument).to_spec()
    raw = spec_document(spec).model_dump_json().encode()
    assert document_from(raw, EndpointSpecDocument).to_spec() == spec


@pytest.mark.parametrize(
    ("said", "concurrency"),
    [({}, 8), ({"type": "queue"}, 1), ({"type": "queue", "scale": {"concurrency": 4}}, 4)],
)
def test_a_worker_that_fetches_its_jobs_is_planned_with_one_unless_said(
    said: dict[str, object], concurrency: int
) -> None:
    body = {"name": "llm", "image": "a/b", **said}
    spec = document_from(json.dumps(body).encode(), EndpointSpecDocument).to_spec()
    assert spec.scale.concurrency == concurrency
    assert spec_document(spec).to_spec() == spec
