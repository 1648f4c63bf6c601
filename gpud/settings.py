"""gpud.toml, parsed and checked once."""

from __future__ import annotations

import tomllib
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from gpud.core.gpu import GpuAttach
from gpud.errors import BadSettings
from gpud.money_settings import BudgetsSettings, EnergySettings, PriceSettings
from gpud.section import Section


class ServerSettings(Section):
    """Where gpud listens."""

    listen: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$")] = "127.0.0.1:8700"
    """`host:port` of the one TCP port; port 0 takes a free one."""
    insecure: bool = False
    """Allow a non-loopback `listen` without TLS: keys then travel in the clear."""
    tls_cert: str = ""
    """PEM file with a certificate and its chain: the TCP port then speaks TLS 1.2 or later only. Empty for
    plain HTTP. A changed file is taken within seconds, and on SIGHUP; a broken one changes nothing."""
    tls_key: str = ""
    """PEM file with the certificate's private key, without a password."""
    worker_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """Port on which workers call gpud, at this box's address in their network. 0 takes any at the first
    start, and the same from then on."""
    domain: Annotated[
        str, Field(pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*)?$")
    ] = ""
    """Domain under which every endpoint has a host name: with `gpu.example.org` a request to
    `llm.gpu.example.org` goes to the endpoint `llm`, its path unchanged. Empty for none."""
    hosts: tuple[Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")], ...] = ()
    """Names by which people reach the dashboard, such as that of a front-end. Addresses, `localhost` and
    `domain` need not be listed; any other name is refused (421) unless a key comes with the
    request, because a page of others could have its own name lead here. With `tls_cert` every name is
    taken."""
    body_bytes_max: Annotated[int, Field(ge=1024, le=1 << 40)] = 1 << 30
    """Largest request body forwarded to a worker, in bytes."""
    shutdown_timeout_s: Annotated[float, Field(ge=0, le=3600)] = 25.0
    """How long a stopping daemon waits for running requests."""


class PathSettings(Section):
    """Where gpud keeps things."""

    data_dir: Path = Path("/var/lib/gpud")
    """Database, keys, logs. Mode 0700; never on a network file system."""
    run_dir: Path = Path("/run/gpud")
    """Unix socket of the API and the address file."""
    volume_roots: tuple[Path, ...] = ()
    """Host paths below which endpoint volumes may be bound; none by default."""


class DockerSettings(Section):
    """How gpud reaches the engine."""

    host: str = "unix:///var/run/docker.sock"
    """Address of the Docker Engine."""
    network: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$")] = "gpud"
    """Name of the workers' bridge network; made when missing, inter-container traffic off."""
    subnet: str = ""
    """CIDR of that network when gpud makes it; empty lets the engine choose."""
    call_timeout_s: Annotated[float, Field(ge=1, le=600)] = 60.0
    """Limit of one engine call; stops and pulls have limits of their own."""
    runtime: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$")] = "auto"
    """OCI runtime of the workers: a name the engine knows, or `auto`: crun where it is registered and the
    engine's default is runc, else the default. Should crun refuse a worker that runc starts, runc it is."""
    parallel_starts: Annotated[int, Field(ge=0, le=256)] = 0
    """Container starts at once; 0 means twice the number of cores."""
    pull_stall_timeout_s: Annotated[float, Field(ge=1, le=86_400)] = 120.0
    """A pull without progress for this long fails."""
    stop_policy: Literal["keep", "drain"] = "keep"
    """What happens to workers when the daemon stops: `keep` leaves them for the next start."""
    log_max_mib: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Size of one container log file; two are kept."""


class StaticGpu(Section):
    """A GPU declared by hand, for machines without NVML."""

    uuid: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{4,80}$")]
    """Any unique id; it is what workers are told."""
    name: str = "Static GPU"
    """Product name, for `gpus.model`."""
    memory_mib: Annotated[int, Field(ge=1)] = 24_576
    """Memory in MiB, for `gpus.memory_mib` and `gpus.least_memory_mib`."""
    numa_node: Annotated[int, Field(ge=-1, le=4095)] = -1
    """Node it hangs on; -1 when unknown."""
    nvlinks: tuple[str, ...] = ()
    """UUIDs of GPUs it is linked to by NVLink; workers of several GPUs get linked ones first."""


class GpuSettings(Section):
    """Which GPUs there are and how containers get them."""

    source: Literal["auto", "nvml", "static", "none"] = "auto"
    """`auto`: NVML where its library loads, else the static GPUs, else none."""
    attach: GpuAttach = GpuAttach.AUTO
    """`auto`: device requests (or CDI where only that works); `none` for static GPUs."""
    static: tuple[StaticGpu, ...] = ()
    """GPUs declared by hand; used only when `source` is `static`, or `auto` without NVML."""
    idle_memory_mib_max: Annotated[int, Field(ge=0)] = 512
    """A GPU with more memory in use than this before a start is quarantined."""
    release_timeout_s: Annotated[float, Field(ge=0, le=600)] = 10.0
    """How long a stopped worker's GPU may take to show its memory back."""
    headroom_mib: Annotated[int, Field(ge=0, le=1_048_576)] = 512
    """Of every GPU that is shared by reserved memory, this much is reserved for nobody."""


class ScalingSettings(Section):
    """Limits on starting workers, for the whole box."""

    start_backoff_s: Annotated[float, Field(ge=0.05, le=300)] = 1.0
    """Wait after the first failed start of a revision; doubles with each further one."""
    start_backoff_s_max: Annotated[float, Field(ge=1, le=3600)] = 300.0
    """Longest wait between start attempts of a failing revision."""
    circuit_failures: Annotated[int, Field(ge=1, le=100)] = 3
    """Consecutive failed starts after which held requests are refused with the error."""
    starts: Annotated[int, Field(ge=1, le=256)] = 4
    """Workers of the whole box that may be between their GPUs and readiness at once."""
    endpoint_starts: Annotated[int, Field(ge=1, le=256)] = 2
    """The same for one endpoint. Loads in parallel share disk and PCIe, and each takes longer."""
    settle_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """After a start of the daemon nothing is scaled down for this long."""


class WebhookSettings(Section):
    """Whom gpud may call. Public addresses over https need no setting."""

    http_hosts: tuple[Annotated[str, Field(pattern=r"^[^\s/:@\[\]]{1,253}$")], ...] = ()
    """Host names or addresses that may be called over plain http."""
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks in CIDR form that may be called though they are private, such as 10.1.0.0/16."""
    ports: tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = (80, 443)
    """Ports that may be called."""
    retention_s: Annotated[float, Field(ge=3600, le=31_536_000)] = 1_209_600.0
    """How long ended deliveries are kept, to be seen and sent again."""


class HistorySettings(Section):
    """What gpud remembers of the requests it has carried: when they came and how long they took."""

    keep_days: Annotated[float, Field(ge=0, le=366)] = 8.0
    """Days for which the record is kept; 0 keeps none."""


class StandbySettings(Section):
    """What standbys, paused and sleeping workers of all endpoints may take together."""

    workers: Annotated[int, Field(ge=0, le=10_000)] = 64
    """Most containers kept."""
    ram_mib: Annotated[int, Field(ge=0, le=1 << 30)] = 8192
    """Host memory for them in MiB. A parked container counts as 18, a created one as none."""
    sleep_ram_mib: Annotated[int, Field(ge=0, le=1 << 30)] = 32_768
    """Host memory in MiB that sleeping workers may be charged with (`sleep.host_memory_mib`) together."""
    paused_vram_mib: Annotated[int, Field(ge=0, le=1 << 40)] = 0
    """GPU memory in MiB that paused workers may hold together; 0 for no limit."""


class ImageSettings(Section):
    """What images may take on the engine's disk, and when missing ones are pulled and surplus ones removed.

    gpud removes images only that it pulled itself, and never one that a deployed revision, a revision to go
    back to, or a container needs.
    """

    disk_budget_gib: Annotated[float, Field(ge=0, le=1 << 20)] = 0.0
    """For the images gpud pulled, together; the longest unused go first. 0 for no limit."""
    free_gib_min: Annotated[float, Field(ge=0, le=1 << 20)] = 0.0
    """Of the engine's disk, to be left free: surplus images are removed for it, and then a pull is refused
    rather than made. 0 for no limit."""
    check_cron: str = "*/10 * * * *"
    """When images are checked, besides at the start of the daemon: a cron expression of five fields."""
    time_zone: str = "UTC"
    """Of that expression, by its IANA name."""


class JobSettings(Section):
    """Jobs: how many may wait, and how long they are kept."""

    max_waiting: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    """Jobs of one endpoint that may wait; more are refused with 429."""
    max_waiting_bytes: Annotated[int, Field(ge=1024, le=1 << 50)] = 64 << 30
    """Bytes of their inputs together."""
    free_disk_share: Annotated[float, Field(ge=0, le=0.9)] = 0.05
    """With less of the data directory's disk free than this, new jobs are refused with 507."""
    result_bytes_max: Annotated[int, Field(ge=1024, le=1 << 30)] = 20 << 20
    """Longest result that is kept; a longer one fails its job."""
    result_retention_s: Annotated[float, Field(ge=1, le=31_536_000)] = 86_400.0
    """How long a job is kept after its end."""
    sync_retention_s: Annotated[float, Field(ge=1, le=31_536_000)] = 86_400.0
    """The same for jobs whose caller waited (`runsync`)."""
    cancelled_retention_s: Annotated[float, Field(ge=1, le=31_536_000)] = 60.0
    """The same for cancelled ones. Short, because RunPod's Python client polls one until it is gone."""
    dead_retention_s: Annotated[float, Field(ge=1, le=31_536_000)] = 1_209_600.0
    """How long a dead letter is kept."""
    usage_keep_days: Annotated[float, Field(ge=1, le=3660)] = 400.0
    """Days for which it is known what a job used, its row long gone: about 200 bytes each."""


class AuditSettings(Section):
    """The record of calls that change something."""

    keep_days: Annotated[float, Field(ge=1, le=3660)] = 400.0
    """Days after which an entry is deleted."""
    jobs: bool = False
    """Record calls that send a job as well. The job itself says which key sent it; here it costs a write more
    for each."""


class ExecSettings(Section):
    """Sessions: commands that people run inside workers (`gpud exec`, scope `exec`)."""

    idle_timeout_s: Annotated[float, Field(ge=1, le=604_800)] = 1800.0
    """A session in which nothing is typed and nothing written for this long is ended."""
    worker_sessions: Annotated[int, Field(ge=0, le=1000)] = 8
    """Sessions one worker may have at once; 0 allows none."""


class LogsSettings(Section):
    """What is kept of the workers' output, on disk under `paths.data_dir`."""

    capture: bool = True
    """Keep it. Without, only the engine has it, and only as long as the container is there."""
    keep_days: Annotated[float, Field(gt=0, le=3660)] = 7.0
    """Days after which it is deleted."""
    worker_mib: Annotated[int, Field(ge=1, le=1 << 20)] = 64
    """Kept of one worker, on disk, in MiB; what is older goes first. Full files are compressed."""
    total_mib: Annotated[int, Field(ge=1, le=1 << 30)] = 2048
    """Kept of all workers together."""
    file_mib: Annotated[int, Field(ge=1, le=1024)] = 8
    """At this size a new file is begun and the full one compressed."""
    line_kib: Annotated[int, Field(ge=1, le=1024)] = 64
    """Kept of one line; how much more there was is said in its place."""
    rate_mib_per_s: Annotated[float, Field(gt=0, le=1024)] = 16.0
    """Of one worker. What comes faster for long is left out, and said in the log."""
    burst_mib: Annotated[int, Field(ge=32, le=1 << 16)] = 64
    """Of one worker, at whatever speed, before `rate_mib_per_s` counts."""
    source: Literal["auto", "api"] = "auto"
    """`auto`: the engine's own log files where gpud may read them, else its API; `api`: always its API."""


class MetricsSettings(Section):
    """What is measured of workers and GPUs."""

    step_s: Annotated[float, Field(ge=1, le=300)] = 10.0
    """Between looks at what workers and GPUs use: for `/metrics` and for each worker's history."""


class LogSettings(Section):
    """gpud's own log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level written."""
    format: Literal["auto", "json", "console"] = "auto"
    """`auto`: console on a terminal, JSON elsewhere."""
    requests: bool = False
    """A line for each request, at its end."""
    requests_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Of the requests that ended well, how many get their line: 0.01 for one in a hundred. Those that failed
    with a status of 500 or above always do."""


class Settings(Section):
    """Every setting of the daemon."""

    server: ServerSettings = ServerSettings()
    paths: PathSettings = PathSettings()
    docker: DockerSettings = DockerSettings()
    gpus: GpuSettings = GpuSettings()
    scaling: ScalingSettings = ScalingSettings()
    webhooks: WebhookSettings = WebhookSettings()

    history: HistorySettings = HistorySettings()
    standby: StandbySettings = StandbySettings()
    images: ImageSettings = ImageSettings()
    jobs: JobSettings = JobSettings()
    audit: AuditSettings = AuditSettings()
    exec: ExecSettings = ExecSettings()
    prices: PriceSettings = PriceSettings()
    energy: EnergySettings = EnergySettings()
    budgets: BudgetsSettings = BudgetsSettings()
    log: LogSettings = LogSettings()
    logs: LogsSettings = LogsSettings()
    metrics: MetricsSettings = MetricsSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        uuids = [gpu.uuid for gpu in self.gpus.static]
        if len(set(uuids)) != len(uuids):
            raise ValueError("gpus.static: two GPUs have the same uuid")
        if self.gpus.source == "static" and not uuids:
            raise ValueError("gpus.source is 'static' but no [[gpus.static]] is declared")
        host = self.server.listen.rpartition(":")[0].strip("[]")
        if bool(self.server.tls_cert) != bool(self.server.tls_key):
            raise ValueError("server.tls_cert and server.tls_key: set both, or neither")
        in_the_clear = not self.server.insecure and not self.server.tls_cert
        if in_the_clear and host not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError(
                f"server.listen: {host} is reachable from other machines and keys would travel in the clear; "
                "set server.tls_cert and server.tls_key, listen on 127.0.0.1 behind a TLS front-end, or set "
                "server.insecure = true"
            )
        return self


def load_settings(path: Path | None) -> Settings:
    """Read settings from a file; None gives the defaults.

    Raises:
        BadSettings: The file cannot be read, is not TOML, or says something gpud does not
            know; the message names file, line or field, and what would be right.
    """
    if path is None:
        return Settings()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadSettings(
            f"{path} does not exist. Give another file with --config, or leave it out."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"{path} is not valid TOML: {error}. Nothing was changed.") from error
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        faults = {
            (where := _path_of(fault["loc"])): _why(where, fault["type"], fault["msg"])
            for fault in error.errors()
        }
        listed = "; ".join(f"{where}: {why}" for where, why in faults.items())
        raise BadSettings(f"{path} cannot be used: {listed}.", fields=faults) from error


def _path_of(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc) or "settings"


_PATTERNS = {
    "server.listen": "must be host:port, such as 127.0.0.1:8700",
    "server.domain": "must be a domain name in lower case, such as gpu.example.org",
    "server.hosts": "must be host names in lower case, without scheme and port",
    "docker.runtime": "must be `auto`, or the name of a runtime of the engine, such as crun",
    "docker.network": "must be a network name of letters, digits, '_', '.' and '-', at most 63",
    "webhooks.http_hosts": "must be host names or addresses, without scheme, port or path",
    "prices.currency": "must be three capital letters, such as USD",
}


def _why(path: str, kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown setting; see docs/reference/settings.md for the names"
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(
            path.rstrip("0123456789").rstrip("."), "must be a unique id of 4 to 80 letters, digits and '-'"
        )
    return message.removeprefix("Value error, ")
