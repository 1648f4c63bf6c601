"""From a launch to a create request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.adapters.docker_launch import attach_for, create_body, mounts_for
from gpud.core.endpoint import PinnedImage, Volume
from gpud.core.gpu import GpuAttach
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.errors import LaunchFailed
from gpud.ports.containers import EngineInfo, WorkerLaunch

if TYPE_CHECKING:
    from pathlib import Path

PIN = "app@sha256:" + "a" * 64


def launch_of(**changes: Any) -> WorkerLaunch:
    facts: dict[str, Any] = {
        "worker_id": WorkerId("wk_" + "a" * 16),
        "endpoint": EndpointName("echo"),
        "revision": Revision("0123456789ab"),
        "generation": 2,
        "image": PinnedImage(reference="app:1", pin=PIN),
        "port": 8000,
    }
    return WorkerLaunch(**(facts | changes))


def body_of(attach: GpuAttach = GpuAttach.DEVICE_REQUEST, **changes: Any) -> dict[str, Any]:
    return create_body(
        launch_of(**changes), install_id="me", network="gpud", attach=attach, mounts=(), log_max_mib=16
    )


def test_the_engine_is_asked_for_the_pin_and_not_the_name() -> None:
    assert body_of()["Image"] == PIN


def test_every_label_that_adoption_needs_is_there() -> None:
    assert body_of(gpu_uuids=("GPU-1", "GPU-2"))["Labels"] == {
        "gpud.install": "me",
        "gpud.worker": "wk_" + "a" * 16,
        "gpud.endpoint": "echo",
        "gpud.revision": "0123456789ab",
        "gpud.generation": "2",
        "gpud.gpus": "GPU-1,GPU-2",
    }


def test_an_empty_command_keeps_the_images_own() -> None:
    assert "Cmd" not in body_of()
    assert body_of(command=("serve", "--port", "1"))["Cmd"] == ["serve", "--port", "1"]


def test_nothing_restarts_removes_or_publishes_a_container_but_gpud() -> None:
    host = body_of()["HostConfig"]
    assert host["RestartPolicy"] == {"Name": "no"}
    assert (host["AutoRemove"], host["Init"]) == (False, True)
    assert (host["Privileged"], host["PublishAllPorts"]) == (False, False)
    assert "PortBindings" not in host
    assert host["NetworkMode"] == "gpud"


def test_rights_are_dropped_and_cannot_be_gained() -> None:
    host = body_of()["HostConfig"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["CapDrop"] == ["ALL"]
    assert not {"NET_RAW", "MKNOD", "SYS_ADMIN", "SYS_PTRACE"} & set(host["CapAdd"])


def test_limits_that_are_zero_are_not_limits() -> None:
    host = body_of()["HostConfig"]
    assert not {"Memory", "MemorySwap", "NanoCpus", "CpusetCpus", "CpusetMems"} & host.keys()
    assert (host["PidsLimit"], host["ShmSize"]) == (4096, 1 << 30)


def test_a_memory_limit_leaves_no_swap() -> None:
    host = body_of(memory_mib=64)["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 64 << 20


def test_a_worker_is_bound_to_the_cpus_and_memory_next_to_its_gpus() -> None:
    host = body_of(cpuset="0-7,16", memory_nodes="1", cpus=1.5)["HostConfig"]
    assert (host["CpusetCpus"], host["CpusetMems"], host["NanoCpus"]) == ("0-7,16", "1", 1_500_000_000)


@pytest.mark.parametrize(
    ("attach", "requests"),
    [
        (
            GpuAttach.DEVICE_REQUEST,
            [{"Driver": "nvidia", "DeviceIDs": ["GPU-1", "MIG-2"], "Capabilities": [["gpu"]]}],
        ),
        (
            GpuAttach.CDI,
            [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=MIG-2"]}],
        ),
        (GpuAttach.NONE, []),
    ],
)
def test_gpus_are_attached_by_uuid_in_the_way_that_is_set(
    attach: GpuAttach, requests: list[dict[str, Any]]
) -> None:
    body = body_of(attach, gpu_uuids=("GPU-1", "MIG-2"))
    assert body["HostConfig"]["DeviceRequests"] == requests
    assert "NVIDIA_VISIBLE_DEVICES=GPU-1,MIG-2" in body["Env"]


@pytest.mark.parametrize("attach", [GpuAttach.DEVICE_REQUEST, GpuAttach.CDI, GpuAttach.NONE])
def test_a_worker_without_gpus_is_told_that_it_sees_none(attach: GpuAttach) -> None:
    body = body_of(attach)
    assert body["HostConfig"]["DeviceRequests"] == []
    assert "NVIDIA_VISIBLE_DEVICES=void" in body["Env"]


@given(
    st.lists(st.tuples(st.sampled_from(["A", "B", "NVIDIA_VISIBLE_DEVICES"]), st.text(max_size=3))),
    st.lists(st.sampled_from(["GPU-1", "GPU-2"]), unique=True),
)
def test_no_environment_shows_a_worker_other_gpus_than_its_own(
    env: list[tuple[str, str]], uuids: list[str]
) -> None:
    body = body_of(env=tuple(env), gpu_uuids=tuple(GpuUuid(uuid) for uuid in uuids))
    visible = [line for line in body["Env"] if line.startswith("NVIDIA_VISIBLE_DEVICES=")]
    assert visible == [f"NVIDIA_VISIBLE_DEVICES={','.join(uuids) or 'void'}"]


@pytest.mark.parametrize(
    ("device_requests", "cdi", "chosen"),
    [
        (True, False, GpuAttach.DEVICE_REQUEST),
        (True, True, GpuAttach.DEVICE_REQUEST),
        (False, True, GpuAttach.CDI),
        (False, False, GpuAttach.DEVICE_REQUEST),
    ],
)
def test_auto_takes_device_requests_unless_only_cdi_works(
    device_requests: bool, cdi: bool, chosen: GpuAttach
) -> None:
    engine = EngineInfo(version="1", api_version="1.41", gpu_device_requests=device_requests, cdi=cdi)
    assert attach_for(GpuAttach.AUTO, engine) is chosen
    assert attach_for(GpuAttach.NONE, engine) is GpuAttach.NONE


def mount_of(source: str, *roots: Path, read_only: bool = False, forbidden: Path | None = None) -> Any:
    volume = Volume(source=source, target="/x", read_only=read_only)
    (mount,) = mounts_for((volume,), roots=roots, forbidden=forbidden)
    return mount


def test_a_source_without_a_slash_is_a_named_volume() -> None:
    mount = mount_of("cache", read_only=True)
    assert mount == {"Type": "volume", "Source": "cache", "Target": "/x", "ReadOnly": True}


def test_a_path_below_an_allowed_root_is_bound_where_it_really_is(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "current").symlink_to("models")
    for source in ("models", "current", "models/../current"):
        mount = mount_of(f"{tmp_path}/{source}", tmp_path)
        assert (mount["Type"], mount["Source"]) == ("bind", str(tmp_path.resolve() / "models"))
        assert mount["BindOptions"] == {"Propagation": "rprivate"}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{tmp}/out", "outside"),
        ("{tmp}/../elsewhere", "outside"),
        ("{tmp}-twin", "outside"),
        ("{tmp}/loop", "cannot be reached"),
        ("{tmp}/missing", "create it first"),
        ("./models", "relative"),
        ("~/models", "relative"),
        ("a b", "no volume name"),
        ("..", "no volume name"),
        ("x", "no volume name"),
    ],
)
def test_a_volume_that_leads_astray_is_refused_for_good(tmp_path: Path, source: str, says: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root-twin").mkdir()
    (root / "out").symlink_to("/etc")
    (root / "loop").symlink_to("loop")
    with pytest.raises(LaunchFailed, match=says) as refused:
        mount_of(source.format(tmp=root), root)
    assert refused.value.permanent


def test_without_allowed_roots_no_path_is_bound(tmp_path: Path) -> None:
    with pytest.raises(LaunchFailed, match="none are set"):
        mount_of(str(tmp_path))


def test_no_mount_holds_the_engines_socket_not_even_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "docker.sock").touch()
    (tmp_path / "var").symlink_to("run")
    forbidden = tmp_path / "var" / "docker.sock"
    for source in (tmp_path, tmp_path / "run", tmp_path / "run" / "docker.sock", tmp_path / "var"):
        with pytest.raises(LaunchFailed, match="socket"):
            mount_of(str(source), tmp_path, forbidden=forbidden)
    (tmp_path / "other").mkdir()
    assert mount_of(str(tmp_path / "other"), tmp_path, forbidden=forbidden)["Type"] == "bind"
