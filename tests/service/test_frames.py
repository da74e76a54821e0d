import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from service.batching.frames import (
    LENGTH,
    BadFrame,
    Reply,
    Request,
    Status,
    What,
    read_reply,
    read_request,
    reply_bytes,
)
from service.batching.frames import request_bytes as to_bytes

KINDS = st.sampled_from([np.dtype("float32"), np.dtype("float64"), np.dtype("int64")])
MATRICES = KINDS.flatmap(lambda kind: nps.arrays(kind, nps.array_shapes(min_dims=2, max_dims=2, min_side=0)))
VALUES = KINDS.flatmap(lambda kind: nps.arrays(kind, nps.array_shapes(min_dims=1, max_dims=2, min_side=0)))


def frame_of(parts) -> bytearray:
    raw = b"".join(parts)
    (length,) = LENGTH.unpack_from(raw)
    assert length == len(raw) - LENGTH.size
    return bytearray(raw[LENGTH.size :])


@given(st.sampled_from(What), st.text(max_size=50), MATRICES)
def test_a_request_arrives_as_it_was_sent(what, key, matrix):
    got: Request = read_request(frame_of(to_bytes(what, key, matrix)))
    assert (got.what, got.key) == (what, key)
    assert got.matrix.dtype == matrix.dtype
    np.testing.assert_array_equal(got.matrix, matrix)


def test_a_matrix_that_does_not_lie_in_rows_arrives_all_the_same():
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(read_request(frame_of(to_bytes(What.PREDICT, "a/1", matrix))).matrix, matrix)


@given(st.dictionaries(st.text(min_size=1, max_size=20), VALUES, max_size=3), st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_reply_arrives_as_it_was_sent(answers, seconds, core_s):
    got = read_reply(frame_of([reply_bytes(Reply(Status.OK, seconds, core_s, answers=answers))]))
    assert (got.status, got.seconds, got.core_s, got.answers.keys()) == (Status.OK, seconds, core_s, answers.keys())
    for name, values in answers.items():
        assert got.answers[name].dtype == values.dtype
        np.testing.assert_array_equal(got.answers[name], values)


@given(st.text(max_size=300))
def test_a_refusal_arrives_with_its_sentence(sentence):
    got = read_reply(frame_of([reply_bytes(Reply(Status.REFUSED, sentence=sentence))]))
    assert (got.status, got.sentence, got.answers) == (Status.REFUSED, sentence, None)


@given(st.binary(max_size=200))
@pytest.mark.parametrize("read", [read_request, read_reply])
def test_whatever_else_arrives_is_refused(read, garbage):
    try:
        got = read(bytearray(garbage))
    except BadFrame:
        return
    assert isinstance(got, Request | Reply)  # by chance it was a frame
