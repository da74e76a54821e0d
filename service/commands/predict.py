"""`python -m service predict`: a file in, a file out, with a version of a repository and no server.

polars reads, hands over and writes some ten thousand rows at a time, on every core; memory does not grow with the file.
A cell of a CSV is read as the trainer and the server read it. The result appears whole under its name, or not at all.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from cyclopts import Parameter

from models.csv_file import check_lines, read_header
from models.errors import BadRow, shown
from models.proof import Session, prove
from models.repository import Version
from models.schema import Feature, category_text
from service.commands.output import BadCommand, Json, Where, open_version, print_json, repository_at

if TYPE_CHECKING:
    import polars as pl

READ = (".csv", ".tsv", ".parquet", ".arrow")
MISSING = frozenset({"na", "n/a", "#n/a", "nan", "null", "none", "?"})
"""Spellings of a missing value in a CSV, in any case, as for the trainer; not of a category's."""

_ROW = "__row of the file__"
_PLAIN_NUMBER = r"^[+-]?(0|[1-9]\d*)(\.\d+)?$"


def predict(
    version: Annotated[str, Parameter(help="MODEL, MODEL/NUMBER or MODEL/LABEL.")],
    source: Path,
    result: Path,
    *,
    probabilities: Annotated[bool, Parameter(negative=())] = False,
    only: Annotated[bool, Parameter(negative=())] = False,
    repository: Where = None,
    json: Json = False,
) -> None:
    """Predict every row of a file: CSV, TSV, Parquet or Arrow, told apart by suffix. Other columns pass unchanged.

    Args:
        source: The rows; every feature is a column.
        result: What is written: the columns of the source, and predictions beside them.
        probabilities: Write a column for each class as well.
        only: Write the predictions alone.
    """
    pl = _polars()
    for path in (source, result):
        if path.suffix.lower() not in READ:
            raise BadCommand(str(path), f"its suffix is none of {', '.join(READ)}; use one of these")
    if not source.is_file():
        raise BadCommand(str(source), "there is no such file; check the path")
    opened = open_version(repository_at(repository), version)
    started = time.perf_counter()
    scoring = Scoring(opened, open_session(opened), probabilities=probabilities)
    try:
        rows = _stream(scoring, source, result, only=only)
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise BadCommand(str(source), f"cannot be read ({reason}); check that it is what its suffix says") from None
    seconds = time.perf_counter() - started
    if json:
        print_json({"version": str(opened), "rows": rows, "seconds": round(seconds, 3), "result": str(result)})
    else:
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
        _sink(
            table.map_batches(score, schema=written | scoring.columns, streamable=True), beside, result.suffix.lower()
        )
        beside.replace(result)
    finally:
        beside.unlink(missing_ok=True)
    return sum(counted)


def _scan(path: Path) -> "pl.LazyFrame":
    import polars as pl  # noqa: PLC0415 - the server does without

    match path.suffix.lower():
        case ".parquet":
            return pl.scan_parquet(path, row_index_name=_ROW)
        case ".arrow":
            return pl.scan_ipc(path, row_index_name=_ROW)
        case _:
            names, mark = read_header(path)  # what it refuses, polars would fill up or rename
            for number, name in enumerate(names):
                if name in names[:number]:
                    raise BadCommand(str(path), f"has two columns named {shown(name)}; rename one")
            _, _, blank = check_lines(path, mark, len(names))
            table = pl.scan_csv(path, separator=mark, infer_schema=False, row_index_name=_ROW, new_columns=names)
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
class Scoring:
    """A version that answers frames. `score` may be called from several threads."""

    version: Version
    session: Session
    probabilities: bool = False

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
            columns = {one.name: _values(frame[one.name], one, is_text=is_text) for one in schema.features}
            matrix = schema.encode_columns(columns)
        except BadRow as error:
            row = None if error.row is None else int(numbers[error.row]) + 1
            raise BadRow(row, error.feature, error.expected, error.got) from None
        answers = self.session.run(matrix)
        manifest = self.version.manifest
        if manifest.classes is None:
            table = _finite(answers["prediction"], numbers, self.version)
            return pl.DataFrame(dict(zip(self.columns, table.T, strict=True)))
        labels = pl.Series("prediction", list(manifest.classes), strict=False)
        scored = [labels.gather(answers["label"].astype(np.uint32)).alias("prediction")]
        if self.probabilities:
            table = _finite(answers["probabilities"], numbers, self.version)
            scored += [pl.Series(name, column) for name, column in zip(list(self.columns)[1:], table.T, strict=True)]
        return pl.DataFrame(scored)


def _finite(values: npt.NDArray[Any], numbers: "pl.Series", version: Version) -> npt.NDArray[Any]:
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(wrong):
        raise BadCommand(
            f"row {int(numbers[int(wrong[0])]) + 1}",
            f"{version} computes a number that is not finite; look at this row",
        )
    return values


def _values(column: "pl.Series", feature: Feature, *, is_text: bool) -> Sequence[Any] | npt.NDArray[Any]:
    """A column as `Schema.encode_columns` reads it."""
    import polars as pl  # noqa: PLC0415

    if is_text:
        return _values_of_texts(column, feature)
    if feature.kind == "number" and (column.dtype.is_numeric() or column.dtype == pl.Null):
        return column.cast(pl.Float64).to_numpy()  # null becomes NaN
    if column.dtype.is_decimal():  # 1.00 is the category of 1, as it is for the trainer
        column = column.cast(pl.Float64)
    if feature.kind == "datetime" and column.dtype.is_temporal():
        return column.to_numpy()  # null becomes NaT
    return column.to_list()


def _values_of_texts(column: "pl.Series", feature: Feature) -> Sequence[Any] | npt.NDArray[Any]:
    """The cells of a CSV: blanks around them do not count, an empty one is missing."""
    import polars as pl  # noqa: PLC0415

    texts = column.str.strip_chars()
    if feature.kind == "category":
        texts = texts.set(texts == "", None)
        numbers = texts.filter(texts.str.contains(_PLAIN_NUMBER)).unique()  # 3 and 3.0 are one category
        known = {text: category_text(int(text) if text.lstrip("+-").isdigit() else float(text)) for text in numbers}
        return texts.replace(known).to_list() if known else texts.to_list()
    texts = texts.set((texts == "") | texts.str.to_lowercase().is_in(list(MISSING)), None)
    match feature.kind:
        case "number":
            numbers = texts.cast(pl.Float64, strict=False)
            _refuse(texts, numbers, feature, "must be a number")
            return numbers.to_numpy()
        case "boolean":
            booleans = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
            flags = texts.str.to_lowercase().replace_strict(booleans, default=None, return_dtype=pl.Boolean)
            _refuse(texts, flags, feature, "must be true or false")
            return flags.to_list()
        case _:
            return texts.to_list()


def _refuse(texts: "pl.Series", values: "pl.Series", feature: Feature, expected: str) -> None:
    wrong = (texts.is_not_null() & values.is_null()).arg_true()
    if len(wrong):
        raise BadRow(int(wrong[0]), feature.name, expected, shown(texts[int(wrong[0])]))
