"""Intervals, prediction sets and explanations over HTTP, in one process."""

import io

import numpy as np
import orjson
import polars as pl
import pytest

from models.intervals import Intervals, PredictionSets
from tests.service import tiny
from tests.service.conftest import Shelf
from tests.service.test_routes import outcomes, problem

LEVELS = (0.5, 0.9)
ARROW = "application/vnd.apache.arrow.stream"
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


# --------------------------------------------------------------------------------------------------- other forms


def in_form(client, model, rows, accept, **parameters):
    body = {"instances": rows, "parameters": parameters}
    return client.post(f"/v1/models/{model}:predict", json=body, headers={"accept": accept})


def frame_of(answer):
    return pl.read_ipc_stream(io.BytesIO(answer.content))


def test_csv_has_the_bounds_beside_the_predictions(client):
    answer = in_form(client, "line", [[2], [3]], "text/csv; header=present", interval=0.9)
    assert answer.text == "prediction,lower,upper\n5.0,3.0,7.0\n7.0,3.0,11.0\n"
    assert in_form(client, "line", [[2]], "text/csv", interval=0.9).text == "5.0,3.0,7.0\n"
    assert in_form(client, "line", [], "text/csv", interval=0.9).text == ""
    answer = in_form(client, "pair", [[5, 2]], "text/csv; header=present", interval=0.5)
    assert answer.text == (
        "sum,difference,sum_lower,sum_upper,difference_lower,difference_upper\n7.0,3.0,6.0,8.0,2.0,8.0\n"
    )


def test_csv_says_for_each_class_whether_it_is_in_the_set(client):
    rows = [ZERO | {"width": 1.0}, ZERO | {"width": 9.0}]
    answer = in_form(client, "flowers", rows, "text/csv; header=present", interval=0.9)
    assert answer.text == (
        "prediction,rose_in_set,tulip_in_set,daisy_in_set\nrose,true,false,true\nrose,true,false,false\n"
    )


def test_json_lines_have_bounds_and_sets(client):
    def lines(*asked):
        return [
            orjson.loads(line) for line in in_form(client, *asked, "application/jsonlines", interval=0.5).iter_lines()
        ]

    assert lines("line", [[2], [3]]) == [
        {"prediction": 5.0, "lower": 4.0, "upper": 6.0},
        {"prediction": 7.0, "lower": 4.0, "upper": 10.0},
    ]
    assert lines("pair", [[5, 2]]) == [{"prediction": [7.0, 3.0], "lower": [6.0, 2.0], "upper": [8.0, 8.0]}]
    (flower,) = lines("flowers", [ZERO | {"width": 1.0}])
    assert flower["prediction_set"] == ["rose", "daisy"]


def test_arrow_has_bounds_and_sets_as_columns(client):
    frame = frame_of(in_form(client, "pair", [[5, 2]] * 2, ARROW, interval=0.5))
    assert frame.columns == ["prediction", "lower", "upper"]
    assert frame.row(1) == ([7.0, 3.0], [6.0, 2.0], [8.0, 8.0])
    assert frame_of(in_form(client, "line", [[2]], ARROW, interval=0.9)).rows() == [(5.0, 3.0, 7.0)]
    rows = [ZERO | {"width": 1.0}, ZERO | {"width": 9.0}, ZERO]
    sets = frame_of(in_form(client, "flowers", rows, ARROW, interval=0.9))["in_set"]
    assert sets.to_list() == [[True, False, True], [True, False, False], [True, True, True]]
    assert "in_set" not in frame_of(in_form(client, "flowers", rows, ARROW)).columns


def test_a_body_that_is_no_json_asks_by_accept(client, front):
    csv = {"content-type": "text/csv", "accept": "text/csv; interval=0.9"}
    assert client.post("/v1/models/line:predict", content="2\n", headers=csv).text == "5.0,3.0,7.0\n"
    assert client.post("/invocations", content="2\n", headers=csv).text == "5.0,3.0,7.0\n"
    for accept, says in (
        ("text/csv; interval=x", "must be a number"),
        ("text/csv; interval=0.8", "must be one of 0.5"),
    ):
        answer = client.post("/v1/models/line:predict", content="2\n", headers=csv | {"accept": accept})
        assert says in problem(answer, 400, "bad_body")["error"]
    answer = client.post("/v1/models/coin:predict", content="2\n", headers=csv)
    problem(answer, 400, "not_offered")
    answer = client.post("/invocations", content="2\n", headers=csv | {"accept": "application/json; interval=0.9"})
    assert "no room for intervals" in problem(answer, 400, "bad_body")["error"]
    assert len(front.coalescer.matrices) == 2


def test_a_bound_beyond_all_floats_is_no_null(client, front):
    front.coalescer.answer = lambda _, matrix: {"prediction": np.where(matrix > 5, np.float32(3.4028235e38), matrix)}
    wide = OF_LINE.model_copy(update={"low": ((((-1e38,) * 2),) * 2,), "high": ((((1e38,) * 2),) * 2,)})
    version = front.catalog.versions["line"][1]
    manifest = version.manifest.model_copy(update={"intervals": wide})
    front.catalog.versions["line"][1] = type(version)(version.folder, manifest)
    for accept in ("application/json", "text/csv", "application/jsonlines", ARROW):
        answer = in_form(client, "line", [[1], [6]], accept, interval=0.9)
        assert problem(answer, 500, "model_failed")["error"] == "line/1: row 1: bounds is not a finite number"


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
