"""What can go wrong between a request and its answer: each with its facts, one sentence, a code and a status.

`STATUS` is the one table from code to HTTP status. docs/reference/errors.md explains every code to those who meet it.
"""

import http
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import orjson

from models.errors import RowcastError, nearest, shown

STATUS: Mapping[str, int] = {
    "bad_http": 400,
    "bad_body": 400,
    "bad_row": 400,
    "bad_name": 400,
    "not_offered": 400,
    "unauthorized": 401,
    "key_expired": 401,
    "forbidden": 403,
    "control_off": 403,
    "foreign_page": 403,
    "not_found": 404,
    "unknown_model": 404,
    "unknown_version": 404,
    "unknown_label": 404,
    "method_not_allowed": 405,
    "bad_change": 409,
    "client_gone": 408,  # counted and logged; nobody is there to read it
    "too_slow": 408,
    "too_large": 413,
    "unsupported_encoding": 415,
    "not_computable": 422,
    "rate_limited": 429,
    "head_too_large": 431,
    "refused": 400,  # and whatever status the framework chose, see `Refused`
    "bad_version": 500,
    "model_failed": 500,
    "internal": 500,
    "not_ready": 503,
    "overloaded": 503,
    "too_many_connections": 503,
    "deadline_passed": 504,
}

_HEADERS: Mapping[str, Mapping[str, str]] = {
    "unauthorized": {"www-authenticate": "Bearer"},  # RFC 6750, section 3
    "key_expired": {"www-authenticate": 'Bearer error="invalid_token"'},
    "forbidden": {"www-authenticate": 'Bearer error="insufficient_scope"'},
    "too_slow": {"connection": "close"},  # else the connection waits on for the rest of the body
    "unsupported_encoding": {"accept-encoding": "gzip, deflate"},
}
_MOST_BYTES = {"error": 1500, "expected": 1000, "got": 400, "feature": 400}  # with the rest under 4 kB
_NOT_READY_RETRY_S = 1.0
_MOST_LISTED = 8
_HOLDS_ENOUGH = "the bodies of requests that are not answered yet take all the memory that they may"


class UnknownModel(RowcastError):
    """No version of a model is live under this name.

    Attributes:
        name: as it came; None when the request names none and there is no default model.
        known: the live models.
    """

    code = "unknown_model"
    name: str | None
    known: Sequence[str] = ()

    def __str__(self) -> str:
        if self.name is None:
            return f"name a model: there is no default model; {_known('models', self.known)}"
        return f"model {shown(self.name)} is not served here; {_hint(self.name, 'models', self.known)}"


class UnknownVersion(RowcastError):
    """A live model has no such live version.

    Attributes:
        name: the model.
        number: the version as it came.
        known: its live versions.
    """

    code = "unknown_version"
    name: str
    number: int | str
    known: Sequence[int] = ()

    def __str__(self) -> str:
        return f"model {shown(self.name)} has no live version {shown(self.number)}; {_known('versions', self.known)}"


class UnknownLabel(RowcastError):
    """A live model has no such label.

    Attributes:
        name: the model.
        label: as it came.
        known: the labels it has.
    """

    code = "unknown_label"
    name: str
    label: str
    known: Sequence[str] = ()

    def __str__(self) -> str:
        near = _hint(self.label, "labels", self.known)
        return f"model {shown(self.name)} has no label {shown(self.label)}; {near}"


class NotReady(RowcastError):
    """The server, or this model, cannot answer yet or any more.

    Attributes:
        reason: why, as a sentence without its full stop.
    """

    code = "not_ready"
    retry_after_s: ClassVar[float] = _NOT_READY_RETRY_S
    reason: str


class Overloaded(RowcastError):
    """The queue is full, or the memory for bodies.

    Attributes:
        rows_waiting: rows ahead in the queue; 0 where it is bodies that are too many.
        retry_after_s: when to try again, in seconds.
    """

    code = "overloaded"
    rows_waiting: int
    retry_after_s: float = 1.0

    def __str__(self) -> str:
        full = f"the queue is full, {self.rows_waiting} rows are waiting" if self.rows_waiting else _HOLDS_ENOUGH
        return f"{full}; try again in {_whole(self.retry_after_s)} s"


class DeadlinePassed(RowcastError):
    """The answer was not there in time.

    Attributes:
        seconds: the time that the request had in all.
    """

    code = "deadline_passed"
    seconds: float

    def __str__(self) -> str:
        return f"no answer within {self.seconds:g} s, the deadline of this request"


class ModelFailed(RowcastError):
    """The model did not give an answer that can be sent.

    Attributes:
        place: the version, as `<model>/<version>`.
        reason: what happened; nothing of the machine or the code is in it.
        row: the row whose answer is wrong; None when the whole call failed.
    """

    code = "model_failed"
    place: str
    reason: str = "it could not compute an answer"
    row: int | None = None

    def __str__(self) -> str:
        return f"{self.place}: " + ("" if self.row is None else f"row {self.row}: ") + self.reason


class NotComputable(RowcastError):
    """A row has a value so far from those of the training rows that the network computes no finite number of it.

    Attributes:
        place: the version, as `<model>/<version>`.
        row: the row, from 0.
        feature: whose value is farthest outside.
        got: that value.
        usual: what the training rows had, such as "from 0 to 10".
    """

    code = "not_computable"
    place: str
    row: int
    feature: str
    got: str
    usual: str

    def __str__(self) -> str:
        return (
            f"row {self.row}: {self.place} computes no finite number; feature {shown(self.feature)} is {self.got}, "
            f"in the training rows {self.usual}"
        )


class TooManyConnections(RowcastError):
    """The process that accepted the connection has as many as it may have.

    Attributes:
        most: how many that is.
    """

    code = "too_many_connections"
    retry_after_s: ClassVar[float] = 1.0
    most: int

    def __str__(self) -> str:
        return f"{self.most} connections are open, which is the most; use fewer and keep them, or try again"


class BadHttp(RowcastError):
    """What came is no HTTP, or is used in a way that is not taken.

    Attributes:
        reason: what the matter is.
    """

    code = "bad_http"
    reason: str = "what came is not a request of HTTP/1.1"


class HeadTooLarge(RowcastError):
    """The request's line and headers, or what follows a chunked body, are too many.

    Attributes:
        most: the most that is taken.
        unit: what is counted.
    """

    code = "head_too_large"
    most: int
    unit: Literal["bytes", "headers"]

    def __str__(self) -> str:
        return f"the line and headers of a request may have at most {self.most} {self.unit}"


class BadBody(RowcastError):
    """The body is not a request.

    Attributes:
        expected: what the body must be, as a claim: "the body must be a JSON object".
        got: what came instead, shown shortened; empty when nothing came.
    """

    code = "bad_body"
    expected: str
    got: str = ""

    def __str__(self) -> str:
        return self.expected + (f", got {self.got}" if self.got else "")


class NotOffered(RowcastError):
    """A version was published without what the request asks for beside the prediction.

    Attributes:
        place: the version, as `<model>/<version>`.
        what: what it has not, such as "intervals".
        reason: why, and what to do.
    """

    code = "not_offered"
    place: str
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place} has no {self.what}: {self.reason}"


class TooLarge(RowcastError):
    """The request is larger than this server takes.

    Attributes:
        limit: the most it takes.
        size: what came; None when reading stopped at the limit.
        unit: what is counted.
    """

    code = "too_large"
    limit: int
    size: int | None
    unit: Literal["bytes", "rows", "values", "lists and objects"]

    def __str__(self) -> str:
        got = "more" if self.size is None else str(self.size)
        return f"a request may have at most {self.limit} {self.unit}, got {got}; send several smaller ones"


class Unauthorized(RowcastError):
    """The request carries no key, or another one."""

    code = "unauthorized"

    def __str__(self) -> str:
        return "send a key of this server as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'"


class KeyExpired(RowcastError):
    """The key was a client's, and is no more.

    Attributes:
        since: from when on, in ISO 8601.
    """

    code = "key_expired"
    since: str

    def __str__(self) -> str:
        return f"this key expired at {self.since}; ask for another one"


class Forbidden(RowcastError):
    """The key is a client's, and not for this.

    Attributes:
        what: "scope" or "model".
        name: the scope or the model that the key lacks.
    """

    code = "forbidden"
    what: Literal["scope", "model"]
    name: str

    def __str__(self) -> str:
        return f"this key does not have the {self.what} {shown(self.name)}"


class RateLimited(RowcastError):
    """The client asks faster than it may.

    Attributes:
        retry_after_s: when its next request is taken, in seconds.
        policy: how fast it may ask, as the header RateLimit-Policy says it.
    """

    code = "rate_limited"
    retry_after_s: float
    policy: str

    def __str__(self) -> str:
        return f"too many requests from this client; try again in {_whole(self.retry_after_s)} s"


class UnsupportedEncoding(RowcastError):
    """The body is compressed in a way that is not known here.

    Attributes:
        encoding: the request's Content-Encoding.
    """

    code = "unsupported_encoding"
    encoding: str

    def __str__(self) -> str:
        return f"Content-Encoding {shown(self.encoding)} is not taken; use gzip or deflate, or send the body as it is"


class ControlOff(RowcastError):
    """Models are not loaded, unloaded or labelled by request: the repository alone says what is live."""

    code = "control_off"

    def __str__(self) -> str:
        return (
            "nothing is changed by request; publish a version or set a label in the repository, or set ROWCAST_CONTROL"
        )


class ForeignPage(RowcastError):
    """An order that a page of another site had a browser send: whoever looks at the page does not know of it."""

    code = "foreign_page"

    def __str__(self) -> str:
        return "a page of another site cannot change anything here"


class NotFound(RowcastError):
    """Nothing is at this path.

    Attributes:
        path: as it came.
    """

    code = "not_found"
    path: str

    def __str__(self) -> str:
        return f"nothing is at {shown(self.path)}; GET / lists what there is"


class MethodNotAllowed(RowcastError):
    """The path exists, for other methods.

    Attributes:
        method: as it came.
        allowed: the methods that the path answers.
    """

    code = "method_not_allowed"
    method: str
    allowed: Sequence[str] = ()

    def __str__(self) -> str:
        hint = f"; use {' or '.join(self.allowed)}" if self.allowed else ""
        return f"{shown(self.method)} is not answered here{hint}"


class ClientGone(RowcastError):
    """The client closed the connection before it had its answer."""

    code = "client_gone"

    def __str__(self) -> str:
        return "the client closed the connection before it had its answer"


class TooSlow(RowcastError):
    """The headers or the body were not whole in time.

    Attributes:
        seconds: the time that they had.
    """

    code = "too_slow"
    seconds: float

    def __str__(self) -> str:
        return f"the request was not whole within {self.seconds:g} s, the time that a client has to send it"


class Refused(RowcastError):
    """The framework refused the request with a status that no other class here stands for.

    Attributes:
        status: the HTTP status, 400 to 599.
    """

    code = "refused"
    status: int

    def __str__(self) -> str:
        try:
            return http.HTTPStatus(self.status).phrase.lower()
        except ValueError:
            return f"refused with status {self.status}"


class Internal(RowcastError):
    """Something nobody foresaw. What it was stands in the log beside the request's id, never in the answer."""

    code = "internal"

    def __str__(self) -> str:
        return "the server failed; its log has the reason beside this request_id"


def status_of(problem: RowcastError) -> int:
    """The HTTP status of a problem; 500 for a code that the table lacks."""
    return problem.status if isinstance(problem, Refused) else STATUS.get(problem.code, 500)


def headers_of(problem: RowcastError) -> dict[str, str]:
    """The headers that a problem's answer carries beside its type and length."""
    if isinstance(problem, Overloaded | NotReady | TooManyConnections):
        return {"retry-after": str(_whole(problem.retry_after_s))}
    if isinstance(problem, MethodNotAllowed):
        return {"allow": ", ".join(problem.allowed)}
    if isinstance(problem, RateLimited):
        wait = _whole(problem.retry_after_s)
        limit = {"ratelimit-policy": problem.policy, "ratelimit": f'"requests";r=0;t={wait}'}
        return {"retry-after": str(wait), **limit}
    return dict(_HEADERS.get(problem.code, {}))


def body_of(problem: RowcastError, request_id: str) -> bytes:
    """The JSON of a problem, under 4 kB whatever caused it.

    `error` (the sentence), `code`, `request_id`; and where the problem has them `row`, `feature`, `expected`, `got`.
    """
    facts: dict[str, Any] = {"error": str(problem), "code": problem.code, "request_id": request_id}
    facts |= {name: getattr(problem, name, None) for name in ("row", "feature", "expected", "got")}
    said = (None, "", facts["error"])  # an expectation that is the whole sentence need not stand twice
    there = {name: value for name, value in facts.items() if name == "error" or value not in said}
    return orjson.dumps(there | {name: _cut(there[name], most) for name, most in _MOST_BYTES.items() if name in there})


def _cut(text: str, most_bytes: int) -> str:
    """The text, shortened until its JSON fits; what is no Unicode text (a lone surrogate) becomes '?'."""
    text = text[:most_bytes].encode(errors="replace").decode()
    while (size := len(orjson.dumps(text))) > most_bytes:
        text = text[: max(0, len(text) * most_bytes // size - 3)] + "..."
    return text


def _whole(seconds: float) -> int:
    return max(1, math.ceil(seconds))  # Retry-After counts whole seconds


def _hint(name: str, what: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    return f"did you mean {shown(near)}?" if near is not None else _known(what, known)


def _known(what: str, known: Sequence[object]) -> str:
    if not known:
        return f"no {what} are live" if what != "labels" else "it has none"
    rest = len(known) - _MOST_LISTED
    return f"{what}: {', '.join(shown(name) for name in known[:_MOST_LISTED])}" + (f" and {rest} more" * (rest > 0))
