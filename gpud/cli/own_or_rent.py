"""`gpud usage --compare`: the box's use against a list of prices."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpud.cli import exits
from gpud.cli.exits import BadUsage
from gpud.cli.output import Column, money, number_at, rows_at, text_at, value_at
from gpud.core.own_or_rent import Offer, compare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context

_BOX_WIDE = ("kwh_micros", "overhead_percent")
_NS_PER_MS = 1_000_000
_UNKNOWN = "(no longer in the box)"


def show(context: Context, path: str, *, since: str, until: str) -> int:
    """Print, for each model of GPU, what its use cost owned and would cost rented.

    Args:
        context: Of the command.
        path: Of the price list.
        since: RFC 3339.
        until: RFC 3339; empty for now.
    """
    if not since:
        raise BadUsage("--compare needs a period.", todo="Add --since, such as --since 30d.")
    currency, offers = read_offers(Path(path))
    report = context.client.get("/v1/usage", {"by": "gpu", "since": since, "until": until})
    names = {text_at(gpu, "uuid"): text_at(gpu, "name") for gpu in context.client.items("/v1/gpus")}
    rows = compared(report, names, offers)
    if context.as_json:
        context.print_json(
            {"currency": currency, "since": since, "until": report.get("until"), "items": rows}
        )
        return exits.OK
    context.print_table(_columns(currency), rows, empty="The box has no GPU, and none was used.")
    missing = [text_at(row, "model") for row in rows if not row.get("cheapest")]
    if missing:
        context.note(f"{path} has no price for {', '.join(missing)}.")
    return exits.OK


def read_offers(path: Path) -> tuple[str, tuple[Offer, ...]]:
    """Read a price list: its currency, and its offers in order.

    Raises:
        BadUsage: It cannot be read, or lacks something.
    """
    import tomllib  # noqa: PLC0415 - only a comparison needs it

    example = "config/own-or-rent.toml is an example with every field."
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        whole = {name: document[name] for name in _BOX_WIDE}
        offers = tuple(Offer(**whole, **entry) for entry in document["gpus"])
        currency = str(document["currency"])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadUsage(f"{path} cannot be read: {error}.", todo=example) from None
    except (KeyError, TypeError) as error:
        raise BadUsage(f"{path} is no price list: {error}.", todo=example) from None
    for offer in offers:
        facts = {name: value for name, value in asdict(offer).items() if name != "gpu"}
        wrong = [name for name, value in facts.items() if type(value) is not int or value < 0]
        if wrong or not offer.life_years or not isinstance(offer.gpu, str):
            what = ", ".join(wrong) or "life_years"
            raise BadUsage(
                f"{path}: {what} of {offer.gpu!r} must be a whole number, not negative; life_years, not 0.",
                todo=example,
            )
    return currency, offers


def compared(
    report: Mapping[str, object], names: Mapping[str, str], offers: tuple[Offer, ...]
) -> list[dict[str, Any]]:
    """Make a row for each model.

    Args:
        report: Usage by GPU, for a period with a beginning.
        names: Models of the GPUs in the box, by UUID.
        offers: The first that fits applies.
    """
    from datetime import datetime  # noqa: PLC0415 - help does without

    begin, end = (datetime.fromisoformat(text_at(report, name)) for name in ("since", "until"))
    period_ns = round((end - begin).total_seconds() * 1000) * _NS_PER_MS
    used_ms = {text_at(line, "key"): int(number_at(line, "gpu_ms")) for line in rows_at(report, "items")}
    models: dict[str, list[str]] = {}
    for uuid in sorted(names.keys() | used_ms.keys()):
        models.setdefault(names.get(uuid, _UNKNOWN), []).append(uuid)
    rows = []
    for model, uuids in sorted(models.items()):
        used_ns = sum(used_ms.get(uuid, 0) for uuid in uuids) * _NS_PER_MS
        row: dict[str, Any] = {"model": model, "gpus": len(uuids), "used_ms": used_ns // _NS_PER_MS}
        row["period_ms"] = period_ns // _NS_PER_MS
        offer = next((one for one in offers if one.fits(model)), None)
        if offer is not None:
            found = compare(offer, gpus=len(uuids), period_ns=period_ns, used_ns=used_ns)
            row |= asdict(found) | {"own_micros": found.own_micros, "cheapest": found.cheapest}
        rows.append(row)
    return rows


def _columns(currency: str) -> tuple[Column, ...]:
    return (
        Column("GPU", lambda row: text_at(row, "model"), shrink=True),
        Column("COUNT", lambda row: text_at(row, "gpus"), right=True),
        Column("USED H", lambda row: f"{number_at(row, 'used_ms') / 3_600_000:,.1f}", right=True),
        Column("USED", _share, right=True),
        Column(f"OWN {currency}", lambda row: _money(row, "own_micros"), right=True),
        Column("OF IT POWER", lambda row: _money(row, "electricity_micros"), right=True),
        Column("RENT USED", lambda row: _money(row, "rent_used_micros"), right=True),
        Column("RENT ALWAYS", lambda row: _money(row, "rent_always_micros"), right=True),
        Column("CHEAPEST", lambda row: text_at(row, "cheapest")),
        Column("OWN FROM", _break_even, right=True),
    )


def _share(row: Mapping[str, object]) -> str:
    whole = number_at(row, "period_ms") * number_at(row, "gpus")
    return f"{100 * number_at(row, 'used_ms') / whole:.1f}%" if whole else ""


def _money(row: Mapping[str, object], name: str) -> str:
    return money(number_at(row, name))[:-4] if name in row else ""


def _break_even(row: Mapping[str, object]) -> str:
    if not row.get("cheapest"):
        return ""
    percent = value_at(row, "break_even_percent")
    return f"{percent}%" if isinstance(percent, int) else "never"
