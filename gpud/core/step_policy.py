"""What an endpoint's spec says about idle workers: when they pause, when and how they sleep."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from gpud.core.request_path import REQUEST_PATH, is_request_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.endpoint import EndpointSpec

    _Require = Callable[[bool, str, str], None]

_METHODS = ("GET", "POST", "PUT", "DELETE")


@dataclass(frozen=True, slots=True, kw_only=True)
class PausePolicy:
    """When an idle worker's processes are frozen. Applies at once, outside revisions.

    Args:
        after_idle_s: Without a request for this long; 0 for never.
    """

    after_idle_s: float = 0.0


class SleepPreset(StrEnum):
    """Whose way of sleeping a worker has."""

    NONE = "none"
    CUSTOM = "custom"
    VLLM = "vllm"
    SGLANG = "sglang"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A call to a worker, on its own address.

    Args:
        method: Of HTTP.
        path: With its query; empty for no call.
        body: Sent as JSON; empty for none.
        expect: A JSON object whose members the answer must have; empty for any answer of 200 to 299.
    """

    method: str = "POST"
    path: str = ""
    body: str = ""
    expect: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepPolicy:
    """When an idle worker gives its GPUs back and stays alive. Applies at once, outside revisions.

    Args:
        preset: Whose hooks are called; `custom` has the endpoint's own.
        enter: Puts the worker to sleep; answered once its GPU memory is free.
        wake: Brings it back.
        check: Asked after waking until it answers as expected; without a path the health check alone counts.
        after_idle_s: Without a request for this long.
        timeout_s: For each of falling asleep and waking; then the worker is destroyed.
        host_memory_mib: What a sleeping worker is charged with against the budget.
        vram_mib: What a sleeping worker may keep of each of its GPUs.
    """

    preset: SleepPreset = SleepPreset.NONE
    enter: Hook = field(default_factory=Hook)
    wake: Hook = field(default_factory=Hook)
    check: Hook = field(default_factory=lambda: Hook(method="GET"))
    after_idle_s: float = 30.0
    timeout_s: float = 20.0
    host_memory_mib: int = 0
    vram_mib: int = 1024

    @property
    def on(self) -> bool:
        """Whether workers ever sleep."""
        return self.preset is not SleepPreset.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepHooks:
    """The calls that a policy means.

    Args:
        control_paths: What no client may call, because it steers the worker.
    """

    enter: Hook
    wake: Hook
    check: Hook
    control_paths: tuple[str, ...] = ()


_PRESETS = {
    SleepPreset.VLLM: SleepHooks(
        enter=Hook(path="/sleep?level=1"),
        wake=Hook(path="/wake_up"),
        check=Hook(method="GET", path="/is_sleeping", expect='{"is_sleeping": false}'),
        control_paths=(
            "/sleep",
            "/wake_up",
            "/is_sleeping",
            "/collective_rpc",
            "/reset_prefix_cache",
            "/reset_mm_cache",
        ),
    ),
    SleepPreset.SGLANG: SleepHooks(
        enter=Hook(path="/release_memory_occupation", body="{}"),
        wake=Hook(path="/resume_memory_occupation", body="{}"),
        check=Hook(method="GET"),
        control_paths=("/release_memory_occupation", "/resume_memory_occupation"),
    ),
}


def hooks_of(policy: SleepPolicy) -> SleepHooks:
    """The calls of a policy: a preset's, or the endpoint's own."""
    if policy.preset in _PRESETS:
        return _PRESETS[policy.preset]
    own = (policy.enter, policy.wake, policy.check)
    paths = tuple(dict.fromkeys(hook.path.partition("?")[0] for hook in own if hook.path))
    return SleepHooks(enter=policy.enter, wake=policy.wake, check=policy.check, control_paths=paths)


def require_steps(spec: EndpointSpec, require: _Require) -> None:
    """Name each fault."""
    sleep = spec.sleep
    require(0 <= spec.pause.after_idle_s <= 604_800, "pause.after_idle_s", "must be 0 (never) to 604800")
    require(0 <= sleep.after_idle_s <= 604_800, "sleep.after_idle_s", "must be 0 to 604800")
    require(0.1 <= sleep.timeout_s <= 3600, "sleep.timeout_s", "must be 0.1 to 3600")
    require(0 <= sleep.host_memory_mib <= 1 << 30, "sleep.host_memory_mib", "must be 0 or more")
    require(0 <= sleep.vram_mib <= 1 << 20, "sleep.vram_mib", "must be 0 or more")
    for name, hook in (("enter", sleep.enter), ("wake", sleep.wake), ("check", sleep.check)):
        require(hook.method in _METHODS, f"sleep.{name}.method", f"must be one of {', '.join(_METHODS)}")
        require(not hook.path or is_request_path(hook.path), f"sleep.{name}.path", REQUEST_PATH)
        require(
            not hook.path or sleep.preset in (SleepPreset.CUSTOM, SleepPreset.NONE),
            f"sleep.{name}.path",
            f'is the preset\'s; say sleep.preset = "{SleepPreset.CUSTOM}" for calls of your own',
        )
    if sleep.preset is SleepPreset.CUSTOM:
        require(bool(sleep.enter.path), "sleep.enter.path", "must be said with the preset 'custom'")
        require(bool(sleep.wake.path), "sleep.wake.path", "must be said with the preset 'custom'")
