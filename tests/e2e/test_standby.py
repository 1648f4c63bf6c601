"""Standby workers on a real engine: made ahead, woken by a request, started cold when they fail."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from gpud.adapters.fanotify import obstacle
from tests.e2e.daemon import static_gpus, worker_spec
from tests.e2e.waiting import until
from tests.rig.images import build_image

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess
    from tests.rig.engine import Engine

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("shim"), pytest.mark.long]

RUNGS = ("created", "parked")


def _spec(name: str, image: str, mode: str, **fields: Any) -> dict[str, Any]:
    standby = {"mode": mode, **fields.pop("standby", {})}
    return worker_spec(name, image, gpus={"count": 0}, **fields, standby=standby)


def _kept(daemon: DaemonProcess, name: str, *, rung: str = "", state: str = "ready") -> list[dict[str, Any]]:
    rows = daemon.rows("SELECT * FROM standby WHERE endpoint = ? AND state = ?", name, state)
    return [dict(row) for row in rows if not rung or row["rung"] == rung]


def _stands_by(daemon: DaemonProcess, name: str, rung: str) -> str:
    """Wait for a standby on a rung; returns its id."""
    (found,) = until(lambda: _kept(daemon, name, rung=rung), what=f"{name} has a {rung} standby", within_s=30)
    return str(found["id"])


def _reason(daemon: DaemonProcess, name: str, reason: str) -> dict[str, Any]:
    def told() -> list[dict[str, Any]]:
        return [wait for wait in daemon.endpoint(name)["waits"] if wait["reason"] == reason]

    return until(told, what=f"{name} says {reason}")[0]


def test_requests_held_over_a_start_from_each_rung_are_all_answered(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon()
    for rung in RUNGS:
        daemon.deploy(_spec(rung, worker_image, rung, scale={"concurrency": 20}))
    kept = {rung: _stands_by(daemon, rung, rung) for rung in RUNGS}
    for rung in RUNGS:
        with ThreadPoolExecutor(20) as clients:
            replies = list(clients.map(lambda _: daemon.call(rung), range(20)))  # noqa: B023 - used up here
        assert [(reply.status, reply.worker) for reply in replies] == [(200, kept[rung])] * 20
    told = [event["facts"].get("standby") for event in daemon.events("worker.requested")]
    assert sorted(told) == sorted(RUNGS)
    daemon.audit()


def test_requests_held_over_a_start_whose_files_are_read_ahead_are_all_answered(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    """Nobody waits for that, a file that is gone is no fault, and the budget is kept."""
    daemon = start_daemon()
    scale = {"concurrency": 20, "idle_timeout_s": 1.5, "scale_down_delay_s": 0}
    page_cache = {"record": True, "budget_mib": 1}
    fields: dict[str, Any] = {"scale": scale, "page_cache": page_cache, "gpus": {"count": 0}}
    daemon.deploy(worker_spec("cached", worker_image, **fields))
    assert daemon.call("cached").status == 200
    (noted,) = until(
        lambda: daemon.events("image.reads_recorded", endpoint="cached"), what="its reads are recorded"
    )
    assert noted["facts"]["by"] == ("resident" if obstacle() else "opened")
    assert (noted["facts"]["bytes"], noted["facts"]["left_out_bytes"] > 0) == (1 << 20, True), noted
    (record,) = (daemon.data_dir / "reads").glob("*.json")
    ranges = json.loads(record.read_text())
    record.write_text(json.dumps([["/nowhere/at/all", 0, 4096], *ranges]))
    until(lambda: not daemon.workers(), what="it went")
    with ThreadPoolExecutor(20) as clients:
        replies = list(clients.map(lambda _: daemon.call("cached"), range(20)))
    assert [reply.status for reply in replies] == [200] * 20
    assert len({reply.worker for reply in replies}) == 1
    (warmed,) = until(lambda: daemon.events("image.warmed", endpoint="cached"), what="it is told")
    assert warmed["facts"]["files"] == len({path for path, _, _ in ranges})
    assert warmed["facts"]["bytes"] + warmed["facts"]["left_out_bytes"] == 1 << 20, (
        "a file that is gone counts"
    )
    daemon.audit()


def test_a_standby_holds_no_gpu_and_what_is_on_it_is_given_to_others(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    scale = {"idle_timeout_s": 0, "scale_down_delay_s": 0}
    daemon.deploy(worker_spec("parked", worker_image, standby={"mode": "parked"}, scale=scale))
    standby = _stands_by(daemon, "parked", "parked")
    assert daemon.gpus()["GPU-static-0"]["worker_id"] is None
    assert not daemon.rows("SELECT * FROM gpu_lease")
    assert not daemon.rows("SELECT * FROM usage_segment")
    (listed,) = daemon.endpoint("parked")["standbys"]
    assert (listed["id"], listed["rung"], listed["gpu_uuids"]) == (standby, "parked", ["GPU-static-0"])

    daemon.deploy(worker_spec("other", worker_image, scale=scale))
    served = daemon.call("other")
    assert (served.status, served.json()["nvidia_visible_devices"]) == (200, "GPU-static-0")
    served = daemon.call("parked")
    assert (served.status, served.worker) == (200, standby)
    assert served.json()["nvidia_visible_devices"] == "GPU-static-0"
    daemon.audit()


def test_a_standby_that_dies_is_replaced_and_a_request_that_meets_it_is_served_cold(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon()
    for rung in RUNGS:
        daemon.deploy(_spec(rung, worker_image, rung))
    first = {rung: _stands_by(daemon, rung, rung) for rung in RUNGS}
    daemon.container_of(first["parked"]).kill()
    daemon.container_of(first["created"]).remove()
    for rung in RUNGS:
        until(lambda: daemon.events("standby.failed", worker_id=first[rung]), what="its end is told")  # noqa: B023
        assert daemon.call(rung).status == 200, "whatever stands by now, the request is served"
    daemon.audit()


def test_a_worker_that_ends_in_the_moment_of_its_trigger_is_started_cold(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    """Its trigger is taken away first, so that the daemon finds nobody listening however soon it comes."""
    daemon = start_daemon()
    daemon.deploy(_spec("late", worker_image, "parked"))
    standby = _stands_by(daemon, "late", "parked")
    trigger = daemon.data_dir / "standby" / standby / "go"
    trigger.unlink()
    daemon.container_of(standby).kill()
    reply = daemon.call("late")
    assert reply.status == 200
    daemon.audit()


def test_an_application_that_ends_right_after_its_trigger_fails_as_it_would_without(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings={"scaling": {"circuit_failures": 1}})
    facts = []
    for mode in ("none", *RUNGS):
        daemon.deploy(_spec(mode, worker_image, mode, env={"EXIT_AT_START": 3}))
        if mode in RUNGS:
            _stands_by(daemon, mode, mode)
        assert daemon.call(mode).status == 503
        failed = until(lambda: daemon.events("worker.failed", endpoint=mode), what="it failed")[0]  # noqa: B023
        facts.append((failed["facts"]["cause"], failed["facts"]["exit_code"]))
    assert facts == [("exited", 3)] * 3
    daemon.audit()


def test_where_the_shim_cannot_run_the_container_is_kept_created(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon()
    shim = daemon.data_dir / "standby" / "hold"
    until(shim.exists, what="the shim is installed")
    elf_of_another_machine = bytearray(shim.read_bytes()[:4096])
    elf_of_another_machine[18:20] = (0xF7).to_bytes(2, "little")  # e_machine: BPF
    for name in ("foreign", "missing"):
        if name == "foreign":
            shim.write_bytes(elf_of_another_machine)
        else:
            shim.unlink()
        daemon.deploy(_spec(name, worker_image, "parked"))
        standby = _stands_by(daemon, name, "created")
        assert "instead" in _reason(daemon, name, "standby_unavailable")["detail"]
        reply = daemon.call(name)
        assert (reply.status, reply.worker) == (200, standby)
    daemon.audit()


def test_an_exhausted_budget_is_told_and_costs_nobody_an_answer(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings={"standby": {"workers": 1}})
    daemon.deploy(_spec("first", worker_image, "parked"))
    _stands_by(daemon, "first", "parked")
    daemon.deploy(_spec("second", worker_image, "parked"))
    assert "standby.workers" in _reason(daemon, "second", "standby_budget")["detail"]
    said = daemon.cli("explain", "second").stdout
    assert "standby" in said
    assert daemon.call("second").status == 200


def test_an_image_removed_under_a_created_container_costs_nobody_an_answer(
    start_daemon: DaemonStarter, worker_image: str, engine: Engine
) -> None:
    daemon = start_daemon()
    made = engine.client.containers.create(worker_image)
    image = made.commit("gpud-test/removed", daemon.network)
    made.remove()
    daemon.deploy(_spec("orphan", image.tags[0], "created"))
    _stands_by(daemon, "orphan", "created")
    engine.client.images.remove(image.id, force=True)
    assert daemon.call("orphan").status == 200
    daemon.audit()


def test_an_image_nothing_in_which_is_writable_is_parked_and_one_without_a_command_says_so(
    start_daemon: DaemonStarter, worker_image: str, engine: Engine
) -> None:
    daemon = start_daemon()
    lines = {"barren": "USER 65534:65534", "mute": "CMD []\nENTRYPOINT []"}
    for name, line in lines.items():
        dockerfile = f"FROM {worker_image}\n{line}\n"
        image = build_image(engine, f"gpud/rig-{name}:1", {"Dockerfile": dockerfile.encode()})
        daemon.deploy(_spec(name, image, "parked"))
    standby = _stands_by(daemon, "barren", "parked")
    reply = daemon.call("barren")
    assert (reply.status, reply.worker) == (200, standby)
    reply = daemon.call("mute")
    assert (reply.status, reply.json()["type"]) == (503, "/problems/start-failed")
    assert "command" in reply.json()["detail"]
    daemon.audit()


def test_standbys_on_every_rung_outlive_a_killed_daemon(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon()
    for rung in RUNGS:
        daemon.deploy(_spec(rung, worker_image, rung))
    kept = {rung: _stands_by(daemon, rung, rung) for rung in RUNGS}
    daemon.wait_on_disk()
    daemon.kill()
    daemon.start()
    assert {c.name for c in daemon.containers()} == {f"gpud-{standby}" for standby in kept.values()}
    for rung, standby in kept.items():
        reply = daemon.call(rung)
        assert (reply.status, reply.worker) == (200, standby)
    until(lambda: all(w["state"] == "ready" for w in daemon.workers()), what="both are ready")
    daemon.wait_on_disk()
    daemon.kill()
    daemon.start()
    for rung, standby in kept.items():
        assert daemon.call(rung).worker == standby
    daemon.audit()


def test_an_endpoint_that_goes_takes_its_standbys_along(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings={"docker": {"stop_policy": "drain"}})
    for rung in RUNGS:
        daemon.deploy(_spec(rung, worker_image, rung))
        _stands_by(daemon, rung, rung)
    assert daemon.api("DELETE", "/v1/endpoints/parked").status == 204
    until(lambda: len(daemon.containers()) == 1, what="its container is gone")
    until(lambda: len(list((daemon.data_dir / "standby").glob("wk_*"))) == 0, what="nothing of it is left")
    assert daemon.terminate() == 0
    assert daemon.containers() == []
    assert not daemon.rows("SELECT * FROM standby")


def test_standbys_are_listed_with_the_workers(start_daemon: DaemonStarter, worker_image: str) -> None:
    daemon = start_daemon()
    daemon.deploy(_spec("shown", worker_image, "parked"))
    standby = _stands_by(daemon, "shown", "parked")
    listed = daemon.cli("worker", "ls").stdout
    assert standby in listed
    assert "parked" in listed
    (row,) = json.loads(daemon.cli("worker", "ls", "--json").stdout)["items"]
    assert (row["id"], row["state"]) == (standby, "standby")
