"""A support bundle holds what helps, and no secret of any kind in any spelling."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from gpud import __version__
from gpud.adapters.sqlite.store import open_store
from gpud.adapters.system import SystemClock
from gpud.cli import exits
from gpud.core.records import EndpointSaved
from gpud.jobs.worker_tokens import WorkerTokens
from gpud.ports.images import RegistryCredential
from gpud.ports.webhooks import Webhook
from gpud.settings import load_settings
from tests.contract.store_rig import an_endpoint
from tests.unit.cli import documents
from tests.unit.cli.canned import CannedDaemon, Reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.conftest import Gpud

BEARER = "a bearer's token"
SECRETS = {
    "an environment's value": 'pl"ain/värde 17',
    "an old revision's value": "formerly-used-value",
    "a value on a command line": "cmd-s3cr3t-value",
    "a registry's password": "correct horse battery",
    "a webhook's address": "https://hooks.example/T7/B9/k3yInThePath",
    "a webhook's secret": "a secret of somebody's own choice",
    "an API key": "gpud_abcdefghijkl_" + "a2" * 26,
    "the user's own key": "gpud_mmmmmmmmmmmm_" + "b3" * 26,
    BEARER: "Zm9vYmFyYmF6cXV4",
    "a private key": "MHcCAQEEIBkg4LVWM9nuwNSk3yByxZpYRTBnVZJfJ3sVWZiFsvKZ",
}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    """A data directory with stored secrets; those, and what only it knows."""
    found = dict(SECRETS)

    async def fill() -> None:
        store = await open_store(tmp_path / "data", SystemClock())
        password = RegistryCredential(host="ghcr.io", username="u", password=SECRETS["a registry's password"])
        await store.access.put_registry("ghcr", password, 1)
        hook = Webhook(id="whk_1", url=SECRETS["a webhook's address"], types=("*",), created_at_ms=1)
        await store.webhooks.add(hook, SECRETS["a webhook's secret"])
        endpoint = an_endpoint(env=(("OLD", SECRETS["an old revision's value"]),))
        await store.fleet.record([EndpointSaved(endpoint=endpoint)])
        now = replace(endpoint, revision="rv_2", spec=replace(endpoint.spec, env=()))  # type: ignore[arg-type]
        await store.fleet.record([EndpointSaved(endpoint=now)])
        found["a worker's token"] = WorkerTokens(store.worker_secret).of("wk_a")  # type: ignore[arg-type]
        await store.close()

    asyncio.run(fill())
    found["the master key"] = (tmp_path / "data/master.key").read_bytes().hex()
    (tmp_path / "gpud.toml").write_text(
        f'[paths]\ndata_dir = "{tmp_path}/data"\nrun_dir = "{tmp_path}/run"\n[gpus]\nsource = "none"\n'
        f'[docker]\nhost = "unix://{tmp_path}/docker.sock"\n[server]\nlisten = "127.0.0.1:0"\n'
        f'tls_cert = "{tmp_path}/cert.pem"\ntls_key = "{tmp_path}/key.pem"\n'
    )
    (tmp_path / "key.pem").write_text(
        f"-----BEGIN EC PRIVATE KEY-----\n{SECRETS['a private key']}\n-----END EC PRIVATE KEY-----\n"
    )
    found[BEARER] = f"Bearer {SECRETS[BEARER]}"
    said = json.dumps({"event": "registry.refused", "said": list(found.values())}, ensure_ascii=False)
    (tmp_path / "gpud.log").write_text(f"{said}\nthe line that helps\n")
    return found


@pytest.fixture
def answering(daemon: CannedDaemon, data: dict[str, str], tmp_path: Path) -> CannedDaemon:
    """A daemon whose documents hold those secrets wherever a user could have put them."""
    endpoint = documents.endpoint()
    spec = {
        "name": "llm",
        "env": {"SOME_VALUE": data["an environment's value"]},
        "command": ["--api-key", data["a value on a command line"], "--model", "qwen"],
    }
    daemon.on("GET", "/v1/system", {"version": __version__, "ready": True, "parts": {}})
    settings = load_settings(tmp_path / "gpud.toml")
    daemon.on("GET", "/v1/settings", json.loads(settings.model_dump_json()))
    for path in ("/v1/standbys", "/v1/gpus", "/v1/images", "/v1/endpoints/llm/starts"):
        daemon.lists(path)
    daemon.lists("/v1/endpoints", {**endpoint, "spec": spec, "last_error": next(iter(data.values()))})
    daemon.lists("/v1/endpoints/llm/revisions", {"revision": "rv_1", "spec": spec})
    daemon.lists("/v1/workers", {"id": "wk_a", "detail": " ".join(data.values())})
    daemon.lists("/v1/events", {"kind": "worker.failed", "facts": {"log_tail": "\n".join(data.values())}})
    daemon.lists("/v1/logs", {"at": "now", "stream": "stdout", "text": "said " + " ".join(data.values())})
    daemon.on("GET", "/metrics", Reply(body=b"gpud_ready 1\n"))
    return daemon


def _unpacked(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {entry.name: (tar.extractfile(entry) or io.BytesIO()).read() for entry in tar}


def test_no_secret_of_any_kind_is_anywhere_in_a_bundle_and_what_helps_is(
    gpud: Gpud,
    answering: CannedDaemon,
    data: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del answering
    to, config = tmp_path / "case.tar.gz", str(tmp_path / "gpud.toml")
    monkeypatch.setenv("SHELL_SECRET", "of the caller's shell")
    ran = gpud(
        "support-bundle", str(to), "--config", config, "--log", str(tmp_path / "gpud.log"), "--worker-logs"
    )
    assert ran.code == exits.OK, ran.err
    whole = gzip.decompress(to.read_bytes())
    for what, secret in {**data, **SECRETS, "the shell's": "of the caller's shell"}.items():
        spellings = (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
        for spelled in (*spellings, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()):
            assert spelled.encode() not in whole, what
    files = _unpacked(to)
    assert to.stat().st_mode & 0o777 == 0o600
    assert b"the line that helps" in files["case/daemon.log"]
    assert b"SOME_VALUE" in files["case/endpoints.json"]
    assert b"qwen" in files["case/endpoints.json"]
    assert b"said" in files["case/workers/wk_a.log"]
    for name in (name for name in files if name.endswith(".json")):
        json.loads(files[name])
    assert {check["check"] for check in json.loads(files["case/doctor.json"])["checks"]} >= {"engine", "port"}
    assert json.loads(files["case/sizes.json"])["files"]["gpud.db"]


def test_workers_say_nothing_in_a_bundle_unless_asked_for(
    gpud: Gpud, answering: CannedDaemon, tmp_path: Path
) -> None:
    ran = gpud("support-bundle", str(tmp_path / "c.tar.gz"), "--config", str(tmp_path / "gpud.toml"))
    assert ran.code == exits.OK
    assert not any(seen.path == "/v1/logs" for seen in answering.asked("GET"))
    assert not any("workers/" in name for name in _unpacked(tmp_path / "c.tar.gz"))


def test_with_the_daemon_down_there_is_a_bundle_that_says_what_is_missing(
    gpud: Gpud, data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del data
    monkeypatch.delenv("GPUD_SOCKET", raising=False)
    ran = gpud("support-bundle", str(tmp_path / "c.tar.gz"), "--config", str(tmp_path / "gpud.toml"))
    assert ran.code == exits.OK
    assert "daemon does not answer" in ran.err
    files = _unpacked(tmp_path / "c.tar.gz")
    assert b"Missing: The daemon does not answer" in files["c/README.txt"]
    assert "c/doctor.json" in files
    again = gpud("support-bundle", str(tmp_path / "c.tar.gz"), "--config", str(tmp_path / "gpud.toml"))
    assert (again.code, "exists" in again.err) == (exits.BAD_USAGE, True)
