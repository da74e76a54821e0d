import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadName, BadRow, BadVersion, RowcastError, nearest, shown
from tests.models.sample import any_json, any_text

errors = st.one_of(
    st.builds(BadRow, st.none() | st.integers(0), st.none() | any_text, any_text, any_text),
    st.builds(BadVersion, any_text, any_text),
    st.builds(BadName, st.sampled_from(["model", "label"]), any_text, any_text),
)


@given(errors, st.sampled_from([copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]))
def test_every_error_survives_pickle_and_copy(error, remake):
    again = remake(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_every_error_has_its_own_stable_code():
    assert {error.__name__: error.code for error in (RowcastError, BadRow, BadVersion, BadName)} == {
        "RowcastError": "internal",
        "BadRow": "bad_row",
        "BadVersion": "bad_version",
        "BadName": "bad_name",
    }


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (BadRow(2, "width", "must be a number", "'wide'"), "row 2: feature 'width' must be a number, got 'wide'"),
        (BadRow(None, None, "rows must be a list"), "rows must be a list"),
        (BadVersion("house/3", "model.onnx is absent"), "house/3: model.onnx is absent"),
        (BadName("label", "a/b", "use letters"), "'a/b' cannot name a label: use letters"),
    ],
)
def test_an_error_reads_as_one_sentence(error, sentence):
    assert str(error) == sentence


@given(any_json, st.integers(40, 200))
def test_whatever_is_shown_stands_on_one_line_within_the_limit(value, limit):
    text = shown(value, limit)
    assert text.isprintable()
    assert 0 < len(text) <= limit


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        (float("nan"), "NaN"),
        ("it's", '"it\'s"'),
        ("a\nb\ud800\x00", r"'a\nb\ud800\x00'"),
        ("x" * 58, repr("x" * 58)),
        ("x" * 59, "'" + "x" * 55 + "...'"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "an object with 1 keys"),
        (10**30, "1" + "0" * 30),
        (10**4000, "an integer of 13288 bits"),
        (1 + 2j, "(1+2j)"),
    ],
)
def test_a_value_is_shown_as_a_person_would_read_it(value, text):
    assert shown(value) == text


@pytest.mark.parametrize("number", [0, 1, 5000, 9998, 9999])
def test_of_very_many_names_the_neighbours_are_compared(number):
    names = [f"churn-{number:04}" for number in range(10_000)]
    assert nearest(f"churn-{number:04}x", reversed(names)) == names[number]
    assert nearest(f"hurn-{number:04}", names[:200]) is not None
    assert nearest("~hurn-0000", names) == nearest("~hurn-0000", names[-100:])


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("AGE", ["age", "wage"], "age"),
        ("age", ["AGE", "page"], "AGE"),
        ("Agee", ["AGE", "name"], "AGE"),
        ("straße", ["STRASSE", "x"], "STRASSE"),
        ("price", ["length", "Depth"], None),
    ],
)
def test_large_and_small_letters_are_alike_to_a_hint(name, known, near):
    assert nearest(name, known) == near


@pytest.mark.parametrize(("length", "near"), [(60, "x" * 60), (61, None)])
def test_a_name_longer_than_60_letters_is_near_to_none(length, near):
    assert nearest("x" * (length - 1) + "y", ["x" * length]) == near
