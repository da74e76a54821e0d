"""The paths that the server answers, and what is true of every answer: a request id, the key, JSON errors.

A prediction, top to bottom, is `_predict`. Whatever goes wrong anywhere is raised as an exception of
`service.problems` and becomes an answer in one place, `Edge`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import BadVersion, RowcastError
from service import problems
from service.access.gate import model_of, scope_of
from service.app import oip_routes, openapi, scoring_routes
from service.app.answering import answer, aside, check_ready, json_of, ledger_of, read_body, unless_gone
from service.app.control_routes import ControlRoutes
from service.app.description import describe, example_row
from service.app.explaining import explain
from service.app.oip_routes import OipRoutes
from service.app.scoring_routes import ScoringRoutes, form_headers
from service.asking import PRIORITY, URGENT, find, form_question, in_form, plain_question, whom
from service.front import Front
from service.ledger import Ledger, admit, count, observe, problem_of, read_headers
from service.observing import metrics
from service.pages import assets
from service.pages.routes import PageRoutes
from service.problems import (
    BadBody,
    Forbidden,
    KeyExpired,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Refused,
    Unauthorized,
)
from service.wire import forms, plain

FREE = oip_routes.FREE | scoring_routes.FREE | {"/health", "/health/live", "/health/ready"}
"""What needs no key and has no limit: probes."""

REPLACED = frozenset({"/", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"})
"""Pages of FastAPI and LitServe that are ours, or nobody's because they need a CDN."""


def add_routes(app: FastAPI, front: Callable[[], Front]) -> None:
    """Make the application answer every path of docs/reference/http.md, before any route it has.

    `front` is called per request, in the process that answers it.
    """
    theirs: list[BaseRoute] = [route for route in app.router.routes if getattr(route, "path", None) not in REPLACED]
    app.router.routes[:] = [
        *_Routes(front).all(),
        *OipRoutes(front).all(),
        *ScoringRoutes(front).all(),
        *ControlRoutes(front).all(),
        *PageRoutes(front).all(),
        *theirs,
    ]
    app.router.redirect_slashes = False  # a redirect would be built from the client's Host header
    app.add_exception_handler(HTTPException, _raise_as_problem)
    app.add_exception_handler(RequestValidationError, _raise_as_problem)
    app.add_middleware(Edge, front=front)


class _Routes:
    def __init__(self, front: Callable[[], Front]) -> None:
        self._front = front
        self._described = openapi.Described()

    def all(self) -> list[BaseRoute]:
        models = ["/v1/models/{model}" + which for which in ("", "/versions/{version}", "/labels/{label}")]
        return [
            *(Route(f"{model}:predict", self._predict, methods=["POST"]) for model in models),
            *(Route(f"{model}:explain", self._explain, methods=["POST"]) for model in models),
            Route("/predict", self._predict, methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
            *(Route(model, self._model, methods=["GET"]) for model in models),
            Route("/health/live", self._live, methods=["GET"]),
            Route("/health/ready", self._ready, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
            Route("/", self._index, methods=["GET"]),
        ]

    async def _predict(self, request: Request) -> Response:
        front, ledger = self._front(), ledger_of(request.scope)
        ledger.is_prediction = True
        body, wanted = forms.of_request(*form_headers(request))
        if request.path_params:  # an unknown model is refused before its rows are uploaded
            ledger.version = find(front, request.path_params, ledger.routing_key)
        raw = await read_body(request, front.settings)
        if body.kind == "json":
            asked = await aside(len(raw), lambda: plain.read_bytes(raw, ledger.version))
            version = ledger.version = find(front, whom(request.path_params, asked), ledger.routing_key)
            question = await aside(len(raw), lambda: plain_question(front.settings, version, asked))
        else:
            version = ledger.version = find(front, request.path_params, ledger.routing_key)
            question = await aside(len(raw), lambda: form_question(front.settings, version, body, raw))
        if request.headers.get(PRIORITY) == URGENT:
            question = replace(question, is_urgent=True)
        return await answer(front, request, question if wanted.kind == "json" else in_form(question, wanted))

    async def _explain(self, request: Request) -> Response:
        front, ledger = self._front(), ledger_of(request.scope)
        ledger.is_prediction = True
        ledger.version = find(front, request.path_params)
        raw = await read_body(request, front.settings)
        asked = await aside(len(raw), lambda: plain.read_bytes(raw, ledger.version))
        version = ledger.version = find(front, whom(request.path_params, asked))
        body = await unless_gone(request, explain(front, ledger, version, asked))
        return Response(body, media_type="application/json")

    async def _models(self, _: Request) -> Response:
        return json_of({"models": sorted(self._front().catalog.live())})

    async def _model(self, request: Request) -> Response:
        path, catalog = request.path_params, self._front().catalog
        if str(path[list(path)[-1]]).endswith((":predict", ":explain")):  # a path of predictions, asked by GET
            raise MethodNotAllowed(request.method, ("POST",))
        version = find(self._front(), path)
        example = await asyncio.to_thread(example_row, version)  # reads a file
        return json_of(describe(catalog, version, example))

    async def _live(self, _: Request) -> Response:
        return json_of({"live": True})

    async def _ready(self, _: Request) -> Response:
        check_ready(self._front())
        unreadable = self._front().catalog.unreadable
        return json_of(
            {"ready": True} | ({"warning": f"the repository cannot be read: {unreadable}"} if unreadable else {})
        )

    async def _metrics(self, _: Request) -> Response:
        front = self._front()
        # the catalogue may change while a thread reads it, so the thread gets what is so now
        live = [version for versions in front.catalog.live().values() for version in versions.values()]
        refused = list(front.catalog.failures)
        await front.metrics.written_by_all()
        is_ready, is_readable = front.not_ready() is None, front.catalog.unreadable is None
        more = [front.drift.collector(live), front.vitals]
        page = await asyncio.to_thread(
            front.metrics.page, live, refused, is_ready=is_ready, is_readable=is_readable, more=more
        )
        return Response(page, headers={"content-type": metrics.CONTENT_TYPE})

    async def _openapi(self, _: Request) -> Response:
        front = self._front()
        body = await self._described.of(front.catalog, needs_key=front.gate.needs_key)
        return Response(body, media_type="application/json")

    async def _index(self, request: Request) -> Response:
        if assets.wants_page(self._front().settings, dict(request.scope["headers"])):
            return assets.answer(assets.PAGES["/"], request)
        return json_of(
            {
                "name": "rowcast",
                "models": sorted(self._front().catalog.live()),
                "predict": "POST /v1/models/{model}:predict",
                "explain": "POST /v1/models/{model}:explain",
                "paths": [
                    "/v1/models",
                    "/v2",
                    "/predict",
                    "/invocations",
                    "/openapi.json",
                    "/metrics",
                    "/health/live",
                    "/health/ready",
                ],
            }
        )


async def _raise_as_problem(request: Request, error: Exception) -> Response:
    """Turn what the framework raises into a problem, on its way to `Edge`."""
    if not isinstance(error, HTTPException):
        raise BadBody("the body is not what this path takes") from None
    if error.status_code == 404:
        raise NotFound(request.url.path) from None
    if error.status_code == 405:
        raise MethodNotAllowed(request.method, _allowed(request)) from None
    raise Refused(error.status_code) from None


def _allowed(request: Request) -> list[str]:
    """The methods of every route of the path; the framework names those of the first."""
    routes = [route for route in request.app.router.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    of_path = [route.methods or () for route in matching if route.path == matching[0].path]
    return sorted({method for methods in of_path for method in methods})


# --------------------------------------------------------------------------------------------------- every answer


class Edge:
    """The layer around all routes: gives every request its id, asks for the key, answers problems and counts.

    Nothing that goes wrong inside leaves as anything but a problem, and no trace of the code leaves at all.
    """

    def __init__(self, app: ASGIApp, front: Callable[[], Front]) -> None:
        self._app, self._front = app, front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        front = self._front()
        front.open_requests += 1
        try:
            await self._answer(front, scope, receive, send)
        except asyncio.CancelledError:  # uvicorn has waited for drain_s: it stays open
            front.open_requests += 1
            raise
        finally:
            front.open_requests -= 1

    async def _answer(self, front: Front, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = _together(scope["headers"]), scope["path"]
        ledger = scope["rowcast"] = Ledger("", time.perf_counter(), path)
        ledger.method = scope["method"]
        read_headers(front, ledger, headers)
        has_begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", ledger.id.encode())]
                more = ledger.headers or {}
                message["headers"] += [(name.encode(), value.encode()) for name, value in more.items()]
            await send(message)

        problem: RowcastError | None = None
        try:
            if path not in FREE and not assets.is_free(front.settings, path, headers):
                _admit(front, ledger, scope, headers)
            await self._app(scope, receive, send_with_id)
        except BadVersion as error:  # of a report or of background rows, which no process keeps
            is_away = front.catalog.unreadable is not None
            problem = problem_of(NotReady("the repository cannot be read now") if is_away else error, ledger, path)
        except Exception as error:  # noqa: BLE001 - whatever it was, the client gets a problem
            problem = problem_of(error, ledger, path)
        if problem is not None and not has_begun:
            await _answer_of(problem, ledger.id)(scope, receive, send_with_id)
        if path in FREE:
            return
        if problem or ledger.is_prediction:
            count(front, ledger, problem)
        else:
            observe(front, ledger, None)


def _together(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name; several of one name are one, with commas between them (RFC 9110, section 5.3)."""
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def _admit(front: Front, ledger: Ledger, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
    path, peer = scope["path"], scope.get("client")
    try:
        admit(front, ledger, headers, peer, scope_of(scope["method"], path), model=model_of(path))
    except (Unauthorized, KeyExpired, Forbidden):
        assert ledger.caller is not None
        front.gate.blame(ledger.caller)
        raise
    if "\n" in path:  # at the end of one, a route passes over it and the gate does not: it took it for another path
        raise NotFound(path)


def _answer_of(problem: RowcastError, request_id: str) -> Response:
    return Response(
        problems.body_of(problem, request_id),
        problems.status_of(problem),
        problems.headers_of(problem),
        media_type="application/json",
    )
