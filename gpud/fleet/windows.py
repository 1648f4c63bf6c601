"""Knows which warm windows are open, and asks the calendar again only at their edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.core.windows import NO_WINDOW, OpenWindow, WarmWindow
from gpud.errors import InvalidSpec

if TYPE_CHECKING:
    from gpud.core.endpoint import EndpointSpec
    from gpud.core.ids import EndpointName
    from gpud.fleet.state import FleetState
    from gpud.ports.calendar import Calendar
    from gpud.ports.time import Clock

_ASKED_AGAIN_AFTER_MS = 3_600_000
"""The wall clock may be set back behind what was computed; the box may get new time zone data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """The answer for some windows, and the span of wall time within which it holds."""

    windows: tuple[WarmWindow, ...]
    open: WarmWindow | None
    edge_ms: int | None
    from_ms: int
    until_ms: int


class WindowWatch:
    """What the windows of each endpoint ask for; cheap to ask each round.

    Args:
        calendar: Of cron expressions and zones.
        clock: Its wall time decides, as people's clocks do.
        state: Of the fleet; told which windows are open.
    """

    def __init__(self, calendar: Calendar, clock: Clock, state: FleetState) -> None:
        self._calendar = calendar
        self._clock = clock
        self._state = state
        self._known: dict[EndpointName, _Known] = {}

    def refuse_faults(self, spec: EndpointSpec) -> None:
        """Check what the core cannot: expressions and zones.

        Raises:
            InvalidSpec: One is not usable; `fields` names each.
        """
        faults = {
            f"scale.warm_windows.{number}.{field}": fault
            for number, window in enumerate(spec.scale.warm_windows)
            for field, fault in self._calendar.faults(window).items()
        }
        if faults:
            listed = "; ".join(f"{path}: {why}" for path, why in faults.items())
            raise InvalidSpec(f"The endpoint spec cannot be used: {listed}.", fields=faults)

    def observe(self, now_s: float) -> None:
        """Tell the fleet's state which windows are open; called each round."""
        at_ms = self._clock.at_ms()
        self._state.windows_open = {
            name: self.look(name, endpoint.spec, at_ms=at_ms, now_s=now_s)
            for name, endpoint in self._state.endpoints.items()
            if endpoint.spec.scale.warm_windows
        }

    def look(self, name: EndpointName, spec: EndpointSpec, *, at_ms: int, now_s: float) -> OpenWindow:
        """Say what an endpoint's windows ask for at a moment.

        Args:
            name: Of the endpoint.
            spec: Its present one.
            at_ms: Unix wall time.
            now_s: Loop time of the same moment.
        """
        windows = spec.scale.warm_windows
        if not windows:
            return NO_WINDOW
        known = self._known.get(name)
        if known is None or known.windows != windows or not known.from_ms <= at_ms < known.until_ms:
            known = self._known[name] = self._ask(windows, at_ms)
        edge_s = None if known.edge_ms is None else now_s + max(known.edge_ms - at_ms, 0) / 1000
        return OpenWindow(window=known.open, edge_s=edge_s)

    def _ask(self, windows: tuple[WarmWindow, ...], at_ms: int) -> _Known:
        spans = [(window, self._calendar.span(window, at_ms)) for window in windows]
        edges_ms = [span.edge_ms for _window, span in spans if span.edge_ms is not None]
        edge_ms = min(edges_ms, default=None)
        until_ms = at_ms + _ASKED_AGAIN_AFTER_MS
        return _Known(
            windows=windows,
            open=max((w for w, span in spans if span.is_open), key=lambda w: w.workers, default=None),
            edge_ms=edge_ms,
            from_ms=at_ms,
            until_ms=until_ms if edge_ms is None else min(edge_ms, until_ms),
        )
