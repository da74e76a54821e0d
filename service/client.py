"""A client of the service: rows in, predictions out, over one address and in as many requests as it takes.

    from service.client import Client

    with Client("http://localhost:8000") as client:
        client.predict("rings", [[0.1, 0.2], [0.9, 0.9]]).predictions      # [2, 1]

Rows are lists, records, one record, columns, a numpy array, or a frame of polars, pandas or Arrow. What a server sheds,
or drops as it restarts, is asked again: a prediction may be computed twice. This file needs httpx and httpx-retries
alone (and narwhals for frames), nothing of the server, and may be copied into other projects.
"""

import asyncio
import ipaddress
import json
import os
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from httpx_retries import Retry, RetryTransport

ROWS_PER_REQUEST = 10_000
"""How many rows one request has; a larger table takes several."""

_AGAIN = (429, 502, 503)  # shed, restarting, or a balancer that found nobody; a 504 has taken its whole time already


class ClientError(Exception):
    """A prediction that did not come.

    Attributes:
        sentence: what is wrong, for people.
        status: of HTTP; None when there was no answer at all.
        code: stable, see docs/reference/errors.md; "unreachable" when there was no answer, "" when it was none of
            Rowcast's.
        request_id: to be found in the server's log.
        details: the rest of the answer; of a bad row `row`, `feature`, `expected` and `got`.
    """

    def __init__(self, sentence: str, status: int | None = None, **details: Any) -> None:
        super().__init__(sentence)
        self.sentence, self.status, self.details = sentence, status, details
        self.code = str(details.get("code", "unreachable"))
        self.request_id = details.get("request_id")


class Unreachable(ClientError):
    """Nobody answered, or the connection broke, for as long as the client was patient."""


class BadRequest(ClientError):
    """The rows, or how they are sent, are wrong: asking again will not help."""

    @property
    def row(self) -> int | None:
        """The row that is wrong, from 0 in the rows that were given; None when it is not one row."""
        row = self.details.get("row")
        return None if row is None else int(row)

    @property
    def feature(self) -> str | None:
        """The feature that is wrong; None when it is not one feature."""
        return self.details.get("feature")


class Unauthorized(BadRequest):
    """The server wants a key, or another one."""


class NotServed(BadRequest):
    """The model, version or label is not live."""


class Overloaded(ClientError):
    """The server could not take the request, for as long as the client was patient."""


class DeadlinePassed(ClientError):
    """The server did not answer within its own deadline."""


class ServerFailed(ClientError):
    """The server or the network failed on these rows; the request's id is in its log."""


_KINDS: Mapping[int, type[ClientError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotServed,
    429: Overloaded,
    502: Overloaded,
    503: Overloaded,
    504: DeadlinePassed,
}


@dataclass(frozen=True)
class Predictions:
    """The answers to rows, in their order.

    Attributes:
        predictions: a number, a list of numbers (several targets) or a class for each row.
        version: the number of the version that answered all of them.
        probabilities: of a classification, for each row one for each of `classes`; else None.
        targets: of a regression of several targets, their names; else None.
        intervals: of a regression that was asked for an interval, [lower, upper] for each row, or of several targets a
            list of them; else None.
        prediction_sets: of a classification that was, for each row the classes among which the right one is; else None.
    """

    model: str
    version: int
    predictions: list[Any]
    probabilities: list[list[float]] | None = None
    classes: list[Any] | None = None
    targets: list[str] | None = None
    intervals: list[Any] | None = None
    prediction_sets: list[list[Any]] | None = None

    def __len__(self) -> int:
        return len(self.predictions)


@dataclass(frozen=True)
class _Options:
    """What both clients are told.

    Attributes:
        url: the server, or what stands before several.
        key: its key, where it has one; blanks around it, such as the end of a file's line, do not count.
        timeout_s: how long one request may take.
        patience_s: how long retries may wait, added up, for one request; 0 tries once.
        rows_per_request: how many rows one request has.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 40.0
    patience_s: float = 30.0
    rows_per_request: int = ROWS_PER_REQUEST

    def for_httpx(
        self, transport: Callable[..., httpx.BaseTransport | httpx.AsyncBaseTransport], read: Callable[..., Any]
    ) -> dict[str, Any]:
        """What its clients are made with; retries heed Retry-After, else wait longer each time, with jitter.

        `read` reads an answer to its end, while it can still be asked for again.
        """
        retry = Retry(
            total=50 if self.patience_s else 0,
            allowed_methods=("GET", "POST"),
            status_forcelist=_AGAIN,
            retry_on_exceptions=(httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.RemoteProtocolError),
            backoff_factor=0.1,
            max_backoff_wait=5.0,
            total_timeout=self.patience_s or None,
            validate_response=read,
        )
        return {
            "base_url": self.url,
            "headers": {"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self.key.strip()}"} if self.key else {}),
            "timeout": self.timeout_s,
            "transport": RetryTransport(transport(proxy=_proxy_to(self.url)), retry),
        }


class Client:
    """A client for programs that wait, their threads and forks; use it as a context, or `close` it."""

    def __init__(self, url: str, **options: Any) -> None:
        """`options` are `key`, `timeout_s`, `patience_s` and `rows_per_request`, see `_Options`."""
        self._options = _Options(url, **options)
        self._connect()

    def _connect(self) -> None:
        self._http = httpx.Client(**self._options.for_httpx(httpx.HTTPTransport, httpx.Response.read))
        self._process = os.getpid()

    def predict(
        self,
        model: str,
        rows: Any,
        *,
        version: int | None = None,
        label: str | None = None,
        interval: float | None = None,
    ) -> Predictions:
        """The predictions for rows; all of them by one version, whichever the server has answer the first.

        `interval`, such as 0.9, asks how sure they are; `describe` lists the levels that the model has.

        Raises:
            BadRequest, Unauthorized, NotServed, Overloaded, DeadlinePassed, ServerFailed, Unreachable: see each.
            ValueError: it names both a version and a label.
        """
        parts: list[Predictions] = []
        path = _path(model, version, label)
        for first, body in _bodies(rows, self._options.rows_per_request, interval):
            parts.append(_read(self._ask("POST", path, "model_name", body, first)))
            path = _path(model, parts[0].version, None)
        return _joined(parts)

    def models(self) -> list[str]:
        """Names of the live models."""
        return list(self._ask("GET", "/v1/models", "models")["models"])

    def describe(self, model: str) -> dict[str, Any]:
        """A model's features, targets, classes, versions, labels, scores and an example row."""
        return self._ask("GET", _place(model), "features")

    def _ask(self, method: str, path: str, has: str, body: bytes | None = None, first: int = 0) -> dict[str, Any]:
        if self._process != os.getpid():  # after a fork: on its parent's connections it would get its parent's answers
            self._connect()
        try:
            return _checked(self._http.request(method, path, content=body), has, first)
        except httpx.RequestError as error:
            raise _unreachable(self._options.url, error) from None

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """The same for programs with an event loop; the requests of a large table go out several at once."""

    def __init__(self, url: str, *, at_once: int = 4, **options: Any) -> None:
        """`at_once`: how many requests of one call are out together; `options` as for `Client`."""
        self._options = _Options(url, **options)
        self._at_once = asyncio.Semaphore(at_once)
        self._http = httpx.AsyncClient(**self._options.for_httpx(httpx.AsyncHTTPTransport, httpx.Response.aread))

    async def predict(
        self,
        model: str,
        rows: Any,
        *,
        version: int | None = None,
        label: str | None = None,
        interval: float | None = None,
    ) -> Predictions:
        """As `Client.predict`."""
        bodies = _bodies(rows, self._options.rows_per_request, interval)
        async with self._at_once:
            first = await self._part(_path(model, version, label), *next(bodies))
        path = _path(model, first.version, None)
        rest: list[asyncio.Task[Predictions]] = []
        try:
            async with asyncio.TaskGroup() as group:
                for one in bodies:  # the next one is made once this one has room: not all of a table at once
                    await self._at_once.acquire()
                    rest.append(group.create_task(self._part(path, *one)))
                    rest[-1].add_done_callback(lambda _: self._at_once.release())
        except BaseExceptionGroup as failed:  # the first that failed has cancelled the others
            raise failed.exceptions[0] from None
        return _joined([first, *(task.result() for task in rest)])

    async def models(self) -> list[str]:
        """As `Client.models`."""
        return list((await self._ask("GET", "/v1/models", "models"))["models"])

    async def describe(self, model: str) -> dict[str, Any]:
        """As `Client.describe`."""
        return await self._ask("GET", _place(model), "features")

    async def _part(self, path: str, first: int, body: bytes) -> Predictions:
        return _read(await self._ask("POST", path, "model_name", body, first))

    async def _ask(self, method: str, path: str, has: str, body: bytes | None = None, first: int = 0) -> dict[str, Any]:
        try:
            return _checked(await self._http.request(method, path, content=body), has, first)
        except httpx.RequestError as error:
            raise _unreachable(self._options.url, error) from None

    async def close(self) -> None:
        """Hang up."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


# --------------------------------------------------------------------------------------------------- asking


def _proxy_to(url: str) -> str | None:
    """Through which proxy a server is asked: as HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say; None for none.

    This very machine is never asked through one, as in Go. httpx reads these variables only where it retries nothing.
    """
    server, proxies = httpx.URL(url), urllib.request.getproxies()
    proxy = proxies.get(server.scheme) or proxies.get("all")
    if not proxy or _is_this_machine(server.host) or urllib.request.proxy_bypass(server.netloc.decode()):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _path(model: str, version: int | None, label: str | None) -> str:
    if version is not None and label is not None:
        raise ValueError(f"a request has a version or a label, got {version} and {label!r}")
    path = _place(model)
    if version is not None:
        return f"{path}/versions/{version}:predict"
    return f"{path}/labels/{quote(label, safe='')}:predict" if label is not None else f"{path}:predict"


def _place(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}"


def _bodies(rows: Any, size: int, interval: float | None) -> Iterator[tuple[int, bytes]]:
    """The number of its first row and the body of each request; one of no rows for no rows."""
    columns = _columns(rows)
    asked: dict[str, Any] = {} if interval is None else {"parameters": {"interval": interval}}
    if columns is None:
        whole = rows if hasattr(rows, "tolist") else list(rows)
        for start in range(0, max(len(whole), 1), size):
            yield start, _json(asked | {"instances": _listed(whole, start, size)})
        return
    length = max(map(len, columns.values()), default=0)
    for start in range(0, max(length, 1), size):
        yield start, _json(asked | {"inputs": {name: _listed(values, start, size) for name, values in columns.items()}})


def _columns(rows: Any) -> Mapping[str, Any] | None:
    """The rows as columns, where they come as such: a mapping from name to values, a frame, or an array of fields."""
    if isinstance(rows, Mapping):
        return rows if all(map(_is_column, rows.values())) else {name: [value] for name, value in rows.items()}
    if not hasattr(rows, "__dataframe__") and not hasattr(rows, "__arrow_c_stream__"):
        fields = getattr(getattr(rows, "dtype", None), "names", None)
        return {name: rows[name] for name in fields} if fields else None
    import narwhals  # noqa: PLC0415 - for frames alone

    frame = narwhals.from_native(rows, eager_only=True, allow_series=True)
    if isinstance(frame, narwhals.Series):
        raise TypeError("a Series is a row or a column; give a frame, such as table[['age']] or table.iloc[[0]]")
    return {name: frame[name] for name in frame.columns}


def _is_column(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str)


def _listed(values: Any, start: int, size: int) -> list[Any]:
    part = _in_python(values[start : start + size])
    return list(part.to_list() if hasattr(part, "to_list") else part.tolist() if hasattr(part, "tolist") else part)


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, default=_plain).encode()  # NaN stays a bare token, which the server reads as missing


def _plain(value: Any) -> Any:
    """What JSON has no form for: moments, numbers of numpy and Decimal, the missing values of pandas."""
    if type(value).__name__ in {"NaTType", "NAType"}:
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if not hasattr(value, "item"):
        return float(value)
    item = _in_python(value).item()
    return item.isoformat() if hasattr(item, "isoformat") else item


def _in_python(values: Any) -> Any:
    """The values; moments of numpy in microseconds, since of nanoseconds it makes integers of Python."""
    return values.astype("M8[us]") if getattr(getattr(values, "dtype", None), "char", "") == "M" else values


# --------------------------------------------------------------------------------------------------- reading


def _checked(response: httpx.Response, has: str, first: int) -> dict[str, Any]:
    """What was answered, which `has` this key, or its problem; rows are counted from the `first` of its request."""
    status = response.status_code
    try:
        said = dict(response.json())
    except (TypeError, ValueError):
        said = {}
    if status == 200 and has in said:
        return said
    kind = _KINDS.get(status, ServerFailed if status >= 500 else BadRequest)
    if not {"error", "code", "request_id"} <= said.keys():  # of something between, or of another server
        raise kind(f"{response.url} answered {status}, and not as Rowcast does", status, code="")
    sentence = str(said.pop("error"))
    if said.get("row") is not None:
        sentence = sentence.replace(f"row {said['row']}:", f"row {said['row'] + first}:", 1)
        said["row"] += first
    raise kind(sentence, status, **said)


def _unreachable(url: str, error: httpx.RequestError) -> Unreachable:
    proxy = _proxy_to(url)
    way = "" if proxy is None else f" through the proxy {httpx.URL(proxy).netloc.decode()}"  # without its password
    return Unreachable(f"{url} does not answer{way}: {str(error) or type(error).__name__}")


def _read(said: Mapping[str, Any]) -> Predictions:
    known = {name: said.get(name) for name in ("classes", "targets", *_PER_ROW)}
    return Predictions(said["model_name"], int(said["model_version"]), said["predictions"], **known)


_PER_ROW = ("probabilities", "intervals", "prediction_sets")
"""What an answer may have for each row beside its prediction."""


def _joined(parts: list[Predictions]) -> Predictions:
    together: dict[str, Any] = {}
    for name in ("predictions", *_PER_ROW):
        values = [getattr(part, name) for part in parts]
        together[name] = None if values[0] is None else list(chain.from_iterable(values))
    return replace(parts[0], **together)
