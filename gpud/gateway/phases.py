"""How far a request has come; plain numbers, because they are compared for every piece of a body."""

from __future__ import annotations

ARRIVED, MODEL, HELD, CONNECTING, SENT, ANSWERING, TUNNEL, OVER = range(8)
