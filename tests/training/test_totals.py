import numpy as np
import polars as pl
import pytest

from training.data.table import Table
from training.data.totals import without_total

RNG = np.random.default_rng(0)
X, Z = RNG.normal(5, 1, 40).round(3), RNG.integers(1, 100, 40)
NAMES = [f"person {number}" for number in range(40)]


def texts(*columns, foot, blank=0):
    """A table as a CSV gives it, with a line at its end."""
    cells = {
        f"c{place}": [*map(str, column), str(last) or None, *[None] * blank]
        for place, (column, last) in enumerate(zip(columns, foot, strict=True))
    }
    return Table(pl.DataFrame(cells, schema=dict.fromkeys(cells, pl.String)), "0" * 64, "t.csv", is_text=True)


def sums(*columns):
    return tuple(f"{column.sum():.3f}" for column in columns)


@pytest.mark.parametrize(
    ("table", "what", "seen"),
    [
        (texts(NAMES, X, Z, foot=("Total", *sums(X, Z))), "adds up", "'Total' in column 'c0'"),
        (texts(["a", "b"] * 20, X, Z, foot=("Summe", f"{X.sum():.1f}", "")), "adds up", "'Summe' in column 'c0'"),
        (texts(NAMES, X, Z, foot=("", "", *sums(Z))), "adds up", "nothing in column 'c0'"),
        (texts(range(40), X, Z, foot=("Total", "", *sums(Z)), blank=2), "adds up", "'Total' in column 'c0'"),
        (texts(X, Z, foot=sums(X, Z)), "adds up", "columns 'c0', 'c1'"),
        (texts(NAMES, X, Z, foot=("Mean", f"{X.mean():.3f}", Z.mean())), "is the mean of", "'Mean' in column 'c0'"),
    ],
)
def test_a_line_that_sums_the_others_up_is_left_out_and_said_so(table, what, seen):
    left = without_total(table)
    assert left.frame.equals(table.frame.head(40))
    assert left.notes == (f"row 41 {what} the rows above it ({seen}) and is left out",)


def test_a_total_in_a_parquet_file_is_left_out_as_well():
    frame = pl.DataFrame({"name": [*NAMES, "Total"], "z": [*Z, Z.sum()], "seen": [True] * 41})
    assert without_total(Table.of(frame, "t")).frame.height == 40


def test_categories_that_look_like_numbers_are_added_up_as_texts_are():
    frame = pl.DataFrame({"name": NAMES, "z": [str(z) for z in Z]}, schema_overrides={"z": pl.Categorical})
    assert without_total(Table.of(frame, "t")).frame.equals(frame)
    total = pl.DataFrame({"name": ["Total"], "z": [str(Z.sum())]}, schema_overrides={"z": pl.Categorical})
    assert without_total(Table.of(pl.concat([frame, total]), "t")).frame.equals(frame)


@pytest.mark.parametrize(
    "table",
    [
        texts(NAMES, X, Z, foot=("person 40", "5.1", "77")),
        texts(NAMES, X, Z, foot=("", "", "77")),
        texts(NAMES, X, Z, foot=("Total", "500", "100")),
        texts(X, Z, foot=("5.1", f"{Z.sum()}")),
        texts(["0"] * 39 + ["1"], X, NAMES, foot=("1", "5.1", "Total")),
        texts([1, 2, 3], [4, 5, 6], foot=("6", "15")),
        texts(["a"] * 40, foot=("",)),
    ],
)
def test_a_row_that_is_like_the_others_stays(table):
    assert without_total(table) is table
