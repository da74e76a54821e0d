"""From a request to the answers of a version: what every protocol does in the same way."""

import asyncio
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from models.proof import Answers
from models.repository import Version
from models.schema import Matrix
from service.front import Front
from service.problems import BadBody, ClientGone, TooLarge, TooSlow, UnknownVersion, UnsupportedEncoding
from service.wire import plain

_ASIDE_BYTES = 500_000
"""From this size on a body is read and encoded in a thread. Measured beside a client that sends 10 MB bodies: the
longest wait of small requests falls from 250 to 86 ms, the time that the JSON parser keeps the interpreter for itself;
at 1 MB from 27 to 20; below, the thread costs more than it gives."""

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # as zlib numbers its formats; HTTP's deflate is zlib's own
_MOST_INFLATION = 1032  # a byte of a deflate stream holds at most so many

_T = TypeVar("_T")


@dataclass(slots=True)
class Ledger:
    """What is known of a request while it is answered.

    Attributes:
        id: the client's own X-Request-Id if it is a plain short text, else one made here.
        started: when its headers were there, by `time.perf_counter`.
        is_prediction: it reached a route that predicts.
        version: whom it asked, as soon as that is known.
        rows: rows answered.
        received, encoded, computed: when its body was there, its matrix, and the network's answers.
    """

    id: str
    started: float
    is_prediction: bool = False
    version: Version | None = None
    rows: int = 0
    received: float = 0.0
    encoded: float = 0.0
    computed: float = 0.0


def ledger_of(scope: Scope) -> Ledger:
    """What is known of the request that is being answered."""
    ledger: Ledger = scope["rowcast"]
    return ledger


def find(front: Front, whom: Mapping[str, Any]) -> Version:
    """The version that "model", "version" (a number or its digits) and "label" ask for; each may be absent.

    Raises:
        UnknownModel, UnknownVersion, UnknownLabel, NotReady: as `Catalog.find` says.
    """
    name, version, label = (whom.get(key) for key in ("model", "version", "label"))
    number = plain.version_number(version) if isinstance(version, str) else version
    if version is not None and number is None:
        model = front.catalog.find(name).name  # a model that is not there is the first thing to say
        raise UnknownVersion(model, version, sorted(front.catalog.live()[model]))
    return front.catalog.find(name, number, label)


async def predict(front: Front, ledger: Ledger, version: Version, matrix: Matrix, within_s: float) -> Answers:
    """The version's answers for a matrix [N, F], at most `within_s` after the request's headers.

    Raises:
        Overloaded, DeadlinePassed, ModelFailed: as `Coalescer.predict` says.
    """
    rows = len(matrix)
    ledger.encoded = time.perf_counter()
    rest_s = within_s - (ledger.encoded - ledger.started)
    front.metrics.rows_in_flight(rows)
    try:
        return await front.coalescer.predict(version, matrix, rest_s)
    finally:
        front.metrics.rows_in_flight(-rows)
        ledger.computed = time.perf_counter()


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """The body, whatever type it says it has, decompressed.

    Raises:
        TooSlow: it was not whole in time: a client that sends a byte now and then holds nothing for long.
        TooLarge: as soon as it is known to be longer than `most` bytes, decompressed or not; no more of it is kept.
        ClientGone: the client hung up before its end.
        UnsupportedEncoding: it is compressed in a way that is not known here.
        BadBody: it is not what its Content-Encoding says.
    """
    encoding = request.headers.get("content-encoding", "").lower()
    if encoding not in ("", "identity") and encoding not in _WINDOW_BITS:
        raise UnsupportedEncoding(encoding)
    try:
        async with asyncio.timeout(seconds):
            raw = await _bytes(request, most)
    except TimeoutError:
        raise TooSlow(seconds) from None
    ledger_of(request.scope).received = time.perf_counter()
    if encoding not in _WINDOW_BITS:
        return raw
    return await aside(len(raw) * _MOST_INFLATION, lambda: _inflate(raw, encoding, most))


async def _bytes(request: Request, most: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > len(str(most)) or int(declared) > most):
        raise TooLarge(most, int(declared) if len(declared) < 20 else None, "bytes")
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise TooLarge(most, None, "bytes")
            chunks.append(chunk)
    except ClientDisconnect:
        raise ClientGone from None
    return b"".join(chunks)


def _inflate(raw: bytes, encoding: str, most: int) -> bytes:
    """The body as it was before it was compressed; never more than one byte over `most` is made of it."""
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        inflated = stream.decompress(raw, most + 1)
    except zlib.error:
        raise BadBody(f"the body must be compressed as its Content-Encoding says, {encoding}") from None
    if len(inflated) > most:
        raise TooLarge(most, None, "bytes")
    if not stream.eof or stream.unused_data:  # several members are legal, and a way to keep a server busy
        what = "it ends too early" if not stream.eof else "something follows its end"
        raise BadBody(f"the body must be one whole stream of {encoding}, and {what}")
    return inflated


async def aside(size: int, work: Callable[[], _T]) -> _T:
    """The result of `work` on `size` bytes, done in a thread when they are many, so that other requests are served."""
    return work() if size < _ASIDE_BYTES else await asyncio.to_thread(work)
