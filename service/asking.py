"""From a request to the answers of a version: what every protocol does in the same way."""

import asyncio
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from models.errors import shown
from models.proof import Answers
from models.repository import Version
from models.schema import Matrix
from service.batching.shadow import KEPT_ROWS
from service.blame import blamed
from service.front import Front
from service.ledger import Ledger
from service.problems import BadBody, ClientGone, ModelFailed, TooLarge, TooSlow, UnknownVersion, UnsupportedEncoding
from service.settings import Settings
from service.wire import certainty, forms, oip, oip_answer, oip_matrix, plain, scoring
from service.wire.forms import Form
from service.wire.row_forms import OipManyRows

ASIDE_BYTES = 500_000
"""From this size on a body is read and encoded in a thread. Measured beside a client that sends 10 MB bodies: the
longest wait of small requests falls from 250 to 86 ms, the time that the JSON parser keeps the interpreter for itself;
at 1 MB from 27 to 20; below, the thread costs more than it gives."""

OIP_LENGTH = "inference-header-content-length"
"""The header that says how many bytes of a body are JSON, before raw tensors follow."""

JSON: Mapping[str, str] = {"content-type": "application/json"}
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # as zlib numbers its formats; HTTP's deflate is zlib's own
_MOST_TIMEOUT_DIGITS = 9
_MOST_INFLATION = 1032  # a byte of a deflate stream holds at most so many

_T = TypeVar("_T")


def ledger_of(scope: Scope) -> Ledger:
    """What is known of the request that is being answered."""
    ledger: Ledger = scope["rowcast"]
    return ledger


def find(front: Front, whom: Mapping[str, Any], key: str | None = None) -> Version:
    """The version that "model", "version" (a number or its digits) and "label" ask for; each may be absent.

    `key` is the routing key of a prediction.

    Raises:
        UnknownModel, UnknownVersion, UnknownLabel, NotReady: as `Catalog.find` says.
    """
    name, version, label = (whom.get(key) for key in ("model", "version", "label"))
    number = plain.version_number(version) if isinstance(version, str) else version
    if version is not None and number is None:
        model = front.catalog.find(name).name  # a model that is not there is the first thing to say
        raise UnknownVersion(model, version, sorted(front.catalog.live()[model]))
    return front.catalog.find(name, number, label, key)


def find_by_path(front: Front, path: Mapping[str, str], key: str | None = None) -> Version:
    """The same in a path of the Open Inference Protocol, whose version may, which is our own addition, be a label."""
    version = path.get("version")
    if version is not None and plain.version_number(version) is None and version in front.catalog.labels(path["model"]):
        return find(front, {"model": path["model"], "label": version})
    return find(front, path, key)


def whom(path: Mapping[str, str], asked: plain.Request) -> Mapping[str, Any]:
    """Whom a plain request asks: the path says so, or where it says nothing the body.

    Raises:
        BadBody: they say different things.
    """
    body = {"model": asked.model, "version": asked.version, "label": asked.label}
    for key, value in body.items():
        if path and value is not None and str(value) != path.get(key):
            raise BadBody(f'"{key}" must be absent or as in the path: the path says whom to ask', repr(value)[:60])
    return path or body


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks, whatever protocol it came in.

    Attributes:
        matrix: its rows [N, F].
        within_s: how long after its headers the answer may come.
        write: the body of the answer, and the headers that say what it is.
        encode: its rows as another version reads them; None where they are many, and are not kept.
        level: at which the answer shall say how sure it is; None where it is not asked to.
        is_urgent: it asks to go before others.
        begin: where its numbers begin in its body, if requests like it differ in these alone, see `OipManyRows`.
    """

    version: Version
    matrix: Matrix
    within_s: float
    write: Callable[[Answers], tuple[bytes, Mapping[str, str]]]
    encode: Callable[[Version], Matrix] | None = None
    level: float | None = None
    is_urgent: bool = False
    begin: int | None = None


def plain_question(settings: Settings, version: Version, asked: plain.Request) -> Question:
    """The question of a plain request.

    Raises:
        TooLarge, BadRow: as `plain.Request.encode` says.
        BadBody, NotOffered: as `certainty.asked_level` says.
    """
    level = certainty.asked_level(asked.parameters, version) if asked.parameters else None
    matrix = asked.encode(version.schema, settings.max_rows)
    write = partial(_write_plain, version) if level is None else partial(_write_plain_and_level, version, level)
    again = partial(_encode_plain, asked, settings.max_rows) if len(matrix) <= KEPT_ROWS else None
    return Question(version, matrix, settings.deadline_s, write, again, level)


def _encode_plain(asked: plain.Request, max_rows: int, version: Version) -> Matrix:
    return asked.encode(version.schema, max_rows)


def _write_plain(version: Version, answers: Answers) -> tuple[bytes, Mapping[str, str]]:
    return plain.write(version, answers), JSON


def _write_plain_and_level(version: Version, level: float, answers: Answers) -> tuple[bytes, Mapping[str, str]]:
    return certainty.add_to_plain(plain.write(version, answers), version, answers, level), JSON


def oip_question(settings: Settings, version: Version, raw: bytes, header_length: str | None) -> Question:
    """The question of a body of the Open Inference Protocol.

    Raises:
        BadBody, TooLarge, BadRow: as `oip.read`, `oip_answer.check_wanted` and `oip_matrix.encode` say.
        BadBody, NotOffered: as `certainty.asked_level` says.
    """
    asked = oip.read(raw, header_length)
    level = certainty.asked_level(asked.parameters, version)
    oip_answer.check_wanted(asked.wanted, version)
    matrix = oip_matrix.encode(asked, version, settings.max_rows)
    within_s = settings.deadline_s if asked.timeout_s is None else min(asked.timeout_s, settings.deadline_s)
    again = partial(_encode_oip, asked, settings.max_rows) if len(matrix) <= KEPT_ROWS else None
    write = partial(_write_oip, version, asked, level)
    begin = None if header_length is not None else OipManyRows.begin(asked, raw, version)
    return Question(version, matrix, within_s, write, again, level, asked.is_urgent, begin)


def _encode_oip(asked: oip.Request, max_rows: int, version: Version) -> Matrix:
    return oip_matrix.encode(asked, version, max_rows)


def _write_oip(
    version: Version, asked: oip.Request, level: float | None, answers: Answers
) -> tuple[bytes, Mapping[str, str]]:
    body, json_bytes = oip_answer.write(version, asked, answers)
    if level is not None:
        body, json_bytes = certainty.add_to_oip(body, json_bytes, version, answers, level, binary=asked.binary)
    if json_bytes is None:
        return body, JSON
    return body, {OIP_LENGTH: str(json_bytes), "content-type": "application/octet-stream"}


def form_question(settings: Settings, version: Version, body: Form, raw: bytes) -> Question:
    """The question of a plain request whose body is no JSON.

    Raises:
        BadBody, TooLarge, BadRow: as `forms.encode` says.
    """
    matrix = forms.encode(body, raw, version.schema, settings.max_rows)
    return Question(version, matrix, settings.deadline_s, partial(_write_plain, version))


def scoring_question(settings: Settings, version: Version, body: Form, wanted: Form, raw: bytes) -> Question:
    """The question of an invocation, in any form.

    Raises:
        BadBody, TooLarge, BadRow: as `scoring.read`, `forms.encode` and `in_form` say.
    """
    if body.kind != "json":
        return in_form(form_question(settings, version, body, raw), wanted)
    asked = scoring.read(raw)
    matrix = asked.encode(version.schema, settings.max_rows)
    question = Question(version, matrix, settings.deadline_s, partial(_write_plain, version))
    return in_form(question, wanted, asked.output)


def in_form(question: Question, wanted: Form, output: str | None = None) -> Question:
    """The same question, whose answer is written in a form of its own; in JSON that of MLflow's scoring protocol.

    Raises:
        BadBody, NotOffered: as `forms.check_output` says.
    """
    level = forms.check_output(question.version, wanted, output, question.level)
    return replace(question, write=partial(_write_form, wanted, question.version, output, level))


def _write_form(
    wanted: Form, version: Version, output: str | None, level: float | None, answers: Answers
) -> tuple[bytes, Mapping[str, str]]:
    """The body, and beside its type whose answer it is, which not every form can say itself."""
    whose = {"x-model-name": version.name, "x-model-version": str(version.number)}
    return forms.write(wanted, version, answers, output=output, level=level), {
        "content-type": forms.TYPES[wanted.kind],
        **whose,
    }


async def answer(front: Front, ledger: Ledger, question: Question) -> Response:
    """The answer to a question, as the application sends it.

    Raises:
        Forbidden: the caller's key is not for this model.
        BadBody: as `allowed_s` says.
        Overloaded, DeadlinePassed, ModelFailed: as `Coalescer.predict` and the question's `write` say.
        NotComputable: as `blamed` says.
    """
    check_model(ledger, question.version)
    within_s = allowed_s(ledger, question.within_s)
    ledger.encoded = time.perf_counter()
    rest_s = within_s - (ledger.encoded - ledger.started)
    is_urgent = question.is_urgent and may_be_urgent(ledger)
    answers = await front.coalescer.predict(
        question.version, question.matrix, rest_s, within_s=within_s, is_urgent=is_urgent
    )
    ledger.computed = time.perf_counter()
    try:
        body, headers = question.write(answers)
    except ModelFailed as error:
        raise blamed(error, question.version, question.matrix) from None
    ledger.answered_rows = len(question.matrix)
    if front.catalog.has_shadows:
        front.shadows.saw(question, ledger.routing_key, answers)
    return Response(body, headers=headers)


def check_model(ledger: Ledger, version: Version) -> None:
    """The path has been checked; where the body names the model, or nobody does, it is known only now.

    Raises:
        Forbidden: the caller's key is not for this model.
    """
    if ledger.caller is not None:
        ledger.caller.client.check_model(version.name)


def allowed_s(ledger: Ledger, most_s: float) -> float:
    """How long a request may take: what X-Timeout-Ms says, and no longer than `most_s`.

    Raises:
        BadBody: it says no number of milliseconds.
    """
    if ledger.timeout is None:
        return most_s
    if not (ledger.timeout.isdigit() and len(ledger.timeout) <= _MOST_TIMEOUT_DIGITS and int(ledger.timeout)):
        raise BadBody(
            f"X-Timeout-Ms must be a whole number of milliseconds from 1, of {_MOST_TIMEOUT_DIGITS} digits at most",
            shown(ledger.timeout.decode("latin-1")),
        )
    return min(int(ledger.timeout) / 1000, most_s)


PRIORITY = "x-priority"
"""The header by which a plain request asks to go before others."""

URGENT = "urgent"


def may_be_urgent(ledger: Ledger) -> bool:
    """Whether the caller's requests may go before others: with keys, those of whom an operator said so."""
    return ledger.caller is not None and ledger.caller.client.may_be_urgent


def body_s(settings: Settings) -> float:
    """How long a body may take to come."""
    return min(settings.receive_s, settings.deadline_s)


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """The body, whatever type it says it has, decompressed.

    Raises:
        TooSlow: it was not whole in time: a client that sends a byte now and then holds nothing for long.
        TooLarge: as soon as it is known to be longer than `most` bytes, decompressed or not; no more of it is kept.
        ClientGone: the client hung up before its end.
        RowcastError: what the connection has against the rest of it.
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
