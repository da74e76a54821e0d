"""What is known of a network beyond its scores: how sure it is, and what its answers rest on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.intervals import Intervals, PredictionSets
from models.manifest import Importance
from models.shapley import Background
from training.data.rows import table_rows
from training.fitting.device import threads
from training.judging.explain import BACKGROUND_ROWS, Explained, explain_rows
from training.judging.importance import measure_importances
from training.judging.intervals import calibrated

if TYPE_CHECKING:
    from training.recipe import Fitted  # recipe tells the story and imports this file


@dataclass(frozen=True)
class Findings:
    """What the manifest and the model card say of a network beyond its scores.

    Attributes:
        intervals, prediction_sets: calibrated on held-out rows; None where there are too few, or of another task.
        importances: of the features, on test rows (or validation rows where there is no test).
        background: training rows that answers are explained against.
        explained: some judged rows, explained.
    """

    intervals: Intervals | None
    prediction_sets: PredictionSets | None
    importances: tuple[Importance, ...]
    background: Background
    explained: tuple[Explained, ...]


def examine(fitted: "Fitted") -> Findings:
    """Look at a trained network from every side; takes seconds, whatever the number of rows."""
    parts = fitted.parts
    train, judging = parts["train"], parts.get("test", parts["validation"])
    intervals, sets = calibrated(
        fitted.data.task == "regression",
        (fitted.held_out, fitted.held_out_y),
        (fitted.predict(parts["test"].matrix), parts["test"].y) if "test" in parts else None,
    )
    background = Background(rows=table_rows(train.frame, fitted.schema, most=BACKGROUND_ROWS))
    with threads(1):  # of a few hundred rows at a time a second one takes nothing off, and has to be waited for
        return Findings(
            intervals,
            sets,
            measure_importances(fitted.data.task, fitted.schema, fitted.predict, judging.matrix, judging.y),
            background,
            explain_rows(fitted.schema, fitted.predict, judging.matrix, background),
        )
