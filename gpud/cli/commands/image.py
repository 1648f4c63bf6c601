"""`gpud image`: what is on the box, and bringing more before anyone asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.cli import exits, grammar
from gpud.cli.client import path_of
from gpud.cli.exits import BadUsage, CommandFailed
from gpud.cli.grammar import Argument, Command, Option
from gpud.cli.output import Column, age, number_at, size, text_at, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.cli.context import Context
    from gpud.cli.values import Values


def _names(image: Mapping[str, object], field: str) -> list[str]:
    names = value_at(image, field)
    return [str(name) for name in names] if isinstance(names, list) else []


def _short_id(image: Mapping[str, object]) -> str:
    return text_at(image, "id").removeprefix("sha256:")[:12]


COLUMNS = (
    Column("IMAGE", lambda row: ", ".join(_names(row, "references")), shrink=True),
    Column("ID", _short_id),
    Column("SIZE", lambda row: size(number_at(row, "size_bytes")), right=True),
    Column("USED BY", lambda row: ", ".join(_names(row, "endpoints"))),
    Column("LAST USED", lambda row: age(text_at(row, "used_at")), right=True),
    Column("AGE", lambda row: age(text_at(row, "created_at")), right=True),
)


def _ls(_values: Values, context: Context) -> int:
    rows = context.client.items("/v1/images")
    context.print_table(COLUMNS, rows, empty="No images on the box yet.")
    return exits.OK


def _prewarm(values: Values, context: Context) -> int:
    body = {"image": values.text("image"), "registry": values.text("registry")}
    answer = context.client.call("POST", "/v1/images/prewarm", body)
    pin = text_at(answer, "pin")
    wait = values.flag("wait", default=True)
    if wait:
        from gpud.cli import waiting  # noqa: PLC0415 - listings do without

        if not waiting.until_pulled(context, pin):
            raise CommandFailed(
                f"The pull of {body['image']} ended and the image is not on the box.",
                todo="gpud events says why.",
            )
    if context.as_json:
        context.print_json(answer)
    else:
        context.print_text(f"{body['image']} {'is on the box' if wait else 'is being pulled'}: {pin}")
    return exits.OK


_GC_COLUMNS = (
    Column("IMAGE", lambda row: text_at(row, "pin"), shrink=True),
    Column("SIZE", lambda row: size(number_at(row, "size_bytes")), right=True),
    Column("LAST USED", lambda row: age(text_at(row, "used_at")), right=True),
    Column("WHAT", lambda row: text_at(row, "why")),
)


def _gc(values: Values, context: Context) -> int:
    dry_run = values.flag("dry-run")
    body = {"dry_run": dry_run, "everything": values.flag("all")}
    answer = context.client.call("POST", "/v1/images/gc", body)
    if context.as_json:
        context.print_json(answer)
        return exits.OK
    gone = "would go" if dry_run else "removed"
    rows = [{**row, "why": gone} for row in _rows(answer, "removed")]
    rows += [{**row, "why": f"kept: {row['why']}"} for row in _rows(answer, "kept")]
    context.print_table(_GC_COLUMNS, rows, empty="gpud has pulled no images that are still here.")
    freed, taken = size(number_at(answer, "freed_bytes")), size(number_at(answer, "taken_bytes"))
    context.note(f"{freed} of {taken} {gone}.")
    if over := number_at(answer, "over_bytes"):
        context.note(
            f"Images that are needed take {size(over)} more than the limits of [images] in gpud.toml."
        )
    return exits.OK


def _rows(answer: Mapping[str, object], field: str) -> list[dict[str, object]]:
    rows = value_at(answer, field)
    return [dict(row) for row in rows] if isinstance(rows, list) else []


def _rm(values: Values, context: Context) -> int:
    images = context.client.items("/v1/images")
    for given in values.texts("image"):
        pin = _pin_of(given, images)
        context.client.call("DELETE", path_of("v1", "images", pin))
        context.note(f"Removed {given}.")
    return exits.OK


def _pin_of(given: str, images: list[dict[str, object]]) -> str:
    """The pin of the image a reference, a pin or the start of an id means."""
    found = {
        text_at(image, "id")
        for image in images
        if given in (*_names(image, "references"), *_names(image, "pins"))
        or f"{given}:latest" in _names(image, "references")
        or (
            len(given) >= 4
            and text_at(image, "id").removeprefix("sha256:").startswith(given.removeprefix("sha256:"))
        )
    }
    if not found:
        raise CommandFailed(
            f"There is no image {given!r} on the box.",
            todo="gpud image ls shows those there are.",
            code=exits.NOT_FOUND,
        )
    if len(found) > 1:
        raise BadUsage(f"{given!r} means {len(found)} images.", todo="Say more of its id; see gpud image ls.")
    return found.pop()


COMMANDS = (
    Command(("image", "ls"), "List the images on the box and who uses them.", _ls),
    Command(
        ("image", "prewarm"),
        "Pull an image before anyone asks.",
        _prewarm,
        (Argument("image", "Image reference."),),
        (
            Option("registry", "Stored credential for a private image.", metavar="NAME"),
            Option("wait", "Wait until it is here.", kind=grammar.FLAG, negatable=True, default="waits"),
        ),
    ),
    Command(
        ("image", "gc"),
        "Remove images that nobody needs until the disk budget holds.",
        _gc,
        (),
        (
            Option("dry-run", "Only say what would go.", kind=grammar.FLAG),
            Option("all", "All that nobody needs, whether there is room or not.", kind=grammar.FLAG),
        ),
    ),
    Command(
        ("image", "rm"),
        "Remove images that no endpoint uses.",
        _rm,
        (Argument("image", "Reference, or the start of the id.", repeat=True),),
    ),
)
