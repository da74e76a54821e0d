import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadVersion
from models.features import CategoryFeature, NumberFeature
from models.proof import Proof, prove
from models.schema import Schema
from tests.models.sample import manifest

SCHEMA = Schema(features=(NumberFeature(name="x"), CategoryFeature(name="c", categories=("a",))))
ROWS = [{"x": 1.0, "c": "a"}, {"x": None, "c": "b"}]
REGRESSION = manifest(input=SCHEMA, targets=("y", "z"))
CLASSES = manifest(input=SCHEMA, task="multiclass", classes=("a", "b", "c"))


class Answering:
    """A session that gives the answers it was told."""

    def __init__(self, **answers):
        self.answers = {name: np.asarray(values) for name, values in answers.items()}
        self.signature = {"features": ("FP32", 2)}
        for name, values in self.answers.items():
            datatype = {"f": "FP32", "i": "INT64"}[values.dtype.kind]
            self.signature[name] = (datatype, values.shape[1] if values.ndim > 1 else None)

    def run(self, matrix):
        self.asked = matrix
        return self.answers


class Broken(Answering):
    def run(self, matrix):
        raise RuntimeError(f"bad node\nat line 2 for {len(matrix)} rows" + "!" * 1000)


def proof(**answers):
    return Proof(rows=ROWS, answers=answers)


def refusal(version, evidence, session):
    with pytest.raises(BadVersion) as caught:
        prove(version, evidence, session)
    assert caught.value.place == "house/1"
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()
    return caught.value.reason


def test_a_session_that_gives_the_right_answers_is_proven_on_the_encoded_rows():
    right = [[1.0, 2.0], [3.0, 4.0]]
    session = Answering(prediction=right)
    prove(REGRESSION, proof(prediction=right), session)
    np.testing.assert_array_equal(session.asked, np.array([[1, 0], [np.nan, 1]], dtype=np.float32))


@pytest.mark.parametrize("answer", [1000.0, 1000.0999, 999.9001])
def test_an_answer_may_be_off_by_the_absolute_and_the_relative_tolerance_together(answer):
    prove(REGRESSION, proof(prediction=[[0.0, 1000.0]] * 2), Answering(prediction=[[1e-5, answer]] * 2))


def test_each_target_may_have_its_own_absolute_tolerance():
    right = [[1e-6, 1e6]] * 2
    evidence = Proof(rows=ROWS, answers={"prediction": right}, atol=[1e-11, 10.0])
    read = Proof.from_json(evidence.to_json(), "house/1")
    prove(REGRESSION, read, Answering(prediction=[[1.00001e-6, 1e6 + 100]] * 2))
    assert "column 0 is 1.1e-06" in refusal(REGRESSION, read, Answering(prediction=[[1.1e-6, 1e6]] * 2))


@pytest.mark.parametrize("atol", [[], [1e-5], [1e-5] * 3])
def test_absolute_tolerances_that_are_not_those_of_the_targets_are_refused(atol):
    right = [[1.0, 2.0]] * 2
    evidence = Proof(rows=ROWS, answers={"prediction": right}, atol=atol)
    said = f"proof.json has {len(atol)} values of atol, not one for each target; publish it again"
    assert refusal(REGRESSION, evidence, Answering(prediction=right)) == said
    classes = {"probabilities": [[1.0, 0.0, 0.0]] * 2, "label": [0, 0]}
    evidence = Proof(rows=ROWS, answers=classes, atol=atol)
    assert refusal(CLASSES, evidence, Answering(**classes)) == said


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([[1.0, 2.0], [3.0, 4.1]], "prediction of row 1, column 1 is 4.1, must be 4.0; publish it again"),
        ([[1.0, 2.0], [np.nan, 4.0]], "output 'prediction' holds values that are not finite"),
        ([[1.0, 2.0], [np.inf, 4.0]], "output 'prediction' holds values that are not finite"),
        ([[1.0, 2.0]], "the graph gives [1, 2], the proof has [2, 2], it must be [2, 2]"),
    ],
)
def test_a_session_that_gives_other_answers_is_refused(answers, reason):
    assert reason in refusal(REGRESSION, proof(prediction=[[1.0, 2.0], [3.0, 4.0]]), Answering(prediction=answers))


@pytest.mark.parametrize(
    "answers",
    [None, [], [[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 2.0], [3.0]], [["a", "b"]] * 2, [[None, 1.0]] * 2, [1.0, 2.0]],
)
def test_a_proof_without_the_right_answers_is_refused(answers):
    evidence = Proof(rows=ROWS, answers={} if answers is None else {"prediction": answers})
    assert "prediction" in refusal(REGRESSION, evidence, Answering(prediction=[[1.0, 2.0]] * 2))


@pytest.mark.parametrize(
    "session",
    [
        Answering(prediction=[[1.0]] * 2),
        Answering(answer=[[1.0, 2.0]] * 2),
        Answering(prediction=[[1, 2]] * 2),
        Answering(prediction=[[1.0, 2.0]] * 2, more=[1.0, 2.0]),
    ],
)
def test_a_graph_whose_inputs_or_outputs_are_not_as_described_is_refused(session):
    assert "the manifest describes" in refusal(REGRESSION, proof(prediction=[[1.0, 2.0]] * 2), session)


def test_a_graph_that_fails_on_its_proof_is_refused_in_one_sentence():
    right = [[1.0, 2.0]] * 2
    reason = refusal(REGRESSION, proof(prediction=right), Broken(prediction=right))
    assert reason.startswith(r"the graph does not run on its proof: 'bad node\nat line 2 for 2 rows")


def test_a_proof_that_does_not_fit_the_schema_is_refused():
    evidence = Proof(rows=[{"x": "wide", "c": "a"}], answers={"prediction": [[1.0, 2.0]]})
    reason = refusal(REGRESSION, evidence, Answering(prediction=[[1.0, 2.0]]))
    assert (
        reason
        == "proof.json does not fit the schema: row 0: feature 'x' must be a number, got 'wide'; publish it again"
    )


def test_a_label_may_differ_only_where_its_class_is_as_likely_as_any():
    even, clear = [0.5, 0.5, 0.0], [0.7, 0.2, 0.1]
    probabilities = [even, clear]
    evidence = proof(probabilities=probabilities, label=[0, 0])

    prove(CLASSES, evidence, Answering(probabilities=probabilities, label=[0, 0]))
    prove(CLASSES, evidence, Answering(probabilities=probabilities, label=[1, 0]))

    for label, row in (([2, 0], 0), ([0, 1], 1), ([-1, 0], 0), ([3, 0], 0)):
        reason = refusal(CLASSES, evidence, Answering(probabilities=probabilities, label=label))
        assert f"label of row {row} is {label[row]}, must be 0" in reason


@given(st.integers(0, 30), st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2))
def test_a_proof_comes_back_from_its_json_to_the_last_bit(whole, answers):
    rows = [{"x": answers[0], "c": "Größe\n\0"}, {"x": None, "c": True}, {"x": whole, "c": float(whole)}]
    written = Proof(rows=rows, answers={"prediction": [answers] * 3}, rtol=1e-3, atol=0.0)
    read = Proof.from_json(written.to_json(), "house/1")
    assert read == written
    assert repr(read) == repr(written)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\xff", b"[]", b"{}", b'{"rows": [], "answers": {}}', b'{"rows": [[1]], "answers": {}}',
        b'{"rows": [{"x": 1}], "answers": {}, "surprise": 1}', b'{"rows": [{"x": 1}], "answers": {}, "rtol": -1}',
        b'{"rows": [{"x": 1}], "answers": {}, "atol": Infinity}',
        b'{"rows": [{"x": 1}], "answers": {}, "atol": [1e-5, -1]}', b'{"rows": ' + b"[" * 10_000,
    ],
)  # fmt: skip
def test_bytes_that_are_no_proof_are_refused(raw):
    with pytest.raises(BadVersion, match=r"proof\.json is not a proof: .*; publish it again") as caught:
        Proof.from_json(raw, "house/1")
    assert len(str(caught.value)) < 500
