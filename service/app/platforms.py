"""What SageMaker and Vertex AI tell a container, as settings of ours, and the paths that they ask.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements
"""

from collections.abc import Mapping, Sequence

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from service.settings import PREFIX, BadSettings, Settings

_VERTEX = {"AIP_HTTP_PORT": "PORT", "AIP_HEALTH_ROUTE": "HEALTH_PATH", "AIP_PREDICT_ROUTE": "PREDICT_PATH"}
_SAGEMAKER_PORT = "8080"


def as_settings(environment: Mapping[str, str], *, is_serve: bool) -> dict[str, str]:
    """The settings that a platform asks for; they come before those of ours, for nobody else will ask this container.

    `is_serve`: the container was started with the argument `serve`, as SageMaker does.

    Raises:
        BadSettings: the model is in Google's storage.
    """
    chosen: dict[str, str] = {}
    if is_serve:
        chosen[f"{PREFIX}PORT"] = environment.get("SAGEMAKER_BIND_TO_PORT") or _SAGEMAKER_PORT
    for theirs, ours in _VERTEX.items():
        if environment.get(theirs):
            chosen[PREFIX + ours] = environment[theirs]
    storage = environment.get("AIP_STORAGE_URI", "")
    if storage.startswith("/"):
        chosen[f"{PREFIX}REPOSITORY"] = storage
    elif storage:
        raise BadSettings(
            "AIP_STORAGE_URI is not read: leave the artifact URI of the Vertex model empty, and bake the repository "
            "into the image or mount it"
        )
    return chosen


class OtherPaths:
    """Middleware that answers `ROWCAST_HEALTH_PATH` as `/ping` and `ROWCAST_PREDICT_PATH` as `/invocations`.

    A path that is answered anyway, such as `/predict`, stays what it is.
    """

    def __init__(self, app: ASGIApp, settings: Settings, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        asked = [("GET", settings.health_path, "/ping"), ("POST", settings.predict_path, "/invocations")]
        self._paths = {
            (method, path): ours
            for method, path, ours in asked
            if path is not None and not _is_answered(routes, method, path)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            path = self._paths.get((method, scope["path"]))
            if path is not None:
                scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


def _is_answered(routes: Sequence[BaseRoute], method: str, path: str) -> bool:
    scope = {"type": "http", "method": method, "path": path, "root_path": ""}
    return any(route.matches(scope)[0] is Match.FULL for route in routes)
