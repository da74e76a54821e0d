"""What the columns of a table mean: which are features, of which kind, and what is to be predicted."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from models.csv_file import MISSING, BadTable
from models.errors import shown
from models.manifest import ClassLabel, Task
from training.data.cells import TEXTS, TOLD, is_whole, plain_value, without_blanks
from training.data.kinds import FEW_WHOLE_NUMBERS, from_texts, typed_column
from training.data.table import Table
from training.data.target import codes_of, labels_of, learned_target, read_target, task_of
from training.plan import Kind, Plan
from training.sentences import MOST_LISTED, drop_option, hint, kind_option, listed

ID_SHARE = 0.9
"""Share of distinct values among a text column's from which it is taken for an id or free text, and dropped."""
_MOST_DROPPED_LISTED = 20
_MOST_CODES = 100
"""Distinct whole numbers of a target up to which it is said that they are not taken as classes."""
_ID_NAMES = {"id", "index", "row", "rowid", "row_id", "rownames", "uid", "uuid"}


@dataclass(frozen=True)
class Data:
    """A table whose columns have a meaning.

    Attributes:
        frame: the rows that have a target, every column typed.
        kinds: feature to kind, in the order of the table.
        task: what is predicted.
        targets: names of the predicted columns.
        classes: what the target may be, in the order of their codes; None for a regression.
        y: the targets, float64 [N, K] of a regression, class codes int64 [N] of a classification.
        source, sha256: of the table.
        rows_read: rows of the table, those without a target included.
        notes: what was done to the table, a sentence each.
    """

    frame: pl.DataFrame
    kinds: dict[str, Kind]
    task: Task
    targets: tuple[str, ...]
    classes: tuple[ClassLabel, ...] | None
    y: npt.NDArray[np.float64 | np.int64]
    source: str
    sha256: str
    rows_read: int
    notes: tuple[str, ...]


def read_columns(table: Table, plan: Plan) -> Data:
    """Decide what every column means, and say what was left out.

    Rows without a target are dropped. So are columns that hold one value or none, ids (nearly every text is distinct;
    a column named like an id holds every whole number once), the columns the plan drops, and those that only split.

    Raises:
        BadTable: a column is absent, a value is infinite or of another kind than its column, the target cannot be
            learned, or no feature is left.
    """
    place, notes = table.source, list(table.notes)
    _check_plan_columns(table, plan)
    frame, rows = _rows_with_target(table, plan, notes)
    typed, kinds = _typed_columns(table, plan, frame, rows, notes)
    if not kinds:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise BadTable(place, f"no column is left to predict {shown(plan.target[0])} from{why}")
    if table.is_text:
        notes += _spelled_missing(typed, kinds)
    targets = [read_target(frame[name], plan, rows, place, is_text=table.is_text, notes=notes) for name in plan.target]
    task = plan.task or task_of(targets, plan)
    classes, y = learned_target(targets, task, place)
    if plan.task is None and task == "multiclass" and targets[0].dtype.is_numeric():
        told = f"target {shown(plan.target[0])} has {targets[0].n_unique()} whole numbers and is taken as classes"
        notes.append(f"{told}; --task regression takes it as a number")
    elif plan.task is None and task == "regression" and _may_be_classes(targets):
        told = f"target {shown(plan.target[0])} has {targets[0].n_unique()} distinct whole numbers and is taken as a"
        notes.append(f"{told} number; --task multiclass takes them as classes")
    keep = [name for name in typed if name in kinds or name in _splitting(plan)]
    return Data(
        frame=pl.DataFrame([typed[name].alias(name) for name in keep]).with_columns(target for target in targets),
        kinds=kinds,
        task=task,
        targets=plan.target,
        classes=classes,
        y=y,
        source=place,
        sha256=table.sha256,
        rows_read=table.frame.height,
        notes=tuple(notes),
    )


def _typed_columns(
    table: Table, plan: Plan, frame: pl.DataFrame, rows: pl.Series, notes: list[str]
) -> tuple[dict[str, pl.Series], dict[str, Kind]]:
    """The values of all columns but the targets and those that the plan drops; the kinds of those that are features."""
    typed, kinds, refused = {}, {}, {}
    dropped: dict[str, dict[str, str]] = {}
    for name in table.frame.columns:
        is_dropped, wanted = name in plan.table.drop, plan.table.kinds.get(name)
        if name in plan.target or (is_dropped and name not in _splitting(plan)):
            continue
        try:
            kind, values = typed_column(frame[name], wanted, rows, table.source, is_text=table.is_text, notes=notes)
        except BadTable as error:
            refused[name] = error
            continue
        typed[name] = values
        if is_dropped or name in (plan.split.column, plan.split.group):
            continue
        why = _why_dropped(name, kind, values, is_wanted=wanted is not None)
        if why is not None:
            dropped.setdefault(why.of_many, {})[name] = why.of_one
            continue
        kinds[name] = kind
        if kind == "number" and wanted is None and _are_written_together(values):
            first = shown(plain_value(values.drop_nulls()[0]))
            told = f"holds dates like {first} and counts as a number, which leaps from month to month"
            notes.append(f"column {shown(name)} {told}; write them like 2024-05-31")
    for of_many, columns in dropped.items():
        if len(columns) > MOST_LISTED:  # of thousands of columns hundreds may be constant
            names = listed([shown(name) for name in columns], most=_MOST_DROPPED_LISTED)
            notes.append(f"{len(columns)} columns {of_many} and are left out: {names}")
        else:
            notes += [f"column {shown(name)} {of_one} and is left out" for name, of_one in columns.items()]
    if refused:
        first, *others = refused
        also = f"; refused as well: {listed([shown(name) for name in others])}" if others else ""
        raise BadTable(table.source, f"{refused[first].reason}; {drop_option(first)} leaves it out{also}")
    return typed, kinds


def _splitting(plan: Plan) -> tuple[str | None, ...]:
    """The columns by which the rows are split, whether they are features or not."""
    return plan.split.column, plan.split.group, plan.split.time


def read_batch(batch: pl.DataFrame, first: int, data: Data, plan: Plan, *, is_text: bool) -> tuple[pl.DataFrame, int]:
    """Some rows of the table that `data` is a sample of, typed as the sample is; and how many have an unknown class.

    Rows without a target, or with a class that the sample lacks, are left out. `first` numbers the rows in errors.

    Raises:
        BadTable: a value is of another kind than its column was in the sample, or is infinite.
    """
    rows = pl.Series(range(first, first + batch.height))
    is_lost = _has_no_target(batch, plan)
    if is_lost.any():
        batch, rows = batch.filter(~is_lost), rows.filter(~is_lost)
    typed = []
    for name, dtype in data.frame.schema.items():
        wanted = plan.table.kinds.get(name)
        kind = _kind_of_typed(dtype)
        notes: list[str] = []
        _, values = typed_column(batch[name], kind, rows, data.source, is_text=is_text, notes=notes)
        if notes and wanted != kind:
            what = notes[0].replace("count as missing", "the sampled rows have none like them")
            raise BadTable(
                data.source, f"{what}; correct them, or {kind_option(name, 'category')} makes texts of them all"
            )
        typed.append(values.alias(name))
    frame = pl.DataFrame(typed)
    if data.classes is None:
        return frame, 0
    is_known = labels_of(frame[data.targets[0]], data.classes).is_in(list(data.classes))
    return (frame, 0) if is_known.all() else (frame.filter(is_known), int((~is_known).sum()))


def targets_of(frame: pl.DataFrame, data: Data) -> npt.NDArray[np.float64 | np.int64]:
    """The targets of typed rows as `Data.y` has them: float64 [N, K], or class codes int64 [N]."""
    if data.classes is None:
        return np.stack([frame[name].cast(pl.Float64).to_numpy() for name in data.targets], axis=1)
    return codes_of(labels_of(frame[data.targets[0]], data.classes), data.classes)


def _kind_of_typed(dtype: pl.DataType) -> Kind:
    if dtype == pl.Boolean:
        return "boolean"
    if dtype == pl.String:
        return "category"
    return "datetime" if isinstance(dtype, pl.Datetime) else "number"


def _check_plan_columns(table: Table, plan: Plan) -> None:
    split = [name for name in (plan.split.column, plan.split.time, plan.split.group) if name]
    for role, names in (
        ("target", plan.target),
        ("kinds", plan.table.kinds),
        ("units", plan.table.units),
        ("drop", plan.table.drop),
        ("split", split),
    ):
        for name in names:
            if name not in table.frame.columns:
                near = hint(name, table.frame.columns)
                if table.is_text and table.notes:  # of columns without names, as a title above the names would leave
                    near += "; the file's first line is taken for the names of the columns"
                raise BadTable(table.source, f"{role} {shown(name)} is no column{near}")
    for name in plan.target:
        if name in plan.table.drop or name in (plan.split.column, plan.split.group):
            raise BadTable(table.source, f"{shown(name)} cannot be the target and be dropped or split by")


def _rows_with_target(table: Table, plan: Plan, notes: list[str]) -> tuple[pl.DataFrame, pl.Series]:
    """The rows whose targets are all there, and their numbers in the table."""
    frame = table.frame
    rows = pl.Series(range(1, frame.height + 1)) if table.numbers is None else table.numbers
    is_lost = _has_no_target(frame, plan)
    is_blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()  # an empty line is no row
    lost = rows.filter(is_lost & ~is_blank)
    if len(lost):
        names = " or ".join(shown(name) for name in plan.target)
        notes.append(f"{len(lost)} of {frame.height} rows have no {names} and are left out (first: row {lost[0]})")
    for name, kind in plan.table.kinds.items():
        if name in plan.target and frame.schema[name] in TEXTS and kind != "category":
            from_texts(without_blanks(frame[name]), kind, rows, table.source, notes)  # says which texts are none
    kept = frame.filter(~is_lost)
    if kept.height < 2:
        raise BadTable(table.source, f"{kept.height} of {frame.height} rows have a target; training needs at least 10")
    return kept, rows.filter(~is_lost)


def _has_no_target(frame: pl.DataFrame, plan: Plan) -> pl.Series:
    """Whether a row lacks a target, or has a text where the plan says that targets are numbers or booleans."""
    lost = frame.select(pl.any_horizontal(_is_missing(name, frame.schema[name]) for name in plan.target)).to_series()
    for name in plan.target:
        kind = plan.table.kinds.get(name)
        if kind in ("number", "boolean") and frame.schema[name] in TEXTS:
            lost |= TOLD[kind](without_blanks(frame[name])).is_null()
    return lost


def _is_missing(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if dtype in TEXTS:
        text = column.cast(pl.String).str.strip_chars()
        return column.is_null() | (text == "") | text.str.to_lowercase().is_in(list(MISSING))
    return column.is_null() | column.is_nan() if dtype.is_float() else column.is_null()


class _Why(NamedTuple):
    """Why a column is no feature, as the middle of a sentence about it, and of one about many."""

    of_one: str
    of_many: str


def _why_dropped(name: str, kind: Kind, values: pl.Series, *, is_wanted: bool) -> _Why | None:
    """Why a column is no feature; None where it is one."""
    present = values.drop_nulls()
    if present.len() == 0:
        return _Why("is empty", "are empty")
    if present.len() == values.len() and (present == present[0]).all():
        return _Why(f"is {shown(plain_value(present[0]))} in every row", "are the same in every row")
    if is_wanted:
        return None
    if kind == "category" and present.n_unique() > ID_SHARE * present.len():
        said = "distinct in nearly every row"
        return _Why(f"is {said} (an id or free text)", f"are {said} (ids or free texts)")
    if kind == "number" and name.lower() in _ID_NAMES and present.n_unique() == values.len() and is_whole(present):
        return _Why("numbers the rows", "number the rows")
    return None


def _spelled_missing(typed: dict[str, pl.Series], kinds: dict[str, Kind]) -> list[str]:
    """A sentence if categories of a CSV are called as pandas and R call a missing value: to them it would be one."""
    words = list(MISSING - {"?"})
    categories = [name for name, kind in kinds.items() if kind == "category"]
    spelled = [name for name in categories if typed[name].unique().str.to_lowercase().is_in(words).any()]
    if not spelled:
        return []
    names = f"column{'s' * (len(spelled) > 1)} {listed([shown(name) for name in spelled])}"
    return [f"'NA' and the like are categories in {names}; an empty cell is missing, as null is in a request"]


def _may_be_classes(targets: list[pl.Series]) -> bool:
    """Whether there are so few distinct whole numbers, each of them so often, that codes of classes could be meant."""
    distinct = targets[0].n_unique()
    return len(targets) == 1 and is_whole(targets[0]) and distinct <= _MOST_CODES and distinct * 10 <= len(targets[0])


def _are_written_together(numbers: pl.Series) -> bool:
    """Whether every number is a date of these centuries without its hyphens, as 20240531 is."""
    present = numbers.drop_nulls()
    if present.n_unique() <= FEW_WHOLE_NUMBERS or not is_whole(present):
        return False
    if not present.is_between(1800_01_01, 2199_12_31).all():
        return False
    days = present.cast(pl.Int64).cast(pl.String).str.to_date("%Y%m%d", strict=False)
    return days.null_count() == 0
