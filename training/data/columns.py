"""What the columns of a table mean: which are features, of which kind, and what is to be predicted.

Inferred once, stated in the schema, overridden by the plan. In a CSV a column is

* boolean where every value is true or false (1 and 0 as well where the plan says boolean);
* a number where every value is one, unless one is written with a leading zero, like the codes 007 or 01234;
* a datetime where every value is an ISO 8601 date or datetime;
* otherwise a category.

A cell that is empty is missing. NA, N/A, #N/A, NaN, null, None and ? (in any case) are missing in a target and in
number, boolean and datetime columns; in a category column they are categories like any other, so that a request which
says "NA" means the same as the table did. Blanks around a value do not count.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl

from models.csv_file import BadTable
from models.errors import shown
from models.manifest import ClassLabel, Task
from models.schema import category_text
from training.data.distinct import of_distinct
from training.data.table import Table
from training.plan import Kind, Plan, drop_option, kind_option, listed, nearest

MISSING = ("na", "n/a", "#n/a", "nan", "null", "none", "?")
MOST_CLASSES = 1000
MOSTLY = 0.8
"""Share of a column's values from which the others are taken for mistakes: refused, never read as categories."""
ID_SHARE = 0.9
"""Share of distinct values among a text column's from which it is taken for an id or free text, and dropped."""
SOME = 0.05
"""Share of a column's values in another form, from which plain numbers beside them are taken for more of the same."""
MOST_MARKS = 2
"""Texts that may stand for a missing value, as - does, in a column of more than `FEW_WHOLE_NUMBERS` values."""
FEW_WHOLE_NUMBERS = 20
"""A target of at most this many distinct whole numbers, each ten times on average, is a class; so are any two."""

COARSEST = 10
"""Standard deviation of a target, in steps between neighbouring float32 of its size, below which it is refused."""
LARGEST_TARGET = 1e37
"""A tenth of what a float32 holds: an answer may go beyond the targets without becoming infinite."""

_ID_NAMES = {"id", "index", "row", "rowid", "row_id", "rownames", "uid", "uuid"}
_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?(Z|[+-]\d{2}(:?\d{2})?)?)?$"
_CODE = r"^[+-]?0\d"
_MONEY = r"[$\u20ac\u00a3\u00a5]|USD|EUR|GBP|CHF|JPY"
_DAY = r"(0?[1-9]|[12]\d|3[01])"
_MONTH = r"(jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]*\.?"
_OTHER_FORMS = {
    r"^[+-]?(\d{1,3}([ ,.'\u00a0\u2009\u202f]\d{3})+([.,]\d+)?|\d+,\d+([eE][+-]?\d+)?)$": (
        "numbers with a decimal comma or marks between thousands",
        "them like 1234.5",
    ),
    r"^(\u2212\d[\d.,]*|\(\d[\d.,]*\)|\d[\d.,]*-)$": ("negative numbers with another sign", "them like -1234.5"),
    r"^[+-]?\d+([.,]\d+)?\s?%$": ("percentages", "them as numbers without the sign"),
    rf"^({_MONEY})\s?[+-]?\d[\d.,]*$|^[+-]?({_MONEY})\d[\d.,]*$|^[+-]?\d[\d.,]*\s?({_MONEY})$": (
        "amounts of money",
        "them as numbers without the sign",
    ),
    r"^(\d{4}[/.-]\d{1,2}[/.-]\d{1,2}|\d{1,2}[/.-]\d{1,2}[/.-]\d{4}|"
    rf"{_DAY}[/.-]{_DAY}[/.-]\d\d|{_DAY}[ -](?i:{_MONTH})[ -]\d{{2,4}}|(?i:{_MONTH}) {_DAY},? \d{{4}})([T ].*)?$": (
        "dates",
        "them like 2024-05-31 or 2024-05-31T09:30:00",
    ),
    r"^\d{1,2}:\d\d(:\d\d(\.\d+)?)?$": ("times of day", "them as numbers, like hours"),
}
"""What a CSV may hold that is meant as a number or a moment, and that no request could send as one."""
_THOUSANDS = r"^[+-]?[1-9]\d{0,2}\.\d{3}$"
_BELOW_A_THOUSAND = r"^[+-]?(0|[1-9]\d{0,2})$"
_FEWEST_BELOW = 3
_WITH_UNIT = r"^[+-]?\d[\d.,]*\s?([A-Za-z\u00b0\u00b5/]+[\u00b2\u00b3]?)$"
_TEXTS = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True)
class Data:
    """A table whose columns have a meaning.

    Attributes:
        frame: the rows that have a target, every column typed.
        kinds: feature to kind, in the order of the table.
        task: what is predicted.
        targets: names of the predicted columns.
        classes: labels in the order of their codes; None for a regression.
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
    splits = (plan.split.column, plan.split.group, plan.split.time)
    columns = {name: frame[name] for name in table.frame.columns if name not in plan.table.drop or name in splits}
    typed, kinds, refused = {}, {}, {}
    for name, column in columns.items():
        if name in plan.target:
            continue
        try:
            kind, values = _typed(column, plan.table.kinds.get(name), rows, place, is_text=table.is_text, notes=notes)
        except BadTable as error:
            refused[name] = error
            continue
        typed[name] = values
        if name in (plan.split.column, plan.split.group) or name in plan.table.drop:
            continue
        reason = _why_dropped(name, kind, values, is_wanted=name in plan.table.kinds)
        if reason:
            notes.append(f"column {shown(name)} {reason} and is left out")
        else:
            kinds[name] = kind
            if kind == "number" and name not in plan.table.kinds and _are_written_together(values):
                first = shown(_plain(values.drop_nulls()[0]))
                told = f"holds dates like {first} and counts as a number, which leaps from month to month"
                notes.append(f"column {shown(name)} {told}; write them like 2024-05-31")
    if refused:
        first, *others = refused
        also = f"; refused as well: {listed([shown(name) for name in others])}" if others else ""
        raise BadTable(place, refused[first].reason + also)
    if not kinds:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise BadTable(place, f"no column is left to predict {shown(plan.target[0])} from{why}")
    targets = [_target(frame[name], plan, rows, place, is_text=table.is_text, notes=notes) for name in plan.target]
    task = plan.task or _task(targets, plan)
    classes, y = _learned_target(targets, task, place)
    if plan.task is None and task == "multiclass" and targets[0].dtype.is_numeric():
        told = f"target {shown(plan.target[0])} has {targets[0].n_unique()} whole numbers and is taken as classes"
        notes.append(f"{told}; --task regression takes it as a number")
    keep = [name for name in typed if name in kinds or name in splits]
    return Data(
        pl.DataFrame([typed[name].alias(name) for name in keep]).with_columns(target for target in targets),
        kinds,
        task,
        plan.target,
        classes,
        y,
        place,
        table.sha256,
        table.frame.height,
        tuple(notes),
    )


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
        _, values = _typed(batch[name], kind, rows, data.source, is_text=is_text, notes=notes)
        if notes and wanted != kind:
            what = notes[0].replace("count as missing", "the sampled rows have none like them")
            raise BadTable(
                data.source, f"{what}; correct them, or {kind_option(name, 'category')} makes texts of them all"
            )
        typed.append(values.alias(name))
    frame = pl.DataFrame(typed)
    if data.classes is None:
        return frame, 0
    is_known = frame[data.targets[0]].is_in(
        pl.Series(list(data.classes), dtype=frame.schema[data.targets[0]]).to_list()
    )
    return (frame, 0) if is_known.all() else (frame.filter(is_known), int((~is_known).sum()))


def targets_of(frame: pl.DataFrame, data: Data) -> npt.NDArray[np.float64 | np.int64]:
    """The targets of typed rows as `Data.y` has them: float64 [N, K], or class codes int64 [N]."""
    if data.classes is None:
        return np.stack([frame[name].cast(pl.Float64).to_numpy() for name in data.targets], axis=1)
    return _codes(frame[data.targets[0]], data.classes)


def _codes(labels: pl.Series, classes: Sequence[ClassLabel]) -> npt.NDArray[np.int64]:
    """The place of each label among the classes, int64 [N]."""
    codes = {label: code for code, label in enumerate(classes)}
    return of_distinct(labels, lambda values: [codes[value] for value in values], pl.Int64).to_numpy(writable=True)


def _kind_of_typed(dtype: pl.DataType) -> Kind:
    if dtype == pl.Boolean:
        return "boolean"
    if dtype == pl.String:
        return "category"
    return "datetime" if isinstance(dtype, pl.Datetime) else "number"


# ------------------------------------------------------------------------------------------------ which columns


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
                near = nearest(name, table.frame.columns)
                if table.is_text and table.notes:  # of columns without names, as a title above the names would leave
                    near += "; the file's first line is taken for the names of the columns"
                raise BadTable(table.source, f"{role} {shown(name)} is no column{near}")
    for name in plan.target:
        if name in plan.table.drop or name in (plan.split.column, plan.split.group):
            raise BadTable(table.source, f"{shown(name)} cannot be the target and be dropped or split by")


def _rows_with_target(table: Table, plan: Plan, notes: list[str]) -> tuple[pl.DataFrame, pl.Series]:
    """The rows whose targets are all there, and their numbers in the table."""
    frame, rows = table.frame, pl.Series(range(1, table.frame.height + 1))
    is_lost = _has_no_target(frame, plan)
    is_blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()  # an empty line is no row
    lost = rows.filter(is_lost & ~is_blank)
    if len(lost):
        names = " or ".join(shown(name) for name in plan.target)
        notes.append(f"{len(lost)} of {frame.height} rows have no {names} and are left out (first: row {lost[0]})")
    for name, kind in plan.table.kinds.items():
        if name in plan.target and frame.schema[name] in _TEXTS and kind != "category":
            _from_texts(_stripped(frame[name]), kind, rows, table.source, notes)  # says which texts are none
    kept = frame.filter(~is_lost)
    if kept.height < 2:
        raise BadTable(table.source, f"{kept.height} of {frame.height} rows have a target; training needs at least 10")
    return kept, rows.filter(~is_lost)


def _has_no_target(frame: pl.DataFrame, plan: Plan) -> pl.Series:
    """Whether a row lacks a target, or has a text where the plan says that targets are numbers or booleans."""
    lost = frame.select(pl.any_horizontal(_is_missing(name, frame.schema[name]) for name in plan.target)).to_series()
    for name in plan.target:
        kind = plan.table.kinds.get(name)
        if kind in ("number", "boolean") and frame.schema[name] in _TEXTS:
            lost |= _TOLD[kind](_stripped(frame[name])).is_null()
    return lost


def _is_missing(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if dtype in _TEXTS:
        text = column.cast(pl.String).str.strip_chars()
        return column.is_null() | (text == "") | text.str.to_lowercase().is_in(MISSING)
    return column.is_null() | column.is_nan() if dtype.is_float() else column.is_null()


def _why_dropped(name: str, kind: Kind, values: pl.Series, *, is_wanted: bool) -> str | None:
    """Why a column is no feature, as the middle of a sentence; None where it is one."""
    present = values.drop_nulls()
    if present.len() == 0:
        return "is empty"
    if present.len() == values.len() and (present == present[0]).all():
        return f"is {shown(_plain(present[0]))} in every row"
    if is_wanted:
        return None
    if kind == "category" and present.n_unique() > ID_SHARE * present.len():
        return "is distinct in nearly every row (an id or free text)"
    if kind == "number" and name.lower() in _ID_NAMES and present.n_unique() == values.len() and _is_whole(present):
        return "numbers the rows"
    return None


# ------------------------------------------------------------------------------------------------ which kind


def _typed(
    column: pl.Series, wanted: Kind | None, rows: pl.Series, place: str, *, is_text: bool, notes: list[str]
) -> tuple[Kind, pl.Series]:
    """The kind of a column and its values: Float64 or Int64, Boolean, String, or Datetime in UTC."""
    if column.dtype in _TEXTS:
        texts = column.cast(pl.String)
        if wanted == "number" or (wanted is None and is_text):
            numbers = _plain_numbers(texts, is_certain=wanted is not None)
            if numbers is not None:
                if wanted is None:
                    _refuse_thousands(texts, rows, place)
                return "number", _finite(numbers, rows, place)
        kind = wanted or ("category" if not is_text else None)
        if wanted is None and not is_text and _plain_numbers(texts, is_certain=False) is not None:
            notes.append(
                f"column {shown(column.name)} holds numbers as texts, which are categories; "
                f"{kind_option(column.name, 'number')} takes them as numbers"
            )
        if kind != "category":
            texts = _stripped(texts)
            if kind is None:
                kind = _inferred(texts, rows, place, notes)
                if kind == "number":
                    _refuse_thousands(texts, rows, place)
        if kind == "category":
            return kind, _category_texts(texts, is_text=is_text)
        return kind, _from_texts(texts, kind, rows, place, notes)
    kind = (wanted if not _is_compound(column.dtype) else None) or _kind_of_dtype(column, place)
    return kind, _from_values(column, kind, rows, place)


def _plain_numbers(texts: pl.Series, *, is_certain: bool) -> pl.Series | None:
    """The numbers of a column whose every cell is null or plainly one, which most columns of a CSV are; None of others.

    What is said of cells below takes five passes over the texts; this is one.
    """
    if _read_numbers(texts.head(1000)).null_count() > texts.head(1000).null_count():
        return None
    if texts.null_count() == len(texts) or (not is_certain and texts.str.contains(_CODE).any()):
        return None
    numbers = _read_numbers(texts)
    return numbers if numbers.null_count() == texts.null_count() else None


def _inferred(texts: pl.Series, rows: pl.Series, place: str, notes: list[str]) -> Kind:
    values = _without_spelled_missing(texts).drop_nulls()
    if values.len() == 0:
        return "category"
    sample = values.head(1000)  # most columns are known by their first values; the whole column then has to agree
    for kind, read in _READERS.items():
        if _share_read(read, sample) == 0 and sample.len() == 1000:
            continue
        share = _share_read(read, values)
        if kind == "number" and share > 0 and values.str.contains(_CODE).any():
            if share == 1 and values.str.len_chars().n_unique() > 1:  # most codes are of one length
                first = texts.str.contains(_CODE).fill_null(value=False).arg_max()
                assert first is not None
                notes.append(
                    f"column {shown(texts.name)} has a number with a leading zero ({shown(texts[first])} in row "
                    f"{rows[first]}) and counts as codes, a category; {kind_option(texts.name, 'number')} takes them "
                    "as numbers"
                )
            return "category"
        if share == 1:
            return kind
        if share >= MOSTLY or (share > 0 and _are_marks(values.filter(read(values).is_null()), values)):
            _refuse_odd_one(texts, kind, rows, place)
    _refuse_other_forms(texts, values, rows, place)
    return "category"


def _are_marks(odd: pl.Series, values: pl.Series) -> bool:
    """Whether the values that cannot be read say no more than that others are missing."""
    marks = odd.n_unique()
    return marks <= MOST_MARKS and values.n_unique() - marks > FEW_WHOLE_NUMBERS


def _refuse_other_forms(texts: pl.Series, values: pl.Series, rows: pl.Series, place: str) -> None:
    """Numbers and dates as people write them, which would be thousands of categories that say nothing."""
    sample = values.head(1000)
    forms = dict(_OTHER_FORMS)
    units = sample.str.extract(_WITH_UNIT).drop_nulls().mode()
    if len(units) and values.n_unique() > FEW_WHOLE_NUMBERS:
        forms[rf"^[+-]?\d[\d.,]*\s?{re.escape(units[0])}$"] = "numbers with a unit", "them as numbers alone"
    for form, (what, instead) in forms.items():
        if all(_is_mostly(form, part) for part in (sample, values)):
            first = texts.str.contains(form).fill_null(value=False).arg_max()
            assert first is not None
            name = shown(texts.name)
            raise BadTable(
                place,
                f"column {name} holds {what}, as {shown(texts[first])} in row {rows[first]}; write {instead}, or say "
                f"that its texts are categories: {_as_category(texts.name)}; {drop_option(texts.name)} leaves it out",
            )


def _refuse_thousands(texts: pl.Series, rows: pl.Series, place: str) -> None:
    """Numbers like 1.250 and 3.400 beside 998, which are read as little more than one beside a thousand.

    Programs that write decimals leave out their last zeros, or else write whole numbers with them: 1.25 beside 998, or
    1.250 beside 998.000.
    """
    for part in (texts.head(1000), texts):
        cells = _without_spelled_missing(_stripped(part))
        is_below, is_above = (cells.str.contains(one).fill_null(value=False) for one in (_BELOW_A_THOUSAND, _THOUSANDS))
        if not (is_below | is_above | cells.is_null()).all():
            return
    below, above = cells.filter(is_below), cells.filter(is_above)
    if below.n_unique() < _FEWEST_BELOW or not above.str.ends_with("0").any():
        return
    written = cells[first := int(is_above.arg_max() or 0)]
    raise BadTable(
        place,
        f"column {shown(texts.name)} holds numbers with a point between thousands, as {shown(written)} in row "
        f"{rows[first]} beside {shown(below[0])}; write them like {written.replace('.', '')}, or say that they are "
        f"decimals: {kind_option(texts.name, 'number')}",
    )


def _is_mostly(form: str, values: pl.Series) -> bool:
    is_so = values.str.contains(form)
    if is_so.sum() < SOME * values.len():
        return False
    return (is_so | _read_numbers(values).is_not_null()).sum() >= MOSTLY * values.len()


def _share_read(read: Callable[[pl.Series], pl.Series], values: pl.Series) -> float:
    return 1 - read(values).null_count() / values.len()


def _refuse_odd_one(texts: pl.Series, kind: Kind, rows: pl.Series, place: str) -> None:
    cells = _without_spelled_missing(texts)
    odd = (cells.is_not_null() & _READERS[kind](cells).is_null()).arg_max()
    assert odd is not None
    name, a_kind = texts.name, {"number": "numbers", "boolean": "true and false", "datetime": "datetimes"}[kind]
    raise BadTable(
        place,
        f"column {shown(name)} holds {a_kind}, but row {rows[odd]} has {shown(texts[odd])}; correct it, or say what "
        f"the column is: {_as_category(name)} (as a {kind}, such values count as missing)",
    )


def _as_category(name: str) -> str:
    """How to say that a column is one, in both places where that can be said."""
    key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
    return f'kinds.{key} = "category" in a plan, {kind_option(name, "category")} in a command'


def _from_texts(texts: pl.Series, kind: Kind, rows: pl.Series, place: str, notes: list[str]) -> pl.Series:
    cells = _without_spelled_missing(texts)
    values = _TOLD[kind](cells)
    lost = values.null_count() - cells.null_count()
    if lost:
        first = (cells.is_not_null() & values.is_null()).arg_max()
        assert first is not None
        notes.append(
            f"{lost} values of column {shown(texts.name)} are no {kind} and count as missing "
            f"(first: {shown(texts[first])} in row {rows[first]})"
        )
    return _finite(values, rows, place) if kind == "number" else values


def _from_values(column: pl.Series, kind: Kind, rows: pl.Series, place: str) -> pl.Series:
    if column.dtype.is_decimal():
        column = column.cast(pl.Float64)  # so that 1.00 is the category of the 1 that a request sends
    if kind == "category":
        return of_distinct(column, lambda values: [category_text(_plain(value)) for value in values], pl.String)
    is_moment = isinstance(column.dtype, pl.Date | pl.Datetime)
    if (kind == "datetime" and not (is_moment or column.dtype == pl.Null)) or (
        kind == "number" and column.dtype.is_temporal()
    ):  # a cast would take whole numbers for microseconds and dates for days, which no request can send
        instead = "moments in a column of datetimes" if kind == "datetime" else "them as numbers, like days or hours"
        dtype = column.dtype.base_type()
        raise BadTable(place, f"column {shown(column.name)} is of type {dtype} and cannot be a {kind}; write {instead}")
    try:
        if kind == "datetime":
            column = column.cast(pl.Datetime("us")) if column.dtype == pl.Date else column
            if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone:
                column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            return column.cast(pl.Datetime("us"))
        if kind == "boolean":
            if not column.drop_nulls().cast(pl.Float64).is_in([0.0, 1.0]).all():
                raise BadTable(place, f"column {shown(column.name)} cannot be boolean: it holds more than 0 and 1")
            return column.cast(pl.Boolean)
        is_whole = column.dtype.is_integer() and column.dtype != pl.UInt64
        values = column.cast(pl.Int64 if is_whole else pl.Float64)
    except pl.exceptions.PolarsError:
        raise BadTable(place, f"column {shown(column.name)} is {column.dtype} and cannot be a {kind}") from None
    return _finite(values, rows, place)


def _kind_of_dtype(column: pl.Series, place: str) -> Kind:
    if column.dtype == pl.Boolean:
        return "boolean"
    if column.dtype.is_numeric() or column.dtype == pl.Null:
        return "number"
    if column.dtype in (pl.Date, pl.Datetime):
        return "datetime"
    raise BadTable(
        place,
        f"column {shown(column.name)} is of type {column.dtype.base_type()}, which is no number, text, boolean or "
        f"datetime; make it one, or {drop_option(column.name)} leaves it out",
    )


def _is_compound(dtype: pl.DataType) -> bool:
    """Whether no kind makes one value of it."""
    return dtype.is_nested() or dtype in (pl.Binary, pl.Object)


def _stripped(column: pl.Series) -> pl.Series:
    """Its texts without blanks around them, null where nothing is left."""
    texts = column.cast(pl.String).str.strip_chars()
    return texts.set(texts == "", None)


def _without_spelled_missing(texts: pl.Series) -> pl.Series:
    short = texts.filter(texts.str.len_bytes() <= max(map(len, MISSING))).unique()
    spelled = short.filter(short.str.to_lowercase().is_in(MISSING))
    return texts.set(texts.is_in(spelled.to_list()), None) if len(spelled) else texts


def _category_texts(texts: pl.Series, *, is_text: bool) -> pl.Series:
    """The texts without blanks around them, null where nothing is left.

    A CSV's 3 and 3.0 are one category, as they are in JSON: a number that is a category has its canonical text.
    """
    distinct = texts.drop_nulls().unique()
    stripped = distinct.str.strip_chars()
    meant = stripped.set(stripped == "", None)
    if is_text:
        is_plain = meant.str.contains(r"^[+-]?(0|[1-9]\d*)(\.\d+)?$").fill_null(value=False)
        numbers = meant.filter(is_plain)
        canonical = [category_text(int(text) if text.lstrip("+-").isdigit() else float(text)) for text in numbers]
        meant = meant.replace(numbers, pl.Series(canonical, dtype=pl.String)) if len(numbers) else meant
    return texts if meant.equals(distinct) else texts.replace(distinct, meant)


def _read_numbers(texts: pl.Series) -> pl.Series:
    first = texts.head(100)  # says of most columns that they are not all whole
    if first.cast(pl.Int64, strict=False).null_count() == first.null_count():
        whole = texts.cast(pl.Int64, strict=False)
        if whole.null_count() == texts.null_count():
            return whole
    values = texts.cast(pl.Float64, strict=False)
    return values.set(values.is_nan(), None)


def _read_booleans(texts: pl.Series) -> pl.Series:
    lower = texts.str.to_lowercase()
    known = lower.is_in(["true", "false"])
    return (lower == "true").set(~known, None)


def _read_told_booleans(texts: pl.Series) -> pl.Series:
    """The same where it is known that they are booleans: then 1 and 0 are, too, as in requests."""
    digits = texts.replace_strict(
        {"1": True, "0": False, "1.0": True, "0.0": False}, default=None, return_dtype=pl.Boolean
    )
    return _read_booleans(texts).fill_null(digits)


def _read_datetimes(texts: pl.Series) -> pl.Series:
    """Moments in UTC. The texts that pass here also pass `datetime.fromisoformat`, which reads those of requests."""
    is_iso = texts.str.contains(_ISO)
    form = _form_of(texts) if is_iso.all() else None
    if form is not None:
        moments = texts.str.replace(" ", "T", literal=True).str.to_datetime(form, strict=False, time_unit="us")
        return _within_years(moments)
    texts = texts.set(~is_iso, None).str.replace(",", ".", literal=True)
    parts = texts.str.extract_groups(
        r"^(?<day>\d{4}-\d{2}-\d{2})[T ]?(?<minute>\d{2}:\d{2})?:?(?<second>\d{2}(?:\.\d+)?)?"
        r"(?<offset>Z|[+-]\d{2}(?::?\d{2})?)?$"
    ).struct.unnest()
    offset = (
        parts["offset"].fill_null("+0000").str.replace("Z", "+0000", literal=True).str.replace(":", "", literal=True)
    )
    offset = offset.str.replace(r"^([+-]\d{2})$", "${1}00")
    second = parts["second"].fill_null("00").str.head(9)  # microseconds, as requests are read
    whole = parts["day"] + " " + parts["minute"].fill_null("00:00") + ":" + second + offset
    moments = whole.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", strict=False, time_unit="us", time_zone="UTC")
    return _within_years(moments.dt.replace_time_zone(None).alias(texts.name))


def _within_years(moments: pl.Series) -> pl.Series:
    """The moments of the years that Python's datetimes have, and with them requests; null for others."""
    is_far = ~moments.is_between(datetime.min, datetime.max).fill_null(value=True)  # noqa: DTZ901 - in UTC, as documented
    return moments.set(is_far, None) if is_far.any() else moments


def _form_of(texts: pl.Series) -> str | None:
    """The form that all of a column's ISO 8601 texts have, in which they are read in a quarter of the time."""
    lengths = texts.str.len_bytes()
    shortest, longest = lengths.min(), lengths.max()
    if shortest == longest == 10:
        return "%Y-%m-%d"
    if shortest == longest == 19:
        return "%Y-%m-%dT%H:%M:%S"
    if texts.str.contains(r"^.{19}\.\d{1,6}$").all():  # null is passed over, by all three
        return "%Y-%m-%dT%H:%M:%S%.f"
    return None


_READERS: dict[Kind, Callable[[pl.Series], pl.Series]] = {
    "boolean": _read_booleans,
    "number": _read_numbers,
    "datetime": _read_datetimes,
}
_TOLD = _READERS | {"boolean": _read_told_booleans}


def _finite(values: pl.Series, rows: pl.Series, place: str) -> pl.Series:
    """The values with NaN as null.

    Raises:
        BadTable: a value is infinite, as 1e400 is.
    """
    if not values.dtype.is_float() or values.is_finite().all():
        return values
    values = values.set(values.is_nan(), None)
    wrong = values.is_infinite().fill_null(value=False)
    if wrong.any():
        first = wrong.arg_max()
        assert first is not None
        raise BadTable(place, f"column {shown(values.name)}, row {rows[first]}: the number is infinite; correct it")
    return values


# ------------------------------------------------------------------------------------------------ the target


def _target(
    column: pl.Series, plan: Plan, rows: pl.Series, place: str, *, is_text: bool, notes: list[str]
) -> pl.Series:
    wanted = plan.table.kinds.get(column.name)
    kind, values = _typed(column, wanted, rows, place, is_text=is_text, notes=notes)
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
        only = shown(_plain(values[0]))
        raise BadTable(place, f"target {shown(column.name)} is {only} in every row; there is nothing to learn")
    return values


def _task(targets: list[pl.Series], plan: Plan) -> Task:
    """Texts, booleans and few distinct whole numbers are classes; several targets are always numbers."""
    if len(targets) > 1:
        return "regression"
    values = targets[0]
    distinct = values.n_unique()
    if values.dtype.is_numeric():
        few = distinct == 2 or (distinct <= FEW_WHOLE_NUMBERS and distinct * 10 <= values.len())
        if not (_is_whole(values) and few) or (plan.fit.loss in ("mse", "l1")):
            return "regression"
    return "binary" if distinct == 2 else "multiclass"


def _learned_target(
    targets: list[pl.Series], task: Task, place: str
) -> tuple[tuple[ClassLabel, ...] | None, npt.NDArray[np.float64 | np.int64]]:
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
        values = values.cast(pl.Int64) if _is_whole(values) else values.cast(pl.String)
    labels = values.unique().sort().to_list()
    name = shown(values.name)
    if task == "binary" and len(labels) != 2:
        raise BadTable(place, f"target {name} has {len(labels)} classes; a binary classification has 2")
    if len(labels) > MOST_CLASSES or 2 * len(labels) > values.len():
        told = f"target {name} has {len(labels)} distinct values in {values.len()} rows; too many classes"
        if values.dtype == pl.String and _plain_numbers(values, is_certain=False) is not None:
            told += f"; {kind_option(values.name, 'number')} takes these texts as numbers"
        raise BadTable(place, told)
    return tuple(labels), _codes(values, labels)


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


def _are_written_together(numbers: pl.Series) -> bool:
    """Whether every number is a date of these centuries without its hyphens, as 20240531 is."""
    present = numbers.drop_nulls()
    if present.n_unique() <= FEW_WHOLE_NUMBERS or not _is_whole(present):
        return False
    if not present.is_between(1800_01_01, 2199_12_31).all():
        return False
    days = present.cast(pl.Int64).cast(pl.String).str.to_date("%Y%m%d", strict=False)
    return days.null_count() == 0


def _is_whole(values: pl.Series) -> bool:
    if values.dtype.is_integer():
        return True
    return values.dtype.is_float() and bool((values == values.round()).all()) and bool((values.abs() < 2**53).all())


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
