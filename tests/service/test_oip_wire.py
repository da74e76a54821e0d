"""The Open Inference Protocol between bytes and matrix, and between answers and bytes."""

import contextlib
import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.errors import BadRow
from models.features import BooleanFeature, CategoryFeature, NumberFeature
from models.schema import Schema
from service.problems import BadBody, ModelFailed, TooLarge
from service.wire import oip, oip_answer, oip_matrix, oip_signature
from service.wire.oip_tensors import DATATYPES, NUMBERS
from tests.service import tiny

PAIR = [[5.0, 2.0], [1.0, math.nan]]
FLOWERS = [
    {"name": "width", "datatype": "FP32", "shape": [2, 1], "data": [5, None]},
    {"name": "length", "datatype": "INT8", "shape": [2], "data": [2, -3]},
    {"name": "color", "datatype": "BYTES", "shape": [2, 1], "data": [["blue"], ["green"]]},
    {"name": "wild", "datatype": "BOOL", "shape": [2], "data": [True, None]},
    {"name": "seen", "datatype": "BYTES", "shape": [2], "data": ["1970-01-02", ""]},
]
FLOWERS_MATRIX = [[5, 2, 1, 1, 1, 0, 4, 2], [math.nan, -3, 2, *[math.nan] * 5]]


def features(shape, data, datatype="FP32"):
    return {"name": "features", "datatype": datatype, "shape": shape, "data": data}


def encode(version, body, raw=b"", header_length=None, most_rows=1000):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    length = str(len(text)) if raw and header_length is None else header_length
    return oip_matrix.encode(oip.read(text + raw, length), version, most_rows)


def binary(name, datatype, shape, raw):
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}


def texts(*values):
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


# --------------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [features([2, 2], [5, 2, 1, None])]},
        {"inputs": [features([2, 2], [[5, 2], [1, math.nan]])]},
        {"inputs": [features([2, 2], [5, 2, 1, None], "INT16")]},
        {"inputs": [features([2, 2], [5, 2, 1, math.nan], "FP64")], "model_name": "pair", "other": 1},
        {
            "inputs": [
                {"name": "b", "datatype": "FP64", "shape": [2], "data": [2, math.nan]},
                {"name": "a", "datatype": "UINT8", "shape": [2, 1], "data": [[5], [1.0]], "parameters": {"x": 1}},
            ]
        },
    ],
)
def test_every_form_of_two_rows_is_the_same_matrix(versions, body):
    matrix = encode(versions["pair"], body)
    np.testing.assert_array_equal(matrix, np.float32(PAIR))
    assert (matrix.dtype, matrix.flags.c_contiguous) == (np.float32, True)


def test_mixed_features_come_as_one_tensor_each(versions):
    np.testing.assert_array_equal(encode(versions["flowers"], {"inputs": FLOWERS}), np.float32(FLOWERS_MATRIX))


def test_raw_tensors_follow_the_json_in_the_order_of_the_inputs(versions):
    raws = [
        np.float64([5, math.nan]).tobytes(),
        np.int8([2, -3]).tobytes(),
        texts(b"blue", b"green"),
        np.float32([1, math.nan]).tobytes(),
        texts(b"1970-01-02", b""),
    ]
    kinds = ["FP64", "INT8", "BYTES", "FP32", "BYTES"]
    names = tiny.SCHEMAS["flowers"].names
    inputs = [binary(name, kind, [2], raw) for name, kind, raw in zip(names, kinds, raws, strict=True)]
    matrix = encode(versions["flowers"], {"inputs": inputs}, b"".join(raws))
    np.testing.assert_array_equal(matrix, np.float32(FLOWERS_MATRIX))


@pytest.mark.parametrize("datatype", [name for name in NUMBERS if name not in ("BOOL", "BF16")])
def test_every_number_is_read_from_raw_bytes(versions, datatype):
    values = np.array([[5, 2], [1, 100]], NUMBERS[datatype])
    matrix = encode(
        versions["pair"], {"inputs": [binary("features", datatype, [2, 2], values.tobytes())]}, values.tobytes()
    )
    np.testing.assert_array_equal(matrix, [[5, 2], [1, 100]])


@pytest.mark.parametrize("data", [[True, False, None], [1, 0.0, None], [[1], [False], [None]]])
def test_a_boolean_in_json_may_be_one_or_zero(versions, data):
    version = _with_schema(versions["line"], Schema(features=(BooleanFeature(name="b"),)))
    one = {"name": "b", "datatype": "BOOL", "shape": [3, 1], "data": data}
    np.testing.assert_array_equal(encode(version, {"inputs": [one]}), [[1], [0], [math.nan]])


def test_a_raw_boolean_is_true_unless_it_is_zero(versions):
    version = _with_schema(versions["line"], Schema(features=(BooleanFeature(name="b"),)))
    matrix = encode(version, {"inputs": [binary("b", "BOOL", [3], b"\x01\x00\x67")]}, b"\x01\x00\x67")
    np.testing.assert_array_equal(matrix, [[1], [0], [1]])


def test_bf16_is_the_upper_half_of_an_fp32(versions):
    raw = np.float32([5, -0.5]).tobytes()
    halves = raw[2:4] + raw[6:8]
    np.testing.assert_array_equal(
        encode(versions["pair"], {"inputs": [binary("features", "BF16", [1, 2], halves)]}, halves), [[5, -0.5]]
    )


@pytest.mark.parametrize(
    ("datatype", "bits"), [("FP16", "017c"), ("BF16", "817f"), ("FP32", "0100807f"), ("FP64", "010000000000f07f")]
)
def test_a_nan_that_signals_is_a_missing_value_as_any_other(versions, datatype, bits):
    """Random bits, as perf_analyzer sends them, are such NaNs at times; numpy warns where it converts one."""
    raw, version = bytes.fromhex(bits), versions["pair"]
    doubles = _with_schema(version, Schema(datatype="FP64", features=version.schema.features))
    for one in (version, doubles):
        packed = encode(one, {"inputs": [binary("features", datatype, [1, 2], raw * 2)]}, raw * 2)
        apart = encode(one, {"inputs": [binary(name, datatype, [1], raw) for name in "ab"]}, raw * 2)
        assert np.isnan(packed).all()
        assert np.isnan(apart).all()


def test_a_matrix_in_raw_fp32_is_not_copied_where_it_is_aligned(versions):
    raw = np.float32(PAIR).tobytes()
    body = json.dumps({"inputs": [binary("features", "FP32", [2, 2], raw)]}).encode()
    for spaces in range(4):
        text = body + b" " * spaces
        matrix = oip_matrix.encode(oip.read(text + raw, str(len(text))), versions["pair"], 10)
        assert matrix.flags.aligned
        np.testing.assert_array_equal(matrix, np.float32(PAIR))


def test_a_body_without_json_is_the_matrix(versions):
    np.testing.assert_array_equal(
        oip_matrix.encode(oip.read(np.float32(PAIR).tobytes(), "0"), versions["pair"], 10), PAIR
    )
    with pytest.raises(BadBody, match="rows of 2 FP32, 8 bytes each, got 9"):
        oip_matrix.encode(oip.read(b"123456789", "0"), versions["pair"], 10)


@pytest.mark.parametrize("shape", [[0, 2]])
def test_no_rows_are_a_matrix_without_rows(versions, shape):
    assert encode(versions["pair"], {"inputs": [features(shape, [])]}).shape == (0, 2)
    assert encode(versions["pair"], {"inputs": [binary("features", "FP32", shape, b"")]}).shape == (0, 2)


def test_an_empty_text_is_a_missing_value_unless_it_is_a_category(versions):
    version = versions["flowers"]
    inputs = [dict(one) for one in FLOWERS]
    inputs[2]["data"] = ["", "red"]
    assert math.isnan(encode(version, {"inputs": inputs})[0, 2])


def test_a_boolean_in_json_is_nothing_else(versions):
    version = _with_schema(versions["line"], Schema(features=(BooleanFeature(name="b"),)))
    for value in (2, "true", [True], 0.5, math.nan):
        with pytest.raises(BadBody, match="element 1: must be true or false"):
            encode(version, {"inputs": [{"name": "b", "datatype": "BOOL", "shape": [2], "data": [True, value]}]})


def test_a_feature_called_features_is_a_feature(versions):
    schema = Schema(features=(CategoryFeature(name="features", categories=("5", "6")),))
    version = _with_schema(versions["line"], schema)
    one = {"name": "features", "datatype": "INT32", "shape": [2], "data": [6, 7]}
    np.testing.assert_array_equal(encode(version, {"inputs": [one]}), [[1], [2]])


def _with_schema(version, schema):
    return type(version)(version.folder / "other", version.manifest.model_copy(update={"input": schema}))


SIZED = {"binary_data_size": 16}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "must be a JSON object, got nothing"),
        (b"[]", "must be a JSON object"),
        (b"[" * 100_000 + b"NaN", "nested too deeply"),
        ({}, '"inputs", a list with a tensor or more'),
        ({"inputs": []}, '"inputs", a list with a tensor or more'),
        ({"inputs": {}}, '"inputs" must be a list of objects'),
        ({"inputs": [1]}, '"inputs" must be a list of objects'),
        ({"inputs": [{}]}, '"name" of input 0 must be a text'),
        ({"inputs": [features([1, 2], [1, 2], "FP8")]}, "must be one of BOOL, UINT8"),
        ({"inputs": [features([1, 2], [1, 2], ["FP32"])]}, "must be one of BOOL, UINT8"),
        ({"inputs": [features(2, [1, 2])]}, "must be a list of whole numbers from 0"),
        ({"inputs": [features([], [1, 2])]}, "must be a list of whole numbers from 0"),
        ({"inputs": [features([-1, 2], [1, 2])]}, r"whole numbers from 0, got \[-1,2\]"),
        ({"inputs": [features([True, 2], [1, 2])]}, r"whole numbers from 0, got \[true,2\]"),
        ({"inputs": [features([1, None, "x" * 999], [1, 2])]}, r"whole numbers from 0, got \[1,null,'xx"),
        ({"inputs": [features([2**70, 2], [1, 2])]}, "must be a list of whole numbers from 0"),
        ({"inputs": [features([1, 2**62], [1, 2])]}, r"Expected \[-1,2\], got \[1,4611686018427387904\]"),
        ({"inputs": [features([1, 2, 1], [1, 2])]}, r"Expected \[-1,2\], got \[1,2,1\]"),
        ({"inputs": [features([1] * 1000, [1, 2])]}, r"got \[1,1,1,1,1,1,1,1,...\]"),
        ({"inputs": [features([2, 1], [1, 2])]}, r"Expected \[-1,2\], got \[2,1\]"),
        ({"inputs": [features([2], [1, 2])]}, r"Expected \[-1,2\], got \[2\]"),
        ({"inputs": [features([1, 2], [1, 2, 3])]}, "must have 2 elements, as its shape says, got 3"),
        ({"inputs": [features([2, 2], [[1, 2], [3]])]}, r"must be of shape \[2,2\]"),
        ({"inputs": [features([2, 2], [[1, 2], 3])]}, r"must be of shape \[2,2\]"),
        ({"inputs": [features([2, 2], [1, 2, [3], 4])]}, "element 2: must be a number, got a list"),
        ({"inputs": [features([1, 2], [1, "2"])]}, "element 1: must be a number, got '2'"),
        ({"inputs": [features([1, 2], [1, True])]}, "element 1: must be a number, got true"),
        ({"inputs": [features([1, 2], [1, 1e39])]}, "element 1: must lie within FP32"),
        ({"inputs": [features([1, 2], [1, 1.5], "INT8")]}, "element 1: must be a whole number, got 1.5"),
        ({"inputs": [features([1, 2], [1, 128], "INT8")]}, "element 1: must lie within INT8, -128 to 127, got 128"),
        ({"inputs": [features([1, 2], [None, -1], "UINT64")]}, "element 1: must lie within UINT64"),
        (
            b'{"inputs": [{"name": "features", "shape": [1, 2], "datatype": "FP64", "data": [NaN, 1%s]}]}'
            % (b"0" * 400),
            "element 1: must lie within FP64",
        ),
        ({"inputs": [features([1, 2], [1, 2], "BOOL")]}, "data-type is 'BOOL', but model 'pair' expects"),
        ({"inputs": [features([1, 2], [1, 2], "FP16")]}, "receiving FP16 data via JSON is not supported"),
        ({"inputs": [features([1, 2], ["1", "2"], "BYTES")]}, "data-type is 'BYTES', but model 'pair' expects"),
        ({"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 2]}]}, 'one of "data" and'),
        ({"inputs": [features([1, 2], [1, 2]) | {"parameters": SIZED}]}, 'one of "data" and'),
        ({"inputs": [features([1, 2], [1, 2]) | {"parameters": 1}]}, "\"parameters\" of input 'features'"),
        ({"inputs": [features([1, 2], {})]}, "must be a list, got an object"),
        ({"inputs": [features([1, 2], [1, 2]) | {"parameters": {"shared_memory_region": "x"}}]}, "shared memory"),
        ({"inputs": [features([1, 2], [1, 2])] * 2}, "input 'features' must be the only one, got 2 inputs"),
        (
            {"inputs": [features([1], [1]) | {"name": "a"}]},
            "expected 2 inputs but got 1 inputs for model 'pair'; input 'b'",
        ),
        ({"inputs": [features([1], [1]) | {"name": "a"}] * 2}, "input 'a' must stand once"),
        ({"inputs": [features([1], [1]) | {"name": "feature"}]}, "did you mean 'features'"),
        (
            {"inputs": [features([1], [1]) | {"name": "a"}, features([2], [1, 2]) | {"name": "b"}]},
            "input 'b' must have 1 rows like the inputs before it, got 2",
        ),
        ({"inputs": [features([1, 2], [1, 2])], "id": 7}, '"id" must be a text'),
        (
            b'{"id": "\\ud800", "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}',
            '"id" must be',
        ),
        ({"inputs": [features([1, 2], [1, 2])], "parameters": {"timeout": 1.5}}, "whole number of microseconds"),
        ({"inputs": [features([1, 2], [1, 2])], "parameters": {"binary_data_output": 1}}, "must be true or false"),
        ({"inputs": [features([1, 2], [1, 2])], "outputs": [{}]}, '"name" of an output must be a text'),
    ],
)
def test_a_request_that_is_none_says_what_is_wrong(versions, body, sentence):
    with pytest.raises(BadBody, match=sentence):
        encode(versions["pair"], body)


@pytest.mark.parametrize(
    ("one", "raw", "sentence"),
    [
        (binary("features", "FP32", [1, 2], b"x" * 8), b"x" * 7, "up to 7, the bytes that are left, got 8"),
        (binary("features", "FP32", [1, 2], b"x" * 8), b"x" * 9, "unexpected additional input data: 1 bytes"),
        (binary("features", "FP32", [1, 2], b"x" * 7), b"x" * 7, "byte size mismatch .* Expected 8, got 7"),
        (binary("features", "FP32", [1, 2], b"") | {"parameters": {"binary_data_size": -1}}, b"x", "whole number"),
        (binary("features", "FP32", [1, 2], b"") | {"parameters": {"binary_data_size": True}}, b"x", "whole number"),
        (binary("features", "FP32", [1, 2], b"") | {"parameters": {"binary_data_size": 2**63}}, b"x", "whole number"),
    ],
)
def test_raw_bytes_must_be_used_up_exactly(versions, one, raw, sentence):
    with pytest.raises(BadBody, match=sentence):
        encode(versions["pair"], {"inputs": [one]}, raw)


def test_requests_of_the_same_json_have_their_own_numbers(versions):
    one = binary("features", "FP32", [1, 2], b"x" * 8)
    for row in ([1, 2], [3, 4], [1, 2]):
        np.testing.assert_array_equal(encode(versions["pair"], {"inputs": [one]}, np.float32(row).tobytes()), [row])
    with pytest.raises(BadBody, match="got 8"):  # which is said anew of each body
        encode(versions["pair"], {"inputs": [one]}, b"x" * 7)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (texts(b"red")[:-1], "those of 2 texts, got fewer"),
        (texts(b"red"), "those of 2 texts, got fewer"),
        (texts(b"red", b"blue", b""), "those of 2 texts, got more"),
        (b"\xff\xff\xff\xff" + b"x" * 10, "those of 2 texts, got fewer"),
        (texts(b"red", b"\xff"), "element 1: its bytes must be UTF-8"),
    ],
)
def test_texts_must_be_as_many_and_as_long_as_they_say(versions, raw, sentence):
    inputs = [one if one["name"] != "color" else binary("color", "BYTES", [2, 1], raw) for one in FLOWERS]
    with pytest.raises(BadBody, match=sentence):
        encode(versions["flowers"], {"inputs": inputs}, raw)


@pytest.mark.parametrize("raw", [np.float32([1, 2]).tobytes(), b"\xff" * 8])
def test_a_body_whose_length_of_json_was_dropped_on_its_way_says_so(raw):
    text = json.dumps({"inputs": [binary("features", "FP32", [1, 2], raw)]}).encode()
    with pytest.raises(BadBody, match=r"Inference-Header-Content-Length must say .* got no such header"):
        oip.read(text + raw, None)
    assert oip.read(text + raw, str(len(text))).inputs[0].data == raw


@pytest.mark.parametrize("length", ["-1", "x", "1.0", "99999", "9" * 30, "", "²", " 1"])
def test_a_length_of_json_that_is_none_is_refused(length):
    with pytest.raises(BadBody, match="must be a number from 0 to"):
        oip.read(b"{}", length)


def test_rows_over_the_limit_are_refused_before_a_value_is_read(versions):
    with pytest.raises(TooLarge):
        encode(versions["pair"], {"inputs": [features([2**60, 2], [])]})
    with pytest.raises(TooLarge):
        encode(versions["line"], {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1001], "data": []}]})


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        (0, math.inf, "must be a finite number"),
        (2, 3, "must be NaN or a whole number from 0 to 2"),
        (2, 0.5, "must be NaN or a whole number from 0 to 2"),
        (2, -1, "must be NaN or a whole number from 0 to 2"),
        (3, 2, "must be NaN or a whole number from 0 to 1"),
        (4, 1e30, "must be NaN or a whole number from -719162 to 2932896"),
        (4, 0.5, "must be NaN or a whole number from -719162 to 2932896"),
        (5, 86401, "must be NaN or a number from 0 to 86400"),
        (6, 7, "must be NaN or a whole number from 0 to 6"),
        (7, 0, "must be NaN or a whole number from 1 to 366"),
    ],
)
def test_a_matrix_holds_what_encoding_would_have_made(versions, column, value, expected):
    row = [5.0, 2, 1, 1, 1, 0, 4, 2]
    row[column] = value
    with pytest.raises(BadRow, match=expected) as caught:
        encode(versions["flowers"], {"inputs": [features([2, 8], [[math.nan] * 8, row])]})
    assert (caught.value.row, caught.value.feature) == (1, tiny.SCHEMAS["flowers"].columns[column])


def test_an_fp64_that_fp32_cannot_hold_names_its_row(versions):
    raw = np.float64([[1, 2], [3, 1e300]]).tobytes()
    with pytest.raises(BadRow, match="within the range of FP32, got 1e\\+300"):
        encode(versions["pair"], {"inputs": [binary("features", "FP64", [2, 2], raw)]}, raw)


# --------------------------------------------------------------------------------------------------- answers


def written(version, answers, **request):
    asked = oip.read(json.dumps({"inputs": [features([0, 1], [])]} | request).encode(), None)
    oip_answer.check_wanted(asked.wanted, version)
    return oip_answer.write(version, asked, answers)


def answers_of(name, rows=1):
    schema = tiny.SCHEMAS[name]
    return tiny.answer(name, schema.encode([tiny.ROWS[name]] * rows))


def test_all_outputs_are_answered_when_none_is_named(versions):
    body, json_bytes = written(versions["flowers"], answers_of("flowers", 2), id="a", outputs=[])
    answer = json.loads(body)
    assert json_bytes is None
    assert [one["name"] for one in answer["outputs"]] == ["probabilities", "label", "class"]
    assert [one["shape"] for one in answer["outputs"]] == [[2, 3], [2], [2]]
    assert answer["outputs"][2]["data"] == ["rose", "rose"]
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("flowers", "1", "a")


def test_outputs_come_in_the_order_in_which_they_are_named_raw_or_not(versions):
    outputs = [
        {"name": "class", "parameters": {"binary_data": True}},
        {"name": "label", "parameters": {"binary_data": False}},
        {"name": "probabilities"},
    ]
    right = answers_of("flowers")
    for default in (False, True):
        body, json_bytes = written(
            versions["flowers"], right, outputs=outputs, parameters={"binary_data_output": default}
        )
        text, raw = json.loads(body[:json_bytes]), body[json_bytes:]
        assert [one["name"] for one in text["outputs"]] == ["class", "label", "probabilities"]
        assert raw[:8] == texts(b"rose")
        assert text["outputs"][0]["parameters"] == {"binary_data_size": 8}
        assert "data" not in text["outputs"][0]
        assert text["outputs"][1]["data"] == [0]
        last = np.frombuffer(raw[8:], np.float32) if default else np.float32(text["outputs"][2]["data"])
        np.testing.assert_array_equal(last, right["probabilities"][0])


@pytest.mark.parametrize(("asked", "length"), [(1, 1), (2, 2), (9, 3)])
def test_a_classification_names_the_likeliest_classes_first(versions, asked, length):
    outputs = [{"name": "probabilities", "parameters": {"classification": asked}}]
    right = answers_of("flowers", 2)
    (output,) = json.loads(written(versions["flowers"], right, outputs=outputs)[0])["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, length])
    first = output["data"][0].split(":")
    assert first[1:] == ["0", "rose"]
    assert np.float32(first[0]) == right["probabilities"][0, 0]
    values = [float(text.split(":")[0]) for text in output["data"][:length]]
    assert values == sorted(values, reverse=True)


def test_no_rows_are_answered_with_no_rows(versions):
    outputs = [{"name": "probabilities", "parameters": {"classification": 2}}, {"name": "class"}, {"name": "label"}]
    none = tiny.answer("flowers", np.zeros((0, 8), np.float32))
    answer = json.loads(written(versions["flowers"], none, outputs=outputs)[0])
    assert [(one["shape"], one["data"]) for one in answer["outputs"]] == [([0, 2], []), ([0], []), ([0], [])]


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [
        ([{"name": "y"}], "unexpected inference output 'y' for model 'coin'; it has probabilities, label, class"),
        ([{"name": "label"}, {"name": "label"}], "must be asked for once"),
        ([{"name": "label", "parameters": {"classification": 1}}], "of 'probabilities' alone"),
        ([{"name": "label", "parameters": {"classification": -1}}], "whole number from 0"),
        ([{"name": "label", "parameters": {"binary_data": "yes"}}], "must be true or false"),
        ([{"name": "label", "parameters": {"shared_memory_region": "x"}}], "shared memory"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_first(versions, outputs, sentence):
    with pytest.raises(BadBody, match=sentence):
        written(versions["coin"], answers_of("coin"), outputs=outputs)


def test_classes_that_are_no_texts_go_by_their_text(versions):
    answer = json.loads(written(versions["coin"], answers_of("coin"))[0])
    assert answer["outputs"][2] == {"name": "class", "datatype": "BYTES", "shape": [1], "data": ["true"]}


@pytest.mark.parametrize("wanted", ["label", "class", "probabilities"])
def test_the_label_of_numbers_that_are_none_never_leaves(versions, wanted):
    answers = {"probabilities": np.float32([[0.5, 0.5], [math.nan, 0.5]]), "label": np.array([0, 0])}
    with pytest.raises(ModelFailed, match="row 1: probabilities is not a finite number"):
        written(versions["coin"], answers, outputs=[{"name": wanted}])


@pytest.mark.parametrize("wrong", [{"prediction": np.float32([[math.nan]])}, {"prediction": np.float32([[math.inf]])}])
def test_a_number_that_is_none_never_leaves(versions, wrong):
    with pytest.raises(ModelFailed, match="row 0: prediction is not a finite number"):
        written(versions["line"], wrong)


# --------------------------------------------------------------------------------------------------- properties

FLOATS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 5), st.just(2)),
    elements=st.floats(width=32, allow_infinity=False, allow_subnormal=True),
)


@given(FLOATS)
def test_json_raw_packed_and_by_feature_are_the_same_matrix_bit_by_bit(versions, values):
    version, rows = versions["pair"], len(values)
    columns = [("a", values[:, 0]), ("b", values[:, 1])]
    raw = b"".join(column.tobytes() for _, column in columns)
    forms = [
        encode(version, {"inputs": [features([rows, 2], values.ravel().tolist())]}),
        encode(version, {"inputs": [features([rows, 2], values.tolist(), "FP64")]}),
        encode(version, {"inputs": [binary("features", "FP32", [rows, 2], values.tobytes())]}, values.tobytes()),
        encode(version, {"inputs": [features([rows], column.tolist()) | {"name": name} for name, column in columns]}),
        encode(version, {"inputs": [binary(name, "FP32", [rows], one.tobytes()) for name, one in columns]}, raw),
    ]
    for matrix in forms:
        assert matrix.dtype == np.float32
        same = (matrix.view(np.uint32) == values.view(np.uint32)) | (np.isnan(matrix) & np.isnan(values))
        assert same.all()


@given(hnp.arrays(np.int64, st.tuples(st.integers(0, 5), st.just(2))))
def test_integers_are_the_same_matrix_in_every_form(versions, values):
    version, rows = versions["pair"], len(values)
    packed = encode(version, {"inputs": [features([rows, 2], values.ravel().tolist(), "INT64")]})
    raw = encode(version, {"inputs": [binary("features", "INT64", [rows, 2], values.tobytes())]}, values.tobytes())
    by_feature = encode(
        version,
        {
            "inputs": [
                features([rows], values[:, column].tolist(), "INT64") | {"name": name}
                for column, name in enumerate(("a", "b"))
            ]
        },
    )
    assert packed.tobytes() == raw.tobytes() == by_feature.tobytes()


MIXED = Schema(
    datatype="FP64",
    features=(
        NumberFeature(name="x"),
        CategoryFeature(name="c", categories=("red", "", "blue")),
        BooleanFeature(name="b"),
    ),
)


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(allow_infinity=False),
            st.none() | st.sampled_from(["red", "", "blue", "other"]),
            st.none() | st.booleans(),
        ),
        max_size=5,
    )
)
def test_a_matrix_that_was_encoded_is_taken_as_it_is(versions, rows):
    version = _with_schema(versions["line"], MIXED)
    matrix = MIXED.encode(rows)
    inputs = [
        {"name": name, "datatype": datatype, "shape": [len(rows)], "data": [row[at] for row in rows]}
        for at, (name, datatype) in enumerate((("x", "FP64"), ("c", "BYTES"), ("b", "BOOL")))
    ]
    np.testing.assert_array_equal(encode(version, {"inputs": inputs}), matrix)
    packed = encode(version, {"inputs": [binary("features", "FP64", matrix.shape, matrix.tobytes())]}, matrix.tobytes())
    np.testing.assert_array_equal(packed, matrix)


@given(FLOATS.filter(lambda values: not np.isnan(values).any()))
def test_answers_in_json_are_the_raw_ones_bit_by_bit(versions, values):
    as_json = json.loads(written(versions["pair"], {"prediction": values})[0])["outputs"][0]
    body, json_bytes = written(versions["pair"], {"prediction": values}, parameters={"binary_data_output": True})
    assert as_json["shape"] == list(values.shape)
    assert np.float32(as_json["data"]).tobytes() == body[json_bytes:] == values.tobytes()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(DATATYPES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
SIZES = st.integers(-1, 9) | st.sampled_from([2**31, 2**63, 2**64, 10**30])
PARAMETERS = JSON | st.fixed_dictionaries(
    {}, optional={"binary_data_size": SIZES, "binary_data": JSON, "classification": SIZES, "timeout": JSON}
)
INPUT = JSON | st.fixed_dictionaries(
    {
        "name": st.sampled_from(["features", *tiny.SCHEMAS["flowers"].names]) | JSON,
        "datatype": st.sampled_from(DATATYPES) | JSON,
        "shape": st.lists(SIZES, max_size=3) | JSON,
    },
    optional={"data": st.lists(JSON, max_size=9) | JSON, "parameters": PARAMETERS},
)
BODY = st.fixed_dictionaries(
    {"inputs": st.lists(INPUT, max_size=6) | JSON},
    optional={
        "id": JSON,
        "parameters": PARAMETERS,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["label", "class"])}) | JSON, max_size=3),
    },
)


@given(
    text=BODY.map(json.dumps).map(str.encode) | st.binary(max_size=60),
    raw=st.binary(max_size=40),
    length=st.none() | st.integers(-2, 80).map(str) | st.text(max_size=3) | st.just("all"),
)
def test_any_bytes_are_a_matrix_or_a_problem_of_the_client(versions, text, raw, length):
    version = versions["flowers"]
    with contextlib.suppress(BadBody, BadRow, TooLarge):
        asked = oip.read(text + raw, str(len(text)) if length == "all" else length)
        oip_answer.check_wanted(asked.wanted, version)
        matrix = oip_matrix.encode(asked, version, 1000)
        assert matrix.shape[1:] == (8,)
        assert not np.isinf(matrix).any()
        likely = np.full((len(matrix), 3), 1 / 3, np.float32)
        oip_answer.write(version, asked, {"probabilities": likely, "label": np.zeros(len(matrix), np.int64)})


# --------------------------------------------------------------------------------------------------- signature


def test_metadata_lists_the_matrix_where_all_features_are_numbers_else_each_feature():
    pair, flowers = (oip_signature.inputs_of(tiny.SCHEMAS[name]) for name in ("pair", "flowers"))
    assert [(spec.name, spec.datatype, spec.shape) for spec in pair] == [("features", "FP32", [-1, 2])]
    assert [(spec.name, spec.datatype) for spec in flowers] == [
        ("width", "FP32"),
        ("length", "FP32"),
        ("color", "BYTES"),
        ("wild", "BOOL"),
        ("seen", "BYTES"),
    ]


def test_what_is_listed_is_accepted():
    for schema in (*tiny.SCHEMAS.values(), MIXED):
        for spec in oip_signature.inputs_of(schema):
            kinds = {feature.name: feature.kind for feature in schema.features}
            accepted = oip_signature.ACCEPTED[kinds[spec.name]] if spec.name in kinds else oip_signature.ACCEPTED_PACKED
            assert spec.datatype in accepted
