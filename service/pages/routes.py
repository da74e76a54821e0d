"""What the page asks for beyond the files it is made of: every model at a glance, and a version's report."""

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service.app.answering import json_of
from service.app.description import report_of
from service.asking import find
from service.front import Front
from service.pages import assets
from service.pages.overview import overview
from service.problems import NotFound

_REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class PageRoutes:
    """Mounted beside the server's own routes; `front` is called per request."""

    def __init__(self, front: Callable[[], Front]) -> None:
        self._front = front

    def all(self) -> list[BaseRoute]:
        """Every path of the page but `/`, which answers other clients too."""
        about = "/v1/models/{model}"
        return [
            Route("/docs", self._page, methods=["GET"]),
            Route(f"{assets.PREFIX}overview", self._overview, methods=["GET"]),
            Route(f"{assets.PREFIX}{{file}}", self._file, methods=["GET"]),
            Route(f"{about}/report", self._report, methods=["GET"]),
            Route(f"{about}/versions/{{version}}/report", self._report, methods=["GET"]),
            Route(f"{about}/labels/{{label}}/report", self._report, methods=["GET"]),
        ]

    def _check(self, request: Request) -> None:
        if not self._front().settings.page:
            raise NotFound(request.url.path)

    async def _page(self, request: Request) -> Response:
        self._check(request)
        return assets.answer(assets.PAGES["/docs"], request)

    async def _file(self, request: Request) -> Response:
        self._check(request)
        return assets.answer(request.path_params["file"], request)

    async def _overview(self, request: Request) -> Response:
        self._check(request)
        front = self._front()
        return json_of(overview(front))

    async def _report(self, request: Request) -> Response:
        version = find(self._front(), request.path_params)
        name = report_of(version)
        if name is None:
            raise NotFound(request.url.path)
        body = await asyncio.to_thread(version.read, name)  # checks its digest
        headers = {"content-security-policy": _REPORT_POLICY, "x-content-type-options": "nosniff"}
        return Response(body, media_type="text/html", headers=headers)
