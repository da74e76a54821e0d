"""What a report draws, chosen by the network: its fit or surface, its errors, how far its probabilities hold, its loss.

Every figure is of the part that says most about new rows, but for the losses.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.manifest import Importance, Part
from models.schema import NumberFeature
from training.drawing import (
    COLOURS,
    INK,
    PALE,
    Axes,
    Figure,
    colour,
    panel,
    panels,
    rgb,
    shades,
    shortened,
    some,
    with_unit,
)
from training.evaluate import BINS
from training.ranking import average_precision, precision_recall_curve, roc_auc, roc_curve

if TYPE_CHECKING:
    from training.recipe import Fitted, PartRows  # recipe tells the story and imports this file

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
    drawn = some(len(rows.matrix))
    x, y = rows.matrix[drawn, 0], rows.y[drawn]
    present = x[np.isfinite(x)]
    line = np.linspace(present.min(), present.max(), 600) if len(present) else np.zeros(1)
    answers = fitted.predict(line.astype(rows.matrix.dtype)[:, None])["prediction"]
    figure, drawn_on = panels(len(fitted.data.targets))
    for k, (axes, target) in enumerate(zip(drawn_on, fitted.data.targets, strict=False)):
        axes.dots(x, y[:, k], PALE, 4)
        axes.line(line, answers[:, k], COLOURS[0], 2)
        axes.legend = [("rows", PALE), ("network", COLOURS[0])]
        axes.across, axes.up = with_unit(fitted.schema.features[0]), shortened(target)
    return figure


def _draw_predicted(fitted: "Fitted", rows: "PartRows", predicted: npt.NDArray[np.float64]) -> Figure:
    """One panel per target: every row at (actual, predicted), and the diagonal where both agree."""
    drawn = some(len(rows.matrix))
    answers, y = predicted[drawn], rows.y[drawn]
    size = 9 if len(y) < 50 else 6 if len(y) < 500 else 3.5
    figure, drawn_on = panels(len(fitted.data.targets))
    for k, (axes, target) in enumerate(zip(drawn_on, fitted.data.targets, strict=False)):
        both = np.concatenate([answers[:, k], y[:, k]])
        ends = [float(both.min()), float(both.max())]
        axes.line(ends, ends, PALE, 1.5)
        axes.dots(y[:, k], answers[:, k], COLOURS[0], size, 0.6)
        axes.across, axes.up = f"actual {shortened(target)}", f"predicted {shortened(target)}"
    return figure


def _draw_residuals(fitted: "Fitted", rows: "PartRows", predicted: npt.NDArray[np.float64]) -> Figure:
    """For each target: every row at (predicted, residual), and beside it how the residuals are spread."""
    residuals = rows.y - predicted
    drawn = some(len(residuals))
    shown = fitted.data.targets[:4]
    cells: list[tuple[Axes, float, float, float, float]] = []
    for k, target in enumerate(shown):
        low, high = residuals[:, k].min(), residuals[:, k].max()
        margin = 0.05 * (high - low) or 0.5
        axes, beside = Axes(y=(low - margin, high + margin)), Axes(y=(low - margin, high + margin), y_ticks=())
        cells += [(axes, 0, 307 * k, 620, 307), (beside, 620, 307 * k, 244, 307)]
        axes.line([predicted[drawn, k].min(), predicted[drawn, k].max()], [0, 0], PALE, 1.5)
        axes.dots(predicted[drawn, k], residuals[drawn, k], COLOURS[0], 4.5, 0.6)
        axes.across, axes.up = f"predicted {shortened(target)}", "actual less predicted"
        counts, edges = np.histogram(residuals[:, k], bins=30)
        beside.boxes(0, edges[:-1], counts, edges[1:], COLOURS[0], opacity=0.7)
        beside.x, beside.across = (0, 1.05 * counts.max()), "rows"
    return Figure(864, 307 * len(shown), cells)


def _draw_values(fitted: "Fitted", rows: "PartRows") -> Figure:
    """The first target's prediction as a surface, rows as points in the colour of their actual value."""
    points, y, across, up, answers = _plane(fitted, rows)
    values = answers["prediction"][:, 0].reshape(_SIDE, _SIDE)
    low, high = min(values.min(), y[:, 0].min()), max(values.max(), y[:, 0].max())
    share = 1 / (high - low if high > low else 1.0)
    axes, bar = Axes(), Axes(x=(0, 1), x_ticks=(), up=shortened(fitted.data.targets[0]), has_frame=False)
    strong = np.full((_SIDE, _SIDE, 1), 204)
    axes.picture(_pixels(shades((values - low) * share), strong), (across[0], across[-1]), (up[0], up[-1]))
    axes.dots(points[:, 0], points[:, 1], "white", 6)
    tones = np.round(63 * (y[:, 0] - low) * share)
    for tone in np.unique(tones):
        mine = tones == tone
        axes.dots(points[mine, 0], points[mine, 1], _hex(shades(np.array(tone / 63))), 4.5)
    steps = np.linspace(0, 1, 64)[:, None]
    bar.picture(_pixels(shades(steps), strong[:64, :1]), (0, 1), (low, high if high > low else low + 1))
    bar.y = (low, high if high > low else low + 1)
    _name_plane(fitted, axes, across, up)
    return Figure(500, 365, [(axes, 0, 0, 400, 365), (bar, 400, 0, 100, 365)])


def _plane(fitted: "Fitted", rows: "PartRows") -> tuple[Any, ...]:
    """Rows as points, their targets, the values along both axes, and the network's answers on the grid of them."""
    drawn = some(len(rows.matrix), most=1000)
    points, y = rows.matrix[drawn], rows.y[drawn]
    points = np.where(np.isfinite(points), points, np.nanmedian(points, axis=0))
    low, high = points.min(axis=0), points.max(axis=0)
    margin = np.where(high > low, 0.05 * (high - low), 0.5)
    across, up = (np.linspace(low[i] - margin[i], high[i] + margin[i], _SIDE) for i in range(2))
    grid = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2).astype(rows.matrix.dtype)
    return points, y, across, up, fitted.predict(grid)


def _name_plane(fitted: "Fitted", axes: Axes, across: npt.NDArray[Any], up: npt.NDArray[Any]) -> None:
    axes.is_equal = bool(0.8 <= np.ptp(across) / np.ptp(up) <= 1.25)
    axes.x, axes.y = (across[0], across[-1]), (up[0], up[-1])
    axes.across, axes.up = with_unit(fitted.schema.features[0]), with_unit(fitted.schema.features[1])


def _pixels(colours: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Colours [H, W, 3] and their strength [H, W, 1], from 0 to 255, as a picture."""
    return np.concatenate([colours, alpha], axis=-1).round().astype(np.uint8)


def _hex(colours: npt.NDArray[Any]) -> str:
    return "#" + "".join(f"{round(float(value)):02x}" for value in colours)


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
    image = np.zeros((_SIDE, _SIDE, 3))
    figure, axes = panel(461, 365)
    for code, of_class in colours.items():
        image[best == code] = rgb(of_class)
    pixels = _pixels(image, 255 * strength[..., None])
    axes.picture(pixels, (across[0], across[-1]), (up[0], up[-1]))
    for code, of_class in colours.items():
        axes.dots(points[y == code, 0], points[y == code, 1], of_class, 3.5, 0.8)
    _name_plane(fitted, axes, across, up)
    if len(classes) <= MOST_COUNTS:
        axes.legend = [(shortened(classes[code], most=20), of_class) for code, of_class in colours.items()]
    return figure


def _draw_confusion(fitted: "Fitted", rows: "PartRows", labels: npt.NDArray[Any]) -> Figure:
    """Rows by actual and predicted class, shaded by their share of the actual class."""
    classes = fitted.data.classes
    assert classes is not None
    count = len(classes)
    counts = np.bincount(rows.y * count + labels, minlength=count * count).reshape(count, count)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(250 + 38 * count, 770)
    figure, axes = panel(side + 60, side)
    blue = np.broadcast_to(rgb(COLOURS[0]), (count, count, 3))
    edges = (-0.5, count - 0.5)
    axes.picture(_pixels(blue, 255 * shares[::-1, :, None]), edges, edges)
    target = shortened(fitted.data.targets[0])
    axes.across, axes.up, axes.x, axes.y = f"likeliest {target}", f"actual {target}", edges, edges
    axes.x_ticks, axes.y_ticks, axes.has_frame, axes.is_equal = (), (), False, True
    if count > MOST_COUNTS:
        return figure
    names = [shortened(label, most=16) for label in classes]
    axes.is_slanted = max(map(len, names)) * count > 40
    axes.x_ticks = list(enumerate(names))
    axes.y_ticks = [(count - 1 - code, name) for code, name in enumerate(names)]  # the first class stands on top
    for actual, likeliest in np.ndindex(count, count):
        ink = "white" if shares[actual, likeliest] > 0.6 else INK
        axes.text(likeliest, count - 1 - actual, f"{counts[actual, likeliest]:,}", ink)
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
    figure, (left, right) = panels(2, height=403)
    for place, code in enumerate(drawn):
        is_class, score = y == code, probabilities[:, code]
        false_rate, true_rate = roc_curve(is_class, score)
        precision, recall = precision_recall_curve(is_class, score)
        area = roc_auc(is_class, score)
        mean = average_precision(is_class, score)
        name, of_class = shortened(classes[code], most=16), colour(place)
        left.line(*_thinned(false_rate, true_rate), of_class)
        left.legend.append((f"{name}, area {area:.3f}", of_class))
        right.line(*_steps(*_thinned(recall, precision)), of_class)
        right.legend.append((f"{name}, mean {mean:.3f}", of_class))
        right.line([0, 1], [is_class.mean()] * 2, of_class, 1, 0.6, dashed=True)
    left.line([0, 1], [0, 1], PALE, 1, dashed=True)
    left.across, left.up = "false positive rate", "true positive rate"
    right.across, right.up = "recall", "precision"
    for axes in (left, right):
        axes.x, axes.y = (-0.02, 1.02), (-0.02, 1.04)
    return figure


def _thinned(x: npt.NDArray[Any], y: npt.NDArray[Any], most: int = 1000) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """A curve of at most `most` points: of 200,000 rows it would otherwise have as many."""
    kept = some(len(x), most)
    return x[kept], y[kept]


def _steps(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Through the points by upright and level lines; on the way to a point its height holds."""
    return np.repeat(x, 2)[:-1], np.repeat(y, 2)[1:]


def _draw_reliability(y: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> Figure:
    """Accuracy over confidence in equal bins (Guo et al. 2017, section 2), and below it how many rows each bin has."""
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == y
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    held = np.flatnonzero(counts)
    accuracy = np.bincount(bins, right, minlength=BINS)[held] / counts[held]
    mean = np.bincount(bins, confidence, minlength=BINS)[held] / counts[held]
    least = 1 / probabilities.shape[1]  # the likeliest of C classes has at least 1/C
    x = (max(0.0, least - 0.05), 1.02)
    upper = Axes(up="share that is right", x=x, y=(-0.02, 1.04), x_ticks=())
    lower = Axes(up="rows", across="probability of the likeliest class", x=x, y=(0, 1.05 * counts.max()))
    upper.line([least, 1], [least, 1], PALE, 1, dashed=True)
    spread = np.sqrt(accuracy * (1 - accuracy) / counts[held])
    upper.spans(mean, accuracy - spread, mean, accuracy + spread, COLOURS[0])
    upper.line(mean, accuracy, COLOURS[0])
    upper.dots(mean, accuracy, COLOURS[0], 6)
    middles = (np.arange(BINS) + 0.5) / BINS
    lower.boxes(middles - 0.45 / BINS, 0, middles + 0.45 / BINS, counts, COLOURS[0], opacity=0.7)
    lower.y_ticks = [(0, "0"), (int(counts.max()), f"{counts.max():,}")]
    return Figure(461, 375, [(upper, 0, 0, 461, 255), (lower, 0, 255, 461, 120)])


# ------------------------------------------------------------------------------------------------ the fit


def _draw_importances(importances: Sequence[Importance]) -> Figure:
    """A bar for each of the most important features, with its interval."""
    drawn = importances[:MOST_BARS][::-1]
    figure, axes = panel(461, 60 + 27 * len(drawn))
    values, places = np.array([one.value for one in drawn]), np.arange(len(drawn))
    axes.boxes(0, places - 0.35, values, places + 0.35, COLOURS[0])
    axes.spans([one.low for one in drawn], places, [one.high for one in drawn], places, INK)
    axes.spans(0, -0.6, 0, len(drawn) - 0.4, PALE)
    axes.y = (-0.6, len(drawn) - 0.4)
    axes.y_ticks = [(place, shortened(one.feature, most=30)) for place, one in enumerate(drawn)]
    return figure


def _draw_losses(fitted: "Fitted") -> Figure:
    """Training and validation loss of every member."""
    figure, axes = panel(461, 346)
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
            shown = COLOURS[k] if is_chosen else PALE
            axes.line(epochs, values, shown, 1.2, 0.8)
            if len(epochs) == 1:
                axes.dots(epochs, values, shown, 6, 0.8)
        named = named or (is_chosen and bool(epochs))
    axes.is_log = min(losses) > 0
    axes.across, axes.up, axes.has_grid = "epoch", "loss", True
    if named:
        axes.legend = [("training", COLOURS[0]), ("validation", COLOURS[1])]
    return figure
