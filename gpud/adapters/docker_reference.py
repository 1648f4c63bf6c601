"""Takes image references apart."""

from __future__ import annotations

from dataclasses import dataclass

_KEEP_REPOSITORY = "gpud.internal/pinned"
"""Names the images gpud pulled, on this engine only; `.internal` is no registry anybody can own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReference:
    """A reference in its parts, as its user spelled them; `tag` and `digest` may be empty."""

    text: str
    repository: str
    tag: str
    digest: str

    @property
    def pin(self) -> str:
        """Repository and digest; empty without a digest."""
        return f"{self.repository}@{self.digest}" if self.digest else ""

    @property
    def registry(self) -> str:
        """Host of the registry it lives in."""
        first, slash, _ = self.repository.partition("/")
        is_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
        return first if is_host else "docker.io"


def split_reference(text: str) -> ImageReference:
    """Take `[host/]repository[:tag][@digest]` apart."""
    name, _, digest = text.partition("@")
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # The colon of a port, or none.
        head, tag = name, ""
    return ImageReference(text=text, repository=head, tag=tag, digest=digest)


def familiar_repository(repository: str) -> str:
    """Spell a repository as the engine does: what is at Docker Hub goes without its host."""
    for host in ("docker.io/", "index.docker.io/"):
        repository = repository.removeprefix(host)
    return repository.removeprefix("library/")


def keep_name(pin: str) -> tuple[str, str]:
    """Repository and tag of the name that keeps a pulled image from being pruned."""
    return _KEEP_REPOSITORY, pin.rpartition("@")[2].replace(":", "-")


def is_keep_name(reference: str) -> bool:
    """Whether a reference is such a name."""
    return reference.startswith(_KEEP_REPOSITORY + ":")
