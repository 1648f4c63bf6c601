"""What the engine's and the registries' errors mean. The texts are those of engines 20.10 to 29."""

from __future__ import annotations

import pytest
import requests
from docker.errors import APIError, DockerException

from gpud.adapters.docker_client import DockerClients
from gpud.adapters.docker_errors import (
    engine_errors,
    is_missing_network,
    is_version_refused,
    launch_failed,
    pull_failed,
)
from gpud.core.endpoint import PinnedImage
from gpud.errors import (
    DependencyDown,
    GpudError,
    ImageNotFound,
    ImagePullFailed,
    LaunchFailed,
    NotFound,
    RegistryDenied,
)

IMAGE = PinnedImage(reference="app:1", pin="app@sha256:" + "a" * 64)
HOST = "unix:///var/run/docker.sock"
CLIENTS = DockerClients(HOST, call_timeout_s=1.0)
RUNC = "failed to create shim task: OCI runtime create failed: unable to start container process: "


def api_error(text: str, status: int = 500) -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("refused", response=response, explanation=text)


@pytest.mark.parametrize(
    ("text", "status", "permanent", "advice"),
    [
        (RUNC + 'exec: "/nope": stat /nope: no such file or directory: unknown', 400, True, "`command`"),
        (RUNC + 'exec: "serve": executable file not found in $PATH: unknown', 400, True, "`command`"),
        (RUNC + 'exec: "/etc/passwd": permission denied: unknown', 400, True, "`command`"),
        (RUNC + "exec /app: exec format error", 400, True, "processor"),
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', 500, True, "Toolkit"),
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=x", 500, True, "nvidia-ctk"),
        ("nvidia-container-cli: device error: GPU-1: unknown device", 500, True, "gpud gpu ls"),
        ("nvidia-container-cli: initialization error: driver not loaded", 500, False, "nvidia-smi"),
        ("unknown or invalid runtime name: nope", 400, True, "daemon.json"),
        ("Unknown runtime specified nope", 400, True, "daemon.json"),
        ("unable to find user foo: no matching entries in passwd file", 500, True, "USER"),
        ("No command specified", 400, True, "`command`"),
        ("Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", 400, True, "limits.cpus"),
        ("Requested CPUs are not available - requested 70, available: 0-1", 400, True, "CPUs"),
        ("Minimum memory limit allowed is 6MB", 400, True, "limits.memory_mib"),
        ('invalid mount config for type "bind": bind source path does not exist: /x', 400, True, "volume"),
        ("mkdir /var/lib/docker/overlay2/x: no space left on device", 500, False, "disk"),
        ("no available IPv4 addresses on this network's address pools: gpud", 500, False, "docker.subnet"),
        ("something nobody has heard of", 500, False, "tries again"),
        ("something wrong with the request", 400, True, "spec or image"),
    ],
)
def test_a_refused_start_says_why_what_to_do_and_whether_again_can_help(
    text: str, status: int, permanent: bool, advice: str
) -> None:
    error = launch_failed(api_error(text, status), IMAGE)
    assert isinstance(error, LaunchFailed)
    assert error.permanent is permanent
    assert advice in error.detail
    assert text in error.detail  # The engine's own words are never lost.


def test_a_missing_image_is_named_as_the_user_wrote_it() -> None:
    error = launch_failed(api_error("No such image: app@sha256:aaa", 404), IMAGE)
    assert isinstance(error, ImageNotFound)
    assert "app:1" in error.detail


def test_a_missing_network_is_told_from_other_refusals() -> None:
    assert is_missing_network(api_error("network gpud not found", 404))
    assert not is_missing_network(api_error("No such container: gpud-wk", 404))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("manifest for app:9 not found: manifest unknown: manifest unknown", ImageNotFound),
        ("manifest unknown: manifest unknown", ImageNotFound),
        ("name unknown: repository name not known to registry", ImageNotFound),
        ("unauthorized: authentication required", RegistryDenied),
        ('Head "https://r.io/v2/app/manifests/1": no basic auth credentials', RegistryDenied),
        (
            "pull access denied for app, repository does not exist or may require 'docker login'",
            RegistryDenied,
        ),
        ("write /var/lib/docker/tmp/x: no space left on device", ImagePullFailed),
        ('Get "https://r.io/v2/": dial tcp: lookup r.io: no such host', ImagePullFailed),
        ('Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused', ImagePullFailed),
        ("unexpected EOF", ImagePullFailed),
    ],
)
def test_a_registrys_refusal_names_image_and_registry(text: str, kind: type[GpudError]) -> None:
    error = pull_failed("r.io/app:9", text, registry="r.io")
    assert type(error) is kind
    assert "r.io/app:9" in error.detail
    assert text in error.detail


def test_a_full_disk_during_a_pull_is_told_as_that() -> None:
    error = pull_failed("app", "write /x: no space left on device", registry="docker.io")
    assert "disk of the engine is full" in error.detail


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (
            requests.ConnectionError("('Connection aborted.', PermissionError(13, 'Permission denied'))"),
            "group",
        ),
        (
            requests.ConnectionError("FileNotFoundError(2, 'No such file or directory')"),
            "socket does not exist",
        ),
        (requests.ConnectionError("ConnectionRefusedError(111, 'Connection refused')"), "not running"),
        (requests.ReadTimeout("Read timed out."), "in time"),
        (TimeoutError(), "in time"),
        (requests.exceptions.ChunkedEncodingError("Connection broken"), "broke the connection"),
        (DockerException("Error while fetching server API version"), "broke the connection"),
        (api_error("server is shutting down"), "server is shutting down"),
    ],
)
def test_an_engine_that_is_away_is_told_with_its_address_and_what_to_do(raised: Exception, says: str) -> None:
    with pytest.raises(DependencyDown, match=says) as down, engine_errors(CLIENTS):
        raise raised
    assert HOST in down.value.detail
    assert down.value.__cause__ is raised


def test_gpuds_own_errors_and_bugs_pass_unchanged() -> None:
    with pytest.raises(NotFound), engine_errors(CLIENTS):
        raise NotFound("no such thing")
    with pytest.raises(KeyError), engine_errors(CLIENTS):
        raise KeyError("a bug")


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("client version 1.41 is too old. Minimum supported API version is 1.44, please upgrade", True),
        ("client version 1.51 is too new. Maximum supported API version is 1.41", True),
        ("version of the image is too old", False),
    ],
)
def test_an_engine_that_was_replaced_by_another_release_is_noticed(text: str, refused: bool) -> None:
    assert is_version_refused(api_error(text, 400)) is refused
