"""`python -m service predict`: a file in, a file out, with a version of a repository and no server.

polars reads, hands over and writes some ten thousand rows at a time, on every core; memory does not grow with the file.
A cell of a CSV is read as the trainer and the server read it. The result appears whole under its name, or not at all.
"""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from cyclopts import Parameter

from models.csv_file import BOOLEANS, MISSING, check_lines, read_header
from models.errors import BadRow, shown
from models.features import PLAIN_NUMBER, Feature, Values, category_text_of_cell
from models.moments import parts_of
from models.proof import Session, prove
from models.repository import Version
from service.commands.output import BadCommand, Json, Where, open_version, print_json, repository_at

if TYPE_CHECKING:
    import polars as pl

READ = (".csv", ".tsv", ".parquet", ".arrow")

_EXPECTED = {
    "number": "must be a number",
    "boolean": "must be true or false",
    "datetime": "must be an ISO 8601 date or datetime, like '2024-05-31T09:30:00'",
}
_ROW = "__row of the file__"


def predict(
    version: Annotated[str, Parameter(help="MODEL, MODEL/NUMBER or MODEL/LABEL.")],
    source: Path,
    result: Path,
    *,
    probabilities: Annotated[bool, Parameter(negative=())] = False,
    only: Annotated[bool, Parameter(negative=())] = False,
    lenient: Annotated[bool, Parameter(negative=())] = False,
    repository: Where = None,
    json: Json = False,
) -> None:
    """Predict every row of a file: CSV, TSV, Parquet or Arrow, told apart by suffix. Other columns pass unchanged.

    Args:
        source: The rows; every feature is a column.
        result: What is written: the columns of the source, and predictions beside them.
        probabilities: Write a column for each class as well.
        only: Write the predictions alone.
        lenient: Texts that are no number, boolean or datetime count as missing, as after the trainer's --kind.
    """
    pl = _polars()
    for path in (source, result):
        if path.suffix.lower() not in READ:
            raise BadCommand(str(path), f"its suffix is none of {', '.join(READ)}; use one of these")
    if not source.is_file():
        raise BadCommand(str(source), "there is no such file; check the path")
    if result.is_dir() or not result.parent.is_dir():
        raise BadCommand(str(result), "is a folder, or its folder is not there; check the path")
    opened = open_version(repository_at(repository), version)
    started = time.perf_counter()
    scoring = Scoring(opened, open_session(opened), probabilities=probabilities, is_lenient=lenient)
    try:
        rows = _stream(scoring, source, result, only=only)
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0][:200]
        if "os error" in reason:  # as of a full disk, where Parquet is written; else it is an OSError
            raise BadCommand(str(result), f"cannot be written: {reason}") from None
        raise BadCommand(str(source), f"cannot be read ({reason}); check that it is what its suffix says") from None
    seconds = time.perf_counter() - started
    notes = scoring.notes()
    if json:
        told = {"version": str(opened), "rows": rows, "seconds": round(seconds, 3), "result": str(result)}
        print_json(told | ({"notes": notes} if lenient else {}))
    else:
        sys.stdout.writelines(f"{note}\n" for note in notes)
        rate = f"{rows / max(seconds, 1e-9):,.0f} rows/s"
        sys.stdout.write(f"{result}: {rows:,} rows by {opened} in {seconds:.1f} s ({rate})\n")


def open_session(version: Version) -> Session:
    """The version's graph in ONNX Runtime, proven.

    Raises:
        BadVersion: it cannot be trusted.
    """
    from service.sessions.onnx import OnnxSession  # noqa: PLC0415 - not for the commands that need no runtime

    session = OnnxSession(version, "cpu")
    prove(version.manifest, version.proof(), session)
    return session


def _polars() -> Any:
    try:
        import polars as pl  # noqa: PLC0415 - the server does without
    except ImportError:
        raise BadCommand(
            "predict", "needs polars, which is not installed; pip install polars, or use the trainer's image"
        ) from None
    return pl


def _stream(scoring: "Scoring", source: Path, result: Path, *, only: bool) -> int:
    """Write the result beside its place, move it there, and return the number of rows."""
    table = _scan(source)
    read = table.collect_schema()
    lacking = [name for name in scoring.version.schema.names if name not in read]
    if lacking:
        there = ", ".join(shown(name) for name in list(read)[1:7])
        raise BadCommand(
            str(source), f"has no column {shown(lacking[0])}, a feature of {scoring.version}; it has {there}"
        )
    written = {name: dtype for name, dtype in read.items() if name != _ROW and not only}
    clash = sorted(scoring.columns.keys() & written.keys())
    if clash:
        raise BadCommand(str(source), f"has a column {shown(clash[0])} already; rename it, or write predictions --only")
    is_text = source.suffix.lower() in {".csv", ".tsv"}
    counted: list[int] = []

    def score(frame: "pl.DataFrame") -> "pl.DataFrame":
        counted.append(frame.height)
        predictions = scoring.score(frame, is_text=is_text)
        return predictions if only else frame.drop(_ROW).with_columns(predictions)

    beside = result.with_name(f".{result.name}.{os.getpid()}.part")
    try:
        try:
            scored = table.map_batches(score, schema=written | scoring.columns, streamable=True)
            _sink(scored, beside, result.suffix.lower())
            beside.replace(result)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise BadCommand(str(result), f"cannot be written: {error.strerror or error}") from None  # polars' have none
    finally:  # of one Ctrl-C polars makes an error, and Python another in the line above
        beside.unlink(missing_ok=True)
    return sum(counted)


def _scan(path: Path) -> "pl.LazyFrame":
    import polars as pl  # noqa: PLC0415 - the server does without

    match path.suffix.lower():
        case ".parquet":
            return pl.scan_parquet(path, row_index_name=_ROW, glob=False)  # t[1].parquet is that file
        case ".arrow":
            return pl.scan_ipc(path, row_index_name=_ROW, glob=False)
        case _:
            names, mark = read_header(path)  # what it refuses, polars would fill up or rename
            for number, name in enumerate(names):
                if name and name in names[:number]:
                    raise BadCommand(str(path), f"has two columns named {shown(name)}; rename one")
            unnamed = [f"{_ROW}{number}" for number, name in enumerate(names) if not name]  # left out, as in training
            names = [name or f"{_ROW}{number}" for number, name in enumerate(names)]
            _, _, blank = check_lines(path, mark, len(names))
            table = pl.scan_csv(
                path, separator=mark, infer_schema=False, row_index_name=_ROW, new_columns=names, glob=False
            )
            table = table.drop(unnamed)
            if len(names) == 1 or not blank:  # of one column a missing value is a blank line
                return table
            return table.filter(~pl.col(_ROW).is_in([line - 1 for line in blank]))


def _sink(table: "pl.LazyFrame", path: Path, suffix: str) -> None:
    match suffix:
        case ".parquet":
            table.sink_parquet(path, engine="streaming")
        case ".arrow":
            table.sink_ipc(path, engine="streaming")
        case _:
            table.sink_csv(path, separator="\t" if suffix == ".tsv" else ",", engine="streaming")


# --------------------------------------------------------------------------------------------------- rows to answers


@dataclass(frozen=True)
class _Lost:
    """Texts of a frame that counted as missing: how many, and the first one with its row in the file, from 1."""

    feature: str
    values: int
    row: int
    text: str


@dataclass(frozen=True)
class Scoring:
    """A version that answers frames. `score` may be called from several threads.

    Attributes:
        is_lenient: a text that is no value of its feature's kind counts as missing.
        lost: what did so, in each frame.
    """

    version: Version
    session: Session
    probabilities: bool = False
    is_lenient: bool = False
    lost: list[_Lost] = field(default_factory=list)

    def notes(self) -> list[str]:
        """A sentence for each feature with texts that counted as missing."""
        sentences = []
        for feature in self.version.schema.features:
            if lost := sorted((one for one in self.lost if one.feature == feature.name), key=lambda one: one.row):
                first = f"(first: {shown(lost[0].text)} in row {lost[0].row})"
                sentences.append(
                    f"{sum(one.values for one in lost)} values of feature {shown(feature.name)} are no {feature.kind} "
                    f"and count as missing {first}"
                )
        return sentences

    @property
    def columns(self) -> dict[str, Any]:
        """Names and types of what it adds: `prediction`, for several targets `prediction_<target>`; probabilities."""
        import polars as pl  # noqa: PLC0415

        manifest = self.version.manifest
        if manifest.classes is None:
            names = (
                [f"prediction_{target}" for target in manifest.targets] if len(manifest.targets) > 1 else ["prediction"]
            )
            return dict.fromkeys(names, pl.Float32)
        added: dict[str, Any] = {"prediction": pl.Series(list(manifest.classes), strict=False).dtype}
        if self.probabilities:
            added |= {f"probability_{label}": pl.Float32 for label in manifest.classes}
        return added

    def score(self, frame: "pl.DataFrame", *, is_text: bool) -> "pl.DataFrame":
        """The predictions for a frame.

        Raises:
            BadRow: a value is of the wrong kind, by its row in the file, from 1.
            BadCommand: the network computes a number that is not finite.
        """
        import polars as pl  # noqa: PLC0415

        schema = self.version.schema
        numbers = frame[_ROW]
        try:
            columns = {one.name: self._values(frame, one, is_csv=is_text) for one in schema.features}
            matrix = schema.encode_columns(columns)
        except BadRow as error:
            row = None if error.row is None else int(numbers[error.row]) + 1
            refused = BadRow(row, error.feature, error.expected, error.got)
            if error.expected in _EXPECTED.values() and error.feature and _holds_texts(frame[error.feature]):
                reason = f"{BadRow(None, *refused.args[1:])}; --lenient takes such values for missing"
                raise BadCommand(f"row {row}", reason) from None
            raise refused from None
        answers = self.session.run(matrix)
        manifest = self.version.manifest
        if manifest.classes is None:
            table = _finite(answers["prediction"], numbers, self.version)
            return pl.DataFrame(dict(zip(self.columns, table.T, strict=True)))
        labels = pl.Series("prediction", list(manifest.classes), strict=False)
        table = _finite(answers["probabilities"], numbers, self.version)  # else no class means anything
        scored = [labels.gather(answers["label"].astype(np.uint32)).alias("prediction")]
        if self.probabilities:
            scored += [pl.Series(name, column) for name, column in zip(list(self.columns)[1:], table.T, strict=True)]
        return pl.DataFrame(scored)

    def _values(self, frame: "pl.DataFrame", feature: Feature, *, is_csv: bool) -> Values:
        """A column as `Schema.encode_columns` reads it."""
        import polars as pl  # noqa: PLC0415

        column = frame[feature.name]
        if feature.kind == "category" and is_csv:
            return _categories(column)
        if feature.kind == "number" and (numbers := _plain_numbers(column)) is not None:
            return numbers
        if feature.kind != "category" and _holds_texts(column):
            texts = column.cast(pl.String).str.strip_chars()
            texts = texts.set((texts == "") | texts.str.to_lowercase().is_in(list(MISSING)), None)
            if feature.kind == "datetime" and not self.is_lenient:  # whoever encodes them reads them
                return texts.to_list()
            values = _READERS[feature.kind](texts)
            wrong = (texts.is_not_null() & values.is_null()).arg_true().to_list()
            if wrong and not self.is_lenient:
                raise BadRow(wrong[0], feature.name, _EXPECTED[feature.kind], shown(texts[wrong[0]]))
            if wrong:
                self.lost.append(_Lost(feature.name, len(wrong), frame[_ROW][wrong[0]] + 1, texts[wrong[0]]))
            return values.to_numpy() if feature.kind == "number" else values.to_list()
        if column.dtype.is_decimal():  # 1.00 is the category of 1, as it is for the trainer
            column = column.cast(pl.Float64)
        if feature.kind == "datetime" and column.dtype.is_temporal():
            return column.to_numpy()  # null becomes NaT
        return column.to_list()


def _finite(values: npt.NDArray[Any], numbers: "pl.Series", version: Version) -> npt.NDArray[Any]:
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(wrong):
        raise BadCommand(
            f"row {int(numbers[int(wrong[0])]) + 1}",
            f"{version} computes a number that is not finite; look at this row",
        )
    return values


def _holds_texts(column: "pl.Series") -> bool:
    import polars as pl  # noqa: PLC0415

    return column.dtype in (pl.String, pl.Categorical, pl.Enum)


def _plain_numbers(column: "pl.Series") -> npt.NDArray[np.float64] | None:
    """The numbers of a column whose every cell is missing or plainly one, NaN for missing ones; None of others.

    What is said of texts in `Scoring._values` takes ten passes: of 10,000 columns 20 s, and 2 in all without them.
    """
    import polars as pl  # noqa: PLC0415

    if column.dtype != pl.String and not column.dtype.is_numeric() and column.dtype != pl.Null:
        return None
    numbers = column.cast(pl.Float64, strict=column.dtype != pl.String)
    return numbers.to_numpy() if numbers.null_count() == column.null_count() else None


def _categories(column: "pl.Series") -> list[str | None]:
    """The cells of a CSV: blanks around them do not count, an empty one is missing, 3 and 3.0 are one."""
    texts = column.str.strip_chars()
    texts = texts.set(texts == "", None)
    numbers = texts.filter(texts.str.contains(f"^{PLAIN_NUMBER}$")).unique()
    known = {text: category_text_of_cell(text) for text in numbers}
    return (texts.replace(known) if known else texts).to_list()


def _read_numbers(texts: "pl.Series") -> "pl.Series":
    import polars as pl  # noqa: PLC0415

    return texts.cast(pl.Float64, strict=False)


def _read_booleans(texts: "pl.Series") -> "pl.Series":
    import polars as pl  # noqa: PLC0415

    return texts.str.to_lowercase().replace_strict(BOOLEANS, default=None, return_dtype=pl.Boolean)


def _read_moments(texts: "pl.Series") -> "pl.Series":
    """The texts that are ISO 8601; null for others."""
    distinct = texts.drop_nulls().unique().to_list()
    return texts.set(texts.is_in([text for text in distinct if not _is_moment(text)]), None)


def _is_moment(text: str) -> bool:
    try:
        parts_of(text)
    except (ValueError, OverflowError):
        return False
    return True


_READERS = {"number": _read_numbers, "boolean": _read_booleans, "datetime": _read_moments}
