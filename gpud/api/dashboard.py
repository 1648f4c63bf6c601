"""Serves the dashboard: one page and its hashed files, which `scripts/build-web` puts into the package.

The page itself is open and tells nothing; everything it shows it asks of the API with a key that its user
types in. The key is kept by the browser's tab and sent in a header, so there is no cookie that another site
could ride on.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from gpud.api.operations import Operation, Scope
from gpud.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).resolve().parent.parent / "web"
_PAGE = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOR_GOOD = "public, max-age=31536000, immutable"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The page runs its own script and style, talks to its own daemon, and turns no text into markup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """One file as it is sent."""

    content_type: str
    plain: bytes
    packed: bytes
    """The same with gzip."""
    tag: str
    """Of its content, for a browser that asks whether it changed."""


class Bundle:
    """The built dashboard; each file is read and packed when it is first asked for.

    Args:
        folder: With the page, and its files in `assets`.
    """

    def __init__(self, folder: Path) -> None:
        page = folder / _PAGE
        assets = folder / "assets"
        self._paths: Mapping[str, Path] = {
            **({_PAGE: page} if page.is_file() else {}),
            **({path.name: path for path in assets.iterdir()} if assets.is_dir() else {}),
        }
        self._files: dict[str, BundleFile] = {}

    async def file(self, name: str) -> BundleFile:
        """One of the files there were at the start.

        Raises:
            NotFound: It is none of them.
        """
        path = self._paths.get(name)
        if path is None or path.suffix not in _TYPES:
            if name == _PAGE:
                raise NotFound("The dashboard was not built into this gpud. Run scripts/build-web.")
            raise NotFound(f"The dashboard has no file {name[:100]!r}. Load the page at / anew.")
        if name not in self._files:
            self._files[name] = await asyncio.to_thread(_read, path)
        return self._files[name]


def _read(path: Path) -> BundleFile:
    plain = path.read_bytes()
    return BundleFile(
        content_type=_TYPES[path.suffix],
        plain=plain,
        packed=gzip.compress(plain, 9, mtime=0),
        tag=f'"{hashlib.sha256(plain).hexdigest()[:20]}"',
    )


BUNDLE = web.AppKey("BUNDLE", Bundle)


async def show_root(request: web.Request) -> web.StreamResponse:
    """The page; a browser that has it asks each time whether it is still the same."""
    file = await request.app[BUNDLE].file(_PAGE)
    headers = {hdrs.CACHE_CONTROL: "no-cache", "Content-Security-Policy": _POLICY}
    return _sent(request, file, headers)


async def show_dashboard_file(request: web.Request) -> web.StreamResponse:
    """A file of the page; its name changes with its content."""
    file = await request.app[BUNDLE].file(request.match_info["file"])
    return _sent(request, file, {hdrs.CACHE_CONTROL: _FOR_GOOD})


def _sent(request: web.Request, file: BundleFile, headers: dict[str, str]) -> web.Response:
    packed = "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "")
    headers |= {hdrs.ETAG: file.tag, hdrs.VARY: hdrs.ACCEPT_ENCODING}
    if request.headers.get(hdrs.IF_NONE_MATCH) == file.tag:
        return web.Response(status=304, headers=headers)
    headers[hdrs.CONTENT_TYPE] = file.content_type
    if packed:
        headers[hdrs.CONTENT_ENCODING] = "gzip"
    return web.Response(body=file.packed if packed else file.plain, headers=headers)


OPERATIONS_HERE = (
    Operation(
        name="show_root",
        method="GET",
        path="/",
        handler=show_root,
        scope=Scope.OPEN,
        summary="The dashboard",
        tag="system",
        media_type="text/html",
        statuses=((200, "The page"), (304, "The page that If-None-Match names is still the same")),
    ),
    Operation(
        name="show_dashboard_file",
        method="GET",
        path="/assets/{file}",
        handler=show_dashboard_file,
        scope=Scope.OPEN,
        summary="A file of the dashboard",
        tag="system",
        media_type="text/javascript",
        statuses=((200, "The file"), (304, "The file that If-None-Match names is still the same")),
        problems=(NotFound,),
    ),
)
