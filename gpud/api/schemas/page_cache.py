"""What is read ahead of a start, as a user says it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gpud.api.schemas.base import Document
from gpud.core.page_cache import PATTERNS_MAX, PageCachePolicy

_DEFAULT = PageCachePolicy()


class PageCacheSection(Document):
    """What is read from disk ahead of a start, or while a worker is parked. A change applies at once."""

    record: bool = _DEFAULT.record
    """Note which parts of the image's files the first start of a revision reads, and read them ahead of the
    next ones. Needs a gpud that may read the engine's layers: root, and an engine on this machine."""
    files: Annotated[
        tuple[Annotated[str, Field(min_length=2, max_length=4096)], ...], Field(max_length=PATTERNS_MAX)
    ] = ()
    """Patterns of paths inside the container, below the targets of its volumes, such as `/models/**`: these
    files are read after what was recorded."""
    budget_mib: Annotated[int, Field(ge=1, le=1 << 24)] = _DEFAULT.budget_mib
    """Most that is read ahead of one start."""


def page_cache_section(policy: PageCachePolicy) -> PageCacheSection:
    """Show a policy."""
    return PageCacheSection.model_construct(
        record=policy.record, files=policy.files, budget_mib=policy.budget_mib
    )
