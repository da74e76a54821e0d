"""What is to be predicted: the task that targets are of, and their values as a fit needs them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from models.csv_file import BadTable
from models.errors import shown
from models.manifest import ClassLabel, Task
from training.data.cells import is_whole, plain_value
from training.data.distinct import of_distinct
from training.data.kinds import FEW_WHOLE_NUMBERS, plain_numbers, typed_column
from training.plan import Plan
from training.sentences import kind_option

MOST_CLASSES = 1000
COARSEST = 10
"""Standard deviation of a target, in steps between neighbouring float32 of its size, below which it is refused."""
LARGEST_TARGET = 1e37
"""A tenth of what a float32 holds: an answer may go beyond the targets without becoming infinite."""


def read_target(
    column: pl.Series, plan: Plan, rows: pl.Series, place: str, *, is_text: bool, notes: list[str]
) -> pl.Series:
    """The typed values of a target; the parameters are those of `typed_column`.

    Raises:
        BadTable: they cannot be learned, or as `typed_column` says.
    """
    wanted = plan.table.kinds.get(column.name)
    kind, values = typed_column(column, wanted, rows, place, is_text=is_text, notes=notes)
    if kind == "datetime":
        raise BadTable(place, f"target {shown(column.name)} holds datetimes; make it a number, such as days until then")
    if values.dtype.is_float() and (is_far := values.abs() > LARGEST_TARGET).any():
        first = is_far.arg_max()
        assert first is not None
        where = f"target {shown(column.name)}, row {rows[first]}"
        raise BadTable(
            place,
            f"{where}: {values[first]:.4g} is beyond {LARGEST_TARGET:g}, about what 32 bits hold; use a larger unit",
        )
    if values.n_unique() < 2:
        only = shown(plain_value(values[0]))
        raise BadTable(place, f"target {shown(column.name)} is {only} in every row; there is nothing to learn")
    return values


def task_of(targets: list[pl.Series], plan: Plan) -> Task:
    """Texts, booleans and few distinct whole numbers are classes; several targets are always numbers."""
    if len(targets) > 1:
        return "regression"
    values = targets[0]
    distinct = values.n_unique()
    if values.dtype.is_numeric():
        few = distinct == 2 or (distinct <= FEW_WHOLE_NUMBERS and distinct * 10 <= values.len())
        if not (is_whole(values) and few) or (plan.fit.loss in ("mse", "l1")):
            return "regression"
    return "binary" if distinct == 2 else "multiclass"


def learned_target(
    targets: list[pl.Series], task: Task, place: str
) -> tuple[tuple[ClassLabel, ...] | None, npt.NDArray[np.float64 | np.int64]]:
    """`Data.classes` and `Data.y` of typed targets.

    Raises:
        BadTable: they are none of this task, or cannot be told apart.
    """
    if task == "regression":
        for values in targets:
            if values.dtype == pl.String:
                raise BadTable(place, f"target {shown(values.name)} holds texts; a regression needs numbers")
            _check_precision(values.cast(pl.Float64), place)
        return None, np.stack([values.cast(pl.Float64).to_numpy() for values in targets], axis=1)
    if len(targets) > 1:
        raise BadTable(place, f"a {task} classification has one target, not {len(targets)}")
    values = targets[0]
    if values.dtype.is_float():
        values = values.cast(pl.Int64) if is_whole(values) else values.cast(pl.String)
    labels = values.unique().sort().to_list()
    name = shown(values.name)
    if task == "binary" and len(labels) != 2:
        raise BadTable(place, f"target {name} has {len(labels)} classes; a binary classification has 2")
    if len(labels) > MOST_CLASSES or 2 * len(labels) > values.len():
        told = f"target {name} has {len(labels)} distinct values in {values.len()} rows; too many classes"
        if targets[0].dtype == pl.String and plain_numbers(values, is_certain=False) is not None:
            told += f"; {kind_option(values.name, 'number')} takes these texts as numbers"
        raise BadTable(place, told)
    return tuple(labels), codes_of(values, labels)


def _check_precision(values: pl.Series, place: str) -> None:
    """Refuse a target that a float32, which answers are, cannot tell apart.

    Raises:
        BadTable: its values lie too close to each other, beside how far they are from zero, or to zero.
    """
    spread = float(values.std() or 0.0)  # type: ignore[arg-type] # of numbers it is one
    step = float(np.spacing(np.float32(np.abs(values.to_numpy()).max())))
    if spread < COARSEST * step:
        target = f"target {shown(values.name)} has a standard deviation of {spread:.3g}"
        raise BadTable(
            place,
            f"{target}, and near {values[0]:.7g} answers of 32 bits are {step:.3g} apart; subtract a constant, or use "
            f"a smaller unit",
        )


def labels_of(values: pl.Series, classes: Sequence[ClassLabel]) -> pl.Series:
    """The values of a target as its classes name them: of fractions like 0.5, by their texts."""
    return values.cast(pl.String) if isinstance(classes[0], str) else values


def codes_of(labels: pl.Series, classes: Sequence[ClassLabel]) -> npt.NDArray[np.int64]:
    """The place of each label among the classes, int64 [N]."""
    codes = {label: code for code, label in enumerate(classes)}
    return of_distinct(labels, lambda values: [codes[value] for value in values], pl.Int64).to_numpy(writable=True)
