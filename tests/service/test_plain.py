import contextlib
import json
import math
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.errors import BadRow, RowcastError
from service.problems import BadBody, ModelFailed, TooLarge
from service.wire import plain
from service.wire.json_text import read_json
from tests.service.tiny import SCHEMAS

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
PAIR = [[5.0, 2.0], [1.0, math.nan]]


def encode(name, body, most_rows=1000):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return plain.read(read_json(raw)).encode(SCHEMAS[name], most_rows)


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[5, 2], [1, None]]},
        {"instances": [{"a": 5, "b": 2}, {"b": None, "a": 1}]},
        {"inputs": [[5, 2], [1, None]]},
        {"inputs": {"a": [5, 1], "b": [2, None]}},
        b'{"instances": [[5, 2], [1, NaN]]}',
        b'{"inputs": {"a": [5, 1], "b": [2, NaN]}}',
    ],
)
def test_every_form_of_two_rows_is_the_same_matrix(body):
    np.testing.assert_array_equal(encode("pair", body), PAIR)


@pytest.mark.parametrize("rows", [[5, 2], {"a": 5, "b": 2}, [[5, 2]], [{"a": 5, "b": 2}]])
@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_one_row_needs_no_list_around_it(key, rows):
    np.testing.assert_array_equal(encode("pair", {key: rows}), [[5, 2]])


def test_plain_values_are_rows_where_a_row_has_one_value():
    np.testing.assert_array_equal(encode("line", {"instances": [1, 2, None]}), [[1], [2], [math.nan]])


@pytest.mark.parametrize("body", [{"instances": []}, {"inputs": {"a": [], "b": []}}])
def test_no_rows_are_a_matrix_without_rows(body):
    assert encode("pair", body).shape == (0, 2)


def test_what_other_servers_clients_send_besides_is_tolerated():
    body = {"instances": [[5, 2]], "signature_name": "serving_default", "parameters": {"any": 1}}
    assert encode("pair", body).shape == (1, 2)


def test_of_a_key_that_stands_twice_the_last_counts():
    np.testing.assert_array_equal(encode("line", b'{"instances": [{"x": 1, "x": 2}]}'), [[2]])
    np.testing.assert_array_equal(encode("line", b'{"instances": [NaN], "instances": [{"x": NaN, "x": 2}]}'), [[2]])


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the body must be a JSON object, got nothing"),
        (b"[[1, 2]]", 'the body must be a JSON object with "instances" or "inputs", got a list of 1'),
        (b'{"instances": [[1, 2]', "the body must be JSON: "),
        (b'{"instances": "\xff"}', "the body must be JSON: "),
        (b'{"instances": [NaN, "\xff"]}', "the body must be JSON: it is not UTF-8"),
        (b"[" * 5000, "the body must be JSON: "),
        (b'{"instances": [NaN,' + b"[" * 100_000, "the body must be JSON: it is nested too deeply"),
        (b'{"instances": [NaN, ' + b"9" * 5000 + b"]}", "the body must be JSON: "),
        (b'{"instances": [1e999]}', "the body must be JSON: "),
        (b'{"instnces": []}', "key 'instnces' is unknown; did you mean 'instances'?"),
        (b'{"zzz": 1, "instances": []}', "key 'zzz' is unknown; known are instances, "),
        (b"{}", 'the body must have one of "instances" and "inputs", got neither'),
        (b'{"instances": [], "inputs": []}', 'the body must have one of "instances" and "inputs", got both'),
        (b'{"instances": "a"}', "\"instances\" must be a list of rows or one row, got 'a'"),
        (b'{"instances": [], "version": 0}', '"version" must be a number from 1, got 0'),
        (b'{"instances": [], "version": true}', '"version" must be a number from 1, got true'),
        (b'{"instances": [], "version": "01"}', "\"version\" must be a number from 1, got '01'"),
        (b'{"instances": [], "version": 1, "label": "a"}', 'the body may have one of "version" and "label", got both'),
        (b'{"instances": [], "model": 3}', '"model" must be a text, got 3'),
    ],
)
def test_a_body_that_is_no_request_says_what_it_should_be(body, sentence):
    with pytest.raises(BadBody) as caught:
        plain.read(read_json(body))
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "1e400", "9" * 400])
def test_an_infinite_number_is_a_bad_row_or_no_json(value):
    with pytest.raises((BadRow, BadBody)):
        encode("line", f'{{"instances": [[{value}]], "parameters": NaN}}'.encode())


def test_whom_a_body_asks_is_read():
    request = plain.read(read_json(b'{"instances": [], "model": "line", "version": "12"}'))
    assert (request.model, request.version, request.label) == ("line", 12, None)
    assert plain.read(read_json(b'{"instances": [], "label": "stable"}')).label == "stable"


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[1, 2]] * 4},
        {"instances": [{}] * 4},
        {"inputs": {"a": [1] * 4, "b": []}},
    ],
)
def test_more_rows_than_allowed_are_refused_before_they_are_encoded(body):
    with pytest.raises(TooLarge) as caught:
        encode("pair", body, most_rows=3)
    assert (caught.value.limit, caught.value.size, caught.value.unit) == (3, 4, "rows")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_a_problem(raw):
    with contextlib.suppress(RowcastError):
        plain.read(read_json(raw)).encode(SCHEMAS["flowers"], 100)


@given(ANYTHING, st.sampled_from(["instances", "inputs", "model", "x"]), st.sampled_from(sorted(SCHEMAS)))
def test_any_json_is_a_matrix_or_a_problem(value, key, name):
    body = json.dumps({"instances": [], key: value} if key not in ("instances", "inputs") else {key: value})
    with contextlib.suppress(RowcastError):
        matrix = plain.read(read_json(body.encode())).encode(SCHEMAS[name], 100)
        assert matrix.shape[1] == len(SCHEMAS[name].columns)


FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=FLOAT32))
def test_every_float32_comes_back_bit_by_bit(prediction):
    version = regression(prediction.shape[1])
    read = json.loads(plain.write(version, {"prediction": prediction}))["predictions"]
    back = np.array(read, dtype=np.float64).astype(np.float32).reshape(prediction.shape)
    np.testing.assert_array_equal(back.view(np.uint32), prediction.view(np.uint32))


def test_an_answer_that_is_a_slice_of_a_batch_is_written_like_any_other():
    batch = np.arange(12, dtype=np.float32).reshape(6, 2)
    written = orjson.loads(plain.write(regression(2), {"prediction": batch[::2]}))
    assert written["predictions"] == [[0, 1], [4, 5], [8, 9]]


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 3)), elements=FLOAT32), st.data())
def test_answers_that_are_written_at_once_are_those_that_are_written_one_by_one(versions, numbers, data):
    if numbers.shape[1] == 1:
        version, answers = versions["line"], {"prediction": numbers}
    else:
        name = "coin" if numbers.shape[1] == 2 else "flowers"
        label = data.draw(hnp.arrays(np.int64, len(numbers), elements=st.integers(0, numbers.shape[1] - 1)))
        version, answers = versions[name], {"probabilities": numbers, "label": label}
    together = [(version, answers)]
    if numbers.shape[1] == 2:
        together.append((versions["pair"], {"prediction": numbers}))
    for version, answers in together:
        alone = [{name: values[row : row + 1] for name, values in answers.items()} for row in range(len(numbers))]
        assert plain.write_rows(version, answers) == [plain.write(version, one) for one in alone]
        for size in (size for size in range(1, len(numbers) + 1) if len(numbers) % size == 0):
            starts = range(0, len(numbers), size)
            parts = [{name: values[at : at + size] for name, values in answers.items()} for at in starts]
            by_one = [plain.write(version, one) for one in parts]
            assert plain.write_few(version, answers, size) == by_one
            assert plain.write_many(version, answers, size) == by_one


@pytest.mark.parametrize(
    ("body", "row"),
    [
        ({"instances": [[1, 2]]}, [1, 2]),
        ({"instances": [{"x": 1}]}, {"x": 1}),
        ({"instances": [[1], [2]]}, None),
        ({"instances": {"x": 1}}, None),
        ({"instances": []}, None),
        ({"inputs": [[1, 2]]}, None),
        ({"instances": [[1]], "model": "m"}, None),
        ([[1]], None),
    ],
)
def test_a_body_of_one_row_and_nothing_else_is_known(body, row):
    assert plain.only_row(body) == row


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("output", ["prediction", "probabilities"])
def test_a_number_that_is_not_finite_never_leaves(versions, output, bad):
    values = np.array([[0.5, 0.5], [0.5, bad], [bad, 0.5]], dtype=np.float32)
    version = versions["pair" if output == "prediction" else "coin"]
    with pytest.raises(ModelFailed) as caught:
        plain.write(version, {output: values, "label": np.array([0, 0, 0])})
    assert str(caught.value) == f"{version}: row 1: {output} is not a finite number"


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_class_never_leaves(versions, label):
    answers = {"probabilities": np.array([[0.5, 0.5]], dtype=np.float32), "label": np.array([label])}
    with pytest.raises(ModelFailed, match="none of the 2 classes"):
        plain.write(versions["coin"], answers)


def test_a_class_is_written_as_the_json_that_it_is(versions):
    answers = {"probabilities": np.array([[0.25, 0.75], [1, 0]], dtype=np.float32), "label": np.array([1, 0])}
    assert orjson.loads(plain.write(versions["coin"], answers)) == {
        "predictions": [True, False],
        "probabilities": [[0.25, 0.75], [1, 0]],
        "classes": [False, True],
        "model_name": "coin",
        "model_version": "1",
    }


def test_several_targets_are_named_beside_their_predictions(versions):
    written = orjson.loads(plain.write(versions["pair"], {"prediction": np.array([[7, 3]], dtype=np.float32)}))
    assert (written["predictions"], written["targets"]) == ([[7, 3]], ["sum", "difference"])


def test_no_rows_have_no_predictions(versions):
    none = {"probabilities": np.empty((0, 2), np.float32), "label": np.empty(0, np.int64)}
    assert orjson.loads(plain.write(versions["coin"], none))["predictions"] == []
    assert orjson.loads(plain.write(regression(1), {"prediction": np.empty((0, 1), np.float32)}))["predictions"] == []


class Anonymous(SimpleNamespace):
    """Equal to nothing else, as versions are."""

    __hash__ = object.__hash__


@pytest.mark.parametrize(
    "classes", [(False, True), (7, -3, 0), (2**63 - 1, -(2**63) + 1), (2**63, 1), (0, "a", True), ("no", "yes")]
)
def test_labels_of_every_kind_are_written_as_they_are(classes):
    version = Anonymous(manifest=SimpleNamespace(classes=classes), name="m", number=1)
    labels = np.array([1, 0, 1, 1], np.int64)
    answers = {"probabilities": np.zeros((4, len(classes)), np.float32), "label": labels}
    written = orjson.loads(plain.write(version, answers))["predictions"]
    assert list(map(repr, written)) == [repr(classes[number]) for number in labels]


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("12", 12), ("0", None), ("01", None), ("+1", None)])
def test_a_version_in_a_path_is_a_plain_number(text, number):
    assert plain.version_number(text) == number


@given(st.text())
def test_any_text_is_a_version_number_or_none(text):
    number = plain.version_number(text)
    assert number is None or str(number) == text


def regression(targets):
    manifest = SimpleNamespace(classes=None, targets=tuple(f"y{i}" for i in range(targets)))
    return SimpleNamespace(manifest=manifest, name="m", number=1)
