"""What every test of the command line needs: a daemon with prepared answers, and a way to run commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pytest

from gpud.cli.main import run
from tests.unit.cli.canned import CannedDaemon, serve_unix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(kw_only=True)
class Ran:
    """A command that ran."""

    code: int
    out: str
    err: str


class Gpud(Protocol):
    """Runs `gpud` with these words, in this process."""

    def __call__(self, *words: str) -> Ran: ...


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedDaemon]:
    canned = CannedDaemon()
    path = tmp_path / "api.sock"
    server = serve_unix(canned, path)
    monkeypatch.setenv("GPUD_SOCKET", str(path))
    yield canned
    server.shutdown()
    server.server_close()


@pytest.fixture
def gpud(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Gpud:
    for name in ("GPUD_URL", "GPUD_KEY", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def runs(*words: str) -> Ran:
        capfd.readouterr()
        code = run(list(words))
        out, err = capfd.readouterr()
        return Ran(code=code, out=out, err=err)

    return runs
