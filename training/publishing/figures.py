"""The figures of a report, each drawn from arrays and names.

Nothing is imported here that the process of `training/aside.py` would have to wait for.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from training.data.spread import spread
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
from training.publishing.drawn import Axis, Numbers, Plane

MOST_COUNTS = 12
"""Classes up to which a confusion matrix shows its numbers."""

# ------------------------------------------------------------------------------------------------ regression


def draw_fit(rows: tuple[Numbers, Numbers], fit: tuple[Numbers, Numbers], axis: Axis, targets: Sequence[str]) -> Figure:
    """One panel per target: points, and the network as a line.

    Shape:
        rows: x [N], y [N, K]; fit: x [M], y [M, K]
    """
    figure, drawn_on = panels(len(targets))
    for k, (axes, target) in enumerate(zip(drawn_on, targets, strict=False)):
        axes.plot(rows[0], rows[1][:, k], ".", color=PALE, markersize=4, label="rows", rasterized=True)
        axes.plot(fit[0], fit[1][:, k], color=COLOURS[0], linewidth=2, label="network")
        axes.set_xlabel(with_unit(*axis))
        axes.set_ylabel(shortened(target))
        axes.legend()
    return figure


def draw_predicted(y: Numbers, answers: Numbers, targets: Sequence[str]) -> Figure:
    """One panel per target: every row at (actual, predicted), and the diagonal where both agree.

    Shape:
        y, answers: [N, K]
    """
    size = 12 if len(y) < 50 else 7 if len(y) < 500 else 3.5
    figure, drawn_on = panels(len(targets))
    for k, (axes, target) in enumerate(zip(drawn_on, targets, strict=False)):
        both = np.concatenate([answers[:, k], y[:, k]])
        ends = [float(both.min()), float(both.max())]
        axes.plot(ends, ends, color=PALE, linewidth=1.5, zorder=1)
        _draw_rows(axes, y[:, k], answers[:, k], COLOURS[0], marker=".", markersize=size)
        axes.set_xlabel(f"actual {shortened(target)}")
        axes.set_ylabel(f"predicted {shortened(target)}")
    return figure


def draw_residuals(predicted: Numbers, residuals: Numbers, drawn: Numbers, targets: Sequence[str]) -> Figure:
    """For each target: some rows at (predicted, residual), and beside it how all residuals are spread.

    Shape:
        predicted, residuals: [N, K]; drawn: the numbers of the rows that are points
    """
    shown = targets[:4]
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


def _draw_rows(axes: Axes, x: Numbers, y: Numbers, of: Any, **look: Any) -> None:
    """A point for each row, in one colour."""
    points: dict[str, Any] = {"marker": "o", "markersize": 3.5, "alpha": 0.6} | look
    axes.plot(x, y, color=of, linestyle="none", markeredgewidth=0, rasterized=True, **points)


def draw_values(plane: Plane, target: str) -> Figure:
    """The prediction as a surface, rows as points in the colour of their actual value."""
    points, y, across, up, answers, _ = plane
    values = answers[..., 0]
    low, high = min(values.min(), y.min()), max(values.max(), y.max())
    figure, axes = panel(4.8, 3.8)
    extent = (across[0], across[-1], up[0], up[-1])
    filled = axes.imshow(values, origin="lower", extent=extent, aspect="auto", vmin=low, vmax=high, alpha=0.8)
    axes.scatter(
        points[:, 0], points[:, 1], c=y, cmap="viridis", vmin=low, vmax=high, s=14, rasterized=True,
        edgecolors="white", linewidths=0.5,
    )  # fmt: skip
    figure.colorbar(filled, ax=axes, label=shortened(target))
    _name_plane(plane, axes)
    return figure


def _name_plane(plane: Plane, axes: Axes) -> None:
    width, height = np.ptp(plane.across), np.ptp(plane.up)
    if 0.8 * height <= width <= 1.25 * height:
        axes.set_aspect("equal")  # a circle is a circle
    axes.locator_params(nbins=6)
    axes.set_xlabel(with_unit(*plane.axes[0]))
    axes.set_ylabel(with_unit(*plane.axes[1]))


# ------------------------------------------------------------------------------------------------ classification


def draw_surface(plane: Plane, target: str, classes: Sequence[str]) -> Figure:
    """The colour of the likeliest class at each point, paler where it is less certain, rows as points on top."""
    points, y, across, up, probabilities, _ = plane
    best = probabilities.argmax(axis=-1)
    least = 1 / len(classes)  # of C classes the likeliest has at least 1/C
    strength = 0.1 + 0.45 * (probabilities.max(axis=-1) - least) / (1 - least)
    colours = {int(code): colour(int(code)) for code in np.unique(np.concatenate([best.ravel(), y]))}
    image = np.zeros((*best.shape, 4))
    for code, of_class in colours.items():
        image[best == code, :3] = to_rgb(of_class)
    image[..., 3] = strength
    figure, axes = panel(4.8, 3.8)
    axes.imshow(image, origin="lower", extent=(across[0], across[-1], up[0], up[-1]), aspect="auto")
    for code, of_class in colours.items():
        mine = points[y == code]
        _draw_rows(axes, mine[:, 0], mine[:, 1], of_class, alpha=0.8, label=shortened(classes[code]))
    _name_plane(plane, axes)
    if len(classes) <= MOST_COUNTS:
        figure.legend(title=shortened(target), loc="outside right upper", markerscale=2)
    return figure


def draw_confusion(y: Numbers, labels: Numbers, target: str, classes: Sequence[str]) -> Figure:
    """Rows by actual and predicted class, shaded by their share of the actual class."""
    count = len(classes)
    counts = np.bincount(y * count + labels, minlength=count * count).reshape(count, count)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(2.6 + 0.4 * count, 8.0)
    figure, axes = panel(side + 0.6, side)
    axes.imshow(shares, cmap=shades(COLOURS[0], 0.0, 1.0, 256), vmin=0, vmax=1)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"likeliest {shortened(target)}")
    axes.set_ylabel(f"actual {shortened(target)}")
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


def draw_curves(curves: Sequence[tuple[str, Numbers, Numbers]]) -> Figure:
    """Receiver operating characteristic, and precision over recall, of each class against the rest.

    Shape:
        curves: the name of a class, whether a row is of it [N], and its probability [N]
    """
    figure, (left, right) = panels(2, height=4.2)
    for place, (label, is_class, score) in enumerate(curves):
        (false_rate, true_rate, area), (recall, precision, mean) = curves_of(is_class, score)
        name, of_class = shortened(label, most=16), colour(place)
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


def _thinned(x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
    """A curve of at most 1000 points: of 200,000 rows it would otherwise have as many."""
    kept = spread(len(x), 1000)
    return x[kept], y[kept]


def draw_reliability(y: Numbers, probabilities: Numbers) -> Figure:
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


def draw_importances(bars: Sequence[tuple[str, float, float]]) -> Figure:
    """A bar for each feature: its name, its importance, and the lower end of its interval."""
    drawn = bars[::-1]
    figure, axes = panel(4.8, 0.9 + 0.28 * len(drawn))
    values = np.array([value for _, value, _ in drawn])
    reach = values - np.array([low for _, _, low in drawn])
    axes.barh(range(len(drawn)), values, color=COLOURS[0], height=0.7)
    axes.errorbar(values, range(len(drawn)), xerr=reach, fmt="none", ecolor=INK, elinewidth=1)
    axes.set_yticks(range(len(drawn)), [shortened(name, most=30) for name, _, _ in drawn])
    axes.axvline(0, color=PALE, linewidth=1)
    axes.tick_params(axis="y", length=0)
    return figure


def draw_losses(members: Sequence[tuple[Sequence[tuple[float, float]], bool]]) -> Figure:
    """Training and validation loss of every member after each epoch, and whether it is in the network."""
    figure, axes = panel(4.8, 3.6)
    losses: list[float] = []
    named = False
    for history, is_chosen in sorted(members, key=lambda member: member[1]):  # the chosen ones on top
        epochs = range(1, len(history) + 1)
        for k, name in enumerate(("training", "validation")):
            values = [both[k] for both in history]
            losses += values
            label = name if is_chosen and history and not named else None
            shown = COLOURS[k] if is_chosen else PALE
            marker = "o" if len(history) == 1 else None
            axes.plot(epochs, values, color=shown, linewidth=1.2, alpha=0.8, marker=marker, label=label)
        named = named or (is_chosen and bool(history))
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
