"""Is the Docker Engine one on which workers start, keep their GPUs, and outlive its restart?"""

from __future__ import annotations

from dataclasses import dataclass

from gpud.core.doctor.findings import Finding, failed, ok, skipped, warning
from gpud.core.engine_advice import (
    FAST_RUNTIME,
    api_advice,
    is_slow_to_start,
    runtime_advice,
    runtime_for,
    storage_advice,
)
from gpud.core.gpu import GpuAttach

_CGROUPFS = (
    'put "exec-opts": ["native.cgroupdriver=cgroupfs"] into /etc/docker/daemon.json and restart Docker'
)
_CDI = (
    "`nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`, `nvidia-ctk system create-dev-char-symlinks "
    '--create-all` at each boot, and gpus.attach = "cdi" in gpud.toml'
)
_TOOLKIT = (
    "Install the NVIDIA Container Toolkit, then run `nvidia-ctk runtime configure --runtime=docker` and "
    "restart Docker."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLook:
    """What the engine said of itself.

    Args:
        host: Where it was asked.
        error: Why it did not answer; the rest is empty then.
        root: Its data directory.
        wanted_runtime: The setting `docker.runtime`.
    """

    host: str
    error: str = ""
    version: str = ""
    api_version: str = ""
    storage_driver: str = ""
    cgroup_driver: str = ""
    cgroup_version: str = ""
    runtimes: tuple[str, ...] = ()
    default_runtime: str = ""
    live_restore: bool = False
    rootless: bool = False
    cdi: bool = False
    gpu_device_requests: bool = False
    root: str = ""
    wanted_runtime: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolkitLook:
    """What there is to bring GPUs into containers.

    Args:
        attach: How gpud asks for them, `auto` settled; None when no engine told.
        gpus: Whether this box has GPUs that the engine is to attach.
        tools: Those of NVIDIA's programs that are in PATH.
        specs: CDI descriptions of NVIDIA's GPUs.
        spec_drivers: Versions of the driver for which they were made.
        driver: Version of the driver that runs; empty when unknown.
        char_links: Whether /dev/char has links to NVIDIA's devices; None when there are no devices.
    """

    attach: GpuAttach | None = None
    gpus: bool = False
    tools: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()
    spec_drivers: tuple[str, ...] = ()
    driver: str = ""
    char_links: bool | None = None


def check_engine(look: EngineLook) -> tuple[Finding, ...]:
    """Judge the engine itself."""
    if look.error:
        unreachable = failed(
            "engine",
            look.error,
            why="Without it no worker can be started, stopped or seen. Those that run serve on.",
            todo="`systemctl status docker` and `journalctl -u docker` say how it is.",
        )
        return (unreachable,)
    return (
        _engine(look),
        _runtime(look),
        _storage(look),
        _live_restore(look),
    )


def _engine(look: EngineLook) -> Finding:
    found = f"Docker {look.version}, API {look.api_version}, at {look.host}"
    if told := api_advice(look.api_version):
        return failed("engine", found, why=told, todo="Upgrade Docker to 20.10 or later.")
    if look.rootless:
        return warning(
            "engine",
            f"{found}, rootless",
            why="A rootless engine's containers have no address on this box that gpud could reach, and their "
            "control groups cannot be frozen directly.",
            todo="Use an engine that runs as root.",
        )
    if is_slow_to_start(look.version):
        return warning(
            "engine",
            found,
            why="Before 28.0 each start on a bridge network takes tens of milliseconds more.",
            todo="Upgrade Docker to 28 or later, when it suits.",
        )
    return ok("engine", found)


def _runtime(look: EngineLook) -> Finding:
    used = runtime_for(look.wanted_runtime, runtimes=look.runtimes, default=look.default_runtime)
    if used and used not in look.runtimes:
        return failed(
            "runtime",
            f"docker.runtime is {used!r}, which the engine does not know ({', '.join(look.runtimes)})",
            why="Every start of a worker is refused.",
            todo='Register it in daemon.json, or set docker.runtime = "auto".',
        )
    if used == FAST_RUNTIME:
        return ok("runtime", "workers are started with crun")
    found = f"workers are started with {used or look.default_runtime or 'the default runtime'}"
    told = runtime_advice(look.runtimes)
    if told and look.wanted_runtime == "auto" and look.default_runtime in ("", "runc"):
        return warning(
            "runtime",
            found,
            why="crun starts containers faster than runc.",
            todo="Install crun and register it in /etc/docker/daemon.json; gpud then uses it by itself.",
        )
    return ok("runtime", found)


def _storage(look: EngineLook) -> Finding:
    found = f"images are kept by {look.storage_driver or 'an unknown driver'}"
    if look.storage_driver == "vfs":
        return warning(
            "image-store",
            found,
            why="vfs copies the whole image for every container, so each start takes as long as the image is "
            "large.",
            todo='Set "storage-driver": "overlay2" in /etc/docker/daemon.json. Images are pulled again.',
        )
    if told := storage_advice(look.storage_driver):
        return warning(
            "image-store",
            found,
            why=told,
            todo="Nothing, unless an endpoint records page caches; then use overlay2.",
        )
    return ok("image-store", found)


def _live_restore(look: EngineLook) -> Finding:
    if look.live_restore:
        return ok("live-restore", "containers outlive a restart of Docker")
    return warning(
        "live-restore",
        "a restart or an upgrade of Docker ends every worker",
        why="Workers then start cold, all at once.",
        todo='Put "live-restore": true into /etc/docker/daemon.json, then `systemctl reload docker`.',
    )


def check_cgroup_driver(look: EngineLook, toolkit: ToolkitLook) -> Finding:
    """Judge whether `systemctl daemon-reload` takes GPUs from running containers.

    With the systemd driver, systemd applies its own list of a container's devices again at each reload.
    Devices that NVIDIA's hook added after the container was made are not on it; those of a CDI description
    are, where /dev/char has the links by which systemd looks devices up.
    """
    check = "cgroup-driver"
    if look.error:
        return skipped(check, "the engine does not answer")
    found = f"{look.cgroup_driver or 'unknown'}, control groups version {look.cgroup_version or 'unknown'}"
    if look.cgroup_driver != "systemd":
        return ok(check, found)
    if not toolkit.gpus or toolkit.attach in (None, GpuAttach.NONE):
        return ok(check, f"{found}; no GPUs are attached by the engine")
    why = (
        "`systemctl daemon-reload`, which package upgrades run too, takes the GPUs from running containers: "
        "they then fail with `Failed to initialize NVML: Unknown Error` until they are replaced."
    )
    if toolkit.attach is not GpuAttach.CDI:
        todo = f"Either {_CGROUPFS} (ends workers unless live-restore is on); or use CDI: {_CDI}."
        return warning(check, f"{found}; GPUs are attached by NVIDIA's hook", why=why, todo=todo)
    if toolkit.char_links is False:
        return warning(
            check,
            f"{found}; GPUs are attached by CDI, but /dev/char has no links to them",
            why=why,
            todo=f"Run `nvidia-ctk system create-dev-char-symlinks --create-all` now and at each boot; or "
            f"{_CGROUPFS}.",
        )
    return ok(check, f"{found}; GPUs are attached by CDI, which survives a daemon-reload")


def check_toolkit(look: ToolkitLook) -> Finding:
    """Judge whether the engine can bring GPUs into containers."""
    check = "gpu-attach"
    if not look.gpus or look.attach is GpuAttach.NONE:
        return skipped(check, "this box has no GPUs for the engine to attach")
    if look.attach is None:
        return skipped(check, "the engine does not answer")
    if look.attach is GpuAttach.CDI:
        return _cdi(check, look)
    if "nvidia-container-runtime-hook" in look.tools or "nvidia-container-runtime" in look.tools:
        return ok(check, f"by device requests; {', '.join(look.tools)} found")
    return failed(
        check,
        "by device requests, but NVIDIA's container toolkit is not in PATH",
        why="The engine refuses every start of a worker with GPUs: could not select device driver.",
        todo=_TOOLKIT,
    )


def _cdi(check: str, look: ToolkitLook) -> Finding:
    make = "Run `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`"
    if not look.specs:
        return failed(
            check,
            "by CDI, but neither /etc/cdi nor /var/run/cdi describes NVIDIA's GPUs",
            why="The engine refuses every start of a worker with GPUs: unresolvable CDI devices.",
            todo=f"{make}. Without nvidia-ctk: {_TOOLKIT}",
        )
    others = sorted(set(look.spec_drivers) - {look.driver})
    if look.driver and others and look.driver not in look.spec_drivers:
        return failed(
            check,
            f"by CDI; {', '.join(look.specs)} was made for driver {', '.join(others)}, {look.driver} runs",
            why="It names libraries of another driver, which are gone or do not fit.",
            todo=f"{make} again, after every upgrade of the driver.",
        )
    return ok(check, f"by CDI; {', '.join(look.specs)}")
