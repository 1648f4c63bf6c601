"""Image references in their parts."""

from __future__ import annotations

import pytest

from gpud.adapters.docker_reference import (
    familiar_repository,
    is_keep_name,
    keep_name,
    split_reference,
)

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "repository", "tag", "digest", "registry"),
    [
        ("python", "python", "", "", "docker.io"),
        ("python:3.12", "python", "3.12", "", "docker.io"),
        ("team/app:1", "team/app", "1", "", "docker.io"),
        ("localhost/app", "localhost/app", "", "", "localhost"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000/app", "", "", "127.0.0.1:5000"),
        ("127.0.0.1:5000/team/app:1", "127.0.0.1:5000/team/app", "1", "", "127.0.0.1:5000"),
        (f"ghcr.io/app@{DIGEST}", "ghcr.io/app", "", DIGEST, "ghcr.io"),
        (f"ghcr.io/app:1@{DIGEST}", "ghcr.io/app", "1", DIGEST, "ghcr.io"),
    ],
)
def test_a_reference_comes_apart(text: str, repository: str, tag: str, digest: str, registry: str) -> None:
    parts = split_reference(text)
    assert (parts.repository, parts.tag, parts.digest) == (repository, tag, digest)
    assert parts.registry == registry
    assert parts.pin == (f"{repository}@{digest}" if digest else "")


@pytest.mark.parametrize(
    "spelling", ["python", "library/python", "docker.io/library/python", "docker.io/python"]
)
def test_every_spelling_of_a_docker_hub_repository_is_the_same(spelling: str) -> None:
    assert familiar_repository(spelling) == "python"


def test_the_name_that_keeps_a_pulled_image_is_its_own() -> None:
    repository, tag = keep_name(f"ghcr.io/app@{DIGEST}")
    assert tag == "sha256-" + "a" * 64
    assert len(tag) <= 128  # Longer tags are refused.
    assert is_keep_name(f"{repository}:{tag}")
    assert not is_keep_name("ghcr.io/app:1")
