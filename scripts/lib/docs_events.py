"""The page of events, from the list in the code."""

from __future__ import annotations

from pathlib import Path

from gpud.core.events import RECORDED

ROOT = Path(__file__).parents[2]

_HEAD = """\
# Events

What gpud records for people: `gpud events`, `GET /v1/events` (`?follow=true` streams them), and the
daemon's log, where each is a line with the same name. Every event has a time, and the endpoint and worker
it concerns.

This page is written by `scripts/docs events` from the code.

| event | means |
|---|---|
"""


def event_files() -> dict[Path, str]:
    rows = [f"| `{kind}` | {means} |" for kind, means in sorted(RECORDED.items())]
    return {ROOT / "docs/reference/events.md": _HEAD + "\n".join(rows) + "\n"}
