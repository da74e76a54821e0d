"""The server described in OpenAPI 3.1, made from what is live: each model's path with its own fields."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from models import shapley
from models.repository import Version
from service.app.description import example_row, report_of
from service.app.openapi_control import TEXT, control_paths, problem
from service.app.openapi_schemas import schemas_of
from service.problems import NotReady
from service.versions.catalog import Catalog
from service.wire import scoring
from service.wire.arrow_stream import MEDIA_TYPE

_PREDICTION_PROBLEMS = {
    "400": "The body or a row is wrong: bad_body, bad_row, not_offered.",
    "401": "The key is absent, wrong or too old: unauthorized, key_expired.",
    "403": "The key is not for this: forbidden.",
    "404": "Not served here: unknown_model, unknown_version, unknown_label.",
    "408": "The body was not whole in time: too_slow.",
    "413": "More bytes or rows than this server takes: too_large.",
    "415": "The body is compressed, neither by gzip nor by deflate: unsupported_encoding.",
    "422": "A value is too far from those of the training rows: not_computable.",
    "429": "Too many requests of this client: rate_limited.",
    "500": "The model or the server failed: model_failed, internal.",
    "503": "Try again after Retry-After seconds: overloaded, not_ready.",
    "504": "The answer was not there in time: deadline_passed.",
}


def prediction_paths(catalog: Catalog) -> dict[str, Version]:
    """Each path that predicts now, and the version that answers there."""
    paths = {}
    for name, versions in sorted(catalog.live().items()):
        model = f"/v1/models/{name}"
        with contextlib.suppress(NotReady):  # the version labelled stable is not live
            paths[f"{model}:predict"] = catalog.find(name)
        for number, version in sorted(versions.items()):
            paths[f"{model}/versions/{number}:predict"] = version
        for label, number in sorted(catalog.labels(name).items()):
            if number in versions:
                paths[f"{model}/labels/{label}:predict"] = versions[number]
    return paths


class Described:
    """The OpenAPI document of what is live, made once for all who ask until that changes.

    That of 1000 models takes half a second of a core and has 8 MB, and whoever may predict may ask.
    """

    def __init__(self) -> None:
        self._making = asyncio.Lock()
        self._made: tuple[int, bytes] | None = None

    async def of(self, catalog: Catalog, *, needs_key: bool) -> bytes:
        """The document as JSON."""
        async with self._making:
            changes = catalog.changes
            if self._made is None or self._made[0] != changes:
                paths = prediction_paths(catalog)
                made = await asyncio.to_thread(lambda: orjson.dumps(document(paths, needs_key=needs_key)))
                self._made = changes, made
            return self._made[1]


def document(answering: Mapping[str, Version], *, needs_key: bool) -> dict[str, Any]:
    """The OpenAPI document of these prediction paths and of the pages beside them."""
    paths: dict[str, Any] = {path: _predict(version, _operation(path)) for path, version in answering.items()}
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    for path, version in answering.items():
        if report_of(version) is not None:
            report = f"{path.removesuffix(':predict')}/report"
            paths[report] = _get("The version's card.", _operation(report), {"text/html": {"schema": TEXT}})
        about = f"/v1/models/{version.name}"
        if f"{version.name}.{version.number}.Row" not in schemas:
            schemas |= schemas_of(version)
            if shapley.FILE in version.manifest.files:
                paths[f"{about}:explain"] = _explain(version, _operation(f"{about}:explain"))
            paths[about] = _get("What the model reads and answers, and how good it is.", _operation(about))
    paths["/predict"] = _predict_any()
    paths["/invocations"] = _invoke()
    paths |= {path: _get(summary, _operation(path)) for path, summary in _PAGES.items()}
    paths |= control_paths()
    for probe in ("/health/live", "/health/ready", "/ping"):
        paths[probe]["get"]["security"] = []
    for probe in ("/health/ready", "/ping"):
        paths[probe]["get"]["responses"]["503"] = problem("Not ready; the error says why.")
    paths["/metrics"]["get"]["responses"]["200"]["content"] = {"text/plain": {"schema": TEXT}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Rowcast",
            "version": "1",
            "description": "Rows in, predictions out. Every error is a Problem with a stable code. "
            "The Open Inference Protocol V2, below /v2, is described by its own specification, but for the orders that "
            "change what is served.",
        },
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": _KEYS},
        "security": [{scheme: []} for scheme in _KEYS] if needs_key else [],
    }


_PAGES = {
    "/v1/models": "The live models.",
    "/health/live": "The process answers.",
    "/health/ready": "Predictions are answered.",
    "/ping": "The same, for SageMaker and MLflow.",
    "/metrics": "Counts and times for Prometheus.",
}
_OTHER_FORMS = {
    "text/csv": {"schema": TEXT},
    "application/jsonlines": {"schema": TEXT},
    MEDIA_TYPE: {"schema": {}},  # octets
}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_PROBLEM = {
    "type": "object",
    "required": ["error", "code", "request_id"],
    "properties": {
        "error": TEXT | {"description": "What is wrong, in one sentence."},
        "code": TEXT | {"description": "Stable; programs may rely on it."},
        "request_id": TEXT | {"description": "As in the X-Request-Id header."},
        "row": {"type": "integer", "description": "Number of the row, from 0."},
        "feature": TEXT,
        "expected": TEXT,
        "got": TEXT,
    },
}


def _operation(path: str) -> str:
    """The path as a name: /v1/models/iris/versions/1:predict is iris.versions.1.predict."""
    return path.removeprefix("/v1/models/").strip("/").replace(":", ".").replace("/", ".")


def _predict(version: Version, operation: str) -> dict[str, Any]:
    """One prediction path that this version answers."""
    name, manifest, row = f"{version.name}.{version.number}", version.manifest, example_row(version)
    body: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{name}.Request"}}
    if row is not None:
        body["example"] = {"instances": [row]}
    summary = f"Predict {', '.join(manifest.targets)} ({manifest.task}), version {version.number}."
    answer = _predictions({"$ref": f"#/components/schemas/{name}.Answer"})
    return _post(operation, summary, {"application/json": body, **_OTHER_FORMS}, answer, tags=[version.name])


def _explain(version: Version, operation: str) -> dict[str, Any]:
    """The path that says why rows have their answers."""
    body = {"schema": {"$ref": f"#/components/schemas/{version.name}.{version.number}.Request"}}
    summary = "What each feature of a row adds to its answer (Shapley values)."
    answer = {"description": "The explanations, in the order of the rows.", "content": _OBJECT}
    return _post(operation, summary, {"application/json": body}, answer, tags=[version.name])


def _predict_any() -> dict[str, Any]:
    body = {
        "model": TEXT,
        "version": {"type": ["integer", "string"]},
        "label": TEXT,
        "instances": {"type": ["array", "object"]},
        "inputs": {"type": ["array", "object"]},
    }
    summary = 'The same bodies for the default model, or for the one that "model" names.'
    return _of_any_model("predict", summary, body, {"type": "object"})


def _invoke() -> dict[str, Any]:
    output = {"type": ["object", "null"], "properties": {"output": {"enum": scoring.OUTPUTS}}}
    body = {
        "dataframe_split": {"type": "object", "required": ["data"]},
        "dataframe_records": {"type": ["array", "object"]},
        "instances": {"type": ["array", "object"]},
        "inputs": {"type": ["array", "object"]},
        "params": output,
        "parameters": output,
    }
    summary = "The default model, in the forms of SageMaker, MLflow and Vertex AI."
    answer = {"type": "object", "required": ["predictions"], "properties": {"predictions": {"type": "array"}}}
    return _of_any_model("invocations", summary, body, answer)


def _of_any_model(operation: str, summary: str, body: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """A prediction path of whichever model is the default one."""
    content = {"application/json": {"schema": {"type": "object", "properties": body}}, **_OTHER_FORMS}
    return _post(operation, summary, content, _predictions(answer))


def _post(
    operation: str, summary: str, content: Mapping[str, Any], answer: Mapping[str, Any], tags: Sequence[str] = ()
) -> dict[str, Any]:
    """A path that takes rows."""
    problems = {status: problem(meaning) for status, meaning in _PREDICTION_PROBLEMS.items()}
    post: dict[str, Any] = {"operationId": operation, "summary": summary}
    if tags:
        post["tags"] = tags
    post |= {"requestBody": {"required": True, "content": content}, "responses": {"200": answer, **problems}}
    return {"post": post}


def _predictions(schema: Mapping[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}, **_OTHER_FORMS}
    return {"description": "The predictions, in the order of the rows, as Accept asks.", "content": content}


_OBJECT = {"application/json": {"schema": {"type": "object"}}}


def _get(summary: str, operation: str, content: Mapping[str, Any] = _OBJECT) -> dict[str, Any]:
    answer = {"description": summary, "content": content}
    return {"get": {"operationId": operation, "summary": summary, "responses": {"200": answer}}}
