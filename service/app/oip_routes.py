"""The paths of the Open Inference Protocol V2; docs/reference/oip.md is their page.

An inference, top to bottom, is `_infer`.
"""

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service.app import oip_description
from service.app.answering import answer, aside, check_ready, json_of, ledger_of, read_body
from service.asking import OIP_LENGTH, find_by_path, oip_question
from service.front import Front
from service.problems import BadBody, NotReady, UnknownVersion
from service.wire.json_text import read_json

FREE = frozenset({"/v2/health/live", "/v2/health/ready"})
"""What needs no key: probes."""


class OipRoutes:
    """`front` is called per request, in the process that answers it."""

    def __init__(self, front: Callable[[], Front]) -> None:
        self._front = front

    def all(self) -> list[BaseRoute]:
        """Every route; of two that fit a path, the first answers."""
        model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        about_a_model = [
            ("", self._metadata, "GET"),
            ("/ready", self._model_ready, "GET"),
            ("/infer", self._infer, "POST"),
            ("/config", self._config, "GET"),
            ("/stats", self._statistics, "GET"),
        ]
        return [
            Route("/v2", self._server, methods=["GET"]),
            Route("/v2/", self._server, methods=["GET"]),
            Route("/v2/health/live", self._live, methods=["GET"]),
            Route("/v2/health/ready", self._ready, methods=["GET"]),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/models", self._models, methods=["GET"]),
            Route("/v2/models/stats", self._statistics, methods=["GET"]),
            *(Route(model + end, answer, methods=[method]) for end, answer, method in about_a_model),
            *(Route(version + end, answer, methods=[method]) for end, answer, method in about_a_model),
        ]

    async def _infer(self, request: Request) -> Response:
        front, ledger = self._front(), ledger_of(request.scope)
        ledger.is_prediction = True
        settings, length = front.settings, request.headers.get(OIP_LENGTH)
        version = find_by_path(front, request.path_params, ledger.routing_key)  # unknown: refused before its rows come
        ledger.version = version
        raw = await read_body(request, settings)
        question = await aside(len(raw), lambda: oip_question(settings, version, raw, length))
        return await answer(front, request, question)

    async def _server(self, _: Request) -> Response:
        return json_of(oip_description.server())

    async def _live(self, _: Request) -> Response:
        return json_of({"live": True})

    async def _ready(self, _: Request) -> Response:
        check_ready(self._front())
        return json_of({"live": True, "ready": True})

    async def _models(self, _: Request) -> Response:
        return json_of({"models": sorted(self._front().catalog.live())})

    async def _metadata(self, request: Request) -> Response:
        front = self._front()
        return json_of(oip_description.metadata(front.catalog, find_by_path(front, request.path_params)))

    async def _model_ready(self, request: Request) -> Response:
        front = self._front()
        try:
            version = find_by_path(front, request.path_params)
        except UnknownVersion as error:
            reason = front.catalog.failures.get(f"{error.name}/{error.number}")
            if reason is None:
                raise
            raise NotReady(reason) from None
        if reason := front.cannot_compute():
            raise NotReady(reason)
        return json_of({"name": version.name, "ready": True})

    async def _config(self, request: Request) -> Response:
        front = self._front()
        version = find_by_path(front, request.path_params)
        return json_of(oip_description.config(front.catalog, version, front.settings.max_rows))

    async def _statistics(self, request: Request) -> Response:
        front = self._front()
        live = front.catalog.live()
        if "version" in request.path_params:
            asked = [find_by_path(front, request.path_params)]
        elif "model" in request.path_params:
            asked = list(live[find_by_path(front, request.path_params).name].values())
        else:
            caller = ledger_of(request.scope).caller
            asked = [
                version
                for name, versions in live.items()
                for version in versions.values()
                if caller is None or caller.client.may_ask(name)
            ]
        await front.metrics.written_by_all()
        totals = await asyncio.to_thread(front.metrics.totals)  # reads the counts of all processes
        return json_of(oip_description.statistics(asked, totals))

    async def _index(self, request: Request) -> Response:
        front = self._front()
        raw = await read_body(request, front.settings)
        asked = read_json(raw) if raw else {}
        only_ready = asked.get("ready", False) if isinstance(asked, dict) else None
        if not isinstance(only_ready, bool):
            raise BadBody('the body must be empty or an object; its "ready" must be true or false')
        return json_of(oip_description.index(front.catalog, only_ready=only_ready))
