"""What does the loaded model offer: vectors for texts, one computation at a time."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minilm.weights import Weights
from minilm.wordpiece import WordPiece

if TYPE_CHECKING:
    from minilm.encoder import Floats
    from minilm.server import Boot

CHUNK_TOKENS = 512
"""Computed in one piece; a short request waits for at most one such piece of a long one."""


class Gone(Exception):
    """Whoever asked has closed the connection, so nobody wants the rest."""


class Service:
    """The model, loaded and warm.

    Args:
        model_dir: Holds model.safetensors and vocab.txt.
        boot: Takes note of how long each part of the start took.
    """

    def __init__(self, model_dir: Path, boot: "Boot") -> None:
        # A matrix product on every core of the box would slow down the other workers more than it
        # speeds up this one. The libraries read this once, when they are loaded.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ.get("EMBEDDINGS_THREADS", "1"))
        weights = Weights(model_dir / "model.safetensors")
        boot.mark("weights")
        import numpy as np  # noqa: PLC0415 - after the disk has been set to work

        boot.mark("numpy")
        from minilm.encoder import TOKENS_MAX, Encoder  # noqa: PLC0415 - imports numpy

        self._concatenate = np.concatenate
        self._encoder = Encoder(weights)
        self._tokens = WordPiece(model_dir / "vocab.txt", tokens_max=TOKENS_MAX)
        self._turn = threading.Lock()
        boot.mark("model")
        self.embed(["warm-up"], wanted=lambda: True)
        boot.mark("warm_up")
        self.boot_ms = boot.phases

    def embed(self, texts: Sequence[str], *, wanted: Callable[[], bool]) -> tuple["Floats", int]:
        """Compute the vectors of some texts.

        Args:
            texts: At least one, none empty.
            wanted: Asked before each piece of work; false ends it.

        Returns:
            One row a text, and how many tokens the model read.

        Raises:
            Gone: `wanted` said no.
        """
        sentences = [self._tokens.encode(text) for text in texts]
        rows = []
        for chunk in _chunks(sentences):
            with self._turn:
                if not wanted():
                    raise Gone
                rows.append(self._encoder.embed(chunk))
        return self._concatenate(rows), sum(map(len, sentences))


def _chunks(sentences: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Cut a batch into pieces of at most `CHUNK_TOKENS`, in order."""
    chunk: list[list[int]] = []
    tokens = 0
    for ids in sentences:
        if chunk and tokens + len(ids) > CHUNK_TOKENS:
            yield chunk
            chunk, tokens = [], 0
        chunk.append(ids)
        tokens += len(ids)
    yield chunk
