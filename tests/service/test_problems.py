import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadChange, BadName, BadRow, BadVersion, RowcastError
from service import problems as p

PAGE = Path(__file__).parents[2] / "docs/reference/errors.md"
EXAMPLES = [
    BadRow(3, "width", "must be a number", "'wide'"),
    BadName("model", "a/b", "use letters"),
    BadVersion("line/3", "model.onnx is absent; publish it again"),
    BadChange("line/3", "label 'stable' names it"),
    p.UnknownModel("lin", ["line", "pair"]),
    p.UnknownModel(None, ["line"]),
    p.UnknownModel("x"),
    p.UnknownVersion("line", 9, [1, 2]),
    p.UnknownVersion("line", "01"),
    p.UnknownLabel("line", "stabel", ["stable"]),
    p.UnknownLabel("line", "x"),
    p.NotReady("no inference worker is up"),
    p.Overloaded(2000, 0.3),
    p.TooManyConnections(100),
    p.BadHttp(),
    p.HeadTooLarge(100, "headers"),
    p.DeadlinePassed(2.5),
    p.ModelFailed("line/1"),
    p.ModelFailed("line/1", "prediction is not a finite number", 4),
    p.NotComputable("line/1", 4, "x", "1e+38", "from 0 to 10"),
    p.BadBody("the body must be a JSON object", "nothing"),
    p.NotOffered("line/1", "intervals", "it was calibrated on too few rows"),
    p.TooLarge(100, 200, "rows"),
    p.TooLarge(100, None, "bytes"),
    p.Unauthorized(),
    p.KeyExpired("2027-01-01T00:00:00+00:00"),
    p.Forbidden("scope", "metrics"),
    p.RateLimited(0.5, '"requests";q=10;w=1'),
    p.UnsupportedEncoding("br"),
    p.ControlOff(),
    p.ForeignPage(),
    p.NotFound("/nope"),
    p.MethodNotAllowed("PUT", ["GET", "POST"]),
    p.MethodNotAllowed("PUT"),
    p.ClientGone(),
    p.TooSlow(30),
    p.Refused(418),
    p.Refused(499),
    p.Internal(),
]


@pytest.mark.parametrize("problem", EXAMPLES, ids=lambda problem: type(problem).__name__)
def test_a_problem_survives_pickle(problem):
    again = pickle.loads(pickle.dumps(problem))
    assert (type(again), str(again), again.code, vars(again)) == (
        type(problem),
        str(problem),
        problem.code,
        vars(problem),
    )


def test_every_problem_has_an_example_here():
    mine = {kind for kind in vars(p).values() if isinstance(kind, type) and issubclass(kind, RowcastError)}
    assert mine - {RowcastError} <= {type(problem) for problem in EXAMPLES}


def test_every_code_has_a_status_and_every_status_a_problem():
    assert {problem.code for problem in EXAMPLES} == set(p.STATUS)


def test_every_code_is_explained_on_its_page_with_its_status():
    page = PAGE.read_text()
    missing = [code for code, status in p.STATUS.items() if f"| `{code}` | {status} |" not in page]
    assert missing == []


@pytest.mark.parametrize("problem", EXAMPLES, ids=lambda problem: type(problem).__name__)
def test_a_problem_is_one_sentence_of_json(problem):
    body = json.loads(p.body_of(problem, "id-1"))
    assert body["error"] == str(problem)
    assert "\n" not in body["error"]
    assert (body["code"], body["request_id"]) == (problem.code, "id-1")
    assert 400 <= p.status_of(problem) <= 599


def test_a_bad_row_says_where_it_is():
    body = json.loads(p.body_of(BadRow(3, "width", "must be a number", "'wide'"), "id-1"))
    assert body == {
        "error": "row 3: feature 'width' must be a number, got 'wide'",
        "code": "bad_row",
        "request_id": "id-1",
        "row": 3,
        "feature": "width",
        "expected": "must be a number",
        "got": "'wide'",
    }


NASTY = st.text(st.characters(codec=None), max_size=40).map(lambda text: text * 200)


@given(NASTY, NASTY, NASTY, st.sampled_from(["\u0001", "\U0001f600", "\ud800", "x", '"']))
def test_a_problem_is_under_4_kb_whatever_caused_it(feature, expected, got, filler):
    long = filler * 9000
    for problem in (
        BadRow(2**62, feature + long, expected + long, got + long),
        p.UnknownModel(feature + long, [got + long] * 20),
        p.UnknownLabel(feature + long, expected + long, [got + long] * 20),
        p.BadBody(expected + long, got + long),
        p.NotFound(feature + long),
    ):
        body = p.body_of(problem, "r" * 128)
        assert len(body) < 4096
        assert json.loads(body)["code"] == problem.code


@pytest.mark.parametrize(
    ("problem", "headers"),
    [
        (p.Overloaded(10, 0.2), {"retry-after": "1"}),
        (p.Overloaded(10, 2.1), {"retry-after": "3"}),
        (p.NotReady("starting"), {"retry-after": "1"}),
        (p.MethodNotAllowed("PUT", ["GET", "POST"]), {"allow": "GET, POST"}),
        (p.Unauthorized(), {"www-authenticate": "Bearer"}),
        (p.TooSlow(30), {"connection": "close"}),
        (p.UnsupportedEncoding("br"), {"accept-encoding": "gzip, deflate"}),
        (p.Internal(), {}),
    ],
)
def test_a_problem_carries_the_headers_that_http_asks_for(problem, headers):
    assert p.headers_of(problem) == headers


def test_an_unknown_name_is_answered_with_the_nearest_or_with_what_there_is():
    assert str(p.UnknownModel("lin", ["line", "pair"])) == "model 'lin' is not served here; did you mean 'line'?"
    assert str(p.UnknownModel("x", ["line", "pair"])) == "model 'x' is not served here; models: 'line', 'pair'"
    assert str(p.UnknownVersion("line", 9, range(1, 12))).endswith("versions: 1, 2, 3, 4, 5, 6, 7, 8 and 3 more")


def test_a_server_that_is_full_says_of_what():
    assert str(p.Overloaded(10, 2.1)) == "the queue is full, 10 rows are waiting; try again in 3 s"
    assert str(p.Overloaded(0)).startswith("the bodies of requests that are not answered yet take all the memory")
