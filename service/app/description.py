"""What the server tells about a model to those who want to ask it: its features, its answers, how good it is."""

import math
from collections.abc import Mapping
from typing import Any

from models import shapley
from models.errors import RowcastError
from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, Feature, NumberFeature
from models.labels import STABLE, Label
from models.repository import Version
from service.versions.catalog import Catalog


def describe(catalog: Catalog, version: Version, example: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything about a live model, as JSON; its fields are those of this version.

    `name`, `ready` and `model_version_status` are what KServe V1 and TensorFlow Serving clients look for.
    """
    manifest = version.manifest
    live = sorted(catalog.live().get(version.name, ()))
    refused = {
        place.rsplit("/", 1)[1]: reason
        for place, reason in sorted(catalog.failures.items())
        if place.rsplit("/", 1)[0] == version.name
    }
    return {
        "name": version.name,
        "ready": True,
        "version": str(version.number),
        "versions": [str(number) for number in live],
        "labels": {label: str(number) for label, number in sorted(catalog.labels(version.name).items())},
        "traffic": _traffic(catalog.routes(version.name)),
        "refused": refused,
        "task": manifest.task,
        "targets": manifest.targets,
        "classes": manifest.classes,
        "features": [_feature(feature) for feature in version.schema.features],
        "example": example,
        "intervals": _certainty(version),
        "importances": [importance.model_dump() for importance in manifest.importances],
        "explained": shapley.FILE in manifest.files,
        "warnings": manifest.provenance.warnings,
        "scores": {part: scores.model_dump(mode="json") for part, scores in manifest.scores.items()},
        "model_version_status": [
            {"version": str(number), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            for number in live
        ],
    }


def _traffic(labels: Mapping[str, Label]) -> dict[str, Any]:
    """For each label its version, and what it has of the requests that name neither a version nor a label.

    `share` are those that it answers, of which "stable" has what the others leave; `shadow` those that it computes
    beside "stable", to be answered to nobody.
    """
    rest = max(0.0, 1.0 - math.fsum(label.share for label in labels.values()))
    return {
        name: {
            "version": str(label.version),
            "share": round(rest, 9) if name == STABLE else label.share,
            "shadow": label.shadow,
        }
        for name, label in sorted(labels.items())
    }


def example_row(version: Version) -> Mapping[str, Any] | None:
    """The row of the version's proof that has most values; None when its proof can no longer be read."""
    try:
        rows = version.proof().rows
    except RowcastError:  # the folder was removed while the version is live: everything but the example is known
        return None
    return max(rows, key=lambda row: sum(value is not None for value in row.values()))


def report_of(version: Version) -> str | None:
    """The HTML file of a version's report; None for one that was published without."""
    pages = [path for path in version.manifest.files if path.startswith("report/") and path.endswith(".html")]
    return "report/index.html" if "report/index.html" in pages else min(pages, default=None)


def _certainty(version: Version) -> dict[str, Any] | None:
    """Which levels may be asked for, and how often they held on the test rows; None where there are none."""
    sure = version.manifest.intervals or version.manifest.prediction_sets
    return None if sure is None else {"levels": sure.levels, "coverage": sure.coverage, "rows": sure.rows}


def _feature(feature: Feature) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": feature.name, "kind": feature.kind, "missing_share": feature.missing_share}
    match feature:
        case NumberFeature():
            return facts | {"unit": feature.unit, "range": _range(feature.quantiles)}
        case CategoryFeature():
            return facts | {"categories": feature.categories}
        case BooleanFeature():
            return facts | {"true_share": feature.true_share}
        case DatetimeFeature():
            return facts | {"range_days": _range(feature.quantiles)}


def _range(quantiles: tuple[float, ...]) -> tuple[float, float] | None:
    return (quantiles[0], quantiles[-1]) if quantiles else None
