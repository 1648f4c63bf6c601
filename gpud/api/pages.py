"""Pages for people: the API's reference and one for each problem. They load nothing and run no script."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import TYPE_CHECKING, Any

from gpud.api.advice import ADVICE, problem_kinds
from gpud.api.reference import heading, operations_by_tag, shapes
from gpud.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpud.api.reference import FieldText, OperationText, ShapeText

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--accent:#0a7a5a}
body{font:16px/1.55 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1.5rem}
h1,h2,h3{line-height:1.2}h2{margin-top:2.5rem;border-bottom:1px solid var(--line);padding-bottom:.3rem}
a{color:var(--accent)}code,pre{font:.9em ui-monospace,monospace}nav a{margin-right:1rem}
details{border:1px solid var(--line);border-radius:.4rem;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer}summary b{display:inline-block;min-width:4.5rem;color:var(--accent)}
summary span{opacity:.75;margin-left:.8rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;margin:.6rem 0}
th,td{border-bottom:1px solid var(--line);padding:.3rem .6rem;text-align:left;vertical-align:top}
th{background:var(--soft);font-weight:600}
"""

_MORE_LINKS = (
    '<a href="#shapes">shapes</a><a href="#problems">problems</a><a href="/v1/openapi.json">openapi.json</a>'
)

_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")


def page_headers() -> dict[str, str]:
    """Headers that let a page use its own style and nothing else."""
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy}


def docs_page(document: dict[str, Any]) -> str:
    """Render the API's reference."""
    tags = list(operations_by_tag(document))
    links = "".join(f'<a href="#{escape(tag)}">{escape(tag)}</a>' for tag, _, _ in tags)
    info = document["info"]
    parts = [
        f"<h1>gpud API <small>{escape(info['version'])}</small></h1>",
        *(f"<p>{_with_code(block)}</p>" for block in info["description"].split("\n\n")),
        f'<nav aria-label="Sections">{links}{_MORE_LINKS}</nav>',
    ]
    for tag, text, operations in tags:
        parts.append(f'<h2 id="{escape(tag)}">{escape(heading(tag))}</h2><p>{_with_code(text)}</p>')
        parts += [_operation(operation) for operation in operations]
    parts.append('<h2 id="shapes">Shapes</h2><p>The JSON objects that requests and answers are made of.</p>')
    parts += [_shape(shape) for shape in shapes(document)]
    parts.append('<h2 id="problems">Problems</h2>' + _problem_table())
    return _page("gpud API", "".join(parts))


def problem_page(slug: str) -> str:
    """Render the page of one problem.

    Raises:
        NotFound: There is no such problem.
    """
    title, status, means, do = _problem(slug)
    return _page(
        title,
        f"<h1>{escape(title)}</h1><p><code>{escape(slug)}</code>, status {status}</p>"
        f"<h2>What it means</h2><p>{_with_code(means)}</p>"
        f'<h2>What to do</h2><p>{_with_code(do)}</p><p><a href="/docs#problems">All problems</a></p>',
    )


def problem_text(slug: str) -> str:
    """Write one problem as plain text.

    Raises:
        NotFound: There is no such problem.
    """
    title, status, means, do = _problem(slug)
    return f"{title} ({slug}, status {status})\n\nWhat it means\n{means}\n\nWhat to do\n{do}\n"


def _problem(slug: str) -> tuple[str, int, str, str]:
    for kind in problem_kinds():
        if kind.slug == slug:
            advice = ADVICE[slug]
            return kind.title, kind.status, advice.means, advice.do
    raise NotFound(f"There is no problem named {slug[:100]!r}. /docs#problems lists them.")


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    )


def _operation(operation: OperationText) -> str:
    need = "no key" if operation.scope == "open" else f"scope {operation.scope}"
    body = f"<p>Body: {_kind(operation.body)}</p>" if operation.body else ""
    answers = _table(
        ("Status", "Body", "When"),
        ((escape(a.status), _kind(a.shape), _with_code(a.text)) for a in operation.answers),
    )
    return (
        f"<details><summary><b>{escape(operation.method)}</b><code>{escape(operation.path)}</code>"
        f"<span>{escape(operation.summary)} ({need})</span></summary>"
        f"{_fields(operation.parameters)}{body}{answers}</details>"
    )


def _shape(shape: ShapeText) -> str:
    words = (
        f"<p>{', '.join(f'<code>{escape(word)}</code>' for word in shape.words)}</p>" if shape.words else ""
    )
    name = escape(shape.name)
    return f'<h3 id="shape-{name}">{name}</h3><p>{_with_code(shape.text)}</p>{words}{_fields(shape.fields)}'


def _fields(fields: Iterable[FieldText]) -> str:
    rows = [
        (
            f"<code>{escape(field.name)}</code>",
            _kind(field.kind) + (", required" if field.required else ""),
            f"<code>{escape(field.default)}</code>" if field.default else "",
            _with_code(field.text),
        )
        for field in fields
    ]
    return _table(("Name", "Type", "Default", "What"), rows) if rows else ""


def _problem_table() -> str:
    return _table(
        ("Status", "Type", "Title"),
        (
            (
                str(kind.status),
                f'<a href="/problems/{escape(kind.slug)}">{escape(kind.slug)}</a>',
                escape(kind.title),
            )
            for kind in problem_kinds()
        ),
    )


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _kind(kind: str) -> str:
    """Link the name of a shape, which alone begins with a capital letter."""
    last = kind.rpartition(" ")[2]
    if kind.endswith(last) and last[:1].isupper() and last.isalnum():
        return f'{escape(kind[: -len(last)])}<a href="#shape-{escape(last)}">{escape(last)}</a>'
    return escape(kind)


def _with_code(text: str) -> str:
    """Escape text, and show what stands between backquotes as code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))
