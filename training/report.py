"""The model card and its plots: what a version predicts, from what, how well, and how its fit went.

`write_report` fills the `report/` folder of a version: `index.html`, which needs nothing but the PNG files beside it.
The same network gives the same bytes: no times, no paths, no names of machines.
"""

import html
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from models.intervals import Intervals, PredictionSets
from models.manifest import Importance, Part, Scores
from models.schema import BooleanFeature, CategoryFeature, DatetimeFeature, Feature, NumberFeature
from training.explain import Explained

if TYPE_CHECKING:
    from training.recipe import Fitted, PartRows  # recipe tells the story and imports this file

INDEX = "index.html"
MOST_POINTS = 2000
"""Rows drawn as points; more hide what is under them."""
MOST_BARS = 20
"""Features whose importance is drawn."""
MOST_REASONS = 8
"""Features that are named in the explanation of a row."""
MOST_COUNTS = 12
"""Classes up to which a confusion matrix shows its numbers."""

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")  # apart for the colour-blind
_INK, _PALE = "#222222", "#B8BEC6"
_LOOK: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _PALE,
    "axes.labelcolor": _INK,
    "axes.axisbelow": True,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


def write_report(folder: Path, fitted: "Fitted") -> None:
    """Write `index.html` and its plots into a folder, which is made if it is absent."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = []
    with _plain_drawing():
        for name, caption, figure in draw_plots(fitted):
            figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
            plots.append((f"{name}.png", caption))
    (folder / INDEX).write_text(card(fitted, plots), "utf-8")


# ------------------------------------------------------------------------------------------------ plots


def draw_plots(fitted: "Fitted") -> Iterator[tuple[str, str, Figure]]:
    """The plots that suit the network: file name without its suffix, caption, figure.

    Data and fit for one number in and a regression; the decision surface for two numbers in and a classification;
    otherwise predicted against actual values, or the confusion matrix. Last, the loss curves, if epochs were run.
    """
    part = _judged(fitted)
    rows = fitted.parts[part]
    numbers = all(isinstance(feature, NumberFeature) for feature in fitted.schema.features)
    inputs = len(fitted.schema.features) if numbers else None
    if fitted.data.classes is None:
        if inputs == 1:
            yield "fit", f"What the network answers, over rows of the {part} part", _draw_fit(fitted, rows)
        else:
            yield "predicted", f"Predicted against actual values of the {part} part", _draw_predicted(fitted, rows)
    elif inputs == 2:
        caption = f"The likeliest class at each point, paler where it is less certain; rows of the {part} part"
        yield "surface", caption, _draw_surface(fitted, rows)
    else:
        yield (
            "confusion",
            f"Rows of the {part} part by their class and the likeliest one",
            _draw_confusion(fitted, rows),
        )
    if fitted.findings is not None and len(fitted.findings.importances) > 1:
        caption = "How much worse the answers get when a feature's values are shuffled; lines hold the value with 95%"
        yield "importance", caption, _draw_importances(fitted.findings.importances)
    if any(fitted.history):
        yield "loss", "Loss after each epoch; pale: members that are not in the network", _draw_losses(fitted)


def _judged(fitted: "Fitted") -> Part:
    """The part that says most about new rows."""
    return "test" if "test" in fitted.parts else "validation"


def _draw_fit(fitted: "Fitted", rows: "PartRows") -> Figure:
    """One panel per target: points, and the network as a line."""
    drawn = _some(len(rows.matrix))
    x, y = rows.matrix[drawn, 0], rows.y[drawn]
    present = x[np.isfinite(x)]
    line = np.linspace(present.min(), present.max(), 600) if len(present) else np.zeros(1)
    answers = fitted.predict(line.astype(rows.matrix.dtype)[:, None])["prediction"]
    figure, panels = _panels(len(fitted.data.targets))
    for k, (axes, target) in enumerate(zip(panels, fitted.data.targets, strict=False)):
        axes.plot(x, y[:, k], ".", color=_PALE, markersize=4, label="rows", rasterized=True)
        axes.plot(line, answers[:, k], color=_COLOURS[0], linewidth=2, label="network")
        axes.set_xlabel(_with_unit(fitted.schema.features[0]))
        axes.set_ylabel(shortened(target))
        axes.legend()
    return figure


def _draw_predicted(fitted: "Fitted", rows: "PartRows") -> Figure:
    """One panel per target: every row at (actual, predicted), and the diagonal where both agree."""
    drawn = _some(len(rows.matrix))
    answers, y = fitted.predict(rows.matrix[drawn])["prediction"], rows.y[drawn]
    size = 8 if len(y) < 50 else 5
    figure, panels = _panels(len(fitted.data.targets))
    for k, (axes, target) in enumerate(zip(panels, fitted.data.targets, strict=False)):
        both = np.concatenate([answers[:, k], y[:, k]])
        ends = [float(both.min()), float(both.max())]
        axes.plot(ends, ends, color=_PALE, linewidth=1.5, zorder=1)
        axes.plot(y[:, k], answers[:, k], ".", color=_COLOURS[0], markersize=size, alpha=0.6)
        axes.set_xlabel(f"actual {shortened(target)}")
        axes.set_ylabel(f"predicted {shortened(target)}")
    return figure


def _draw_surface(fitted: "Fitted", rows: "PartRows") -> Figure:
    """Each class's probability as a filled contour of its colour where it is the likeliest, rows as points on top."""
    classes = fitted.data.classes
    assert classes is not None
    drawn = _some(len(rows.matrix), most=1000)
    points, y = rows.matrix[drawn], rows.y[drawn]
    points = np.where(np.isfinite(points), points, np.nanmedian(points, axis=0))
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.05 * (high - low) + 1e-9
    across, up = (np.linspace(low[i] - margin[i], high[i] + margin[i], 200) for i in range(2))
    grid = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2).astype(rows.matrix.dtype)
    probabilities = fitted.predict(grid)["probabilities"].reshape(200, 200, -1)
    best = probabilities.argmax(axis=-1)
    levels = np.linspace(1 / len(classes), 1, 8)
    figure, axes = _panel(6.0, 4.6)
    for code in np.unique(np.concatenate([best.ravel(), y])):
        colour = _colour(int(code))
        shades = ListedColormap([_mixed(colour, share) for share in np.linspace(0.1, 0.45, len(levels) - 1)])
        certainty = np.ma.masked_where(best != code, probabilities[..., code])
        if certainty.count() > 0:
            axes.contourf(across, up, certainty, levels=levels, cmap=shades, extend="neither", corner_mask=False)
        mine = y == code
        label = shortened(classes[int(code)])
        axes.plot(*points[mine].T, "o", color=colour, markersize=3.5, markeredgewidth=0, alpha=0.8, label=label)
    spans = high - low
    if 0.8 <= (spans[0] + 1e-9) / (spans[1] + 1e-9) <= 1.25:
        axes.set_aspect("equal")  # a circle is a circle
    axes.locator_params(nbins=6)
    axes.set_xlabel(_with_unit(fitted.schema.features[0]))
    axes.set_ylabel(_with_unit(fitted.schema.features[1]))
    if len(classes) <= MOST_COUNTS:
        title = shortened(fitted.data.targets[0])
        figure.legend(title=title, loc="outside right upper", markerscale=2)
    return figure


def _draw_confusion(fitted: "Fitted", rows: "PartRows") -> Figure:
    """Rows by actual and predicted class, shaded by their share of the actual class."""
    classes = fitted.data.classes
    assert classes is not None
    count = len(classes)
    labels = fitted.predict(rows.matrix)["label"]
    counts = np.bincount(rows.y * count + labels, minlength=count * count).reshape(count, count)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(3.2 + 0.45 * count, 8.0)
    figure, axes = _panel(side + 0.6, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"likeliest {shortened(fitted.data.targets[0])}")
    axes.set_ylabel(f"actual {shortened(fitted.data.targets[0])}")
    axes.tick_params(length=0)
    if count > MOST_COUNTS:
        axes.set_xticks([])
        axes.set_yticks([])
        return figure
    names = [shortened(label, most=16) for label in classes]
    slanted = max(map(len, names)) * count > 40
    axes.set_xticks(range(count), names, rotation=30 if slanted else 0, ha="right" if slanted else "center")
    axes.set_yticks(range(count), names)
    for actual, likeliest in np.ndindex(count, count):
        colour = "white" if shares[actual, likeliest] > 0.6 else _INK
        axes.text(likeliest, actual, f"{counts[actual, likeliest]:,}", ha="center", va="center", color=colour)
    return figure


def _draw_importances(importances: Sequence[Importance]) -> Figure:
    """A bar for each of the most important features, with its interval."""
    drawn = importances[:MOST_BARS][::-1]
    figure, axes = _panel(6.0, 0.9 + 0.28 * len(drawn))
    values = np.array([one.value for one in drawn])
    reach = values - np.array([one.low for one in drawn])
    axes.barh(range(len(drawn)), values, color=_COLOURS[0], height=0.7)
    axes.errorbar(values, range(len(drawn)), xerr=reach, fmt="none", ecolor=_INK, elinewidth=1)
    axes.set_yticks(range(len(drawn)), [shortened(one.feature, most=30) for one in drawn])
    axes.axvline(0, color=_PALE, linewidth=1)
    axes.tick_params(axis="y", length=0)
    return figure


def _draw_losses(fitted: "Fitted") -> Figure:
    """Training and validation loss of every member."""
    figure, axes = _panel(6.0, 3.6)
    chosen = {id(member) for member in fitted.chosen}
    members = sorted(fitted.members, key=lambda member: id(member) in chosen)  # the chosen ones on top
    losses = []
    named = False
    for member in members:
        epochs = [epoch.number for epoch in member.history]
        is_chosen = id(member) in chosen
        for k, curve in enumerate(("train_loss", "validation_loss")):
            values = [getattr(epoch, curve) for epoch in member.history]
            losses += values
            label = ("training", "validation")[k] if is_chosen and epochs and not named else None
            colour = _COLOURS[k] if is_chosen else _PALE
            marker = "o" if len(epochs) == 1 else None
            axes.plot(epochs, values, color=colour, linewidth=1.2, alpha=0.8, marker=marker, label=label)
        named = named or (is_chosen and bool(epochs))
    if min(losses) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.grid(visible=True, axis="y", color="#EEF0F2")
    if named:
        axes.legend()
    return figure


# ------------------------------------------------------------------------------------------------ drawing


@contextmanager
def _plain_drawing() -> Iterator[None]:
    """The look of every plot; names in scripts that the font lacks are drawn as boxes, the card spells them out."""
    with rc_context(_LOOK), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        yield


def _panel(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Up to four panels in a row of two or in one column of pairs."""
    count = min(count, 4)
    if count == 1:
        figure, axes = _panel(6.0, 4.0)
        return figure, [axes]
    rows = (count + 1) // 2
    figure = Figure(figsize=(9.0, 3.8 * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, 2, place + 1) for place in range(count)]


def _some(rows: int, most: int = MOST_POINTS) -> npt.NDArray[np.int64]:
    """Numbers of at most `most` rows, evenly spread."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(np.int64))


def _colour(code: int) -> Any:
    return _COLOURS[code] if code < len(_COLOURS) else colormaps["tab20"](code % 20)


def _mixed(colour: Any, share: float) -> tuple[float, ...]:
    """So much of a colour, the rest white."""
    return tuple(1 - share * (1 - part) for part in to_rgb(colour))


def _with_unit(feature: Feature) -> str:
    unit = feature.unit if isinstance(feature, NumberFeature) else None
    return shortened(feature.name) + (f" ({shortened(unit)})" if unit else "")


def shortened(value: object, most: int = 40) -> str:
    """A name as a plot shows it: on one line of at most `most` characters."""
    text = " ".join("".join(mark if mark.isprintable() else " " for mark in str(value)).split())
    return text if len(text) <= most else text[: most - 1] + "…"


# ------------------------------------------------------------------------------------------------ the card

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; font-size: 1.2rem; }
table { border-collapse: collapse; font-size: 0.9rem; } .wide { overflow-x: auto; }
th, td { padding: 0.25rem 0.75rem 0.25rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #b8bec6; font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.network td { font-weight: 600; border-top: 1px solid #e4e7ea; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; } figcaption { color: #555; font-size: 0.9rem; }
pre { background: #f5f6f7; padding: 1rem; overflow-x: auto; font-size: 0.8rem; }
"""


def card(fitted: "Fitted", plots: Sequence[tuple[str, str]]) -> str:
    """The model card, as a whole page; `plots` are files beside it and their captions."""
    name = _escaped(fitted.plan.name)
    sections = [
        f"<h1>{name}</h1>",
        f"<p>{_escaped(fitted.plan.about)}</p>" if fitted.plan.about else "",
        f"<p>{_what_it_does(fitted)}</p>",
        "<h2>How well</h2>",
        _score_table(fitted.scores),
        _calibration(fitted),
        _list("Look at this", fitted.warnings),
        *(_figure_of(file, caption) for file, caption in plots),
        *_found(fitted),
        "<h2>From what</h2>",
        _feature_table(fitted.schema.features),
        "<h2>How it was trained</h2>",
        f"<p>{_how(fitted)}</p>",
        _list("What was done to the table", fitted.notes),
        f"<pre>{_escaped(_plan_text(fitted))}</pre>",
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _what_it_does(fitted: "Fitted") -> str:
    targets = " and ".join(f"<b>{_escaped(target)}</b>" for target in fitted.data.targets)
    features = len(fitted.schema.features)
    source = f"{features} feature{'s' * (features != 1)}"
    if fitted.data.classes is None:
        return f"Predicts {targets} from {source}."
    classes = [_escaped(label) for label in fitted.data.classes[:20]]
    more = len(fitted.data.classes) - len(classes)
    return f"Predicts {targets} ({', '.join(classes)}{f' and {more} more' if more else ''}) from {source}."


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
    header = "".join(f'<th class="number">{_escaped(metric)}</th>' for metric in metrics)
    return _table(f"<th>part</th><th>answers of</th>{header}", rows)


def _calibration(fitted: "Fitted") -> str:
    if fitted.calibration is None:
        return ""
    temperature, rows = fitted.calibration.temperature, fitted.calibration.rows
    return f"<p>Calibrated on {rows:,} validation rows: logits are divided by {temperature:.3g}.</p>"


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
        f"<p>The share of rows whose target lies in its interval, calibrated on {intervals.rows:,} validation rows.</p>"
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
    said = f"<p>The share of rows whose class is in its set, calibrated on {sets.rows:,} validation rows.</p>"
    return said + _table(header, rows)


def _level_cells(level: float, coverage: Sequence[float] | None, number: int) -> str:
    measured = "" if coverage is None else f"{coverage[number]:.1%}"
    return f'<td class="number">{level:.0%}</td><td class="number">{measured}</td>'


def _explanation(fitted: "Fitted", one: Explained) -> str:
    """The features that add most to the answer for a row, and what the others add together."""
    rows = fitted.parts[_judged(fitted)]
    names, values = fitted.schema.names, one.explanation.values[:, one.output]
    order = np.argsort(-np.abs(values), kind="stable")
    lines = []
    for place in order[:MOST_REASONS]:
        value = rows.frame[names[place]][one.row]
        cells = f"<td>{_escaped(names[place])}</td><td>{_escaped(_cell(value))}</td>"
        lines.append(f'<tr>{cells}<td class="number">{values[place]:+.4g}</td></tr>')
    rest = order[MOST_REASONS:]
    if len(rest):
        total = f'<td class="number">{values[rest].sum():+.4g}</td>'
        lines.append(f"<tr><td>{len(rest)} others</td><td></td>{total}</tr>")
    classes = fitted.data.classes
    what = fitted.data.targets[one.output] if classes is None else f"the probability of {classes[one.output]}"
    base = one.explanation.base[one.output]
    said = f"<p>Here {_escaped(what)} is {one.answer:.4g}; {base:.4g} is the mean for rows of the training part.</p>"
    return said + _table('<th>feature</th><th>value</th><th class="number">adds</th>', lines)


def _cell(value: object) -> str:
    return "missing" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


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
            more = len(categories) - 12
            return ", ".join(categories[:12]) + (f" and {more} more" if more > 0 else "")


def _figure_of(file: str, caption: str) -> str:
    name, said = _escaped(file), _escaped(caption)
    return f'<figure><img src="{name}" alt="{said}"><figcaption>{said}.</figcaption></figure>'


def _how(fitted: "Fitted") -> str:
    parts = ", ".join(f"{len(rows.y):,} {part}" for part, rows in fitted.parts.items())
    fitted_ones, linear = len(fitted.members), sum(not member.history for member in fitted.chosen)
    network = f"{len(fitted.chosen) - linear} of {fitted_ones} fitted members" + (" and a linear model" * linear)
    judged = " The test rows chose nothing." if "test" in fitted.parts else ""
    return f"Rows: {parts}.{judged} In the network: {network}. Device: {_escaped(fitted.device)}."


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
