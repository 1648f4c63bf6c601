"""What an endpoint's spec says about idle workers that step down, as JSON."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from gpud.api.schemas.base import Document
from gpud.core.step_policy import Hook, SleepPolicy, SleepPreset

_SLEEP = SleepPolicy()


class PauseSection(Document):
    """When an idle worker's processes are frozen; it keeps its GPUs. A change applies at once."""

    after_idle_s: Annotated[float, Field(ge=0, le=604_800)] = 0.0
    """Without a request for this long; 0 for never."""


class HookSection(Document):
    """A call that gpud makes to a worker on its own address. Clients cannot make it."""

    method: Literal["GET", "POST", "PUT", "DELETE"] = "POST"
    """Of HTTP."""
    path: Annotated[str, Field(max_length=1000)] = ""
    """With its query; empty for no call."""
    body: dict[str, JsonValue] | None = None
    """Sent as JSON."""
    expect: dict[str, JsonValue] | None = None
    """Members that the JSON object answered must have; without it any answer of 200 to 299 will do."""


class SleepSection(Document):
    """When an idle worker gives its GPUs back and stays alive. A change applies at once."""

    preset: SleepPreset = _SLEEP.preset
    """Whose calls are made: `vllm`, `sglang`, or with `custom` those below; `none` for no sleep. Workers of a
    slice (`gpus.memory_mib`) never sleep: what they keep could not be told from their neighbours' memory."""
    enter: HookSection = HookSection()
    """Puts the worker to sleep; answered once its GPU memory is free."""
    wake: HookSection = HookSection()
    """Brings it back."""
    check: HookSection = HookSection(method="GET")
    """Asked after waking until it answers as expected; without a path the health check alone counts."""
    after_idle_s: Annotated[float, Field(ge=0, le=604_800)] = _SLEEP.after_idle_s
    """Without a request for this long. An idle worker whose GPUs another endpoint needs sleeps at once."""
    timeout_s: Annotated[float, Field(ge=0.1, le=3600)] = _SLEEP.timeout_s
    """For falling asleep, and again for waking; then the worker is destroyed and started cold."""
    host_memory_mib: Annotated[int, Field(ge=0, le=1 << 30)] = _SLEEP.host_memory_mib
    """What a sleeping worker is charged with against `standby.sleep_ram_mib` of gpud.toml."""
    vram_mib: Annotated[int, Field(ge=0, le=1 << 20)] = _SLEEP.vram_mib
    """What a sleeping worker may keep of the memory of each of its GPUs."""


def sleep_policy(section: SleepSection) -> SleepPolicy:
    """Build the core's policy."""
    hooks = {
        name: Hook(
            method=hook.method,
            path=hook.path,
            body="" if hook.body is None else json.dumps(hook.body, sort_keys=True),
            expect="" if hook.expect is None else json.dumps(hook.expect, sort_keys=True),
        )
        for name, hook in (("enter", section.enter), ("wake", section.wake), ("check", section.check))
    }
    return SleepPolicy(**{**dict(section), **hooks})


def sleep_section(policy: SleepPolicy) -> SleepSection:
    """Show a policy as JSON does; every default is written out."""
    shown = {name: getattr(policy, name) for name in SleepSection.model_fields}
    for name in ("enter", "wake", "check"):
        hook: Hook = shown[name]
        shown[name] = HookSection.model_construct(
            method=hook.method,
            path=hook.path,
            body=json.loads(hook.body) if hook.body else None,
            expect=json.loads(hook.expect) if hook.expect else None,
        )
    return SleepSection.model_construct(**shown)
