"""`python -m service models`: what is published, and what of it shall answer."""

from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import App, Parameter

from models.difference import difference
from models.errors import BadVersion
from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, Feature, NumberFeature
from models.repository import Repository
from service.commands.output import (
    BadCommand,
    Json,
    NotWell,
    Where,
    open_version,
    print_json,
    print_table,
    repository_at,
)

app = App(help="List, show, label, roll back, delete, verify and compare published versions.")

Which = Annotated[str, Parameter(help="MODEL, MODEL/NUMBER or MODEL/LABEL.")]
_LONGEST = 40  # letters of a difference


@app.command(name="list")
def list_versions(*, repository: Where = None, json: Json = False) -> None:
    """Every version with its labels, its task and its scores on rows that it was not trained on."""
    where = repository_at(repository)
    found = [_summary(where, name, number) for name in where.names() for number in where.versions(name)]
    if json:
        print_json(found)
        return
    rows = [
        (
            f"{one['model']}/{one['version']}",
            ", ".join(map(_label_text, one["labels"].items())),
            one["task"] or one["error"],
            one["scores"]
            and ", ".join(f"{name} {_figure(name, value)}" for name, value in one["scores"]["metrics"].items()),
            one["scores"] and f"{one['scores']['rows']} {one['part']}",
        )
        for one in found
    ]
    print_table(("version", "labels", "task", "scores", "rows"), rows)


@app.command
def show(version: Which, *, repository: Where = None, json: Json = False) -> None:
    """What a version is: features, scores beside its baselines', where it comes from. In JSON: its manifest."""
    opened = open_version(repository_at(repository), version)
    manifest = opened.manifest
    if json:
        print_json(manifest.model_dump(mode="json"))
        return
    made, calibration = manifest.provenance, manifest.calibration
    facts = {
        "version": opened,
        "task": f"{manifest.task} of {', '.join(manifest.targets)}",
        "classes": manifest.classes and ", ".join(map(str, manifest.classes)),
        "calibrated": calibration and f"temperature {calibration.temperature:.4g} by {calibration.rows} rows",
        "made": f"{made.data_rows} rows, seed {made.seed}, {made.seconds:.1f} s on {made.device}",
        "commit": made.commit,
        "weights": manifest.weights[:12],
        "files": ", ".join(sorted(manifest.files)),
        "folder": opened.folder,
    }
    print_table(("", ""), [(name, fact) for name, fact in facts.items() if fact is not None])
    rows = [(one.name, one.kind, _values_of(one), f"{one.missing_share:.1%}") for one in manifest.input.features]
    print_table(("feature", "kind", "values", "missing"), rows)
    for part, scores in manifest.scores.items():
        headings = (f"{part}, {scores.rows} rows", "this network", *scores.baselines)
        metrics = [
            (name, *(_figure(name, of.get(name)) for of in (scores.metrics, *scores.baselines.values())))
            for name in scores.metrics
        ]
        print_table(headings, metrics)


@app.command
def label(
    model: str, label: str, version: int, *, share: float = 0.0, shadow: float = 0.0, repository: Where = None
) -> None:
    """Point a label at a version; running servers follow within seconds.

    Args:
        model: The model.
        label: Such as stable, which answers requests that name nothing, or canary.
        version: The version's number.
        share: Of the requests that name nothing, how many this version answers, 0 to 1.
        shadow: Of the requests that stable answers, how many this version computes as well, for nobody, 0 to 1.
    """
    where = repository_at(repository)
    open_version(where, f"{model}/{version}")  # or a sentence says what there is
    where.set_label(model, label, version, share=share, shadow=shadow)


@app.command
def unlabel(model: str, label: str, *, repository: Where = None) -> None:
    """Forget a label.

    Args:
        model: The model.
        label: The label.
    """
    where = repository_at(repository)
    if not where.remove_label(model, label):
        known = ", ".join(where.routes(model)) or "none"
        raise BadCommand(f"{model}/{label}", f"there is no such label; {model} has {known}")


@app.command(name="roll-back")
def roll_back(model: str, *, repository: Where = None, json: Json = False) -> None:
    """Point stable at the newest version that opens and is older than the one that answers now.

    Args:
        model: The model.
    """
    number = repository_at(repository).roll_back(model)
    if json:
        print_json({"model": model, "stable": number})
    else:
        print_table((), [(f"{model}/{number} is stable",)])


@app.command
def delete(model: str, version: int, *, repository: Where = None) -> None:
    """Remove a version for ever; its number never comes back. A label that names it must go first.

    Args:
        model: The model.
        version: The version's number.
    """
    repository_at(repository).delete(model, version)


@app.command
def verify(*models: str, repository: Where = None, json: Json = False) -> None:
    """Read every byte and check every digest; exit status 1 if anything is not as it was published.

    Args:
        models: Those alone; without any, all.
    """
    where = repository_at(repository)
    for name in models:
        if name not in where.names():
            open_version(where, name)  # says what there is
    wrong = {place: reason for name in models or where.names() for place, reason in where.verify(name).items()}
    checked = sum(len(where.versions(name)) for name in models or where.names())
    if json:
        print_json({"versions": checked, "wrong": wrong})
    else:
        print_table(
            (), [(f"{place}: {reason}",) for place, reason in wrong.items()] or [(f"{checked} versions are whole",)]
        )
    if wrong:
        raise NotWell


@app.command
def diff(before: Which, after: Which, *, repository: Where = None, json: Json = False) -> None:
    """What two versions say of themselves differently: features, plan, scores, packages. In JSON: all of it."""
    where = repository_at(repository)
    changes = difference(open_version(where, before), open_version(where, after))
    if json:
        print_json([{"what": one.what, "before": one.before, "after": one.after} for one in changes])
    else:
        print_table(("what", before, after), [(one.what, _brief(one.before), _brief(one.after)) for one in changes])


# --------------------------------------------------------------------------------------------------- what is shown


def _summary(where: Repository, name: str, number: int) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "model": name,
        "version": number,
        "labels": {},
        "task": None,
        "part": None,
        "scores": None,
        "error": None,
    }
    try:
        named = {label: routed for label, routed in where.routes(name).items() if routed.version == number}
        summary["labels"] = {label: {"share": one.share, "shadow": one.shadow} for label, one in named.items()}
        manifest = where.open(name, number).manifest
    except BadVersion as error:
        return summary | {"error": str(error)}
    part = next((part for part in ("test", "validation", "train") if part in manifest.scores), None)
    scores = None if part is None else manifest.scores[part].model_dump(mode="json")
    return summary | {"task": manifest.task, "part": part, "scores": scores}


def _brief(value: Any) -> str:
    """A number by four digits, what is long by its beginning; JSON has all of it."""
    match value:
        case None:
            return ""
        case float():
            return f"{value:.4g}"
        case list():
            text = ", ".join(map(_brief, value))
        case dict():
            text = ", ".join(f"{key} {_brief(inner)}" for key, inner in value.items())
        case _:
            text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _label_text(item: tuple[str, dict[str, float]]) -> str:
    label, routed = item
    return label + "".join(f" ({what} {value:.0%})" for what, value in routed.items() if value)


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{round(value, 9):z.4g}" if name == "r2" else f"{value:.4g}"  # the mean's r2 is 0, but for rounding


def _values_of(feature: Feature) -> str:
    return ", ".join(_facts_of(feature))


def _facts_of(feature: Feature) -> Iterator[str]:
    match feature:
        case NumberFeature(quantiles=quantiles, unit=unit):
            if quantiles:
                yield f"{quantiles[0]:g} to {quantiles[-1]:g}" + (f" {unit}" if unit else "")
        case CategoryFeature(categories=categories):
            yield from categories[:5]
            if len(categories) > 5:
                yield f"{len(categories) - 5} more"
        case BooleanFeature(true_share=share):
            if share is not None:
                yield f"true in {share:.1%}"
        case DatetimeFeature():
            yield "ISO 8601, in UTC"
