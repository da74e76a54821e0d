"""What operators order by request, where the setting `control` lets them: load, unload, label, share.

Load and unload are the model repository extension of the Open Inference Protocol. An order is answered once every API
process obeys it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from models.errors import BadVersion, shown
from models.labels import FILE as LABELS
from models.manifest import check_name
from models.repository import Repository
from service.app.answering import json_of, read_body
from service.front import Front
from service.problems import BadBody, ControlOff, ForeignPage, NotReady, UnknownLabel, UnknownModel, UnknownVersion
from service.versions.control import Unloaded, tell_all
from service.wire.json_text import read_json

_LARGEST_BODY = 100_000
_FOREIGN = frozenset({"cross-site", "same-site"})
"""What browsers say of requests that other sites' pages make (W3C Fetch Metadata Request Headers, Sec-Fetch-Site).

Where no keys are set, such a page could otherwise give orders to a server on its reader's own machine.
"""
_Share = Annotated[float, Field(ge=0, le=1)]


class LabelOrder(BaseModel):
    """The body of a request that sets a label."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Annotated[int, Field(ge=1)]
    share: _Share = 0.0
    shadow: _Share = 0.0


class ControlRoutes:
    """`front` is called per request, in the process that answers it."""

    def __init__(self, front: Callable[[], Front]) -> None:
        self._front = front

    def all(self) -> list[BaseRoute]:
        return [
            Route("/v2/repository/models/{model}/load", self._load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self._unload, methods=["POST"]),
            Route("/v1/models/{model}/labels/{label}", self._set_label, methods=["PUT"]),
            Route("/v1/models/{model}/labels/{label}", self._remove_label, methods=["DELETE"]),
        ]

    async def _load(self, request: Request) -> Response:
        front, name, _ = await self._allowed(request)
        await _check_published(front, name)
        await asyncio.to_thread(Unloaded(front.runtime).change, name, is_unloaded=False)
        await tell_all(front.runtime, again=name)
        front.catalog.find(name)  # what served serves on; but is there anything?
        newest = max(await asyncio.to_thread(_repository(front).versions, name), default=0)
        if reason := front.catalog.failures.get(f"{name}/{newest}"):
            raise BadVersion(f"{name}/{newest}", reason.removeprefix(f"{name}/{newest}: "))
        return json_of({"name": name, "load": True})

    async def _unload(self, request: Request) -> Response:
        front, name, _ = await self._allowed(request)
        if name not in front.catalog.live():  # what is live can be unloaded wherever its files are
            await _check_published(front, name)
        await asyncio.to_thread(Unloaded(front.runtime).change, name, is_unloaded=True)
        await tell_all(front.runtime)
        return json_of({"name": name, "unload": True})

    async def _set_label(self, request: Request) -> Response:
        front, name, body = await self._allowed(request)
        label = request.path_params["label"]
        try:
            order = LabelOrder.model_validate(body)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(map(str, fault["loc"])) or "the body"
            raise BadBody(
                f'the body must be {{"version": 4}}, with "share" or "shadow" from 0 to 1 beside it; {place}: '
                f"{fault['msg'][0].lower()}{fault['msg'][1:]}",
                shown(fault["input"]),
            ) from None
        await _check_published(front, name, order.version)

        def write() -> None:
            _repository(front).set_label(name, label, order.version, share=order.share, shadow=order.shadow)

        await _written(write)
        return await self._labels(front, name)

    async def _remove_label(self, request: Request) -> Response:
        front, name, _ = await self._allowed(request)
        await _check_published(front, name)
        label = request.path_params["label"]

        def remove() -> None:
            if not _repository(front).remove_label(name, label):
                raise UnknownLabel(name, label, sorted(_repository(front).routes(name)))

        await _written(remove)
        return await self._labels(front, name)

    async def _allowed(self, request: Request) -> tuple[Front, str, Any]:
        """The front, the model that the path names, and the body.

        Raises:
            ControlOff: nothing is changed by request here.
            ForeignPage: a browser sent it for a page of another site.
            BadBody: the body wants what cannot be had.
        """
        front = self._front()
        if not front.settings.control:
            raise ControlOff
        if request.headers.get("sec-fetch-site") in _FOREIGN:
            raise ForeignPage
        name = request.path_params["model"]
        check_name("model", name)
        raw = await read_body(request, front.settings, _LARGEST_BODY)
        body = read_json(raw) if raw else {}
        if not isinstance(body, dict):
            raise BadBody("the body must be a JSON object", shown(body))
        parameters = body.get("parameters")
        if not isinstance(parameters, dict | None):
            raise BadBody('"parameters" must be an object', shown(parameters))
        if refused := sorted((parameters or {}).keys() - {"unload_dependents"}):
            raise BadBody(f"no configuration and no files are taken with a request, got {shown(refused[0])}")
        return front, name, body

    async def _labels(self, front: Front, name: str) -> Response:
        """The labels as the file has them by now, once every process follows them."""
        await tell_all(front.runtime)
        labels = await asyncio.to_thread(_repository(front).routes, name)
        place = f"{name}/{LABELS}"
        if reason := front.catalog.failures.get(place):  # it is written, and its version cannot be served
            raise BadVersion(place, reason.removeprefix(f"{place}: "))
        return json_of({"name": name, "labels": {label: asdict(said) for label, said in sorted(labels.items())}})


async def _written(write: Callable[[], None]) -> None:
    """Change the repository in a thread.

    Raises:
        NotReady: this server may not, or cannot, write there.
    """
    try:
        await asyncio.to_thread(write)
    except OSError as error:
        raise NotReady(f"the repository cannot be written: {error.strerror}") from None


async def _check_published(front: Front, name: str, number: int | None = None) -> None:
    """Let an order pass that is about what stands in the repository.

    Raises:
        UnknownModel, UnknownVersion: it does not.
        NotReady: that cannot be known now.
    """

    def check() -> None:
        repository = _repository(front)
        versions = repository.versions(name)
        if not versions:
            raise UnknownModel(name, repository.names())
        if number is not None and number not in versions:
            raise UnknownVersion(name, number, versions)

    try:
        await asyncio.to_thread(check)
    except UnknownModel:
        await front.catalog.refresh()  # it tells a repository that was taken away from one that has no such model
        if front.catalog.unreadable is None:
            raise
        raise NotReady(f"the repository cannot be read: {front.catalog.unreadable}") from None
    except OSError as error:
        raise NotReady(f"the repository cannot be read: {error.strerror}") from None


def _repository(front: Front) -> Repository:
    return Repository(front.settings.repository)
