"""A file becomes a table: CSV and Parquet, read whole or refused with one sentence.

A CSV is looked at byte by byte before polars reads it, because quiet repairs make quiet garbage: a short line is not
filled up, a duplicate column is not renamed, a NUL is not kept. Its cells stay texts here; `columns.py` says what they
mean. Rows are numbered from 1 below the header, as a person counts them.
"""

import codecs
import csv
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from models.errors import RowcastError, shown

SUFFIXES = (".csv", ".tsv", ".parquet")
DELIMITERS = ",;\t|"
_CHUNK = 1 << 24  # bytes looked at together; also the longest line that is read
_BOM = codecs.BOM_UTF8
_LONGEST_NAME = 500  # of a feature in a manifest
_OTHER_FILES = {
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
    b"PAR1": "Parquet by another name",
}
"""What a file that was only renamed begins with."""


class BadTable(RowcastError):  # noqa: N818 - it names the thing that is bad, as callers say it
    """A table cannot be trained on.

    Attributes:
        place: the file or dataset.
        reason: what is wrong, where, and what to do about it.
    """

    code = "bad_table"

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(place, reason)
        self.place, self.reason = place, reason

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class Table:
    """Rows as they were read, before anything was decided about them.

    Attributes:
        frame: the columns; all of them texts where they come from a CSV.
        sha256: digest of the file's bytes, or of a generated frame's CSV form.
        source: the file or dataset, as errors name it.
        is_text: cells are texts whose meaning is still to be inferred.
        notes: what was done to the table, a sentence each.
    """

    frame: pl.DataFrame
    sha256: str
    source: str
    is_text: bool = False
    notes: tuple[str, ...] = ()

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
    if path.suffix.lower() in (".gz", ".zst", ".zip", ".bz2", ".xz"):
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
        frame = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise not_read(path, error) from None
    if frame.height == 0:
        raise BadTable(str(path), "has columns but no rows")
    names, notes = check_names(frame.columns, str(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Table(frame.select(name for name in names if name), digest, str(path), notes=tuple(notes))


def not_read(path: Path, error: Exception) -> BadTable:
    """Why a Parquet file could not be read."""
    reason = str(error).splitlines()[0][:200]
    if isinstance(error, pl.exceptions.DuplicateError) or "more than one occurrence" in reason:
        return BadTable(str(path), f"two columns have one name ({reason}); rename one")
    return BadTable(str(path), f"is not a whole Parquet file ({reason}); write it again")


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
    header, delimiter = _read_header(path)
    names, notes = check_names(header, place)
    sha256, rows = _check_lines(path, delimiter, len(header))
    if rows == 0:
        raise BadTable(place, "has a header but no rows")
    frame = pl.scan_csv(
        path,
        separator=delimiter,
        infer_schema=False,
        new_columns=[f"{number}" for number in range(len(header))],
        encoding="utf8",
    )
    return frame.select(pl.col(f"{n}").alias(name) for n, name in enumerate(names) if name), rows, sha256, notes


def _read_header(path: Path) -> tuple[list[str], str]:
    """The names in the first line, and the delimiter between them."""
    with path.open("rb") as file:
        line = file.readline(_CHUNK).removeprefix(_BOM)
    for mark, what in _OTHER_FILES.items():
        if line.startswith(mark):
            raise BadTable(str(path), f"is {what}, not a text file of UTF-8; save the table as CSV or Parquet")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise BadTable(str(path), "its header is not UTF-8; save the file as UTF-8") from None
    if not text.strip():
        raise BadTable(str(path), "its first line is blank; it needs a header")
    if text.count('"') % 2:
        raise BadTable(
            str(path), "its header opens a quote that its first line does not close; name columns in one line"
        )
    if "\r" in text.rstrip("\r\n"):
        raise BadTable(str(path), "its lines end with CR alone, as of old Macs; save it with line ends of LF or CRLF")
    delimiter = max(DELIMITERS, key=lambda mark: sum(part.count(mark) for part in text.split('"')[::2]))
    return [name.strip() for name in next(csv.reader([text], delimiter=delimiter))], delimiter


def check_names(header: list[str], place: str) -> tuple[list[str], list[str]]:
    """The names of the columns, and a sentence for each that has none and is left out.

    Raises:
        BadTable: a name stands twice, or is longer than a feature's may be.
    """
    seen: dict[str, int] = {}
    notes = []
    for number, name in enumerate(header, 1):
        if not name:
            notes.append(f"column {number} has no name and is left out")
        elif name in seen:
            raise BadTable(place, f"columns {seen[name]} and {number} are both named {shown(name)}; rename one")
        elif len(name) > _LONGEST_NAME:
            raise BadTable(place, f"column {number} has a name of {len(name)} characters; {_LONGEST_NAME} are allowed")
        seen[name] = number
    return header, notes


# ------------------------------------------------------------------------------------------- byte by byte


def _check_lines(path: Path, delimiter: str, width: int) -> tuple[str, int]:
    """Digest of the file and its number of rows, after a look at every byte (about 0.5 s for 100 MB)."""
    place = str(path)
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, rest = 0, b""  # line 0 is the header; rest is the part of a line that the next chunk goes on with
    blanks = 0
    for chunk in _chunks(path):
        digest.update(chunk)
        if b"\0" in chunk:
            place_in_file = line + (rest + chunk[: chunk.index(b"\0")]).count(b"\n")
            raise BadTable(place, f"{_row(place_in_file)} holds a NUL byte; it is damaged or not a text file")
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError as error:
            place_in_file = line + (rest + chunk[: error.start]).count(b"\n")
            raise BadTable(place, f"{_row(place_in_file)} is not UTF-8; save the file as UTF-8") from None
        block = rest + chunk
        widths, is_blank, used = _line_widths(block, delimiter)
        wrong = np.flatnonzero((widths != width) & ~is_blank)
        if len(wrong):
            _refuse_width(place, line + int(wrong[0]), int(widths[wrong[0]]), width)
        line += len(widths)
        blanks += int(is_blank.sum())
        rest = block[used:]
        if len(rest) > _CHUNK:
            raise BadTable(place, f"{_row(line)} is longer than {_CHUNK >> 20} MiB; is a quote never closed?")
    if rest:
        widths, is_blank, used = _line_widths(rest + b"\n", delimiter)
        if not used:
            raise BadTable(place, f"{_row(line)} opens a quote that is never closed")
        if widths[0] != width and not is_blank[0]:
            _refuse_width(place, line, int(widths[0]), width)
        line += 1
        blanks += int(is_blank[0])
    return digest.hexdigest(), line - 1 - blanks


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        read: Callable[[], bytes] = lambda: file.read(_CHUNK)  # noqa: E731 - iter() wants a callable
        yield from iter(read, b"")


def _line_widths(block: bytes, delimiter: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Values per line, whether the line is blank, and the bytes that whole lines take up."""
    codes = np.frombuffer(block, dtype=np.uint8)
    is_mark = (codes == ord(delimiter)) | (codes == ord("\n"))
    if b'"' in block:  # a mark after an odd number of quotes is part of a text; a doubled quote counts twice
        is_mark &= np.bitwise_and(np.cumsum(codes == ord('"'), dtype=np.int64), 1) == 0
    marks = np.flatnonzero(is_mark)
    ends = np.flatnonzero(codes[marks] == ord("\n"))
    if not len(ends):
        return np.empty(0, np.int64), np.empty(0, bool), 0
    stops = marks[ends]  # where each line ends
    starts = np.concatenate([[0], stops[:-1] + 1])
    lengths = stops - starts
    returns = (lengths == 1) & (codes[starts] == ord("\r"))
    return np.diff(ends, prepend=-1), (lengths == 0) | returns, int(stops[-1]) + 1


def _refuse_width(place: str, line: int, got: int, width: int) -> None:
    raise BadTable(place, f"{_row(line)} has {got} values, the header names {width}; quote texts that hold delimiters")


def _row(line: int) -> str:
    return f"row {line}" if line else "the header"
