"""A file becomes a table: CSV and Parquet, read whole or refused with one sentence.

A CSV is looked at byte by byte (`models/csv_file.py`) before polars reads it. Its cells stay texts here; `kinds.py`
says what they mean.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from models.csv_file import BadTable, check_lines, read_header
from models.errors import shown
from training.sentences import MOST_LISTED, listed

SUFFIXES = (".csv", ".tsv", ".parquet")
COMPRESSED = (".gz", ".zst", ".zip", ".bz2", ".xz")
_LONGEST_NAME = 500  # of a feature in a manifest


@dataclass(frozen=True)
class Table:
    """Rows as they were read, before anything was decided about them.

    Attributes:
        frame: the columns; all of them texts where they come from a CSV.
        sha256: digest of the file's bytes, or of a generated frame's CSV form.
        source: the file or dataset, as errors name it.
        is_text: cells are texts whose meaning is still to be inferred.
        notes: what was done to the table, a sentence each.
        numbers: of the rows in the file, from 1, where they are some of them.
    """

    frame: pl.DataFrame
    sha256: str
    source: str
    is_text: bool = False
    notes: tuple[str, ...] = ()
    numbers: pl.Series | None = None

    @classmethod
    def of(cls, frame: pl.DataFrame, source: str) -> "Table":
        """A table from a frame that is already in memory."""
        return cls(frame, hashlib.sha256(frame.write_csv().encode()).hexdigest(), source)


def read_table(path: Path) -> Table:
    """Read a CSV (UTF-8; comma, semicolon, tab or bar, whichever its header has most of) or a Parquet file.

    A column without a name is left out, and said so.

    Raises:
        BadTable: the file is absent, empty or not what its suffix says; a line has more or fewer values than the
            header; a name stands twice; a byte is no UTF-8 or is NUL; there are no rows.
    """
    place = str(path)
    if path.suffix.lower() in COMPRESSED:
        raise BadTable(
            place, "is compressed; unpack it first, or save the table as Parquet, which is compressed itself"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise BadTable(place, f"its suffix is none of {', '.join(SUFFIXES)}; save the table as one of these")
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise BadTable(place, "is a folder; name the file")
        if size == 0:
            raise BadTable(place, "is empty; it needs a header and rows")
        return _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    except FileNotFoundError:
        raise BadTable(place, "there is no such file; check the path") from None
    except OSError as error:
        raise BadTable(place, f"cannot be read: {error.strerror or error}") from None


def _read_parquet(path: Path) -> Table:
    try:
        frame = pl.read_parquet(path, glob=False)  # t[1].parquet is that file, and not t1.parquet
    except pl.exceptions.PolarsError as error:
        raise not_read(path, error) from None
    if frame.height == 0:
        raise BadTable(str(path), "has columns but no rows")
    names, notes = check_names(frame.columns, str(path))
    return Table(frame.select(name for name in names if name), digest_of(path), str(path), notes=tuple(notes))


def digest_of(path: Path) -> str:
    """Sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def not_read(path: Path, error: Exception) -> BadTable:
    """Why a Parquet file could not be read."""
    reason = str(error).splitlines()[0][:200]
    if isinstance(error, pl.exceptions.DuplicateError) or "more than one occurrence" in reason:
        return BadTable(str(path), f"two columns have one name ({reason}); rename one")
    return BadTable(str(path), f"is not a Parquet file that can be read ({reason}); write it again")


def _read_csv(path: Path) -> Table:
    scanned, _, sha256, notes = scan_csv(path)
    try:
        frame = scanned.collect()
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0][:200]
        raise BadTable(str(path), f"is not a CSV file that can be read ({reason})") from None
    return Table(frame, sha256, str(path), is_text=True, notes=tuple(notes))


def scan_csv(path: Path) -> tuple[pl.LazyFrame, int, str, list[str]]:
    """A CSV whose every byte was looked at and whose rows are still to be read: texts; rows, digest and notes.

    Raises:
        BadTable: as for `read_table`.
    """
    place = str(path)
    header, delimiter = read_header(path)
    names, notes = check_names(header, place)
    sha256, rows, _ = check_lines(path, delimiter, len(header))
    if rows == 0:
        raise BadTable(place, "has a header but no rows")
    frame = pl.scan_csv(
        path,
        separator=delimiter,
        infer_schema=False,
        new_columns=[f"{number}" for number in range(len(header))],
        encoding="utf8",
        glob=False,  # t[1].csv is that file, and not t1.csv
    )
    return frame.select(pl.col(f"{n}").alias(name) for n, name in enumerate(names) if name), rows, sha256, notes


def check_names(header: list[str], place: str) -> tuple[list[str], list[str]]:
    """The names of the columns, and a sentence for each that has none and is left out.

    Raises:
        BadTable: a name stands twice, or is longer than a feature's may be.
    """
    seen: dict[str, int] = {}
    unnamed = []
    for number, name in enumerate(header, 1):
        if not name:
            unnamed.append(number)
        elif name in seen:
            raise BadTable(place, f"columns {seen[name]} and {number} are both named {shown(name)}; rename one")
        elif len(name) > _LONGEST_NAME:
            raise BadTable(place, f"column {number} has a name of {len(name)} characters; {_LONGEST_NAME} are allowed")
        seen[name] = number
    if len(unnamed) > MOST_LISTED:  # spreadsheets may leave thousands at the right
        return header, [f"{len(unnamed)} columns have no name and are left out: {listed(unnamed)}"]
    return header, [f"column {number} has no name and is left out" for number in unnamed]
