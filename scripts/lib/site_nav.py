"""Puts the pages of docs/adr into the site's navigation, so that a new one needs no line in mkdocs.yml."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:  # noqa: ANN401 - mkdocs is not in the environment that checks this
    """Called by mkdocs once the configuration is read."""
    folder = Path(config["docs_dir"])
    pages = sorted((folder / "adr").glob("*.md"))
    decisions = [{_title(page): page.relative_to(folder).as_posix()} for page in pages]
    config["nav"].append({"Decisions": decisions})
    return config


def _title(page: Path) -> str:
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
