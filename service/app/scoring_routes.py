"""The paths that SageMaker, MLflow and Vertex AI ask; docs/how-to/platforms.md is their page.

An invocation, top to bottom, is `_invoke`. It asks the default model: on these platforms an endpoint is a model.
"""

from collections.abc import Callable
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service.app.answering import answer, aside, check_ready, json_of, ledger_of, read_body
from service.asking import PRIORITY, URGENT, find, scoring_question
from service.front import Front
from service.wire import forms

FREE = frozenset({"/ping"})
"""What needs no key: probes."""


class ScoringRoutes:
    """`front` is called per request, in the process that answers it."""

    def __init__(self, front: Callable[[], Front]) -> None:
        self._front = front

    def all(self) -> list[BaseRoute]:
        return [
            Route("/ping", self._ping, methods=["GET"]),
            Route("/invocations", self._invoke, methods=["POST"]),
        ]

    async def _ping(self, _: Request) -> Response:
        check_ready(self._front())
        return json_of({"ready": True})

    async def _invoke(self, request: Request) -> Response:
        front, ledger = self._front(), ledger_of(request.scope)
        ledger.is_prediction = True
        body, wanted = forms.of_request(*form_headers(request))
        version = ledger.version = find(front, {})
        raw = await read_body(request, front.settings)
        question = await aside(len(raw), lambda: scoring_question(front.settings, version, body, wanted, raw))
        if request.headers.get(PRIORITY) == URGENT:
            question = replace(question, is_urgent=True)
        return await answer(front, request, question)


def form_headers(request: Request) -> tuple[str, str]:
    """What a request says of its body's form and its answer's."""
    return request.headers.get("content-type", ""), ",".join(request.headers.getlist("accept"))
