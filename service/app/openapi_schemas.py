"""The OpenAPI document's part on one version: JSON Schemas of its rows, requests and answers."""

from collections.abc import Mapping
from typing import Any

from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, Feature, NumberFeature
from models.manifest import Manifest
from models.repository import Version

_MOST_CATEGORIES = 100


def schemas_of(version: Version) -> dict[str, Any]:
    """A row, a request and an answer, by their names in the document."""
    name, features = f"{version.name}.{version.number}", version.schema.features
    values = [_value(feature) for feature in features]
    row = {"$ref": f"#/components/schemas/{name}.Row"}
    line = {
        "type": "array",
        "description": "Values in the order of the features.",
        "prefixItems": values,
        "minItems": len(values),
        "maxItems": len(values),
    }
    names = [feature.name for feature in features]
    columns = {name: {"type": "array", "items": value} for name, value in zip(names, values, strict=True)}
    in_a_list = [row, line, *values] if len(values) == 1 else [row, line]
    rows = [{"type": "array", "items": {"anyOf": in_a_list}}, row, line]
    return {
        f"{name}.Row": _record("A row.", dict(zip(names, values, strict=True))),
        f"{name}.Request": {
            "anyOf": [
                {"type": "object", "required": ["instances"], "properties": {"instances": {"anyOf": rows}}},
                {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {"inputs": {"anyOf": [_record("Columns.", columns), *rows]}},
                },
            ]
        },
        f"{name}.Answer": _answer(version.manifest),
    }


def _record(description: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }


def _value(feature: Feature) -> dict[str, Any]:
    """The JSON Schema of one value; null is a missing one."""
    missing = f"Missing in {feature.missing_share:.0%} of the training rows." if feature.missing_share else ""
    match feature:
        case NumberFeature():
            unit = f"In {feature.unit}." if feature.unit else ""
            ends = feature.quantiles
            seen = f"From {ends[0]:g} to {ends[-1]:g} in the training rows." if ends else ""
            return {"type": ["number", "null"], **_description(unit, seen, missing)}
        case CategoryFeature():
            texts = ["string", "number", "boolean", "null"]
            if len(feature.categories) > _MOST_CATEGORIES:
                known = f"One of {len(feature.categories)} categories; another one counts as unknown."
                return {"type": texts, **_description(known, missing)}
            unknown = "Another text counts as unknown."
            return {
                "anyOf": [{"enum": [*feature.categories, None]}, {"type": texts}],
                **_description(unknown, missing),
            }
        case BooleanFeature():
            return {"anyOf": [{"type": ["boolean", "null"]}, {"enum": [0, 1]}], **_description(missing)}
        case DatetimeFeature():
            what = "An ISO 8601 date or datetime; without an offset it is UTC."
            return {"type": ["string", "null"], **_description(what, missing)}


def _description(*sentences: str) -> dict[str, str]:
    text = " ".join(sentence for sentence in sentences if sentence)
    return {"description": text} if text else {}


def _answer(manifest: Manifest) -> dict[str, Any]:
    number = {"type": "number"}
    properties: dict[str, Any]
    if manifest.classes is None:
        k = len(manifest.targets)
        several = {"type": "array", "items": number, "minItems": k, "maxItems": k}
        several["description"] = f"In this order: {', '.join(manifest.targets)}."
        properties = {"predictions": {"type": "array", "items": number if k == 1 else several}}
        if k > 1:
            properties["targets"] = {"const": list(manifest.targets)}
    else:
        classes = list(manifest.classes)
        likely = {"type": "array", "items": number, "minItems": len(classes), "maxItems": len(classes)}
        properties = {
            "predictions": {"type": "array", "items": {"enum": classes}},
            "probabilities": {"type": "array", "items": likely},
            "classes": {"const": classes, "description": "The order of the probabilities."},
        }
    properties |= {"model_name": {"const": manifest.name}, "model_version": {"const": str(manifest.version)}}
    return {"type": "object", "required": list(properties), "properties": properties}
