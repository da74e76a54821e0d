"""Arrow streams against polars' reader and writer, and damaged in every way."""

import datetime as dt
import io
import struct
import tracemalloc
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.errors import BadRow, RowcastError
from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.schema import Schema
from service.problems import BadBody, ModelFailed, TooLarge
from service.wire import arrow, arrow_answer, arrow_stream
from tests.service import tiny

COLORS = CategoryFeature(name="c", categories=("red", "blue", "a text of many letters", "3", "true"))
NUMBER = NumberFeature(name="x")
MOMENT = "2024-05-31T09:30:00.250000"


def stream(columns, *, newest=True, schema=None):
    """What polars writes for a frame."""
    level = pl.CompatLevel.newest() if newest else pl.CompatLevel.oldest()
    return pl.DataFrame(columns, schema=schema).write_ipc_stream(None, compat_level=level).getvalue()


def encode(raw, *features, most_rows=1000):
    return arrow.encode(raw, Schema(features=features), most_rows)


def by_rows(*features, **columns):
    """The same rows through the schema, as JSON brings them."""
    names = [feature.name for feature in features]
    return Schema(features=features).encode(
        [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    )


NUMBERS = [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("values", [[1, 2, 3], [1, None, 3], [None, None], []])
def test_numbers_of_every_type_are_read(dtype, values):
    matrix = encode(stream({"x": pl.Series(values, dtype=dtype)}), NUMBER)
    np.testing.assert_array_equal(matrix, by_rows(NUMBER, x=values))


@pytest.mark.parametrize(
    "values", [["0.10", "-12345.67"], ["1.5", None], [None], [], ["99999999999999999999999999999.99"]]
)
@pytest.mark.parametrize("newest", [True, False])
def test_decimals_are_the_floats_that_training_reads(values, newest):
    numbers = [None if value is None else Decimal(value) for value in values]
    column = pl.Series(numbers, dtype=pl.Decimal(31, 2))
    for feature in (NumberFeature(name="x"), CategoryFeature(name="x", categories=("0.1", "1.5"))):
        matrix = encode(stream({"x": column}, newest=newest), feature)
        np.testing.assert_array_equal(matrix, by_rows(feature, x=column.cast(pl.Float64).to_list()))


@given(st.lists(st.decimals(-(10**20), 10**20, places=4, allow_nan=False), max_size=20))
@example([Decimal("116411543390605.8532"), Decimal("26800403084771478503.2071")])  # more digits than a float has
def test_a_decimal_is_bit_by_bit_what_polars_makes_of_it(values):
    column = pl.Series("x", values, dtype=pl.Decimal(38, 4))
    matrix = arrow.encode(stream({"x": column}), Schema(datatype="FP64", features=(NUMBER,)), 1000)
    np.testing.assert_array_equal(matrix[:, 0], column.cast(pl.Float64).to_numpy())


def test_a_large_integer_is_the_same_category_as_in_json():
    large = CategoryFeature(name="c", categories=("9007199254740993",))
    for values in ([2**53 + 1], [2**53 + 1, None]):
        matrix = encode(stream({"c": pl.Series(values, dtype=pl.Int64)}), large)
        np.testing.assert_array_equal(matrix, by_rows(large, c=values))
        assert matrix[0, 0] == 0


@pytest.mark.parametrize(
    "dtype", [pl.String, pl.Categorical, pl.Enum(["blue", "red", "green", "a text of many letters"])]
)
@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize(
    "values", [["red", "blue"], ["green", None, "a text of many letters", "red"], [None], [], ["red"] * 50]
)
def test_categories_are_read_as_texts_views_and_dictionaries(dtype, newest, values):
    raw = stream({"c": pl.Series(values, dtype=dtype)}, newest=newest)
    np.testing.assert_array_equal(encode(raw, COLORS), by_rows(COLORS, c=values))


@pytest.mark.parametrize("values", [["é", "red"], ["", "red"], ["\N{SNOWMAN}" * 20, "red", "\N{SNOWMAN}" * 20]])
@pytest.mark.parametrize("newest", [True, False])
def test_texts_of_any_letters_are_read(values, newest):
    feature = CategoryFeature(name="c", categories=tuple(dict.fromkeys(values)))
    np.testing.assert_array_equal(encode(stream({"c": values}, newest=newest), feature), by_rows(feature, c=values))


@pytest.mark.parametrize("values", [[3, 4], [3.0, 0.5], [True, False], [None, True]])
def test_a_category_may_come_as_a_number_or_a_boolean(values):
    np.testing.assert_array_equal(encode(stream({"c": values}), COLORS), by_rows(COLORS, c=values))


@pytest.mark.parametrize("values", [[True, False, None] * 7, [1, 0, None], [1.0, 0.0], [None], []])
def test_booleans_are_read(values):
    flag = BooleanFeature(name="b")
    schema = {"b": pl.Boolean} if not values or values[0] is None else None
    np.testing.assert_array_equal(encode(stream({"b": values}, schema=schema), flag), by_rows(flag, b=values))


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        (pl.Date, "2024-05-31"),
        (pl.Datetime("ms"), MOMENT),
        (pl.Datetime("us"), MOMENT),
        (pl.Datetime("ns"), MOMENT),
        (pl.Datetime("us", "Europe/Berlin"), "2024-05-31T11:30:00.250000+02:00"),
    ],
)
def test_moments_are_read_in_utc(dtype, text):
    day = DatetimeFeature(name="d")
    value = dt.date.fromisoformat(text) if dtype == pl.Date else dt.datetime.fromisoformat(text)
    matrix = encode(stream({"d": pl.Series([value, None], dtype=dtype)}), day)
    np.testing.assert_array_equal(matrix, by_rows(day, d=[text, None]))


def test_moments_may_come_as_text():
    day = DatetimeFeature(name="d")
    np.testing.assert_array_equal(encode(stream({"d": [MOMENT, None]}), day), by_rows(day, d=[MOMENT, None]))


def test_a_column_of_nulls_is_missing_whatever_the_feature():
    for feature in (NUMBER, COLORS, BooleanFeature(name="b"), DatetimeFeature(name="d")):
        matrix = encode(stream({feature.name: pl.Series([None, None], dtype=pl.Null)}), feature)
        assert np.isnan(matrix).all()
        assert len(matrix) == 2


def batches(*frames):
    """One stream of all of them, put together as Arrow says: the schema once, then each one's batches."""
    raws = [stream(frame) for frame in frames]
    sizes = []
    for raw in raws:
        (metadata,) = struct.unpack_from("<I", raw, 4)
        sizes.append(8 + metadata)
    return raws[0][:-8] + b"".join(raw[size:-8] for raw, size in zip(raws[1:], sizes[1:], strict=True)) + raws[0][-8:]


def test_columns_come_in_any_order_and_rows_in_many_batches():
    raw = batches(
        {"c": ["red"], "x": [1.0]},
        {"c": pl.Series([None], dtype=pl.String), "x": [2.0]},
        {"c": ["blue", "x"], "x": [None, 4.0]},
    )
    expected = by_rows(NUMBER, COLORS, x=[1, 2, None, 4], c=["red", None, "blue", "x"])
    np.testing.assert_array_equal(encode(raw, NUMBER, COLORS), expected)


def test_each_batch_may_bring_a_dictionary_of_its_own():
    frames = [{"c": pl.Series(values, dtype=pl.Enum(values))} for values in (["red", "blue"], ["blue", "red"])]
    np.testing.assert_array_equal(encode(batches(*frames), COLORS)[:, 0], [0, 1, 1, 0])


def test_a_batch_costs_its_own_rows_however_large_the_dictionary_is():
    names = [str(number) for number in range(50_000)]
    fields, batches = arrow_stream.read_stream(stream({"c": pl.Series(names[-1:], dtype=pl.Enum(names))}))
    reader, (dictionary, rows) = arrow.Columns(list(fields)), batches
    reader.learn(dictionary)
    tracemalloc.start()
    ((_, column),) = reader.values(rows)
    assert tracemalloc.get_traced_memory()[1] < 50_000
    tracemalloc.stop()
    assert column == names[-1:]


def test_numbers_lie_where_they_were_sent():
    values = np.arange(100_000.0)
    fields, batches = arrow_stream.read_stream(stream({"x": values}))
    reader, batch = arrow.Columns(list(fields)), next(batches)
    tracemalloc.start()
    ((_, column),) = reader.values(batch)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    np.testing.assert_array_equal(column, values[: len(column)])
    assert column.nbytes > 100_000


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"x": ["a"]}, "feature 'x' must be a column of type int, float, decimal, got type text view"),
        ({"x": [True]}, "feature 'x' must be a column of type int, float, decimal, got type bool"),
        ({"x": [dt.date(2024, 5, 31)]}, "feature 'x' must be a column of type int, float, decimal, got type date"),
        ({"x": [[1.0]]}, "feature 'x' must be a column of type int, float, decimal, got type large list"),
        ({"y": [1.0]}, "feature 'y' is unknown; the model reads 'x'"),
        ({"x": [1.0], "xx": [1.0]}, "feature 'xx' is unknown; did you mean 'x'?"),
        ({"x": [1.0, float("inf")]}, "row 1: feature 'x' must be a finite number, got Infinity"),
        ({"x": [1e300]}, "row 0: feature 'x' must lie within 3.4e+38 of zero, the range of FP32, got 1e+300"),
        ({}, "feature 'x' is absent; send null if its value is missing"),
    ],
)
def test_a_bad_column_or_value_is_named(columns, sentence):
    with pytest.raises(BadRow) as error:
        encode(stream(columns), NUMBER)
    assert str(error.value) == sentence


def test_the_row_is_that_of_all_batches():
    with pytest.raises(BadRow) as error:
        encode(batches({"x": [1.0, 2.0]}, {"x": [3.0, float("inf")]}), NUMBER)
    assert error.value.row == 3


def test_too_many_rows_are_refused_at_the_batch_that_brings_them():
    raw = batches(*({"x": [1.0] * 4} for _ in range(5)))
    assert len(encode(raw, NUMBER, most_rows=20)) == 20
    with pytest.raises(TooLarge) as error:
        encode(raw[:-9], NUMBER, most_rows=10)  # that the stream is cut off later is not even seen
    assert error.value.size == 12


def test_more_batches_than_anybody_sends_are_refused(monkeypatch):
    monkeypatch.setattr(arrow_stream, "MOST_MESSAGES", 10)
    with pytest.raises(BadBody, match="at most 10 messages"):
        encode(batches(*({"x": [1.0]} for _ in range(10))), NUMBER)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "its first message must be a schema"),
        (b"hello", "it ends within a message"),
        (b"hello, arrow", "each message must begin with ffffffff"),
        (b"ARROW1\0\0" + bytes(40), r"this is an Arrow file \(Feather\)"),
        (b"\xff\xff\xff\xff\0\0\0\0", "its first message must be a schema"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100), "it ends within a message"),
        (b"\xff\xff\xff\xff\x40\0\0\0" + b"\xff" * 64, "its metadata must be whole"),
    ],
)
def test_what_is_no_stream_is_refused(raw, sentence):
    with pytest.raises(BadBody, match=sentence):
        encode(raw, NUMBER)


def test_a_feather_file_is_told_from_a_stream():
    file = io.BytesIO()
    pl.DataFrame({"x": [1.0]}).write_ipc(file)
    with pytest.raises(BadBody, match="Arrow file"):
        encode(file.getvalue(), NUMBER)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_batches_are_refused(compression):
    raw = pl.DataFrame({"x": np.zeros(1000)}).write_ipc_stream(None, compression=compression).getvalue()
    with pytest.raises(BadBody, match="Content-Encoding"):
        encode(raw, NUMBER)


EVERYTHING = stream(
    {
        "x": [1.5, None, 3.0],
        "i": [1, 2, None],
        "c": ["red", "a text of many letters", None],
        "e": pl.Series(["red", "blue", None], dtype=pl.Enum(["red", "blue"])),
        "b": [True, None, False],
        "d": [dt.datetime(2024, 5, 31), None, dt.datetime(1970, 1, 1)],  # noqa: DTZ001
    }
)
FEATURES = (
    NUMBER,
    NumberFeature(name="i"),
    COLORS,
    CategoryFeature(name="e", categories=("red", "blue")),
    BooleanFeature(name="b"),
    DatetimeFeature(name="d"),
)
DAMAGE = st.one_of(
    st.tuples(st.integers(0, len(EVERYTHING) - 1), st.binary(min_size=1, max_size=8)),
    st.tuples(
        st.integers(0, len(EVERYTHING) // 4 - 2).map(lambda at: at * 4),
        st.sampled_from([2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]).map(lambda n: n.to_bytes(8, "little")),
    ),
)


def check_damaged(raw):
    try:
        matrix = encode(raw, *FEATURES)
    except RowcastError as error:
        assert error.code in ("bad_body", "bad_row", "too_large")  # noqa: PT017 - it may be right as well
    else:
        assert matrix.shape[1] == 9
        assert not np.isinf(matrix).any()


@given(damage=st.lists(DAMAGE, min_size=1, max_size=4))
def test_damaged_bytes_are_an_answer_or_a_problem_of_the_client(damage):
    raw = bytearray(EVERYTHING)
    for at, what in damage:
        raw[at : at + len(what)] = what
    check_damaged(bytes(raw))


def test_a_stream_cut_off_anywhere_or_with_any_bit_flipped_is_no_crash():
    for size in range(len(EVERYTHING) - 8):
        check_damaged(EVERYTHING[:size])
    for bit in range(0, len(EVERYTHING) * 8, 3):
        raw = bytearray(EVERYTHING)
        raw[bit // 8] ^= 1 << bit % 8
        check_damaged(bytes(raw))


@given(raw=st.binary(max_size=300))
def test_any_bytes_after_a_frame_are_a_problem(raw):
    with pytest.raises(BadBody):
        encode(b"\xff\xff\xff\xff" + struct.pack("<I", len(raw)) + raw, NUMBER)


def test_buffers_that_lie_over_one_another_are_refused():
    names = [f"c{number}" for number in range(50)]
    features = [CategoryFeature(name=name, categories=("red",)) for name in names]
    raw = bytearray(stream({name: ["x" * 100_000] for name in names}, newest=False))
    size, at = struct.pack("<q", 100_000), 0
    while (at := raw.find(size, at + 1)) >= 0:  # of each column's texts, behind their offset
        raw[at - 8 : at + 8] = struct.pack("<qq", 0, 4_000_000)
    with pytest.raises(BadBody, match="one beside the other"):
        encode(bytes(raw), *features)


def test_texts_of_views_may_overlap_a_little():
    text = "".join(map(str, range(2000)))
    frame = pl.DataFrame({"c": [text] * 40})
    few = frame.select(pl.col("c").str.slice(pl.int_range(0, 40), 50)).write_ipc_stream(None).getvalue()
    np.testing.assert_array_equal(encode(few, COLORS)[:, 0], [5] * 40)
    raw = bytearray(stream({"c": ["y" * 13] * 100 + ["x" * 10_000]}))
    view, at, number = struct.pack("<i4s", 13, b"yyyy"), 0, 0
    while (at := raw.find(view, at + 1)) >= 0:  # a short text becomes a long one, each from another place
        raw[at : at + 16] = struct.pack("<i4sii", 9000, b"xxxx", 0, number)
        number += 1
    assert number == 100
    with pytest.raises(BadBody, match="must be in their buffers"):
        encode(bytes(raw), COLORS)


# --------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("name", sorted(tiny.SCHEMAS))
@pytest.mark.parametrize("rows", [0, 1, 2, 1000])
def test_polars_reads_the_answer_bit_by_bit(versions, name, rows):
    matrix = tiny.SCHEMAS[name].encode([tiny.ROWS[name]] * rows)
    right = tiny.answer(name, matrix)
    frame = pl.read_ipc_stream(arrow_answer.write(versions[name], right))
    classes = tiny.CLASSES[name]
    if classes is None:
        assert (
            frame["prediction"].to_numpy().reshape(right["prediction"].shape).tobytes() == right["prediction"].tobytes()
        )
    else:
        assert frame["prediction"].to_list() == [classes[number] for number in right["label"]]
        likely = frame["probabilities"].to_numpy().reshape(right["probabilities"].shape)
        assert likely.tobytes() == right["probabilities"].tobytes()


def test_classes_that_are_whole_numbers_stay_numbers(versions):
    version = versions["coin"]
    for classes, dtype in (((7, -1), pl.Int64), ((2**63, 1), pl.Categorical), ((1, "1x"), pl.Categorical)):
        manifest = version.manifest.model_copy(update={"classes": classes})
        answers = tiny.answer("coin", np.float32([[1], [-1]]))
        frame = pl.read_ipc_stream(arrow_answer.write(type(version)(version.folder, manifest), answers))
        assert frame["prediction"].dtype == dtype
        labels = [classes[number] for number in answers["label"]]
        assert list(map(str, frame["prediction"].to_list())) == list(map(str, labels))


def test_what_is_not_finite_never_leaves(versions):
    with pytest.raises(ModelFailed):
        arrow_answer.write(versions["line"], {"prediction": np.float32([[np.nan]])})
