"""What a report draws, chosen by the network: its fit or surface, its errors, how far its probabilities hold, its loss.

Every figure is of the part that says most about new rows, but for the losses.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from models.features import NumberFeature
from models.manifest import Importance, Part
from training.aside import asked
from training.data.rows import spread
from training.judging.metrics import BINS, curves_of
from training.publishing.drawing import (
    COLOURS,
    GRID,
    INK,
    PALE,
    colour,
    panel,
    panels,
    shades,
    shortened,
    with_unit,
)

if TYPE_CHECKING:
    from training.recipe import Fitted, PartRows  # recipe tells the story and imports this file

MOST_POINTS = 2000
"""Rows drawn as points; more hide what is under them."""
MOST_COUNTS = 12
"""Classes up to which a confusion matrix shows its numbers."""
MOST_CURVES = 7
"""Classes that get a curve of their own; the most frequent ones."""
MOST_BARS = 20
"""Features whose importance is drawn."""
_SIDE = 200  # points along each axis of a surface


def judged(fitted: "Fitted") -> Part:
    """The part that says most about new rows."""
    return "test" if "test" in fitted.parts else "validation"


def draw_plots(fitted: "Fitted") -> Iterator[tuple[str, str, Figure]]:
    """The plots that suit the network: name, caption, figure."""
    part = judged(fitted)
    rows = fitted.parts[part]
    numbers = all(isinstance(feature, NumberFeature) for feature in fitted.schema.features)
    inputs = len(fitted.schema.features) if numbers else None
    if fitted.data.classes is None:
        yield from _of_regression(fitted, rows, part, inputs)
    else:
        yield from _of_classification(fitted, rows, part, inputs)
    if fitted.findings is not None and len(fitted.findings.importances) > 1:
        caption = "How much worse the answers get when a feature's values are shuffled; lines hold the value with 95%"
        yield "importance", caption, _draw_importances(fitted.findings.importances)
    if any(fitted.history):
        yield "loss", "Loss after each epoch; pale: members that are not in the network", _draw_losses(fitted)


def _of_regression(
    fitted: "Fitted", rows: "PartRows", part: Part, inputs: int | None
) -> Iterator[tuple[str, str, Figure]]:
    if inputs == 1:
        yield "fit", f"What the network answers, over rows of the {part} part", _draw_fit(fitted, rows)
    elif inputs == 2:
        caption = f"What the network answers at each point; rows of the {part} part in the colour of their value"
        yield "surface", caption, _draw_values(fitted, rows)
    answers = fitted.predict(rows.matrix)["prediction"].astype(np.float64)
    if inputs != 1:
        yield "predicted", f"Predicted against actual values of the {part} part", _draw_predicted(fitted, rows, answers)
    caption = f"What is left of the actual value once the prediction is taken away, in the {part} part"
    yield "residuals", caption, _draw_residuals(fitted, rows, answers)


def _of_classification(
    fitted: "Fitted", rows: "PartRows", part: Part, inputs: int | None
) -> Iterator[tuple[str, str, Figure]]:
    if inputs == 2:
        caption = f"The likeliest class at each point, paler where it is less certain; rows of the {part} part"
        yield "surface", caption, _draw_surface(fitted, rows)
    answers = fitted.predict(rows.matrix)
    caption = f"Rows of the {part} part by their class and the likeliest one"
    yield "confusion", caption, _draw_confusion(fitted, rows, answers["label"])
    drawn = _drawn_classes(fitted, rows.y)
    if drawn:
        caption = f"Each class against the rest, in the {part} part; dashed: a guess"
        yield "curves", caption, _draw_curves(fitted, rows.y, answers["probabilities"], drawn)
    caption = f"How often the likeliest class is right, by its probability, in the {part} part; dashed: as it should be"
    yield "reliability", caption, _draw_reliability(rows.y, answers["probabilities"])


# ------------------------------------------------------------------------------------------------ regression


def _draw_fit(fitted: "Fitted", rows: "PartRows") -> Figure:
    """One panel per target: points, and the network as a line."""
    drawn = spread(len(rows.matrix), MOST_POINTS)
    x, y = rows.matrix[drawn, 0], rows.y[drawn]
    present = x[np.isfinite(x)]
    line = np.linspace(present.min(), present.max(), 600) if len(present) else np.zeros(1)
    answers = fitted.predict(line.astype(rows.matrix.dtype)[:, None])["prediction"]
    figure, drawn_on = panels(len(fitted.data.targets))
    for k, (axes, target) in enumerate(zip(drawn_on, fitted.data.targets, strict=False)):
        axes.plot(x, y[:, k], ".", color=PALE, markersize=4, label="rows", rasterized=True)
        axes.plot(line, answers[:, k], color=COLOURS[0], linewidth=2, label="network")
        axes.set_xlabel(with_unit(fitted.schema.features[0]))
        axes.set_ylabel(shortened(target))
        axes.legend()
    return figure


def _draw_predicted(fitted: "Fitted", rows: "PartRows", predicted: npt.NDArray[np.float64]) -> Figure:
    """One panel per target: every row at (actual, predicted), and the diagonal where both agree."""
    drawn = spread(len(rows.matrix), MOST_POINTS)
    answers, y = predicted[drawn], rows.y[drawn]
    size = 12 if len(y) < 50 else 7 if len(y) < 500 else 3.5
    figure, drawn_on = panels(len(fitted.data.targets))
    for k, (axes, target) in enumerate(zip(drawn_on, fitted.data.targets, strict=False)):
        both = np.concatenate([answers[:, k], y[:, k]])
        ends = [float(both.min()), float(both.max())]
        axes.plot(ends, ends, color=PALE, linewidth=1.5, zorder=1)
        _draw_rows(axes, y[:, k], answers[:, k], COLOURS[0], marker=".", markersize=size)
        axes.set_xlabel(f"actual {shortened(target)}")
        axes.set_ylabel(f"predicted {shortened(target)}")
    return figure


def _draw_residuals(fitted: "Fitted", rows: "PartRows", predicted: npt.NDArray[np.float64]) -> Figure:
    """For each target: every row at (predicted, residual), and beside it how the residuals are spread."""
    residuals = rows.y - predicted
    drawn = spread(len(residuals), MOST_POINTS)
    shown = fitted.data.targets[:4]
    figure = Figure(figsize=(9.0, 3.2 * len(shown)), layout="constrained")
    grid = figure.add_gridspec(len(shown), 2, width_ratios=[3, 1])
    for k, target in enumerate(shown):
        axes = figure.add_subplot(grid[k, 0])
        axes.axhline(0, color=PALE, linewidth=1.5)
        _draw_rows(axes, predicted[drawn, k], residuals[drawn, k], COLOURS[0])
        axes.set_xlabel(f"predicted {shortened(target)}")
        axes.set_ylabel("actual less predicted")
        beside = figure.add_subplot(grid[k, 1], sharey=axes)
        beside.hist(residuals[:, k], bins=30, orientation="horizontal", color=COLOURS[0], alpha=0.7)
        beside.tick_params(labelleft=False)
        beside.set_xlabel("rows")
    return figure


def _draw_rows(axes: Axes, x: npt.NDArray[Any], y: npt.NDArray[Any], of: Any, **look: Any) -> None:
    """A point for each row, in one colour."""
    points: dict[str, Any] = {"marker": "o", "markersize": 3.5, "alpha": 0.6} | look
    axes.plot(x, y, color=of, linestyle="none", markeredgewidth=0, rasterized=True, **points)


def _draw_values(fitted: "Fitted", rows: "PartRows") -> Figure:
    """The first target's prediction as a surface, rows as points in the colour of their actual value."""
    points, y, across, up, answers = _plane(fitted, rows)
    values = answers["prediction"][:, 0].reshape(_SIDE, _SIDE)
    low, high = min(values.min(), y[:, 0].min()), max(values.max(), y[:, 0].max())
    figure, axes = panel(4.8, 3.8)
    extent = (across[0], across[-1], up[0], up[-1])
    filled = axes.imshow(values, origin="lower", extent=extent, aspect="auto", vmin=low, vmax=high, alpha=0.8)
    axes.scatter(
        points[:, 0], points[:, 1], c=y[:, 0], cmap="viridis", vmin=low, vmax=high, s=14, rasterized=True,
        edgecolors="white", linewidths=0.5,
    )  # fmt: skip
    figure.colorbar(filled, ax=axes, label=shortened(fitted.data.targets[0]))
    _name_plane(fitted, axes, across, up)
    return figure


def _plane(fitted: "Fitted", rows: "PartRows") -> tuple[Any, ...]:
    """Rows as points, their targets, the values along both axes, and the network's answers on the grid of them."""
    drawn = spread(len(rows.matrix), 1000)
    points, y = rows.matrix[drawn], rows.y[drawn]
    present = [column[np.isfinite(column)] for column in points.T]
    middle = [np.median(values) if len(values) else 0.0 for values in present]  # of a rare one no row may have any
    points = np.where(np.isfinite(points), points, np.array(middle, points.dtype))
    low, high = points.min(axis=0), points.max(axis=0)
    margin = np.where(high > low, 0.05 * (high - low), 0.5)
    across, up = (np.linspace(low[i] - margin[i], high[i] + margin[i], _SIDE) for i in range(2))
    grid = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2).astype(rows.matrix.dtype)
    return points, y, across, up, fitted.predict(grid)


def _name_plane(fitted: "Fitted", axes: Axes, across: npt.NDArray[Any], up: npt.NDArray[Any]) -> None:
    if 0.8 <= np.ptp(across) / np.ptp(up) <= 1.25:
        axes.set_aspect("equal")  # a circle is a circle
    axes.locator_params(nbins=6)
    axes.set_xlabel(with_unit(fitted.schema.features[0]))
    axes.set_ylabel(with_unit(fitted.schema.features[1]))


# ------------------------------------------------------------------------------------------------ classification


def _draw_surface(fitted: "Fitted", rows: "PartRows") -> Figure:
    """The colour of the likeliest class at each point, paler where it is less certain, rows as points on top."""
    classes = fitted.data.classes
    assert classes is not None
    points, y, across, up, answers = _plane(fitted, rows)
    probabilities = answers["probabilities"].reshape(_SIDE, _SIDE, -1)
    best = probabilities.argmax(axis=-1)
    least = 1 / len(classes)  # of C classes the likeliest has at least 1/C
    strength = 0.1 + 0.45 * (probabilities.max(axis=-1) - least) / (1 - least)
    colours = {int(code): colour(int(code)) for code in np.unique(np.concatenate([best.ravel(), y]))}
    image = np.zeros((_SIDE, _SIDE, 4))
    for code, of_class in colours.items():
        image[best == code, :3] = to_rgb(of_class)
    image[..., 3] = strength
    figure, axes = panel(4.8, 3.8)
    axes.imshow(image, origin="lower", extent=(across[0], across[-1], up[0], up[-1]), aspect="auto")
    for code, of_class in colours.items():
        mine = points[y == code]
        _draw_rows(axes, mine[:, 0], mine[:, 1], of_class, alpha=0.8, label=shortened(classes[code]))
    _name_plane(fitted, axes, across, up)
    if len(classes) <= MOST_COUNTS:
        title = shortened(fitted.data.targets[0])
        figure.legend(title=title, loc="outside right upper", markerscale=2)
    return figure


def _draw_confusion(fitted: "Fitted", rows: "PartRows", labels: npt.NDArray[Any]) -> Figure:
    """Rows by actual and predicted class, shaded by their share of the actual class."""
    classes = fitted.data.classes
    assert classes is not None
    count = len(classes)
    counts = np.bincount(rows.y * count + labels, minlength=count * count).reshape(count, count)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(2.6 + 0.4 * count, 8.0)
    figure, axes = panel(side + 0.6, side)
    axes.imshow(shares, cmap=shades(COLOURS[0], 0.0, 1.0, 256), vmin=0, vmax=1)
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
        ink = "white" if shares[actual, likeliest] > 0.6 else INK
        axes.text(likeliest, actual, f"{counts[actual, likeliest]:,}", ha="center", va="center", color=ink)
    return figure


def _drawn_classes(fitted: "Fitted", y: npt.NDArray[Any]) -> Sequence[int]:
    """Classes whose curves are drawn: some rows have them and others have not. Of two, the second says it all."""
    classes = fitted.data.classes
    assert classes is not None
    counts = np.bincount(y, minlength=len(classes))
    mixed = [code for code in range(len(classes)) if 0 < counts[code] < len(y)]
    if len(classes) == 2:
        return mixed[-1:]
    return sorted(sorted(mixed, key=lambda code: -counts[code])[:MOST_CURVES])


def _draw_curves(
    fitted: "Fitted", y: npt.NDArray[Any], probabilities: npt.NDArray[Any], drawn: Sequence[int]
) -> Figure:
    """Receiver operating characteristic, and precision over recall, of each class against the rest."""
    classes = fitted.data.classes
    assert classes is not None
    figure, (left, right) = panels(2, height=4.2)
    for place, code in enumerate(drawn):
        is_class, score = y == code, probabilities[:, code]
        (false_rate, true_rate, area), (recall, precision, mean) = asked(curves_of, is_class, score)
        name, of_class = shortened(classes[code], most=16), colour(place)
        left.plot(*_thinned(false_rate, true_rate), color=of_class, linewidth=1.6, label=f"{name}, area {area:.3f}")
        right.step(
            *_thinned(recall, precision), color=of_class, linewidth=1.6, where="post", label=f"{name}, mean {mean:.3f}"
        )
        right.axhline(is_class.mean(), color=of_class, linewidth=1, linestyle=(0, (4, 3)), alpha=0.6)
    left.plot([0, 1], [0, 1], color=PALE, linewidth=1, linestyle=(0, (4, 3)))
    for axes, across, up in ((left, "false positive rate", "true positive rate"), (right, "recall", "precision")):
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.04)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.legend(loc="lower right" if axes is left else "lower left", fontsize=9)
    return figure


def _thinned(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """A curve of at most 1000 points: of 200,000 rows it would otherwise have as many."""
    kept = spread(len(x), 1000)
    return x[kept], y[kept]


def _draw_reliability(y: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> Figure:
    """Accuracy over confidence in equal bins (Guo et al. 2017, section 2), and below it how many rows each bin has."""
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == y
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    held = np.flatnonzero(counts)
    accuracy = np.bincount(bins, right, minlength=BINS)[held] / counts[held]
    mean = np.bincount(bins, confidence, minlength=BINS)[held] / counts[held]
    figure = Figure(figsize=(4.8, 3.9), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    least = 1 / probabilities.shape[1]  # the likeliest of C classes has at least 1/C
    upper.plot([least, 1], [least, 1], color=PALE, linewidth=1, linestyle=(0, (4, 3)))
    spread = np.sqrt(accuracy * (1 - accuracy) / counts[held])
    upper.errorbar(mean, accuracy, yerr=spread, color=COLOURS[0], marker="o", markersize=5, linewidth=1.6, elinewidth=1)
    upper.set_ylabel("share that is right")
    upper.set_ylim(-0.02, 1.04)
    lower.bar((np.arange(BINS) + 0.5) / BINS, counts, width=0.9 / BINS, color=COLOURS[0], alpha=0.7)
    lower.set_xlim(max(0.0, least - 0.05), 1.02)
    lower.set_ylabel("rows")
    lower.set_xlabel("probability of the likeliest class")
    return figure


# ------------------------------------------------------------------------------------------------ the fit


def _draw_importances(importances: Sequence[Importance]) -> Figure:
    """A bar for each of the most important features, with its interval."""
    drawn = importances[:MOST_BARS][::-1]
    figure, axes = panel(4.8, 0.9 + 0.28 * len(drawn))
    values = np.array([one.value for one in drawn])
    reach = values - np.array([one.low for one in drawn])
    axes.barh(range(len(drawn)), values, color=COLOURS[0], height=0.7)
    axes.errorbar(values, range(len(drawn)), xerr=reach, fmt="none", ecolor=INK, elinewidth=1)
    axes.set_yticks(range(len(drawn)), [shortened(one.feature, most=30) for one in drawn])
    axes.axvline(0, color=PALE, linewidth=1)
    axes.tick_params(axis="y", length=0)
    return figure


def _draw_losses(fitted: "Fitted") -> Figure:
    """Training and validation loss of every member."""
    figure, axes = panel(4.8, 3.6)
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
            shown = COLOURS[k] if is_chosen else PALE
            marker = "o" if len(epochs) == 1 else None
            axes.plot(epochs, values, color=shown, linewidth=1.2, alpha=0.8, marker=marker, label=label)
        named = named or (is_chosen and bool(epochs))
    if min(losses) > 0:
        axes.set_yscale("log")
        decades = np.log10(max(losses) / min(losses))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.grid(visible=True, axis="y", color=GRID)
    if named:
        axes.legend()
    return figure
