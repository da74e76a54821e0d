"""CSV: rows as lines of values, predictions as lines of numbers or classes.

A cell is read as the trainer reads it: blanks around it do not count, an empty one is missing, and so is one of
`MISSING` where a number, a boolean or a datetime is expected.
"""

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.csv_file import BOOLEANS, MISSING
from models.errors import BadRow, shown
from models.features import BLANKS, Feature, category_text, category_text_of_cell
from models.proof import Answers
from models.repository import Version
from models.schema import Matrix, Schema
from service.problems import BadBody, TooLarge
from service.wire.answers import class_numbers, finite
from service.wire.certainty import Certainty
from service.wire.columns import check_names
from service.wire.json_text import MOST_VALUES, texts_of_rows

_NEEDS_QUOTES = re.compile(r'[",\r\n]')


def encode(raw: bytes, schema: Schema, most_rows: int, *, header: bool | None = None) -> Matrix:
    """The lines as the matrix that the graph reads, [N, F].

    With a header columns come by name, in any order; without, in the order of the features. Where `header` does not
    say which, the first line is one if more than half of its cells are names of features.

    Raises:
        BadBody: it is no CSV in UTF-8, separated by commas.
        TooLarge: it has more rows than `most_rows`; those beyond were not read. Or it has more commas than so many rows
            can have; nothing was read.
        BadRow: a line has more or fewer cells than there are columns, a column is unknown, absent or there twice, or a
            cell is of the wrong kind; it names the row, from 0 below the header.
    """
    most_values = max(MOST_VALUES, (most_rows + 1) * len(schema.names))
    if raw.count(b",") > most_values:
        raise TooLarge(most_values, None, "values")
    lines = _lines(raw, most_rows + 1)
    if lines and len(lines[0]) == 1 and len(schema.names) > 1 and (mark := re.search(r"[;\t|]", lines[0][0])):
        raise BadBody("the body must be CSV separated by commas", f"lines separated by {shown(mark[0])}")
    known = set(schema.names)  # of a Parquet table's, some may have blanks around them
    first = [cell if cell in known else cell.strip() for cell in lines[0]] if lines else []
    if header is None:
        header = sum(cell in known for cell in first) * 2 > len(first)
    if header and not lines:
        raise BadBody("the body must have a header", "nothing")
    names = first if header else list(schema.names)
    check_names(names, schema, "in the header")
    rows = lines[1:] if header else lines
    if len(rows) > most_rows:
        raise TooLarge(most_rows, None, "rows")
    for number, row in enumerate(rows):
        if len(row) != len(names):
            what = f"must have {len(names)} values, one for each " + ("name in the header" if header else "feature")
            raise BadRow(number, None, what, str(len(row)))
    cells = zip(*rows, strict=True) if rows else [()] * len(names)
    features = {feature.name: feature for feature in schema.features}
    columns: dict[str, Sequence[Any]] = {}
    for name, column in zip(names, cells, strict=True):
        feature = features.get(name)  # encode_columns refuses what is unknown
        columns[name] = [] if feature is None else _read(feature, column)
    return schema.encode_columns(columns)


def _lines(raw: bytes, most: int) -> list[list[str]]:
    """The cells of each line; one more line than `most` at the most. Blank lines at the end do not count."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadBody("the body must be CSV in UTF-8: it is not UTF-8") from None
    if "\0" in text:
        raise BadBody("the body must be CSV: it has a NUL character")
    lines: list[list[str]] = []
    reader = csv.reader(io.StringIO(text.rstrip("\r\n"), newline=""), strict=True)
    try:
        for line in reader:
            lines.append(line)
            if len(lines) > most:
                break
    except csv.Error as error:
        raise BadBody(f"the body must be CSV: line {reader.line_num}: {error}") from None
    return lines


def _read(feature: Feature, cells: Sequence[str]) -> Sequence[Any]:
    """The cells as values of the feature's kind."""
    match feature.kind:
        case "category":
            no_text = "" if "" in feature.categories else None
            return [category_text_of_cell(cell.strip(BLANKS)) or no_text for cell in cells]
        case "number":
            try:
                if not any("_" in cell for cell in cells):  # which Python, unlike the trainer, reads in numbers
                    return [float(cell) for cell in cells]
            except ValueError:  # a missing one, or none at all
                pass
            return _each(feature, cells, _number, "must be a number")
        case "boolean":
            return _each(feature, cells, lambda cell: BOOLEANS.get(cell.lower()), "must be true or false")
        case "datetime":
            return [None if _is_missing(cell.strip()) else cell.strip() for cell in cells]


def _each(feature: Feature, cells: Sequence[str], read: Callable[[str], Any], expected: str) -> list[Any]:
    values: list[Any] = []
    for row, cell in enumerate(map(str.strip, cells)):
        value = None if _is_missing(cell) else read(cell)
        if value is None and not _is_missing(cell):
            raise BadRow(row, feature.name, expected, shown(cell))
        values.append(value)
    return values


def _is_missing(cell: str) -> bool:
    return not cell or cell.lower() in MISSING


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


# --------------------------------------------------------------------------------------------------- answers


def write(version: Version, answers: Answers, *, header: bool, output: str, sure: Certainty | None = None) -> bytes:
    """The lines of an answer: K predictions each, or a class, or with the output "probabilities" C of them.

    How sure they are follows on the line: the lower and the upper bound of each target, or for each class whether it is
    in the row's set. Every float32 comes back bit by bit when its text is read and rounded to float32.

    Raises:
        ModelFailed: a number is not finite, or a label is no class.
    """
    manifest = version.manifest
    if manifest.classes is None:
        names = [*manifest.targets] if len(manifest.targets) > 1 else ["prediction"]
        lines = texts_of_rows(finite(version, "prediction", answers))
    else:
        classes = [_cell(category_text(one) or "").encode() for one in manifest.classes]
        probabilities = finite(version, "probabilities", answers)  # of numbers that are not, no class means anything
        numbers = class_numbers(version, manifest.classes, answers).tolist()
        if output == "probabilities":
            names, lines = [category_text(one) or "" for one in manifest.classes], texts_of_rows(probabilities)
        else:
            names, lines = ["prediction"], [classes[number] for number in numbers]
    if sure is not None:
        more, cells = _columns_of(version, sure)
        names += more
        lines = list(map(b"%b,%b".__mod__, zip(lines, cells, strict=True)))
    if header:
        lines = [",".join(map(_cell, names)).encode(), *lines]
    return b"\n".join([*lines, b""])


def _columns_of(version: Version, sure: Certainty) -> tuple[list[str], list[bytes]]:
    """The columns that say how sure an answer is: their names and lines."""
    manifest = version.manifest
    if sure.bounds is None:
        assert sure.members is not None
        values: npt.NDArray[Any] = sure.members
        names = [f"{category_text(one) or ''}_in_set" for one in manifest.classes or ()]
    else:
        targets = [f"{target}_" for target in manifest.targets] if len(manifest.targets) > 1 else [""]
        names = [target + end for target in targets for end in ("lower", "upper")]
        values = np.moveaxis(sure.bounds, 0, 2).reshape(-1, 2 * len(targets))  # [N, 2K]
    return names, texts_of_rows(np.ascontiguousarray(values))


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) or text != text.strip() else text
