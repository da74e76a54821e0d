"""The model card: what a version predicts, from what, how well, where it fails, and how its fit went.

`write_report` writes one HTML file that needs nothing beside it, its plots included. It follows the reader's light or
dark screen, and prints. The same network gives the same bytes: no times, no paths, no names of machines.
"""

import html
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, Feature, NumberFeature
from models.intervals import Intervals, PredictionSets
from models.manifest import Part, Scores
from training.aside import ask
from training.judging.evaluate import MAIN
from training.judging.explain import Explained
from training.judging.failures import worst_kinds, worst_rows
from training.publishing.drawn import Plot, svgs_of
from training.publishing.plots import judged, plots_of, plots_of_findings
from training.sentences import listed

if TYPE_CHECKING:
    from training.recipe import Fitted  # recipe tells the story and imports this file

INDEX = "index.html"
STYLE = Path(__file__).with_name("report.css").read_text("utf-8")
MOST_SHOWN = 8
"""Features of a row that is shown, and those that are named in its explanation."""


Drawn = Callable[[], list[tuple[str, str, str]]]
"""Called, it has of each plot its name, its caption and its SVG element."""


def begin_to_draw(fitted: "Fitted") -> Drawn:
    """Have everything drawn that waits for no findings, by another process if there is one that does so."""
    return _drawn(list(plots_of(fitted)))


def _drawn(plots: list[Plot]) -> Drawn:
    svgs = ask(svgs_of, plots)
    return lambda: [(plot.name, plot.caption, svg) for plot, svg in zip(plots, svgs(), strict=True)]


def write_report(folder: Path, fitted: "Fitted", drawn: Drawn | None = None) -> None:
    """Write `index.html` into a folder, which is made if it is absent; `drawn` is what was begun before."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn, of_findings = drawn or begin_to_draw(fitted), _drawn(list(plots_of_findings(fitted)))
    (folder / INDEX).write_text(card(fitted, [*drawn(), *of_findings()]), "utf-8")


def card(fitted: "Fitted", plots: Sequence[tuple[str, str, str]]) -> str:
    """The model card, as a whole page; `plots` are names, captions and SVG elements."""
    name = _escaped(fitted.plan.name)
    sections = [
        f"<h1>{name}</h1>",
        f"<p>{_escaped(fitted.plan.about)}</p>" if fitted.plan.about else "",
        f"<p>{_what_it_does(fitted)}</p>",
        _facts(fitted),
        "<h2>How well</h2>",
        _score_table(fitted.scores),
        _calibration(fitted),
        _list("Look at this", fitted.warnings),
        '<div class="plots">',
        *(_figure_of(*plot) for plot in plots),
        "</div>",
        "<h2>Where it fails</h2>",
        _failures(fitted),
        *_found(fitted),
        "<h2>From what</h2>",
        _feature_table(fitted.schema.features),
        "<h2>How it was trained</h2>",
        f"<p>{_how(fitted)}</p>",
        _list("What was done to the table", fitted.notes),
        "<h2>How to make it again</h2>",
        f"<p>{_again(fitted)}</p>",
        f"<pre>{_escaped(_plan_text(fitted))}</pre>",
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _what_it_does(fitted: "Fitted") -> str:
    targets = " and ".join(f"<b>{_escaped(target)}</b>" for target in fitted.data.targets)
    features = len(fitted.schema.features)
    source = f"{features} feature{'s' * (features != 1)}"
    if fitted.data.classes is None:
        return f"Predicts {targets} from {source}."
    classes = listed([_escaped(label) for label in fitted.data.classes], 20)
    return f"Predicts {targets} ({classes}) from {source}."


def _facts(fitted: "Fitted") -> str:
    """The main metric beside its baselines', and the rows it stands on."""
    part = judged(fitted)
    scores, metric = fitted.scores[part], MAIN[fitted.data.task]
    beside = [f"{who} {_figure(theirs.get(metric))}" for who, theirs in scores.baselines.items()]
    value = f"{_figure(scores.metrics.get(metric))} <small>{_escaped(', '.join(beside))}</small>"
    facts = {
        f"{metric} on {part} rows": value,
        f"{part} rows": f"{scores.rows:,}",
        "training rows": f"{len(fitted.parts['train'].y):,}",
        "features": f"{len(fitted.schema.features):,}",
    }
    return (
        '<dl class="facts">' + "".join(f"<div><dt>{what}</dt><dd>{n}</dd></div>" for what, n in facts.items()) + "</dl>"
    )


def _score_table(scores: dict[Part, Scores]) -> str:
    metrics = list(next(iter(scores.values())).metrics)
    rows = []
    for part, of_part in scores.items():
        who = {"network": of_part.metrics, **of_part.baselines}
        for number, (name, values) in enumerate(who.items()):
            label = f"{part} ({of_part.rows:,} rows)" if number == 0 else ""
            kind = ' class="network"' if number == 0 else ""
            cells = "".join(f'<td class="number">{_figure(values.get(metric))}</td>' for metric in metrics)
            rows.append(f"<tr{kind}><td>{_escaped(label)}</td><td>{_escaped(name)}</td>{cells}</tr>")
    header = "".join(f'<th class="number">{_escaped(_spaced(metric))}</th>' for metric in metrics)
    return _table(f"<th>part</th><th>answers of</th>{header}", rows)


def _spaced(metric: str) -> str:
    return metric.replace("_", " ")  # so that a heading may have two lines


def _calibration(fitted: "Fitted") -> str:
    if fitted.calibration is None:
        return ""
    temperature, rows = fitted.calibration.temperature, fitted.calibration.rows
    return f"<p>Calibrated on {rows:,} held-out rows: logits are divided by {temperature:.3g}.</p>"


def _failures(fitted: "Fitted") -> str:
    """Kinds of rows with errors beyond chance, and the rows with the largest."""
    part = judged(fitted)
    rows = fitted.parts[part]
    is_regression = fitted.data.classes is None
    error = "mean error in standard deviations of the target" if is_regression else "mean probability of other classes"
    sections = []
    if kinds := worst_kinds(fitted, rows):
        header = "<th>feature</th><th>value</th>"
        header += "".join(f'<th class="number">{text}</th>' for text in ("rows", "error", "error of the others"))
        lines = [
            f"<tr><td>{_escaped(kind.feature)}</td><td>{_escaped(kind.values)}</td>"
            f'<td class="number">{kind.rows:,}</td><td class="number">{_figure(kind.error)}</td>'
            f'<td class="number">{_figure(kind.rest)}</td></tr>'
            for kind in kinds
        ]
        sections += [f"<p>Kinds of {part} rows on which it errs more than on the others, beyond chance ({error}):</p>"]
        sections += [_table(header, lines)]
    else:
        sections.append(
            f"<p>On no kind of {part} rows does it err more than on the others beyond chance ({error}).</p>"
        )
    if misses := worst_rows(fitted, rows):
        names = fitted.schema.names[:MOST_SHOWN]
        header = "<th>predicted</th><th>actual</th>" + "".join(f"<th>{_escaped(name)}</th>" for name in names)
        lines = []
        for miss in misses:
            values = (_escaped(_value(rows.frame[name][miss.row])) for name in names)
            cells = "".join(f"<td>{cell}</td>" for cell in (_escaped(miss.predicted), _escaped(miss.actual), *values))
            lines.append(f"<tr>{cells}</tr>")
        more = len(fitted.schema.names) - len(names)
        said = f", with the first {len(names)} of {len(names) + more} features" if more > 0 else ""
        sections += [f"<p>The {part} rows with the largest errors{said}:</p>", _table(header, lines)]
    return "\n".join(sections)


def _value(value: object) -> str:
    return "missing" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _found(fitted: "Fitted") -> Iterator[str]:
    """How sure the answers are, and why some of them are what they are."""
    found = fitted.findings
    if found is None:
        return
    if found.intervals is not None or found.prediction_sets is not None:
        yield "<h2>How sure</h2>"
    if found.intervals is not None:
        yield _interval_table(found.intervals, fitted.data.targets)
    if found.prediction_sets is not None:
        yield _set_table(found.prediction_sets)
    if found.explained:
        yield "<h2>Why</h2>"
    for one in found.explained:
        yield _explanation(fitted, one)


def _interval_table(intervals: Intervals, targets: Sequence[str]) -> str:
    header = '<th class="number">asked</th><th class="number">measured on test</th>'
    header += "".join(f"<th>{_escaped(target)}, around the prediction</th>" for target in targets)
    rows = []
    for number, level in enumerate(intervals.levels):
        cells = _level_cells(level, intervals.coverage, number)
        for low, high in zip(intervals.low, intervals.high, strict=True):
            ends = sorted((of_low[number], of_high[number]) for of_low, of_high in zip(low, high, strict=True))
            narrow, wide = min(ends, key=_width), max(ends, key=_width)
            said = f"{narrow[0]:+.4g} to {narrow[1]:+.4g}"
            said += f", up to {wide[0]:+.4g} to {wide[1]:+.4g}" if wide != narrow else ""
            cells += f"<td>{said}</td>"
        rows.append(f"<tr>{cells}</tr>")
    said = (
        f"<p>The share of rows whose target lies in its interval, calibrated on {intervals.rows:,} held-out rows.</p>"
    )
    return said + _table(header, rows)


def _width(ends: tuple[float, float]) -> float:
    return ends[1] - ends[0]


def _set_table(sets: PredictionSets) -> str:
    header = "".join(f'<th class="number">{name}</th>' for name in ("asked", "measured on test", "classes in a set"))
    rows = []
    for number, level in enumerate(sets.levels):
        size = "" if sets.sizes is None else f"{sets.sizes[number]:.2f}"
        rows.append(f'<tr>{_level_cells(level, sets.coverage, number)}<td class="number">{size}</td></tr>')
    said = f"<p>The share of rows whose class is in its set, calibrated on {sets.rows:,} held-out rows.</p>"
    return said + _table(header, rows)


def _level_cells(level: float, coverage: Sequence[float] | None, number: int) -> str:
    measured = "" if coverage is None else f"{coverage[number]:.1%}"
    return f'<td class="number">{level:.0%}</td><td class="number">{measured}</td>'


def _explanation(fitted: "Fitted", one: Explained) -> str:
    """The features that add most to the answer for a row, and what the others add together."""
    rows = fitted.parts[judged(fitted)]
    names, values = fitted.schema.names, one.explanation.values[:, one.output]
    order = np.argsort(-np.abs(values), kind="stable")
    lines = []
    for place in order[:MOST_SHOWN]:
        value = rows.frame[names[place]][one.row]
        cells = f"<td>{_escaped(names[place])}</td><td>{_escaped(_value(value))}</td>"
        lines.append(f'<tr>{cells}<td class="number">{values[place]:+.4g}</td></tr>')
    rest = order[MOST_SHOWN:]
    if len(rest):
        total = f'<td class="number">{values[rest].sum():+.4g}</td>'
        lines.append(f"<tr><td>{len(rest)} others</td><td></td>{total}</tr>")
    classes = fitted.data.classes
    what = fitted.data.targets[one.output] if classes is None else f"the probability of {classes[one.output]}"
    base = one.explanation.base[one.output]
    said = f"<p>Here {_escaped(what)} is {one.answer:.4g}; {base:.4g} is the mean for rows of the training part.</p>"
    return said + _table('<th>feature</th><th>value</th><th class="number">adds</th>', lines)


def _feature_table(features: Iterable[Feature]) -> str:
    rows = []
    for feature in features:
        values, missing = _escaped(_values_of(feature)), f"{feature.missing_share:.1%}"
        cells = f"<td>{_escaped(feature.name)}</td><td>{feature.kind}</td><td>{values}</td>"
        rows.append(f'<tr>{cells}<td class="number">{missing}</td></tr>')
    return _table('<th>feature</th><th>kind</th><th>in training</th><th class="number">missing</th>', rows)


def _values_of(feature: Feature) -> str:
    match feature:
        case NumberFeature(quantiles=()) | DatetimeFeature(quantiles=()):
            return "always missing"
        case NumberFeature(quantiles=quantiles, unit=unit):
            middle = quantiles[len(quantiles) // 2]
            return f"{quantiles[0]:.6g} to {quantiles[-1]:.6g}, median {middle:.6g}" + (f" {unit}" if unit else "")
        case DatetimeFeature(quantiles=quantiles):
            first, last = (np.datetime64(int(np.floor(day)), "D") for day in (quantiles[0], quantiles[-1]))
            return f"{first} to {last}"
        case BooleanFeature(true_share=share):
            return "always missing" if share is None else f"true in {share:.1%}"
        case CategoryFeature(categories=categories):
            return listed(categories, 12)


def _figure_of(name: str, caption: str, svg: str) -> str:
    return f'<figure>{svg}<figcaption id="{name}">{_escaped(caption)}.</figcaption></figure>'


def _how(fitted: "Fitted") -> str:
    parts = ", ".join(f"{len(rows.y):,} {part}" for part, rows in fitted.parts.items())
    fitted_ones, linear = len(fitted.members), sum(not member.history for member in fitted.chosen)
    network = f"{len(fitted.chosen) - linear} of {fitted_ones} fitted members" + (" and a linear model" * linear)
    judged = " The test rows chose nothing." if "test" in fitted.parts else ""
    return f"Rows: {parts}.{judged} In the network: {network}. Device: {_escaped(fitted.device)}."


def _again(fitted: "Fitted") -> str:
    """What gives the same network: the plan below on the same table, from the same seed."""
    source = "" if fitted.plan.table.path is None else f" of {_escaped(Path(fitted.plan.table.path).name)}"
    return (
        f"This plan on the {fitted.data.rows_read:,} rows{source} whose digest is <code>{fitted.data.sha256}</code>, "
        f"from the seed {fitted.plan.fit.seed}. The manifest has the commit and the packages."
    )


def _list(title: str, sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{_escaped(sentence)}</li>" for sentence in sentences)
    return f"<h3>{_escaped(title)}</h3>\n<ul>{items}</ul>" if sentences else ""


def _plan_text(fitted: "Fitted") -> str:
    """The plan as it was run, without what other recipes it carries and without the folder its table was in."""
    fields = fitted.plan.model_dump(mode="json", exclude={"published"})
    if fields["table"]["path"] is not None:
        fields["table"]["path"] = Path(fields["table"]["path"]).name
    return json.dumps(fields, indent=1, ensure_ascii=False)


def _table(header: str, rows: Iterable[str]) -> str:
    return f'<div class="wide"><table>\n<tr>{header}</tr>\n' + "\n".join(rows) + "\n</table></div>"


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def _escaped(value: object) -> str:
    return html.escape(str(value))
