"""Some answers of the network explained, for the model card: what each feature of a row adds to its answer."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.proof import Answers
from models.schema import Matrix, Schema
from models.shapley import Background, Explanation, Shapley, column_groups, rows_for
from training.judging.evaluate import Predict

BACKGROUND_ROWS = 32
EXAMPLES = 3
MOST_CELLS = 1 << 23
"""Values asked about to explain one row of a model card: some seconds for a few hundred features."""


@dataclass(frozen=True)
class Explained:
    """A row of the table and why it has its answer.

    Attributes:
        row: its number among the rows it was chosen from.
        output: the target, or the class, that is explained, by its number.
        answer: the prediction, or the class's probability.
    """

    row: int
    output: int
    answer: float
    explanation: Explanation


def explain_rows(schema: Schema, predict: Predict, matrix: Matrix, background: Background) -> tuple[Explained, ...]:
    """A few rows from all over the answers; of several targets the first is explained, of classes the likeliest.

    Empty for a table too wide to be explained row by row.

    Shape:
        matrix: [N, F] of rows that were not trained on
    """
    most = rows_for(schema)
    if most is None or most * matrix.shape[1] > MOST_CELLS or not len(matrix):
        return ()
    shapley = Shapley(column_groups(schema), schema.encode(background.rows), most)
    answers = predict(matrix)
    output = "prediction" if "prediction" in answers else "probabilities"
    explained = []
    for row in _telling_rows(answers):
        told = 0 if output == "prediction" else int(answers["label"][row])
        explanation = shapley.share_out(predict(shapley.rows(matrix[row]))[output])
        explained.append(Explained(row, told, float(answers[output][row, told]), explanation))
    return tuple(explained)


def _telling_rows(answers: Answers) -> list[int]:
    """The rows with the lowest, the middle and the highest answer, or the surest row of each of the first classes."""
    if "prediction" in answers:
        order = np.argsort(answers["prediction"][:, 0], kind="stable")
        return _distinct(order[np.linspace(0, len(order) - 1, EXAMPLES).astype(np.int64)])
    surest = answers["probabilities"].max(1)
    of_classes = [np.flatnonzero(answers["label"] == code) for code in np.unique(answers["label"])[:EXAMPLES]]
    return [int(rows[surest[rows].argmax()]) for rows in of_classes]


def _distinct(rows: npt.NDArray[np.int64]) -> list[int]:
    return list(dict.fromkeys(int(row) for row in rows))
