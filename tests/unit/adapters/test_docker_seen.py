"""Reading the engine's words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.adapters.docker_seen import engine_info, seen_container, unix_ns
from gpud.errors import DependencyDown
from gpud.ports.containers import ContainerStatus

NEVER = "0001-01-01T00:00:00Z"
WORKER = "wk_" + "a" * 16
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def inspected(**changes: Any) -> dict[str, Any]:
    """A running worker as the engine shows it; changes are of its state, labels go by `labels`."""
    labels = {
        "gpud.install": "me",
        "gpud.worker": WORKER,
        "gpud.endpoint": "echo",
        "gpud.revision": "0123456789ab",
        "gpud.generation": "3",
        "gpud.gpus": "GPU-1,GPU-2",
    }
    labels |= changes.pop("labels", {})
    state = {
        "Status": "running",
        "Pid": 4242,
        "ExitCode": 0,
        "Error": "",
        "OOMKilled": False,
        "StartedAt": "2026-11-21T23:15:19.76474409Z",
        "FinishedAt": NEVER,
    }
    return {
        "Created": "2026-11-21T23:15:19Z",
        "State": state | changes,
        "Config": {"Labels": labels},
        "NetworkSettings": {"Networks": {"gpud": {"IPAddress": "10.0.0.2"}}},
    }


def seen(**changes: Any) -> Any:
    return seen_container(inspected(**changes), install_id="me", network="gpud")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("2026-11-21T23:15:19.76474409Z", 1_795_302_919_764_744_090),
        ("2026-11-21T23:15:19.000000001Z", 1_795_302_919_000_000_001),
        ("2026-11-22T01:15:19.5+02:00", 1_795_302_919_500_000_000),
        ("2026-11-21T18:15:19.5-05:00", 1_795_302_919_500_000_000),
        (NEVER, 0),
    ],
)
def test_timestamps_are_read_to_the_nanosecond(text: str, expected: int) -> None:
    assert unix_ns(text) == expected


@given(MOMENTS, st.integers(0, 999_999_999), st.integers(-14 * 60, 14 * 60))
def test_a_timestamp_in_any_zone_is_the_same_moment(moment: datetime, ns: int, offset_min: int) -> None:
    whole = moment.replace(microsecond=0)
    shown = (whole + timedelta(minutes=offset_min)).strftime("%Y-%m-%dT%H:%M:%S")
    sign, hours, minutes = "-" if offset_min < 0 else "+", *divmod(abs(offset_min), 60)
    expected = (whole - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) * 1_000_000_000 + ns
    assert unix_ns(f"{shown}.{ns:09d}{sign}{hours:02d}:{minutes:02d}") == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-21 23:15:19Z", "2026-11-21T23:15:19"])
def test_what_is_no_timestamp_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="timestamp"):
        unix_ns(text)


def test_a_running_container_has_an_address_a_pid_and_no_end() -> None:
    found = seen()
    assert (found.worker_id, found.endpoint, found.generation) == (WORKER, "echo", 3)
    assert found.gpu_uuids == ("GPU-1", "GPU-2")
    assert (found.status, found.address, found.pid) == (ContainerStatus.RUNNING, "10.0.0.2", 4242)
    assert (found.finished_ns, found.exit_code) == (0, None)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("created", ContainerStatus.CREATED),
        ("running", ContainerStatus.RUNNING),
        ("paused", ContainerStatus.RUNNING),
        ("restarting", ContainerStatus.RUNNING),
        ("exited", ContainerStatus.EXITED),
        ("dead", ContainerStatus.EXITED),
        ("removing", ContainerStatus.EXITED),
    ],
)
def test_the_engines_states_become_three(word: str, status: ContainerStatus) -> None:
    assert seen(Status=word).status is status


def test_an_exited_container_has_its_code_and_an_end_that_is_not_before_its_start() -> None:
    ended = seen(Status="exited", ExitCode=3, Pid=0, FinishedAt="2026-11-21T23:15:19.764Z")
    assert (ended.exit_code, ended.pid, ended.address) == (3, 0, "")
    assert ended.finished_ns == ended.started_ns > 0


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"ExitCode": 127}, "not found"),
        ({"ExitCode": 126}, "could not be executed"),
        ({"ExitCode": 137, "OOMKilled": True}, "memory"),
        ({"ExitCode": 127, "Error": "the engine's own words"}, "the engine's own words"),
    ],
)
def test_an_end_that_has_a_known_reason_says_it(state: dict[str, Any], says: str) -> None:
    assert says in seen(Status="exited", **state).error


def test_an_end_for_reasons_of_its_own_says_nothing_more() -> None:
    assert seen(Status="exited", ExitCode=1).error == ""


def test_a_process_that_ran_out_of_memory_does_not_make_a_running_container_so() -> None:
    assert not seen(OOMKilled=True).out_of_memory


@pytest.mark.parametrize(
    "labels",
    [
        {"gpud.install": "somebody-else"},
        {"gpud.worker": "not-a-worker"},
        {"gpud.endpoint": "Not An Endpoint"},
        {"gpud.revision": ""},
        {"gpud.generation": "first"},
    ],
)
def test_a_container_that_lacks_a_right_label_is_not_ours(labels: dict[str, str]) -> None:
    assert seen(labels=labels) is None


@pytest.mark.parametrize(
    "odd", [{"StartedAt": ""}, {"FinishedAt": None, "Status": "exited"}, {"ExitCode": "?"}]
)
def test_a_description_that_cannot_be_read_is_the_engines_fault_and_names_the_container(
    odd: dict[str, Any],
) -> None:
    with pytest.raises(DependencyDown, match="the container gpud-x cannot be read"):
        seen_container(
            inspected(**{"Status": "exited", **odd}) | {"Name": "gpud-x"}, install_id="me", network="gpud"
        )


def test_a_container_without_labels_or_networks_is_not_a_riddle() -> None:
    bare = inspected()
    bare["Config"]["Labels"] = None
    assert seen_container(bare, install_id="me", network="gpud") is None
    lone = inspected()
    lone["NetworkSettings"]["Networks"] = None
    found = seen_container(lone, install_id="me", network="gpud")
    assert found is not None
    assert found.address == ""


VERSION = {"Version": "28.5.1", "ApiVersion": "1.51"}
CDI_DEVICES = [{"Source": "cdi", "ID": "nvidia.com/gpu=GPU-1"}]


@pytest.mark.parametrize(
    ("info", "device_requests", "cdi"),
    [
        ({}, True, False),
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, True, False),
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": CDI_DEVICES}, False, True),
        ({"Runtimes": {"nvidia": {}}, "DiscoveredDevices": CDI_DEVICES}, True, True),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "vendor.com/nic=1"}]}, True, False),
    ],
)
def test_device_requests_are_ruled_out_only_where_cdi_alone_is_known(
    info: dict[str, Any], device_requests: bool, cdi: bool
) -> None:
    found = engine_info(VERSION, info)
    assert (found.version, found.gpu_device_requests, found.cdi) == ("28.5.1", device_requests, cdi)
