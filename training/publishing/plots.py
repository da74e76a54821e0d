"""What a report draws, chosen by the network: its fit or surface, its errors, how far its probabilities hold, its loss.

Every figure is of the part that says most about new rows, but for the losses. How each is drawn is in `figures.py`.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from models.features import NumberFeature
from models.manifest import Part
from training.data.spread import spread
from training.publishing.drawn import Axis, Numbers, Plane, Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from training.recipe import Fitted, PartRows  # recipe tells the story and imports this file

MOST_POINTS = 2000
"""Rows drawn as points; more hide what is under them."""
MOST_CURVES = 7
"""Classes that get a curve of their own; the most frequent ones."""
MOST_BARS = 20
"""Features whose importance is drawn."""
_SIDE = 200  # points along each axis of a surface


def judged(fitted: "Fitted") -> Part:
    """The part that says most about new rows."""
    return "test" if "test" in fitted.parts else "validation"


def draw_plots(fitted: "Fitted") -> Iterator[tuple[str, str, "Figure"]]:
    """The plots that suit the network: name, caption, figure."""
    for plot in (*plots_of(fitted), *plots_of_findings(fitted)):
        yield plot.name, plot.caption, plot.draw()


def plots_of(fitted: "Fitted") -> Iterator[Plot]:
    """The plots that wait for no findings."""
    part = judged(fitted)
    rows = fitted.parts[part]
    numbers = all(isinstance(feature, NumberFeature) for feature in fitted.schema.features)
    inputs = len(fitted.schema.features) if numbers else None
    if fitted.data.classes is None:
        yield from _of_regression(fitted, rows, part, inputs)
    else:
        yield from _of_classification(fitted, rows, part, inputs)
    if any(fitted.history):
        caption = "Loss after each epoch; pale: members that are not in the network"
        chosen = {id(member) for member in fitted.chosen}
        losses = [
            ([(epoch.train_loss, epoch.validation_loss) for epoch in member.history], id(member) in chosen)
            for member in fitted.members
        ]
        yield Plot("loss", caption, "draw_losses", (losses,))


def plots_of_findings(fitted: "Fitted") -> Iterator[Plot]:
    """The plots of what was found beyond the scores."""
    if fitted.findings is not None and len(fitted.findings.importances) > 1:
        caption = "How much worse the answers get when a feature's values are shuffled; lines hold the value with 95%"
        bars = [(one.feature, one.value, one.low) for one in fitted.findings.importances[:MOST_BARS]]
        yield Plot("importance", caption, "draw_importances", (bars,))


def _of_regression(fitted: "Fitted", rows: "PartRows", part: Part, inputs: int | None) -> Iterator[Plot]:
    targets, y = fitted.data.targets, rows.y
    drawn = spread(len(y), MOST_POINTS)
    if inputs == 1:
        x = rows.matrix[drawn, 0]
        present = x[np.isfinite(x)]
        line = np.linspace(present.min(), present.max(), 600) if len(present) else np.zeros(1)
        fit = fitted.predict(line.astype(rows.matrix.dtype)[:, None])["prediction"]
        caption = f"What the network answers, over rows of the {part} part"
        yield Plot("fit", caption, "draw_fit", ((x, y[drawn]), (line, fit), *_axes(fitted), targets))
    elif inputs == 2:
        caption = f"What the network answers at each point; rows of the {part} part in the colour of their value"
        yield Plot("surface", caption, "draw_values", (_plane(fitted, rows, y[:, 0], "prediction"), targets[0]))
    answers = fitted.predict(rows.matrix)["prediction"].astype(np.float64)
    if inputs != 1:
        caption = f"Predicted against actual values of the {part} part"
        yield Plot("predicted", caption, "draw_predicted", (y[drawn], answers[drawn], targets))
    caption = f"What is left of the actual value once the prediction is taken away, in the {part} part"
    yield Plot("residuals", caption, "draw_residuals", (answers, y - answers, drawn, targets))


def _of_classification(fitted: "Fitted", rows: "PartRows", part: Part, inputs: int | None) -> Iterator[Plot]:
    classes, target, y = fitted.data.classes, fitted.data.targets[0], rows.y
    assert classes is not None
    if inputs == 2:
        caption = f"The likeliest class at each point, paler where it is less certain; rows of the {part} part"
        plane = _plane(fitted, rows, y, "probabilities")
        yield Plot("surface", caption, "draw_surface", (plane, target, classes))
    answers = fitted.predict(rows.matrix)
    caption = f"Rows of the {part} part by their class and the likeliest one"
    yield Plot("confusion", caption, "draw_confusion", (y, answers["label"], target, classes))
    if drawn := _drawn_classes(len(classes), y):
        caption = f"Each class against the rest, in the {part} part; dashed: a guess"
        curves = [(classes[code], y == code, answers["probabilities"][:, code]) for code in drawn]
        yield Plot("curves", caption, "draw_curves", (curves,))
    caption = f"How often the likeliest class is right, by its probability, in the {part} part; dashed: as it should be"
    yield Plot("reliability", caption, "draw_reliability", (y, answers["probabilities"]))


def _drawn_classes(classes: int, y: Numbers) -> Sequence[int]:
    """Classes whose curves are drawn: some rows have them and others have not. Of two, the second says it all."""
    counts = np.bincount(y, minlength=classes)
    mixed = [code for code in range(classes) if 0 < counts[code] < len(y)]
    if classes == 2:
        return mixed[-1:]
    return sorted(sorted(mixed, key=lambda code: -counts[code])[:MOST_CURVES])


def _axes(fitted: "Fitted") -> tuple[Axis, ...]:
    """What the axes of features are called that all are numbers."""
    return tuple((one.name, one.unit) for one in fitted.schema.features if isinstance(one, NumberFeature))


def _plane(fitted: "Fitted", rows: "PartRows", y: Numbers, output: str) -> Plane:
    """Rows as points, and what the network answers on a grid around them."""
    drawn = spread(len(rows.matrix), 1000)
    points = rows.matrix[drawn]
    present = [column[np.isfinite(column)] for column in points.T]
    middle = [np.median(values) if len(values) else 0.0 for values in present]  # of a rare one no row may have any
    points = np.where(np.isfinite(points), points, np.array(middle, points.dtype))
    low, high = points.min(axis=0), points.max(axis=0)
    margin = np.where(high > low, 0.05 * (high - low), 0.5)
    across, up = (np.linspace(low[i] - margin[i], high[i] + margin[i], _SIDE) for i in range(2))
    grid = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2).astype(rows.matrix.dtype)
    answers = fitted.predict(grid)[output].reshape(_SIDE, _SIDE, -1)
    return Plane(points, y[drawn], across, up, answers, _axes(fitted))
