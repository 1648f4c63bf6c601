"""Adds up what the engine tells about a pull, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpud.ports.images import PullProgress

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATUSES = (
    "Pulling fs layer",
    "Waiting",
    "Downloading",
    "Verifying Checksum",
    "Download complete",
    "Extracting",
    "Pull complete",
    "Already exists",
)


@dataclass(slots=True)
class _Layer:
    """High-water marks: a download that starts over is no progress until it gets further."""

    bytes_total: int = 0
    bytes_done: int = 0
    bytes_unpacked: int = 0
    downloaded: bool = False
    done: bool = False


class PullMeter:
    """What is known of one pull; totals grow as the engine learns of layers and their sizes."""

    def __init__(self) -> None:
        self._layers: dict[str, _Layer] = {}

    @property
    def progress(self) -> PullProgress:
        """The sums over the layers known so far; layers that were here already count no bytes."""
        layers = self._layers.values()
        return PullProgress(
            layers=len(layers),
            layers_done=sum(layer.done for layer in layers),
            bytes_total=sum(layer.bytes_total for layer in layers),
            bytes_done=sum(layer.bytes_done for layer in layers),
        )

    def feed(self, item: Mapping[str, Any]) -> bool:
        """Take in one message of the engine; tell whether the pull came further by it.

        Waiting, and counting down to another try, is not getting further.
        """
        status, layer_id = item.get("status"), item.get("id")
        if status not in _STATUSES or not layer_id:
            return False
        before = self._marks()
        layer = self._layers.setdefault(layer_id, _Layer())
        detail = item.get("progressDetail") or {}
        # Some engines count the seconds of an unpacking: time that passes is no progress.
        current = int(detail.get("current") or 0) if detail.get("units") != "s" else 0
        match status:
            case "Downloading":
                layer.bytes_total = max(layer.bytes_total, int(detail.get("total") or 0), current)
                layer.bytes_done = max(layer.bytes_done, current)
            case "Download complete":
                layer.bytes_done, layer.downloaded = layer.bytes_total, True
            case "Extracting":
                layer.bytes_done, layer.downloaded = layer.bytes_total, True
                layer.bytes_unpacked = max(layer.bytes_unpacked, current)
            case "Pull complete" | "Already exists":
                layer.bytes_done, layer.downloaded, layer.done = layer.bytes_total, True, True
            case _:
                pass  # Pulling fs layer, Waiting, Verifying Checksum: it is known, no more.
        return self._marks() != before

    def _marks(self) -> tuple[int, int, int, int, int]:
        layers = self._layers.values()
        return (
            len(layers),
            sum(layer.bytes_done for layer in layers),
            sum(layer.bytes_unpacked for layer in layers),
            sum(layer.downloaded for layer in layers),
            sum(layer.done for layer in layers),
        )
