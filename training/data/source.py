"""A table that is read in pieces: a sample of it, and then all of its rows, a batch at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from models.csv_file import BadTable
from training.data.table import Table, check_names, digest_of, not_read, scan_csv
from training.plan import Plan

LARGE_CELLS = 30_000_000
"""Values from which a table is read in pieces. Read whole, one takes about 60 bytes a value: 2 GB for so many."""
SAMPLE_ROWS = 1 << 18
SAMPLE_CELLS = LARGE_CELLS
"""Values of the sample at most: of 5,000 columns it has 6,000 rows."""
BATCH_CELLS = 1 << 22
_FEWEST_ROWS = 1024


@dataclass(frozen=True)
class Source:
    """A file of rows.

    Attributes:
        frame: its columns, unread; texts where they come from a CSV.
        rows: how many there are.
        sha256, is_text, notes: as of `Table`.
    """

    frame: pl.LazyFrame
    place: str
    rows: int
    sha256: str
    is_text: bool
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path) -> "Source":
        """Open a Parquet file or a CSV.

        Raises:
            BadTable: as for `read_table`.
        """
        if path.suffix.lower() != ".parquet":
            frame, rows, sha256, notes = scan_csv(path)
            return cls(frame, str(path), rows, sha256, is_text=True, notes=tuple(notes))
        rows = count_rows(path)
        frame = pl.scan_parquet(path, glob=False)
        names, notes = check_names(frame.collect_schema().names(), str(path))
        frame = frame.select(name for name in names if name)
        return cls(frame, str(path), rows, digest_of(path), is_text=False, notes=tuple(notes))

    def sample(self) -> Table:
        """Rows from all over the file: all of them, or as many as a sample has.

        The file is cut into as many stretches of equal length, and one row drawn from each: every so-maniest row of an
        hourly table would be of the same hour of the day.
        """
        columns = self.frame.collect_schema().names()
        most = min(SAMPLE_ROWS, max(_FEWEST_ROWS, SAMPLE_CELLS // len(columns)))
        if self.rows <= most:
            return Table(self.frame.collect(engine="streaming"), self.sha256, self.place, self.is_text, self.notes)
        starts = np.arange(most + 1) * self.rows // most
        drawn = starts[:-1] + (np.random.default_rng(0).random(most) * np.diff(starts)).astype(np.int64)
        row = "row" + "_" * max(map(len, columns))  # no column's name is as long
        is_drawn = pl.col(row).cast(pl.Int64).is_in(pl.Series(drawn).implode())
        frame = self.frame.with_row_index(row).filter(is_drawn).collect(engine="streaming")
        numbers = frame[row].cast(pl.Int64) + 1
        return Table(frame.drop(row), self.sha256, self.place, self.is_text, self.notes, numbers)

    def batches(self, columns: list[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        """All rows in order, some columns of them, with the number of the first row of each batch, from 1."""
        start = 1
        size = max(_FEWEST_ROWS, BATCH_CELLS // len(columns))
        for batch in self.frame.select(columns).collect_batches(chunk_size=size, maintain_order=True):
            for piece in batch.iter_slices(size):
                yield start, piece
                start += piece.height


def count_rows(path: Path) -> int:
    """The rows of a Parquet file, by its footer.

    Raises:
        BadTable: it is none.
    """
    try:
        return int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
    except pl.exceptions.PolarsError as error:
        raise not_read(path, error) from None


def is_large(plan: Plan) -> bool:
    """Whether a plan's table is to be read in pieces. A CSV is taken for as many values as it has eighths of bytes."""
    if plan.table.path is None:
        return False
    path = Path(plan.table.path)
    try:
        if path.suffix.lower() != ".parquet":
            return path.stat().st_size // 8 >= LARGE_CELLS
        return count_rows(path) * len(pl.scan_parquet(path, glob=False).collect_schema()) >= LARGE_CELLS
    except (OSError, BadTable):
        return False  # whoever reads it will say what is wrong
