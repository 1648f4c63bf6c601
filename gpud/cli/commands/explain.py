"""`gpud explain`: why an endpoint has the workers it has, and what would change that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.client import path_of
from gpud.cli.commands.starts import start_text
from gpud.cli.grammar import Argument, Command
from gpud.cli.output import facts, number_at, rows_at, size, span, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values

_NAME = Argument("name", "Name of the endpoint.", kind=grammar.ENDPOINT)

_REASONS = {
    "queue_delay": "its requests would wait too long with fewer",
    "request_count": "so many requests are there",
    "concurrency": "so many requests are there on average",
    "fixed": "its policy is a fixed number",
    "idle": "nobody calls it",
    "activation": "scale.activation_workers begins with so many",
    "panic": "its load jumped within seconds",
    "up_rate": "growth is limited",
    "down_delay": "it needed them moments ago",
    "idle_timeout": "its load of the last scale.idle_timeout_s had use for them",
    "warm_window": "a window of scale.warm_windows is open",
    "min_workers": "scale.min_workers keeps them",
    "max_workers": "scale.max_workers allows no more",
    "paused": "scale.max_workers is 0",
    "circuit_open": "its starts fail",
    "budget_spent": "its budget is spent",
    "no_data": "its load is not known",
}

_SHOWN = ("name", "condition", "desired", "scale_reason", "waits", "window", "forecast")


def _explain(values: Values, context: Context) -> int:
    path = path_of("v1", "endpoints", values.text("name"))
    endpoint = context.client.get(path)
    starts = rows_at(context.client.get(f"{path}/starts", {"limit": 1}), "items")
    if context.as_json:
        shown = {name: endpoint.get(name) for name in _SHOWN}
        context.print_json(shown | {"last_start": starts[0] if starts else None})
    else:
        context.print_text(_told(endpoint, starts, colour=context.colour))
    return exits.OK


def _told(endpoint: Mapping[str, object], starts: list[dict[str, object]], *, colour: bool) -> str:
    workers = rows_at(endpoint, "workers")
    ready = sum(worker.get("state") == "ready" for worker in workers)
    desired, reason = number_at(endpoint, "desired"), text_at(endpoint, "scale_reason")
    pairs = [
        ("Load", f"{text_at(endpoint, 'in_flight')} running, {text_at(endpoint, 'waiting')} waiting"),
        ("Wants", f"{desired:g} workers: {_REASONS.get(reason, reason)}"),
        ("Has", f"{ready} ready of {len(workers)}"),
    ]
    pairs += [("Window", _window(endpoint)), ("Forecast", _forecast(endpoint))]
    waits = rows_at(endpoint, "waits")
    for wait in waits:
        lines = [text_at(wait, "detail"), *_known(wait), text_at(wait, "remedy")]
        pairs.append((text_at(wait, "reason").replace("_", " ").capitalize(), "\n".join(lines)))
    if not waits:
        pairs.append(("Waits for", "nothing"))
    pairs += [("Last start", start_text(start)) for start in starts]
    return facts(pairs, colour=colour)


def _window(endpoint: Mapping[str, object]) -> str:
    """Which warm window is open, and until when; empty for an endpoint that has none."""
    if not isinstance(value_at(endpoint, "window"), dict):
        return ""
    changes_at = text_at(endpoint, "window", "changes_at")
    if text_at(endpoint, "window", "window"):
        kept = f"{number_at(endpoint, 'window', 'workers'):g} kept"
        return f"{text_at(endpoint, 'window', 'window')}: {kept} until {changes_at}"
    return f"none is open; the next opens at {changes_at}"


def _forecast(endpoint: Mapping[str, object]) -> str:
    """What acting on the gaps between requests would have done; empty before there was a forecast."""
    if not number_at(endpoint, "forecast", "forecasts"):
        return ""
    saved, added = (number_at(endpoint, "forecast", f"cold_starts_{word}") for word in ("saved", "added"))
    cost, spared = (number_at(endpoint, "forecast", f"gpu_s_{word}") for word in ("cost", "saved"))
    gaps = number_at(endpoint, "forecast", "forecasts")
    return (
        f"acted on in {gaps:,g} gaps, it would have saved {saved:,g} cold starts and added {added:,g},\n"
        f"held {span(cost)} more of a GPU and {span(spared)} less. Nothing acts on it."
    )


def _known(wait: Mapping[str, object]) -> list[str]:
    """What is known of a wait beyond its sentence: when it ends, how far it is."""
    known = value_at(wait, "facts")
    known = known if isinstance(known, dict) else {}
    lines = []
    for name, words in (
        ("until_in_s", "Expected in"),
        ("retry_in_s", "Next try in"),
        ("for_s", "Under way for"),
    ):
        if known.get(name):
            lines.append(f"{words} {span(number_at(known, name))}.")
    if known.get("bytes_total"):
        lines.append(
            f"{size(number_at(known, 'bytes_done'))} of {size(number_at(known, 'bytes_total'))} are here."
        )
    return lines


COMMANDS = (
    Command(
        ("explain",),
        "Say why an endpoint has the workers it has, and what would change it.",
        _explain,
        (_NAME,),
        examples=("gpud explain llm",),
    ),
)
