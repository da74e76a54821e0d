"""Every model at a glance: its versions with their state, its labels, what it predicts and how well."""

from collections.abc import Mapping
from typing import Any

from models.labels import FILE as LABELS
from models.manifest import Manifest
from models.repository import Version
from service.front import Front
from service.problems import NotReady, UnknownModel
from service.versions.catalog import Catalog

_PARTS = ("test", "validation", "train")  # what says most about new rows comes first


def overview(front: Front) -> dict[str, Any]:
    """What the first screen of the page shows, as JSON; refused versions and their reasons among it."""
    catalog = front.catalog
    refused: dict[str, dict[str, str]] = {}
    for place, reason in catalog.failures.items():
        name, _, what = place.rpartition("/")
        refused.setdefault(name, {})[what] = reason
    live = catalog.live()
    names = sorted({*live, *refused})
    return {
        "not_ready": front.not_ready(),
        "default_model": front.settings.default_model,
        "models": [_model(catalog, name, live.get(name, {}), refused.get(name, {})) for name in names],
    }


def _model(catalog: Catalog, name: str, live: Mapping[int, Version], refused: dict[str, str]) -> dict[str, Any]:
    numbers = sorted({*live, *(int(what) for what in refused if what.isdecimal())})
    try:
        answering = catalog.find(name)
    except (NotReady, UnknownModel):  # none is live, or not the one labelled stable
        answering = None
    return {
        "name": name,
        "answers": None if answering is None else str(answering.number),
        "versions": [
            {"number": str(number), "is_live": number in live, "reason": refused.get(str(number))} for number in numbers
        ],
        "labels": {label: str(number) for label, number in sorted(catalog.labels(name).items())},
        "labels_refused": refused.get(LABELS),
        **({} if answering is None else _about(answering.manifest)),
    }


def _about(manifest: Manifest) -> dict[str, Any]:
    part = next((part for part in _PARTS if part in manifest.scores), None)
    metric = value = None
    if part is not None:
        metric, value = next(iter(manifest.scores[part].metrics.items()), (None, None))
    return {
        "task": manifest.task,
        "targets": manifest.targets,
        "classes": None if manifest.classes is None else len(manifest.classes),
        "features": len(manifest.input.features),
        "score": None if part is None else {"part": part, "metric": metric, "value": value},
    }
