"""The OpenAPI document's part on how operators change what is served; service/app/control_routes.py answers it."""

from collections.abc import Mapping
from typing import Any

TEXT = {"type": "string"}
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_PROBLEMS = {
    "400": "The name or the body is wrong: bad_name, bad_body.",
    "401": "The key is absent, wrong or too old: unauthorized, key_expired.",
    "403": "ROWCAST_CONTROL is off, the key is not for this, or a page of another site asks: control_off, forbidden, "
    "foreign_page.",
    "404": "Not published: unknown_model, unknown_version.",
    "408": "The body was not whole in time: too_slow.",
    "409": "Labels do not fit together: bad_change. Nothing was changed.",
    "413": "More bytes than this path takes: too_large.",
    "415": "The body is compressed, neither by gzip nor by deflate: unsupported_encoding.",
    "429": "Too many requests of this client: rate_limited.",
    "500": "A version cannot be trusted: bad_version.",
    "503": "Not every process has obeyed yet, or the repository cannot be written: not_ready.",
}
_LABEL = {
    "type": "object",
    "required": ["version"],
    "properties": {"version": {"type": "integer", "minimum": 1}, "share": _SHARE, "shadow": _SHARE},
    "additionalProperties": False,
}
_ROW = {
    "type": "object",
    "required": ["name", "version", "state", "reason"],
    "properties": dict.fromkeys(("name", "version", "state", "reason"), TEXT),
}


def control_paths() -> dict[str, Any]:
    """Load, unload, labels and the index of the repository."""
    said = {"type": "object", "properties": {"unload_dependents": {}}, "additionalProperties": False}
    empty = {"type": "object", "properties": {"parameters": said}}
    labels = _object(name=TEXT, labels={"type": "object", "additionalProperties": _LABEL})
    label = "/v1/models/{model}/labels/{label}"
    paths: dict[str, Any] = {
        f"/v2/repository/models/{{model}}/{what}": {
            "parameters": [_in_path("model")],
            "post": _order(what, summary, empty, _object(name=TEXT, **{what: {"const": True}})),
        }
        for what, summary in (
            ("load", "Serve a model again, and look at once at what was published of it."),
            ("unload", "Serve a model no longer, until it is loaded."),
        )
    }
    paths[label] = {
        "parameters": [_in_path("model"), _in_path("label")],
        "put": _order("set_label", "Have a label name a version, with a share or a shadow.", _LABEL, labels),
        "delete": _order("remove_label", "Remove a label.", None, labels),
    }
    asked = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    index = _order("index", "Every version of every model, and why those that are not live are not.", asked, _ROW)
    index["responses"]["200"] = _answer({"type": "array", "items": _ROW})
    paths["/v2/repository/index"] = {"post": index}
    return paths


def problem(description: str) -> dict[str, Any]:
    """The answer that says what is wrong."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _order(operation: str, summary: str, body: Mapping[str, Any] | None, answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "operationId": f"repository.{operation}",
        "summary": summary,
        "tags": ["repository"],
        **({} if body is None else {"requestBody": {"content": {"application/json": {"schema": body}}}}),
        "responses": {"200": _answer(answer), **{status: problem(meaning) for status, meaning in _PROBLEMS.items()}},
    }


def _answer(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": "Every process obeys.", "content": {"application/json": {"schema": schema}}}


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": _NAME}
