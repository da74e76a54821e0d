"""CSV, JSON Lines, MLflow's JSON, and how Content-Type and Accept choose among them."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadRow, RowcastError
from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.schema import Schema
from service.problems import BadBody, ModelFailed, TooLarge
from service.wire import csv_text, forms, json_lines, scoring
from tests.service import tiny
from tests.service.test_plain import ANYTHING

PAIR, FLOWERS, LINE = tiny.SCHEMAS["pair"], tiny.SCHEMAS["flowers"], tiny.SCHEMAS["line"]
ARROW = "application/vnd.apache.arrow.stream"


def of(schema, *rows):
    return schema.encode([list(row) for row in rows])


def equal(got, expected):
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == expected.dtype


# --------------------------------------------------------------------------------------------------- which form


@pytest.mark.parametrize(
    ("content_type", "accept", "body", "answer"),
    [
        ("", "", "json", "json"),
        ("application/x-www-form-urlencoded", "*/*", "json", "json"),
        ("text/csv", "", "csv", "json"),
        ("Text/CSV; charset=utf-8", "*/*", "csv", "json"),
        ("text/csv", "text/csv", "csv", "csv"),
        ("application/jsonlines", "application/jsonlines", "lines", "lines"),
        ("application/x-ndjson", "application/x-jsonlines", "lines", "lines"),
        (ARROW, "", "arrow", "arrow"),
        (ARROW, "*/*", "arrow", "arrow"),
        (ARROW, "application/json", "arrow", "json"),
        ("", ARROW, "json", "arrow"),
        ("", "text/html, text/csv;q=0.5, application/json;q=0.9", "json", "json"),
        ("", "text/csv, application/json", "json", "csv"),
        ("", "text/csv;q=0", "json", "json"),
        ("", "text/csv;q=x", "json", "json"),
        ("", "image/png", "json", "json"),
        ("", "image/png," * 31 + "text/csv", "json", "csv"),
        ("", "image/png," * 32 + "text/csv", "json", "json"),
        ("text/csv; header=absent; q", "text/csv; =;;", "csv", "csv"),
    ],
)
def test_content_type_and_accept_choose_the_forms(content_type, accept, body, answer):
    assert tuple(form.kind for form in forms.of_request(content_type, accept)) == (body, answer)


def test_a_parameter_with_another_value_is_refused(versions):
    for accept in ("text/csv; header=maybe", "text/csv; output=label"):
        with pytest.raises(BadBody):
            forms.check_output(versions["coin"], forms.of_request("", accept)[1], None)
    with pytest.raises(BadBody, match="must be in UTF-8"):
        forms.encode(forms.of_request("text/csv; charset=latin-1", "")[0], b"1", LINE, 10)


def test_probabilities_are_asked_of_classes_alone(versions):
    wanted = forms.of_request("", "text/csv; output=probabilities")[1]
    forms.check_output(versions["coin"], wanted, None)
    with pytest.raises(BadBody, match="has no probabilities"):
        forms.check_output(versions["line"], wanted, None)


# --------------------------------------------------------------------------------------------------- CSV


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("5,2", [(5, 2)]),
        ("5,2\n1,-1e3\n", [(5, 2), (1, -1000)]),
        ("a,b\n5,2\n", [(5, 2)]),
        ("b,a\r\n2,5\r\n\r\n", [(5, 2)]),
        ('"b"," a"\n" 2", 5', [(5, 2)]),
        ("5,\n,NA\n nan ,?", [(5, None), (None, None), (None, None)]),
        ("\ufeffa,b\n5,2", [(5, 2)]),
        ("a,b\n", []),
        ("", []),
    ],
)
def test_csv_is_read_with_and_without_a_header(text, rows):
    equal(csv_text.encode(text.encode(), PAIR, 10), of(PAIR, *rows))


@pytest.mark.parametrize(
    ("encode", "raw", "sentence"),
    [
        (json_lines.encode, (b"[" + b"[]," * 399_999 + b"[]]\n") * 3, "at most 1000000 lists and objects"),
        (csv_text.encode, b"," * 4_000_001, "at most 4000000 values"),
    ],
)
def test_too_many_values_are_refused_before_they_are_made(encode, raw, sentence):
    with pytest.raises(TooLarge, match=sentence):
        encode(raw, PAIR, 10)


def test_a_header_is_known_by_most_of_its_cells_or_by_what_the_type_says():
    words = Schema(features=tuple(CategoryFeature(name=name, categories=("a", "b", "c")) for name in "abc"))
    assert len(csv_text.encode(b"a,b,c\na,a,a", words, 10)) == 1
    assert len(csv_text.encode(b"a,x,x\na,a,a", words, 10)) == 2
    assert len(csv_text.encode(b"a,b,c\na,a,a", words, 10, header=False)) == 2
    with pytest.raises(BadRow, match="feature 'x' is unknown"):
        csv_text.encode(b"a,b,x\na,a,a", words, 10)
    with pytest.raises(BadBody, match="must have a header"):
        csv_text.encode(b"", words, 10, header=True)


def test_a_feature_with_blanks_around_its_name_is_found_by_all_of_it():
    blank = Schema(features=tuple(NumberFeature(name=name, quantiles=(0.0, 9.0)) for name in (" a ", "a", "b")))
    equal(csv_text.encode(b"b, a ,a\n1,2,3", blank, 10), of(blank, (2, 3, 1)))
    with pytest.raises(BadRow, match="feature 'c' is unknown"):
        csv_text.encode(b" a ,a, c", blank, 10)


def test_cells_mean_what_they_mean_to_the_trainer():
    kinds = Schema(
        features=(
            CategoryFeature(name="c", categories=("3", "NA", "x y", "0.5", "-1234567890123456789")),
            BooleanFeature(name="b"),
            DatetimeFeature(name="d"),
        )
    )
    text = "3.0,TRUE,2024-05-31\nNA,0, 2024-05-31T10:00:00Z \n x y ,None,\n0.50,False,NULL\n,,\n1_0,1.0,2024-05-31"
    text += "\n-1234567890123456789,,2024-05-31 10:00:00+02\nNA\x1f,,"
    rows = [
        ("3", True, "2024-05-31"),
        ("NA", False, "2024-05-31T10:00:00Z"),
        ("x y", None, None),
        ("0.5", False, None),
        (None, None, None),
        ("1_0", True, "2024-05-31"),
        ("-1234567890123456789", None, "2024-05-31T08:00:00"),
        ("unknown", None, None),
    ]
    equal(csv_text.encode(text.encode(), kinds, 10), of(kinds, *rows))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("5,wide", "row 0: feature 'b' must be a number, got 'wide'"),
        ("a,b\n5,2\n5,1_0", "row 1: feature 'b' must be a number, got '1_0'"),
        ("5,inf", "row 0: feature 'b' must be a finite number, got Infinity"),
        ("5,2\n5", "row 1: must have 2 values, one for each feature, got 1"),
        ("5,2\n\n5,2", "row 1: must have 2 values, one for each feature, got 0"),
        ("a,b\n5,2,1", "row 0: must have 2 values, one for each name in the header, got 3"),
        ("a,b,x\n5,2,1", "feature 'x' is unknown; the model reads 'a', 'b'"),
        ("a\n5", "feature 'b' is absent; send null if its value is missing"),
        ("a,b,a\n5,2,1", "feature 'a' must stand once in the header, got it twice"),
    ],
)
def test_a_bad_line_or_cell_is_named(text, sentence):
    with pytest.raises(BadRow) as error:
        csv_text.encode(text.encode(), PAIR, 10)
    assert str(error.value) == sentence


@pytest.mark.parametrize("raw", [b"\xff,1", b"1,\0", b'"1,2', b'"1"x,2', b"1," + b"x" * 200_000])
def test_what_is_no_csv_is_refused(raw):
    with pytest.raises(BadBody):
        csv_text.encode(raw, PAIR, 10)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_csv_that_other_marks_separate_is_refused_as_such(mark):
    with pytest.raises(BadBody, match="must be CSV separated by commas, got lines separated by"):
        csv_text.encode(f"a{mark}b\n1{mark}2\n".encode(), PAIR, 10)


def test_too_many_lines_are_refused():
    assert len(csv_text.encode(b"a,b\n" + b"1,2\n" * 10, PAIR, 10)) == 10
    for raw in (b"a,b\n" + b"1,2\n" * 11, b"1,2\n" * 11, b"1,2\n" * 100):
        with pytest.raises(TooLarge):
            csv_text.encode(raw, PAIR, 10)


@given(rows=st.lists(st.tuples(*[st.floats(width=32, allow_nan=False, allow_infinity=False) | st.none()] * 2)))
def test_what_python_writes_as_csv_is_read_back(rows):
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    equal(csv_text.encode(text.getvalue().encode(), PAIR, 1000), of(PAIR, *rows))


@given(raw=st.binary(max_size=100) | st.text("ab,\n\"' 1.e", max_size=50).map(str.encode))
def test_any_text_is_rows_or_a_problem_of_the_client(raw):
    for encode in (csv_text.encode, json_lines.encode):
        for schema in (PAIR, FLOWERS, LINE):
            try:
                encode(raw, schema, 10)
            except RowcastError as error:
                assert error.code in ("bad_body", "bad_row", "too_large")  # noqa: PT017 - it may be right as well


# --------------------------------------------------------------------------------------------------- JSON Lines


def test_each_line_is_a_row():
    equal(json_lines.encode(b"[5, 2]\n [1, null]\r\n\n", PAIR, 10), of(PAIR, (5, 2), (1, None)))
    equal(json_lines.encode(b'{"b": 2, "a": 5}\n{"a": NaN, "b": 1}', PAIR, 10), of(PAIR, (5, 2), (None, 1)))
    equal(json_lines.encode(b"1\nnull\n[3]", LINE, 10), of(LINE, (1,), (None,), (3,)))
    equal(json_lines.encode(b"\n", LINE, 10), of(LINE))


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"[1, 2]\n[1, ", "line 2 must be JSON: "),
        (b"[1, 2]\n\n[1, 2]", "line 2 must be a JSON object, got nothing"),
        (b"[1, 2]\n[1]", "row 1: must have 2 values"),
        (b'[1, 2]\n{"a": 1, "b": 2}', "row 0: must be an object or a list, the same for all rows"),
        (b"5\n6", "row 0: must be an object or a list"),
        (b"[1, 2]\n" * 11, "a request may have at most 10 rows, got 11"),
    ],
)
def test_a_bad_line_is_named(raw, sentence):
    with pytest.raises(RowcastError) as error:
        json_lines.encode(raw, PAIR, 10)
    assert str(error.value).startswith(sentence)


# --------------------------------------------------------------------------------------------------- MLflow's JSON


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["a", "b"], "index": [7, 8], "data": [[5, 2], [1, None]]}},
        {"dataframe_split": {"columns": ["b", "a"], "data": [[2, 5], [None, 1]]}},
        {"dataframe_split": {"columns": [0, 1], "data": [[5, 2], [1, None]]}},
        {"dataframe_split": {"data": [[5, 2], [1, None]]}},
        {"dataframe_records": [{"a": 5, "b": 2}, {"b": None, "a": 1}]},
        {"instances": [[5, 2], [1, None]]},
        {"instances": [{"a": 5, "b": 2}, {"b": None, "a": 1}], "params": None},
        {"inputs": {"b": [2, None], "a": [5, 1]}, "params": {}},
        {"inputs": [[5, 2], [1, None]], "signature_name": "x", "parameters": {"output": "prediction"}},
    ],
)
def test_every_form_of_mlflow_is_read(body):
    equal(scoring.read(json.dumps(body).encode()).encode(PAIR, 2), of(PAIR, (5, 2), (1, None)))
    with pytest.raises(TooLarge):
        scoring.read(json.dumps(body).encode()).encode(PAIR, 1)


def test_a_missing_moment_is_read_as_pandas_writes_it():
    columns, row = list(FLOWERS.names), list(tiny.ROWS["flowers"].values())
    for frame in ({"columns": columns, "data": [[*row[:-1], "NaT"]]}, {"data": [[*row[:-1], "NaT"]]}):
        matrix = scoring.read(json.dumps({"dataframe_split": frame}).encode()).encode(FLOWERS, 10)
        equal(matrix, of(FLOWERS, [*row[:-1], None]))


def test_the_bodies_of_the_page_are_read():
    schema = Schema(features=(NumberFeature(name="length"), NumberFeature(name="width")))
    page = (Path(__file__).parents[2] / "docs/how-to/platforms.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    for body in block.splitlines():
        equal(scoring.read(body.encode()).encode(schema, 10), of(schema, (5.1, 3.5), (4.9, None)))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ([[1, 2]], "the body must be a JSON object with one of dataframe_split, "),
        ({}, "the body must have one of dataframe_split, dataframe_records, instances, inputs, got none of them"),
        ({"instances": [], "inputs": []}, "the body must have one of dataframe_split, dataframe_records"),
        ({"dataframe_record": []}, "key 'dataframe_record' is unknown; did you mean 'dataframe_records'?"),
        ({"instances": 5}, '"instances" must be a list of rows or one row, got 5'),
        ({"instances": [], "params": {"outputs": 1}}, "key of \"params\" 'outputs' is unknown; did you mean 'output'?"),
        ({"instances": [], "params": {"output": "label"}}, "the output must be one of prediction, probabilities"),
        ({"instances": [], "params": {"output": []}}, "the output must be one of prediction, probabilities"),
        ({"instances": [], "params": [1]}, '"params" must be an object, got a list of 1'),
        ({"dataframe_split": []}, '"dataframe_split" must be an object with "columns" and "data"'),
        ({"dataframe_split": {}}, '"columns" and "data" of "dataframe_split" must be lists'),
        ({"dataframe_split": {"columns": {}, "data": []}}, '"columns" and "data" of "dataframe_split" must be lists'),
        ({"dataframe_split": {"colums": [], "data": []}}, "key of \"dataframe_split\" 'colums' is unknown"),
        ({"dataframe_split": {"columns": ["a", "x"], "data": [[1, 2]]}}, "feature 'x' is unknown"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1]]}}, "feature 'b' is absent"),
        (
            {"dataframe_split": {"columns": ["b", "a", "a"], "data": []}},
            "feature 'a' must stand once among the columns",
        ),
        ({"dataframe_split": {"columns": ["b", "a"], "data": [[1, 2], [1]]}}, "row 1: must have 2 values"),
        ({"dataframe_split": {"columns": ["b", "a"], "data": [[1, 2], 5]}}, "row 1: must be a list of values, got 5"),
        ({"dataframe_split": {"columns": ["b", 7], "data": []}}, "feature '7' is unknown"),
        ({"dataframe_split": {"columns": ["b", "a"], "data": [[1, "x"]]}}, "row 0: feature 'a' must be a number"),
        ({"dataframe_records": [{"a": 1}]}, "row 0: feature 'b' is absent"),
    ],
)
def test_another_body_is_refused_with_its_place(body, sentence):
    with pytest.raises(RowcastError) as error:
        scoring.read(json.dumps(body).encode()).encode(PAIR, 10)
    assert str(error.value).startswith(sentence)


@given(rows=ANYTHING, key=st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"]))
def test_any_value_is_rows_or_a_problem_of_the_client(rows, key):
    raw = json.dumps({key: rows}).encode()
    frame = json.dumps({"dataframe_split": {"columns": rows, "data": rows}}).encode()
    for body in (raw, frame):
        try:
            scoring.read(body).encode(FLOWERS, 10)
        except RowcastError as error:
            assert error.code in ("bad_body", "bad_row", "too_large")  # noqa: PT017 - it may be right as well


# --------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("name", sorted(tiny.SCHEMAS))
@pytest.mark.parametrize("output", ["prediction", "probabilities"])
def test_an_answer_holds_the_same_numbers_in_every_form(versions, name, output):
    version, classes = versions[name], tiny.CLASSES[name]
    if classes is None and output == "probabilities":
        return
    right = tiny.answer(name, tiny.SCHEMAS[name].encode([tiny.ROWS[name], dict.fromkeys(tiny.ROWS[name])]))
    numbers = right["prediction"] if classes is None else right["probabilities"]
    labels = None if classes is None else [classes[number] for number in right["label"]]
    texts = csv_text.write(version, right, header=True, output=output).decode().splitlines()
    answer = json.loads(scoring.write(version, right, output=output))
    assert answer.keys() == {"predictions"}  # MLflow's client refuses any other key
    if classes is None or output == "probabilities":
        cells = [[float(cell) for cell in line.split(",")] for line in texts[1:]]
        assert np.float32(cells).tobytes() == numbers.tobytes()
        assert np.float32(answer["predictions"]).tobytes() == numbers.tobytes()
    else:
        assert texts[1:] == [str(label).lower() for label in labels]
        assert answer["predictions"] == labels
    lines = [json.loads(line) for line in json_lines.write(version, right).splitlines()]
    if classes is None:
        assert np.float32([line["prediction"] for line in lines]).tobytes() == numbers.tobytes()
    else:
        assert [line["prediction"] for line in lines] == labels
        assert np.float32([line["probabilities"] for line in lines]).tobytes() == numbers.tobytes()
    assert csv_text.write(version, right, header=False, output=output).decode().splitlines() == texts[1:]


def test_no_rows_are_no_lines(versions):
    nothing = tiny.answer("pair", np.zeros((0, 2), np.float32))
    assert csv_text.write(versions["pair"], nothing, header=True, output="prediction") == b"sum,difference\n"
    assert json_lines.write(versions["pair"], nothing) == b""
    assert scoring.write(versions["pair"], nothing, output="prediction") == b'{"predictions":[]}'


def test_a_class_that_csv_would_take_apart_is_quoted(versions):
    version = versions["coin"]
    manifest = version.manifest.model_copy(update={"classes": ('a, "b"', "c\nd")})
    version = type(version)(version.folder, manifest)
    raw = csv_text.write(version, tiny.answer("coin", np.float32([[-1], [1]])), header=False, output="prediction")
    assert list(csv.reader(io.StringIO(raw.decode(), newline=""))) == [['a, "b"'], ["c\nd"]]


def test_what_is_not_finite_never_leaves(versions):
    for write in (
        lambda version, answers: csv_text.write(version, answers, header=False, output="prediction"),
        lambda version, answers: scoring.write(version, answers, output="prediction"),
        json_lines.write,
    ):
        with pytest.raises(ModelFailed):
            write(versions["line"], {"prediction": np.float32([[np.inf]])})
        with pytest.raises(ModelFailed):
            write(versions["coin"], {"probabilities": np.float32([[np.nan, 1]]), "label": np.array([1])})


def test_a_number_is_read_as_python_reads_it():
    feature = Schema(features=(NumberFeature(name="x"),))
    equal(csv_text.encode(b"1e-3\n+.5\n-0\n1E5", feature, 10), of(feature, (0.001,), (0.5,), (-0.0,), (1e5,)))
