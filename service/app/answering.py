"""What the application does with every request in the same way: its body is read, its question answered."""

import asyncio
import time
import zlib
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from service.asking import ASIDE_BYTES, Question, allowed_s, body_s, check_model, may_be_urgent
from service.blame import blamed
from service.front import Front
from service.ledger import Ledger
from service.problems import BadBody, ClientGone, ModelFailed, NotReady, TooLarge, TooSlow, UnsupportedEncoding
from service.settings import Settings

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # as zlib numbers its formats; HTTP's deflate is zlib's own
_MOST_INFLATION = 1032  # a byte of a deflate stream holds at most so many

_T = TypeVar("_T")


def ledger_of(scope: Scope) -> Ledger:
    """What is known of the request that is being answered."""
    ledger: Ledger = scope["rowcast"]
    return ledger


async def answer(front: Front, request: Request, question: Question) -> Response:
    """The answer to a question, as the application sends it.

    Raises:
        Forbidden: the caller's key is not for this model.
        BadBody: as `allowed_s` says.
        ClientGone: as `unless_gone` says.
        Overloaded, DeadlinePassed, ModelFailed: as `Coalescer.predict` and the question's `write` say.
        NotComputable: as `blamed` says.
    """
    ledger = ledger_of(request.scope)
    check_model(ledger, question.version)
    within_s = allowed_s(ledger, question.within_s)
    ledger.encoded = time.perf_counter()
    rest_s = within_s - (ledger.encoded - ledger.started)
    is_urgent = question.is_urgent and may_be_urgent(ledger)
    predicting = front.coalescer.predict(
        question.version, question.matrix, rest_s, within_s=within_s, is_urgent=is_urgent
    )
    answers = await unless_gone(request, predicting)
    ledger.computed = time.perf_counter()
    try:
        body, headers = question.write(answers)
    except ModelFailed as error:
        raise blamed(error, question.version, question.matrix) from None
    ledger.answered_rows = len(question.matrix)
    if front.catalog.has_shadows:
        front.shadows.saw(question, ledger.routing_key, answers)
    return Response(body, headers=headers)


async def unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """What comes of the work for a request whose body was read; it is given up once nobody waits for it.

    Raises:
        ClientGone: the client hung up first.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # after the body there is one more message: that the client left
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


def check_ready(front: Front) -> None:
    """Let a probe pass where this process can predict now.

    Raises:
        NotReady: it cannot.
    """
    if reason := front.not_ready():
        raise NotReady(reason)


def json_of(value: Any) -> Response:
    """A value as the answer."""
    return Response(orjson.dumps(value), media_type="application/json")


async def read_body(request: Request, settings: Settings, most: int | None = None) -> bytes:
    """The body, whatever type it says it has, decompressed; it may have `most` bytes, else those of the settings.

    Raises:
        TooSlow: it was not whole in time: a client that sends a byte now and then holds nothing for long.
        TooLarge: as soon as it is known to be longer than `most` bytes, decompressed or not; no more of it is kept.
        ClientGone: the client hung up before its end.
        RowcastError: what the connection has against the rest of it.
        UnsupportedEncoding: it is compressed in a way that is not known here.
        BadBody: it is not what its Content-Encoding says.
    """
    most = settings.max_body_bytes if most is None else min(most, settings.max_body_bytes)
    encoding = request.headers.get("content-encoding", "").lower()
    if encoding not in ("", "identity") and encoding not in _WINDOW_BITS:
        raise UnsupportedEncoding(encoding)
    try:
        async with asyncio.timeout(body_s(settings)):
            raw = await _bytes(request, most)
    except TimeoutError:
        raise TooSlow(body_s(settings)) from None
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
    if broken := request.scope.get("rowcast.broken"):  # see Connection.break_body
        raise broken
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


@cache
def _readers() -> ThreadPoolExecutor:
    """Two threads: what they make of large bodies is held in memory, and they share one interpreter anyway."""
    return ThreadPoolExecutor(2, "reader")


async def aside(size: int, work: Callable[[], _T]) -> _T:
    """The result of `work` on `size` bytes, done in a thread when they are many, so that other requests are served."""
    return work() if size < ASIDE_BYTES else await asyncio.get_running_loop().run_in_executor(_readers(), work)
