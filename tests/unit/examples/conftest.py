"""The demo model, prepared once as for its image and started on this machine's own Python."""

import fcntl
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "config/examples/embeddings"
sys.path.insert(0, str(EXAMPLE))  # the server's own package, as its image has it


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """What torch and transformers make of a few sentences; how, is written in the file."""
    text = Path(__file__).with_name("test_embeddings_reference.json").read_text()
    return dict(json.loads(text))


@pytest.fixture(scope="session")
def embeddings_context() -> Path:
    """The image's build context for this Python; fetched once, then found again."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    directory = ROOT / "var" / "cache" / f"embeddings-{version}"
    command = [sys.executable, str(EXAMPLE / "prepare"), str(directory), "--python", version]
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may run these tests at once; the second finds what the first has fetched.
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory


class EmbeddingsServer:
    """The server as a process of its own, listening on a free port of the loopback."""

    def __init__(self, context: Path) -> None:
        command = [sys.executable, "-sS", str(context / "serve.py")]
        env = {"PORT": "0", "MODEL_DIR": str(context / "model"), "PYTHONPATH": str(context / "site")}
        self.process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.ready = json.loads(line)
        self.port: int = self.ready["port"]

    def stop(self) -> str:
        """End it, if it has not ended yet, and return what it still said on standard output."""
        self.process.terminate()
        out, err = self.process.communicate(timeout=20)
        assert not re.search(r"Traceback", err), err
        return out


@pytest.fixture(scope="module")
def embeddings_server(embeddings_context: Path) -> Iterator[EmbeddingsServer]:
    """One server for a whole test module."""
    server = EmbeddingsServer(embeddings_context)
    yield server
    assert "server.stopped" in server.stop()


@pytest.fixture
def own_embeddings_server(embeddings_context: Path) -> Iterator[EmbeddingsServer]:
    """A server that the test may end itself."""
    server = EmbeddingsServer(embeddings_context)
    yield server
    server.stop()
