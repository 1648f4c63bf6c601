from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from gpud.core.endpoint import (
    Balance,
    EndpointSpec,
    EndpointType,
    GpuNeeds,
    HealthCheck,
    Limits,
    PinnedImage,
    ScalePolicy,
    Volume,
)
from gpud.core.ids import EndpointName
from gpud.core.job_spec import JobNeeds
from gpud.core.page_cache import PageCachePolicy
from gpud.core.request_rules import RequestRules
from gpud.core.revision import revision_of
from gpud.core.rollout_policy import RolloutPolicy, SmokeRequest
from gpud.core.standby import StandbyMode, StandbyPolicy
from gpud.core.step_policy import PausePolicy, SleepPolicy, SleepPreset
from gpud.errors import InvalidSpec
from tests.unit.core.making import DIGEST, spec

_IMAGE = PinnedImage(reference="echo:1", pin=DIGEST)

_RESTARTS: dict[str, Any] = {
    "command": ("serve",),
    "port": 9000,
    "env": (("A", "1"),),
    "gpus": GpuNeeds(count=2),
    "health": HealthCheck(path="/health"),
    "volumes": (Volume(source="models", target="/models"),),
    "limits": Limits(memory_mib=1024),
}
_RESTARTS_NOTHING: dict[str, Any] = {
    "name": EndpointName("other"),
    "image": "echo:latest",
    "aliases": ("gpt",),
    "registry": "ghcr",
    "public": True,
    "forward_authorization": True,
    "scale": ScalePolicy(max_workers=7, concurrency=1, balance=Balance.PACK),
    "rollout": RolloutPolicy(min_healthy_time_s=1.0),
    "standby": StandbyPolicy(mode=StandbyMode.PARKED, workers=2),
    "pause": PausePolicy(after_idle_s=5),
    "sleep": SleepPolicy(preset=SleepPreset.VLLM),
    "page_cache": PageCachePolicy(record=True),
    "jobs": JobNeeds(path="/jobs"),
    "requests": RequestRules(progress=True),
}
_LIMITS_RESTART: dict[str, Any] = {"memory_mib": 64, "cpus": 1.5, "shm_mib": 64, "pids": 64}
_LIMITS_RESTART_NOTHING: dict[str, Any] = {
    "request_timeout_s": 1.0,
    "first_request_timeout_s": 1.0,
    "stream_idle_timeout_s": 1.0,
    "max_queue": 1,
    "queue_timeout_s": 1.0,
    "drain_timeout_s": 1.0,
    "stop_grace_s": 1.0,
}


def _revision(**changes: Any) -> str:
    return revision_of(replace(spec(), **changes), _IMAGE)


@pytest.mark.parametrize("name", _RESTARTS)
def test_what_a_container_depends_on_makes_a_new_revision(name: str) -> None:
    assert _revision(**{name: _RESTARTS[name]}) != _revision()


@pytest.mark.parametrize("name", _RESTARTS_NOTHING)
def test_what_gpud_itself_enforces_makes_no_new_revision(name: str) -> None:
    assert _revision(**{name: _RESTARTS_NOTHING[name]}) == _revision()


@pytest.mark.parametrize("name", _LIMITS_RESTART)
def test_a_containers_own_limits_make_a_new_revision(name: str) -> None:
    assert _revision(limits=Limits(**{name: _LIMITS_RESTART[name]})) != _revision()


@pytest.mark.parametrize("name", _LIMITS_RESTART_NOTHING)
def test_limits_on_requests_make_no_new_revision(name: str) -> None:
    assert _revision(limits=Limits(**{name: _LIMITS_RESTART_NOTHING[name]})) == _revision()


def test_every_field_of_a_spec_is_said_to_restart_workers_or_not() -> None:
    """A field that comes later must take its side here, and so in `revision_of`."""
    told = {*_RESTARTS, *_RESTARTS_NOTHING, "type"}
    assert {each.name for each in fields(EndpointSpec)} <= told
    assert {each.name for each in fields(Limits)} <= {*_LIMITS_RESTART, *_LIMITS_RESTART_NOTHING}


def test_another_digest_is_another_revision() -> None:
    other = replace(_IMAGE, pin="sha256:" + "cd" * 32)
    assert revision_of(spec(), other) != revision_of(spec(), _IMAGE)


def test_another_spelling_of_the_same_digest_is_not() -> None:
    assert revision_of(spec(), replace(_IMAGE, reference="echo:latest")) == revision_of(spec(), _IMAGE)


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("name", {"name": "Upper"}),
        ("image", {"image": ""}),
        ("image", {"image": "two words"}),
        ("port", {"type": EndpointType.QUEUE}),
        ("public", {"type": EndpointType.QUEUE, "port": 0, "public": True}),
        ("jobs.path", {"type": EndpointType.QUEUE, "port": 0, "jobs": JobNeeds(path="/job")}),
        (
            "env.RUNPOD_AI_API_KEY",
            {"type": EndpointType.QUEUE, "port": 0, "env": (("RUNPOD_AI_API_KEY", "k"),)},
        ),
        ("port", {"port": 70_000}),
        ("gpus.count", {"gpus": GpuNeeds(count=-1)}),
        ("gpus.memory_mib", {"gpus": GpuNeeds(memory_mib=-1)}),
        ("scale.max_workers", {"scale": ScalePolicy(max_workers=1001)}),
        ("scale.min_workers", {"scale": ScalePolicy(min_workers=2, max_workers=1)}),
        ("scale.target", {"scale": ScalePolicy(target=-1)}),
        ("scale.concurrency", {"scale": ScalePolicy(concurrency=0)}),
        ("scale.idle_timeout_s", {"scale": ScalePolicy(idle_timeout_s=-1)}),
        ("scale.priority", {"scale": ScalePolicy(priority=101)}),
        ("health.path", {"health": HealthCheck(path="health")}),
        ("health.path", {"health": HealthCheck(path="/a b")}),
        ("health.start_timeout_s", {"health": HealthCheck(start_timeout_s=0)}),
        ("health.period_s", {"health": HealthCheck(period_s=0)}),
        ("health.timeout_s", {"health": HealthCheck(timeout_s=0)}),
        ("health.fail_threshold", {"health": HealthCheck(fail_threshold=0)}),
        ("limits.request_timeout_s", {"limits": Limits(request_timeout_s=0)}),
        ("limits.max_queue", {"limits": Limits(max_queue=-1)}),
        ("limits.stop_grace_s", {"limits": Limits(stop_grace_s=-1)}),
        ("rollout.min_healthy_time_s", {"rollout": RolloutPolicy(min_healthy_time_s=-1)}),
        ("rollout.progress_deadline_s", {"rollout": RolloutPolicy(progress_deadline_s=0)}),
        ("rollout.smoke.path", {"rollout": RolloutPolicy(smoke=SmokeRequest(path="smoke"))}),
        ("rollout.smoke.body", {"rollout": RolloutPolicy(smoke=SmokeRequest(body="{}"))}),
        ("rollout.smoke.body", {"rollout": RolloutPolicy(smoke=SmokeRequest(path="/", body="x" * 70_000))}),
        ("rollout.smoke.timeout_s", {"rollout": RolloutPolicy(smoke=SmokeRequest(timeout_s=0))}),
        ("standby.workers", {"standby": StandbyPolicy(workers=0)}),
        ("requests.denied_paths.0", {"requests": RequestRules(denied_paths=("sleep",))}),
        ("requests.denied_paths.0", {"requests": RequestRules(denied_paths=("/a*b",))}),
        ("requests.quiet_paths.1", {"requests": RequestRules(quiet_paths=("/a", "/b?c"))}),
        ("requests.quiet_paths.0", {"requests": RequestRules(quiet_paths=("/a*",))}),
        ("requests.quiet_methods", {"requests": RequestRules(quiet_methods=("POST",))}),
        ("limits.memory_mib", {"limits": Limits(memory_mib=3)}),
        ("limits.shm_mib", {"limits": Limits(shm_mib=0)}),
        ("limits.pids", {"limits": Limits(pids=1)}),
        ("env.A=B", {"env": (("A=B", "1"),)}),
        ("env.A", {"env": (("A", "\0"),)}),
        ("env.NVIDIA_VISIBLE_DEVICES", {"env": (("NVIDIA_VISIBLE_DEVICES", "all"),)}),
        ("volumes.0.target", {"volumes": (Volume(source="cache", target="relative"),)}),
        ("volumes.0.target", {"volumes": (Volume(source="cache", target="/a/../etc"),)}),
        ("volumes.0.target", {"volumes": (Volume(source="cache", target="/"),)}),
        ("volumes.0.source", {"volumes": (Volume(source="", target="/a"),)}),
        ("volumes.0.source", {"volumes": (Volume(source="a", target="/a"),)}),
        ("volumes.0.source", {"volumes": (Volume(source="..", target="/a"),)}),
        ("volumes.0.source", {"volumes": (Volume(source="../etc", target="/a"),)}),
        ("volumes.0.source", {"volumes": (Volume(source="models/llm", target="/a"),)}),
        ("volumes.0.source", {"volumes": (Volume(source="/data/../etc", target="/a"),)}),
        ("volumes.0.source", {"volumes": (Volume(source="/data\0", target="/a"),)}),
        ("volumes.0.source", {"volumes": (Volume(source="cache:/etc", target="/a"),)}),
        ("volumes.0.source", {"volumes": (Volume(source="/var/run/docker.sock", target="/a"),)}),
    ],
)
def test_an_illegal_spec_cannot_be_built_and_names_the_field(path: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        replace(spec(), **changes)
    assert list(caught.value.fields) == [path]
    assert path in caught.value.detail


def test_every_fault_of_a_spec_is_told_at_once() -> None:
    with pytest.raises(InvalidSpec) as caught:
        replace(spec(), name=EndpointName(""), image="", port=-1)
    assert list(caught.value.fields) == ["name", "image", "port"]


def test_a_hold_lasts_a_little_longer_than_a_start_may_so_that_its_error_is_told() -> None:
    assert spec(health=HealthCheck(start_timeout_s=100)).hold_timeout_s == 130
    assert spec(limits=Limits(queue_timeout_s=7)).hold_timeout_s == 7


@pytest.mark.parametrize(
    ("said", "limit_s"), [("420", 420.0), ("0", 1.0), ("99999", 86_400.0), ("7 min", 600.0), ("", 600.0)]
)
def test_runpods_variable_bounds_the_start_of_workers_that_fetch_jobs(said: str, limit_s: float) -> None:
    env = (("RUNPOD_INIT_TIMEOUT", said),)
    fetching = replace(spec(), type=EndpointType.QUEUE, port=0, env=env)
    assert fetching.start_timeout_s == limit_s
    assert spec(env=env).start_timeout_s == 600.0
