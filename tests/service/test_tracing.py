"""W3C Trace Context: what is taken, and what an answer says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.observing.tracing import read_trace
from tests.service.test_fast_lane import GOOD, both, request

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = f"00-{TRACE}-{PARENT}-01".encode()


def test_a_trace_goes_on_with_a_span_of_its_own():
    trace = read_trace({b"traceparent": VALID, b"tracestate": b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"})
    assert (trace.trace_id, trace.parent_id, trace.flags) == (TRACE, PARENT, 1)
    assert trace.headers() == {
        "traceparent": f"00-{TRACE}-{trace.span_id}-01",
        "tracestate": "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
    }
    assert trace.span_id != PARENT


@pytest.mark.parametrize(
    "parent",
    [
        b"",
        b"00",
        VALID.upper(),
        VALID.replace(b"00-", b"ff-"),
        VALID + b"-what-comes-later",
        b"00-" + b"0" * 32 + VALID[35:],
        VALID[:36] + b"0" * 16 + b"-01",
        VALID[:-1],
        VALID + b"0",
        VALID.replace(b"-", b"_"),
        VALID + b"\n",
        b"01" + VALID[2:] + b".x",
    ],
)
def test_what_is_not_valid_is_as_if_it_had_not_come(parent):
    assert read_trace({b"traceparent": parent, b"tracestate": b"a=1"}) is None


@pytest.mark.parametrize("parent", [b"01" + VALID[2:], b"cc" + VALID[2:] + b"-what-comes-later"])
def test_a_later_version_is_read_as_far_as_it_is_known(parent):
    assert read_trace({b"traceparent": parent}).headers()["traceparent"].startswith(f"00-{TRACE}-")


def test_flags_that_mean_nothing_are_not_passed_on():
    assert read_trace({b"traceparent": VALID[:-2] + b"fe"}).flags == 0
    assert read_trace({b"traceparent": VALID[:-2] + b"ff"}).flags == 1


@pytest.mark.parametrize(
    ("state", "passed_on"),
    [
        (b"a=1", "a=1"),
        (b"a=1 , ,b=2,", "a=1,b=2"),
        (b"a@b=x y", "a@b=x y"),
        (b"a=1,a=2", ""),
        (b"A=1", ""),
        (b"a=", ""),
        (b"a", ""),
        (b"a=1=2", ""),
        (b"a=\x00", ""),
        (b"a=\xc3\xa9", ""),
        (b"a=" + b"x" * 600, ""),
        (b",".join(b"k%d=1" % n for n in range(32)), ",".join(f"k{n}=1" for n in range(32))),
        (b",".join(b"k%d=1" % n for n in range(33)), ""),
    ],
)
def test_a_state_is_passed_on_whole_or_not_at_all(state, passed_on):
    assert read_trace({b"traceparent": VALID, b"tracestate": state}).state == passed_on


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_whatever_comes_nothing_but_plain_headers_leave(parent, state):
    for one in (parent, VALID):
        trace = read_trace({b"traceparent": one, b"tracestate": state})
        if trace is not None:
            assert all(text.isascii() and text.isprintable() for text in trace.headers().values())


def test_both_lanes_pass_a_trace_on(front, app):
    raw = request(GOOD, f"traceparent: {VALID.decode()}", "tracestate: a=1", "X-Request-Id: 1")
    slow, fast, _ = both(front, app, raw)
    for _, headers, _ in (slow, fast):
        assert headers.pop("traceparent").startswith(f"00-{TRACE}-")
        assert headers["tracestate"] == "a=1"
    assert fast == slow
    slow, fast, _ = both(front, app, request(GOOD, "X-Request-Id: 1"))
    assert "traceparent" not in fast[1]
