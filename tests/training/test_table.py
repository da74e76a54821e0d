import csv
import gzip
import io
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.csv_file import BadTable
from training.data.source import Source
from training.data.table import read_table

EIGHT_ROWS = b"1,2\n" * 8


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", b"", "is empty; it needs a header and rows"),
        ("t.csv", b"\n1,2\n", "its first line is blank; it needs a header"),
        ("t.csv", b"sep=;\r\na;b\r\n1;2\r\n", "its first line is a spreadsheet's sep=, not the names of the columns"),
        ("t.csv", b"a,b\n", "has a header but no rows"),
        ("t.csv", b"a,b\n\n\n", "has a header but no rows"),
        ("t.csv", b"a,b,a\n1,2,3\n", "columns 1 and 3 are both named 'a'; rename one"),
        ("t.csv", b"a,b\n1,2\n1\n", "row 2 has 1 values, the header names 2; quote texts that hold delimiters"),
        ("t.csv", b"a,b\n" + EIGHT_ROWS + b"1,2,3\n", "row 9 has 3 values, the header names 2"),
        ("t.csv", b"# mine\na,b\n1,2\n", "row 1 has 2 values, the header names 1; the first line must name"),
        ("t.csv", b"a,b\n1,2\n1,2,3", "row 2 has 3 values, the header names 2"),
        ("t.csv", b"a,b\n1,\xff\n", "row 1 is not UTF-8; save the file as UTF-8"),
        ("t.csv", b"a,b\n1,2\n1,caf\xc3", "row 2 is not UTF-8; save the file as UTF-8"),  # cut within a letter
        ("t.csv", b"\xff,b\n1,2\n", "its header is not UTF-8; save the file as UTF-8"),
        ("t.csv", b"a,b\n1,2\n\x00,2\n", "row 2 holds a NUL byte; it is damaged or not a text file"),
        ("t.csv", b'a,b\n1,2\n"1,2\n3,4\n', "row 2 opens a quote that is never closed"),
        ("t.csv", b'a,b\n1,2\n1, "x"\n', "row 2 has a blank before a quote, which would be part of the value"),
        ("t.csv", b'\xef\xbb\xbfa, "b"\n1,2\n', "the header has a blank before a quote"),
        ("t.csv", b'a,b\n1,2\n5" x, 3" y,2\n', "row 2 has a quote within a value that is not in quotes;"),
        ("t.csv", b'a,b\n1,2\n3,5" pipe\n4,6" pipe\n', "row 2 has a quote within a value"),
        ("t.csv", b'a,b\n1,2\n3,"x"y\n', "row 2 has a value that goes on behind its closing quote"),
        ("t.csv", b'a,b\n1,"x" \n', "row 1 has a value that goes on behind its closing quote"),
        ("t.parquet", b"PAR1 and then nothing", "is not a Parquet file that can be read"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "is UTF-16, not a text file of UTF-8; save the table as CSV"),
        ("t.csv", gzip.compress(b"a,b\n1,2\n", mtime=0), "is compressed by gzip, not a text file of UTF-8"),
        ("t.csv", b"PK\x03\x04...", "is a ZIP archive or a spreadsheet, not a text file"),
        (
            "t.csv.gz",
            gzip.compress(b"a,b\n1,2\n", mtime=0),
            "is compressed; unpack it first, or save the table as Parquet",
        ),
        ("t.csv", b"a,b\r1,2\r3,4\r", "its lines end with CR alone, as of old Macs; save it with line ends of LF"),
        ("t.csv", b'"a\nb",c\n1,2\n', "its header opens a quote that its first line does not close"),
        ("t.csv", b"a" * 501 + b",b\n1,2\n", "column 1 has a name of 501 characters; 500 are allowed"),
        ("t.xlsx", b"PK", "its suffix is none of .csv, .tsv, .parquet; save the table as one of these"),
    ],
)
def test_a_damaged_file_is_refused_with_one_sentence(tmp_path: Path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadTable) as error:
        read_table(path)
    assert str(error.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(error.value)


def test_columns_of_parquet_without_a_name_are_left_out_and_twins_refused(tmp_path: Path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"": [1, 2], "b": [3, 4]}).write_parquet(path)
    for table in (read_table(path), Source.open(path)):
        assert table.notes == ("column 1 has no name and is left out",)
        assert table.frame.lazy().collect().columns == ["b"]
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(twice, path)
    for read in (read_table, Source.open):
        with pytest.raises(BadTable, match=r"two columns have one name \(.*'a'.*\); rename one"):
            read(path)


def test_an_absent_file_and_a_folder_are_refused(tmp_path: Path):
    with pytest.raises(BadTable, match="there is no such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(BadTable, match="is a folder"):
        read_table(tmp_path / "folder.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_delimiter_is_the_one_that_the_header_has_most_of(tmp_path: Path, delimiter, ending):
    lines = [delimiter.join(("a", '"b, c; d"', "e")), delimiter.join(("1", '"x\ny"', "")), ""]
    path = tmp_path / "t.csv"
    path.write_bytes(ending.join(lines).encode())
    assert read_table(path).frame.rows(named=True) == [{"a": "1", "b, c; d": "x\ny", "e": None}]


def test_a_byte_order_mark_and_blanks_around_names_do_not_count(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfa , b\n1,2\n")
    assert read_table(path).frame.columns == ["a", "b"]


def test_a_column_without_a_name_is_left_out_and_said_so(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_bytes(b",a\n0,5\n1,6\n")
    table = read_table(path)
    assert table.frame.columns == ["a"]
    assert table.notes == ("column 1 has no name and is left out",)


def test_many_columns_without_a_name_are_left_out_in_one_sentence(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a" + b"," * 300 + b"\n" + b"0" + b"," * 300 + b"\n")
    table = read_table(path)
    assert table.frame.columns == ["a"]
    assert table.notes == ("300 columns have no name and are left out: 2, 3, 4, 5, 6 and 295 more",)


def test_a_parquet_file_keeps_its_types(tmp_path: Path):
    path = tmp_path / "t.parquet"
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", None], "c": [True, False]})
    frame.write_parquet(path)
    assert read_table(path).frame.equals(frame)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_mark_in_the_name_of_a_file_is_no_pattern_for_others(tmp_path: Path, suffix):
    for name, value in (("t1", 1), ("t[1]", 2), ("t*", 3)):
        frame, file = pl.DataFrame({"a": [value]}), io.BytesIO()
        _ = frame.write_csv(file) if suffix == ".csv" else frame.write_parquet(file)
        (tmp_path / f"{name}{suffix}").write_bytes(file.getvalue())
    for name, value in (("t[1]", 2), ("t*", 3)):
        path = tmp_path / f"{name}{suffix}"
        for table in (read_table(path), Source.open(path).sample()):
            assert [int(cell) for cell in table.frame["a"]] == [value]


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_sentence(tmp_path: Path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n" + content)
    try:
        table = read_table(path)
    except BadTable as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right
    else:
        assert table.frame.columns == ["a", "b"]
        assert table.frame.height > 0


@given(content=st.text('ab" ,\n', min_size=1, max_size=30))
def test_a_table_that_is_read_has_the_cells_that_others_read(tmp_path: Path, content):
    path = tmp_path / "t.csv"
    path.write_text(f'\ufeff"a,1",b\n{content}')
    try:
        frame = read_table(path).frame
    except BadTable:
        return
    others = list(csv.reader(io.StringIO(content)))
    assert [list(row) for row in frame.fill_null("").rows() if any(row)] == [row for row in others if any(row)]


def test_quotes_within_a_value_are_letters_of_it(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n5" x 3" board,"say ""yes"""\nAl "Bob" C,\n')
    assert read_table(path).frame.rows() == [('5" x 3" board', 'say "yes"'), ('Al "Bob" C', None)]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)


@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
def test_what_is_written_is_what_is_read(tmp_path: Path, rows):
    frame = pl.DataFrame(rows, schema={"a": pl.String, "b": pl.String}, orient="row")
    path = tmp_path / "t.csv"
    frame.write_csv(path, quote_style="always")
    assert read_table(path).frame.fill_null("").equals(frame)
