"""The files of the page: which there are, and with which headers they are answered.

They are the same for everybody and free of secrets, so they need no key; what the page shows it asks for with one.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import Response

from service.problems import NotFound
from service.settings import Settings

FOLDER = Path(__file__).parent / "files"
PREFIX = "/page/"
PAGES: Mapping[str, str] = MappingProxyType({"/": "index.html", "/docs": "index.html"})
"""Paths that are answered with a page; it looks at its own address."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_POLICY_OF_CARD = (
    "sandbox allow-scripts; default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""The card's frame shows HTML that a trainer wrote. Its origin is nobody's, it may load nothing, and of scripts it
runs the one file that puts the HTML there."""


@cache
def names() -> frozenset[str]:
    """The files that there are."""
    return frozenset(path.name for path in FOLDER.iterdir() if path.suffix in _TYPES)


def is_free(settings: Settings, path: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether this is answered with a file of the page, for which nobody needs a key."""
    if path == "/":
        return wants_page(settings, headers)
    return settings.page and (path in PAGES or (path.startswith(PREFIX) and path.removeprefix(PREFIX) in names()))


def wants_page(settings: Settings, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser asks for `/`; every other client gets JSON there."""
    return settings.page and b"text/html" in headers.get(b"accept", b"")


def answer(name: str, request: Request) -> Response:
    """A file, or 304 to who has it already.

    Raises:
        NotFound: there is no such file.
    """
    if name not in names():
        raise NotFound(request.url.path)
    body, tag = _read(name)
    # asked for again each time, which costs a 304: an upgrade shows at once, and no two files are of two releases
    headers = _SAFE | {"etag": tag, "cache-control": "no-cache", "vary": "accept"}
    if name.endswith(".html"):
        headers["content-security-policy"] = _POLICY_OF_CARD if name == "card.html" else _POLICY
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers | {"content-type": _TYPES[Path(name).suffix]})


@cache
def _read(name: str) -> tuple[bytes, str]:
    body = (FOLDER / name).read_bytes()
    return body, f'"{hashlib.sha256(body).hexdigest()[:20]}"'
