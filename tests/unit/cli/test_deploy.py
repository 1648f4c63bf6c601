"""`gpud deploy` and `gpud apply`: specs from options and files, faults by their options, waiting."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gpud.cli import exits, specs
from gpud.cli.commands.deploy import COMMANDS
from gpud.core.endpoint import EndpointSpec, PolicyName
from gpud.core.ids import EndpointName
from tests.unit.cli import documents
from tests.unit.cli.canned import CannedDaemon, Reply, Seen, json_reply, problem

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.conftest import Gpud

_OPTIONS = {option.name: option for option in COMMANDS[0].options}


def test_every_option_sets_a_field_that_the_core_knows() -> None:
    spec = EndpointSpec(name=EndpointName("x"), image="x")
    arguments, options = COMMANDS[0].arguments, COMMANDS[0].options
    fields = [argument.field for argument in arguments] + [option.field for option in options]
    for field in filter(None, fields):
        at: object = spec
        for word in field.split("."):
            assert hasattr(at, word), field
            at = getattr(at, word)


def test_the_policies_offered_are_those_there_are() -> None:
    assert _OPTIONS["policy"].choices == tuple(policy.value for policy in PolicyName)


def test_the_defaults_told_are_those_that_hold() -> None:
    spec = EndpointSpec(name=EndpointName("x"), image="x")
    told = {
        "gpus": spec.gpus.count,
        "min-workers": spec.scale.min_workers,
        "max-workers": spec.scale.max_workers,
        "policy": spec.scale.policy.value,
        "concurrency": spec.scale.concurrency,
        "health-path": spec.health.path,
        "shm-mib": spec.limits.shm_mib,
    }
    assert {name: _OPTIONS[name].default for name in told} == {
        name: str(value) for name, value in told.items()
    }
    assert (spec.scale.idle_timeout_s, _OPTIONS["idle-timeout"].default) == (60, "1m")
    assert (spec.health.start_timeout_s, _OPTIONS["start-timeout"].default) == (600, "10m")
    assert (spec.health.stall_timeout_s, _OPTIONS["stall-timeout"].default) == (300, "5m")
    assert (spec.limits.request_timeout_s, _OPTIONS["request-timeout"].default) == (600, "10m")


def _accepts(daemon: CannedDaemon, name: str = "llm", **more: object) -> None:
    daemon.on("PUT", f"/v1/endpoints/{name}", json_reply(documents.endpoint(name, **more), 201))


def test_options_become_the_spec_that_was_meant(
    gpud: Gpud, daemon: CannedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "t=1")
    _accepts(daemon, condition="sleeping")
    ran = gpud(
        *("deploy", "vllm/vllm-openai:v0.11", "--name", "llm", "--port", "8000", "--gpus", "2"),
        *("--gpu-memory-mib", "40000", "--gpu-model", "H100", "--min-workers", "0", "--max-workers", "4"),
        *("--policy", "fixed", "--concurrency", "16", "--idle-timeout", "5m", "--priority", "-3"),
        *("--env", "A=b=c", "-e", "HF_TOKEN", "--volume", "models:/models:ro", "-v", "/srv/x:/x"),
        *("--health-path", "/health", "--start-timeout", "1h30m", "--registry", "ghcr", "--alias", "m1"),
        *("--alias", "m2", "--public", "--cpus", "2.5", "--memory-mib", "8192", "--shm-mib", "64"),
        *("--", "--model", "Qwen/Qwen3-8B"),
    )
    assert ran.code == 0
    assert daemon.seen[0].document == {
        "name": "llm",
        "image": "vllm/vllm-openai:v0.11",
        "command": ["--model", "Qwen/Qwen3-8B"],
        "port": 8000,
        "aliases": ["m1", "m2"],
        "registry": "ghcr",
        "env": {"A": "b=c", "HF_TOKEN": "t=1"},
        "public": True,
        "gpus": {"count": 2, "memory_mib": 40000, "model": "H100"},
        "scale": {
            "min_workers": 0,
            "max_workers": 4,
            "policy": "fixed",
            "concurrency": 16,
            "idle_timeout_s": 300,
            "priority": -3,
        },
        "health": {"path": "/health", "start_timeout_s": 5400},
        "limits": {"cpus": 2.5, "memory_mib": 8192, "shm_mib": 64},
        "volumes": [
            {"source": "models", "target": "/models", "read_only": True},
            {"source": "/srv/x", "target": "/x", "read_only": False},
        ],
    }
    assert "llm created: sleeping, revision 3f2a1b0c9d8e" in ran.out
    assert "gpud invoke llm /" in ran.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--name", "llm"], "needs an IMAGE"),
        (["x"], "needs a name"),
        (["x", "--name", "llm", "--env", "GPUD_TEST_UNSET"], "GPUD_TEST_UNSET"),
        (["x", "--name", "llm", "--volume", "models"], "'models' is not SOURCE:TARGET[:ro]"),
        (["x", "--name", "llm", "--volume", "a:b:rx"], "is not SOURCE:TARGET[:ro]"),
        (["x", "--name", "llm", "--policy", "fxed"], "--policy cannot be 'fxed'"),
        (["x", "--name", "llm", "--model", "y"], "after --"),
        (["x", "serve", "--name", "llm"], "'serve'"),
        (["--file", "/nowhere.toml"], "/nowhere.toml does not exist"),
    ],
)
def test_a_command_line_that_cannot_be_meant_asks_nothing_of_the_daemon(
    words: list[str], told: str, gpud: Gpud, daemon: CannedDaemon
) -> None:
    ran = gpud("deploy", *words)
    assert ran.code == exits.BAD_USAGE
    assert told in ran.err
    assert daemon.seen == []


@pytest.mark.parametrize(
    ("field", "label"),
    [
        ("name", "--name"),
        ("image", "IMAGE"),
        ("command.0", "COMMAND #1"),
        ("port", "--port"),
        ("gpus.count", "--gpus"),
        ("gpus", "--gpus"),
        ("gpus.memory_mib", "--gpu-memory-mib"),
        ("scale.max_workers", "--max-workers"),
        ("scale.idle_timeout_s", "--idle-timeout"),
        ("limits.pids", "limits.pids"),
        ("health.path", "--health-path"),
        ("limits.memory_mib", "--memory-mib"),
        ("env.CUDA_VISIBLE_DEVICES", "--env CUDA_VISIBLE_DEVICES"),
        ("volumes.1.target", "--volume #2 target"),
        ("aliases.0", "--alias #1"),
    ],
)
def test_a_fault_of_a_field_is_told_under_the_option_that_set_it(
    field: str, label: str, gpud: Gpud, daemon: CannedDaemon
) -> None:
    refused = problem(422, "…", title="The spec is not valid", fields={field: "must be otherwise"})
    daemon.on("PUT", "/v1/endpoints/llm", refused)
    ran = gpud("deploy", "x", "--name", "llm")
    assert ran.code == exits.BAD_USAGE
    assert ran.err == f"gpud: The spec is not valid.\n  {label}  must be otherwise\n"


def test_options_come_on_top_of_a_file(gpud: Gpud, daemon: CannedDaemon, tmp_path: Path) -> None:
    path = tmp_path / "endpoint.toml"
    path.write_text(
        'name = "llm"\nimage = "x:1"\nenv = { A = "1" }\n[scale]\nmax_workers = 2\nconcurrency = 4\n'
    )
    _accepts(daemon)
    assert gpud("deploy", "--file", str(path), "--max-workers", "9", "-e", "B=2").code == 0
    assert daemon.seen[0].document == {
        "name": "llm",
        "image": "x:1",
        "env": {"A": "1", "B": "2"},
        "scale": {"max_workers": 9, "concurrency": 4},
    }


class _Starting:
    """Plays an endpoint whose worker goes through these views, one for each look at it."""

    def __init__(self, daemon: CannedDaemon, *views: dict[str, object], min_workers: int = 1) -> None:
        spec = documents.spec(min_workers=min_workers)
        base = {"spec": spec, "workers": []}
        self._views = [{**documents.endpoint(), **base, **view} for view in views]
        daemon.on("PUT", "/v1/endpoints/llm", self.look)
        daemon.on("GET", "/v1/endpoints/llm", self.look)

    def look(self, _seen: Seen) -> Reply:
        return json_reply(self._views.pop(0) if len(self._views) > 1 else self._views[0])


def _at(state: str, **more: object) -> dict[str, object]:
    return {"condition": "starting", "workers": [documents.worker(state=state)], **more}


def test_a_deploy_that_keeps_workers_waits_for_the_first_and_tells_each_phase_once(
    gpud: Gpud, daemon: CannedDaemon
) -> None:
    pull = {"layers": 4, "layers_done": 2, "bytes_total": 1 << 30, "bytes_done": 1 << 29}
    waits = [{"reason": "waiting_for_gpu", "detail": "All GPUs are leased by api.", "facts": {}}]
    _Starting(
        daemon,
        {},
        _at("pulling", pull=pull),
        _at("pulling", pull=pull),
        _at("pending", waits=waits),
        _at("creating"),
        _at("starting"),
        _at("ready", condition="ready"),
    )
    ran = gpud("deploy", "x", "--name", "llm", "--min-workers", "1")
    assert ran.code == 0
    assert ran.err.rstrip("\n").split("\n") == [
        "gpus: reserving GPUs",
        "image: pulling 1.0 GiB, 50 % done",
        "gpus: All GPUs are leased by api.",
        "create: creating the container",
        "start: starting, until the health check passes",
        "ready: ready",
    ]
    assert ran.out.startswith("llm created: ready")


def test_a_ready_worker_of_the_revision_before_does_not_count(gpud: Gpud, daemon: CannedDaemon) -> None:
    old = documents.worker(revision="0ld", state="ready")
    _Starting(
        daemon,
        {"condition": "ready", "workers": [old]},
        {"condition": "ready", "workers": [old, documents.worker(state="starting")]},
        {"condition": "ready", "workers": [old, documents.worker(state="ready")]},
    )
    ran = gpud("deploy", "x", "--name", "llm", "--json")
    assert ran.err.count("start: ") == 1
    assert len(json.loads(ran.out)["workers"]) == 2


def test_a_start_that_fails_ends_the_wait_with_its_error(gpud: Gpud, daemon: CannedDaemon) -> None:
    _Starting(
        daemon,
        {"last_error": "An older error."},
        _at("starting", last_error="An older error."),
        {"last_error": "The container exited with 1: no such model."},
    )
    ran = gpud("deploy", "x", "--name", "llm")
    assert ran.code == exits.FAILED
    assert "its workers fail to start: The container exited with 1: no such model." in ran.err
    assert "gpud endpoint get llm" in ran.err
    assert ran.out == ""


def test_a_wait_that_lasts_too_long_ends_with_code_6(gpud: Gpud, daemon: CannedDaemon) -> None:
    _Starting(daemon, _at("starting"))
    ran = gpud("deploy", "x", "--name", "llm", "--wait-timeout", "0.3s")
    assert ran.code == exits.TIMED_OUT
    assert "gpud goes on trying" in ran.err


def test_no_wait_leaves_at_once(gpud: Gpud, daemon: CannedDaemon) -> None:
    _Starting(daemon, _at("starting"))
    assert gpud("deploy", "x", "--name", "llm", "--no-wait").code == 0
    assert daemon.asked("GET") == []


def test_waiting_for_a_sleeping_endpoint_wakes_it_through_its_health_path(
    gpud: Gpud, daemon: CannedDaemon
) -> None:
    held = threading.Event()
    _Starting(
        daemon, {"condition": "sleeping"}, _at("starting"), _at("ready", condition="ready"), min_workers=0
    )

    def hold(_seen: Seen) -> Reply:
        held.wait(10)
        return Reply(body=b"ok")

    daemon.on("GET", "/e/llm/health", hold)
    ran = gpud("deploy", "x", "--name", "llm", "--wait")
    held.set()
    assert ran.code == 0
    assert "/e/llm/health" in [seen.path for seen in daemon.seen]


def test_a_wake_that_the_gateway_refuses_ends_the_wait_with_its_reason(
    gpud: Gpud, daemon: CannedDaemon
) -> None:
    _Starting(daemon, {"condition": "sleeping"}, min_workers=0)
    refused = problem(503, "No worker of llm can start: the image is broken.", origin="gateway")
    daemon.on("GET", "/e/llm/health", refused)
    ran = gpud("deploy", "x", "--name", "llm", "--wait")
    assert ran.code == exits.FAILED
    assert "the image is broken" in ran.err


def test_apply_tells_what_changed_and_what_did_not(gpud: Gpud, daemon: CannedDaemon, tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text('name = "new"\nimage = "x"\n')
    two.write_text(
        "".join(f'[[endpoint]]\nname = "{name}"\nimage = "x"\n' for name in ("same", "moved", "scaled"))
    )
    _accepts(daemon, "new")
    for name, after in (
        ("same", {}),
        ("moved", {"revision": "ffff"}),
        ("scaled", {"spec": documents.spec("scaled", max_workers=9)}),
    ):
        daemon.on("GET", f"/v1/endpoints/{name}", documents.endpoint(name))
        _accepts(daemon, name, **after)
    ran = gpud("apply", "-f", str(one), "-f", str(two))
    assert ran.code == 0
    assert ran.out.split("\n")[:-1] == [
        "new created",
        "same unchanged",
        "moved updated: new revision ffff",
        "scaled updated: applies at once, no worker restarts",
    ]
    assert [seen.document["name"] for seen in daemon.asked("PUT")] == ["new", "same", "moved", "scaled"]


def test_a_refused_endpoint_does_not_keep_the_others_back(
    gpud: Gpud, daemon: CannedDaemon, tmp_path: Path
) -> None:
    path = tmp_path / "all.toml"
    path.write_text("".join(f'[[endpoint]]\nname = "{name}"\nimage = "x"\n' for name in ("bad", "good")))
    refused = problem(422, "…", title="The spec is not valid", fields={"scale.max_worker": "unknown field"})
    daemon.on("PUT", "/v1/endpoints/bad", refused)
    _accepts(daemon, "good")
    ran = gpud("apply", "-f", str(path))
    assert ran.code == exits.BAD_USAGE
    assert ran.out == "good created\n"
    assert ran.err == f"gpud: {path}: bad: The spec is not valid.\n  scale.max_worker  unknown field\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name = ", "is not valid TOML: Invalid value (at end of document)"),
        ("image = 'x'", "names no endpoint"),
        ("endpoint = 3", "must be [[endpoint]] tables"),
        (
            "image = 'x'\n[[endpoint]]\nname = 'a'",
            "both [[endpoint]] tables and fields of a single endpoint: image",
        ),
        ("[[endpoint]]\nname = 'a'\n[[endpoint]]\nname = 'a'", "The endpoint a is in"),
        ("[[endpoint]]\nname = 'a'\n[[endpoint]]\nimage = 'a'", "endpoint 2 of"),
    ],
)
def test_a_file_with_a_fault_changes_nothing(
    text: str, told: str, gpud: Gpud, daemon: CannedDaemon, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text('name = "good"\nimage = "x"\n')
    bad.write_text(text)
    ran = gpud("apply", "-f", str(good), "-f", str(bad))
    assert ran.code == exits.BAD_USAGE
    assert told in ran.err
    assert daemon.seen == []


def test_apply_without_a_file_is_bad_usage(gpud: Gpud) -> None:
    assert gpud("apply").code == exits.BAD_USAGE


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("0 8 * * MON-FRI for 10h", {"start": "0 8 * * MON-FRI", "duration_s": 36_000}),
        (
            "0 8 * * * to 30 18 * * * in Europe/Berlin x2",
            {"start": "0 8 * * *", "end": "30 18 * * *", "time_zone": "Europe/Berlin", "workers": 2},
        ),
    ],
)
def test_a_window_is_read_as_it_is_spoken(text: str, window: dict[str, object]) -> None:
    assert specs.warm_window(text) == window


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0 8 * * *",
        "0 8 * * * for",
        "0 8 * * * for ever",
        "0 8 * * * for 1h to 0 9 * * *",
        "0 8 * * * for 1h x",
    ],
)
def test_a_window_that_is_not_one_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(exits.BadUsage, match="CRON for LENGTH"):
        specs.warm_window(text)


# -- rollouts -------------------------------------------------------------------------------------


def _rolling(step: str, **more: object) -> dict[str, Any]:
    rollout = {
        "base": "0" * 12,
        "target": "3f2a1b0c9d8e",
        "step": step,
        "active": step in ("pull", "canary", "prove", "shift"),
        "failures": 0,
        "last_error": "",
        "reason": None,
        "detail": "",
        **more,
    }
    waits = [{"reason": "rolling_out", "detail": f"Revision 3f2a1b0c9d8e: {step}.", "facts": {}}]
    return {"rollout": rollout, "waits": waits if rollout["active"] else []}


def test_a_new_revision_is_waited_for_and_each_step_told_once(gpud: Gpud, daemon: CannedDaemon) -> None:
    steps = [_rolling(step) for step in ("pull", "canary", "canary", "prove", "shift", "completed")]
    _Starting(daemon, *steps)
    ran = gpud("deploy", "x", "--name", "llm")
    assert ran.code == 0
    told = [line.rpartition(" ")[2] for line in ran.err.rstrip("\n").split("\n")]
    assert told == ["pull.", "canary.", "prove.", "shift."]


def test_a_rollout_that_goes_back_fails_the_deploy_with_its_reason(gpud: Gpud, daemon: CannedDaemon) -> None:
    went_back = _rolling("rolled_back", detail="3 starts failed. Last error: no model.")
    _Starting(daemon, _rolling("canary"), went_back)
    ran = gpud("deploy", "x", "--name", "llm")
    assert ran.code == exits.FAILED
    assert "llm went back to revision 000000000000, which serves: 3 starts failed." in ran.err


def test_a_rollout_that_another_deploy_ended_fails_the_wait(gpud: Gpud, daemon: CannedDaemon) -> None:
    _Starting(daemon, _rolling("canary"), _rolling("canary", target="f" * 12))
    ran = gpud("deploy", "x", "--name", "llm")
    assert ran.code == exits.FAILED
    assert "Another revision of llm was deployed meanwhile" in ran.err


def test_a_rollout_is_not_waited_for_when_told_so_nor_without_end(gpud: Gpud, daemon: CannedDaemon) -> None:
    _Starting(daemon, _rolling("canary"))
    assert gpud("deploy", "x", "--name", "llm", "--no-wait").code == 0
    ran = gpud("deploy", "x", "--name", "llm", "--wait-timeout", "0.3s")
    assert ran.code == exits.TIMED_OUT
    assert "gpud rollback llm ends it" in ran.err


def test_apply_waits_for_all_that_roll_out_and_one_that_goes_back_fails_it(
    gpud: Gpud, daemon: CannedDaemon, tmp_path: Path
) -> None:
    path = tmp_path / "all.toml"
    path.write_text("".join(f'[[endpoint]]\nname = "{name}"\nimage = "x"\n' for name in ("bad", "good")))
    for name, end in (("bad", "rolled_back"), ("good", "completed")):
        _accepts(daemon, name, **_rolling("canary"), revision="f" * 12)
        daemon.on(
            "GET", f"/v1/endpoints/{name}", documents.endpoint(name, **_rolling(end, detail="no model."))
        )
    ran = gpud("apply", "-f", str(path))
    assert ran.code == exits.FAILED
    assert "bad went back to revision 000000000000, which serves: no model." in ran.err
    assert ran.out.endswith("good serves revision 3f2a1b0c9d8e\n")
    assert gpud("apply", "-f", str(path), "--no-wait").code == 0


def test_a_rollback_says_where_to_and_waits(gpud: Gpud, daemon: CannedDaemon) -> None:
    path = "/v1/endpoints/llm"
    daemon.on("POST", f"{path}/rollback", documents.endpoint("llm", **_rolling("canary")))
    daemon.on("GET", path, documents.endpoint("llm", **_rolling("completed")))
    ran = gpud("rollback", "llm", "3")
    assert ran.code == 0, ran.err
    (asked,) = daemon.asked("POST")
    assert asked.document == {"revision": "3"}
    assert ran.out == "llm is back at revision 3f2a1b0c9d8e.\n"
    ran = gpud("rollback", "llm", "--no-wait")
    assert ran.out == "llm is going back to revision 3f2a1b0c9d8e.\n"
