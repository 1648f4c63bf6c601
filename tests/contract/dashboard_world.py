"""A box that the dashboard is tried on: endpoints in every condition, GPUs at work, hostile texts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpud.core.endpoint import EndpointSpec, GpuNeeds, ScalePolicy
from gpud.core.gpu import Gpu, GpuReading, GpuSlice, GpuStatus
from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.waiting import WaitReason
from gpud.core.worker import Cause, WorkerState
from gpud.ports.control import EndpointCondition
from gpud.ports.images import PullProgress

if TYPE_CHECKING:
    from tests.contract.api_site import ApiSite

GIB = 1 << 30
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>"; $(reboot) `id`'
"""What is text wherever it is shown."""

IMAGES = {
    "chat": "vllm/vllm-openai:v0.11",
    "comfyui": "team/comfyui:3",
    "diffusion": "team/diffusion:9",
    "embed": "team/embed:1",
    "whisper": "team/whisper:2",
}


def readings(site: ApiSite) -> dict[GpuUuid, GpuReading]:
    """What NVML would say of the GPUs that are held."""
    held = {uuid for worker in site.control.workers.values() for uuid in worker.gpu_uuids}
    return {
        uuid: GpuReading(
            uuid=uuid,
            used_mib=20_480 if uuid in held else 4,
            total_mib=status.gpu.memory_mib,
            gpu_percent=87.0 if uuid in held else 0.0,
            power_w=312.4 if uuid in held else 21.0,
            temperature_c=71.0 if uuid in held else 34.0,
        )
        for uuid, status in site.control.gpu_statuses.items()
    }


async def deploy(site: ApiSite, name: str, **facts: Any) -> None:
    """An endpoint; what is given replaces what its view would say."""
    spec = EndpointSpec(
        name=EndpointName(name),
        image=IMAGES.get(name, "team/model:1"),
        port=8000,
        gpus=GpuNeeds(count=1),
        scale=ScalePolicy(max_workers=4),
    )
    await site.control.deploy(spec)
    show(site, name, **facts)


def show(site: ApiSite, name: str, **facts: Any) -> None:
    """Have an endpoint's view say something."""
    site.control.views.pop(name, None)
    if facts:
        site.control.views[name] = replace(site.control.endpoint(name), **facts)


async def furnish(site: ApiSite, odd: str = HOSTILE) -> None:
    """Put everything in, and a text wherever somebody else's words stand."""
    control = site.control
    for index in range(4):
        uuid = GpuUuid(f"GPU-{index}")
        control.gpu_statuses[uuid] = GpuStatus(
            gpu=Gpu(
                uuid=uuid, name="NVIDIA H100 80GB HBM3", memory_mib=81_559, index=index, numa_node=index // 2
            )
        )
    await control.set_cordon(GpuUuid("GPU-3"), cordoned=True)
    await _chat(site)
    await _embed(site)
    await deploy(site, "whisper", scale_reason="idle")
    wait = WaitReason(
        reason="waiting_for_gpu",
        detail="No GPU is free: chat holds 2 of 2, its turn ends in 12 s.",
        facts={"held_by": ["chat"], "until_in_s": 12.0},
        until_ms=site.clock.at_ms() + 12_000,
    )
    await deploy(
        site, "comfyui", condition=EndpointCondition.WAITING_FOR_GPU, desired=1, waiting=3, waits=(wait,)
    )
    await deploy(
        site,
        "diffusion",
        condition=EndpointCondition.PULLING,
        desired=1,
        waiting=1,
        waits=(WaitReason(reason="image_pulling", detail="The image is being pulled: 4 of 11 layers."),),
        pull=PullProgress(layers=11, layers_done=4, bytes_total=9 * GIB, bytes_done=3 * GIB),
    )
    await _broken(site, odd)


async def _chat(site: ApiSite) -> None:
    await deploy(site, "chat")
    for letter, index in (("a", 0), ("b", 1)):
        site.control.add_worker(
            f"wk_{letter * 16}", "chat", gpu_uuids=(GpuUuid(f"GPU-{index}"),), address=f"172.30.0.{index + 2}"
        )
    show(site, "chat", in_flight=7, scale_reason="load", desired=2)


async def _embed(site: ApiSite) -> None:
    await deploy(site, "embed")
    for letter, mib in (("c", 12_000), ("d", 16_000)):
        site.control.add_worker(
            f"wk_{letter * 16}",
            "embed",
            gpu_uuids=(GpuUuid("GPU-2"),),
            gpu_slice=GpuSlice(memory_mib=mib, of_mib=81_559),
            state=WorkerState.READY if letter == "c" else WorkerState.STARTING,
            cause=Cause.PROBE_PASSED if letter == "c" else Cause.CONTAINER_STARTED,
        )


async def _broken(site: ApiSite, odd: str) -> None:
    """A failing endpoint, whose image and worker write what they should not."""
    name = EndpointName("broken")
    spec = EndpointSpec(name=name, image="team/broken:1", port=8000, env=(("NOTE", odd),), command=(odd,))
    endpoint, _ = await site.control.deploy(spec)
    # No deploy would take such an image; the dashboard must not rely on that.
    if odd == HOSTILE:
        endpoint = replace(endpoint, image=replace(endpoint.image, reference=f"team/broken:1 {odd}"))
    error = f"The container ended with code 137 before it was ready: {odd}"
    wait = WaitReason(
        reason="circuit_open",
        detail=f"5 starts failed in a row. {error}",
        facts={"error": error, "retry_in_s": 300},
        until_ms=site.clock.at_ms() + 300_000,
    )
    site.control.add_worker(
        WorkerId("wk_" + "e" * 16),
        name,
        state=WorkerState.RELEASING,
        cause=Cause.EXITED,
        detail=error,
        failed=True,
    )
    show(
        site,
        name,
        endpoint=endpoint,
        condition=EndpointCondition.FAILING,
        desired=1,
        waits=(wait,),
        last_error=error,
    )
