"""Intervals, prediction sets and explanations over HTTP, in one process."""

import numpy as np
import orjson
import pytest

from models.intervals import Intervals, PredictionSets
from tests.service import tiny
from tests.service.conftest import Shelf
from tests.service.test_routes import outcomes, problem

LEVELS = (0.5, 0.9)
OF_LINE = Intervals(
    rows=99,
    levels=LEVELS,
    edges=((6.0,),),
    low=(((-1.0, -2.0), (-3.0, -4.0)),),
    high=(((1.0, 2.0), (3.0, 4.0)),),
)
OF_PAIR = Intervals(
    rows=99, levels=LEVELS, edges=((), ()), low=(((-1.0, -2.0),),) * 2, high=(((1.0, 2.0),), ((5.0, 6.0),))
)
SETS = PredictionSets(rows=99, levels=LEVELS, thresholds=(0.4, 0.2))
ZERO = {"width": 0.0, "length": 0.0, "color": "red", "wild": False, "seen": "2024-01-01"}


@pytest.fixture(autouse=True)
def sure(front, tmp_path):
    """The server with versions that were published with everything."""
    tiny.publish(tmp_path / "sure", "line", intervals=OF_LINE, background=[{"x": 0.0}, {"x": 2.0}])
    tiny.publish(tmp_path / "sure", "pair", intervals=OF_PAIR, background=[{"a": 1.0, "b": 1.0}])
    tiny.publish(tmp_path / "sure", "flowers", prediction_sets=SETS, background=[ZERO])
    tiny.publish(tmp_path / "sure", "coin")
    front.catalog = Shelf(tmp_path / "sure")
    return front


def ask(client, model, rows, **parameters):
    return client.post(f"/v1/models/{model}:predict", json={"instances": rows, "parameters": parameters})


def test_a_regression_answers_the_interval_that_is_asked_for(client):
    answer = ask(client, "line", [[2], [3]], interval=0.9).json()
    assert answer == {
        "predictions": [5.0, 7.0],
        "intervals": [[3.0, 7.0], [3.0, 11.0]],
        "interval": 0.9,
        "model_name": "line",
        "model_version": "1",
    }


def test_each_of_several_targets_has_its_interval(client):
    answer = ask(client, "pair", [[5, 2]], interval=0.5).json()
    assert answer["intervals"] == [[[6.0, 8.0], [2.0, 8.0]]]


def test_a_classification_answers_the_classes_among_which_the_right_one_is(client):
    rows = [ZERO | {"width": 1.0}, ZERO | {"width": 9.0}]
    answer = ask(client, "flowers", rows, interval=0.9).json()
    assert answer["predictions"] == ["rose", "rose"]
    assert answer["prediction_sets"] == [["rose", "daisy"], ["rose"]]


def test_who_does_not_ask_gets_the_same_bytes_as_ever(client):
    bare = client.post("/v1/models/line:predict", json={"instances": [[2]]}).content
    assert ask(client, "line", [[2]], unknown=1).content == bare
    assert b"interval" not in bare


def test_no_rows_have_no_intervals(client):
    assert ask(client, "line", [], interval=0.9).json()["intervals"] == []
    assert ask(client, "flowers", [], interval=0.9).json()["prediction_sets"] == []


@pytest.mark.parametrize("level", ["0.8", "1", "0", "-1", '"0.9"', "true", "[0.9]", "{}", "NaN"])
def test_another_level_is_refused_with_those_there_are(client, level):
    body = f'{{"instances": [[2]], "parameters": {{"interval": {level}}}}}'
    refused = problem(client.post("/v1/models/line:predict", content=body), 400, "bad_body")
    assert '"interval" must be one of 0.5, 0.9' in refused["error"]


def test_a_version_without_intervals_says_so(client):
    body = problem(ask(client, "coin", [[1]], interval=0.9), 400, "not_offered")
    assert body["error"].startswith("coin/1 has no intervals: ")


def infer(client, model, binary, parameters):
    x = {"name": "features", "datatype": "FP32", "shape": [2, 1], "data": [2, 3]}
    parameters = parameters | ({"binary_data_output": True} if binary else {})
    return client.post(f"/v2/models/{model}/infer", json={"inputs": [x], "parameters": parameters})


@pytest.mark.parametrize("binary", [False, True])
def test_the_open_inference_protocol_answers_bounds_as_tensors(client, binary):
    answer = infer(client, "line", binary, {"interval": 0.9})
    length = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    head, rest = orjson.loads(answer.content[:length]), answer.content[length:]
    got = {}
    for output in head["outputs"]:
        assert output["shape"] == [2, 1]
        if binary:
            size = output["parameters"]["binary_data_size"]
            output["data"] = np.frombuffer(rest[:size], "<f4").tolist()
            rest = rest[size:]
        got[output["name"]] = output["data"]
    assert got == {"prediction": [5, 7], "lower": [3, 3], "upper": [7, 11]}
    assert rest == b""
    assert head["parameters"] == {"interval": 0.9}


def test_the_open_inference_protocol_answers_a_set_as_flags(client):
    inputs = [
        {"name": name, "datatype": kind, "shape": [1, 1], "data": [value]}
        for name, kind, value in (
            ("width", "FP32", 1),
            ("length", "FP32", 0),
            ("color", "BYTES", "red"),
            ("wild", "BOOL", False),
            ("seen", "BYTES", "2024-01-01"),
        )
    ]
    body = {"inputs": inputs, "outputs": [{"name": "label"}], "parameters": {"interval": 0.9}}
    outputs = client.post("/v2/models/flowers/infer", json=body).json()["outputs"]
    assert [output["name"] for output in outputs] == ["label", "in_set"]
    assert outputs[1]["data"] == [True, False, True]


# --------------------------------------------------------------------------------------------------- explanations


def explain(client, model, rows, **parameters):
    return client.post(f"/v1/models/{model}:explain", json={"instances": rows, "parameters": parameters})


def test_a_line_is_explained_by_its_slope(client):
    answer = explain(client, "line", [{"x": 3}, {"x": None}]).json()
    assert answer["method"] == "exact"
    assert answer["explanations"] == [
        {"answer": 7.0, "base": 3.0, "values": {"x": 4.0}, "errors": {"x": 0.0}},
        {"answer": 1.0, "base": 3.0, "values": {"x": -2.0}, "errors": {"x": 0.0}},
    ]
    assert outcomes(client)["line", "1", "ok"] == 1


def test_each_target_is_explained(client):
    (row,) = explain(client, "pair", [[5, 2]]).json()["explanations"]
    assert row["sum"]["values"] == {"a": 4.0, "b": 1.0}
    assert row["difference"]["values"] == {"a": 4.0, "b": -1.0}


def test_the_likeliest_class_is_explained_or_the_one_that_is_named(client):
    rows = [ZERO | {"width": 3.0}]
    (row,) = explain(client, "flowers", rows).json()["explanations"]
    assert row["class"] == "rose"
    assert row["values"]["width"] == pytest.approx(row["answer"] - row["base"])
    assert row["values"]["color"] == row["values"]["seen"] == 0
    (row,) = explain(client, "flowers", rows, **{"class": "tulip"}).json()["explanations"]
    assert (row["class"], row["values"]["width"] < 0) == ("tulip", True)


@pytest.mark.parametrize(
    ("model", "parameters", "code", "says"),
    [
        ("coin", {}, "not_offered", "coin/1 has no explanations: "),
        ("line", {"class": "a"}, "bad_body", "line is a regression"),
        ("flowers", {"class": "orchid"}, "bad_body", "must be a class of flowers, like rose, tulip, daisy"),
        ("flowers", {"class": ["rose"]}, "bad_body", "must be a class of flowers"),
    ],
)
def test_what_cannot_be_explained_is_refused(client, model, parameters, code, says):
    rows = [tiny.ROWS[model]]
    assert says in problem(explain(client, model, rows, **parameters), 400, code)["error"]


def test_more_rows_than_may_be_explained_at_once_are_refused(client, sure):
    sure.settings.max_rows = 3
    assert len(explain(client, "line", [[1]] * 3).json()["explanations"]) == 3
    problem(explain(client, "line", [[1]] * 4), 413, "too_large")


def test_an_unknown_model_and_another_method_are_refused(client):
    problem(explain(client, "lin", [[1]]), 404, "unknown_model")
    problem(client.get("/v1/models/line:explain"), 405, "method_not_allowed")


def test_a_model_says_what_may_be_asked_of_it(client):
    about = client.get("/v1/models/line").json()
    assert about["intervals"] == {"levels": [0.5, 0.9], "coverage": None, "rows": 99}
    assert about["explained"] is True
    assert client.get("/v1/models/coin").json()["intervals"] is None
    assert "/v1/models/line:explain" in client.get("/openapi.json").json()["paths"]
