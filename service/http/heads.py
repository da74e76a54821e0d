"""Heads of requests: which ones the fast lane may answer, what they say, and the same head when it comes again.

A head is the application's where it takes more than reading numbers to answer its request: another path or method,
HTTP/1.0, a chunked, compressed or large body, Expect, a form that is not JSON.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from service.asking import ASIDE_BYTES, OIP_LENGTH, PRIORITY, URGENT
from service.http.connection import MOST_HEADERS
from service.wire import forms, plain

_NAME = r"[A-Za-z0-9_.-]+"
_PLAIN = re.compile(
    rf"/predict|/v1/models/(?P<model>{_NAME})(/versions/(?P<version>{_NAME})|/labels/(?P<label>{_NAME}))?:predict"
)
_OIP = re.compile(rf"/v2/models/(?P<model>{_NAME})(/versions/(?P<version>{_NAME}))?/infer")

_FOR_THE_APP = frozenset({b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"})
_OTHER_FORMS = "|".join(re.escape(name) for name, kind in forms.KINDS.items() if kind != "json")
_A_FORM = re.compile(_OTHER_FORMS.encode(), re.IGNORECASE)
"""Found in a type of rows or answers that are not JSON: the application reads and writes those."""
_OF_ONE_REQUEST = frozenset({b"x-request-id", b"x-routing-key", b"x-timeout-ms", b"traceparent"})
_OIP_LENGTH = OIP_LENGTH.encode()
_PRIORITY, _URGENT = PRIORITY.encode(), URGENT.encode()
_LONGEST_PATH = 500  # names have 100 letters at most; of longer paths, thousands would be kept
_LONGEST_KNOWN = 4000  # bytes of a head
_MOST_KNOWN = 8000  # bytes of the copies of a connection's head, one for each Content-Length that it had
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)\r\n", re.IGNORECASE)
_MOST_DIGITS = 8  # of a Content-Length that the fast lane reads


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names, as the application's routes read it.

    Attributes:
        whom: model, version and label; None where it takes more to find out.
    """

    text: str
    path: Mapping[str, str]
    is_oip: bool
    whom: tuple[str, int | None, str | None] | None


@lru_cache(maxsize=4096)
def _target_of(url: bytes) -> Target | None:
    """Whom a prediction's path asks; None for a path that is the application's."""
    text = url.decode("latin-1")
    match, is_oip = _PLAIN.fullmatch(text), False
    if match is None:
        match, is_oip = _OIP.fullmatch(text), True
    if match is None:
        return None
    path = {name: value for name, value in match.groupdict().items() if value is not None}
    number = plain.version_number(path["version"]) if "version" in path else None
    is_plain = "model" in path and (number is not None or "version" not in path)
    return Target(text, path, is_oip, (path["model"], number, path.get("label")) if is_plain else None)


@dataclass(frozen=True, slots=True)
class Head:
    """What the headers of a request say that the fast lane may answer.

    Attributes:
        oip_length: the value of Inference-Header-Content-Length.
        is_bare: it has no id, no trace, no routing key and no timeout.
        is_urgent: it asks to go before others.
    """

    headers: Mapping[bytes, bytes]
    target: Target
    oip_length: str | None
    keep_alive: bool
    is_bare: bool
    is_urgent: bool


def read_head(url: bytes, fields: list[tuple[bytes, bytes]], parser: Any, most_bytes: int) -> Head | None:
    """The head that httptools' parser has read; None when its request is the application's.

    A body may have `most_bytes`.
    """
    target = _target_of(url) if len(url) <= _LONGEST_PATH else None
    if target is None or parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
        return None
    headers = dict(fields)
    if not len(fields) == len(headers) <= MOST_HEADERS or not _FOR_THE_APP.isdisjoint(headers):
        return None
    if b"host" not in headers:  # it is refused there
        return None
    if _A_FORM.search(headers.get(b"content-type", b"")) or _A_FORM.search(headers.get(b"accept", b"")):
        return None
    if not _is_small(headers.get(b"content-length", b""), most_bytes):
        return None
    length = headers.get(_OIP_LENGTH)
    oip_length = None if length is None else length.decode("latin-1")
    keep_alive = parser.should_keep_alive()
    is_bare = _OF_ONE_REQUEST.isdisjoint(headers)
    is_urgent = not target.is_oip and headers.get(_PRIORITY) == _URGENT
    return Head(headers, target, oip_length, keep_alive, is_bare=is_bare, is_urgent=is_urgent)


class KnownHead:
    """The last head of a connection that came in one piece with its body: most clients send one for ever.

    Attributes:
        head: None before the first.
        texts: what it says with the Content-Lengths that it lately had, by the length of the whole request.
    """

    __slots__ = ("_around", "_most_bytes", "head", "texts")

    def __init__(self, most_bytes: int) -> None:
        """Know none yet; a body may have `most_bytes`."""
        self._most_bytes = most_bytes
        self.head: Head | None = None
        self.texts: dict[int, bytes] = {}
        self._around = b"", b""  # the head before and after the digits of its Content-Length

    def remember(self, head: Head, data: bytes, body: bytes) -> bool:
        """Know this head again, where the data is it and its body and nothing else; whether it is known now."""
        end = len(data) - len(body)
        if not head.keep_alive or end > _LONGEST_KNOWN or data.find(b"\r\n\r\n") + 4 != end:
            return False
        self.head, self.texts = head, {len(data): data[:end]}
        length = _LENGTH.search(data[:end])
        self._around = (data[: length.start(1)], data[length.end(1) : end]) if length else (b"", b"")
        return True

    def text_of(self, data: bytes) -> bytes | None:
        """The head of data that is a whole request, whose head is this one but for its Content-Length; else None."""
        known = self.texts.get(len(data))
        if known is not None and data.startswith(known):
            return known
        before, after = self._around
        if not before or not data.startswith(before):
            return None
        end = data.find(after, len(before), len(before) + _MOST_DIGITS + len(after))
        length = data[len(before) : max(0, end)]
        start = end + len(after)
        if not _is_small(length, self._most_bytes) or int(length) != len(data) - start:
            return None
        if (len(self.texts) + 1) * start > _MOST_KNOWN:
            self.texts.clear()
        text = self.texts[len(data)] = data[:start]
        return text


def _is_small(length: bytes, most: int) -> bool:
    """Whether a body of this Content-Length is read here."""
    return length.isdigit() and len(length) < _MOST_DIGITS and int(length) <= min(most, ASIDE_BYTES - 1)
