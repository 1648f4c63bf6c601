"""Runs image registries on loopback: Debian's docker-registry as a process, open or with a password."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.rig import leftovers
from tests.rig.asking import Answer, ask

if TYPE_CHECKING:
    from tests.rig.engine import Engine

_START_TIMEOUT_S = 15.0
_LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")
_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


class RegistryFailed(Exception):
    """A registry could not be started, or refused what it was told."""


def registry_obstacle() -> str | None:
    """Why no registry can run on this host, or None when one can."""
    missing = [name for name in ("docker-registry", "htpasswd") if not shutil.which(name)]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: apt-get install docker-registry apache2-utils)"
    return None


class Registry:
    """A registry with its own storage; engines take a loopback one without TLS.

    Args:
        username: With `password`, what clients must log in with; open to all when empty.
        password: See `username`.
    """

    def __init__(self, *, username: str = "", password: str = "") -> None:
        self.username = username
        self.password = password
        self.port = 0
        self._folder = Path(tempfile.mkdtemp(prefix="gpud-rig-registry-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Host and port, the first part of the references of images kept here."""
        return f"127.0.0.1:{self.port}"

    @property
    def auth(self) -> dict[str, str] | None:
        """The credentials as the Docker SDK takes them, None where none are needed."""
        return {"username": self.username, "password": self.password} if self.username else None

    def start(self) -> Self:
        """Starts the registry; after a `halt` on the same port, with what it held.

        Raises:
            RegistryFailed: It did not listen in time; the message has the log's end.
        """
        if obstacle := registry_obstacle():
            raise RegistryFailed(obstacle)
        log = self._folder / "log"
        log.write_text("")
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(self._write_config())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        process = self._process
        leftovers.wait_until(
            lambda: _LISTENING.search(log.read_text()) or process.poll() is not None,
            timeout_s=_START_TIMEOUT_S,
        )
        listening = _LISTENING.search(log.read_text())
        if not listening or process.poll() is not None:
            self.halt()
            raise RegistryFailed(f"docker-registry does not listen; its log ends:\n{log.read_text()[-2000:]}")
        self.port = int(listening[1])
        return self

    def halt(self) -> None:
        """Ends the process and keeps the images: an outage that `start` ends."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ends the registry and removes what it held."""
        self.halt()
        shutil.rmtree(self._folder, ignore_errors=True)

    def push(self, engine: Engine, image: str, repository: str, tag: str = "latest") -> str:
        """Pushes an image that is on the engine; returns its reference by digest.

        Raises:
            RegistryFailed: The engine or the registry refused.
        """
        target = f"{self.address}/{repository}"
        engine.client.images.get(image).tag(target, tag=tag)
        digest = ""
        lines = engine.client.api.push(target, tag=tag, stream=True, decode=True, auth_config=self.auth)
        for line in lines:
            if "error" in line:
                raise RegistryFailed(f"pushing {target}:{tag}: {line['error']}")
            digest = line.get("aux", {}).get("Digest", digest)
        engine.client.images.remove(f"{target}:{tag}")  # So that a pull of it is a real one.
        return f"{target}@{digest}"

    def delete(self, reference: str) -> None:
        """Deletes a manifest; `reference` is what `push` returned.

        Raises:
            RegistryFailed: The registry refused.
        """
        repository, _, digest = reference.partition("/")[2].partition("@")
        answer = self._ask("DELETE", f"/v2/{repository}/manifests/{digest}")
        if answer.status != 202:
            raise RegistryFailed(f"deleting {reference}: {answer.status} {answer.body!r}")

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository, none when it does not exist."""
        found: dict[str, Any] = self._ask("GET", f"/v2/{repository}/tags/list").json()
        return sorted(found.get("tags") or [])

    def _ask(self, method: str, path: str) -> Answer:
        url = f"http://{self.address}{path}"
        basic = (self.username, self.password) if self.username else None
        return ask(url, method=method, headers={"Accept": _MANIFEST_TYPE}, basic_auth=basic)

    def _write_config(self) -> Path:
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self._folder / "images")},
                "delete": {"enabled": True},
            },
            "http": {"addr": self.address},
        }
        if self.username:
            made = subprocess.run(
                ["htpasswd", "-Bbn", self.username, self.password], capture_output=True, check=True
            )
            (self._folder / "htpasswd").write_bytes(made.stdout)
            htpasswd = {"realm": "gpud-rig", "path": str(self._folder / "htpasswd")}
            config["auth"] = {"htpasswd": htpasswd}
        path = self._folder / "config.yml"
        path.write_text(json.dumps(config))  # JSON is YAML.
        return path
