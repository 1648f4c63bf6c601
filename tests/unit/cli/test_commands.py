"""What each command asks of the API and shows of its answer."""

from __future__ import annotations

import io
import json
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from gpud.api.schemas.job_usage import JobUsageDocument
from gpud.cli import exits
from tests.unit.cli import documents
from tests.unit.cli.canned import CannedDaemon, Reply, Seen, json_reply, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.cli.conftest import Gpud


def _columns(line: str) -> list[str]:
    return line.split()


def test_endpoints_are_listed_with_state_scale_and_load(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.lists(
        "/v1/endpoints",
        documents.endpoint(),
        documents.endpoint("api", condition="waiting_for_gpu", waiting=4),
    )
    ran = gpud("endpoint", "ls")
    head, llm, api = ran.out.rstrip("\n").split("\n")
    assert _columns(head) == ["NAME", "STATE", "READY", "SCALE", "RUNNING", "WAITING", "GPUS", "IMAGE", "AGE"]
    assert _columns(llm) == ["llm", "ready", "1/2", "0-4", "3", "0", "1", "vllm/vllm-openai:v0.11", "2h"]
    assert "waiting for gpu" in api
    assert "\033" not in ran.out


def test_a_listing_as_json_is_the_api_s_own(gpud: Gpud, daemon: CannedDaemon) -> None:
    row = documents.endpoint()
    daemon.lists("/v1/endpoints", row)
    assert json.loads(gpud("--json", "endpoint", "ls").out) == {"items": [row], "next": None}


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("endpoint", "ls"), "/v1/endpoints"),
        (("worker", "ls"), "/v1/workers"),
        (("gpu", "ls"), "/v1/gpus"),
        (("image", "ls"), "/v1/images"),
        (("key", "ls"), "/v1/keys"),
        (("registry", "ls"), "/v1/registries"),
        (("budget", "ls"), "/v1/budgets"),
        (("webhook", "ls"), "/v1/webhooks"),
        (("webhook", "ls", "jobs"), "/v1/webhooks/jobs/deliveries"),
    ],
)
def test_an_empty_listing_leaves_stdout_empty_and_says_so_beside_it(
    words: tuple[str, ...], path: str, gpud: Gpud, daemon: CannedDaemon
) -> None:
    daemon.lists("/v1/standbys")
    daemon.lists(path)
    ran = gpud(*words)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith("No ")


def test_an_endpoint_is_shown_with_what_it_waits_for_its_last_error_and_its_workers(
    gpud: Gpud, daemon: CannedDaemon
) -> None:
    waits = [{"reason": "waiting_for_gpu", "detail": "All 2 GPUs are leased by llm.", "facts": {}}]
    daemon.on(
        "GET",
        "/v1/endpoints/llm",
        documents.endpoint(
            condition="waiting_for_gpu",
            waits=waits,
            last_error="The container exited with 1.",
            pull={"layers": 9, "layers_done": 3, "bytes_total": 1 << 30, "bytes_done": 1 << 29},
        ),
    )
    ran = gpud("endpoint", "get", "llm")
    assert "State       waiting for gpu\n" in ran.out
    assert "Waits for   All 2 GPUs are leased by llm.\n" in ran.out
    assert "Last error  The container exited with 1.\n" in ran.out
    assert "512.0 MiB of 1.0 GiB, 3 of 9 layers" in ran.out
    assert "GPUs        1 per worker, at least 24.0 GiB each, model H100\n" in ran.out
    assert "wk_aaaaaaaaaaaaaaaa  llm       ready" in ran.out


def test_scale_sends_only_what_was_said(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("PATCH", "/v1/endpoints/llm", documents.endpoint(spec=documents.spec(min_workers=1)))
    ran = gpud("endpoint", "scale", "llm", "--min", "1", "--idle-timeout", "5m")
    assert daemon.seen[0].document == {"scale": {"min_workers": 1, "idle_timeout_s": 300}}
    assert ran.out.startswith("llm: 1 to 4 workers")


def test_scale_without_a_change_is_bad_usage(gpud: Gpud, daemon: CannedDaemon) -> None:
    assert gpud("endpoint", "scale", "llm").code == exits.BAD_USAGE
    assert daemon.seen == []


def test_a_wrong_scale_is_told_by_the_option_s_name(gpud: Gpud, daemon: CannedDaemon) -> None:
    fields = {"scale.min_workers": "must be 0 to max_workers"}
    daemon.on("PATCH", "/v1/endpoints/llm", problem(422, "…", title="The spec is not valid", fields=fields))
    ran = gpud("endpoint", "scale", "llm", "--min", "9")
    assert ran.code == exits.BAD_USAGE
    assert ran.err == "gpud: The spec is not valid.\n  --min-workers  must be 0 to max_workers\n"


def test_several_endpoints_are_removed_in_turn(gpud: Gpud, daemon: CannedDaemon) -> None:
    for name in ("a", "b"):
        daemon.on("DELETE", f"/v1/endpoints/{name}", Reply(status=204))
    ran = gpud("endpoint", "rm", "a", "b", "c")
    assert [seen.path for seen in daemon.seen] == [f"/v1/endpoints/{name}" for name in "abc"]
    assert ran.code == exits.NOT_FOUND


def test_workers_are_filtered_by_endpoint_and_gone_ones_are_shown_on_request(
    gpud: Gpud, daemon: CannedDaemon
) -> None:
    daemon.lists("/v1/workers", documents.worker(), documents.worker("wk_b", state="gone", cause="idle"))
    daemon.lists("/v1/standbys")
    ran = gpud("worker", "ls", "--endpoint", "llm", "--all")
    assert daemon.seen[0].query == {"endpoint": "llm", "include_gone": "true"}
    gone = next(line for line in ran.out.split("\n") if "wk_b" in line)
    assert _columns(gone)[2] == "gone"
    assert "idle" in gone


def test_a_worker_is_shown_with_its_container_and_its_end(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/workers/wk_a", documents.worker(exit_code=137, detail="Killed for memory."))
    ran = gpud("worker", "get", "wk_a")
    assert "Exit code  137\n" in ran.out
    assert "Container  gpud-wk_aaaaaaaaaaaaaaaa\n" in ran.out
    assert "Detail     Killed for memory.\n" in ran.out


@pytest.mark.parametrize(("words", "query"), [((), {}), (("--force",), {"force": "true"})])
def test_a_worker_is_drained_or_killed(
    words: tuple[str, ...], query: dict[str, str], gpud: Gpud, daemon: CannedDaemon
) -> None:
    daemon.on("DELETE", "/v1/workers/wk_a", json_reply(documents.worker(state="draining"), 202))
    assert gpud("worker", "stop", "wk_a", *words).code == 0
    assert daemon.seen[0].query == query


def test_gpus_are_listed_with_their_holder_and_the_reason_of_the_unwell(
    gpud: Gpud, daemon: CannedDaemon
) -> None:
    daemon.lists(
        "/v1/gpus",
        documents.gpu(0, endpoint="llm", worker_id="wk_a", used_mib=71_000),
        documents.gpu(1, used_mib=None, health="quarantined", reason="512 MiB were not returned"),
    )
    out = gpud("gpu", "ls").out
    assert "69.3 of 79.6 GiB" in out
    assert out.rstrip("\n").endswith("5555 quarantined: 512 MiB were not returned")


def test_the_start_of_a_gpu_s_uuid_is_enough_when_only_one_fits(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.lists("/v1/gpus", documents.gpu(0), documents.gpu(1))
    uuid = documents.gpu(1)["uuid"]
    daemon.on("POST", f"/v1/gpus/{uuid}/cordon", documents.gpu(1, health="cordoned"))
    assert gpud("gpu", "cordon", "gpu-1").code == 0
    assert daemon.asked("POST")[0].path == f"/v1/gpus/{uuid}/cordon"
    assert gpud("gpu", "cordon", "GPU-").code == exits.BAD_USAGE
    assert gpud("gpu", "uncordon", "GPU-9").code == exits.NOT_FOUND


_IMAGE = {
    "id": "sha256:" + "ab" * 32,
    "pins": ["sha256:" + "ab" * 32, "repo/name@sha256:" + "cd" * 32],
    "references": ["repo/name:latest", "repo/name:v1"],
    "size_bytes": 9_123_456_789,
    "created_at": documents.ago(days=9),
    "used_at": documents.ago(hours=3),
    "endpoints": ["llm"],
}


def test_budgets_are_listed_and_a_spent_one_says_what_it_refuses(gpud: Gpud, daemon: CannedDaemon) -> None:
    spent = {
        "endpoint": "llm",
        "key": "",
        "label": "",
        "per": "day",
        "state": "spent",
        "amount_micros": None,
        "amount_gpu_ms": 10_000,
        "used_gpu_ms": 12_345,
        "used_percent": 123.46,
        "until": "2026-11-23T00:00:00.000Z",
        "detail": "It is spent.",
        "refuses": "Requests are refused.",
    }
    of_key = {
        **spent,
        "endpoint": "",
        "key": "key_a",
        "label": "team",
        "state": "within",
        "amount_micros": 50_000_000,
        "used_micros": 1_250_000,
        "used_percent": 2.5,
        "detail": "",
        "refuses": "",
    }
    answer = {"items": [spent, of_key], "next": None, "currency": "EUR", "check_s": 15.0}
    daemon.on("GET", "/v1/budgets", answer)
    ran = gpud("budget", "ls")
    _, first, second = (line.split("  ") for line in ran.out.splitlines())
    cells = [word.strip() for word in first if word.strip()]
    assert cells[:5] == ["endpoint llm", "day", "spent", "12 GPU s", "10 GPU s"]
    assert cells[5:] == ["123.5", "2026-11-23 00:00"]
    cells = [word.strip() for word in second if word.strip()]
    assert cells[:6] == ["key key_a team", "day", "within", "1.250000 EUR", "50.000000 EUR", "2.5"]
    assert "It is spent. Requests are refused." in ran.err
    assert json.loads(gpud("--json", "budget", "ls").out) == answer


def test_images_are_listed_with_their_size_and_users(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.lists("/v1/images", _IMAGE)
    row = gpud("image", "ls").out.split("\n")[1]
    assert row.startswith("repo/name:latest, repo/name:v1  abababababab  8.5 GiB")
    assert _columns(row)[-3:] == ["llm", "3h", "9d"]


@pytest.mark.parametrize(
    "given", ["repo/name:v1", "repo/name", "abab", "sha256:abab", "repo/name@sha256:" + "cd" * 32]
)
def test_an_image_is_removed_by_any_of_its_names(given: str, gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.lists("/v1/images", _IMAGE)
    daemon.on("DELETE", "/v1/images/sha256%3A" + "ab" * 32, Reply(status=204))
    assert gpud("image", "rm", given).code == 0


def test_a_prewarm_waits_until_the_image_is_here(gpud: Gpud, daemon: CannedDaemon) -> None:
    pin = "repo/name@sha256:" + "cd" * 32
    pulls = iter([0, 1 << 19, None])

    def pulling(_seen: object) -> Reply:
        done = next(pulls)
        if done is None:
            daemon.lists("/v1/images", _IMAGE)
            return json_reply({"items": [], "next": None})
        running = {"pin": pin, "layers": 2, "layers_done": 1, "bytes_total": 1 << 20, "bytes_done": done}
        return json_reply({"items": [running], "next": None})

    daemon.on("POST", "/v1/images/prewarm", json_reply({"image": "repo/name", "pin": pin}, 202))
    daemon.on("GET", "/v1/pulls", pulling)
    ran = gpud("image", "prewarm", "repo/name", "--registry", "ghcr")
    assert daemon.seen[0].document == {"image": "repo/name", "registry": "ghcr"}
    assert ran.err == "image: pulling 1.0 MiB, 0 % done\nimage: pulling 1.0 MiB, 50 % done\n"
    assert ran.out == f"repo/name is on the box: {pin}\n"


def test_a_prewarm_whose_pull_fails_says_so(gpud: Gpud, daemon: CannedDaemon) -> None:
    running = {"pin": "p", "layers": 0, "layers_done": 0, "bytes_total": 0, "bytes_done": 0}
    pulls = iter([[running], []])
    daemon.on("POST", "/v1/images/prewarm", json_reply({"image": "x", "pin": "p"}, 202))
    daemon.on("GET", "/v1/pulls", lambda _seen: json_reply({"items": next(pulls), "next": None}))
    daemon.lists("/v1/images")
    ran = gpud("image", "prewarm", "x")
    assert ran.code == exits.FAILED
    assert "gpud events says why" in ran.err


_KEY = {
    "id": "key_a",
    "label": "ci",
    "scopes": ["invoke:llm", "read"],
    "disabled": False,
    "created_at": documents.ago(days=3),
    "expires_at": None,
    "last_used_at": documents.ago(minutes=2),
}


def test_a_key_s_token_alone_goes_to_stdout(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", "/v1/keys", json_reply({**_KEY, "token": "gpud_a_secret"}, 201))
    ran = gpud(
        "key",
        "create",
        "--label",
        "ci",
        "--scope",
        "invoke:llm",
        "--scope",
        "read",
        "--expires",
        "2030-01-01",
    )
    assert ran.out == "gpud_a_secret\n"
    assert "not shown again" in ran.err
    assert daemon.seen[0].document == {
        "label": "ci",
        "scopes": ["invoke:llm", "read"],
        "expires_at": "2030-01-01T00:00:00.000Z",
    }


def test_a_key_without_a_scope_may_only_invoke(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", "/v1/keys", json_reply({**_KEY, "token": "t"}, 201))
    gpud("key", "create")
    assert daemon.seen[0].document["scopes"] == ["invoke:*"]


def test_keys_are_listed_with_their_state(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.lists(
        "/v1/keys",
        _KEY,
        {**_KEY, "id": "key_b", "disabled": True},
        {**_KEY, "id": "key_c", "expires_at": "2020-01-01T00:00:00.000Z", "last_used_at": None},
    )
    rows = [_columns(line) for line in gpud("key", "ls").out.rstrip("\n").split("\n")[1:]]
    assert [row[1] for row in rows] == ["active", "disabled", "expired"]
    assert rows[2][-2] == "never"


def test_a_registry_s_password_comes_from_stdin_and_is_not_shown(
    gpud: Gpud, daemon: CannedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {"name": "ghcr", "host": "ghcr.io", "username": "me", "created_at": documents.ago()}
    daemon.on("PUT", "/v1/registries/ghcr", stored)
    monkeypatch.setattr(sys, "stdin", io.StringIO("s3cret word\n"))
    ran = gpud("registry", "login", "ghcr", "--host", "ghcr.io", "-u", "me")
    assert daemon.seen[0].document == {"host": "ghcr.io", "username": "me", "password": "s3cret word"}
    assert "s3cret" not in ran.out + ran.err
    assert "--registry ghcr" in ran.out


def test_a_registry_login_without_a_password_is_bad_usage(
    gpud: Gpud, daemon: CannedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert gpud("registry", "login", "ghcr", "--host", "ghcr.io", "-u", "me").code == exits.BAD_USAGE
    assert gpud("registry", "login", "ghcr").code == exits.BAD_USAGE
    assert daemon.seen == []


_LINE = {
    "gpu_ms": 3_723_004,
    "wall_ms": 3_723_004,
    "billed_s": 3725,
    "sessions": 12,
    "cost_micros": 2_585_419,
}


_UNUSED = {
    "phases_ms": {"idle": 3_000, "unleased": 4, "active": 9},
    "energy_mj": 4_500_000_000,
    "energy_cost_micros": 312_500,
}


def _usage(price: int, *keys: str) -> dict[str, object]:
    cost = _LINE["cost_micros"] if price else 0
    return {
        "by": "worker",
        "since": None,
        "until": documents.ago(),
        "currency": "EUR",
        "gpu_hour_micros": price,
        "items": [{**_LINE, **_UNUSED, "cost_micros": cost, "key": key} for key in keys],
        "total": {**_LINE, "cost_micros": cost},
    }


def test_usage_is_told_to_the_millisecond_and_the_micro(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/usage", _usage(2_500_000, "wk_a", "wk_b"))
    ran = gpud(
        "usage",
        "--by",
        "worker",
        "--endpoint",
        "llm",
        "--since",
        "2026-11-21",
        "--until",
        "2026-11-22T01:00:00+01:00",
    )
    assert daemon.seen[0].query == {
        "by": "worker",
        "endpoint": "llm",
        "since": "2026-11-21T00:00:00.000Z",
        "until": "2026-11-22T00:00:00.000Z",
    }
    head, first, _, total = ran.out.rstrip("\n").split("\n")
    assert head.startswith("WORKER")
    assert head.endswith("POWER EUR")
    assert _columns(first) == [
        *("wk_a", "3,723.004", "3,723.004", "12", "3,725", "2.585419"),
        *("3.004", "1.2500", "0.312500"),
    ]
    assert total.startswith("total")
    assert ran.err == ""


def test_usage_without_a_price_says_where_to_set_it(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/usage", _usage(0, "llm"))
    ran = gpud("usage")
    assert "prices.gpu_hour_micros" in ran.err
    assert "total" not in ran.out


def test_a_wrong_moment_is_told_with_the_right_spellings(gpud: Gpud, daemon: CannedDaemon) -> None:
    ran = gpud("usage", "--since", "yesterday")
    assert ran.code == exits.BAD_USAGE
    assert "--since: 'yesterday' is not a time." in ran.err
    assert daemon.seen == []


def test_an_audit_that_fails_lists_the_breaches_and_exits_with_1(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/audit", {"ok": True, "breaches": []})
    assert gpud("audit").code == 0
    daemon.on("GET", "/v1/audit", {"ok": False, "breaches": ["GPU-1 was leased twice."]})
    ran = gpud("audit")
    assert ran.code == exits.FAILED
    assert ran.out == "The books do not hold:\n  GPU-1 was leased twice.\n"


def test_the_status_tells_each_part_and_its_exit_code_whether_all_is_well(
    gpud: Gpud, daemon: CannedDaemon
) -> None:
    parts = {"store": "", "engine": "", "gpus": ""}
    statuses = {"200": 41, "499": 1}
    gateway = {
        "connections": 3,
        "requests": 2,
        "statuses": statuses,
        "loop_lag_ms": 1,
        "loop_lag_ms_max": 20.4,
    }
    system = {"ready": True, "version": "0.1.0", "gpu_source": "static", "uptime_s": 7384.2, "parts": parts}
    system["gateway"] = gateway
    daemon.on("GET", "/v1/system", system)
    ran = gpud("status")
    assert ran.code == 0
    assert "nothing about them is verified" in ran.out
    assert "Gateway     3 connections, 2 requests\n" in ran.out
    assert "Answered    41 with 200, 1 with 499\n" in ran.out
    assert "Loop lag    20.4 ms at worst in the last minute\n" in ran.out
    down = {**system, "ready": False, "parts": {**parts, "engine": "Docker does not answer. Start it."}}
    daemon.on("GET", "/v1/system", down)
    ran = gpud("status")
    assert ran.code == exits.FAILED
    assert "Engine      Docker does not answer. Start it.\n" in ran.out
    assert gpud("status", "--json").code == exits.FAILED


def _event(seq: int, kind: str, **facts: object) -> dict[str, object]:
    return {
        "seq": seq,
        "kind": kind,
        "at": documents.ago(minutes=3),
        "endpoint": "llm",
        "worker_id": "",
        "facts": facts,
    }


def test_past_events_are_shown_oldest_first(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.lists(
        "/v1/events",
        _event(2, "worker.start_failed", exit_code=1, detail="It ended."),
        _event(1, "worker.started", gpu_uuids=["GPU-1", "GPU-2"]),
    )
    first, second = gpud("events", "-n", "2", "--endpoint", "llm").out.rstrip("\n").split("\n")
    assert daemon.seen[0].query == {"endpoint": "llm", "limit": "2", "order": "newest"}
    assert first.endswith("worker.started              llm  gpu_uuids=GPU-1,GPU-2")
    assert second.endswith('worker.start_failed         llm  exit_code=1 detail="It ended."')


def test_events_are_followed_as_they_come(gpud: Gpud, daemon: CannedDaemon) -> None:
    def both(seen: object) -> Reply:
        query = getattr(seen, "query", {})
        if "follow" not in query:
            return json_reply({"items": [_event(7, "worker.started")], "next": None})
        return Reply(headers={"Content-Type": "text/event-stream"}, body=stream())

    def stream() -> Iterator[bytes]:
        text = json.dumps(_event(8, "worker.ready")).encode()
        yield b": hello\n\nid: 8\nevent: worker.ready\nda"
        yield b"ta: " + text + b"\r\n\r\n"

    daemon.on("GET", "/v1/events", both)
    ran = gpud("events", "-f", "--json")
    assert [json.loads(line)["seq"] for line in ran.out.rstrip("\n").split("\n")] == [7, 8]
    assert daemon.seen[1].headers["last-event-id"] == "7"
    assert ran.code == exits.UNREACHABLE
    assert "stopping" in ran.err


def test_a_followed_event_is_shown_before_the_next_one_comes(
    gpud: Gpud, daemon: CannedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = threading.Event()

    def stream() -> Iterator[bytes]:
        yield b"data: " + json.dumps(_event(1, "worker.ready")).encode() + b"\n\n"
        assert shown.wait(5), "the first event was kept back"
        yield b"data: " + json.dumps(_event(2, "worker.gone")).encode() + b"\n\n"

    daemon.on(
        "GET",
        "/v1/events",
        lambda seen: (
            Reply(body=stream()) if "follow" in seen.query else json_reply({"items": [], "next": None})
        ),
    )
    real = sys.stdout.flush

    def flush() -> None:
        real()
        if len(daemon.seen) > 1:
            shown.set()

    monkeypatch.setattr(sys.stdout, "flush", flush)
    assert gpud("events", "-f").out.count("worker.") == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_completion_script(shell: str, gpud: Gpud) -> None:
    assert "gpud __complete" in gpud("completion", shell).out


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["end"], ["endpoint"]),
        (["endpoint", "s"], ["scale", "starts"]),
        (["endpoint", "get", ""], ["llm", "api"]),
        (["endpoint", "get", "l"], ["llm"]),
        (["endpoint", "get", "llm", ""], []),
        (["endpoint", "rm", "llm", ""], ["llm", "api"]),
        (["usage", "--by", "d"], ["day"]),
        (["usage", "--endpoint", ""], ["llm", "api"]),
        (["deploy", "x", "--no-w"], ["--no-wait"]),
        (["deploy", "x", "--", "--w"], []),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["nothing", ""], []),
    ],
)
def test_words_are_completed(words: list[str], found: list[str], gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.lists("/v1/endpoints", documents.endpoint("llm"), documents.endpoint("api"))
    assert gpud("__complete", *words).out.split() == found


def test_completion_without_a_daemon_offers_nothing_and_stays_quiet(
    gpud: Gpud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUD_SOCKET", "/nowhere")
    ran = gpud("__complete", "endpoint", "get", "")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def _entry(seq: int, **more: object) -> dict[str, object]:
    return {
        "seq": seq,
        "at": "2026-11-21T14:00:00.000Z",
        "request_id": "req_a",
        "caller": "key_a",
        "source": "192.0.2.7",
        "operation": "put_endpoint",
        "method": "PUT",
        "path": "/v1/endpoints/llm",
        "subject": "endpoints/llm",
        "status": 200,
        "before": "ab" * 32,
        "after": "cd" * 32,
        **more,
    }


def test_the_audit_log_is_shown_with_the_newest_call_last(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/audit-log", {"items": [_entry(2, before="", status=201), _entry(1)], "next": None})
    ran = gpud("audit-log", "--caller", "key_a", "-n", "2")
    _, first, second = ran.out.splitlines()
    assert first.split()[0] == "1"
    assert "abababab > cdcdcdcd" in first
    assert "- > cdcdcdcd" in second
    assert daemon.seen[0].query == {"caller": "key_a", "limit": "2"}


def test_the_audit_log_is_exported_page_by_page_as_json_lines(gpud: Gpud, daemon: CannedDaemon) -> None:
    def page(seen: Seen) -> Reply:
        first = seen.query["after"] == "0"
        items = [_entry(1), _entry(2)] if first else [_entry(3)]
        return json_reply({"items": items, "next": "x" if first else None})

    daemon.on("GET", "/v1/audit-log", page)
    ran = gpud("audit-log", "--after", "0")
    assert [json.loads(line)["seq"] for line in ran.out.splitlines()] == [1, 2, 3]
    assert [seen.query["after"] for seen in daemon.seen] == ["0", "2"]


def test_usage_is_exported_job_by_job(gpud: Gpud, daemon: CannedDaemon) -> None:
    job = dict.fromkeys(JobUsageDocument.model_fields, 1) | {"id": "j1", "reason": "", "started_at": None}

    def page(seen: Seen) -> Reply:
        first = "cursor" not in seen.query
        rows = [job] if first else []
        return json_reply({"currency": "EUR", "items": rows, "next": "x" if first else None})

    daemon.on("GET", "/v1/usage/jobs", page)
    head, line = gpud("usage", "--export", "csv", "--jobs", "--since", "1d").out.splitlines()
    assert head.split(",") == list(job)
    assert line.split(",") == ["j1", "1", "1", "1", "", "1", "1", "", *["1"] * (len(job) - 8)]
    (line,) = gpud("usage", "--export", "jsonl", "--jobs").out.splitlines()
    assert json.loads(line) == job
    assert gpud("usage", "--jobs").code == 2


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_usage_is_exported_segment_by_segment(kind: str, gpud: Gpud, daemon: CannedDaemon) -> None:
    segment = {
        "worker_id": "wk_a",
        "seq": 0,
        "phase": "active",
        "billable": True,
        "endpoint": "llm",
        "revision": "r",
        "gpu_uuids": ["GPU-1", "GPU-2"],
        "share_ppm": 1_000_000,
        "start": "2026-11-21T14:00:00.000Z",
        "duration_ns": 5,
        "boot_id": "b",
        "start_boot_ns": 1,
        "end_boot_ns": 6,
        "close_reason": "one, two",
        "estimated": False,
        "keys": {"key_a": 3, "(public)": 2},
    }

    def page(seen: Seen) -> Reply:
        first = "cursor" not in seen.query
        return json_reply({"items": [segment | {"seq": 0 if first else 1}], "next": "x" if first else None})

    daemon.on("GET", "/v1/usage/segments", page)
    lines = gpud("usage", "--export", kind, "--endpoint", "llm").out.splitlines()
    assert [seen.query.get("cursor") for seen in daemon.seen] == [None, "x"]
    if kind == "jsonl":
        assert [json.loads(line) for line in lines] == [segment, segment | {"seq": 1}]
        return
    assert lines[0].split(",") == list(segment)
    start = '"one, two",false,key_a=3 (public)=2'
    assert lines[1].startswith("wk_a,0,active,true,llm,r,GPU-1 GPU-2,1000000,")
    assert lines[1].endswith(start)
