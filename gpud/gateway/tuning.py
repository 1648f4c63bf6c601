"""Sets the process up so that nothing else takes the event loop from the data plane for long."""

from __future__ import annotations

import gc
import sys

SWITCH_INTERVAL_S = 0.0005
"""How soon a computing thread gives the interpreter up; the default of 5 ms shows as latency."""
_GC_THRESHOLDS = (10_000, 20, 50)


def tune_process() -> None:
    """Call once, when everything is built: what exists now is never looked at by the collector again.

    Whoever starts the process may leave the collector off until then; it is on afterwards.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()
