"""Steers a stand-in `libnvidia-ml.so.1`, so that the unmodified pynvml sees the GPUs a test declares.

The library (`nvml/nvml_stand_in.c`) reads a state file again at each call once it was replaced, so a change
made here is seen by the next NVML call of every process that uses it, also by one that is hanging.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.rig.images import BuildFailed, cache_dir, run_or_explain

if TYPE_CHECKING:
    from collections.abc import Iterable

SONAME = "libnvidia-ml.so.1"
GIB = 1 << 30

ERROR_NOT_SUPPORTED = 3
ERROR_DRIVER_NOT_LOADED = 9
ERROR_GPU_IS_LOST = 15
ERROR_UNKNOWN = 999
XID_EVENT_TYPE = 8
ECC_EVENT_TYPE = 2
TOPOLOGY_SINGLE_SWITCH = 10
TOPOLOGY_HOST_BRIDGE = 30
TOPOLOGY_NODE = 40
TOPOLOGY_SYSTEM = 50

_SOURCE = Path(__file__).parent / "nvml/nvml_stand_in.c"
_EVENTS_MAX = 200


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StandInProcess:
    """A process that NVML lists on a device."""

    pid: int
    used_bytes: int = GIB
    kind: Literal["compute", "graphics", "mps"] = "compute"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StandInMig:
    """A MIG device of a GPU."""

    uuid: str
    gpu_instance: int
    compute_instance: int = 0
    name: str = "NVIDIA A100-SXM4-80GB MIG 1g.10gb"
    memory_total_bytes: int = 10 * GIB
    memory_used_bytes: int = 0
    slices: int = 1
    processes: tuple[StandInProcess, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StandInGpu:
    """A GPU as NVML describes it; `error` is what every call about it returns, 0 for none."""

    uuid: str
    name: str = "NVIDIA A100-SXM4-80GB"
    pci_bus_id: str = "00000000:01:00.0"
    memory_total_bytes: int = 80 * GIB
    memory_used_bytes: int = 0
    memory_reserved_bytes: int = 0
    cpus: str = "0-1"
    numa_node: int = -1
    utilisation_percent: int = 0
    memory_utilisation_percent: int = 0
    power_mw: int = 60_000
    power_limit_mw: int = 400_000
    energy_mj: int = 1_000_000
    temperature_celsius: int = 35
    clocks_event_reasons: int = 0
    ecc_corrected: int = 0
    ecc_uncorrected: int = 0
    remapped_rows: tuple[int, int, int, int] = (0, 0, 0, 0)
    mig_enabled: bool = False
    mig_devices_max: int = 7
    mig_devices: tuple[StandInMig, ...] = ()
    processes: tuple[StandInProcess, ...] = ()
    nvlinks: tuple[tuple[int, str], ...] = ()
    topology: tuple[tuple[int, str], ...] = ()
    error: int = 0
    hangs: bool = False


def stand_in_gpus(count: int, **facts: Any) -> list[StandInGpu]:
    """Some GPUs alike but for UUID and bus address; `facts` are fields of `StandInGpu`."""
    return [
        StandInGpu(
            uuid=f"GPU-{index:08x}-0000-4000-8000-{index:012x}",
            pci_bus_id=f"00000000:{index + 1:02X}:00.0",
            **facts,
        )
        for index in range(count)
    ]


class NvmlStandIn:
    """One stand-in NVML with its state file.

    Args:
        folder: Where the state file is kept.
        gpus: The GPUs it starts with.
    """

    def __init__(self, folder: Path, gpus: Iterable[StandInGpu] = ()) -> None:
        self.library = build_library()
        self.state_path = folder / "nvml-state"
        self.driver_version = "550.163.01"
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._init_error = 0
        self._hanging = False
        self._failures: dict[str, int] = {}
        self._events: list[str] = []
        self._sequence = 0
        self._loaded: ctypes.CDLL | None = None
        self._write()

    @property
    def gpus(self) -> list[StandInGpu]:
        """The GPUs as last written, in NVML's order."""
        return list(self._gpus.values())

    def env(self) -> dict[str, str]:
        """What a process must be started with for its pynvml to see these GPUs."""
        path = [str(self.library.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {"LD_LIBRARY_PATH": ":".join(path), "GPUD_FAKE_NVML_STATE": str(self.state_path)}

    def load_in_process(self) -> None:
        """Makes this process's pynvml see these GPUs; the last stand-in to call this is the one seen.

        The loader knows libraries by the name they carry, so pynvml's own load by name finds this one.

        Raises:
            RuntimeError: Another library of that name was loaded before, a real driver's for one.
        """
        os.environ["GPUD_FAKE_NVML_STATE"] = str(self.state_path)
        self._loaded = ctypes.CDLL(str(self.library), mode=ctypes.RTLD_GLOBAL)
        if ctypes.CDLL(SONAME)._handle != self._loaded._handle:
            raise RuntimeError(
                f"another {SONAME} is loaded in this process; start a new one with env() instead"
            )

    def set_gpus(self, gpus: Iterable[StandInGpu]) -> None:
        """Replaces all GPUs. A handle of a GPU that is no longer there answers that the GPU is lost."""
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._write()

    def change(self, uuid: str, **facts: Any) -> None:
        """Changes facts of one GPU; `facts` are fields of `StandInGpu`."""
        self._gpus[uuid] = dataclasses.replace(self._gpus[uuid], **facts)
        self._write()

    def set_processes(self, uuid: str, processes: Iterable[StandInProcess]) -> None:
        """Replaces the processes of a GPU or MIG device, named by its UUID; memory in use follows them."""
        wanted = tuple(processes)
        facts: dict[str, Any] = {
            "processes": wanted,
            "memory_used_bytes": sum(process.used_bytes for process in wanted),
        }
        for gpu in self.gpus:
            if uuid in {mig.uuid for mig in gpu.mig_devices}:
                parts = [
                    dataclasses.replace(mig, **facts) if mig.uuid == uuid else mig for mig in gpu.mig_devices
                ]
                self.change(gpu.uuid, mig_devices=tuple(parts))
                return
        self.change(uuid, **facts)

    def xid(self, uuid: str, code: int, *, event_type: int = XID_EVENT_TYPE) -> None:
        """Delivers an Xid event of a GPU to every event set that has registered it."""
        self._sequence += 1
        self._events = [*self._events, f"event {self._sequence} {event_type} {code} {uuid}"][-_EVENTS_MAX:]
        self._write()

    def lose(self, uuid: str) -> None:
        """The GPU falls off the bus: an Xid 79, and from then on every call about it says that it is lost."""
        self._gpus[uuid] = dataclasses.replace(self._gpus[uuid], error=ERROR_GPU_IS_LOST)
        self.xid(uuid, 79)

    def recover(self, uuid: str) -> None:
        """The GPU answers again, as after a reset."""
        self.change(uuid, error=0, hangs=False)

    def hang(self, uuid: str | None = None) -> None:
        """Calls block from now on, those about one GPU or all of them, until `resume`."""
        if uuid:
            self.change(uuid, hangs=True)
        else:
            self._hanging = True
            self._write()

    def resume(self) -> None:
        """Lets every hanging call go on."""
        self._hanging = False
        self.set_gpus([dataclasses.replace(gpu, hangs=False) for gpu in self.gpus])

    def refuse_init(self, code: int = ERROR_DRIVER_NOT_LOADED) -> None:
        """Initialising NVML fails with this code from now on; 0 lets it succeed again."""
        self._init_error = code
        self._write()

    def fail(self, function: str, code: int) -> None:
        """One NVML function, named as in C with its version, returns this code; 0 makes it work again."""
        self._failures[function] = code
        self._write()

    def _write(self) -> None:
        lines = [f"driver {self.driver_version}", "nvml 12.550.163.01", "cuda 12040"]
        lines += [f"init {self._init_error}", f"hang {self._hanging:d}"]
        lines += [f"fail {function} {code}" for function, code in self._failures.items() if code]
        for gpu in self.gpus:
            lines += _gpu_lines(gpu)
        part = self.state_path.with_suffix(".part")
        part.write_text("\n".join([*lines, *self._events, ""]))
        part.replace(self.state_path)


def _gpu_lines(gpu: StandInGpu) -> list[str]:
    memory = f"{gpu.memory_total_bytes} {gpu.memory_used_bytes} {gpu.memory_reserved_bytes}"
    lines = [
        f"gpu {gpu.uuid}",
        f"name {gpu.name}",
        f"pci {gpu.pci_bus_id}",
        f"memory {memory}",
        f"cpus {gpu.cpus}",
        f"numa {gpu.numa_node}",
        f"utilisation {gpu.utilisation_percent} {gpu.memory_utilisation_percent}",
        f"power {gpu.power_mw} {gpu.power_limit_mw}",
        f"energy {gpu.energy_mj}",
        f"temperature {gpu.temperature_celsius}",
        f"reasons {gpu.clocks_event_reasons}",
        f"ecc {gpu.ecc_corrected} {gpu.ecc_uncorrected}",
        f"remapped {' '.join(map(str, gpu.remapped_rows))}",
        f"mig_mode {gpu.mig_enabled:d} {gpu.mig_enabled:d} {gpu.mig_devices_max}",
        f"error {gpu.error}",
        f"hang {gpu.hangs:d}",
        *(f"link {number} {uuid}" for number, uuid in gpu.nvlinks),
        *(f"topology {level} {uuid}" for level, uuid in gpu.topology),
        *_process_lines(gpu.processes),
    ]
    for mig in gpu.mig_devices:
        lines += [
            f"mig {mig.uuid} {mig.gpu_instance} {mig.compute_instance}",
            f"name {mig.name}",
            f"memory {mig.memory_total_bytes} {mig.memory_used_bytes} 0",
            f"slices {mig.slices}",
            *_process_lines(mig.processes),
        ]
    return lines


def _process_lines(processes: Iterable[StandInProcess]) -> list[str]:
    return [f"process {process.kind} {process.pid} {process.used_bytes}" for process in processes]


def build_library() -> Path:
    """Compiles the stand-in library, once for each version of its source; returns its path.

    Raises:
        BuildFailed: gcc or NVIDIA's header is missing, or the source does not compile.
    """
    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    library = cache_dir() / f"nvml-{digest}" / SONAME
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        part = library.with_name(f"{SONAME}.{os.getpid()}")
        flags = [
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-shared",
            "-fPIC",
            "-pthread",
            f"-Wl,-soname,{SONAME}",
        ]
        run_or_explain("gcc", *flags, f"-I{_header_dir()}", "-o", str(part), str(_SOURCE))
        part.rename(library)
    return library


def _header_dir() -> Path:
    """The folder of `nvml.h` in the installed package nvidia-nvml-dev."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for header in sorted(Path(folder).glob("*/include/nvml.h")):
            return header.parent
    raise BuildFailed("nvml.h is not installed: pip install nvidia-nvml-dev")
