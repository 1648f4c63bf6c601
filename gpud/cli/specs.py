"""Makes endpoint specs for the API from options and TOML files, and names faults as the user did."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gpud.cli.exits import BadUsage, CommandFailed
from gpud.cli.parsing import duration_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gpud.cli.context import Context
    from gpud.cli.grammar import Argument, Option
    from gpud.cli.values import Values

Spec = dict[str, object]

ENDPOINTS_KEY = "endpoint"
"""A file with several endpoints holds them as `[[endpoint]]` tables."""


def read_file(path: str) -> list[Spec]:
    """Read the endpoint specs of a TOML file; `-` is stdin.

    Raises:
        BadUsage: It cannot be read, or is not TOML, or holds no endpoint.
    """
    import tomllib  # noqa: PLC0415 - 10 ms, and only for files

    label = "stdin" if path == "-" else path
    try:
        if path == "-":
            document = tomllib.loads(sys.stdin.read())
        else:
            with open(path, "rb") as file:  # noqa: PTH123 - pathlib costs a command 9 ms
                document = tomllib.load(file)
    except FileNotFoundError:
        raise BadUsage(f"{label} does not exist.", todo="Check the path given with -f.") from None
    except UnicodeDecodeError as error:
        raise BadUsage(f"{label} is not valid TOML: it is not UTF-8 text.") from error
    except OSError as error:
        raise BadUsage(f"{label} cannot be read: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:
        raise BadUsage(f"{label} is not valid TOML: {error}.", todo="Nothing was changed.") from error
    return _specs_of(document, label)


def _specs_of(document: Spec, label: str) -> list[Spec]:
    several = document.get(ENDPOINTS_KEY)
    if several is None:
        specs = [document]
    elif not isinstance(several, list) or not all(isinstance(spec, dict) for spec in several):
        raise BadUsage(f"{label}: `endpoint` must be [[endpoint]] tables, one for each endpoint.")
    elif len(document) > 1:
        beside = ", ".join(sorted(name for name in document if name != ENDPOINTS_KEY))
        raise BadUsage(
            f"{label} has both [[endpoint]] tables and fields of a single endpoint: {beside}.",
            todo="Move those fields into a table.",
        )
    else:
        specs = several
    for number, spec in enumerate(specs, 1):
        if not isinstance(spec.get("name"), str) or not spec["name"]:
            which = f"endpoint {number} of {label}" if len(specs) > 1 else label
            raise BadUsage(f"{which} names no endpoint.", todo='It needs a line such as name = "llm".')
    return specs


def from_options(
    values: Values, context: Context, parts: Iterable[Option | Argument], base: Spec | None = None
) -> Spec:
    """Put what the options say into a spec; what they leave out keeps the file's or the API's value."""
    spec: Spec = dict(base or {})
    for part in parts:
        if not part.field or part.name not in values:
            continue
        if part.name == "env":
            _put(spec, part.field, {**_table(spec.get("env")), **_environment(values.pairs("env"), context)})
        elif part.name == "volume":
            _put(spec, part.field, [volume(text) for text in values.texts("volume")])
        elif part.name == "warm-window":
            _put(spec, part.field, [warm_window(text) for text in values.texts("warm-window")])
        else:
            _put(spec, part.field, values.value(part.name))
    return spec


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _put(spec: Spec, path: str, value: object) -> None:
    *sections, name = path.split(".")
    for section in sections:
        inner = dict(_table(spec.get(section)))
        spec[section] = inner
        spec = inner
    spec[name] = value


def _environment(pairs: Mapping[str, str | None], context: Context) -> dict[str, str]:
    """Fill in `--env NAME` without a value from the caller's own environment."""
    given: dict[str, str] = {}
    for name, text in pairs.items():
        found = context.environment(name) if text is None else text
        if found is None:
            raise BadUsage(
                f"--env {name}: the variable is not set here, and no value is given.",
                todo=f"Say --env {name}=VALUE, or export {name} first.",
            )
        given[name] = found
    return given


def volume(text: str) -> Spec:
    """Read `source:target` or `source:target:ro`.

    Raises:
        BadUsage: It is neither.
    """
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts) or parts[2:] not in ([], ["ro"], ["rw"]):
        raise BadUsage(
            f"--volume: {text!r} is not SOURCE:TARGET[:ro].",
            todo="Such as models:/models, or /srv/models:/models:ro.",
        )
    return {"source": parts[0], "target": parts[1], "read_only": parts[2:] == ["ro"]}


def warm_window(text: str) -> Spec:
    """Read `CRON for LENGTH` or `CRON to CRON`, with `in ZONE` and `xWORKERS` behind it.

    Raises:
        BadUsage: It is neither.
    """
    words = text.split()
    window: Spec = {"start": " ".join(words[:5])}
    rest = words[5:]
    while rest:
        match rest:
            case ["for", length, *more] if (seconds := duration_s(length)) is not None:
                window["duration_s"] = seconds
            case ["to", *more] if len(more) >= 5:
                window["end"], more = " ".join(more[:5]), more[5:]
            case ["in", zone, *more]:
                window["time_zone"] = zone
            case [count, *more] if count[:1] == "x" and count[1:].isdigit():
                window["workers"] = int(count[1:])
            case _:
                break
        rest = more
    if rest or ("duration_s" in window) == ("end" in window):
        raise BadUsage(
            f"--warm-window: {text!r} is not CRON for LENGTH [in ZONE] [xWORKERS].",
            todo="Such as '0 8 * * MON-FRI for 10h in Europe/Berlin x2', or '0 8 * * * to 0 18 * * *'.",
        )
    return window


def with_options_named(failure: CommandFailed, parts: Iterable[Option | Argument]) -> CommandFailed:
    """The same failure, with the API's field paths replaced by the options that set them."""
    known = {part.field: part for part in parts if part.field}
    if "gpus.count" in known:
        known["gpus"] = known["gpus.count"]  # A fault of what was asked for altogether.
    failure.fields = {_label(path, known): why for path, why in failure.fields.items()}
    return failure


def _label(path: str, known: Mapping[str, Option | Argument]) -> str:
    head = path
    while head:
        part = known.get(head)
        if part is not None:
            spelled = f"--{part.name}" if hasattr(part, "short") else part.name.upper()
            more = path[len(head) :].lstrip(".").split(".")
            numbered = [f"#{int(word) + 1}" if word.isdigit() else word for word in more if word]
            return " ".join([spelled, *numbered])
        head = head.rpartition(".")[0]
    return path
